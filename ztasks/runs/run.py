"""One run: every input becomes a job, every job a record.

    inputs --feeding thread--> stream --> workers --> stream --main thread--> records --> output

The feeding thread gives each input its key, passes over what the output has already, notes which input each job has,
and makes the records of inputs that are no call. The main thread makes all others. Each input that has been given to
the stream has exactly one record at the end, unless the run is killed.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ztasks.runs.encoding import Encoder, type_name
from ztasks.runs.halting import FailureLimit, Halt
from ztasks.runs.inputs import BadInput, Call, Inputs, Total, Unreadable
from ztasks.runs.job import Tag
from ztasks.runs.keys import Keys
from ztasks.runs.output import RecordWriter
from ztasks.runs.pickles import PickleFile
from ztasks.runs.progress import Activity, Pace, Reporter, status_text
from ztasks.runs.records import (
    FAILURES,
    JobError,
    Record,
    Recorder,
    from_outcome,
    from_unreadable,
    none_can_run,
    plain_input,
)
from ztasks.runs.summary import RunSummary, Tally
from ztasks.runs.text import duration_text, input_text
from ztasks.units import reason

if TYPE_CHECKING:
    from ztasks.outcome import Outcome
    from ztasks.runs.place import Place
    from ztasks.runs.record_file import Found
    from ztasks.stream import Stream

AFTER_KILL: Final = 0.3
"""Seconds for the records of what a kill ends; there may be very many of them."""

FEEDER_SECONDS: Final = 2.0
"""How long an input that does not come to its next item may hold up the end."""


class Rules(NamedTuple):
    """What a run does with what it meets."""

    limit: FailureLimit | None = None
    halt: Halt = "soon"
    strict: bool = False
    """Whether an input that cannot be understood stops the run."""
    skip_failed: bool = False
    """Whether, going on, inputs that have failed are passed over as well."""
    logs: str | None = None
    pickles: str | None = None
    """Where results that JSON cannot hold go; None: they stop the run, and are saved as `unsaved` says."""
    unsaved: str = "ztasks.unsaved.pickle"
    resumable: bool = False
    """Whether the output is a file that a later run can go on with."""


Sent = tuple[int, str, bytes]
"""A job that has not ended: the input's index and key, and the input as JSON."""


