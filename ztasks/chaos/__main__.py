"""`python -m ztasks.chaos`: the options, checked, and the order of things."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Final, NamedTuple

import click

from ztasks.cli.run_workers import parse_workers
from ztasks.errors import InvalidOption, ZtasksError

BUILT_IN_JOBS: Final = 2000
NUMBERED_JOBS: Final = 100
"""How many jobs there are when nothing is said: of the built-in task, and of a TARGET without inputs."""

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

EPILOG: Final = """\
\b
Faults, with how much of each (default: kill=2,freeze=1,slow=1%,large=0.5%,fail=1%,exit=0.2%,segfault=0.2%):
  kill=N, freeze=N    so many workers per second are killed, or stopped and after a while continued
  fail=N%|N           jobs raise at their first attempts (1 to 3 of them)
  exit, segfault      jobs take their worker down (crash: both)
  hang                jobs do not return, and must be stopped by --timeout
  slow, large         results come late, or are up to 8 MiB larger
  all, none           everything, nothing

\b
Examples:
  python -m ztasks.chaos
  python -m ztasks.chaos stats.py:measure --glob 'src/**/*.py' --seed 7
  python -m ztasks.chaos --jobs 20000 --faults kill=10 --api map -j 4

\b
Exit codes:
  0    nothing lost, nothing repeated without cause, nothing left behind
  1    something was, or the run did not end within the deadline
  2    wrong usage: nothing was run
  130  interrupted by Ctrl-C
"""


class Task(NamedTuple):
    """What is to be run; the first fields of a batch."""

    name: str
    function: Callable[..., Any]
    items: list[Any]
    shown: Callable[[int], Any]
    find: tuple[Callable[..., object], tuple[Any, ...]] | None


@click.command(name="python -m ztasks.chaos", epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target", required=False)
@click.argument("args", nargs=-1, metavar="[ARG]...")
@click.option("globs", "--glob", multiple=True, metavar="PATTERN", help="One job for each file that matches.")
@click.option("lines", "--lines", multiple=True, metavar="FILE|-", help="One job for each line of a file, or of stdin.")
@click.option("jsonl", "--jsonl", multiple=True, metavar="FILE|-", help="One job for each line of JSON.")
@click.option("--jobs", type=click.IntRange(1, 10_000_000), metavar="N", help="So many jobs; inputs are repeated.")
@click.option("--job-time", default="1ms", show_default=True, metavar="T", help="How long the built-in task takes.")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="What decides the faults; default: a new one.")
@click.option("--faults", metavar="LIST", help="Which faults, and how many; see below.")
@click.option("-j", "--workers", metavar="N|N%", help="So many workers, or percent of the default: the CPUs there are.")
@click.option("--api", type=click.Choice(["submit", "map", "both"]), default="both", show_default=True)
@click.option("--recycle", type=click.IntRange(1), metavar="N", help="Replace each worker after N jobs.")
@click.option("--timeout", default="2s", show_default=True, metavar="T", help="After which jobs that hang are stopped.")
@click.option("--deadline", default="5min", show_default=True, metavar="T", help="When the run must have ended.")
@click.option("--no-base", is_flag=True, help="Do not run the batch without faults first.")
@click.option("--json", "as_json", is_flag=True, help="Write the account as JSON.")
def command(
    target: str | None,
    args: tuple[str, ...],
    globs: tuple[str, ...],
    lines: tuple[str, ...],
    jsonl: tuple[str, ...],
    jobs: int | None,
    job_time: str,
    seed: int | None,
    faults: str | None,
    workers: str | None,
    api: Any,
    recycle: int | None,
    timeout: str,
    deadline: str,
    no_base: bool,
    as_json: bool,
) -> int:
    """Run TARGET on each input under faults, and give an account: jobs, executions, duplicates, losses, cost in time.

    TARGET is file.py:task or package.module:task, and inputs are given, as for `ztasks run`; without inputs each job
    gets its number. Without TARGET a built-in task is run that verifies its results. A seed decides all faults, so
    that a run can be repeated.
    """
    from ztasks.chaos.batch import Batch
    from ztasks.chaos.plan import DEFAULTS, Plan, parse_faults
    from ztasks.chaos.session import Settings, run
    from ztasks.units import parse_duration

    with _refusals():
        amounts = parse_faults(DEFAULTS if faults is None else faults)
        hang_after = parse_duration(timeout, "--timeout") if "hang" in amounts else None
        settings = Settings(faults or DEFAULTS, not no_base, parse_duration(deadline, "--deadline"), as_json)
        if target is None:
            task = _built_in(parse_duration(job_time, "--job-time"), jobs or BUILT_IN_JOBS)
        else:
            task = _load(target, (args, globs, lines, jsonl), jobs)
        batch = Batch(*task, parse_workers(workers), api, recycle, hang_after)
        plan = Plan(int.from_bytes(os.urandom(4), "little") if seed is None else seed, len(batch.items), amounts)
    return run(batch, plan, settings)


def _built_in(seconds: float, jobs: int) -> Task:
    """Return the built-in task with so many jobs."""
    from ztasks.chaos.job import Work

    return Task("the built-in task", Work(seconds), list(range(jobs)), int, None)


def _load(target: str, inputs: tuple[tuple[str, ...], ...], jobs: int | None) -> Task:
    """Load a target and its inputs; raises ZtasksError and click.UsageError."""
    from ztasks.cli.run_inputs import open_inputs
    from ztasks.runs.binding import Binder
    from ztasks.runs.inputs import Call, Inputs, Unreadable
    from ztasks.runs.target import load

    with contextlib.redirect_stdout(sys.stderr):  # what its module prints is no part of the account
        loaded = load(target)
    calls: list[Call] = []
    if any(inputs):
        opened = Inputs(open_inputs(*inputs), Binder(loaded.function))
        try:
            for entry in opened:
                if isinstance(entry, Unreadable):
                    raise click.UsageError(f"an input cannot be understood: {entry.message}")
                calls.append(entry)
        finally:
            opened.close()
        if not calls:
            raise click.UsageError("there is no input")
    else:
        calls = [Call((number,), {}, number) for number in range(jobs or NUMBERED_JOBS)]
    calls = list(islice(cycle(calls), jobs or len(calls)))
    items = [(number, call.args, call.kwargs) for number, call in enumerate(calls)]
    return Task(loaded.name, loaded.function, items, lambda number: calls[number].input, loaded.in_workers)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what is wrong with the arguments into exit code 2."""
    try:
        yield
    except (ZtasksError, InvalidOption) as error:
        raise click.UsageError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit code."""
    try:
        result = command.main(args=arguments, prog_name="python -m ztasks.chaos", standalone_mode=False)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("ztasks chaos: interrupted", file=sys.stderr)
        return INTERRUPTED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
