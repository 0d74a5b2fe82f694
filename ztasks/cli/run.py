"""The command `ztasks run`: its options, checked, and the order in which things are opened and closed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from ztasks.errors import InvalidOption, ZtasksError
from ztasks.io.hostinfo import cores, default_workers, memory
from ztasks.units import parse_size

if TYPE_CHECKING:
    from ztasks.cli.inputs import Inputs
    from ztasks.cli.records import Recorder
    from ztasks.cli.running import Run
    from ztasks.cli.target import Target

EPILOG: Final = """\
\b
Examples:
  ztasks run stats.py:measure --glob 'src/**/*.py' -o stats.jsonl
  find . -name '*.log' | ztasks run logs:parse --lines - | jq .result
  ztasks run shop.py:charge --jsonl orders.jsonl --retries 3 -k

\b
Exit codes:
  0    all jobs succeeded (or there was no input)
  1    some jobs failed, or the run could not go on
  2    wrong usage: nothing was run
  129  the terminal was closed (SIGHUP); jobs that ran were killed
  130  interrupted by Ctrl-C
  141  the reader of the output went away, as with `| head`
  143  ended by SIGTERM, as by Ctrl-C
"""


class Settings(NamedTuple):
    """The options of a run that have no home elsewhere, checked."""

    workers: int
    gpus: str | None
    retries: int | None
    ordered: bool
    summary: bool
    progress: bool


class Refused(click.ClickException):
    """Wrong usage, told without the usage line: the message names the cure itself."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the message to stderr."""
        click.echo(f"ztasks run: {self.message}", file=file, err=True)


@click.command(name="run", epilog=EPILOG)
@click.argument("target")
@click.argument("args", nargs=-1, metavar="[ARG]...")
@click.option(
    "globs",
    "--glob",
    multiple=True,
    metavar="PATTERN",
    help="One job for each file that matches, sorted; ** goes into directories. Quote it.",
)
@click.option("lines", "--lines", multiple=True, metavar="FILE|-", help="One job for each line of a file, or of stdin.")
@click.option(
    "jsonl",
    "--jsonl",
    multiple=True,
    metavar="FILE|-",
    help="One job for each line of JSON: an object is keyword arguments, an array positional ones.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the records to a file instead of stdout.")
@click.option("--overwrite", is_flag=True, help="Empty the output file first if it holds something.")
@click.option("-k", "--ordered", is_flag=True, help="Write the records in the order of the inputs.")
@click.option("-j", "--workers", metavar="N|N%", help="So many workers, or percent of the default: the CPUs there are.")
@click.option(
    "--cpus-per-job", type=click.IntRange(min=1), metavar="N", help="Each job takes N CPUs: run fewer at a time."
)
@click.option(
    "--memory-per-job", metavar="SIZE", help="Each job takes so much memory, such as 2GiB: run fewer at a time."
)
@click.option("--gpus", metavar="auto|N", help="Give each worker one of all GPUs, or of N: CUDA_VISIBLE_DEVICES.")
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="Run a job that raises up to N times more.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; errors and what jobs write remain.")
@click.option("--no-progress", is_flag=True, help="No progress.")
def command(
    target: str,
    args: tuple[str, ...],
    globs: tuple[str, ...],
    lines: tuple[str, ...],
    jsonl: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    ordered: bool,
    workers: str | None,
    cpus_per_job: int | None,
    memory_per_job: str | None,
    gpus: str | None,
    retries: int | None,
    quiet: bool,
    no_progress: bool,
) -> int:
    """Run TARGET on each input in parallel worker processes; write one JSON record per job.

    TARGET is file.py:task or package.module:task; any function will do. The inputs are the ARGs, then what --glob,
    --lines and --jsonl give, read while the jobs run. After -- an ARG may begin with a dash.

    Records are written as jobs finish. What jobs print goes to stderr, as do progress and summary. A job whose worker
    crashes is run again, so jobs should bear being repeated. Ctrl-C and SIGTERM let the jobs that run finish; a second
    one kills them.
    """
    from ztasks.cli.interrupt import ended_by_signal
    from ztasks.cli.target import load

    with _refusals():
        at_a_time = workers_for(workers, cpus_per_job, memory_per_job, gpus)
    settings = Settings(at_a_time, gpus, retries, ordered, not quiet, not (quiet or no_progress))
    with ended_by_signal() as ending, ExitStack() as stack:
        stdout = stack.enter_context(_own_stdout())
        with _refusals():
            loaded = load(target)
            inputs = open_inputs(args, globs, lines, jsonl)
            stack.callback(inputs.close)
            file = _open_output(output, stdout, overwrite=overwrite)
        if file != stdout:
            stack.callback(os.close, file)
        return _run(loaded, inputs, file, settings)
    return ending.exit_code


