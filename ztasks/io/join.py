"""Join files: all that a worker or a client needs to reach its head, in one file that belongs to one user.

What it must hold: a secret key is in such files, in an environment variable or on standard input, and nowhere else: not
in arguments, which every user of a host can read, and not in what is logged, shown or raised. And whoever names a head
without keys reaches one on this host, or is told what to do.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import socket
import sys
from typing import Any, Final, Literal

import msgspec

from ztasks.errors import BadJoinFile
from ztasks.io.private import read_private, replace, write_new

Role = Literal["worker", "client"]

VERSION: Final = 1
"""The version of the files. Others are refused: what a field means must not be guessed."""

VARIABLE: Final = "ZTASKS_HEAD"
"""The environment variable that names the head where nothing else does."""

MAX_TEXT: Final = 64 * 1024
"""No join file is larger."""

PORT_SINK: Final = 1
PORT_CONTROL: Final = 2
FIRST_LANE: Final = 3
"""What comes on which port, counted from the one for clients."""

_KEY: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""A key of 32 bytes in Z85, ZeroMQ's encoding (rfc.zeromq.org/spec/32)."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})")


class KeyPair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public and a secret key, in Z85."""

    public_key: str
    secret_key: str

    def __repr__(self) -> str:
        """Without the secret: this ends up in logs and tracebacks."""
        return "<key pair>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for rich, which would show every field."""
        return []


class Ports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a head listens, lanes apart."""

    clients: int
    sink: int
    control: int

    @classmethod
    def from_first(cls, port: int) -> Ports:
        """Return the usual ones, of which the first is given."""
        return cls(port, port + PORT_SINK, port + PORT_CONTROL)


class JoinFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Address and keys of a head, and the key pair of a worker or client. Keys are in Z85; empty without CURVE."""

    version: int = VERSION
    role: Role
    name: str
    """The name of the key in the head's allow-list."""
    address: str
    """The head's host: a name or an IP address."""
    ports: Ports
    curve: bool
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""

    def __repr__(self) -> str:
        """Without keys: this ends up in logs and tracebacks."""
        return f"<join file {self.name!r}: {self.role} at {format_address(self.address, self.ports.clients)}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for rich, which would show every field."""
        return [("name", self.name), ("role", self.role)]

    @classmethod
    def plain(cls, role: Role, address: str, port: int) -> JoinFile:
        """Return what reaches a head on this host that has no keys; raises BadJoinFile for other hosts."""
        if not is_loopback(address):
            raise BadJoinFile(
                f"the head at {format_address(address, port)} is not on this host, and without its keys nobody could "
                f"know who answers there. Nothing was started. Copy {role}.join from the head's --join-dir, and give "
                f"@{role}.join."
            )
        return cls(role=role, name=role, address=address, ports=Ports.from_first(port), curve=False)

    @classmethod
    def read(cls, path: str) -> JoinFile:
        """Read a file; raises BadJoinFile and NotPrivate."""
        try:
            content = read_private(path)
        except FileNotFoundError:
            raise BadJoinFile(
                f"there is no join file {path}. Nothing was started. `ztasks head` writes worker.join and client.join "
                "into its --join-dir: copy one of them here."
            ) from None
        except OSError as error:
            raise BadJoinFile(f"the join file {path} cannot be read: {error.strerror}. Nothing was started.") from None
        return cls.parse(content, path)

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> JoinFile:
        """Make one of its text; raises BadJoinFile, which says `where` it came from."""
        cure = "Nothing was started. Copy the file from the head's --join-dir again."
        try:
            if len(text) > MAX_TEXT:
                raise BadJoinFile(f"{where} is too large to be a join file. {cure}")
            version = msgspec.json.decode(text, type=_Version).version
            if version != VERSION:
                raise BadJoinFile(
                    f"{where} has version {version} of join files, and this ztasks reads version {VERSION}. Nothing "
                    "was started. Install the head's version of ztasks here."
                )
            found = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadJoinFile(f"{where} is no join file: {_told(error)}. {cure}") from None
        if wrong := _wrong(found):
            raise BadJoinFile(f"{where} is no join file: {wrong}. {cure}")
        if not found.curve:
            cls.plain(found.role, found.address, found.ports.clients)  # refuses other hosts
        return found

    def encode(self) -> bytes:
        """Return the file's content."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def write(self, path: str, *, replacing: bool = False) -> None:
        """Write it, with mode 0600; raises FileExistsError unless replacing, NotPrivate and OSError."""
        (replace if replacing else write_new)(path, self.encode())


class _Version(msgspec.Struct):
    """What every version has."""

    version: int


def _told(error: Exception) -> str:
    """Say where a text is no join file. What msgspec says is not repeated: it may quote what stands there."""
    if not isinstance(error, msgspec.ValidationError):
        return "it is no JSON"
    said = re.findall(r"`(?:\$\.)?([\w.]+)`", str(error))
    known = (*JoinFile.__struct_fields__, *(f"ports.{name}" for name in Ports.__struct_fields__))
    wrong = next((name for name in reversed(said) if name in known), None)
    return f"its field {wrong} is missing or wrong" if wrong else "its fields are not those of one"


def _wrong(found: JoinFile) -> str:
    """Say what is wrong with it, or nothing."""
    if not _NAME.fullmatch(found.name):
        return "its name is none"
    if not _is_host(found.address):
        return "its address is no name of a host and no IP address"
    if not all(0 < port < 65536 for port in (found.ports.clients, found.ports.sink, found.ports.control)):
        return "a port is not from 1 to 65535"
    keys = {"server_key": found.server_key, "public_key": found.public_key, "secret_key": found.secret_key}
    if found.curve and (bad := [name for name, key in keys.items() if not is_key(key)]):
        return f"{bad[0]} is no key"
    return ""


def is_key(text: str) -> bool:
    """Tell whether this may be a key in Z85."""
    return _KEY.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Tell whether a key may have this name: it becomes the name of a file."""
    return _NAME.fullmatch(text) is not None


