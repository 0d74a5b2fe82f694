"""The commands of `docs/deploy.md` run as they stand, on three hosts, and print what is shown there.

The hosts are network namespaces where those are permitted, and else three directories on this host. Copying between
them is a stand-in for scp, and so is `sqlite3` for the program of that name; what needs root is left out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import support

sys.path.insert(0, str(Path(__file__).parents[1] / "hosts"))

import namespaces
from fleet import marked
from proxy_loop import reserve

from ztasks.cli.main import COMMANDS, LazyGroup

PAGE = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
HOSTS = ("hub", "one", "two")
MARK = "ZT_DEPLOY"

BLOCK = re.compile(
    r"In `(?P<file>[\w.]+)`:\n\n```python\n(?P<text>.*?)^```$"
    r"|\b[Oo]n `(?P<host>\w+)`:\n\n```console\n(?P<steps>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
STAYS = re.compile(r"ztasks (head|worker) ")
"""What runs until it is stopped."""

STAND_INS = {
    "ztasks": f'exec {sys.executable} -m ztasks "$@"',
    "python": f'exec {sys.executable} "$@"',
    "scp": '[ "$1" = -p ] && cp -p "$HOSTS/$(echo "$2" | sed s,:,/,)" "$3"',
    "sqlite3": f"""exec {sys.executable} -c '
import sqlite3, sys
sqlite3.connect(sys.argv[1]).execute(sys.argv[2])' "$@\"""",
}


class Service:
    """A head or a worker that stays."""

    def __init__(self, process: subprocess.Popen[Any], log: Path) -> None:
        self.process, self.log = process, log

    def wait_for(self, lines: list[str]) -> None:
        """Wait until it has written these lines."""

        def written() -> bool:
            over = self.process.poll() is not None
            found = set(lines) <= set(self.log.read_text().splitlines())
            assert found or not over, f"it has ended with {self.process.returncode}"
            return found

        try:
            support.wait_for(written, f"{lines}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it has written:\n{self.log.read_text()}") from None


class Host(NamedTuple):
    """One host: its directory, which is the user's home, and what starts a process there."""

    name: str
    home: Path
    popen: Callable[..., subprocess.Popen[Any]]


class Reader:
    """Who reads the page, and does what it says."""

    def __init__(self, folder: Path, hosts: dict[str, Host], instead: dict[str, str], listen: str) -> None:
        """`instead`: what stands on the page, and what is so here."""
        self.hosts, self._instead = hosts, instead
        self.services: list[Service] = []
        self.mark = f"{folder}"
        self._exports: dict[str, list[str]] = {name: [] for name in hosts}
        stand_ins = folder / "bin"
        stand_ins.mkdir()
        for name, text in STAND_INS.items():
            (stand_ins / name).write_text(f"#!/bin/sh\n{text}\n")
            (stand_ins / name).chmod(0o755)
        self._env = support.environment(
            PATH=f"{stand_ins}{os.pathsep}{os.environ['PATH']}",
            HOSTS=str(folder),
            LC_ALL="C.UTF-8",
            ZTASKS_LISTEN=listen,
            **{MARK: self.mark},
        )
        del self._env["PYTHONWARNINGS"]

    def do(self, host: Host, command: str, shown: str) -> None:
        """Run one command, and compare what it prints."""
        command, shown = self.here(host, command), self.here(host, shown)
        if STAYS.match(command):
            self._start(host, command).wait_for(shown.splitlines())
        elif command.startswith("export "):
            self._exports[host.name].append(command)
        else:
            assert sorted(self.run(host, command).splitlines()) == sorted(shown.splitlines()), f"$ {command}"
            if command.startswith("ztasks stop"):
                for service in self.services:
                    assert service.process.wait(support.DEADLINE) == 0, service.log.read_text()

    def here(self, host: Host, text: str) -> str:
        """Return what stands on the page as it is here."""
        for on_page, instead in {**self._instead, "/home/ann": str(host.home)}.items():
            text = text.replace(on_page, instead)
        return text

    def run(self, host: Host, command: str) -> str:
        """Run a command to its end; return what it prints, stderr included."""
        script = "\n".join((*self._exports[host.name], command))
        with self._popen(host, script, stdout=subprocess.PIPE) as process:
            out, _ = process.communicate(timeout=30)
        return str(out)

    def _start(self, host: Host, command: str) -> Service:
        log = host.home.parent / f"{host.name}-{len(self.services)}.log"
        with open(log, "wb") as stdout:
            self.services.append(Service(self._popen(host, f"exec {command}", stdout=stdout), log))
        return self.services[-1]

    def _popen(self, host: Host, script: str, **how: Any) -> subprocess.Popen[Any]:
        return host.popen(
            ["bash", "-c", script],
            cwd=host.home,
            env={**self._env, "HOME": str(host.home)},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **how,
        )

    def close(self) -> None:
        """End what still runs: those that were started last first."""
        for service in reversed(self.services):
            if service.process.poll() is None:
                service.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    service.process.wait(support.DEADLINE)
        left = marked(f"{MARK}={self.mark}".encode())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for service in self.services:
            service.process.wait(support.DEADLINE)
        assert not left, "\n".join(service.log.read_text() for service in self.services)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    homes = {name: tmp_path / name for name in HOSTS}
    for home in homes.values():
        home.mkdir()
    with contextlib.ExitStack() as stack:
        if namespaces.why_not() is None:
            apart = dict(zip(HOSTS, stack.enter_context(namespaces.hosts(len(HOSTS))), strict=True))
            hosts = {name: Host(name, homes[name], apart[name].popen) for name in HOSTS}
            hub, listen = apart["hub"].address, "127.0.0.1:7070"
            instead = {"--advertise hub": f"--advertise {hub}", "hub:7070": f"{hub}:7070"}
        else:
            hosts = {name: Host(name, homes[name], subprocess.Popen) for name in HOSTS}
            holders = [stack.enter_context(contextlib.closing(holder)) for holder in reserve(8)]
            port = holders[0].getsockname()[1]
            listen = f"127.0.0.1:{port}"
            instead = {"--advertise hub": "--advertise 127.0.0.2", "127.0.0.1:7070": listen}
            instead |= dict.fromkeys(("0.0.0.0:7070", "hub:7070"), f"127.0.0.2:{port}")
        reader = Reader(tmp_path, hosts, instead, listen)
        stack.callback(reader.close)
        yield reader


