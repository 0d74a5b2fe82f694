"""What the tests of `ztasks run` share: the real command in a process of its own, on pipes or on a terminal."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from support import DEADLINE, Finished, children, environment, run_python, wait_for, workers


def ztasks(*arguments: str, stdin: str = "", **how: Any) -> Finished:
    return run_python("-m", "ztasks", "run", *arguments, stdin=stdin, **how)


def records(text: str) -> list[dict[str, Any]]:
    """Parse what must be JSON Lines and nothing else."""
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def results(done: Finished) -> list[Any]:
    assert done.code == 0, done.err
    return [record["result"] for record in records(done.out)]


def statuses(found: list[dict[str, Any]]) -> dict[Any, str]:
    """The status of each input; lists are shown as Python does."""
    return {str(record["input"]): record["status"] for record in found}


def peak_memory(pid: int) -> int:
    """The most that a process has held of memory, in bytes."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Terminal:
    """A pseudo-terminal with a command on it; `text` is all that it has shown."""

    def __init__(self, *arguments: str, out: str | None = None) -> None:
        self.file, inner = os.openpty()
        self.text = ""
        output = os.open(out, os.O_WRONLY | os.O_CREAT) if out else None
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ztasks", "run", *arguments],
            stdin=inner,
            stdout=inner if output is None else output,
            stderr=inner,
            env=environment(TERM="xterm", COLUMNS="100"),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(inner)
        if output is not None:
            os.close(output)
        self.crew: set[int] = set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.file, 65536):
                self.text += data.decode(errors="replace")
        except OSError:  # a terminal without processes
            return

    def press(self, key: bytes) -> None:
        self.crew |= workers(self.process.pid)
        os.write(self.file, key)

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in self.text, f"{text!r} on the terminal, which shows {self.text[-2000:]!r}")

    def finish(self) -> int:
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for pid in {*children(self.process.pid)} if self.process.poll() is None else set():
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)
        os.close(self.file)


def _take_terminal() -> None:
    """In the child: make the terminal on its stdin the one that sends Ctrl-C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
