"""The command `ztasks doctor`: checks what ztasks needs, says what was found, why it matters and the cure.

It must speak up where everything else is broken, so it is careful:

- it needs click and the standard library; what could crash, hang or print runs in a child process (probe.py)
- each check has a time limit: those that only look run in a thread that is given up, the child is killed
- nothing is left behind: the child holds on to a lifeline, and its executor is closed in order

    check_install.py      interpreter, system, ztasks, packages
    check_environment.py  is ztasks installed where the user's packages are?
    check_directory.py    the private directory
    check_limits.py       descriptors, processes, memory, shared memory, CPUs
    check_worker.py       a worker, and what it can import
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import click

from ztasks import __version__
from ztasks.cli.findings import PROBLEM, WARNING, Display, Finding, as_json, make_display
from ztasks.errors import InvalidOption
from ztasks.io.hostinfo import default_workers, host_name
from ztasks.units import parse_duration

INTERRUPTED: Final = 130
READER_GONE: Final = 141

DEFAULT_SECONDS: Final = "20s"

IN_WORKERS: Final = frozenset(("zmq", "msgspec"))
"""What every worker imports: without it, none need be started."""

EPILOG: Final = """\
\b
Examples:
  ztasks doctor                       is all well here?
  ztasks doctor stats.py:measure      can a worker import my task?
  ztasks doctor pandas my.package     ... and these modules?
  ztasks doctor -j 64                 would 64 workers fit?
  ztasks doctor --json | jq -r '.checks[] | select(.status != "ok") | .cure'

\b
Each check ends as one of
  ok       nothing to do
  warning  jobs will run, but look at this
  problem  jobs will not run, or not as asked for

\b
Exit codes:
  0    no problem (there may be warnings)
  1    a problem was found
  2    wrong usage: nothing was checked
  130  interrupted by Ctrl-C
  141  the reader of the output went away, as with `| head`
