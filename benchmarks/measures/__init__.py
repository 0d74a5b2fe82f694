"""The measures, in the order in which they run and are printed."""

from benchmarks.measures import (
    arrays,
    command_startup,
    hosts_durable,
    hosts_link,
    hosts_map,
    hosts_restart,
    hosts_roundtrip,
    hosts_submit,
    input_memory,
    lanes,
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
_HOSTS = (hosts_submit, hosts_roundtrip, hosts_map, hosts_durable, hosts_link, hosts_restart, lanes)

MEASURES: dict[str, Measure] = {module.MEASURE.name: module.MEASURE for module in (*_LIBRARIES, *_COMMANDS, *_HOSTS)}

__all__ = ["MEASURES"]
