"""Resume under fire: a batch that is killed again and again, whenever it may be, ends complete, and repeats nothing.

Jobs note each execution in a file, which outlives any kill. Before each start the records of successes that are in the
output are read: none of these jobs may be executed from then on.

ZTASKS_TEST_KILLS=200 is a long form, with more inputs; ZTASKS_TEST_SEED=2 is another course of events.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import pytest
import support

import ztasks

KILLS = int(os.environ.get("ZTASKS_TEST_KILLS", "20"))
SEED = int(os.environ.get("ZTASKS_TEST_SEED", "1"))
INPUTS = 20 * KILLS
ENTRY = 24
"""How many bytes the note of an execution has."""

MARK = "ZT_UNDER_FIRE"
"""An environment variable that all processes of the batch inherit."""

TASKS = """
import os, sys, time
from zlib import crc32

def noted():
    try:
        with open("executions") as file:
            return file.read().split("\\n")
    except FileNotFoundError:
        return []

def work(text):
    chance = crc32(text.encode())
    before = [each.strip() for each in noted()] if text.startswith("flaky") else ()
    file = os.open("executions", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{text:<23}\\n".encode())
    os.close(file)
    if chance % 4 == 0:
        print(f"{text} prints", end="\\n" * (chance % 3))
        os.system("echo a child prints")
    time.sleep(chance % 21 / 1000)
    if text.startswith("bad") or (text.startswith("flaky") and text not in before):
        raise ValueError(f"{text} fails")
    return {"text": text, "padding": "x" * (chance % 3000)}
"""


def make_inputs(dice: random.Random) -> list[str]:
    """Return the inputs: most are unique, some fail always, some the first time, and a quarter are one of few."""
    kinds = dice.choices(["plain", "bad", "flaky", "same"], [64, 5, 6, 25], k=INPUTS)
    return [f"{kind} {dice.randrange(8) if kind == 'same' else place}" for place, kind in enumerate(kinds)]


class Snapshot(NamedTuple):
    """What is there while no run is."""

    size: int
    """Of the output, in bytes, without a torn record at its end."""
    executions: int
    ok_keys: frozenset[str]
    ok_inputs: Counter[str]
    """How many successes there are of each input."""


class Batch:
    """The batch: it is started, and looked at."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder = folder
        self.out = folder / "out.jsonl"
        self.inputs = make_inputs(dice)
        self.copies = Counter(self.inputs)
        self.mark = f"{MARK}={os.getpid()}.{SEED}"
        self._dice = dice
        (folder / "tasks.py").write_text(TASKS)

    @contextlib.contextmanager
    def run(self) -> Iterator[subprocess.Popen[str]]:
        """Start it with the inputs in another order each time."""
        self._dice.shuffle(self.inputs)
        (self.folder / "in").write_text("".join(f"{text}\n" for text in self.inputs))
        ordered = self._dice.choice([[], [], ["-k"]])
        command = [
            "-m",
            "ztasks",
            "run",
            "tasks.py:work",
            "--lines",
            "in",
            "-o",
            "out.jsonl",
            "--resume",
            "-j2",
            *ordered,
        ]
        with (
            (self.folder / "stdout").open("a") as stdout,
            (self.folder / "stderr").open("a") as stderr,
            support.running(
                *command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=support.environment(**dict([self.mark.split("=")])),
            ) as process,
        ):
            yield process

    def executions(self) -> int:
        """Return how many jobs have begun, in all runs."""
        path = self.folder / "executions"
        return path.stat().st_size // ENTRY if path.exists() else 0

    def executed(self, since: int = 0) -> list[str]:
        """Return the inputs of jobs that have begun, from one on."""
        path = self.folder / "executions"
        return [line.strip() for line in path.read_text().splitlines()[since:]] if path.exists() else []

    def records(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """Parse the output from some byte on: but for the last, each line must be a whole record."""
        data = self.out.read_bytes()[since:] if self.out.exists() else b""
        *lines, rest = data.split(b"\n")
        for line in lines:
            if line:  # an end of line that was torn off has been added
                yield json.loads(line)
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(rest)

    def ends_whole(self) -> bool:
        """Tell whether the output ends with a whole line."""
        return not self.out.exists() or not (data := self.out.read_bytes()) or data.endswith(b"\n")

    def snapshot(self) -> Snapshot:
        """Look at what there is while no run is."""
        data = self.out.read_bytes() if self.out.exists() else b""
        whole = data.rfind(b"\n") + 1
        with contextlib.suppress(json.JSONDecodeError):
            json.loads(data[whole:])
            whole = len(data)  # all of the last record is there, though its end of line is not
        done = [record for record in self.records() if record["ok"]]
        keys = [record["key"] for record in done]
        assert len(set(keys)) == len(keys), "a job has succeeded twice"
        return Snapshot(whole, self.executions(), frozenset(keys), Counter(record["input"] for record in done))

    def check_since(self, before: Snapshot) -> None:
        """Check that nothing was repeated of what had succeeded before."""
        added = {record["key"] for record in self.records(before.size)}
        assert not added & before.ok_keys, "there is a second record of what had succeeded"
        complete = {text for text, count in before.ok_inputs.items() if count == self.copies[text]}
        again = complete & set(self.executed(before.executions))
        assert not again, f"{sorted(again)} ran again although their records were in the output"

    def processes(self) -> set[int]:
        """Return all processes of all runs."""
        found = set()
        for process in support.processes():
            with contextlib.suppress(OSError):
                if (
                    process.state not in "ZX"
                    and self.mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes()
                ):
                    found.add(process.pid)
        return found


class Gunner:
    """Ends runs, in some way, at some moment."""

    def __init__(self, batch: Batch, dice: random.Random) -> None:
        self.batch = batch
        self.kills = 0
        self.hits: Counter[str] = Counter()
        """What has met a run that was alive."""
        self._dice = dice
        self._startup = 0.5
        """Seconds to the first job."""

    def wait_for_jobs(self, process: subprocess.Popen[str], count: int) -> None:
        """Wait until so many more jobs have begun, or the run has ended."""
        wanted = self.batch.executions() + count
        support.wait_for(
            lambda: process.poll() is not None or self.batch.executions() >= wanted, f"{count} more jobs", 30.0
        )

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL, from the very start to the end."""
        begin, first = monotonic(), self.batch.executions()
        if self._dice.random() < 0.4:
            sleep(self._dice.uniform(0, self._startup))
        else:
            self.wait_for_jobs(process, 1)
            if self.batch.executions() > first:
                self._startup = monotonic() - begin
            self.wait_for_jobs(process, self._dice.randrange(60))
            sleep(self._dice.uniform(0, 0.03))
        self._shoot(process)

    def worker(self, process: subprocess.Popen[str]) -> None:
        """Kill a worker, and soon after that the run."""
        self.wait_for_jobs(process, 1 + self._dice.randrange(8))
        for pid in self._dice.sample(found := sorted(support.workers(process.pid)), min(1, len(found))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.hits["worker"] += 1
        self.wait_for_jobs(process, self._dice.randrange(10))
        self._shoot(process)

    def _shoot(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        code = process.wait(support.DEADLINE)
        assert code in (-signal.SIGKILL, 0, 1), f"exit code {code}"
        self.kills += code == -signal.SIGKILL

    def interrupt(self, process: subprocess.Popen[str]) -> None:
        """Ctrl-C: what runs is finished."""
        self._ask(process, signal.SIGINT)

    def terminate(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM likewise."""
        self._ask(process, signal.SIGTERM)

    def impatient(self, process: subprocess.Popen[str]) -> None:
        """SIGTERM, and SIGKILL right behind it."""
        self.wait_for_jobs(process, 1 + self._dice.randrange(12))
        process.terminate()
        sleep(self._dice.uniform(0, 0.02))
        self._shoot(process)

    def _ask(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        self.wait_for_jobs(process, 1 + self._dice.randrange(12))
        process.send_signal(number)
        code = process.wait(support.DEADLINE)
        assert code in (128 + number, 0, 1), f"exit code {code}"
        self.hits[number.name] += code == 128 + number
        assert self.batch.ends_whole()

    def tear(self) -> None:
        """Cut bytes off the end of the output, as a host that loses its power may do."""
        size = self.batch.out.stat().st_size if self.batch.out.exists() else 0
        if size:
            os.truncate(self.batch.out, max(0, size - self._dice.choice([1, 2, 30, 200])))
            self.hits["torn"] += 1


@pytest.mark.timeout(60 + 4 * KILLS)
def test_a_batch_under_fire_ends_complete(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    batch = Batch(tmp_path, dice)
    gunner = Gunner(batch, dice)
    others = [gunner.worker] * 4 + [gunner.interrupt] * 2 + [gunner.terminate] * 2 + [gunner.impatient]
    plan = [gunner.kill, *(dice.choice(others) if turn % 3 == 2 else gunner.kill for turn in range(4 * KILLS))]
    for shoot in plan:
        before = batch.snapshot()
        with batch.run() as process:
            shoot(process)
        batch.check_since(before)
        if dice.random() < 0.2:
            gunner.tear()
        if dice.random() < 0.3:  # else the next one begins while workers of this one may be ending
            support.wait_for(lambda: not batch.processes(), f"the end of processes {batch.processes()}")
        if gunner.kills >= KILLS:
            break
    assert gunner.kills == KILLS
    assert set(gunner.hits) >= {"worker", "torn"}
    assert gunner.hits["SIGINT"] + gunner.hits["SIGTERM"]

    for code in (None, 1):  # what fails the first time may have had its first time only now
        before = batch.snapshot()
        with batch.run() as process:
            ended = process.wait(support.DEADLINE + INPUTS * 0.05)
            assert code is None or ended == code
        batch.check_since(before)
    check_complete(batch)
    support.wait_for(lambda: not batch.processes(), f"the end of processes {batch.processes()}")
    assert support.run_directories() == []


def check_complete(batch: Batch) -> None:
    """Check that each input has exactly one final record, and it is the right one."""
    assert batch.ends_whole()
    final = list(ztasks.read_records(batch.out))
    assert len({record.key for record in final}) == len(final)
    assert Counter(record.input for record in final) == batch.copies
    for record in final:
        expected = "failed" if record.input.startswith("bad") else "ok"
        assert record.status == expected, record
        assert record.ok is (expected == "ok")
        assert record.result is None if expected == "failed" else record.result["text"] == record.input
    ended: set[str] = set()
    for each in batch.records():
        assert each["key"] not in ended, "nothing comes after a success"
        if each["ok"]:
            ended.add(each["key"])
    assert set(batch.executed()) == set(batch.copies)
    assert (batch.folder / "stdout").read_text() == ""
    told = (batch.folder / "stderr").read_text()
    assert "Traceback" not in told
    assert "what is ok there is skipped" in told
    assert "was torn, as after a kill" in told
