"""The whole vocabulary of the wire: every message as a tagged msgspec struct, with its limits.

    head -> worker   lane (PUSH)      Batch, Leave
    head -> workers  control (PUB)    Control
    worker -> head   sink (PULL)      Ready, Results, StartFailed, Bye

A message is a header frame (one of these structs) followed by the payload frames it announces. Headers are decoded by
schema before anything else is looked at, and headers hold no pickles but for the one of an exception, which stays
bytes until the thread that asks for the result unpickles it.

Positions: the items given to one lane are numbered 0, 1, 2, ... in the order in which they were sent. A worker runs
them in that order and reports them in that order, so that (lane, position) names one dispatch of one job, which is
to say one attempt.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from ztasks.errors import WireError
from ztasks.units import cut

Shape = Literal["call", "star", "one"]
"""How an item becomes a call: `call` is (args, kwargs), `star` is a tuple of arguments, `one` the only argument."""

Form = Literal["each", "list"]
"""How items are pickled: `each` one by one, laid end to end with a table of sizes; `list` all in one list pickle,
which is used for values of exact type int, float, str, bytes, bool and None only."""

INLINE_BYTES: Final = 2048
"""Payloads up to this size ride in the header: each further frame costs about 3 us on either side."""

MAX_SECONDS: Final = 1e9
"""Longer than this, some 30 years, no job has run."""

MAX_ITEMS: Final = 65_536
"""The most items in one batch: bounds the books of a batch and the time that a result waits for its neighbours."""


class Struct(msgspec.Struct, array_like=True, tag=True, frozen=True, gc=False):
    """The base of all messages: encoded as arrays, told apart by their tag."""


class Failure(Struct, tag="failure", frozen=True):
    """How one job of a batch failed, told by the worker."""

    offset: int
    """Which item of the Results message."""
    kind: Literal["raised", "load", "result", "large", "timeout", "stopped", "lost", "start"]
    """`raised` by the job; its call did not `load`; its `result` did not pickle; its result is too `large`; `timeout`;
    `stopped` because its caller has cancelled it; `lost` with its worker; `start`: a preload or initializer raised."""
    type_name: str
    message: str
    traceback: str
    pickled: bytes
    """The exception, if it survived a test round trip in the worker; else empty."""
    retry: bool
    """The worker's verdict: may this failure be retried at all?"""
    after: float | None = None
    """The pause in seconds before the retry that the job has asked for."""


class Batch(Struct, tag="batch", frozen=True):
    """Work for one lane: `count` items of one task. Frames: [callable,] [payload,] buffers..."""

    cut: int
    """The lane's cut when this was sent; the worker drops batches of an older cut."""
    position: int
    count: int
    key: bytes
    """Names the callable; its frame comes along the first time that a lane needs it (`ships`)."""
    ships: bool
    forget: tuple[bytes, ...]
    """Callables that the worker shall drop from its cache."""
    shape: Shape
    form: Form
    skip: int
    """With form `list`: how many items at the beginning of the payload are not part of this batch."""
    sizes: list[int] | None
    """With form `each`: the bytes of each item; None for a single item."""
    buffers: list[int] | None
    """How many out-of-band buffer frames each item has; None when there are none at all."""
    map_number: int
    """0 for submitted jobs, else the number of the map: with `indices` it gives the jobs their ids."""
    prefix: str
    """With a foreman: the session; then `indices` are the numbers that go with it."""
    indices: list[int] | int
    """The job numbers of submitted jobs, or the index of the first item of a slice."""
    attempts: list[int] | int
    max_attempts: list[int] | int
    """The attempt with which each job's retries are used up, given how often its worker has died."""
    timeout: float | None
    """Seconds that each job may run, or None."""
    grace: float
    """Seconds that a job may still take after it was told to stop."""
    detail: bool
    """Whether start, run time and peak memory of every single item are wanted."""
    payload: bytes | None
    """The payload, if it is small; None: it is a frame of its own."""


class Leave(Struct, tag="leave", frozen=True):
    """Finish what you hold, say Bye and exit."""


class Control(Struct, tag="control", frozen=True):
    """What all workers shall do: `drain` finish what they hold and leave, `stop` finish the running job and leave."""

    wanted: Literal["drain", "stop"]


class Ready(Struct, tag="ready", frozen=True):
    """A worker has started, run its initializer and connected its lane."""

    lane: int
    pid: int


class StartFailed(Struct, tag="start-failed", frozen=True):
    """A worker's preload or initializer raised; it leaves."""

    lane: int
    failure: Failure


