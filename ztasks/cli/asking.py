"""What the commands have in common that ask a head: how it is named, how answers are shown, and how they end.

Answers are tables with headings on a terminal, cut to its width; in a pipe one line for each thing, with tabs between
its fields and without headings; with --json one JSON document. What goes wrong is one message on stderr, and the exit
code tells its kind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ztasks.cli.findings import printable
from ztasks.cli.serving import duration
from ztasks.errors import HeadLost, JobNotFound, ZtasksError

if TYPE_CHECKING:
    from ztasks.client import Client

F = TypeVar("F", bound=Callable[..., Any])

FAILED: Final = 1
REFUSED: Final = 2
NO_HEAD: Final = 3
NOT_FOUND: Final = 4
NOT_ENDED: Final = 5
READER_GONE: Final = 141
"""128 + SIGPIPE, as shells have it."""

JOIN_SECONDS: Final = "5s"

_ENDINGS: Final = {
    2: "wrong usage, or refused: nothing was changed",
    3: "no head answers",
    130: "interrupted by Ctrl-C",
    141: "the reader of the output went away, as with `| head`",
}
"""The exit codes that all of these commands have."""

GAP: Final = "  "
CUT: Final = "..."


class Told(click.ClickException):
    """What the user is told when a command cannot go on, without the usage line: the message names the cure itself."""

    exit_code: int  # type: ignore[misc]

    def __init__(self, message: str, exit_code: int = REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self._command = command_name()

    def show(self, file: Any = None) -> None:
        """Write the message to stderr."""
        click.echo(f"{self._command}: {self.message}", file=file, err=True)


def command_name() -> str:
    """Return how messages call the command: `ztasks jobs`."""
    context = click.get_current_context(silent=True)
    return f"ztasks {context.info_name}" if context is not None and context.info_name != "ztasks" else "ztasks"


def epilog(examples: str, endings: dict[int, str]) -> str:
    """Return the end of a command's help: examples, and exit codes with those that all have."""
    listed = "\n".join(f"  {code:<3}  {text}" for code, text in sorted({**_ENDINGS, **endings}.items()))
    return f"\b\nExamples:\n{examples.rstrip()}\n\n\b\nExit codes:\n{listed}\n"


def asks_head(function: F) -> F:
    """Declare how the head is named."""
    timeout = click.option(
        "--join-timeout",
        "seconds",
        default=JOIN_SECONDS,
        show_default=True,
        callback=duration("--join-timeout"),
        metavar="TIME",
        help="How long the head may take to answer.",
    )
    head = click.option("--head", metavar="@FILE", help="The head's client.join; default: ZTASKS_HEAD.")
    return head(timeout(function))


@contextlib.contextmanager
def asking(head: str | None, seconds: float) -> Iterator[Client]:
    """Open a client, and turn what goes wrong into a message and an exit code."""
    from ztasks.client import Client
    from ztasks.io.join import check_argument

    try:
        check_argument(head)
        with Client(head, join_timeout=seconds, reconnect_timeout=seconds, name=command_name()) as client:
            yield client
    except HeadLost as error:
        raise Told(str(error), NO_HEAD) from error
    except JobNotFound as error:
        raise Told(str(error), NOT_FOUND) from error
    except ZtasksError as error:
        raise Told(str(error)) from error


def ask(head: str | None, seconds: float, what: str, **arguments: Any) -> Any:
    """Ask one question, and return the answer."""
    with asking(head, seconds) as client:
        return client.ask(what, **arguments)


# --- showing ---


def on_terminal() -> bool:
    """Tell whether somebody reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Show rows of text; return the exit code."""
    if on_terminal():
        return write(table(headings, rows, shutil.get_terminal_size().columns))
    return write("\n".join("\t".join(map(printable, row)) for row in rows))


def show_json(value: object) -> int:
    """Show one JSON document; return the exit code."""
    import json

    return write(json.dumps(value, indent=2, default=str))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return rows below headings, in columns as wide as they need; no line is longer than `width`.

    Columns that are empty are left out. The last one gives way: it is cut to what is left of a line.
    """
    lines = [[heading.upper() for heading in headings], *([printable(text) for text in row] for row in rows)]
    columns = [column for column in zip(*lines, strict=True) if len(lines) == 1 or any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    found = []
    for line in zip(*columns, strict=True):
        text = GAP.join(map(str.ljust, line, widths)).rstrip()
        found.append(text if len(text) <= width else text[: max(0, width - len(CUT))].rstrip() + CUT)
    return "\n".join(found)


def write(text: str) -> int:
    """Write text to stdout, if there is any, and return the exit code."""
    try:
        if text:
            print(text, flush=True)
    except UnicodeEncodeError:
        return write(text.encode("ascii", "backslashreplace").decode())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at its exit
        if error.errno == errno.EPIPE:
            return READER_GONE
        raise Told(f"the output cannot be written: {error.strerror}.") from error
    return 0


def note(text: str) -> None:
    """Tell people something that is no answer."""
    click.echo(f"{command_name()}: {text}", err=True)


def plural(number: int, what: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
