"""When a run stops early because too much fails. Decides only: it is told what has been counted."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from ztasks.errors import InvalidOption
from ztasks.units import shown

Halt = Literal["soon", "now"]
"""`soon`: what runs is finished; `now`: it is killed."""

LEAST_FAILURES: Final = 3
"""With a share, so many failures there must be at least: the first job that fails is 100% of those that have ended."""


class FailureLimit(NamedTuple):
    """How many jobs may fail."""

    number: int | None = None
    percent: float | None = None

    def reached(self, failed: int, ended: int) -> bool:
        """Tell whether the run shall stop, after so many failures of so many jobs that have ended."""
        if self.number is not None:
            return failed >= self.number
        if self.percent is None or failed < LEAST_FAILURES:
            return False
        return 100.0 * failed >= self.percent * ended


def parse_limit(value: int | str | None, what: str) -> FailureLimit | None:
    """Read `10`, `"10"` or `"5%"`; raises InvalidOption."""
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return FailureLimit(number=value)
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(%?)\s*", value)
        if found and found[2] and 0 < float(found[1]) <= 100:
            return FailureLimit(percent=float(found[1]))
        if found and not found[2] and found[1].isdecimal() and int(found[1]) >= 1:
            return FailureLimit(number=int(found[1]))
    raise InvalidOption(f"{what} must be a number of failures, such as 10, or a share, such as 5%, not {shown(value)}")
