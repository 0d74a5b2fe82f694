"""Batch runs: `run_batch`, and all that it and `ztasks run` open and close around a Run."""

from __future__ import annotations

import inspect
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple

from ztasks.core.options import count
from ztasks.errors import InvalidOption, ZtasksError
from ztasks.executor import Executor
from ztasks.intake import check_callable
from ztasks.runs.binding import Binder
from ztasks.runs.checks import check_together, mode_of, names_of, path_of, rules_of
from ztasks.runs.command import Command
from ztasks.runs.encoding import Encoder
from ztasks.runs.inputs import Cases, Inputs, Unreadable
from ztasks.runs.interrupt import Stopper
from ztasks.runs.job import ElsewhereJob, RunCommand, RunJob, Step
from ztasks.runs.keys import Keys, carried_by
from ztasks.runs.output import RecordWriter
from ztasks.runs.place import open_place
from ztasks.runs.progress import Reporter, make_display
from ztasks.runs.record_file import Found, Mode, RecordFile
from ztasks.runs.records import FAILURES, Recorder
from ztasks.runs.run import Rules, Run
from ztasks.runs.summary import RunSummary
from ztasks.runs.target import innermost, source_digest
from ztasks.runs.text import call_text
from ztasks.tasks import Task, options_of
from ztasks.units import parse_flag, shown
from ztasks.wire.callables import describe

UNSAVED: Final = ".unsaved.pickle"


class Work(NamedTuple):
    """What is to be done: a task, and what each worker does before its first job."""

    function: Callable[..., Any]
    name: str
    """What its keys are made with, and what messages call it."""
    source: str | None = None
    steps: tuple[Step, ...] = ()
    changes: dict[str, Any] = {}  # noqa: RUF012 - read only
    """Options that win over the task's own."""
    constants: Mapping[str, Any] = {}
    carried: bytes = b""
    """What else tells its keys from those of tasks with this name."""
    unpack: bool = True
    """Whether inputs are taken apart into arguments; else each is the one argument."""
    shipped: Any = None
    """What workers of a head are sent in the place of the function; None: itself, or its name if they import it."""

    def binder(self) -> Binder:
        """Return what binds inputs to the task; raises InvalidOption."""
        return Binder(_anything if isinstance(self.function, Command) else self.function, self.constants)

    def keys(self) -> Keys:
        """Return what gives the inputs their keys."""
        carried = self.carried if self.unpack else self.carried + b"whole"
        return Keys(self.name, self.binder().constants, carried)  # as converted: --set n=5 is n=5

    def task(self, logs: str | None, *, elsewhere: bool = False) -> Task[Any, Any]:
        """Return what the workers are sent; `elsewhere`: those of a head. Raises InvalidOption."""
        function, options = self.function, options_of(self.function)
        changes = {"name": options.name or self.name, **self.changes}
        kind = RunCommand if isinstance(function, Command) else RunJob
        shipped = self.shipped if elsewhere and self.shipped else getattr(function, "ztasks_shipped", function)
        logs = None if logs is None else os.path.abspath(logs)  # a job may go to another directory
        job = kind(shipped, logs, frozenset(self.constants))
        return Task(ElsewhereJob(job, self.steps) if elsewhere else job, options.replaced(changes))


def _anything(*args: Any, **kwargs: Any) -> None:
    """Stands for a task that takes all arguments as they are."""


class Output(NamedTuple):
    """Where records go."""

    path: str | None = None
    """None: to `write`."""
    mode: Mode = "new"
    write: Callable[[bytes], None] | None = None
    ordered: bool = False


@contextmanager
def open_file(output: Output, source: str | None) -> Iterator[RecordFile | None]:
    """Open and lock the output file, if there is one. Raises BadOutput."""
    if output.path is None:
        yield None
        return
    file = RecordFile(output.path, output.mode, source)
    try:
        yield file
    finally:
        file.close()


def found_in(file: RecordFile | None, output: Output) -> Found | None:
    """Return what a run goes on with; None if it begins anew."""
    return file.found if file is not None and output.mode == "resume" else None


