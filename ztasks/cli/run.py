"""The command `ztasks run`: its options, checked, and the order in which things are opened and closed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from ztasks.cli.grouped import GroupedCommand
from ztasks.cli.run_head import place_options, task_options
from ztasks.cli.run_inputs import check_expanded, check_output, open_inputs
from ztasks.cli.run_options import EPILOG, with_options
from ztasks.errors import InvalidOption, ZtasksError

if TYPE_CHECKING:
    from ztasks.runs.batch import Output, Work
    from ztasks.runs.inputs import Inputs
    from ztasks.runs.interrupt import Stopper
    from ztasks.runs.progress import Reporter
    from ztasks.runs.record_file import RecordFile
    from ztasks.runs.run import Rules, Run

OK, SOME_FAILED, STOPPED, READER_GONE = 0, 1, 3, 141
"""Exit codes; see the help. The last is 128 + SIGPIPE, as shells have it."""


class Refused(click.ClickException):
    """Wrong usage, told without the usage line: the message names the cure itself."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the message to stderr."""
        click.echo(f"ztasks run: {self.message}", file=file, err=True)


class RunParser(GroupedCommand):
    """Knows a mistake that is easily made."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; raises click.UsageError."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if "--command" not in given:
                raise
            cure = f"{error.message} Quote the whole command, as in --command 'wc -l {{}}'."
            raise click.UsageError(cure, ctx) from error


@click.command(name="run", cls=RunParser, epilog=EPILOG)
@click.argument("target", required=False, metavar="[TARGET]")
@click.argument("args", nargs=-1, metavar="[ARG]...")
@with_options
def command(target: str | None, args: tuple[str, ...], **options: Any) -> int:
    """Run TARGET on each input in parallel worker processes; write one JSON record per job.

    TARGET is file.py:task or package.module:task; any function will do, and file.py alone lists what is there. The
    inputs are the ARGs, then what the options give, read while the jobs run. After -- an ARG may begin with a dash.

    Records are written as jobs finish. What jobs print goes to stderr with their input in front, as do progress and
    summary. A job whose worker crashes is run again, so jobs should bear being repeated. Ctrl-C and SIGTERM let the
    jobs that run finish; a second one kills them.
    """
    from ztasks.runs.batch import open_file
    from ztasks.runs.interrupt import ended_by_signal

    asked = SimpleNamespace(**options)
    if asked.program is not None and target is not None:
        args, target = (target, *args), None
    with _refusals():
        how = place_options(asked)
    with ended_by_signal() as ending, ExitStack() as stack:
        stdout = stack.enter_context(_own_stdout())
        with _refusals():
            if target is not None and not target.endswith(".py"):
                check_expanded((target,), asked.globs)
            if target is not None and _wants_listing(target, args, asked):
                return _list(target, stdout)
            work = _load(target, asked)
            inputs = _inputs(args, work, asked)
            stack.callback(inputs.close)
            output, rules = _output(asked, stdout), _rules(asked)
            read = asked.lines + asked.jsonl + asked.csv
            check_output(output.path, read, (target, asked.init, *asked.from_))
            file = stack.enter_context(open_file(output, work.source))
        if asked.dry_run:
            return _dry_run(work, inputs, output, file, rules, stdout)
        return _run(work, inputs, output, file, rules, stdout, how, asked)
    return ending.exit_code


# --- what is asked for ---


def _wants_listing(target: str, args: tuple[str, ...], asked: Any) -> bool:
    from ztasks.runs.target import names_a_task

    given = args or asked.globs or asked.lines or asked.jsonl or asked.csv or asked.from_
    return not given and not names_a_task(target)


def _list(target: str, stdout: int | None) -> int:
    """Write what tasks there are in a file or module."""
    from ztasks.runs.target import listing

    _write(stdout, f"{listing(target)}\n")
    return OK


def _load(target: str | None, asked: Any) -> Work:
    """Load the target, or read the command; raises ZtasksError."""
    from ztasks.runs.batch import Work
    from ztasks.runs.target import load

    changes, ship = task_options(asked), asked.head is not None
    constants, steps = _constants(asked.constants), []
    if asked.init is not None:
        steps = [load(asked.init, ship=ship).step()]
    if asked.program is not None:
        from ztasks.runs.command import parse_command

        command = parse_command(asked.program, shell=asked.shell)
        name = f"{'shell' if asked.shell else 'command'}:{asked.program}"
        return Work(command, name, None, tuple(steps), changes, constants, unpack=not asked.no_unpack)
    if target is None:
        raise click.UsageError("no TARGET: give file.py:task, module:task, or --command")
    if asked.shell:
        raise click.UsageError("--shell is for --command")
    loaded = load(target, ship=ship)
    before = [loaded.in_workers] if loaded.in_workers else []
    steps = [*before, *steps]
    return Work(
        loaded.function,
        loaded.name,
        loaded.source,
        tuple(steps),
        changes,
        constants,
        unpack=not asked.no_unpack,
        shipped=loaded.shipped,
    )


def _constants(texts: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
        found[name.strip()] = value
    return found


def _inputs(args: tuple[str, ...], work: Work, asked: Any) -> Inputs:
    from ztasks.runs.inputs import Inputs

    given = args, asked.globs, asked.lines, asked.jsonl, asked.csv, asked.from_
    binder = work.binder()
    return Inputs(open_inputs(*given, null=asked.null, unpack=not asked.no_unpack), binder, asked.limit)


def _output(asked: Any, stdout: int | None) -> Output:
    from ztasks.runs.batch import Output
    from ztasks.runs.checks import check_pickles, mode_of
    from ztasks.runs.output import write_all
    from ztasks.runs.record_file import BadOutput

    check_pickles(asked.output, asked.pickles)
    mode = mode_of(resume=asked.resume, append=asked.append, overwrite=asked.overwrite)
    if asked.skip_failed and not asked.resume:
        raise click.UsageError("--skip-failed is for --resume")
    if asked.output not in (None, "-", "/dev/stdout"):  # by then, what /dev/stdout leads to is stderr
        return Output(asked.output, mode, None, asked.ordered)
    if mode != "new":
        raise click.UsageError(f"--{mode} needs the file: give -o FILE")
    if stdout is None:
        raise BadOutput("stdout is closed: give -o FILE")
    return Output(None, mode, partial(write_all, stdout), asked.ordered)


def _rules(asked: Any) -> Rules:
    from ztasks.runs.halting import parse_limit
    from ztasks.runs.run import Rules

    if asked.fail_fast and asked.max_failures is not None:
        raise click.UsageError("--fail-fast is --max-failures 1: give one of them")
    limit = parse_limit(1 if asked.fail_fast else asked.max_failures, "--max-failures")
    return Rules(limit, asked.halt, asked.strict, asked.skip_failed, asked.logs, asked.pickles)


# --- running ---


def _dry_run(
    work: Work, inputs: Inputs, output: Output, file: RecordFile | None, rules: Rules, stdout: int | None
) -> int:
    """Write the calls."""
    from ztasks.runs.batch import dry_run, found_in
    from ztasks.runs.inputs import BadInput

    try:
        for line in dry_run(work, inputs, found_in(file, output), skip_failed=rules.skip_failed):
            if not _write(stdout, f"{line}\n"):
                return READER_GONE
    except BadInput as error:
        _tell(f"ztasks: error: {error}")
        return STOPPED
    return OK


def _run(
    work: Work,
    inputs: Inputs,
    output: Output,
    file: RecordFile | None,
    rules: Rules,
    stdout: int | None,
    how: dict[str, Any],
    asked: Any,
) -> int:
    """Start the workers, run the batch, say how it went; return the exit code."""
    from ztasks.runs.batch import found_in, open_run, opening_notes
    from ztasks.runs.interrupt import Stopper
    from ztasks.runs.progress import Reporter, make_display

    progress = not (asked.quiet or asked.no_progress)
    display = make_display(bar=progress)
    reporter = Reporter(display)
    if output.path is None and display.is_bar and stdout is not None and os.isatty(stdout):
        output = output._replace(write=reporter.print)  # the bar is on the same terminal: records go above it
    found = found_in(file, output)
    try:
        for note in () if asked.quiet else opening_notes(file, found, skip_failed=rules.skip_failed):
            reporter.say(note)
        with ExitStack() as stack:
            with _refusals():
                more = {"reporter": reporter, "executor_options": how, "head": asked.head}
                run = stack.enter_context(open_run(work, inputs, output, file, rules, **more))
            stopper = Stopper(
                lambda: _drain(run, stopper, reporter),
                run.kill,
                lambda: _last_words(run, reporter),
                lambda: exit_code(run, stopper),
            )
            run.on_output_error = stopper.abandon
            if progress:
                reporter.watch(run.look)
            with stopper:
                run.run()
                reporter.close()
                _close(run, stopper, quiet=asked.quiet)
        return exit_code(run, stopper)
    finally:
        reporter.close()


def exit_code(run: Run, stopper: Stopper) -> int:
    """Return the exit code as of now."""
    from ztasks.runs.interrupt import SIGNALLED

    if run.reader_gone:
        return READER_GONE
    if stopper.signal is not None:
        return SIGNALLED + stopper.signal
    if run.stopped or run.problems:
        return STOPPED
    return SOME_FAILED if run.tally.failed else OK


def _drain(run: Run, stopper: Stopper, reporter: Reporter) -> None:
    """The first Ctrl-C, or SIGTERM."""
    from ztasks.runs.interrupt import ENDED_BY
    from ztasks.runs.run import running_text

    run.drain()
    what, number = running_text(run.activity()), stopper.signal
    again = "press Ctrl-C again to kill them" if number == signal.SIGINT else "a second SIGTERM kills them"
    word = "stopping" if number is None else ENDED_BY[number]
    reporter.say(f"{word}: no new jobs{what}{f'; {again}' if what else ''}")


def _last_words(run: Run, reporter: Reporter) -> None:
    """The process is about to be ended by force."""
    reporter.restore_terminal()
    for problem in run.problems:
        _tell(f"ztasks: error: {problem}")


def _close(run: Run, stopper: Stopper, *, quiet: bool) -> None:
    """Say how it went; nothing at all if the reader of the output has gone."""
    from ztasks.runs.interrupt import ENDED_BY

    if run.reader_gone:
        return
    for problem in run.problems:
        _tell(f"ztasks: error: {problem}")
    if not quiet:
        summary = run.summary()
        if stopper.signal is not None:
            summary.notes.append(f"{ENDED_BY[stopper.signal]}: {run.unread}")
        _tell(f"ztasks: {summary}")


def _tell(text: str) -> None:
    from ztasks.runs.progress import Plain

    Plain().print(f"{text}\n".encode(errors="replace"))


def _encoded(text: str) -> bytes:
    """Encode text as the file system has it; what is none at all is escaped."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace")


def _write(stdout: int | None, text: str) -> bool:
    """Write to stdout; that nobody reads it is no error of ours. Return whether anybody may."""
    from ztasks.runs.output import write_all

    if stdout is None:
        return False
    try:
        write_all(stdout, _encoded(text))
    except BrokenPipeError:
        return False
    return True


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what is wrong with the arguments into exit code 2."""
    try:
        yield
    except (ZtasksError, InvalidOption) as error:
        raise Refused(str(error)) from error


@contextmanager
def _own_stdout() -> Iterator[int | None]:
    """Keep stdout for the records: whatever else this process prints goes to stderr. None if stdout is closed.

    It is not given back, lest what the target's module prints at exit ends up among the records.
    """
    closed = [not _is_open(file) for file in (0, 1, 2)]
    while not all(map(_is_open, (0, 1, 2))):
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: no file of ours may become stdout or stderr
    sys.stdout and sys.stdout.flush()
    records = None if closed[1] else os.dup(1)
    os.dup2(2, 1)
    try:
        yield records
    finally:
        if records is not None:
            os.close(records)
        try:
            sys.stdout and sys.stdout.flush()
        except OSError:  # nobody reads what the target's module printed: no reason to end with an exit code of Python's
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True
