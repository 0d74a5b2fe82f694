"""One run: every input becomes a job, every job a record.

    inputs --feeding thread--> stream --> workers --> stream --main thread--> records --> output

The feeding thread notes which input each job has, and makes the records of inputs that are no call. The main thread
makes all others. An input that was read has exactly one record at the end, unless the run is killed.
"""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ztasks.cli.activity import activity
from ztasks.cli.inputs import BadInput, Inputs, Total, Unreadable
from ztasks.cli.interrupt import ENDED_BY, SIGNALLED, Stopper
from ztasks.cli.output import RecordWriter
from ztasks.cli.progress import Pace, Plain, Reporter, status_text
from ztasks.cli.records import Record, Recorder, from_outcome, from_unreadable
from ztasks.cli.summary import Tally, duration_text
from ztasks.errors import HeadFailed, WorkersCannotStart

if TYPE_CHECKING:
    from ztasks.executor import Executor
    from ztasks.stream import Stream

OK: Final = 0
SOME_FAILED: Final = 1
READER_GONE: Final = 141
"""128 + SIGPIPE, as shells have it: nobody reads the output any more."""

AFTER_KILL: Final = 0.3
"""Seconds for the records of what a kill ends; there may be very many of them."""


class Run:
    """The state of a run. `run()` it once, in the main thread."""

    def __init__(
        self,
        executor: Executor,
        stream: Stream,
        recorder: Recorder,
        inputs: Inputs,
        writer: RecordWriter,
        reporter: Reporter,
    ) -> None:
        self.tally = Tally()
        self.problems: list[str] = []
        """What went wrong beside jobs that failed; each is a sentence."""
        self._executor = executor
        self._recorder = recorder
        self._inputs = inputs
        self._reporter = reporter
        self._stream = stream
        self._writer = writer
        writer.on_error = self._output_failed
        self._sent: dict[int, tuple[int, Any]] = {}
        """By the stream's index: the input's index and itself, of jobs that have not ended."""
        self._lock = threading.Lock()
        """Held to encode and count a record."""
        self._pace = Pace(monotonic())
        self._began = monotonic()
        self.seconds = 0.0
        """Wall time, from the start of the workers to the last outcome."""
        self.stopper = Stopper(self._drain, self._kill, self._last_words, self.exit_code)

    def run(self) -> None:
        """Run all inputs; then the executor is closed and all records are written."""
        feeder = threading.Thread(target=self._feed, name="ztasks-feed")
        feeder.start()
        try:
            self._collect()
            self.seconds = monotonic() - self._began
        finally:
            self._inputs.stop()
            self._stream.cancel()
            self._writer.release()
            self._executor.shutdown(cancel_futures=True)
            feeder.join()
            self._writer.close()

    def exit_code(self) -> int:
        """Return the exit code as of now."""
        error = self._writer.error
        if error is not None and error.errno == errno.EPIPE:
            return READER_GONE
        if self.stopper.signal is not None:
            return SIGNALLED + self.stopper.signal
        return SOME_FAILED if self.tally.failed or self.problems else OK

    @property
    def reader_gone(self) -> bool:
        """Whether whoever read the output has closed it."""
        return self.exit_code() == READER_GONE

    @property
    def ended_by(self) -> str | None:
        """The word for the signal that ended it, if one did."""
        number = self.stopper.signal
        return None if number is None else ENDED_BY[number]

    def look(self, now: float) -> tuple[str, int, Total | None]:
        """Return the status for the display."""
        done, total = self.tally.ended, self._inputs.total()
        self._pace.note(now, done)
        text = status_text(self.tally, total, self._pace.rate(now, done), activity(self._executor))
        return text, done, total

    # --- the feeding thread ---

    def _feed(self) -> None:
        try:
            self._stream.feed(self._calls())
        except BadInput as error:
            self.problems.append(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs that were fed go on, and it is told
            if self.stopper.killed.is_set():
                return  # the executor went away under it
            self.problems.append(f"reading the input stopped: {type(error).__name__}: {error}")

    def _calls(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        sent, number = self._sent, 0
        for index, entry in enumerate(self._inputs):
            if isinstance(entry, Unreadable):
                self._finish(from_unreadable(index, *entry), patient=True)
                continue
            args, kwargs, sent_input = entry
            sent[number] = (index, sent_input)
            number += 1
            yield args, kwargs

    # --- the main thread ---

    def _collect(self) -> None:
        """Make a record of each job that ends."""
        sent, killed = self._sent, self.stopper.killed
        until: float | None = None
        for outcome in self._stream:
            index, input_ = sent.pop(outcome.index)
            self._finish(from_outcome(index, input_, outcome))
            if type(outcome.exception) in (WorkersCannotStart, HeadFailed):
                self._give_up(str(outcome.exception))
            if killed.is_set():
                until = until or monotonic() + AFTER_KILL
                if monotonic() > until:
                    return

    def _finish(self, record: Record, *, patient: bool = False) -> None:
        """Count a record and write it."""
        with self._lock:
            line = self._recorder.line(record)
            self.tally.add(record)
        self._writer.write(record.index, line, patient=patient)

    def _give_up(self, why: str) -> None:
        """No job can be run: do not read an endless input to its end."""
        if not self.problems:
            self.problems.append(why)
            self._inputs.stop()
            self._stream.cancel()

    # --- other threads ---

    def _output_failed(self) -> None:
        """Whoever wrote to the output met an error."""
        error = self._writer.error
        assert error is not None
        if error.errno != errno.EPIPE:
            self.problems.append(f"writing the output failed: {error}; the records since then are lost")
        self.stopper.abandon()

    def _drain(self) -> None:
        """The first Ctrl-C, or SIGTERM."""
        self._inputs.stop()
        self._stream.cancel()
        self._writer.release()
        running, _, longest = activity(self._executor)
        what = f"; {running} running, the longest for {duration_text(longest)}" if running else ""
        again = (
            "press Ctrl-C again to kill them" if self.stopper.signal == signal.SIGINT else "a second SIGTERM kills them"
        )
        cure = f"; {again}" if running else ""
        self._reporter.say(f"{self.ended_by}: no new jobs{what}{cure}")

    def _kill(self) -> None:
        """The second Ctrl-C, SIGHUP, or nobody wants the output."""
        self._inputs.stop()
        self._stream.cancel()  # first: the stream then ends, instead of raising that it was cut off
        self._writer.release()
        self._executor.kill()

    def _last_words(self) -> None:
        """The process is about to be ended by force."""
        self._reporter.restore_terminal()
        for problem in self.problems:
            Plain().print(f"ztasks: error: {problem}\n".encode(errors="replace"))
