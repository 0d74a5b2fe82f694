"""The gatekeeper: decides for each connection to a head, before anything of it is read, whether it is let in.

What it must hold: whoever has no key of the allow-list, or one of another role than the port is for, is refused,
counted and told of, and never gets a message through; a lane admits one key; and what is let in bears the name that
the gatekeeper gave it (`User-Id`) on each of its messages. It is asked by ZeroMQ (ZAP, rfc.zeromq.org/spec/27).

Without CURVE, which is for loopback only, peers say their role as PLAIN's user name. PLAIN keeps no secret here: it is
used since sockets without any mechanism take random bytes for messages (protocol ZMTP 1.0), and so would a peer that
has connected to the wrong port.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol, get_args

from ztasks.errors import ZtasksError
from ztasks.io.join import Role, is_loopback
from ztasks.units import cut

KEY_BYTES: Final = 32
REPORT_SECONDS: Final = 10.0
"""In so many seconds, like refusals are reported once."""

REPORTS: Final = 20
"""And so many refusals in all: whoever knocks from ever new addresses shall not fill the log."""

ADMITTED: Final = b"200"
REFUSED: Final = b"400"
UNABLE: Final = b"500"
"""What is answered. 300 (try again) is not used: ZeroMQ says nothing then, and the peer waits in vain for seconds."""

PLAIN_PASSWORD: Final = "-"
"""PLAIN must have one. It is no secret."""

_Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


class Allowed(NamedTuple):
    """Whose key it is, and what it is for."""

    name: str
    role: Role


class Refusal(NamedTuple):
    """A connection that was refused. Its text is a line for a log, and holds no key."""

    address: str
    domain: str
    why: str
    more: int
    """How many others were refused since the last report, and not reported."""

    def __str__(self) -> str:
        more = f"; {self.more} more were refused since the last line like this" if self.more else ""
        return f"refused a connection from {self.address or 'an unknown address'} to {self.domain}: {self.why}{more}"


class Request(NamedTuple):
    """What is asked of the gatekeeper: who may come in there?"""

    domain: str
    address: str
    mechanism: str
    credentials: list[bytes]


class Requests(Protocol):
    """Where requests come from and answers go to."""

    def readable(self) -> bool:
        """Tell whether a request is there."""

    def receive_all(self) -> list[bytes]:
        """Receive the frames of a request that is there."""

    def send(self, *frames: Any) -> bool:
        """Send an answer."""


class Gatekeeper:
    """Belongs to the thread of the head, which polls `socket` and has it `answer` when there is something."""

    def __init__(
        self, socket: Requests, allowed: Callable[[], Mapping[str, Allowed]] | None, report: Callable[[Refusal], None]
    ) -> None:
        """`allowed`: returns the allow-list by public keys in Z85, or raises ZtasksError; None: there is no CURVE."""
        self.socket = socket
        self.refused: Counter[str] = Counter()
        """How many were refused, by the reason."""
        self.admitted = 0
        self._allowed = allowed
        self._report = report
        self._domains: dict[str, tuple[Role, str | None]] = {}
        self._told: set[tuple[str, str, str]] = set()
        self._told_since = float("-inf")
        self._untold = 0

    def admit(self, domain: str, role: Role, user_id: str | None = None) -> None:
        """From now on let peers of this role in at a domain; with `user_id`, only that one."""
        self._domains[domain] = role, user_id

    def forget(self, domain: str) -> None:
        """Let nobody in there any more."""
        self._domains.pop(domain, None)

    def who(self, user_id: str) -> Allowed | None:
        """Tell whose messages bear this User-Id, or None if it is (now) nobody's; raises ZtasksError."""
        if self._allowed is not None:
            return self._allowed().get(user_id)
        return next((Allowed(role, role) for role in get_args(Role) if role == user_id), None)

    def is_welcome(self, domain: str, user_id: str) -> bool:
        """Tell whether whoever was let in there may still be heard: not if its key was revoked in the meantime."""
        if not user_id:
            return False
        try:
            found = self.who(user_id)
        except ZtasksError:
            return True  # an allow-list that cannot be read shuts out newcomers only
        return found is not None and domain in self._domains and found.role == self._domains[domain][0]

    def answer(self, now: float) -> int:
        """Answer all who wait; return how many that were."""
        answered = 0
        while self.socket.readable():
            # Whoever asks is ZeroMQ itself, in this process: the form is that of the specification.
            version, request_id, domain, address, _, mechanism, *credentials = self.socket.receive_all()
            request = Request(domain.decode(), address.decode(), mechanism.decode(), credentials)
            code, text, user_id = self._decide(request, now)
            self.socket.send(version, request_id, code, text, user_id.encode(), b"")
            answered += 1
        return answered

    def _decide(self, request: Request, now: float) -> tuple[bytes, bytes, str]:
        """Return the code of the answer, its text, and the User-Id."""
        try:
            user_id, why = self.judge(request)
        except ZtasksError as error:
            self._refuse(request, f"nobody new is let in: {error}", now)
            return UNABLE, b"", ""  # not the peer's fault
        if why:
            self._refuse(request, why, now)
            return REFUSED, b"", ""
        self.admitted += 1
        return ADMITTED, b"", user_id

    def judge(self, request: Request) -> tuple[str, str]:
        """Return the User-Id of a peer, and why it is refused, or nothing; raises ZtasksError."""
        if request.domain not in self._domains:
            return "", "nothing is to come in there"
        role, only = self._domains[request.domain]
        user_id, why = self._curve(request) if self._allowed is not None else self._plain(request)
        if why:
            return "", why
        found = self.who(user_id)
        if found is None:
            return "", "its key is not in the allow-list" if self._allowed is not None else "it says no role"
        if found.role != role:
            return "", f"its key {found.name!r} is for a {found.role}, and a {role} is expected there"
        if only is not None and user_id != only:
            return "", f"its key {found.name!r} is not the one that this lane is for"
        return user_id, ""

    @staticmethod
    def _curve(request: Request) -> tuple[str, str]:
        credentials = request.credentials
        if request.mechanism != "CURVE" or len(credentials) != 1 or len(credentials[0]) != KEY_BYTES:
            return "", "it has no key"
        return z85(credentials[0]), ""

    @staticmethod
    def _plain(request: Request) -> tuple[str, str]:
        if not is_loopback(request.address.removeprefix("::ffff:")):
            return "", "it comes from another host, and without CURVE only this one is let in"
        if request.mechanism != "PLAIN" or len(request.credentials) != 2:
            return "", "it does not say what it is"
        return request.credentials[0].decode(errors="replace"), ""

    def _refuse(self, request: Request, why: str, now: float) -> None:
        self.refused[cut(why, 200)] += 1
        if now - self._told_since >= REPORT_SECONDS:
            self._told.clear()
            self._told_since = now
        case = (request.address, request.domain, why)
        if case in self._told or len(self._told) >= REPORTS:
            self._untold += 1
            return
        self._told.add(case)
        refusal = Refusal(request.address, request.domain, why, self._untold)
        self._untold = 0
        self._report(refusal)


def z85(key: bytes) -> str:
    """Return a key in Z85 (rfc.zeromq.org/spec/32), as it stands in join files and the allow-list."""
    text: list[str] = []
    for (word,) in struct.iter_unpack(">I", key):
        digits = []
        for _ in range(5):
            word, digit = divmod(word, 85)
            digits.append(_Z85[digit])
        text += reversed(digits)
    return "".join(text)
