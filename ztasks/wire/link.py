"""The vocabulary between a head and its peers on other hosts: foremen and clients (docs/protocol.md tells it in full).

Messages of three kinds, each a header frame (one of these structs, encoded as MessagePack arrays with a tag):

    greetings   Hello, Welcome, Reject, Void      before there is a link, or when there is none any more
    keeping     Chunk, Received, Alive            what the link itself is made of; may be lost and repeated
    contents    all others                        travel inside of chunks: in order, each exactly once

A link carries contents: lists of frames, the first of which is the header. They are cut into chunks of at most 1 MiB,
which are numbered 0, 1, 2, ... in each direction of each join.

Every job, and every item of a map, has a *number*, counted from 1 within its *session*: a client's random 64-bit
number. A range is (first number, count).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.loss import Loss
from ztasks.wire.messages import Failure, Form, Shape, Struct

PROTOCOL: Final = 1
"""The version of all that is written here. Both ends must have the same."""

CHUNK_BYTES: Final = 1024 * 1024
"""The most bytes of contents in one chunk: a large message delays no heartbeat."""

WINDOW_BYTES: Final = 4 * CHUNK_BYTES
"""The most bytes that are under way in one direction of a link."""

HEARTBEAT: Final = 1.0
LEASE: Final = 10.0
"""Seconds between two signs of life, and without any until the other end is given up; the head may say others."""

MAX_NAMES: Final = 64
"""The most queues, tags or resources of one worker or task."""

Range = tuple[int, int]
"""(first number, count)."""

Wanted = Literal["run", "drain", "stop"]


# --- greetings ---


class Hello(Struct, tag="hello", frozen=True):
    """A peer wants to join; said again and again until it is answered."""

    kind: Literal["foreman", "client"]
    name: str
    """Of a foreman: two with one name cannot be, the newer incarnation wins. Of a client: for people only."""
    incarnation: int
    """Random, 64 bits: this very process. Of a client: its session."""
    after: int
    """The lane that it has had last, and gives up; 0 if it has had none."""
    protocol: int
    ztasks: str
    python: str
    """Major and minor version, such as `3.11`: by-value payloads go only to the same."""
    host: str = ""
    slots: int = 0
    """How many workers a foreman has."""
    queues: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    resources: dict[str, int] = msgspec.field(default_factory=dict)
    """What all jobs on it together may take: `cpus`, `memory` in bytes, `gpu`."""
    started: float = 0.0
    """When the process started, seconds since the epoch: the newer of two incarnations wins."""


class Welcome(Struct, tag="welcome", frozen=True):
    """The head takes a peer in, under a new lane; whatever belongs to an earlier one is void."""

    incarnation: int
    epoch: int
    """Which run of the head this is: greater after each restart."""
    lane: int
    """Greater than any that the head, or one before it, has given out."""
    port: int
    """Where a foreman's lane listens, on the host that it has reached the head by; 0 for a client."""
    heartbeat: float
    lease: float
    durable: bool
    """Whether there is a journal."""
    max_bytes: int = 0
    """More than these the head does not take at once: arguments of jobs, or a callable. 0: it has not said."""


class Reject(Struct, tag="reject", frozen=True):
    """The head does not take a peer in."""

    incarnation: int
    code: Literal["protocol", "fenced", "forbidden", "full", "stopping"]
    why: str


class Void(Struct, tag="void", frozen=True):
    """The head does not know this lane (any more): whoever holds it shall join anew."""

    lane: int


# --- keeping ---


class Chunk(Struct, tag="chunk", frozen=True):
    """A piece of contents. Its frames follow: whole ones, or parts of such as are larger than a chunk."""

    lane: int
    number: int
    turn: int
    """How often the sender has gone back to a gap."""
    received: int
    acknowledged: int
    """As in Received."""
    more: bool
    """Whether the content goes on in the next chunk."""
    open: bool
    """Whether the last frame goes on with the first frame of the next chunk."""


class Received(Struct, tag="received", frozen=True):
    """How far the other direction has come."""

    lane: int
    received: int
    """So many chunks have come, without a gap."""
    acknowledged: int
    """So many have been dealt with, and need not be kept any longer."""
    gap: bool
    """Chunk number `received` is missing: all from there on shall be sent again."""
    turn: int
    """With `gap`: the turn of what has shown it. The sender heeds only those of its present one."""


class Alive(Struct, tag="alive", frozen=True):
    """A sign of life, once each heartbeat, on the same connection as the chunks and behind them."""

    lane: int
    epoch: int
    sent: int
    """So many chunks have been sent."""
    turn: int
    """As in Chunk."""
    received: int
    acknowledged: int
    wanted: Wanted = "run"
    """To a foreman: what it shall do. From one: what it does."""
    credit: int = 0
    """From a foreman: the most items that it will hold. Absolute, so that no loss can leak it."""


# --- contents, both ways between clients, head and foremen ---


class Define(Struct, tag="define", frozen=True):
    """A task, before its first use on a link. Frame: the pickled callable."""

    key: bytes
    """A digest of all the rest, and of the callable."""
    name: str
    """For people, such as `resize`."""
    path: str
    """`module.qualname` if the workers import it, which routes are matched with; else empty."""
    by_value: bool
    """Whether the callable's code itself is in the pickle: that goes only to the same Python minor version."""
    python: str
    retries: int
    backoff: float
    max_backoff: float
    jitter: float
    timeout: float | None
    grace: float
    crash_retries: int
    at_most_once: bool
    retries_timeouts: bool
    """Whether the task's verdict lets a JobTimeout be retried."""
    cpus: int
    memory: int | None
    queue: str = "default"
    tags: tuple[str, ...] = ()
    """A worker must have all of these."""
    resources: dict[str, int] = msgspec.field(default_factory=dict)
    priority: int = 0
    """Higher ones go first."""
    expires: float | None = None
    """Seconds from its acceptance after which a job that has not begun is given up."""


