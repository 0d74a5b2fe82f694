"""Hosts for tests: network namespaces that are joined by a switch, each with an address, a loopback and a cable.

What must hold: at the end all is removed, what runs in there included, even after a failure; what a killed test process
has left is removed by the next one. Where the system has no `ip`, or does not permit this, the test is skipped, and
says why. Only the network is separate: processes, files and the host's name are shared.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, environment, wait_for, wait_gone

IP = shutil.which("ip", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin")))
KNOWN = Path("/run/netns")
"""Where `ip` keeps the names of namespaces."""

NET = 0x40000000
"""CLONE_NEWNET: what setns(2) enters is a network namespace."""

SWITCH = "switch"
NAME = re.compile(r"zt-(\d+)-(\d+)-\d+-\w+")
"""The process that has made it and when that started, a number, and what it is."""

_numbers = itertools.count()


class Host:
    """One namespace. Its network device is `cable`, and the other end of that is in the switch."""

    def __init__(self, prefix: str, number: int) -> None:
        self.name = f"{prefix}-{number}"
        self.address = f"192.0.2.{number}"
        self._switch, self._port = f"{prefix}-{SWITCH}", f"port{number}"
        self._started: list[subprocess.Popen[Any]] = []

    def popen(self, argv: Sequence[str | os.PathLike[str]], **how: Any) -> subprocess.Popen[Any]:
        """Start a process on this host; its pid is the program's own. It is killed at the end, if it still runs."""
        process = subprocess.Popen([*_command("netns", "exec", self.name), *argv], **{"env": environment(), **how})
        self._started.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread be on this host: sockets that it makes and threads that it starts stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(KNOWN / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _enter(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(before)

    def link_down(self) -> None:
        """Pull the cable out at the switch: nothing comes or goes any more, and nobody is told."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def link_up(self) -> None:
        """Put it in again, and wait until the device knows."""
        _ip("-n", self._switch, "link", "set", self._port, "up")
        wait_for(lambda: "state UP" in _ip("-n", self.name, "link", "show", "cable"), f"the link of {self.name}")

    def pids(self) -> set[int]:
        """Return all processes that run on this host."""
        return _pids(self.name)

    def close(self) -> None:
        """Kill what runs here, reap what was started from here, and close its pipes."""
        _kill(self.name)
        for process in self._started:
            process.wait(DEADLINE)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make so many hosts that reach each other, at 192.0.2.1, 192.0.2.2, ...; skip the test where that cannot be."""
    if why := why_not():
        pytest.skip(why)
    sweep()
    prefix = f"zt-{os.getpid()}-{_start_of(os.getpid())}-{next(_numbers)}"
    made = [Host(prefix, number) for number in range(1, count + 1)]
    try:
        _make(prefix, made)
        yield made
    finally:
        with contextlib.ExitStack() as stack:  # each of these is done, whatever becomes of the others
            for name in (f"{prefix}-{SWITCH}", *(host.name for host in made)):
                stack.callback(_remove, name)
            for host in made:
                stack.callback(host.close)


def _make(prefix: str, made: list[Host]) -> None:
    switch = f"{prefix}-{SWITCH}"
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", SWITCH, "type", "bridge")
    _ip("-n", switch, "link", "set", SWITCH, "up")
    for number, host in enumerate(made, start=1):
        _ip("netns", "add", host.name)
        port, peer = f"port{number}", ("peer", "name", "cable", "netns", host.name)
        _ip("-n", switch, "link", "add", port, "type", "veth", *peer)
        _ip("-n", switch, "link", "set", port, "master", SWITCH)
        _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
        _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", host.name, "link", "set", "cable", "up")
        host.link_up()


# --- what is permitted ---


@functools.cache
def why_not() -> str | None:
    """Return why there can be no namespaces here; None if there can."""
    if IP is None:
        return "network namespaces need the program `ip` (iproute2), which is not installed"
    name = f"zt-{os.getpid()}-{_start_of(os.getpid())}-{next(_numbers)}-probe"
    steps = (
        ("netns", "add", name),
        ("-n", name, "link", "add", "cable", "type", "veth", "peer", "name", "port"),
        ("-n", name, "link", "add", SWITCH, "type", "bridge"),
        ("netns", "exec", name, "true"),
    )
    try:
        for step in steps:
            _ip(*step)
    except CommandFailed as error:
        return f"network namespaces cannot be made here: {error}"
    finally:
        with contextlib.suppress(CommandFailed):
            _ip("netns", "delete", name)
    return None


def sweep() -> None:
    """Remove the namespaces of test processes that are gone, and kill what still runs in them."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(KNOWN):
            found = NAME.fullmatch(name)
            if found and _start_of(int(found[1])) != found[2]:
                with contextlib.suppress(CommandFailed):  # another test process was quicker
                    _kill(name)
                    _remove(name)


def _start_of(pid: int) -> str:
    """Return when a process started, in clock ticks since the system did; "" if it does not run.

    A pid may be another process's some day; the two together are not.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


# --- commands ---


class CommandFailed(Exception):
    """What `ip` was asked to do, and what it has said."""


def _command(*arguments: str) -> list[str]:
    assert IP is not None
    return [IP, *arguments]


def _ip(*arguments: str) -> str:
    done = subprocess.run(_command(*arguments), capture_output=True, text=True, timeout=DEADLINE, check=False)
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or f"nothing, and its exit code is {done.returncode}"
        raise CommandFailed(f"`ip {' '.join(arguments)}` says: {said}")
    return done.stdout


def _pids(name: str) -> set[int]:
    return set(map(int, _ip("netns", "pids", name).split()))


def _kill(name: str) -> None:
    """Kill all processes of a namespace, and what they start meanwhile."""
    if (KNOWN / name).exists():

        def gone() -> bool:
            pids = _pids(name)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_gone(pids)
            return not pids

        wait_for(gone, f"the end of what runs in {name}")


def _remove(name: str) -> None:
    """Remove a namespace's name, and so its devices; there may be none yet."""
    if (KNOWN / name).exists():
        _ip("netns", "delete", name)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, NET):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
