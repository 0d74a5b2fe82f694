"""The signals that end a run, once and twice, as the thread that carries it out sees them."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from ztasks.runs import interrupt
from ztasks.runs.interrupt import Stopper


class Calls:
    """What the stopper has called, in order."""

    def __init__(self) -> None:
        self.made: SimpleQueue[str] = SimpleQueue()

    def stopper(self, **how: Any) -> Stopper:
        return Stopper(
            *(lambda name=name: self.made.put(name) for name in ("drain", "kill", "last words")), lambda: 130, **how
        )

    def next(self) -> str:
        return self.made.get(timeout=10)


def press(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


DRAINING = [signal.SIGINT, signal.SIGTERM]
ALL = [*DRAINING, signal.SIGHUP]


@pytest.mark.parametrize("first", DRAINING)
@pytest.mark.parametrize("second", ALL)
def test_the_first_drains_and_the_second_kills(first: signal.Signals, second: signal.Signals) -> None:
    calls = Calls()
    with calls.stopper() as stopper:
        assert not stopper.interrupted
        press(first)
        assert calls.next() == "drain"
        assert stopper.interrupted
        assert not stopper.killed.is_set()
        press(second)
        assert calls.next() == "kill"
        assert stopper.killed.is_set()
        assert stopper.signal == first
        press(second)
    assert calls.made.empty()


def test_a_terminal_that_goes_away_kills() -> None:
    calls = Calls()
    with calls.stopper() as stopper:
        press(signal.SIGHUP)
        assert calls.next() == "kill"
        assert stopper.signal == signal.SIGHUP
        press()
    assert calls.made.empty()


@pytest.mark.parametrize("number", ALL)
def test_a_signal_after_abandoning_only_counts_for_the_exit_code(number: signal.Signals) -> None:
    calls = Calls()
    with calls.stopper() as stopper:
        stopper.abandon()
        assert calls.next() == "kill"
        press(number)
    assert stopper.signal == number
    assert calls.made.empty()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_outside_of_a_run_a_signal_ends_what_goes_on(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before, closed = signal.getsignal(number), []
    with interrupt.ended_by_signal() as ending:
        try:
            press(number)
            raise AssertionError("it goes on")
        except Exception as error:  # it is none
            raise AssertionError from error
        finally:
            closed.append(True)
    assert ending.exit_code == 128 + number
    assert closed == [True]
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err == f"ztasks: {interrupt.ENDED_BY[number]}\n"


def test_without_a_signal_nothing_ends() -> None:
    with interrupt.ended_by_signal() as ending:
        pass
    assert ending.exit_code == 0


def test_within_it_a_run_sees_to_its_signals_itself() -> None:
    calls = Calls()
    with interrupt.ended_by_signal() as ending:
        with calls.stopper():
            press(signal.SIGTERM)
            assert calls.next() == "drain"
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert ending.exit_code == 0


def test_abandon_kills_without_an_interrupt() -> None:
    calls = Calls()
    with calls.stopper() as stopper:
        stopper.abandon()
        assert calls.next() == "kill"
    assert not stopper.interrupted


@pytest.mark.parametrize("number", ALL)
def test_the_handler_is_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Calls().stopper():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ALL)
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupt.ended_by_signal(), Calls().stopper():
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_an_end_that_takes_too_long_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: SimpleQueue[int] = SimpleQueue()
    forced = threading.Event()

    def end_by_force(code: int) -> None:
        codes.put(code)
        forced.set()

    monkeypatch.setattr(interrupt, "KILL_SECONDS", 0.01)
    monkeypatch.setattr(os, "_exit", end_by_force)
    calls = Calls()
    with calls.stopper():
        press()
        assert calls.next() == "drain"
        press()
        assert forced.wait(10)
    assert [calls.next(), calls.next()] == ["kill", "last words"]
    assert codes.get(timeout=10) == 130


def test_an_end_in_a_program_of_the_users_is_not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    forced: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr(interrupt, "KILL_SECONDS", 0.0)
    monkeypatch.setattr(interrupt, "ABANDON_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", forced.put)
    calls = Calls()
    with calls.stopper(force=False) as stopper:
        press()
        assert calls.next() == "drain"
        press()
        assert calls.next() == "kill"
        assert stopper.killed.is_set()
        press()
        stopper.abandon()
    assert forced.empty()
    assert calls.made.empty()


def test_only_the_signals_that_it_is_given_are_heeded() -> None:
    before = signal.getsignal(signal.SIGTERM)
    calls = Calls()
    with calls.stopper(numbers=(signal.SIGINT,)):
        assert signal.getsignal(signal.SIGTERM) is before
        press()
        assert calls.next() == "drain"
    assert calls.made.empty()


@pytest.mark.skipif(not os.path.exists("/proc/self/syscall"), reason="only Linux tells what a thread waits for")
def test_a_main_thread_that_is_stuck_where_no_handler_is_called() -> None:
    """It blocks the signal and waits: another thread is given it, but Python calls handlers in the main thread only."""
    calls, (reading, writing) = Calls(), os.pipe()

    def press_and_tell() -> None:
        while Path(f"/proc/self/task/{os.getpid()}/syscall").read_text().split()[1:2] != [hex(reading)]:
            pass
        press()
        with contextlib.suppress(Empty):
            heard.append(calls.next())
        os.write(writing, b"x")

    heard: list[str] = []
    with calls.stopper():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            thread = threading.Thread(target=press_and_tell)
            thread.start()
            os.read(reading, 1)
            thread.join()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.close(reading)
    os.close(writing)
    assert heard == ["drain"]
