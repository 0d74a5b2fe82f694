"""The measures, in the order in which they run and are printed."""

from benchmarks.measures import arrays, map, mixed, queued, roundtrip, startup, submit, useful
from benchmarks.model import Measure

MEASURES: dict[str, Measure] = {
    module.MEASURE.name: module.MEASURE for module in (submit, map, useful, roundtrip, arrays, queued, startup, mixed)
}

__all__ = ["MEASURES"]
