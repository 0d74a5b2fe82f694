"""Who has joined: the head's side of the greetings.

What it must hold: one name is one foreman, the newer incarnation fences the older; a name and a session belong to the
key that they came with first; a greeting that is repeated is answered alike; and a lane's number is never used again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ztasks.errors import WireError
from ztasks.units import cut
from ztasks.wire.link import PROTOCOL, Hello, Reject
from ztasks.wire.link_codec import check_hello

LANES_PER_EPOCH: Final = 1 << 30
"""Half as many joins no run of a head sees; and seconds since 1970, taken as epochs, leave a lane below 2**63."""

MAX_LANE: Final = 1 << 62
"""No lane that a head has given out has such a number."""


class Member(NamedTuple):
    """A peer that has joined."""

    lane: int
    hello: Hello
    key: str
    """Its public key; empty without CURVE."""


class Admission(NamedTuple):
    """What a greeting leads to: the member's lane is new, or was given to this very greeting before."""

    member: Member
    new: bool
    replaced: Member | None
    """Whose lane is void from now on: an earlier join of the same peer, or an older incarnation."""


class Roster:
    """All members, by lane; foremen also by name, clients by session."""

    def __init__(self, epoch: int, version: str, offset: int = 0) -> None:
        """`epoch`: greater than that of any run of this head before. `version`: ztasks' own.

        `offset`, below LANES_PER_EPOCH / 2: at random, it keeps lanes apart of two runs that have one epoch, since
        they began within a second and there is no journal that knows of the first.
        """
        self.epoch = epoch
        self.members: dict[int, Member] = {}
        self.stopping = False
        """Whether only those foremen are taken in who have been here before. Clients may ask, and cancel."""
        self._version = version
        self._foremen: dict[str, Member] = {}
        self._clients: dict[int, Member] = {}
        self._keys: dict[str | int, str] = {}
        """The key that each foreman's name, and each client's session, came with first."""
        self._next_lane = epoch * LANES_PER_EPOCH + offset + 1

    def on_hello(self, hello: Hello, key: str) -> Admission | Reject:
        """Take in a greeting that came with a key; raises WireError if it cannot be."""
        if hello.protocol != PROTOCOL:
            return self._reject_protocol(hello)
        check_hello(hello)
        foreman = hello.kind == "foreman"
        earlier = self._foremen.get(hello.name) if foreman else self._clients.get(hello.incarnation)
        whose = hello.name if foreman else hello.incarnation
        if self.stopping and foreman and whose not in self._keys:  # who was here may come back, and bring what is done
            return Reject(hello.incarnation, "stopping", "the head is stopping and takes in no new worker")
        if self._keys.setdefault(whose, key) != key:
            return _reject_key(hello)
        if earlier is not None and earlier.hello.incarnation != hello.incarnation and _is_older(hello, earlier.hello):
            return _reject_older(hello, earlier.hello)
        if earlier is not None and earlier.hello.incarnation == hello.incarnation and hello.after < earlier.lane:
            return Admission(earlier, new=False, replaced=None)  # it has not heard the answer yet
        if hello.after >= MAX_LANE:
            raise WireError(f"a greeting after lane {hello.after}")
        # Without a journal an epoch is a time of day, and a clock may have been put back since the last one began.
        self._next_lane = max(self._next_lane, hello.after + 1)
        member = Member(self._next_lane, hello, key)
        self._next_lane += 1
        if earlier is not None:
            self.remove(earlier.lane)
        self.members[member.lane] = member
        if foreman:
            self._foremen[hello.name] = member
        else:
            self._clients[hello.incarnation] = member
        return Admission(member, new=True, replaced=earlier)

    def _reject_protocol(self, hello: Hello) -> Reject:
        why = (
            f"protocol {hello.protocol} (ztasks {cut(hello.ztasks, 40)} on {cut(hello.host or hello.name, 80)}) does "
            f"not fit the head's protocol {PROTOCOL} (ztasks {self._version}); install the same version of ztasks on "
            "both"
        )
        return Reject(hello.incarnation, "protocol", why)

    def remove(self, lane: int) -> Member | None:
        """A member's lane is void from now on."""
        member = self.members.pop(lane, None)
        if member is None:
            return None
        if member.hello.kind == "foreman":
            if self._foremen.get(member.hello.name) is member:
                del self._foremen[member.hello.name]
        elif self._clients.get(member.hello.incarnation) is member:
            del self._clients[member.hello.incarnation]
        return member

    def free(self, whose: str | int) -> None:
        """A foreman's name, or a client's session, may come with another key from now on."""
        self._keys.pop(whose, None)

    def client(self, session: int) -> Member | None:
        """Return the client of a session, if it has joined."""
        return self._clients.get(session)

    def of_sender(self, lane: int, key: str) -> Member | None:
        """Return the member whose lane a message names, if it came with that member's key."""
        member = self.members.get(lane)
        return member if member is not None and member.key == key else None


def _is_older(hello: Hello, other: Hello) -> bool:
    """Tell which of two incarnations gives way: the one that started earlier. No two ever both do, or neither."""
    return (hello.started, hello.incarnation) < (other.started, other.incarnation)


def _reject_key(hello: Hello) -> Reject:
    why = f"the name {hello.name!r} belongs to another key; start the worker with another --name"
    if hello.kind == "client":
        why = "this session belongs to another key"
    return Reject(hello.incarnation, "forbidden", why)


def _reject_older(hello: Hello, newer: Hello) -> Reject:
    why = (
        f"a newer worker named {hello.name!r} has joined from {newer.host}: this one gives way. Give each worker a "
        "--name of its own, or leave --name out"
    )
    return Reject(hello.incarnation, "fenced", why)
