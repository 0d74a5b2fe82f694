"""The status, its rate, and the thread that shows it. Where a display is needed it is a list."""

import os
import threading

import pytest

from ztasks.runs import progress
from ztasks.runs.inputs import Total
from ztasks.runs.progress import Activity, Pace, Plain, Reporter, make_display, status_text
from ztasks.runs.summary import Tally

BUSY = Activity(2, 2, 1.0)


def tally(done: int, failed: int = 0, cancelled: int = 0, skipped: int = 0) -> Tally:
    counts = Tally()
    counts.done = done
    counts.skipped = skipped
    counts.statuses.update(ok=done - failed - cancelled, failed=failed, cancelled=cancelled)
    return counts


@pytest.mark.parametrize(
    ("counts", "total", "rate", "text"),
    [
        (tally(0), None, None, "0 done, 2/2 workers busy"),
        (tally(1234), None, 41.0, "1,234 done, 41/s, 2/2 workers busy"),
        (
            tally(312, 3),
            Total(2000, exact=True),
            41.0,
            "312/2,000 done (16%), 3 failed, 41/s, ETA 41 s, 2/2 workers busy",
        ),
        (tally(10), Total(40, exact=False), 1.0, "10/~40 done (~25%), 1.0/s, ETA ~30 s, 2/2 workers busy"),
        (tally(40), Total(40, exact=True), 1.0, "40/40 done (100%), 1.0/s, 2/2 workers busy"),
        (tally(9, cancelled=4), Total(9, exact=True), None, "5/9 done (56%), 4 cancelled, 2/2 workers busy"),
        (tally(0), Total(0, exact=True), None, "0/0 done, 2/2 workers busy"),
        (
            tally(50, 1, skipped=1900),
            Total(100, exact=True),
            2.0,
            "50/100 done (50%), 1 failed, 1,900 skipped, 2.0/s, ETA 25 s, 2/2 workers busy",
        ),
    ],
)
def test_the_status(counts: Tally, total: Total | None, rate: float | None, text: str) -> None:
    assert status_text(counts, total, rate, BUSY) == text


def test_the_rate_is_that_of_the_last_seconds() -> None:
    pace = Pace(100.0)
    assert pace.rate(100.0, 0) is None
    assert pace.rate(100.1, 5) is None, "too early to tell"
    for second in range(1, 11):
        pace.note(100.0 + second, 10 * second)
    assert pace.rate(110.0, 100) == pytest.approx(10.0)
    for second in range(11, 60):
        pace.note(100.0 + second, 100 + second - 10)
    assert pace.rate(159.0, 149) == pytest.approx(1.0, rel=0.1)


def test_the_rate_remembers_little() -> None:
    pace = Pace(0.0)
    for step in range(100_000):
        pace.note(step / 1000, step)
    assert len(pace._points) < 100


class Shown:
    """A display that keeps what it is given."""

    is_bar = False

    def __init__(self) -> None:
        self.printed: list[bytes] = []
        self.statuses: list[str] = []
        self.closed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.two = threading.Event()

    def print(self, data: bytes) -> None:
        assert self.gate.wait(10)
        self.printed.append(data)

    def status(self, text: str, done: int, total: Total | None) -> None:
        self.statuses.append(text)
        if len(self.statuses) == 2:
            self.two.set()

    def close(self) -> None:
        self.closed += 1


def test_text_is_shown_in_order_and_in_whole_lines() -> None:
    shown = Shown()
    reporter = Reporter(shown)
    for number in range(100):
        reporter.print(f"line {number}\n".encode())
    reporter.print(b"no end")
    reporter.say("done")
    reporter.close()
    expected = b"".join(f"line {number}\n".encode() for number in range(100)) + b"no end\nztasks: done\n"
    assert b"".join(shown.printed) == expected
    assert shown.closed == 1
    assert shown.statuses == []


def test_the_status_is_shown_now_and_then() -> None:
    shown = Shown()
    reporter = Reporter(shown, pauses=(0.0, 0.001))
    reporter.watch(lambda now: ("status", 1, None))
    assert shown.two.wait(10)
    reporter.close()


def test_whoever_writes_faster_than_is_shown_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MAX_WAITING", 1000)
    shown = Shown()
    shown.gate.clear()
    reporter = Reporter(shown)
    through = threading.Event()

    def flood() -> None:
        for _ in range(10):
            reporter.print(b"x" * 500)
        through.set()

    thread = threading.Thread(target=flood)
    thread.start()
    assert not through.wait(0.05)
    reporter.say("but our own words do not wait")
    shown.gate.set()
    assert through.wait(10)
    thread.join()
    reporter.close()
    assert sum(map(len, shown.printed)) == 10 * 501 + len("ztasks: but our own words do not wait\n")


def test_no_bar_without_a_terminal() -> None:
    with open("/dev/null", "w") as file:
        assert not make_display(bar=True, file=file.fileno()).is_bar


def test_nobody_to_read_it_is_no_reason_to_stop() -> None:
    with pytest.raises(OSError):
        os.write(999_999, b"lost\n")
    Plain(file=999_999).print(b"lost\n")  # and yet it returns
