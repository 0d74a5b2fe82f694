"""What the commands that stay have in common: signals, log lines, readiness for systemd."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from ztasks.errors import InvalidOption
from ztasks.units import parse_duration, parse_size

DEFECT: Final = "defect"
"""The event whose message has several lines: it is a traceback."""


class Failed(click.ClickException):
    """What the user is told when a command cannot go on, without the usage line; exit code 1."""

    exit_code = 1

    def __init__(self, command: str, message: str) -> None:
        super().__init__(message)
        self._command = command

    def show(self, file: Any = None) -> None:
        """Write the message to stderr."""
        click.echo(f"ztasks {self._command}: {self.message}", file=file, err=True)


class Log:
    """Lines on stderr, for people or as JSON. Any thread and any signal handler may write: each line is one write."""

    def __init__(self, command: str, *, as_json: bool) -> None:
        self._command = command
        self._as_json = as_json

    def __call__(self, event: str, message: str, *, level: str = "info", **fields: Any) -> None:
        """Write one line."""
        if self._as_json:
            at = datetime.now().astimezone().isoformat(timespec="milliseconds")
            texts = {name: _plain(value) if isinstance(value, str) else value for name, value in fields.items()}
            line = msgspec.json.encode(
                {"time": at, "level": level, "event": event, "message": _plain(message), **texts}, enc_hook=str
            )
        else:
            shown = message if event == DEFECT else _on_one_line(message)
            line = f"ztasks {self._command}: {shown}".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # stderr is closed or full: there is nobody to tell
            os.write(2, line + b"\n")

    def failure(self, error: Exception) -> click.exceptions.ClickException | click.exceptions.Exit:
        """Return what is to be raised when the command cannot go on: the user is told why."""
        if not self._as_json:
            return Failed(self._command, str(error))
        self("failed", str(error), level="error")
        return click.exceptions.Exit(Failed.exit_code)


def _plain(text: str) -> str:
    """Return a text that can be encoded: a path need not be."""
    return text.encode(errors="backslashreplace").decode()


def _on_one_line(text: str) -> str:
    """Return a text that cannot look like several lines, nor do anything to a terminal: peers choose their names."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def duration(option: str, least: float = 0.0) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """Return a callback that makes seconds of an option's text."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        try:
            seconds = parse_duration(value, option)
        except InvalidOption as error:
            raise click.BadParameter(str(error)) from error
        if seconds < least:
            raise click.BadParameter(f"{option} must be at least {least:g} s, not {value}")
        return seconds

    return parse


def size(option: str) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Return a callback that makes bytes of an option's text."""

    def parse(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        try:
            return parse_size(value, option)
        except InvalidOption as error:
            raise click.BadParameter(str(error)) from error

    return parse


@contextlib.contextmanager
def signals(handlers: dict[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Have signals call functions, while it lasts."""
    before = {
        number: signal.signal(number, lambda received, frame, call=call: call())  # type: ignore[misc]
        for number, call in handlers.items()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def collect_seldom() -> None:
    """Let Python look for garbage in cycles less often: there is none here, and each job is some objects to look at."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def notify(state: str) -> None:
    """Tell systemd, if it has started this process (sd_notify(3)): `READY=1`, `STOPPING=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sock.sendall(state.encode())