@pytest.mark.timeout(120)
def test_the_page_runs(reader: Reader) -> None:
    files, commands = 0, 0
    for found in BLOCK.finditer(PAGE):
        if found["file"]:
            files += 1
            (reader.hosts["hub"].home / found["file"]).write_text(found["text"])
            continue
        for command, shown in STEP.findall(found["steps"]):
            commands += 1
            if "jq" not in command or shutil.which("jq"):
                reader.do(reader.hosts[found["host"]], command, shown)
    assert PAGE.count("```") == 2 * (len(list(BLOCK.finditer(PAGE))))
    assert (files, commands > 20) == (1, True)
    check_backup(reader)


def check_backup(reader: Reader) -> None:
    """A head starts from the copies, and the workers, which have lost the other one, join it."""
    hub = reader.hosts["hub"]
    *_, head, one, two = reader.services
    head.process.kill()
    head.process.wait(support.DEADLINE)
    assert reader.run(hub, "rm -r ztasks && mkdir -m 700 ztasks && cp -p backup/* ztasks/") == ""
    (command,) = re.findall(r"^\$ (ztasks head --listen .*)$", PAGE, re.MULTILINE)
    reader.do(hub, command, "ztasks head: ready, listening on 0.0.0.0:7070 as hub:7070\n")
    assert reader.run(hub, "python collatz.py") == "849666\n"
    for worker in (one, two):
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(support.DEADLINE) == 0, worker.log.read_text()


def test_the_page_names_commands_and_options_that_exist() -> None:
    group = LazyGroup()
    used = re.findall(r"(?:^|[`$ ])ztasks ([a-z]+)((?: (?![|&<>])[^\s`]+)*)", PAGE, re.MULTILINE)
    assert {name for name, _ in used} >= {"head", "worker", "workers", "status", "keys", "stop", "run"}
    for name, rest in used:
        if name not in COMMANDS:
            continue  # a sentence goes on
        command = group.get_command(None, name)  # type: ignore[arg-type]
        commands = [command, *getattr(command, "commands", {}).values()]
        flags = {flag for each in commands for parameter in each.params for flag in parameter.opts}
        given = {word for word in rest.split() if re.fullmatch(r"--?[a-zA-Z][\w-]*", word)}
        assert given <= flags, f"ztasks {name}{rest}"


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="hosts and /proc are Linux's")