def opening_notes(file: RecordFile | None, found: Found | None, *, skip_failed: bool) -> Iterator[str]:
    """Say what was found in the output."""
    if file is not None and file.cut:
        yield f"the last line of {file.path} was torn, as after a kill: its {file.cut:,} bytes were cut off"
    if file is None or found is None:
        return
    if found.strange:
        yield f"{found.strange:,} of the lines in {file.path} are no records; they stay as they are"
    if found.total:
        listed = ", ".join(f"{count:,} {status}" for status, count in found.records.items() if count)
        skipped = "ok or has failed" if skip_failed else "ok"
        inputs = "1 input" if found.total == 1 else f"{found.total:,} inputs"
        yield f"{file.path} has records of {inputs} ({listed}): what is {skipped} there is skipped"


@contextmanager
def open_run(
    work: Work,
    inputs: Inputs,
    output: Output,
    file: RecordFile | None,
    rules: Rules,
    *,
    reporter: Reporter | None,
    executor_options: Mapping[str, Any],
    head: str | None = None,
) -> Iterator[Run]:
    """Start the workers, or find those of a head; on leaving, all is closed.

    Raises InvalidOption, BadOutput, BadPickles, WorkersCannotStart, BadJoinFile, HeadLost.
    """
    if file is not None and file.regular:
        rules = rules._replace(unsaved=file.path + UNSAVED, resumable=True)
    with ExitStack() as stack:
        printed = None if reporter is None else reporter.print
        place, stream = stack.enter_context(open_place(work, rules.logs, head, printed, executor_options))
        write = output.write or (_nowhere if file is None else file.write)
        finish = _nothing if file is None else file.verify
        writer = RecordWriter(write, ordered=output.ordered, finish=finish)
        stack.callback(writer.close)
        run = Run(
            place,
            stream,
            inputs,
            writer,
            work.keys(),
            Recorder(work.source),
            rules,
            found=found_in(file, output),
            reporter=reporter,
        )
        stack.callback(run.close)
        _make_logs(rules.logs)
        if file is not None:
            file.begin()
        yield run


