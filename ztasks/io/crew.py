"""The crew: starts, watches, kills and replaces the worker processes of one host.

Workers are plain subprocesses, watched through the operating system: a pidfd becomes readable when its process has
ended (where there are none, a waiting thread tells). All methods run in the head's own thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from ztasks.io.cell import Cell
from ztasks.io.hostinfo import cores

TAIL_BYTES: Final = 4096
"""How much of a worker's stderr is kept for messages about its end."""

MAIN: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "worker_main.py")
THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What numeric libraries read to decide how many threads to start."""


class WorkerProcess:
    """One worker process: its lane's number, its cell, and what it has written to stderr last."""

    def __init__(self, lane: int, cell: Cell, process: subprocess.Popen[bytes], lifeline: int, output: int) -> None:
        self.lane = lane
        self.cell = cell
        self.pid = process.pid
        self.ready = False
        self.output: int | None = output
        """The descriptor to read its stderr from, until it has been read to its end."""
        self.exit_code: int | None = None
        """Negative: the number of the signal that ended it. None while it lives."""
        self._process = process
        self._lifeline = lifeline
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._line = b""

    @property
    def tail(self) -> str:
        """The last it wrote to stderr."""
        return (b"".join(self._tail) + self._line).decode(errors="replace")[-TAIL_BYTES:].strip()

    def read_output(self, *, last: bool = False) -> bytes:
        """Return what it wrote since, in whole lines (`last`: all); closes the descriptor at its end."""
        if self.output is None:
            return b""
        chunks = [self._line]
        try:
            while chunk := os.read(self.output, 65536):
                chunks.append(chunk)
            lines, self._line = b"".join(chunks), b""
            self._close_output()
        except BlockingIOError:
            lines, newline, self._line = b"".join(chunks).rpartition(b"\n")
            lines += newline
            if last:
                lines, self._line = lines + self._line, b""
        if lines:
            self._tail.append(lines[-TAIL_BYTES:])
            self._tail_size += len(self._tail[-1])
            while self._tail_size - len(self._tail[0]) > TAIL_BYTES:
                self._tail_size -= len(self._tail.popleft())
        return lines

    def _close_output(self) -> None:
        if self.output is not None:
            os.close(self.output)
            self.output = None

    def kill(self) -> None:
        """Kill it and all that its jobs have started. Safe until `reap`: an unreaped process keeps its number."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> int:
        """Take the exit code of a process that has ended, and end what its jobs have left behind."""
        self.kill()
        self.exit_code = self._process.wait()
        return self.exit_code

    def let_go(self) -> None:
        """Close this process's copy of the lifeline; in a forked child, the worker's life must not hang on it."""
        lifeline, self._lifeline = self._lifeline, -1  # a number is closed once
        if lifeline >= 0:
            os.close(lifeline)

    def close(self) -> None:
        """Release its descriptors and its cell (after `reap`)."""
        self._close_output()
        self.let_go()
        self.cell.close()

    def how_it_ended(self) -> str:
        """Describe its end in words."""
        code = self.exit_code
        if code is None:
            return f"worker {self.pid} is gone"
        if code < 0:
            try:
                name = signal.Signals(-code).name
            except ValueError:
                name = f"signal {-code}"
            return f"worker {self.pid} was killed by {name}"
        return f"worker {self.pid} exited with code {code}"


class Crew:
    """The worker processes of one executor."""

    def __init__(self, directory: str, workers: int, own_stdout: bool, environment: dict[str, str]) -> None:
        """`own_stdout`: workers write to this process's stdout; else their stdout goes the way of their stderr."""
        self.workers: dict[int, WorkerProcess] = {}
        self._directory = directory
        self._own_stdout = own_stdout
        self._environment = environment
        threads = str(max(1, cores() // workers))
        for variable in THREAD_VARIABLES:
            self._environment.setdefault(variable, threads)

    def start(self, lane: int) -> WorkerProcess:
        """Start a worker process; raises OSError."""
        cell = Cell(os.path.join(self._directory, f"cell-{lane}"), create=True)
        descriptors: list[int] = []
        try:
            lifeline, held = os.pipe()
            descriptors += lifeline, held
            output, stderr = os.pipe()
            descriptors += output, stderr
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            process = subprocess.Popen(
                [sys.executable, *flags, "-P", MAIN, self._directory, str(lane), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=None if self._own_stdout else stderr,
                stderr=stderr,
                env=self._environment,
                pass_fds=[lifeline],
                process_group=0,
            )
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            cell.close()
            raise
        os.close(lifeline)
        os.close(stderr)
        os.set_blocking(output, False)
        worker = self.workers[lane] = WorkerProcess(lane, cell, process, held, output)
        return worker

    def forget(self, worker: WorkerProcess) -> None:
        """Release all of a worker that has been reaped."""
        del self.workers[worker.lane]
        worker.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, f"cell-{worker.lane}"))


def watch_exit(worker: WorkerProcess, ended: Callable[[], None]) -> int | None:
    """Return a descriptor that becomes readable when the worker has ended; where there is none, `ended` is called."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(worker.pid)

    def wait() -> None:
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        ended()

    threading.Thread(target=wait, name=f"ztasks-wait-{worker.pid}", daemon=True).start()
    return None


def write_stderr(lines: bytes) -> None:
    """Write workers' output to this process's stderr."""
    try:
        os.write(2, lines)
    except OSError:  # stderr is closed or full: there is nobody to tell
        return
