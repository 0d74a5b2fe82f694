"""Ctrl-C once and twice, as the thread that carries it out sees it."""

import os
import signal
import threading
from queue import SimpleQueue

import pytest

from ztasks.cli import interrupt
from ztasks.cli.interrupt import Stopper


class Calls:
    """What the stopper has called, in order."""

    def __init__(self) -> None:
        self.made: SimpleQueue[str] = SimpleQueue()

    def stopper(self) -> Stopper:
        return Stopper(
            *(lambda name=name: self.made.put(name) for name in ("drain", "kill", "last words")), lambda: 130
        )

    def next(self) -> str:
        return self.made.get(timeout=10)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_drains_and_the_second_kills() -> None:
    calls = Calls()
    with calls.stopper() as stopper:
        assert not stopper.interrupted
        press()
        assert calls.next() == "drain"
        assert stopper.interrupted
        assert not stopper.killed.is_set()
        press()
        assert calls.next() == "kill"
        assert stopper.killed.is_set()
        press()
    assert calls.made.empty()


def test_abandon_kills_without_an_interrupt() -> None:
    calls = Calls()
    with calls.stopper() as stopper:
        stopper.abandon()
        assert calls.next() == "kill"
    assert not stopper.interrupted


def test_the_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Calls().stopper():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Calls().stopper():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


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