def _make_logs(path: str | None) -> None:
    """Make the directory for logs, and see whether it takes any; raises InvalidOption."""
    if path is not None:
        try:
            os.makedirs(path, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise InvalidOption(f"the directory {path} cannot be used for logs: {error.strerror}") from error


def _nowhere(data: bytes) -> None:
    """Nobody wants the records."""


def dry_run(work: Work, inputs: Inputs, found: Found | None, *, skip_failed: bool) -> Iterator[str]:
    """Yield the calls that a run would make, as text."""
    keys, encoder = work.keys(), Encoder()
    for index, entry in enumerate(inputs):
        key = keys.next(entry.input, encoder.encode(entry.input))
        status = None if found is None else found.status(key.number)
        if status == "ok" or (skip_failed and status in FAILURES):
            continue
        if isinstance(entry, Unreadable):
            yield f"# {entry.message}"
        elif isinstance(work.function, Command):
            yield _command_line(work.function, index, entry)
        else:
            yield call_text(work.name.rpartition(":")[2], entry.args, entry.kwargs)
    keys.close()


def _command_line(command: Command, index: int, call: Any) -> str:
    try:
        return command.line(index + 1, call.args, call.kwargs)
    except ZtasksError as error:
        return f"# {error}"


def run_batch(
    task: Callable[..., Any],
    inputs: Iterable[Any],
    *,
    output: str | os.PathLike[str] | None,
    resume: bool = False,
    append: bool = False,
    overwrite: bool = False,
    skip_failed: bool = False,
    constants: Mapping[str, Any] | None = None,
    unpack: bool = True,
    limit: int | None = None,
    ordered: bool = False,
    max_failures: int | str | None = None,
    halt: str = "soon",
    pickle: str | os.PathLike[str] | None = None,
    logs_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    strict: bool = False,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
    head: str | None = None,
    **executor_options: Any,
) -> RunSummary:
    """Run a task on each input and write a record per job, as `ztasks run` does; return how it went.

    inputs: an iterable, read lazily in a thread of its own. A dict is keyword arguments, a tuple or list positional
        ones, all else one argument (`unpack=False`: each is the one argument).
    output: the file for the records, one JSON object a line; None: they are not kept.
    resume: go on with what is in the file: inputs whose last record is ok are skipped, with skip_failed also those that
        have failed. append, overwrite: add to a file that holds something, or empty it.
    constants: arguments of every call, where its input does not give them. limit: read no more inputs.
    ordered: in the order of the inputs. pickle: the file for results that JSON cannot hold; else the first stops it.
    max_failures: stop after so many failures, or "5%" of the jobs; halt: "soon" finishes what runs, "now" kills it.
    logs_dir: a directory for what each job writes. strict: an input that cannot be understood stops the run.
    progress: show a bar, or lines now and then, on stderr. options: the task's options, as of `ztasks.options`.
    head: have a head's workers run the jobs, as Client names it: "@client.join". workers, initializer, initargs and
        further ones: as Executor has them; with head, of these only the initializer.

    Raises nothing for jobs that fail; InvalidOption, BadOutput, BadPickles, what Executor or Client raise, before any
    runs. A KeyboardInterrupt in the main thread lets what runs finish (a second one kills it); it is raised at the end.
    """
    how = _checked({"max_workers": workers, **executor_options})
    work = _work(task, initializer, initargs, names_of(options, "options"), names_of(constants, "constants"), unpack)
    rules = rules_of(max_failures, halt, strict, skip_failed, logs_dir, pickle)
    where = _output(output, mode_of(resume=resume, append=append, overwrite=overwrite), ordered)
    bound = Inputs([Cases(inputs, unpack=unpack)], work.binder(), None if limit is None else count(limit, "limit"))
    return _run(work, bound, where, rules, progress, how, _head(head))


def _output(path: Any, mode: Mode, ordered: Any) -> Output:
    """Return where records go; raises InvalidOption."""
    return Output(path_of(path, "output"), mode, ordered=parse_flag(ordered, "ordered"))


def _run(
    work: Work,
    inputs: Inputs,
    output: Output,
    rules: Rules,
    progress: bool,
    how: Mapping[str, Any],
    head: str | None,
) -> RunSummary:
    check_together(output, rules)
    with ExitStack() as stack:
        wanted = parse_flag(progress, "progress")
        reporter = stack.enter_context(closing(Reporter(make_display(bar=True)))) if wanted else None
        file = stack.enter_context(open_file(output, work.source))
        found = found_in(file, output)
        notes = list(opening_notes(file, found, skip_failed=rules.skip_failed))
        with open_run(work, inputs, output, file, rules, reporter=reporter, executor_options=how, head=head) as run:
            if reporter is not None:
                reporter.watch(run.look)
            in_main = threading.current_thread() is threading.main_thread()
            stopper = Stopper(run.drain, run.kill, _nothing, lambda: 1, numbers=(signal.SIGINT,), force=False)
            with stopper if in_main else nullcontext():
                summary = run.run()
            if stopper.interrupted:
                raise KeyboardInterrupt
            if run.stale:
                warnings.warn(run.stale_text(), stacklevel=3)
    summary.notes[:0] = notes
    return summary


def _nothing() -> None:
    """There are no last words."""


def _head(head: Any) -> str | None:
    """Check how a head is named; raises InvalidOption."""
    if head is not None and not isinstance(head, str):
        raise InvalidOption(f'head must be text, such as "@client.join", not {shown(head)}')
    return head


def _checked(how: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse arguments that an executor does not have; raises InvalidOption."""
    unknown = how.keys() - inspect.signature(Executor).parameters.keys()
    if unknown:
        raise InvalidOption(
            f"run_batch has no argument {', '.join(sorted(unknown))}. The options of the task go into options, as in "
            "options={'retries': 3}."
        )
    return how


def _work(
    task: Callable[..., Any],
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    changes: Mapping[str, Any],
    constants: Mapping[str, Any],
    unpack: Any = True,
) -> Work:
    check_callable(task, "task")
    steps: tuple[Step, ...] = ()
    if initializer is not None:
        check_callable(initializer, "initializer")
        if not isinstance(initargs, tuple | list):
            raise InvalidOption(f"initargs must be a tuple, not {shown(initargs)}")
        steps = ((getattr(initializer, "ztasks_shipped", initializer), tuple(initargs)),)
    inner = innermost(task)
    name = f"{_module_of(inner)}:{describe(inner)}"
    carried = carried_by(getattr(task, "ztasks_function", task))
    unpack = parse_flag(unpack, "unpack")
    return Work(task, name, source_digest(task), steps, dict(changes), constants, carried, unpack)


def _module_of(function: Any) -> str:
    """Return the name of the module that a task is from; of the main one, that which the command line has for it."""
    module = getattr(function, "__module__", None) or ""
    if module != "__main__":
        return module
    import __main__

    spec = getattr(__main__, "__spec__", None)
    return spec.name if spec is not None else Path(getattr(__main__, "__file__", None) or "__main__").stem
