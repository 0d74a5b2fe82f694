"""How messages between a head and its peers become bytes, and are checked when they come in.

Headers are decoded by schema; counts, tables and ranges are checked before anything relies on them.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from ztasks.errors import WireError
from ztasks.units import cut
from ztasks.wire.link import (
    MAX_NAMES,
    Alive,
    Batch,
    Chunk,
    FromClient,
    FromForeman,
    Hello,
    Outcome,
    Range,
    Received,
    Reject,
    Submit,
    ToClient,
    ToForeman,
    Void,
    Welcome,
)
from ztasks.wire.messages import MAX_ITEMS, MAX_SECONDS

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
MAX_SLOTS: Final = 100_000
"""The most workers of one foreman."""

MAX_TEXT: Final = 256
"""The most characters of a name, a host or a version in a greeting."""

_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Decoder:
    """Decodes one of several messages; says which vocabulary was not followed."""

    def __init__(self, kinds: Any, what: str) -> None:
        self._decode = msgspec.msgpack.Decoder(kinds).decode
        self._what = what

    def __call__(self, header: bytes | memoryview) -> Any:
        try:
            return self._decode(header)
        except _MALFORMED as error:
            raise WireError(f"a message {self._what} does not follow the protocol: {cut(str(error), 200)}") from error


decode_at_head = _Decoder(Hello | Chunk | Received | Alive, "to the head")
decode_at_peer = _Decoder(Welcome | Reject | Void | Chunk | Received | Alive, "from the head")
decode_from_client = _Decoder(FromClient, "of a client")
decode_from_foreman = _Decoder(FromForeman, "of a foreman")
decode_to_client = _Decoder(ToClient, "to a client")
decode_to_foreman = _Decoder(ToForeman, "to a foreman")


def check_names(names: tuple[str, ...] | dict[str, int], what: str) -> None:
    """Check queues, tags or resources; raises WireError."""
    if len(names) > MAX_NAMES or any(not name or len(name) > 128 for name in names):
        raise WireError(f"{what} must be at most {MAX_NAMES} names of 1 to 128 characters")


def check_hello(hello: Hello) -> None:
    """Check what a greeting says; raises WireError."""
    check_names(hello.queues, "queues")
    check_names(hello.tags, "tags")
    check_names(hello.resources, "resources")
    if not 0 <= hello.slots <= MAX_SLOTS or any(amount < 0 for amount in hello.resources.values()):
        raise WireError(f"a greeting of {hello.slots} workers, or of resources below 0")
    if not hello.name or any(len(text) > MAX_TEXT for text in (hello.name, hello.ztasks, hello.python, hello.host)):
        raise WireError(f"a greeting needs a name, and nothing in it may be longer than {MAX_TEXT} characters")
    if not 0 <= hello.incarnation < 1 << 64 or hello.after < 0 or not 0 <= hello.started < math.inf:
        raise WireError("a greeting says an incarnation, a lane or a start that cannot be")


def check_tables(message: Submit | Batch | Outcome, frames: int, payload_size: int) -> None:
    """Check that counts and tables agree with each other and with the frames that came; raises WireError."""
    count, sizes, buffers = message.count, message.sizes, message.buffers
    if not 0 < count <= MAX_ITEMS:
        raise WireError(f"a message of {count} items; allowed are 1 to {MAX_ITEMS}")
    if sizes is not None and (len(sizes) != count or min(sizes) < 0 or sum(sizes) != payload_size):
        raise WireError(f"the size table does not fit a payload of {payload_size} bytes and {count} items")
    if sizes is None and message.form == "each" and count != 1:
        raise WireError(f"{count} items came without a size table")
    if buffers is not None and (len(buffers) != count or min(buffers) < 0):
        raise WireError(f"the buffer table does not fit {count} items")
    wanted = (message.payload is None and message.form is not None) + sum(buffers or ())
    if message.skip < 0:
        raise WireError(f"a message skips {message.skip} items")
    if frames != wanted:
        raise WireError(f"a message came with {frames} frames behind its header instead of {wanted}")
    if isinstance(message, Outcome):
        _check_outcome(message)
    else:
        _check_work(message)


def _check_work(work: Submit | Batch) -> None:
    """Check that numbers and tables fit the items that are to be run; raises WireError."""
    numbers = work.first if isinstance(work, Submit) else work.numbers
    tables = (numbers, work.failures, work.crashes) if isinstance(work, Batch) else (numbers,)
    for table in tables:
        if isinstance(table, list) and len(table) != work.count:
            raise WireError(f"a table of {len(table)} numbers came with {work.count} items")
    if (min(numbers) if isinstance(numbers, list) else numbers) < 1 or work.index < 0 or work.map_number < 0:
        raise WireError("work came with numbers that cannot be")
    if work.whole and isinstance(numbers, list):
        raise WireError("the items of a slice came without consecutive numbers")
    if not work.whole and work.form != "each":
        raise WireError("jobs came in a form that only slices have")


def _check_outcome(outcome: Outcome) -> None:
    """Check that failures, numbers and measurements fit the items; raises WireError."""
    count, last = outcome.count, -1
    for failure in outcome.failures:
        if not last < failure.offset < count:
            raise WireError(f"a failure of item {failure.offset} after one of item {last}, of {count} items")
        last = failure.offset
        if failure.after is not None and not 0 <= failure.after < MAX_SECONDS:
            raise WireError(f"a failure asks for a pause of {failure.after} s")
    for table in (outcome.numbers, outcome.attempt, outcome.started, outcome.seconds):
        if isinstance(table, list) and len(table) != count:
            raise WireError(f"a table of {len(table)} numbers came with {count} items")
    for offsets in (outcome.withheld, outcome.cancelled):
        if offsets and not (min(offsets) >= 0 and max(offsets) < count):
            raise WireError(f"offsets beyond {count} items")
    if outcome.cancelled and not {failure.offset for failure in outcome.failures}.isdisjoint(outcome.cancelled):
        raise WireError("an item has both failed and been cancelled")
    if not 0 <= outcome.busy < MAX_SECONDS:
        raise WireError(f"items took {outcome.busy} s")


def items_in(ranges: list[Range]) -> int:
    """Return how many items there are in ranges; raises WireError for such as cannot be."""
    if any(first < 1 or count < 1 for first, count in ranges):
        raise WireError("a range of items that cannot be")
    return sum(count for _, count in ranges)