# --- addresses ---


def is_loopback(host: str) -> bool:
    """Tell whether only this host can be reached there, or reach it there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, [IPV6]:PORT or the same behind tcp://; raises ValueError without the text."""
    found = re.fullmatch(r"(?:tcp://)?(?:\[([^\]]+)\]|([^:\[\]/]+)):(\d{1,5})", text)
    if found is None or not _is_host(host := found[1] or found[2]):
        raise ValueError("an address is HOST:PORT or [IPV6]:PORT")
    if not 0 < (port := int(found[3])) < 65536 - FIRST_LANE:
        raise ValueError(f"a port is from 1 to {65535 - FIRST_LANE}: lanes follow it")
    return "127.0.0.1" if host == "localhost" else host, port


def format_address(host: str, port: int) -> str:
    """Return HOST:PORT, with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def needs_ipv6(host: str) -> bool:
    """Tell whether a host is reached by IPv6 only. Where there is a choice it is IPv4: heads listen there first."""
    try:
        return all(info[0] == socket.AF_INET6 for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except OSError:  # the name may be known later
        return ":" in host


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return True


# --- what the user gives ---


def resolve(text: str | None, role: Role, *, private: bool = False) -> JoinFile:
    """Return what is meant by `text`, or by ZTASKS_HEAD if it is None; raises BadJoinFile and NotPrivate.

    It is `@FILE`, `-` (standard input), HOST:PORT of a head without keys on this host, or, where nobody else can read
    it (`private`: it does not come from the command line), the text of a join file.
    """
    where = "what was given as the head"
    if text is None:
        text, where, private = os.environ.get(VARIABLE, ""), VARIABLE, True
        if not text:
            raise BadJoinFile(
                f"no head is given. Nothing was started. Give the file {role}.join, which `ztasks head` writes into "
                f"its --join-dir, as --head @{role}.join or as the first argument in a program; or set "
                f"{VARIABLE}=@{role}.join."
            )
    found = _read(text.strip(), where, role, private=private)
    if found.role != role:
        uses = {"worker": "`ztasks worker`", "client": "ztasks.Client and all other commands"}
        raise BadJoinFile(
            f"{where} is a join file for a {found.role}, which is for {uses[found.role]}; its key would be refused. "
            f"Nothing was started. Give a join file for a {role}: @{role}.join."
        )
    return found


def check_argument(text: str | None) -> None:
    """Refuse what must not be an argument of a command; raises BadJoinFile."""
    if text is not None and text.strip().startswith("{"):
        raise BadJoinFile(
            "the text of a join file was given as an argument, where every user of this host can read its key. Nothing "
            f"was started. Give @FILE, or - and the text on standard input, or set {VARIABLE}; and if others use "
            "this host, replace that key: ztasks keys revoke, then ztasks keys add."
        )


def _read(text: str, where: str, role: Role, *, private: bool) -> JoinFile:
    """Tell the kinds apart. What cannot be told is never repeated in the message: it may be a key."""
    if text.startswith("@"):
        return JoinFile.read(os.path.expanduser(text[1:]))
    if text == "-":
        if sys.stdin is None:
            raise BadJoinFile(
                "standard input is closed, and the join file was to come from there. Nothing was started."
            )
        return JoinFile.parse(sys.stdin.buffer.read(MAX_TEXT + 1), "what came from standard input")
    if text.startswith("{"):
        if not private:
            check_argument(text)
        return JoinFile.parse(text, where)
    try:
        return JoinFile.plain(role, *parse_address(text))
    except ValueError as error:
        if os.path.isfile(text):
            raise BadJoinFile(
                f"{where} is a file, and a join file is given as @FILE. Nothing was started. Give @{shlex.quote(text)}."
            ) from None
        if isinstance(error, BadJoinFile):
            raise
        raise BadJoinFile(
            f"{where} is neither @FILE, nor - for standard input, nor HOST:PORT of a head on this host ({error}). "
            f"Nothing was started. Give @{role}.join."
        ) from None
