"""Programs in processes of their own, on a terminal of their own if need be, none of whose processes can hide."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import support

CTRL_C = b"\x03"
MARK = "ZT_PROGRAM"
"""An environment variable that all processes of a program inherit: so they are found, whoever their parent is."""


class Program:
    """A Python program. Its directory for temporary files is its own, and its working directory is `folder`."""

    def __init__(self, folder: Path, *arguments: str, terminal: bool = False, **env: str) -> None:
        """`terminal`: stdin, stdout and stderr are a terminal, which sends Ctrl-C; else pipes."""
        self.folder = folder
        self.tmp = Path(tempfile.mkdtemp(prefix="p"))
        self.out = self.err = ""
        """What it has written; with a terminal, `out` has it all."""
        self.ended_at = 0.0
        """When its end was seen, by the monotonic clock."""
        self._mark = os.urandom(8).hex()
        environment = support.environment(TMPDIR=str(self.tmp), **{MARK: self._mark}, **env)
        environment.pop("PYTHONWARNINGS", None)  # users see no ResourceWarning
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if terminal:
            self._screen, inner = os.openpty()
            how = {"stdin": inner, "stdout": inner, "stderr": inner, "preexec_fn": _take_terminal}
            environment |= {"TERM": "xterm", "COLUMNS": "100"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment, start_new_session=True, **how
        )
        self.pid = self.process.pid
        if terminal:
            os.close(inner)
            sources = {"out": self._screen}
        else:
            self._screen = -1
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            sources = {"out": self.process.stdout.fileno(), "err": self.process.stderr.fileno()}
        self._hung_up, self._hang_up = os.pipe()
        self._readers = [threading.Thread(target=self._read, args=source) for source in sources.items()]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, file: int) -> None:
        with contextlib.suppress(OSError):  # a terminal without processes
            while file in select.select([file, self._hung_up], [], [])[0] and (data := os.read(file, 65536)):
                setattr(self, name, getattr(self, name) + data.decode(errors="replace").replace("\r\n", "\n"))

    # --- what it does ---

    def wait_for(self, text: str) -> None:
        """Wait until it has written this."""
        support.wait_for(lambda: text in self.out + self.err, f"{text!r}; it wrote {self.out[-2000:]!r}, {self.err!r}")

    def wait_for_file(self, name: str, count: int = 1) -> None:
        """Wait until there are files in its folder that match."""
        support.wait_for(lambda: len(list(self.folder.glob(name))) >= count, f"the file {name}; it wrote {self.err!r}")

    def touch(self, name: str) -> None:
        """Make a file in its folder."""
        (self.folder / name).touch()

    def press(self, keys: bytes) -> None:
        """Type on its terminal."""
        os.write(self._screen, keys)

    def hang_up(self) -> None:
        """Close its terminal, as a connection that breaks does."""
        os.close(self._hang_up)
        for reader in self._readers:  # a terminal that somebody reads from is not closed
            reader.join(support.DEADLINE)
        os.close(self._screen)
        self._screen = self._hang_up = -1

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self.process.send_signal(number)

    def processes(self) -> set[int]:
        """Return all processes of the program that run, its own included."""
        mark = f"{MARK}={self._mark}".encode()
        return {process.pid for process in support.processes() if process.state not in "ZX" and _has(process.pid, mark)}

    def workers(self) -> set[int]:
        """Return those that are workers."""
        return {pid for pid in self.processes() if support.is_worker(pid)}

    def directories(self) -> list[str]:
        """Return what is in its directory for temporary files."""
        return sorted(os.listdir(self.tmp))

    def finish(self, seconds: float = support.DEADLINE) -> int:
        """Wait until it has ended, with all its processes; return its exit code, negative for a signal."""
        end = monotonic() + seconds
        while (code := self.process.poll()) is None:
            if monotonic() > end:
                raise AssertionError(f"it did not end within {seconds} s; it wrote:\n{self.out}\n{self.err}")
            sleep(0.002)
        self.ended_at = monotonic()
        support.wait_for(lambda: not self.processes(), f"the end of its processes {self.processes()}", 3.0)
        for reader in self._readers:
            reader.join(support.DEADLINE)
        return code

    def close(self) -> None:
        """Kill what still runs."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(support.DEADLINE)
        for reader in self._readers:
            reader.join(support.DEADLINE)
        for descriptor in (self._screen, self._hung_up, self._hang_up):
            if descriptor >= 0:
                os.close(descriptor)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        shutil.rmtree(self.tmp, ignore_errors=True)


@contextlib.contextmanager
def program(folder: Path, *arguments: str, **how: Any) -> Iterator[Program]:
    """Start a program; kill what is left of it at the end."""
    started = Program(folder, *arguments, **how)
    try:
        yield started
    finally:
        started.close()


def script(folder: Path, text: str, **how: Any) -> contextlib.AbstractContextManager[Program]:
    """Start a script."""
    return program(folder, str(support.write_script(folder, text)), **how)


def _has(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _take_terminal() -> None:
    """In the child: make the terminal on its stdin the one that sends Ctrl-C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
