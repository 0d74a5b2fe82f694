"""The measures, in the order in which they run and are printed."""

from benchmarks.measures import (
    arrays,
    command_startup,
    input_memory,
    map,
    mixed,
    overhead,
    queued,
    records,
    recovery,
    roundtrip,
    startup,
    submit,
    useful,
)
from benchmarks.model import Measure

_LIBRARIES = (submit, map, useful, roundtrip, arrays, queued, startup, mixed, recovery)
_COMMANDS = (command_startup, records, overhead, input_memory)

MEASURES: dict[str, Measure] = {module.MEASURE.name: module.MEASURE for module in (*_LIBRARIES, *_COMMANDS)}

__all__ = ["MEASURES"]