class Outcome(Struct, tag="outcome", frozen=True):
    """What became of some items of one session. Frames: [payload,] buffers..."""

    session: int
    numbers: int | list[int]
    """The first number of consecutive items, or each item's."""
    count: int
    attempt: int | list[int]
    form: Form | None
    """None: there are no results, all have failed."""
    sizes: list[int] | None
    buffers: list[int] | None
    failures: list[Failure | Loss]
    withheld: list[int]
    """Offsets of items that have not ended, or had ended before: their entries are to be skipped."""
    cancelled: list[int]
    """Offsets of items that have ended as cancelled."""
    started: list[float] | None
    seconds: list[float] | None
    busy: float
    max_rss: int
    host: str
    pid: int
    payload: bytes | None
    skip: int = 0
    """With form `list`: how many items at the beginning of the payload are not part of this outcome."""


# --- contents, client -> head ---


class Resume(Struct, tag="resume", frozen=True):
    """The first content of a client's join: what it still waits for."""

    outstanding: list[Range]
    accepted: int
    """The highest number that is known to be accepted: what is above is submitted again."""
    cancel_on_exit: bool = False
    """Whether its jobs shall be cancelled if it goes away, whatever the reason."""


class Submit(Struct, tag="submit", frozen=True):
    """Work: `count` items of one task, numbered from `first` on. Frames: [payload,] buffers..."""

    key: bytes
    first: int
    count: int
    whole: bool
    """A slice of a map; else single jobs, each with an entry in `sizes`."""
    index: int
    """The index of a slice's first item in its map; 0 for jobs."""
    map_number: int
    shape: Shape
    form: Form
    skip: int
    sizes: list[int] | None
    buffers: list[int] | None
    detail: bool
    durable: bool
    sent: bool
    """Detached: nobody waits; the outcome is kept until it is asked for."""
    payload: bytes | None


class Cancel(Struct, tag="cancel", frozen=True):
    """Cancel these items; `running`: also if they have begun."""

    session: int
    ranges: list[Range]
    running: bool


class Ask(Struct, tag="ask", frozen=True):
    """A question, or a command, of the command line or of `client.job`."""

    question: int
    what: str
    arguments: dict[str, Any]


class Leaving(Struct, tag="leaving", frozen=True):
    """The last content of a client that closes, or a foreman that has nothing left, or gives up what it has.

    `cancel`: what a client has not got is not wanted any more. What a foreman held has been given up, running or not;
    without it the foreman holds nothing, and begins nothing that is under way to it.
    """

    cancel: bool


# --- contents, head -> client ---


class Accepted(Struct, tag="accepted", frozen=True):
    """All items up to this number have been accepted (with a journal: durably), or refused."""

    upto: int


class Refused(Struct, tag="refused", frozen=True):
    """These items are not accepted, or have been lost."""

    ranges: list[Range]
    code: Literal["full", "unknown", "dropped", "invalid", "stopping", "undefined"]
    why: str


class Answer(Struct, tag="answer", frozen=True):
    """To an Ask. Frames: what the value says."""

    question: int
    error: str
    """Empty if all went well."""
    value: Any


# --- contents, head -> foreman ---


class Batch(Struct, tag="batch", frozen=True):
    """Work for a foreman: jobs, or one slice, of one task and one session. Frames: [payload,] buffers..."""

    session: int
    key: bytes
    numbers: int | list[int]
    count: int
    whole: bool
    index: int
    map_number: int
    failures: int | list[int]
    crashes: int | list[int]
    """How many of each item's attempts have failed, and how often its worker has died."""
    shape: Shape
    form: Form
    skip: int
    sizes: list[int] | None
    buffers: list[int] | None
    detail: bool
    payload: bytes | None


class Recall(Struct, tag="recall", frozen=True):
    """Give back what has not begun: another host is idle."""


class Forget(Struct, tag="forget", frozen=True):
    """These tasks will be defined again if they are needed."""

    keys: list[bytes]


# --- contents, foreman -> head ---


class Holding(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Consecutive items that a foreman holds: waiting, running, or with outcomes that are not acknowledged."""

    session: int
    first: int
    count: int
    attempt: int


class Held(Struct, tag="held", frozen=True):
    """The first content of a foreman's join: all that it holds from an earlier one."""

    holdings: list[Holding]
    defined: list[bytes]
    """The keys of the tasks that it knows."""


class Returned(Struct, tag="returned", frozen=True):
    """Items that were not begun, and will not be here."""

    session: int
    ranges: list[Range]


class Died(Struct, tag="died", frozen=True):
    """A worker took a job down: its certificate. The head counts, and decides whether the job is run again."""

    session: int
    number: int
    attempt: int
    late: bool
    """It had to be killed, since it did not heed its timeout."""
    certificate: DeathCertificate


Greeting = Hello | Welcome | Reject | Void
Keeping = Chunk | Received | Alive
FromClient = Define | Resume | Submit | Cancel | Ask | Leaving
FromForeman = Held | Outcome | Returned | Died | Leaving
ToClient = Accepted | Refused | Answer | Outcome
ToForeman = Define | Batch | Cancel | Recall | Forget
