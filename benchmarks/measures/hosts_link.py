"""Across hosts: 1 GiB through a slow link, as arguments and as results. Nobody may be taken for lost meanwhile."""

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.contestants.hosts_ours import PORTS, ZtasksHosts
from benchmarks.memory import MIB
from benchmarks.model import Goal, Measure, Row, Sample, Settings
from benchmarks.programs import free_ports

RATE = 100
"""MiB that pass in a second, each way."""

JOB_MIB = 4
ROOT = Path(__file__).resolve().parent.parent.parent
ALARMS = ("is gone", "joined anew", "not been heard of", "lease")
"""What the head and the foreman say when they miss each other."""


def run(contestant: ZtasksHosts, settings: Settings) -> Iterator[Sample]:
    """Both ways in turn, then how often the parts have missed each other, and what a no-op took meanwhile."""
    jobs = settings.scaled(1024) // JOB_MIB
    head_port, first_port = free_ports(PORTS), free_ports(PORTS)
    with _slow_link(head_port, first_port):
        contestant.start(address=f"127.0.0.1:{first_port}", port=head_port)
        executor = contestant.executor = contestant.client()
        executor.submit(work.noop, 0).result()
        lane = _lane(executor)
        with _probing(contestant) as delays:
            started = time.perf_counter()
            arguments = (os.urandom(JOB_MIB * MIB) for _ in range(jobs))
            if sum(executor.map(len, arguments)) != jobs * JOB_MIB * MIB:
                raise AssertionError("arguments are missing")
            yield Sample("hosts_link-arguments", jobs * JOB_MIB / (time.perf_counter() - started), jobs)
            started = time.perf_counter()
            if sum(map(len, executor.map(os.urandom, itertools.repeat(JOB_MIB * MIB, jobs)))) != jobs * JOB_MIB * MIB:
                raise AssertionError("results are missing")
            yield Sample("hosts_link-results", jobs * JOB_MIB / (time.perf_counter() - started), jobs)
        foreman = contestant.foreman
        assert foreman is not None
        said = contestant.head.said + foreman.said
        alarms = sum(said.count(words) for words in ALARMS)
        alarms += _lane(executor) != lane
        yield Sample("hosts_link-alarms", alarms, 2 * jobs)
        yield Sample("hosts_link-delay", max(delays) * 1e3, len(delays))
        contestant.close()


def _lane(client: Any) -> int:
    """The number of a client's join: another one if it has joined anew."""
    return int(client._remote._way.link.lane)


@contextmanager
def _slow_link(head_port: int, first_port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.slow_link", *map(str, (head_port, PORTS, first_port, RATE * MIB))]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the link could not be made")
        yield
        process.communicate()


@contextmanager
def _probing(contestant: ZtasksHosts) -> Iterator[list[float]]:
    """Submit a no-op now and then from another client; its round trips."""
    delays: list[float] = []
    over = threading.Event()

    def probe() -> None:
        with contestant.client() as client:
            while not over.wait(0.5):
                started = time.perf_counter()
                client.submit(work.noop, 0).result()
                delays.append(time.perf_counter() - started)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield delays
    finally:
        over.set()
        thread.join()


MEASURE = Measure(
    name="hosts_link",
    rows=(
        Row("hosts_link-arguments", f"1 GiB of arguments through a link of {RATE} MiB/s each way", "MiB/s", digits=1),
        Row("hosts_link-results", "1 GiB of results through it", "MiB/s", digits=1),
        Row(
            "hosts_link-alarms",
            "how often head, foreman or client took each other for lost",
            "times",
            higher_is_better=False,
            goals=(Goal(0),),
        ),
        Row(
            "hosts_link-delay",
            "the longest round trip of another client's no-op meanwhile",
            "ms",
            higher_is_better=False,
        ),
    ),
    run=run,
    opens_itself=True,
    hosts=True,
    only=frozenset({"ztasks"}),
)
