"""The counts of a run and the closing summary."""

from typing import Any

import pytest

from ztasks.cli.records import JobError, Record
from ztasks.cli.summary import Tally, duration_text, input_text, one_line, rate_text, summarise


def record(index: int = 0, status: str = "ok", error: str = "", seconds: float = 0.0, input_: Any = "x") -> Record:
    job_error = JobError(error, f"message {index}", None) if error else None
    started = None if status in ("cancelled", "lost") else 1.0
    return Record(1, index, "k", input_, not error, status, None, job_error, started, seconds, 1, "h", 1, None)


def tally_of(*records: Record) -> Tally:
    tally = Tally()
    for each in records:
        tally.add(each)
    return tally


def test_counts() -> None:
    tally = tally_of(
        record(0),
        record(1, "failed", "ValueError"),
        record(2, "timeout", "ztasks.JobTimeout"),
        record(3, "lost", "ztasks.WorkerLost"),
        record(4, "cancelled", "concurrent.futures.CancelledError"),
    )
    assert (tally.done, tally.ended, tally.failed) == (5, 4, 3)
    assert tally.statuses == {"ok": 1, "failed": 1, "timeout": 1, "lost": 1, "cancelled": 1}
    assert set(tally.failures) == {"ValueError", "ztasks.JobTimeout", "ztasks.WorkerLost"}


def test_the_slowest_jobs_are_kept() -> None:
    tally = tally_of(*(record(index, seconds=float(index * 7 % 10), input_={"n": index}) for index in range(10)))
    assert [(seconds, input_["n"]) for seconds, _, input_ in tally.slowest()] == [(9.0, 7), (8.0, 4), (7.0, 1)]


def test_equally_slow_jobs_do_not_compare_their_inputs() -> None:
    assert len(tally_of(*(record(index, seconds=1.0, input_={}) for index in range(10))).slowest()) == 3


def test_the_summary_says_all_of_it() -> None:
    tally = tally_of(
        *(record(index, seconds=1.0) for index in range(8)),
        record(8, "failed", "ValueError", 2.0, "bad.py"),
        record(9, "failed", "ValueError", 0.5, "worse.py"),
        record(10, "failed", "OSError", 0.5, "gone.py"),
    )
    assert summarise(tally, 10.0, 2, ["a note"]).splitlines() == [
        "11 jobs: 8 ok, 3 failed",
        "  10 s wall time, 1.1/s; 2 workers, 55% of their time in jobs",
        "  2 x ValueError, such as bad.py: message 8",
        "  1 x OSError, such as gone.py: message 10",
        "  slowest: bad.py (2.0 s), x (1.0 s), x (1.0 s)",
        "  a note",
    ]


def test_the_summary_of_nothing() -> None:
    assert summarise(Tally(), 0.0, 1, []) == "0 jobs: no input"


def test_the_summary_of_one() -> None:
    assert summarise(tally_of(record(seconds=0.5)), 0.5, 1, []).splitlines() == [
        "1 job: 1 ok",
        "  500 ms wall time, 2.0/s; 1 worker, 100% of their time in jobs",
    ]


def test_a_type_for_each_failure_does_not_fill_the_memory() -> None:
    tally = tally_of(*(record(index, "failed", f"Error{index}") for index in range(1000)))
    assert len(tally.failures) == 101
    assert tally.failures["other types"] == 900
    lines = summarise(tally, 1.0, 1, []).splitlines()
    assert lines[2].startswith("  900 x other types")
    assert "  and 91 more types of failure" in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (0.00048, "480 us"),
        (0.035, "35 ms"),
        (0.9999, "1.0 s"),
        (1.24, "1.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_for_reading(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_rates_for_reading() -> None:
    assert [rate_text(rate) for rate in (51200.4, 12.0, 4.12, 0.2)] == ["51,200/s", "12/s", "4.1/s", "12.0/min"]


def test_text_of_others_stays_on_its_line() -> None:
    assert one_line(" a\nb\x1b[31m\udcff ", 50) == r"a\nb\x1b[31m\udcff"
    assert one_line("x" * 1000, 11) == "xxxx...xxxx"
    assert input_text({"a": [1]}) == "{'a': [1]}"
    assert input_text("") == "''"