class Results(Struct, tag="results", frozen=True):
    """The outcomes of `count` items from `position` on. Frames: [payload,] buffers..."""

    lane: int
    position: int
    count: int
    form: Form
    sizes: list[int] | None
    buffers: list[int] | None
    failures: list[Failure]
    busy: float
    """Seconds spent on these items, loading and pickling included."""
    idle: float
    """Seconds that the worker had waited for work before them."""
    started: list[float] | None
    """With `detail`: when each item started, seconds since the epoch."""
    seconds: list[float] | None
    """With `detail`: how long each item ran."""
    max_rss: int
    """Peak memory of the worker process so far, in bytes; 0 without `detail`."""
    payload: bytes | None
    """The payload, if it is small; None: it is a frame of its own."""


class Bye(Struct, tag="bye", frozen=True):
    """The worker has sent all it had and exits now."""

    lane: int


ToWorker = Batch | Leave
FromWorker = Ready | StartFailed | Results | Bye

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_control: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises: a string may not be UTF-8, and what is skipped may be nested without end."""


def decode_to_worker(header: bytes) -> ToWorker:
    """Decode a header that came down a lane; raises WireError."""
    try:
        return _to_worker.decode(header)
    except _MALFORMED as error:
        raise WireError(f"a message on the lane does not follow the protocol: {cut(str(error), 200)}") from error


def decode_from_worker(header: bytes) -> FromWorker:
    """Decode a header that came in on the sink; raises WireError."""
    try:
        return _from_worker.decode(header)
    except _MALFORMED as error:
        raise WireError(f"a message on the sink does not follow the protocol: {cut(str(error), 200)}") from error


def decode_control(header: bytes) -> Control:
    """Decode a header that came in on the control channel; raises WireError."""
    try:
        return _control.decode(header)
    except _MALFORMED as error:
        raise WireError(f"a message on control does not follow the protocol: {cut(str(error), 200)}") from error


def inline(data: bytes) -> bytes | None:
    """Return a payload that rides in the header, or None if it is too large for that."""
    return data if len(data) <= INLINE_BYTES else None


def check_buffers(message: Batch | Results) -> None:
    """Check the table that says how many frames are to be received; raises WireError."""
    buffers = message.buffers
    if buffers is not None and (len(buffers) != message.count or min(buffers, default=0) < 0):
        raise WireError(f"the buffer table does not fit {message.count} items")


def check_items(message: Batch | Results, payload_size: int) -> None:
    """Check that a message's counts and tables agree with each other and with its payload; raises WireError."""
    sizes = message.sizes
    if not 0 < message.count <= MAX_ITEMS:
        raise WireError(f"a message of {message.count} items; allowed are 1 to {MAX_ITEMS}")
    if sizes is not None and (len(sizes) != message.count or min(sizes) < 0 or sum(sizes) != payload_size):
        raise WireError(f"the size table does not fit a payload of {payload_size} bytes and {message.count} items")
    if sizes is None and message.form == "each" and message.count != 1:
        raise WireError(f"{message.count} items came without a size table")
    check_buffers(message)
    if type(message) is Results:
        _check_outcomes(message)
    else:
        _check_calls(message)  # type: ignore[arg-type]


def _check_calls(batch: Batch) -> None:
    """Check that what a batch says of its jobs fits its items; raises WireError."""
    for table in (batch.indices, batch.attempts, batch.max_attempts):
        if isinstance(table, list) and len(table) != batch.count:
            raise WireError(f"a table of {len(table)} numbers came with {batch.count} items")
    if batch.skip < 0:
        raise WireError(f"a batch skips {batch.skip} items")


def _check_outcomes(results: Results) -> None:
    """Check that failures and measurements fit the items of a report; raises WireError."""
    count, last = results.count, -1
    for failure in results.failures:
        if not last < failure.offset < count:
            raise WireError(
                f"a failure of item {failure.offset} after one of item {last}, in a report of {count} items"
            )
        last = failure.offset
        if failure.after is not None and not 0 <= failure.after < MAX_SECONDS:
            raise WireError(f"a failure asks for a pause of {failure.after} s")
    for table in (results.started, results.seconds):
        if table is not None and len(table) != count:
            raise WireError(f"{len(table)} measurements came with {count} items")
    if not (0 <= results.busy < MAX_SECONDS and 0 <= results.idle < MAX_SECONDS):
        raise WireError(f"a worker was busy for {results.busy} s and idle for {results.idle} s")
