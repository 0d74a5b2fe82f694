"""Jobs that go wrong in every way there is; workers import them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any


def square(number: int) -> int:
    return number * number


def note(path: str, text: object = "") -> None:
    """Append a line to a file, in one write."""
    with open(path, "ab") as file:
        file.write(f"{text}\n".encode())


def wait_for_file(path: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(path)
        time.sleep(0.002)


def hold(folder: str) -> int:
    """Note in `folder/started` that it has begun (a line per attempt), then wait for `folder/release`."""
    note(f"{folder}/started", os.getpid())
    wait_for_file(f"{folder}/release")
    return os.getpid()


def counted(number: int, path: str, seconds: float = 0.0) -> int:
    note(path, number)
    time.sleep(seconds)
    return number


def counted_with_pid(number: int, path: str, seconds: float) -> int:
    note(path, f"{number} {os.getpid()}")
    time.sleep(seconds)
    return number


def die_by_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def die_once(path: str, number: int = signal.SIGKILL) -> str:
    """Kill the worker at the first attempt."""
    if not os.path.exists(path):
        note(path)
        os.kill(os.getpid(), number)
        time.sleep(60)
    return "survived"


def segfault() -> None:
    ctypes.string_at(0)


def exit_now(code: int, path: str | None = None) -> None:
    if path is not None:
        note(path, os.getpid())
    os._exit(code)


def die_if(number: int, bad: int) -> int:
    if number == bad:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return number


def speak_and_die(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
    os._exit(9)


def start_processes(folder: str) -> None:
    """Start a process and its child in turn, note their numbers, then hang."""
    code = "import subprocess, sys, os; print(os.getpid(), subprocess.Popen(['sleep', '600']).pid, flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout is not None
    note(f"{folder}/started", f"{os.getpid()} {process.stdout.readline().decode().strip()}")
    time.sleep(600)


def leave_process(seconds: float) -> int:
    return subprocess.Popen(["sleep", str(seconds)]).pid


def fork_and_live(folder: str) -> int:
    """Fork a child that lives on and holds all descriptors."""
    child = os.fork()
    if child == 0:
        note(f"{folder}/child", os.getpid())
        time.sleep(600)
        os._exit(0)
    wait_for_file(f"{folder}/child")
    return child


def fork_and_return() -> str:
    """Fork a child that returns from the job too: it must neither report nor go on working."""
    child = os.fork()
    if child == 0:
        return "from the child"
    _, status = os.waitpid(child, 0)
    return f"from the parent: {status}"


def fork_and_raise() -> str:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    _, status = os.waitpid(child, 0)
    return f"from the parent: {status}"


def busy_holding_gil(folder: str) -> None:
    note(f"{folder}/started", os.getpid())
    ctypes.PyDLL(None).sleep(600)


def generator() -> Iterator[int]:
    yield 1


class NotLoadable:
    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return _load, (self.how,)


def _load(how: str) -> Any:
    if "ZTASKS_WORKER" in os.environ:
        return NotLoadable(how)
    if how == "raises":
        raise ZeroDivisionError("does not load here")
    return undefined_name  # type: ignore[name-defined]  # noqa: F821


def not_loadable(how: str) -> Any:
    return NotLoadable(how)


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


def raise_two_arguments() -> None:
    raise TwoArguments(7, "seven")


def raise_error(error: BaseException) -> None:
    raise error


def raise_chain() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer") from error
