"""The counts of a run and the closing summary."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from ztasks.runs.records import JobError, Record
from ztasks.runs.summary import Example, RunSummary, SlowJob, Tally


def record(index: int = 0, status: str = "ok", error: str = "", seconds: float = 0.0, input_: Any = "x") -> Record:
    job_error = JobError(error, f"message {index}", None) if error else None
    started = None if status in ("cancelled", "lost") else 1.0
    return Record(1, index, "k", input_, not error, status, None, job_error, started, seconds, 1, "h", 1, None)


def tally_of(*records: Record) -> Tally:
    tally = Tally()
    for each in records:
        tally.add(each)
    return tally


def summarise(tally: Tally, seconds: float, workers: int, notes: Sequence[str]) -> str:
    return str(tally.summary(seconds, workers, None, [], notes))


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
    assert [(job.seconds, job.place, job.input) for job in tally.slowest()] == [
        (9.0, 7, {"n": 7}),
        (8.0, 4, {"n": 4}),
        (7.0, 1, {"n": 1}),
    ]


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


def test_the_summary_tells_what_was_skipped() -> None:
    tally = tally_of(record(seconds=0.5))
    tally.skipped = 1200
    assert summarise(tally, 1.0, 1, []).splitlines()[0] == "1 job: 1 ok, 1,200 skipped"
    nothing = Tally()
    nothing.skipped = 3
    assert summarise(nothing, 1.0, 1, ["a note"]) == "0 jobs: 3 skipped\n  a note"


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


# --- the summary as a value ---


def test_the_summary_has_all_of_it() -> None:
    tally = tally_of(
        record(0, seconds=2.0, input_="slow"),
        record(1, "failed", "ValueError", 0.5, "bad"),
        record(2, "cancelled", "concurrent.futures.CancelledError"),
    )
    tally.skipped = 4
    summary = tally.summary(10.0, 2, "stopped after 1 failure", ["a problem"], ["a note"])
    assert summary == RunSummary(
        statuses={"ok": 1, "failed": 1, "timeout": 0, "lost": 0, "cancelled": 1},
        skipped=4,
        attempts=3,
        seconds=10.0,
        busy_seconds=2.5,
        workers=2,
        failures={"ValueError": 1},
        examples={"ValueError": Example("bad", "message 1")},
        slowest=[SlowJob(2.0, 0, "slow"), SlowJob(0.5, 1, "bad")],
        stopped="stopped after 1 failure",
        problems=["a problem"],
        notes=["a note"],
    )
    assert (summary.jobs, summary.failed, summary.ok) == (3, 1, False)


def test_a_summary_is_that_of_its_moment() -> None:
    tally = tally_of(record(0))
    summary = tally.summary(1.0, 1, None, [], [])
    tally.add(record(1, "failed", "ValueError"))
    assert (summary.jobs, summary.failures, summary.examples) == (1, {}, {})


@pytest.mark.parametrize(
    ("records", "stopped", "problems", "ok"),
    [
        ([], None, [], True),
        ([record()], None, [], True),
        ([record(), record(1, "lost", "ztasks.WorkerLost")], None, [], False),
        ([record()], "stopped", [], False),
        ([record()], None, ["the disk is full"], False),
    ],
)
def test_when_a_run_was_ok(records: list[Record], stopped: str | None, problems: list[str], ok: bool) -> None:
    assert tally_of(*records).summary(1.0, 1, stopped, problems, []).ok == ok


def test_inputs_are_shown_as_they_came_also_those_that_are_no_utf8() -> None:
    raw = msgspec.Raw(b'{"path":"caf\\udce9"}')
    summary = tally_of(record(0, "failed", "OSError", 1.0, raw)).summary(1.0, 1, None, [], [])
    assert summary.slowest == [SlowJob(1.0, 0, {"path": "caf\udce9"})]
    assert summary.examples == {"OSError": Example({"path": "caf\udce9"}, "message 0")}
    assert "{'path': 'caf\\udce9'}" in str(summary)


def test_the_example_is_of_the_first_input_whichever_ended_first() -> None:
    tally = tally_of(*(record(index, "failed", "ValueError", input_=index) for index in (3, 1, 2)))
    assert tally.examples["ValueError"] == Example(1, "message 1")
