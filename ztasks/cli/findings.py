"""What `ztasks doctor` has found, and how it is shown: in colour on a terminal, plainly in a pipe, as JSON.

Nothing but the standard library is needed for it: the doctor must speak up also where rich cannot be imported.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "problem"

NAME_WIDTH: Final = 13
STATUS_WIDTH: Final = 7
MAX_WIDTH: Final = 110
"""Longer lines are hard to read, however wide the terminal."""

OUTPUT_LINES: Final = 30
"""How many lines of what a process wrote are shown; JSON has all that was kept."""

_STYLES: Final = {OK: ("✓", "green"), WARNING: ("!", "yellow"), PROBLEM: ("✗", "bold red")}


class Finding(NamedTuple):
    """What one check has found."""

    check: str
    status: str
    found: str
    why: str = ""
    """Why it matters."""
    cure: str = ""
    """What to do about it; may have several lines."""
    output: str = ""
    """What a process wrote that has to do with it."""
    details: dict[str, Any] = {}  # noqa: RUF012 - nobody writes to it
    """The same for a program, in plain values."""


def as_json(findings: list[Finding], **more: Any) -> str:
    """Return all as one JSON document."""
    counts = {status: sum(each.status == status for each in findings) for status in (OK, WARNING, PROBLEM)}
    document = {
        **more,
        "ok": counts[PROBLEM] == 0,
        "problems": counts[PROBLEM],
        "warnings": counts[WARNING],
        "checks": [each._asdict() for each in findings],
    }
    return json.dumps(document, indent=2, default=str)


def closing_line(findings: list[Finding]) -> str:
    """Return what it has come to, in one line."""
    problems = sum(each.status == PROBLEM for each in findings)
    warnings = sum(each.status == WARNING for each in findings)
    if not problems and not warnings:
        return "All is well."
    told = [_count(problems, "problem"), _count(warnings, "warning")]
    if not problems:
        return f"No problem, {told[1]}: jobs will run."
    return f"{', '.join(told if warnings else told[:1])}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


class Display(Protocol):
    """Where findings are shown as they come."""

    def show(self, finding: Finding) -> None:
        """Show one."""

    def close(self, findings: list[Finding]) -> None:
        """Show the closing line."""

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Say what is going on, while it is."""


class Silent:
    """Shows nothing: all is written at the end, as JSON."""

    def show(self, finding: Finding) -> None:
        """Show nothing."""

    def close(self, findings: list[Finding]) -> None:
        """Show nothing."""

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Show nothing."""
        return nullcontext()


class Plain:
    """Text without colour. In a pipe (`width` None) each thing stands on one line, so that grep finds it."""

    def __init__(self, *, verbose: bool, width: int | None = None) -> None:
        self._verbose = verbose
        self._width = width

    def show(self, finding: Finding) -> None:
        """Show one."""
        for heading, text in layout(finding, self._width, verbose=self._verbose):
            print(f"{heading}{text}".rstrip())
        sys.stdout.flush()

    def close(self, findings: list[Finding]) -> None:
        """Show the closing line."""
        print(f"\n{closing_line(findings)}", flush=True)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show nothing."""
        yield


class Coloured:
    """Text on a terminal, with a line at the bottom that says what is going on."""

    def __init__(self, console: Console, *, verbose: bool) -> None:
        self._console = console
        self._verbose = verbose

    def show(self, finding: Finding) -> None:
        """Show one."""
        from rich.text import Text

        symbol, style = _STYLES[finding.status]
        width = min(self._console.width, MAX_WIDTH) - 2
        for number, (heading, text) in enumerate(layout(finding, width, verbose=self._verbose)):
            line = Text().append(f"{symbol if number == 0 else ' '} ", style=style)
            if number == 0:
                line.append(heading[: STATUS_WIDTH + 2], style=style).append(heading[STATUS_WIDTH + 2 :], style="bold")
            else:
                line.append(heading, style="cyan" if heading.strip() == "cure" else "dim")
            line.append(text, style="dim" if text.startswith("| ") else "")
            self._console.print(line, soft_wrap=True)

    def close(self, findings: list[Finding]) -> None:
        """Show the closing line."""
        worst = next((status for status in (PROBLEM, WARNING) if any(f.status == status for f in findings)), OK)
        self._console.print()
        self._console.print(closing_line(findings), style=_STYLES[worst][1], highlight=False)

    def busy(self, what: str) -> AbstractContextManager[object]:
        """Show what is going on."""
        return self._console.status(f"[dim]{what}[/dim]")


def layout(finding: Finding, width: int | None, *, verbose: bool) -> Iterator[tuple[str, str]]:
    """Yield the lines of a finding, each as its heading and its text; wrapped to `width` columns."""
    indent = STATUS_WIDTH + 2
    margin = indent + NAME_WIDTH + 2
    room = None if width is None else max(20, width - margin)
    blocks = [(f"{finding.status:<{indent}}{finding.check:<{NAME_WIDTH + 2}}", finding.found)]
    told = finding.status != OK or verbose
    if told:
        blocks += [(f"{'':<{indent}}{name:<{NAME_WIDTH + 2}}", text) for name, text in _explanations(finding) if text]
    for heading, text in blocks:
        for number, line in enumerate(_wrap(text, room)):
            yield heading if number == 0 else " " * margin, line
    if finding.output and told:
        heading = f"{'':<{indent}}{'it wrote':<{NAME_WIDTH + 2}}"
        for number, line in enumerate(_tail(finding.output)):
            yield heading if number == 0 else " " * margin, f"| {line}"


def _explanations(finding: Finding) -> list[tuple[str, str]]:
    return [("why", finding.why), ("cure", finding.cure)]


def _wrap(text: str, room: int | None) -> list[str]:
    """Break a text into lines; words, such as paths and commands, stay whole."""
    lines = [printable(line) for line in text.splitlines()] or [""]
    if room is None:
        return lines
    return [
        part
        for line in lines
        for part in (textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False) or [""])
    ]


def _tail(text: str) -> list[str]:
    """Return the last lines of what a process wrote, fit for a terminal."""
    lines = [printable(line) for line in text.rstrip().splitlines()]
    if len(lines) > OUTPUT_LINES:
        lines = [f"({len(lines) - OUTPUT_LINES} lines before)", *lines[-OUTPUT_LINES:]]
    return lines


def printable(line: str) -> str:
    """Return a line without anything that a terminal would obey, or that no encoding has."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line.expandtabs())


def size(number: float) -> str:
    """Return a number of bytes for reading."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def duration(seconds: float) -> str:
    """Return a short time for reading."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s"


def make_display(*, json: bool, verbose: bool) -> Display:
    """Return the display that fits stdout."""
    if json:
        return Silent()
    if sys.stdout is None or not sys.stdout.isatty():
        return Plain(verbose=verbose)
    console = _console() if os.environ.get("TERM") != "dumb" and _can_show(_STYLES[OK][0]) else None
    if console is not None:
        return Coloured(console, verbose=verbose)
    return Plain(verbose=verbose, width=min(shutil.get_terminal_size().columns, MAX_WIDTH))


def _console() -> Console | None:
    try:
        from rich.console import Console

        return Console(highlight=False)
    except Exception:  # noqa: BLE001 - whatever is wrong with rich, the check of the packages tells
        return None


def _can_show(symbol: str) -> bool:
    try:
        symbol.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
