"""`python -m benchmarks.soak`: executors, jobs and crashes without number, and whether anything piles up.

Three parts, each in a process of its own:

    executors   opened, used and closed, one after the other
    jobs        through one executor: submitted, results taken
    crashes     of workers of one executor, each replaced

Descriptors, threads, children and files are counted at quiet moments, and must never be more than at the first one;
resident memory must not grow. The workers of the jobs are watched in the same way. Exit code 1 if anything rises.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ztasks
from benchmarks import memory
from benchmarks.watching import RESIDENT, Holdings, Quantity, Watcher, children, holdings
from benchmarks.work import noop

COUNTS = {"executors": 200, "jobs": 1_000_000, "crashes": 10_000}
QUICK = {"executors": 6, "jobs": 10_000, "crashes": 12}

WORKERS = 2
SAMPLES = 50
TOGETHER = 1000
"""How many jobs, or crashes, are under way at once."""

GROWTH_LIMIT = memory.MIB
"""How much resident memory may grow over the second half: an allocator is never quite still."""

SETTLE_SECONDS = 5.0
"""How long an open executor may take to let go of what its work needed."""

GONE_SECONDS = 0.1
"""How long after closing there may be more than before: a thread that was joined is still in /proc for a moment."""

Work = Callable[[ztasks.Executor, int], None]


# --- the work ---


def fail(number: int) -> None:
    """A job that raises."""
    raise ValueError(number)


def echo(data: bytearray) -> bytearray:
    """A job with large arguments and a large result."""
    return data


def end_by(how: str) -> None:
    """A job that takes its worker down."""
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def use(executor: ztasks.Executor, count: int) -> None:
    """Run so many jobs, of all kinds, and take their results."""
    futures = [executor.submit(noop, number) for number in range(count)]
    bad, large = executor.submit(fail, 1), executor.submit(echo, bytearray(100_000))
    by_value = executor.submit(lambda: WORKERS)  # the same each time: others would fill a cache, up to its limit
    by_value.add_done_callback(lambda done: None)
    futures.append(executor.submit(noop, count))
    futures[-1].cancel()
    results = [future.result() for future in futures if not future.cancelled()]
    right = results[:count] == list(range(count)) and isinstance(bad.exception(), ValueError)
    if not right or len(large.result()) != 100_000 or by_value.result() != WORKERS:
        raise AssertionError("results are not those of the jobs")


def crash(executor: ztasks.Executor, count: int) -> None:
    """Let jobs take so many workers down, half of them by a signal; then see that there are workers again."""
    task = ztasks.options(end_by, crash_retries=0)
    for future in [executor.submit(task, "exit" if number % 2 else "signal") for number in range(count)]:
        error = future.exception()
        if not isinstance(error, ztasks.WorkerLost):
            raise AssertionError(f"a crash ended as {error!r}")
    use(executor, 20)


# --- the parts ---


def soak_executors(count: int, folder: str) -> tuple[float, Watcher]:
    """Open, use and close executors."""

    def cycle() -> None:
        with ztasks.Executor(WORKERS) as executor:
            use(executor, 20)
            list(executor.map(noop, range(1000)))

    for _ in range(3):
        cycle()
    watcher = Watcher(partial(holdings, folder), GONE_SECONDS)
    watcher.begin()
    began = time.monotonic()
    for done in range(1, count + 1):
        cycle()
        watcher.quiet(done)
    return time.monotonic() - began, watcher


def soak_jobs(count: int, folder: str) -> tuple[float, Watcher]:
    """Run jobs through one executor; its workers are watched too."""

    def take() -> Holdings:
        now = holdings(folder)
        for pid in children():
            for kind, value in holdings(folder, pid).items():
                if kind != "files":
                    now[f"workers' {kind}"] = now.get(f"workers' {kind}", 0) + value
        return now

    with ztasks.Executor(WORKERS) as executor:
        for _ in range(3):
            use(executor, TOGETHER)
        return _through_one(executor, count, take, use)


def soak_crashes(count: int, folder: str) -> tuple[float, Watcher]:
    """Crash the workers of one executor."""
    with ztasks.Executor(WORKERS) as executor:
        crash(executor, 2 * WORKERS)
        return _through_one(executor, count, partial(holdings, folder), crash)


def _through_one(
    executor: ztasks.Executor, count: int, take: Callable[[], Holdings], work: Work
) -> tuple[float, Watcher]:
    """Do the work in steps through one executor, with a sample after each."""
    _meet_all(executor)
    watcher = Watcher(take, SETTLE_SECONDS)
    watcher.begin()
    memory.reset_peak()
    began, done = time.monotonic(), 0
    for step in _steps(count, SAMPLES):
        for some in _steps(step, -(-step // TOGETHER)):
            work(executor, some)
        watcher.busy()
        done += step
        _meet_all(executor)
        watcher.quiet(done)
    watcher.series[RESIDENT].most = memory.peak()
    return time.monotonic() - began, watcher


def _meet_all(executor: ztasks.Executor) -> None:
    """Wait until each worker has run a job: then all are up."""
    met: set[int] = set()
    while len(met & set(children())) < WORKERS:
        met.update([future.result() for future in [executor.submit(_meet) for _ in range(WORKERS)]])


def _meet() -> int:
    time.sleep(0.03)  # longer than a lane is supplied for in advance: each worker gets one
    return os.getpid()


def _steps(count: int, most: int) -> list[int]:
    """Cut `count` into steps of nearly the same size, at most so many."""
    most = min(count, most)
    return [count * (step + 1) // most - count * step // most for step in range(most)]


PARTS: dict[str, Callable[[int, str], tuple[float, Watcher]]] = {
    "executors": soak_executors,
    "jobs": soak_jobs,
    "crashes": soak_crashes,
}


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that the arguments ask for; 0 if nothing rose."""
    arguments = _parser().parse_args(argv)
    counts = {name: _count(arguments, name) for name in arguments.only or PARTS}
    if arguments.here:
        [(name, count)] = counts.items()
        print(json.dumps(run_here(name, count)))
        return 0
    documents = []
    for name, count in counts.items():
        documents.append(run_apart(name, count))
        if not arguments.json:
            print("\n".join(lines(documents[-1])), flush=True)
    flat = all(document["flat"] for document in documents)
    if arguments.json:
        print(json.dumps({"flat": flat, "parts": documents}, indent=1))
    return 0 if flat else 1