class Run:
    """The state of a run. `run()` it once."""

    def __init__(
        self,
        place: Place,
        stream: Stream,
        inputs: Inputs,
        writer: RecordWriter,
        keys: Keys,
        recorder: Recorder,
        rules: Rules,
        *,
        found: Found | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        """`found`: what the output holds already, to go on with; None: everything is run."""
        self.tally = Tally()
        self.problems: list[str] = []
        self.stopped: str | None = None
        """Why it stops early; None if it does not."""
        self.stale = 0
        """Inputs that were skipped although their results are from another version of the task's source."""
        self.killed = threading.Event()
        self.on_output_error: Callable[[], None] = self._kill_aside
        self._place = place
        self._inputs = inputs
        self._stream = stream
        self._writer = writer
        writer.on_error = self._output_failed
        self._keys = keys
        self._recorder = recorder
        self._rules = rules
        self._found = found
        self._reporter = reporter
        self._pickles = PickleFile(
            rules.unsaved if rules.pickles is None else rules.pickles, opened=rules.pickles is not None
        )
        self._shown = Encoder()
        self._sent: dict[int, Sent] = {}
        """By the stream's index: jobs that have not ended."""
        self._lock = threading.Lock()
        """Held to encode and count a record."""
        self._pace = Pace(monotonic())
        self._began = monotonic()
        self._seconds = 0.0
        self._draining = False
        self._met = self._met_failed = 0
        """Inputs that have a record in the output already, and those of them that have not succeeded."""

    def run(self) -> RunSummary:
        """Run all inputs; then the executor is closed and all records are written."""
        feeder = threading.Thread(target=self._feed, name="ztasks-feed", daemon=True)
        feeder.start()
        try:
            self._collect()
            self._seconds = monotonic() - self._began
        finally:
            self._end_input()
            self._place.close()
            feeder.join(FEEDER_SECONDS)
            self._writer.close()
            self._pickles.close()
            if not feeder.is_alive():  # else it may still ask for a key
                self._keys.close()
        return self.summary()

    def close(self) -> None:
        """Release what is open if it has not been run."""
        self._pickles.close()

    def summary(self) -> RunSummary:
        """Return what it has come to by now."""
        return self.tally.summary(self._seconds, self._place.workers, self.stopped, self.problems, list(self._notes()))

    @property
    def unread(self) -> str:
        """What is to be said of the inputs that were not reached."""
        cure = "; --resume goes on" if self._rules.resumable else ""
        return f"inputs that had not been read have no record{cure}"

    @property
    def reader_gone(self) -> bool:
        """Whether whoever read the output has closed it."""
        error = self._writer.error
        return error is not None and error.errno == errno.EPIPE

    def look(self, now: float) -> tuple[str, int, Total | None]:
        """Return the status for the display."""
        done, total = self.tally.ended, None if self._draining else self._inputs.total()
        if total is not None:
            total = Total(max(done, total.number - self.tally.skipped), total.exact)
        self._pace.note(now, done)
        text = status_text(self.tally, total, self._pace.rate(now, done), self.activity())
        return text, done, total

    def activity(self) -> Activity:
        """Return how many workers run a job, of how many, and for how long the longest has been running."""
        return self._place.activity(len(self._sent))

    # --- stopping: any thread ---

    def drain(self) -> None:
        """Start no more jobs; what runs is finished."""
        self._draining = True
        self._end_input()

    def _end_input(self) -> None:
        self._inputs.stop()
        self._stream.cancel()
        self._writer.release()

    def kill(self) -> None:
        """Kill what runs as well."""
        self.killed.set()
        self.drain()  # first: the stream then ends, instead of raising that it was cut off
        self._place.kill()

    def _kill_aside(self) -> None:
        threading.Thread(target=self.kill, name="ztasks-kill", daemon=True).start()

    def stop_early(self, why: str, *, now: bool = False) -> None:
        """Start no more jobs, for a reason of the run's own. Only the first one counts."""
        if self.stopped is None:
            self.stopped = why
            if self._reporter is not None:
                self._reporter.say(f"{why}: {'what runs is killed' if now else 'no new jobs'}")
            if now:
                self.killed.set()
                self._kill_aside()
            else:
                self.drain()

    def _output_failed(self) -> None:
        """Whoever wrote to the output met an error."""
        error = self._writer.error
        assert error is not None
        if error.errno != errno.EPIPE:
            room = "make room, and " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
            cure = f"; {room}go on with --resume" if self._rules.resumable else ""
            self.problems.append(f"writing the output failed: {error}; the records since then are lost{cure}")
        self.stopped = self.stopped or "the output cannot be written"
        self.on_output_error()

    # --- the feeding thread ---

    def _feed(self) -> None:
        try:
            self._stream.feed(self._calls())
        except BadInput as error:
            self.problems.append(str(error))
            self.stopped = self.stopped or "the input ended early"
        except BaseException as error:  # noqa: BLE001 - whatever it is, the jobs that were fed go on, and it is told
            if self.killed.is_set():
                return  # the executor went away under it
            self.problems.append(f"reading the input stopped: {type(error).__name__}: {error}")
            self.stopped = self.stopped or "the input ended early"

    def _calls(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        sent, number, found, logs = self._sent, 0, self._found, self._rules.logs
        next_key, encode = self._keys.next, self._shown.encode
        for index, entry in enumerate(self._inputs):
            self._writer.wait()
            shown = encode(entry.input)
            key = next_key(entry.input, shown)
            if found is not None and self._is_done(found, key.number):
                self._writer.skip(index)
                continue
            text = str(key)
            if type(entry) is Unreadable:
                self._refuse(index, text, shown, entry.message)
                continue
            assert type(entry) is Call
            sent[number] = index, text, shown
            number += 1
            yield (index if logs is None else Tag(index, log_name(text)), *entry.args), entry.kwargs

    def _is_done(self, found: Found, number: int) -> bool:
        """Count an input if it has a record already; tell whether it is passed over."""
        status = found.status(number)
        if status is None:
            return False
        self._met += 1
        self._met_failed += status != "ok"
        done = status == "ok" or (self._rules.skip_failed and status in FAILURES)
        self.tally.skipped += done
        if done and found.is_stale(number):
            self.stale += 1
            if self.stale == 1 and self._reporter is not None:
                self._reporter.say(f"warning: {self.stale_text()}")
        return done

    def stale_text(self) -> str:
        """Say that results are from before a change of the task."""
        return (
            "the task's source has changed since results that are skipped were made. They are kept; to have them made "
            "anew, give --overwrite (or overwrite=True)"
        )

    def _refuse(self, index: int, key: str, shown: bytes, message: str) -> None:
        """Write the record of an input that is no call. With `strict`, raises BadInput."""
        self._finish(from_unreadable(index, key, shown, message))
        if self._rules.strict:
            raise BadInput(f"{message}. With --strict that stops the run: nothing behind it was read.")

    # --- the main thread ---

    def _collect(self) -> None:
        """Make a record of each job that ends."""
        sent, killed = self._sent, self.killed
        until: float | None = None
        for outcome in self._stream:
            self._take(*sent.pop(outcome.index), outcome)
            if killed.is_set():
                until = until or monotonic() + AFTER_KILL
                if monotonic() > until:
                    return

    def _take(self, index: int, key: str, shown: bytes, outcome: Outcome[Any]) -> None:
        exception, whole = outcome.exception, True
        if exception is None:
            result, whole = self._recorder.encode_result(outcome.value)
            record = from_outcome(index, key, shown, outcome, result)
        else:
            record = from_outcome(index, key, shown, outcome, b"null")
        if self._rules.logs is not None:
            path = os.path.join(self._rules.logs, log_name(key))
            if os.path.exists(path):
                record.log = path
        if not whole:
            self._save(record, outcome.value)
        self._finish(record)
        if exception is not None and none_can_run(exception) and not self.problems and not self.killed.is_set():
            self.problems.append(str(exception))
            self.stop_early("no job can be run")

    def _save(self, record: Record, value: object) -> None:
        """Save a result that JSON cannot hold; without a place that was given for it, the run stops then."""
        kind, failed = type_name(type(value)), ""
        for pickles in self._places():
            try:
                pickles.add(record.key, value)
            except Exception as error:  # noqa: BLE001 - pickling runs any code
                failed = failed or f"saving it in {pickles.path} failed: {reason(error)}"
            else:
                if pickles is not self._pickles:
                    self._pickles.close()
                self._pickles, record.pickle = pickles, pickles.path
                break
        else:
            record.ok, record.status = False, "failed"
            message = f"the job ran, but JSON cannot hold its result of type {kind}, and {failed}"
            record.error = JobError("ResultNotSaved", f"{message}. What JSON can hold of it is in the record.", None)
            self.stop_early("a result could not be saved")
            return
        if self._rules.pickles is None and self.stopped is None:
            resume = "--resume " if self._rules.resumable else ""
            self.problems.append(
                f"JSON cannot hold all of the result of {input_text(plain_input(record.input))}, a {kind}: it is saved "
                f"in {pickles.path}, as are those like it of the jobs that were running. Go on with {resume}--pickle "
                f"{pickles.path}, or let the task return what JSON has."
            )
            self.stop_early("a result does not fit into JSON")

    def _places(self) -> Iterator[PickleFile]:
        """Yield where a result may be saved; beside the output, another name will do if the first is taken."""
        yield self._pickles
        if self._rules.pickles is None and not self._pickles.saved:
            yield from (PickleFile(f"{self._rules.unsaved}.{number}") for number in range(2, 10))
            yield PickleFile(os.path.join(tempfile.gettempdir(), f"unsaved-{os.getpid()}.ztasks.pickle"))

    def _finish(self, record: Record) -> None:
        """Count a record and write it."""
        with self._lock:
            line = self._recorder.line(record)
            self.tally.add(record)
        self._writer.write(record.index, line)
        limit = self._rules.limit
        if limit is not None and not record.ok and limit.reached(self.tally.failed, self.tally.ended):
            failures = f"{self.tally.failed:,} failure{'' if self.tally.failed == 1 else 's'}"
            self.stop_early(f"stopped after {failures}", now=self._rules.halt == "now")

    # --- what else is to be said ---

    def _notes(self) -> Iterator[str]:
        if self.stopped:
            yield f"{self.stopped}: {self.unread}"
        if changed := self._recorder.changed:
            listed = ", ".join(f"{count:,} x {kind}" for kind, count in changed.items())
            yield f"JSON has no such values, so they were written as what comes near: {listed}"
        if saved := self._pickles.saved:
            what = "1 result that JSON cannot hold is" if saved == 1 else f"{saved:,} results that JSON cannot hold are"
            yield f"{what} in {self._pickles.path}"
        if self.stale:
            yield f"{self.stale:,} of those that were skipped have results of another version of the task's source"
        found = self._found
        if found is None or not found.total:
            return
        if not self._met and self.tally.done:
            yield "nothing was skipped: no record in the output is of this task, these constants and one of the inputs"
        elif not self._draining and (left := found.total - found.records["ok"] - self._met_failed) > 0:
            yield f"{left:,} of the failures in the output are of inputs that did not come this time"


def log_name(key: str) -> str:
    """Return the name of a job's log."""
    return f"{key}.log"


def running_text(activity: Activity) -> str:
    """Return what runs, for whoever asks to stop: `; 7 running, the longest for 12 min`."""
    if not activity.running:
        return ""
    if activity.longest is None:
        return f"; up to {activity.running} running"
    return f"; {activity.running} running, the longest for {duration_text(activity.longest)}"
