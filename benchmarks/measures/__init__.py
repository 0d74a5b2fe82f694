"""The measures, in the order in which they run and are printed."""

from benchmarks.measures import arrays, map, mixed, queued, recovery, roundtrip, startup, submit, useful
from benchmarks.model import Measure

_MODULES = (submit, map, useful, roundtrip, arrays, queued, startup, mixed, recovery)

MEASURES: dict[str, Measure] = {module.MEASURE.name: module.MEASURE for module in _MODULES}

__all__ = ["MEASURES"]
