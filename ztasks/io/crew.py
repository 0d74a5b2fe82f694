"""The crew: starts, watches, kills and replaces the worker processes of one host.

Workers are plain subprocesses, watched through the operating system: a pidfd becomes readable when its process has
ended (where there are none, a waiting thread tells). All methods run in the head's own thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, NamedTuple

from ztasks.io import stacks
from ztasks.io.cell import CLAIMED_AT, STARTED, Cell
from ztasks.io.devices import DEVICE_VARIABLE, Devices
from ztasks.io.hostinfo import cores, host_name, peak_memory
from ztasks.wire.certificate import DeathCertificate

TAIL_BYTES: Final = 4096
"""How much of a worker's stderr is kept for messages about its end."""

DOOM_SECONDS: Final = 1.0
"""How long after it was asked for its stack a worker's crash may come of that."""

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


class Doom(NamedTuple):
    """A worker is about to be killed, and was asked for its stack."""

    meant: int | None
    """The position of the job that it is killed for; None: whatever it runs."""
    culprit: tuple[int, bool]
    """The position of the job to blame, and whether that had run out of time."""
    why: str
    since: float
    """Monotonic seconds."""
    start: int
    """How large the file with its stacks was then: what is before that, is of other jobs."""
    size: int
    """How large it was when last looked at."""


class WorkerProcess:
    """One worker process: its lane's number, its cell, and what it has written to stderr last."""

    def __init__(
        self, lane: int, cell: Cell, process: subprocess.Popen[bytes], lifeline: int, output: int, stacks: str
    ) -> None:
        """`stacks`: the file to which it writes stacks."""
        self.lane = lane
        self.cell = cell
        self.pid = process.pid
        self.ready = False
        self.output: int | None = output
        """The descriptor to read its stderr from, until it has been read to its end."""
        self.exit_code: int | None = None
        """Negative: the number of the signal that ended it. None while it lives."""
        self.reason = ""
        """Why it was killed by its parent."""
        self.doomed: Doom | None = None
        """Set when it was asked for its stack, being about to be killed."""
        self.waited: tuple[int, int] | None = None
        """The position whose arguments, or outcome, are under way, and how often that has been seen."""
        self.killed_for: tuple[int, bool] | None = None
        """The position of the job that it was killed for, and whether that had run out of time."""
        self.ended_at = 0
        """CLOCK_MONOTONIC nanoseconds when its end was noticed."""
        self.device: str | None = None
        """The GPU that it was pinned to."""
        self._peak_memory: int | None = None
        self._inherited_peak = peak_memory()
        """A process begins with the peak of the one that started it: what is not above that, says nothing."""
        self._stacks = stacks
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

    def kill(self, reason: str = "") -> None:
        """Kill it and all that its jobs have started. Safe until `reap`: an unreaped process keeps its number."""
        if self.exit_code is None:
            self.reason = self.reason or reason
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def stack_size(self) -> int:
        """Return how many bytes of stacks it has written."""
        try:
            return os.stat(self._stacks).st_size
        except OSError:
            return 0

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def reap(self) -> int:
        """Take the exit code of a process that has ended, and end what its jobs have left behind."""
        self.kill()
        if self.exit_code is None:
            _, status, usage = os.wait4(self.pid, 0)
            self.ended_at = monotonic_ns()
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self._peak_memory = peak if peak > self._inherited_peak else None
            self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(status)
            self._settle_doom()
        return self.exit_code

    def _settle_doom(self) -> None:
        """Whoever crashes while it writes down its stack has died of being asked: a job that holds the interpreter with
        all signals blocked leaves that to another thread, and may go on in the midst of it."""
        doom, crashed = self.doomed, self.exit_code in (-signal.SIGSEGV, -signal.SIGBUS)
        if doom and crashed and self.killed_for is None and self.ended_at / 1e9 - doom.since < DOOM_SECONDS:
            self.killed_for, self.reason = doom.culprit, doom.why

    def certificate(self) -> DeathCertificate:
        """Say all that is known of its end (after `reap`)."""
        code, started = self.exit_code, self.cell.fields[STARTED] or self.cell.fields[CLAIMED_AT]
        return DeathCertificate(
            pid=self.pid,
            host=host_name(),
            signal=_signal_name(-code) if code is not None and code < 0 else None,
            exit_code=code if code is not None and code >= 0 else None,
            reason=self.reason,
            seconds=(self.ended_at - started) / 1e9 if started else None,
            peak_memory=self._peak_memory,
            stack=stacks.read(self._stacks, self.doomed.start if self.doomed and self.killed_for else None),
            stderr=self.tail,
        )

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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Crew:
    """The worker processes of one executor."""

    def __init__(
        self,
        directory: str,
        workers: int,
        own_stdout: bool,
        environment: dict[str, str],
        devices: Devices | None = None,
    ) -> None:
        """`own_stdout`: workers write to this process's stdout; else their stdout goes the way of their stderr.

        `devices`: the GPUs, one of which each worker is pinned to.
        """
        self._devices = devices
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
        device = self._devices.take() if self._devices is not None else None
        environment = self._environment if device is None else {**self._environment, DEVICE_VARIABLE: device}
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
                env=environment,
                pass_fds=[lifeline],
                process_group=0,
            )
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            cell.close()
            os.unlink(os.path.join(self._directory, f"cell-{lane}"))
            if self._devices is not None and device is not None:
                self._devices.give_back(device)
            raise
        os.close(lifeline)
        os.close(stderr)
        os.set_blocking(output, False)
        stack_file = os.path.join(self._directory, stacks.file_name(lane))
        worker = self.workers[lane] = WorkerProcess(lane, cell, process, held, output, stack_file)
        worker.device = device
        return worker

    def forget(self, worker: WorkerProcess) -> None:
        """Release all of a worker that has been reaped."""
        del self.workers[worker.lane]
        worker.close()
        if self._devices is not None and worker.device is not None:
            self._devices.give_back(worker.device)
        for name in (f"cell-{worker.lane}", stacks.file_name(worker.lane)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, name))


def watch_exit(worker: WorkerProcess, ended: Callable[[], None]) -> int | None:
    """Return a descriptor that becomes readable when the worker has ended; where there is none, `ended` is called."""
    if hasattr(os, "pidfd_open"):
        try:
            return os.pidfd_open(worker.pid)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):  # an old kernel, or a sandbox
                raise

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


def guarded(output: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Wrap a caller's function for what workers write: whatever it does wrong must not stop the head."""

    def pass_on(lines: bytes) -> None:
        try:
            output(lines)
        except Exception as error:  # noqa: BLE001
            write_stderr(f"ztasks: output= raised {type(error).__name__}: {error}\n".encode() + lines)

    return pass_on