"""


@click.command(name="doctor", epilog=EPILOG)
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("-j", "--workers", metavar="N|N%", help="Check for so many workers; default: as many as are started.")
@click.option("--json", is_flag=True, help="Write one JSON document, with all that was measured.")
@click.option("-v", "--verbose", is_flag=True, help="Say also of what is well why it matters.")
@click.option(
    "--timeout",
    default=DEFAULT_SECONDS,
    show_default=True,
    metavar="DURATION",
    help="How long each step may take, such as 30s: that a worker comes up, that a target is imported.",
)
def command(targets: tuple[str, ...], workers: str | None, json: bool, verbose: bool, timeout: str) -> int:
    """Check that ztasks can work here: interpreter, packages, directory for sockets, limits, a real worker.

    For each check it says what was found, and for what is not well why that matters and the cure. A TARGET is what
    `ztasks run` takes, file.py:task or package.module:task, or just a module: then a worker is made to import it, and
    what it says is shown. The task is not run.

    It changes nothing and leaves nothing behind; what hangs is given up after --timeout and reported. Run it where your
    program runs: in the same shell, container, or job of the cluster.
    """
    from ztasks.cli.run_workers import parse_workers

    seconds = _seconds(timeout)
    wanted = parse_workers(workers) if workers is not None else None
    if not all(target.strip() for target in targets):
        raise click.UsageError("a TARGET must not be empty: give file.py:task, package.module:task or a module")
    _mend_stdout()
    display = make_display(json=json, verbose=verbose)
    found: list[Finding] = []
    try:
        with _ended_by_signals():
            for finding in examine(targets, wanted, seconds, display):
                found.append(finding)
                display.show(finding)
        if json:
            print(as_json(found, ztasks=__version__, host=host_name(), targets=list(targets)), flush=True)
        display.close(found)
    except KeyboardInterrupt:
        print("ztasks doctor: interrupted; nothing is left behind", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # the checks keep theirs: this is stdout's
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at its exit
        if error.errno == errno.EPIPE:
            return READER_GONE
        print(f"ztasks doctor: the report cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return int(any(finding.status == PROBLEM for finding in found))


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text, "--timeout")
    except InvalidOption as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from error
    if not 0.1 <= seconds <= 3600:
        raise click.BadParameter(f"it must be from 0.1s to 1h, not {text}", param_hint="--timeout")
    return seconds


def examine(targets: tuple[str, ...], wanted: int | None, seconds: float, display: Display) -> Iterator[Finding]:
    """Yield the findings, in an order in which the cause comes before what follows from it."""
    from ztasks.cli import check_install
    from ztasks.cli.probing import no_core_files

    interpreter = bounded("python", check_install.python, seconds)
    yield from interpreter
    yield from bounded("python", lambda: check_install.standard_library(targets), seconds)
    yield from bounded("system", check_install.system, seconds)
    yield from bounded("ztasks", check_install.ztasks_itself, seconds)
    if any(finding.status == PROBLEM for finding in interpreter):
        return
    with no_core_files():
        broken = yield from _packages(seconds, display)
        hopeless = yield from _surroundings(wanted, seconds)
        yield from _workers(targets, seconds, display, sorted(broken | hopeless))


def _packages(seconds: float, display: Display) -> Generator[Finding, None, set[str]]:
    """Check the packages; return which of those that a worker needs cannot be imported."""
    from ztasks.cli import check_install
    from ztasks.cli.probing import probe

    needed = check_install.needed()
    with display.busy("importing the packages that ztasks needs"):
        said = probe(seconds, kind="packages", names=[package.module for package in needed])
    findings = bounded("packages", lambda: check_install.packages(needed, said), seconds)
    yield from findings
    return check_install.not_importable(findings) & IN_WORKERS


def _surroundings(wanted: int | None, seconds: float) -> Generator[Finding, None, set[str]]:
    """Check environment, directory and limits; return what keeps an executor from being made."""
    from ztasks.cli import check_limits
    from ztasks.cli.check_directory import directory
    from ztasks.cli.check_environment import environment

    workers = wanted or default_workers()
    yield from bounded("environment", environment, seconds)
    place = bounded("directory", directory, seconds)
    yield from place
    yield from bounded("descriptors", lambda: check_limits.descriptors(workers), seconds)
    yield from bounded("processes", lambda: check_limits.processes(workers), seconds)
    yield from bounded("memory", lambda: check_limits.memory(workers), seconds)
    yield from bounded("shared memory", check_limits.shared_memory, seconds)
    yield from bounded("cpus", lambda: check_limits.cpus(wanted), seconds)
    return {finding.check for finding in place if finding.status == PROBLEM}


def _workers(targets: tuple[str, ...], seconds: float, display: Display, hopeless: list[str]) -> Iterator[Finding]:
    """Start a worker, then have it import each target; `hopeless`: why that need not be tried."""
    from ztasks.cli import check_environment, check_worker
    from ztasks.cli.probing import probe

    if hopeless:
        yield check_worker.not_tried("worker", hopeless)
    else:
        with display.busy("starting a worker"):
            said = probe(seconds, kind="worker")
        findings = check_worker.worker(said, seconds)
        yield from findings
        hopeless = [finding.check for finding in findings if finding.status == PROBLEM]
    place = check_environment.where(sys.prefix, sys.base_prefix)
    for target in targets:
        if hopeless:
            yield check_worker.not_tried("target", hopeless, f"{target}: ")
            continue
        with display.busy(f"having a worker import {target}"):
            said = probe(seconds, kind="target", target=target)
        yield check_worker.target(target, said, seconds, place)


def bounded(name: str, check: Callable[[], list[Finding]], seconds: float) -> list[Finding]:
    """Run a check that only looks, in bounded time; what goes wrong with it is a finding, too."""
    results: list[list[Finding]] = []

    def run() -> None:
        try:
            results.append(check())
        except Exception as error:  # noqa: BLE001 - a defect in one check must not hide the others
            found = f"this check failed: {type(error).__name__}: {error}"
            cure = "Please report this; the other checks are not affected."
            results.append([Finding(name, WARNING, found, cure=cure)])

    thread = threading.Thread(target=run, name=f"ztasks-doctor-{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    why = "A look at a file or a directory never came back: so would your jobs wait there."
    cure = "Is a network file system gone? See `mount`, and where TMPDIR, the packages and this directory lie."
    return [Finding(name, PROBLEM, f"no answer within {seconds:g} s", why, cure)]


def _mend_stdout() -> None:
    """See to it that whatever is printed can be: to a closed stdout, too, and names that are no text."""
    while not all(map(_is_open, (0, 1, 2))):
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: no pipe of ours may become stdout or stderr
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end this process in order: the child is told to close what it has opened."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
