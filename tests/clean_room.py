"""Fixtures for tests with real processes: each must leave nothing behind, no thread, child process or directory."""

import threading
from collections.abc import Iterator

import pytest
import support

from ztasks import Executor


@pytest.fixture(scope="session", autouse=True)
def _own_tmpdir() -> Iterator[None]:
    with support.short_tmpdir():
        yield


@pytest.fixture(autouse=True)
def _nothing_left(_own_tmpdir: None) -> Iterator[None]:
    before = support.belongings()
    yield
    support.check_nothing_left(before)


@pytest.fixture(scope="module")
def shared(_own_tmpdir: None) -> Iterator[Executor]:
    """An executor for tests that do it no harm."""
    executor = Executor(max_workers=2)  # no `with`: that would make it the one of all tasks
    try:
        called = threading.Event()
        future = executor.submit(pow, 2, 2)
        future.add_done_callback(lambda done: called.set())  # its threads and workers are there when a test begins
        support.wait_for(lambda: called.is_set() and len(support.workers()) >= 2, "two workers")
        yield executor
    finally:
        executor.shutdown()
