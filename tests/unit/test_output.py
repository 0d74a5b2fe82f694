"""The writer of records: as they come, in order if asked, and what happens when writing fails."""

import errno
import os
import threading

import pytest

from ztasks.runs import output
from ztasks.runs.output import RecordWriter, write_all


class Sink:
    """Collects what is written; `fails` makes it raise."""

    def __init__(self) -> None:
        self.data = b""
        self.writes = 0
        self.fails: OSError | None = None
        self.written = threading.Event()

    def __call__(self, data: bytes) -> None:
        if self.fails is not None:
            raise self.fails
        self.data += data
        self.writes += 1
        self.written.set()


def test_a_line_that_comes_alone_is_written_at_once() -> None:
    sink = Sink()
    writer = RecordWriter(sink, ordered=False)
    writer.write(0, b"a\n")
    assert sink.data == b"a\n"
    writer.close()


def test_a_line_that_comes_soon_after_is_written_without_another() -> None:
    sink = Sink()
    writer = RecordWriter(sink, ordered=False)
    writer.write(0, b"a\n")
    sink.written.clear()
    writer.write(1, b"b\n")
    assert sink.written.wait(10)
    assert sink.data == b"a\nb\n"
    writer.close()


def test_floods_are_written_together() -> None:
    sink = Sink()
    writer = RecordWriter(sink, ordered=False)
    for index in range(100_000):
        writer.write(index, b"x\n")
    writer.close()
    assert len(sink.data) == 200_000
    assert sink.writes < 1000


def test_in_order() -> None:
    sink = Sink()
    writer = RecordWriter(sink, ordered=True)
    for index in (3, 1, 0, 2, 5):
        writer.write(index, b"%d\n" % index)
    writer.close()
    assert sink.data == b"0\n1\n2\n3\n5\n", "what waits for a line that never comes is written at the end"


def test_the_patient_wait_while_very_many_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_EARLY", 10)
    sink = Sink()
    writer = RecordWriter(sink, ordered=True)
    through = threading.Event()

    def read_on() -> None:
        for index in range(1, 21):
            writer.wait()
            writer.write(index, b"%d\n" % index)
        through.set()

    thread = threading.Thread(target=read_on)
    thread.start()
    assert not through.wait(0.05)
    writer.write(0, b"0\n")
    assert through.wait(10)
    thread.join()
    writer.close()
    assert sink.data == b"".join(b"%d\n" % index for index in range(21))


def test_they_wait_also_for_lines_of_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_EARLY_BYTES", 100)
    writer = RecordWriter(Sink(), ordered=True)
    writer.write(1, b"x" * 99)
    assert not writer._is_full()
    writer.write(2, b"\n")
    assert writer._is_full()
    writer.write(0, b"\n")
    assert not writer._is_full()
    writer.close()


def test_release_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_EARLY", 1)
    writer = RecordWriter(Sink(), ordered=True)
    writer.write(1, b"x\n")
    thread = threading.Thread(target=writer.wait)
    thread.start()
    writer.release()
    thread.join(10)
    assert not thread.is_alive()
    writer.close()


def test_after_an_error_nothing_more_is_written_and_it_is_told_once() -> None:
    sink, told = Sink(), []
    writer = RecordWriter(sink, ordered=False)
    writer.on_error = lambda: told.append(writer.error)
    sink.fails = OSError(errno.ENOSPC, "full")
    writer.write(0, b"a\n")
    sink.fails = None
    writer.write(1, b"b\n")
    writer.close()
    assert told == [writer.error]
    assert writer.error is not None
    assert writer.error.errno == errno.ENOSPC
    assert sink.data == b""


def test_all_is_written_to_a_pipe_that_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = bytes(range(256)) * 4096
    thread = threading.Thread(target=lambda: (write_all(writing, data), os.close(writing)))
    thread.start()
    with os.fdopen(reading, "rb") as file:
        assert file.read() == data
    thread.join()


def test_in_order_nothing_is_written_for_what_is_skipped() -> None:
    sink = Sink()
    writer = RecordWriter(sink, ordered=True)
    for index in (1, 3):
        writer.skip(index)
    for index in (4, 2, 0):
        writer.write(index, b"%d\n" % index)
    assert writer._early == {}, "none waits for the end of the run"
    writer.close()
    assert sink.data == b"0\n2\n4\n"


def test_without_order_a_skip_changes_nothing() -> None:
    sink = Sink()
    writer = RecordWriter(sink, ordered=False)
    writer.skip(0)
    writer.write(5, b"5\n")
    writer.close()
    assert sink.data == b"5\n"


def test_skipping_waits_for_its_turn_as_reading_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "MAX_EARLY", 10)
    writer = RecordWriter(Sink(), ordered=True)
    through = threading.Event()

    def skip_all() -> None:
        for index in range(1, 1000):
            writer.wait()
            writer.skip(index)
        through.set()

    thread = threading.Thread(target=skip_all)
    thread.start()
    assert not through.wait(0.05)
    writer.write(0, b"0\n")
    assert through.wait(10)
    thread.join()
    assert writer._early == {}
    writer.close()


def test_what_comes_at_the_end_may_fail_as_a_write() -> None:
    def finish() -> None:
        raise OSError(errno.ESTALE, "replaced")

    sink, told = Sink(), []
    writer = RecordWriter(sink, ordered=False, finish=finish)
    writer.on_error = lambda: told.append(writer.error)
    writer.write(0, b"a\n")
    writer.close()
    assert sink.data == b"a\n"
    assert [error.errno for error in told if error] == [errno.ESTALE]


def test_an_error_is_told_also_when_it_comes_from_the_thread_that_writes_late() -> None:
    sink, told = Sink(), threading.Event()
    writer = RecordWriter(sink, ordered=False)
    writer.on_error = told.set
    writer.write(0, b"a\n")
    sink.fails = OSError(errno.EPIPE, "gone")
    writer.write(1, b"b\n")
    assert told.wait(10)
    writer.close()
    assert sink.data == b"a\n"