def run_here(name: str, count: int) -> dict[str, Any]:
    """Run one part in this process, and see that it has left nothing."""
    with tempfile.TemporaryDirectory(prefix="zt-", dir="/tmp") as folder:
        os.environ["TMPDIR"] = folder
        seconds, watcher = PARTS[name](count, folder)
        left = sorted(os.listdir(folder)) + [f"process {pid}" for pid in children()]
    quantities = watcher.judge(GROWTH_LIMIT)
    return {
        "part": name,
        "count": count,
        "seconds": seconds,
        "left": left,
        "flat": not left and all(quantity.flat for quantity in quantities),
        "quantities": [dataclasses.asdict(quantity) for quantity in quantities],
    }


def run_apart(name: str, count: int) -> dict[str, Any]:
    """Run one part in a process of its own: what the one before it has left in memory does not count."""
    command = [sys.executable, "-m", "benchmarks.soak", "--here", "--only", name, f"--{name}", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def lines(document: dict[str, Any]) -> list[str]:
    """A part's outcome for a terminal."""
    each = document["seconds"] / document["count"]
    rate = f"{1 / each:,.0f} a second" if each < 0.001 else f"{each * 1000:.1f} ms each"
    head = f"  {'':<24}{'start':>12}{'end':>12}{'maximum':>12}{'slope':>14}"
    table = [Quantity(**quantity).line() for quantity in document["quantities"]]
    left = [f"  left behind: {', '.join(document['left'])}"] if document["left"] else []
    return [f"{document['count']:,} {document['part']} in {document['seconds']:.1f} s: {rate}", head, *table, *left, ""]


def _count(arguments: argparse.Namespace, name: str) -> int:
    given: int | None = getattr(arguments, name)
    return given or (QUICK if arguments.quick else COUNTS)[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="Executors, jobs and crashes without number: does anything rise?"
    )
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"how many (default {count:,})")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="only this part; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a few of each: to see that it works")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(only=None)
    return parser


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
