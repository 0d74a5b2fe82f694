"""The doctor's side of its child process: starts it, listens in bounded time, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Any, Final, NamedTuple

from ztasks.cli.probe import children
from ztasks.io import rundir
from ztasks.io.limits import read

MAIN: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")

SLACK_SECONDS: Final = 3.0
"""How much longer than the time limit one step of the child may take: it keeps that limit itself, if it can."""

END_SECONDS: Final = 2.0
"""How long the child may take to end when it is told to."""

LOOK_SECONDS: Final = 0.05
"""How often to look whether the child has ended, where no pipe tells."""

LAST_READS: Final = 64
"""How often at most what it has left in the pipes is read: something that has got away may write for ever."""

KEPT_BYTES: Final = 64 * 1024
"""How much of what the child and its worker write is kept; the rest is dropped from the front."""


class Said(NamedTuple):
    """What the child has told, and how it ended."""

    events: list[dict[str, Any]]
    written: str
    """What the child itself wrote to stdout and stderr."""
    output: str
    """What its worker wrote."""
    stage: str
    """What it was doing last; empty if it has not said a word."""
    stuck: bool
    """It had to be ended, since one step took too long."""
    exit_code: int
    """Negative: the number of the signal that ended it."""
    trouble: str = ""
    """Why it could not be started."""

    def find(self, key: str) -> list[dict[str, Any]]:
        """Return the events of a kind."""
        return [event for event in self.events if key in event]


class _Text:
    """The end of a text that comes in pieces."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        while self._size - len(self._pieces[0]) > KEPT_BYTES:
            self._size -= len(self._pieces.popleft())

    def text(self) -> str:
        return b"".join(self._pieces).decode(errors="replace")


class Child:
    """One child process; use it in a `with`, which ends it. `order`: see probe.py."""

    def __init__(self, order: dict[str, Any]) -> None:
        """Start it; raises OSError."""
        order = {"sys_path": sys.path, "argv": sys.argv, **order}
        descriptors: list[int] = []
        try:
            for _ in range(3):
                descriptors += os.pipe()
            self._events, events, self._written, written, lifeline, self._lifeline = descriptors
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            # With faulthandler, so that SIGABRT has it write where it hangs; its worker inherits that.
            command = [sys.executable, *flags, "-X", "faulthandler", "-P", MAIN]
            self._process = subprocess.Popen(
                [*command, str(events), str(lifeline), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=[events, lifeline],
                process_group=0,
            )
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        for descriptor in (events, written, lifeline):
            os.close(descriptor)
        self._open = {self._events, self._written}
        self._line = b""
        self._texts = {"written": _Text(), "output": _Text()}
        self._told: list[dict[str, Any]] = []
        self._stage = ""
        self._stuck = False

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        """End it and all that it has started; what it leaves in the directory for sockets is swept."""
        self._end()
        for descriptor in (*self._open, self._lifeline):
            os.close(descriptor)
        if self._process.returncode != 0:
            with contextlib.suppress(Exception):
                rundir.sweep(rundir._base())

    def listen(self, seconds: float) -> Said:
        """Hear it out; no step of it may take longer than `seconds`."""
        with selectors.DefaultSelector() as selector:
            for descriptor in self._open:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            due = monotonic() + seconds + SLACK_SECONDS
            while not self._has_ended():
                if monotonic() > due:
                    self._abort(selector)
                    break
                if self._read(selector):  # a new step has begun
                    due = monotonic() + seconds + SLACK_SECONDS
            self._end()
            for _ in range(LAST_READS):
                if not self._open or self._read(selector, wait=0) is None:
                    break
        texts = {name: text.text() for name, text in self._texts.items()}
        return Said(self._told, **texts, stage=self._stage, stuck=self._stuck, exit_code=self._process.returncode)

    def _abort(self, selector: selectors.BaseSelector) -> None:
        """End a child that hangs; it writes where it was."""
        self._stuck = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGABRT)
        due = monotonic() + END_SECONDS
        while not self._has_ended() and monotonic() < due:
            self._read(selector)

    def _read(self, selector: selectors.BaseSelector, wait: float = LOOK_SECONDS) -> bool | None:
        """Read what has come; True: a new step has begun; None: nothing has come."""
        if not self._open:
            with contextlib.suppress(ChildProcessError):  # both pipes closed, and yet it lives: look now and then
                selector.select(wait)
            return False
        new, came = False, False
        for key, _ in selector.select(wait):
            came = True
            try:
                data = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            if not data:
                selector.unregister(key.fd)
                self._open.discard(key.fd)
                os.close(key.fd)
            elif key.fd == self._written:
                self._texts["written"].add(data)
            else:
                new = self._take(data) or new
        return new if came else None

    def _take(self, data: bytes) -> bool:
        """Take in events; tell whether a new step has begun."""
        *lines, self._line = (self._line + data).split(b"\n")
        new = False
        for line in lines:
            event: dict[str, Any] = json.loads(line)
            if "output" in event:
                self._texts["output"].add(event["output"].encode(errors="replace"))
            elif "stage" in event:
                self._stage, new = event["stage"], True
            else:
                self._told.append(event)
        return new

    def _has_ended(self) -> bool:
        """Tell whether it has ended; it is not reaped, so that its number stays its own."""
        if self._process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _end(self) -> None:
        """Tell it to end, kill what does not, and what it has left in its process group."""
        if self._process.returncode is not None:
            return
        workers: list[int] = []
        if not self._has_ended():
            workers = children(self._process.pid)
            os.kill(self._process.pid, signal.SIGTERM)
            due = monotonic() + END_SECONDS
            with selectors.DefaultSelector() as nothing:
                while not self._has_ended() and monotonic() < due:
                    nothing.select(LOOK_SECONDS)
        # A worker that hangs before it holds its lifeline would outlive its parent.
        left = [pid for pid in workers if "worker_main.py" in read(f"/proc/{pid}/cmdline")]
        for group in (self._process.pid, *left):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def no_core_files() -> Iterator[None]:
    """A process that is asked where it hangs is ended by SIGABRT, which would leave a core file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def probe(seconds: float, **order: Any) -> Said:
    """Have a child do what `order` says, each step in at most `seconds`."""
    try:
        with Child({**order, "seconds": seconds}) as child:
            return child.listen(seconds)
    except OSError as error:
        return Said([], "", "", "", stuck=False, exit_code=1, trouble=str(error))
