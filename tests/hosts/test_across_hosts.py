"""A head, two foremen and clients on hosts of their own: cables are pulled out and put in again, each part is killed.

And the README's five lines, as they stand there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import NamedTuple

import jobs_across as jobs
import pytest
import support
from fleet import Fleet, Part
from namespaces import Host, hosts
from support import DEADLINE

from ztasks import Client

LEASE = "1s"
SHORT_SECONDS = 0.3
"""How long a cable is out if nobody is to be given up."""


class Parts(NamedTuple):
    """Who runs where: the head on the first host, foremen on the second and third, a client on the fourth."""

    fleet: Fleet
    hosts: list[Host]
    foremen: dict[str, Part]
    client: Client

    def start(self, name: str) -> None:
        """Start a foreman, the first time or again."""
        host = self.hosts[{"a": 1, "b": 2}[name]]
        self.foremen[name] = self.fleet.start_foreman(name, workers=2, host=host)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with hosts(4) as made, Fleet(tmp_path, host=made[0], journal=True, lease=LEASE) as fleet:
        fleet.start_head()
        with made[3].entered():  # a client's thread is where it was started
            client = fleet.client()
            client.ask("status")
        parts = Parts(fleet, made, {}, client)
        for name in ("a", "b"):
            parts.start(name)
        yield parts


def test_cables_are_pulled_out_and_put_in_again_while_jobs_run(parts: Parts, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    fleet = parts.fleet
    head, a, _, own = parts.hosts
    with jobs.Pressure(parts.client, notes) as pressure:
        for host in parts.hosts:
            pressure.wait_for_more()
            host.link_down()
            sleep(SHORT_SECONDS)  # this is the fault
            host.link_up()
        pressure.wait_for_more()
        a.link_down()  # one foreman, for longer than its lease: the other one does its work
        jobs.wait_lost(fleet.head, parts.foremen["a"])
        pressure.wait_for_more()
        a.link_up()
        jobs.wait_for_last(parts.foremen["a"], "joined anew", behind=jobs.UNHEARD)
        pressure.wait_for_more()
        head.link_down()  # the head: nobody hears of anybody
        for foreman in parts.foremen.values():
            jobs.wait_lost(fleet.head, foreman)
        head.link_up()
        pressure.wait_for_more()
        own.link_down()  # the client
        with pytest.raises(TimeoutError):
            parts.client.ask_whole("status", {}, seconds=2.0)
        own.link_up()
        pressure.wait_for_more()
    assert set(jobs.notes(notes)) == set(map(str, range(pressure.count)))


def test_each_part_is_killed_while_jobs_run(parts: Parts, tmp_path: Path) -> None:
    notes, of_client = tmp_path / "notes", tmp_path / "of-client"
    fleet = parts.fleet
    with jobs.Pressure(parts.client, notes) as pressure:
        for name in ("a", "b"):
            pressure.wait_for_more()
            parts.foremen[name].kill()
            pressure.wait_for_more()
            parts.start(name)
        pressure.wait_for_more()
        fleet.head.kill()
        fleet.start_head()
        pressure.wait_for_more()
        other = fleet.start_script("client", CLIENT, str(of_client), host=parts.hosts[3])
        other.wait_for("submitted")
        other.kill()  # what it had submitted is in the journal
        support.wait_for(lambda: Counter(jobs.notes(of_client)) == Counter(map(str, range(30))), "its jobs")
        pressure.wait_for_more()
    assert set(jobs.notes(notes)) == set(map(str, range(pressure.count)))


CLIENT = """
import sys
import time

import jobs_across

import ztasks

with ztasks.Client() as client:
    futures = [client.submit(jobs_across.run, sys.argv[1], number, 0.01) for number in range(30)]
    print("submitted", file=sys.stderr, flush=True)
    time.sleep(60)
"""


# --- the README ---

APP = """
import os


def task(number: int) -> str:
    return f"{number * number} on {os.environ['WHERE']}"
"""

LINE = re.compile(r"^(alpha|beta)\$ +(.*)$", re.MULTILINE)


class Shell:
    """The shell of somebody who sits at a host, with a home directory there."""

    def __init__(self, name: str, host: Host, folder: Path) -> None:
        self.home = folder / name
        self.home.mkdir()
        self._said = folder / f"{name}.txt"
        path = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
        env = support.environment(PATH=path, HOME=str(self.home), WHERE=name)
        with open(self._said, "wb") as said:
            self._process = host.popen(
                ["sh"], cwd=self.home, env=env, stdin=subprocess.PIPE, stdout=said, stderr=said, text=True
            )
        self._lines = 0

    def do(self, line: str) -> None:
        """Type a line, and wait until it is done; it must succeed."""
        self._lines += 1
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{line}\necho line {self._lines}: $?\n")
        stdin.flush()

        def done() -> re.Match[str] | None:
            return re.search(rf"^line {self._lines}: (\d+)$", self.said, re.MULTILINE)

        found = support.wait_for(done, f"the end of {line!r} after {self.said}")
        assert found[1] == "0", self.said

    @property
    def said(self) -> str:
        """What has been written there."""
        return self._said.read_text()

    def leave(self) -> None:
        """End the shell, what it has started last first."""
        self.do("kill $! && wait $!")
        self._process.communicate("exit\n", timeout=DEADLINE)
        assert self._process.returncode == 0


def test_the_readmes_two_hosts_in_five_lines(tmp_path: Path) -> None:
    """As they stand there, but for the address of `alpha`, which has no name here, and for scp, which copies."""
    lines = LINE.findall((support.ROOT / "README.md").read_text())
    assert [host for host, _ in lines] == ["alpha", "beta", "beta", "alpha", "alpha"]
    with hosts(2) as (one, other):
        commands = tmp_path / "bin"
        commands.mkdir()
        shells = {"alpha": Shell("alpha", one, tmp_path), "beta": Shell("beta", other, tmp_path)}
        home = shells["alpha"].home
        for name, text in {
            "ztasks": f'exec {shlex.quote(sys.executable)} -m ztasks "$@"',
            "scp": f'[ "$1" = -p ] && exec cp -p {shlex.quote(str(home))}/"${{2#alpha:}}" "$3"',
        }.items():
            (commands / name).write_text(f"#!/bin/sh\n{text}\n")
            (commands / name).chmod(0o700)
        (home / "app.py").write_text(APP)
        (home / "in.jsonl").write_text("".join(f"{number}\n" for number in range(100)))
        for host, line in lines:
            shells[host].do(line.replace("--advertise alpha", f"--advertise {one.address}"))
            if " head " in line:
                support.wait_for(lambda: "ready" in shells["alpha"].said, "the head")
        results = [json.loads(line)["result"] for line in (home / "out.jsonl").read_text().splitlines()]
        assert sorted(results) == sorted(f"{number * number} on beta" for number in range(100))
        assert (home / "state.db").exists()
        for shell in (shells["beta"], shells["alpha"]):
            shell.leave()
            assert "Traceback" not in shell.said
