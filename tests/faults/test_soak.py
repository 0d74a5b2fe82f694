"""Nothing rises: the soak of the benchmarks in a short form, and that it would notice.

The full length is `python -m benchmarks.soak`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import support

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (REPOSITORY / "benchmarks").is_dir(), reason="the benchmarks are not here")


@pytest.mark.parametrize("part", ["executors", "jobs", "crashes"])
def test_row_24_nothing_rises(part: str) -> None:
    """Descriptors, threads, children and files are what they were; what closing leaves is nothing."""
    done = support.run_python("-m", "benchmarks.soak", "--quick", "--json", "--only", part, cwd=REPOSITORY)
    assert (done.code, done.err) == (0, ""), done.out
    [document] = json.loads(done.out)["parts"]
    assert document["left"] == []
    quantities = {quantity["kind"]: quantity for quantity in document["quantities"]}
    assert {"descriptors", "threads", "children", "files", "resident"} <= set(quantities)
    assert all(quantity["flat"] for quantity in quantities.values())


@pytest.mark.parametrize(
    ("kind", "values", "flat"),
    [
        ("descriptors", [30] * 20, True),
        ("descriptors", [30, 28] * 10, True),
        ("descriptors", [30] * 19 + [31], False),
        ("descriptors", list(range(30, 50)), False),
        ("workers' threads", [8] * 10 + [9] * 10, False),
        ("resident", [30 * 2**20 + 2**18 * number for number in range(20)], False),
        ("workers' resident", [30 * 2**20 + 2**18 * number for number in range(20)], False),
        ("resident", [20 * 2**20] * 5 + [30 * 2**20] * 15, True),  # caches have been filled
        ("resident", [30 * 2**20] * 18 + [90 * 2**20, 30 * 2**20], True),  # a peak
    ],
)
def test_what_rises_is_noticed(monkeypatch: pytest.MonkeyPatch, kind: str, values: list[int], flat: bool) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.soak import GROWTH_LIMIT
    from benchmarks.watching import Quantity, Series

    series = Series(list(range(len(values))), values, most=0)
    quantity = Quantity.of(kind, series, GROWTH_LIMIT)
    assert quantity.flat == flat
    assert (quantity.start, quantity.end, quantity.maximum) == (values[0], values[-1], max(values))
    assert ("RISES" in quantity.line()) != flat


def test_what_is_left_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks import soak

    def untidy(count: int, folder: str) -> Any:
        (Path(folder) / "forgotten").touch()
        return 1.0, soak.Watcher(dict, 0.0)

    monkeypatch.setitem(soak.PARTS, "jobs", untidy)
    monkeypatch.setenv("TMPDIR", os.environ["TMPDIR"])  # it is given back: the soak sets its own
    document = soak.run_here("jobs", 1)
    assert document["left"] == ["forgotten"]
    assert not document["flat"]
