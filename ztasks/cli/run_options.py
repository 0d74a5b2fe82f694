"""The options of `ztasks run`, as they are declared and explained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import click

from ztasks.cli.grouped import grouped

EPILOG: Final = """\
\b
Examples:
  ztasks run stats.py:measure --glob 'src/**/*.py' -o stats.jsonl
  ztasks run stats.py:measure --glob 'src/**/*.py' -o stats.jsonl --resume
  find . -name '*.log' | ztasks run logs:parse --lines - | jq .result
  ztasks run shop.py:charge --csv orders.csv --set currency=EUR --retries 3 -k
  ztasks run sweep.py:train --from sweep.py:cases --timeout 2h --max-failures 5%
  ztasks run --command 'ffmpeg -i {} {stem}.mp4' --glob '*.mov' -o done.jsonl
  ztasks run app.py:task --jsonl in.jsonl -o out.jsonl --head @client.join
  ztasks run stats.py                                     (lists its tasks)

\b
Placeholders of --command:
  {}  the input             {.}     without its extension   {#}     number from 1
  {/} its base name         {stem}  base without extension  {1} {2} arguments
  {//} its directory        {ext}   the extension           {name}  column or key

\b
Environment: each option can be given by a variable: ZTASKS_WORKERS=4 is
--workers 4, ZTASKS_MAX_FAILURES=5% is --max-failures 5%. The command line wins.

\b
Exit codes:
  0    all jobs succeeded (or there was no input)
  1    some jobs failed
  2    wrong usage: nothing was run
  3    stopped early: too many failures, a result that does not fit into JSON,
       a full disk, an input that broke off, or workers that cannot start
  129  the terminal was closed (SIGHUP); jobs that ran were killed
  130  interrupted by Ctrl-C
  141  the reader of the output went away, as with `| head`
  143  ended by SIGTERM, as by Ctrl-C
"""


def named(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse an empty name: most often it is a variable of the shell that is not set."""
    if any(not name.strip() for name in ([value] if isinstance(value, str) else value or ())):
        raise click.BadParameter("it is empty; is a variable of the shell not set?", ctx, param)
    return value


_inputs = partial(grouped, "Inputs, one job each")
_call = partial(grouped, "What the task is given")
_output = partial(grouped, "Output")
_workers = partial(grouped, "Workers")
_failures = partial(grouped, "When jobs fail")
_display = partial(grouped, "Display")

OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    _inputs(
        "globs",
        "--glob",
        callback=named,
        multiple=True,
        metavar="PATTERN",
        help="Each file that matches, sorted; ** goes into directories. Quote it.",
    ),
    _inputs(
        "lines", "--lines", callback=named, multiple=True, metavar="FILE|-", help="Each line of a file, or of stdin."
    ),
    _inputs("null", "-0", "--null", is_flag=True, help="--lines: NUL ends a line, as find -print0 writes it."),
    _inputs(
        "jsonl",
        "--jsonl",
        callback=named,
        multiple=True,
        metavar="FILE|-",
        help="Each line of JSON: an object is keyword arguments, an array positional ones.",
    ),
    _inputs(
        "csv",
        "--csv",
        callback=named,
        multiple=True,
        metavar="FILE|-",
        help="Each row of a table, as keyword arguments; the first row names them. Tabs if FILE ends in .tsv.",
    ),
    _inputs(
        "from_",
        "--from",
        callback=named,
        multiple=True,
        metavar="FILE.PY:NAME",
        help="Each item of an iterable, or of what a function returns: dicts, tuples, or single arguments.",
    ),
    _inputs("limit", "--limit", type=click.IntRange(min=0), metavar="N", help="No more than the first N inputs."),
    _inputs("strict", "--strict", is_flag=True, help="An input that cannot be understood stops the run."),
    _call(
        "constants",
        "--set",
        multiple=True,
        metavar="NAME=VALUE",
        help="An argument of every call, unless its input gives it. Text becomes what the annotation says.",
    ),
    _call("no_unpack", "--no-unpack", is_flag=True, help="A JSON document, row or case is the one argument."),
    _call(
        "program",
        "--command",
        callback=named,
        metavar="COMMAND",
        help="Run a program for each input instead of a task; see the placeholders below. Its stdout is the result.",
    ),
    _call("shell", "--shell", is_flag=True, help="--command is for /bin/sh; inputs are quoted."),
    _call("dry_run", "--dry-run", is_flag=True, help="Print the calls, and run nothing."),
    _output(
        "output",
        "-o",
        "--output",
        callback=named,
        metavar="FILE",
        help="Write the records to a file instead of stdout.",
    ),
    _output(
        "resume",
        "--resume",
        is_flag=True,
        help="Go on with FILE after any end: do what has no record of a success there.",
    ),
    _output("skip_failed", "--skip-failed", is_flag=True, help="--resume: nor what has failed."),
    _output("append", "--append", is_flag=True, help="Add to a FILE that holds something."),
    _output("overwrite", "--overwrite", is_flag=True, help="Empty FILE first."),
    _output("ordered", "-k", "--ordered", is_flag=True, help="Write the records in the order of the inputs."),
    _output(
        "pickles",
        "--pickle",
        callback=named,
        metavar="FILE",
        help="Save results that JSON cannot hold in FILE. Without it, the first such result stops the run.",
    ),
    _output(
        "logs",
        "--logs-dir",
        callback=named,
        metavar="DIR",
        help="Keep what each job writes in a file of its own, not on stderr.",
    ),
    _workers(
        "workers", "-j", "--workers", metavar="N|N%", help="So many, or percent of the default: the CPUs there are."
    ),
    _workers(
        "cpus_per_job",
        "--cpus-per-job",
        type=click.IntRange(min=1),
        metavar="N",
        help="Each job takes N CPUs: run fewer at a time.",
    ),
    _workers(
        "memory_per_job",
        "--memory-per-job",
        metavar="SIZE",
        help="Each job takes so much memory, such as 2GiB: run fewer at a time.",
    ),
    _workers("gpus", "--gpus", metavar="auto|N", help="Each worker sees one of all GPUs, or of N."),
    _workers(
        "head",
        "--head",
        callback=named,
        metavar="@FILE",
        help="Use the workers of a head instead of this host's: its client.join. A FILE.PY is sent along.",
    ),
    _workers(
        "init",
        "--init",
        callback=named,
        metavar="FILE.PY:NAME",
        help="Call this once in each worker before its first job.",
    ),
    _failures(
        "retries",
        "--retries",
        type=click.IntRange(min=0),
        metavar="N",
        help="Run a job that raises again, up to N times.",
    ),
    _failures("timeout", "--timeout", metavar="TIME", help="Stop a job that runs longer, such as 90s or 1h30m."),
    _failures(
        "max_failures", "--max-failures", metavar="N|N%", help="Stop after so many failures, or percent of the jobs."
    ),
    _failures("fail_fast", "--fail-fast", is_flag=True, help="Stop at the first failure: --max-failures 1."),
    _failures(
        "halt",
        "--halt",
        type=click.Choice(["soon", "now"]),
        default="soon",
        help="What to do with jobs that run when it stops: finish them (soon, the default), or kill them.",
    ),
    _display(
        "quiet", "-q", "--quiet", is_flag=True, help="No progress and no summary; errors and what jobs write remain."
    ),
    _display("no_progress", "--no-progress", is_flag=True, help="No progress."),
)


def with_options(function: Any) -> Any:
    """Declare all of them."""
    for declare in reversed(OPTIONS):
        function = declare(function)
    return function
