"""The order of a run: rounds, in each every measure, in each every contestant, in a process of its own."""

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import orphans
from benchmarks.model import Sample, Settings

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Trial:
    """What one contestant showed for one measure in one round; `problem` says what went wrong, or nothing."""

    round: int
    measure: str
    contestant: str
    seconds: float
    samples: tuple[Sample, ...]
    problem: str = ""


def rotated(names: Sequence[str], by: int) -> list[str]:
    """`names` with the first `by` moved to the end."""
    by %= len(names)
    return [*names[by:], *names[:by]]


def play(
    rounds: int,
    contestants: Mapping[str, Sequence[str]],
    settings: Settings,
    timeout: float,
    announce: Callable[[Trial], None],
) -> Iterator[Trial]:
    """Run all trials one after the other, `contestants` of each measure; whoever begins a round ends the next one."""
    orphans.adopt()
    for number in range(rounds):
        for measure, names in contestants.items():
            for contestant in rotated(names, number):
                trial = attempt(number + 1, measure, contestant, settings, timeout)
                announce(trial)
                yield trial


def attempt(round_: int, measure: str, contestant: str, settings: Settings, timeout: float) -> Trial:
    """Run one trial; after `timeout` seconds its whole process group is killed.

    Whatever the trial leaves behind, processes and temporary files, goes before the next one begins.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        report, log = Path(folder, "report"), Path(folder, "log")
        command = [sys.executable, "-m", "benchmarks.child", measure, contestant]
        command += ["--report", str(report), "--settings", json.dumps(dataclasses.asdict(settings))]
        started = time.perf_counter()
        code = _run(command, log, timeout, _environment(folder))
        seconds = time.perf_counter() - started
        orphans.end_all()
        lines = report.read_text().splitlines() if report.exists() else []
        records = [json.loads(line) for line in lines]
        problem = _problem(code, log, timeout, closed=bool(records) and records[-1] == "closed")
    samples = tuple(Sample(**record) for record in records if isinstance(record, dict))
    return Trial(round_, measure, contestant, seconds, samples, problem)


def _run(command: list[str], log: Path, timeout: float, environment: dict[str, str]) -> int | None:
    """The exit code, or None when the time was over."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            ended = _has_ended(process.pid, timeout)
        finally:
            # The child is not reaped yet, so the number of its group cannot have gone to another.
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        return code if ended else None


def _has_ended(pid: int, timeout: float) -> bool:
    """Wait for a child to end, without reaping it; false after `timeout` seconds."""
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], timeout)
    finally:
        os.close(descriptor)
    return bool(ready)


def _environment(folder: str) -> dict[str, str]:
    """As in an activated virtual environment, with temporary files in `folder`.

    The checkout can be imported by workers of any kind, also by those that a shell starts. Bytecode is
    cached: peers are installed with theirs, so a checkout compiled at each start would be judged unfairly.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name, first in (("PATH", str(Path(sys.executable).parent)), ("PYTHONPATH", str(ROOT))):
        environment[name] = os.pathsep.join(filter(None, [first, environment.get(name)]))
    for name in ("TMPDIR", "RAY_TMPDIR"):
        environment[name] = folder
    return environment


def _problem(code: int | None, log: Path, timeout: float, closed: bool) -> str:
    if code == 0 and closed:
        return ""
    what = f"killed after {timeout:g} s" if code is None else f"exit code {code}"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return ": ".join([what, *last])