def parse_workers(text: str | None) -> int:
    """Return the number of workers that `-j` asks for. Raises click.BadParameter."""
    if text is None:
        return default_workers()
    found = re.fullmatch(r"\s*(\d{1,6})\s*(%?)\s*", text)
    number = int(found[1]) if found else 0
    if not found or not number:
        raise click.BadParameter(
            f"{text!r} is neither a number of workers, such as 4, nor a share, such as 50%", param_hint="-j"
        )
    return max(1, default_workers() * number // 100) if found[2] else number


def workers_for(workers: str | None, cpus_per_job: int | None, memory_per_job: str | None, gpus: str | None) -> int:
    """Return how many workers may run at a time, given what each job takes; raises InvalidOption."""
    number = parse_workers(workers)
    if gpus is not None and workers is None:
        from ztasks.io.devices import find_devices

        number = len(find_devices(gpu_number(gpus)))
    if cpus_per_job is not None:
        number = min(number, max(1, cores() // cpus_per_job))
    if memory_per_job is not None:
        each, there_is = parse_size(memory_per_job, "--memory-per-job"), memory()
        if not 0 < each <= there_is:
            raise InvalidOption(
                f"--memory-per-job must be from 1 to the {there_is} bytes there are, not {memory_per_job}"
            )
        number = min(number, there_is // each)
    return number


def gpu_number(text: str) -> int | str:
    """Return what `--gpus` asks for; what is neither a number nor `auto` is refused later."""
    return int(text) if text.isdecimal() else text


def _run(target: Target, inputs: Inputs, file: int, settings: Settings) -> int:
    """Start the workers, run the batch, say how it went; return the exit code."""
    from ztasks.cli.output import RecordWriter, write_all
    from ztasks.cli.progress import Reporter, make_display
    from ztasks.cli.records import Recorder
    from ztasks.cli.running import Run
    from ztasks.executor import Executor

    recorder = Recorder(target.name)
    initializer, initargs = target.in_workers or (None, ())
    display = make_display(bar=settings.progress)
    reporter = Reporter(display)
    try:
        with _refusals():
            executor = Executor(
                settings.workers,
                initializer=initializer,
                initargs=initargs,
                gpus=None if settings.gpus is None else gpu_number(settings.gpus),
                output=reporter.print,
            )
        with executor:
            with _refusals():
                stream = executor.stream(_with_options(target, settings), ordered=settings.ordered)
            # where the bar is on the same terminal, records are written above it
            write = reporter.print if display.is_bar and os.isatty(file) else partial(write_all, file)
            output = RecordWriter(write, ordered=settings.ordered)
            running = Run(executor, stream, recorder, inputs, output, reporter)
            if settings.progress:
                reporter.watch(running.look)
            with running.stopper:
                running.run()
                reporter.close()
                _close(running, recorder, settings)
        return running.exit_code()
    finally:
        reporter.close()


def _close(running: Run, recorder: Recorder, settings: Settings) -> None:
    """Say how it went; nothing at all if the reader of the output has gone."""
    from ztasks.cli.summary import summarise

    if running.reader_gone:
        return
    for problem in running.problems:
        _tell(f"ztasks: error: {problem}")
    if settings.summary:
        notes = []
        if recorder.marked:
            which = "1 result holds" if recorder.marked == 1 else f"{recorder.marked:,} results hold"
            notes.append(f'{which} what JSON cannot; it is written as {{"$repr": ...}}')
        if running.ended_by:
            notes.append(f"{running.ended_by}: inputs that had not been read have no record")
        _tell("ztasks: " + summarise(running.tally, running.seconds, settings.workers, notes))


def _tell(text: str) -> None:
    from ztasks.cli.progress import Plain

    Plain().print(f"{text}\n".encode(errors="replace"))


def _with_options(target: Target, settings: Settings) -> Any:
    """Return the function with the options of the command line, which win over those of the decorator."""
    if settings.retries is None:
        return target.function
    from ztasks.tasks import options

    return options(target.function, retries=settings.retries)


def open_inputs(
    args: tuple[str, ...], globs: tuple[str, ...], lines: tuple[str, ...], jsonl: tuple[str, ...]
) -> Inputs:
    """Open all inputs; raises click.UsageError and BadInput."""
    from ztasks.cli.inputs import Glob, Inputs, JsonLines, Lines, Source, Values

    if (lines + jsonl).count("-") > 1:
        raise click.UsageError("stdin can be read only once: give - once")
    sources: list[Source] = [Values(args)] if args else []
    sources += [Glob(pattern) for pattern in globs]
    sources += [Lines(path) for path in lines]
    sources += [JsonLines(path) for path in jsonl]
    if not sources:
        raise click.UsageError("no input: give arguments, --glob, --lines or --jsonl")
    return Inputs(sources)


def _open_output(path: str | None, stdout: int | None, *, overwrite: bool) -> int:
    """Return where records go; raises BadOutput."""
    from ztasks.cli.output import BadOutput, open_output

    if path is not None and path != "-":
        return open_output(path, overwrite=overwrite)
    if stdout is None:
        raise BadOutput("stdout is closed: give -o FILE")
    return stdout


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


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True
