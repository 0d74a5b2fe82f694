"""A program as the job: a command line with placeholders, which a worker fills in for each input and runs.

The placeholders are a subset of GNU parallel's:

    {}          the input: the first positional argument
    {.}         the same without its last extension
    {/}         its base name
    {//}        its directory; `.` if it names none
    {/.} {stem} its base name without the last extension
    {ext}       its last extension with the dot, or nothing
    {#}         the number of the job, from 1
    {1} {2} ... a positional argument
    {name}      a keyword argument; it comes before `{stem}` and `{ext}` if it is called so

A command without any gets all positional arguments at its end. Other braces stay as they are, and so do those after a
`$` (`${HOME}`); a space keeps a word in braces from being one: `{ print }`. An input that begins with a dash is passed
as it is: put `--` or `./` before the placeholder where that matters.

Without a shell, the command is cut into words once, and inputs are put into these: no input is more than one word. With
a shell, each is quoted for it, also where the command has quotes around a placeholder. What the program makes of its
arguments is another matter: in `sh -c 'cat {}'` the input is part of a script, in `sh -c 'cat "$1"' sh {}` it is not.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, Final, NamedTuple

from ztasks.errors import ZtasksError
from ztasks.io.interrupt import STOP_SIGNAL

TAIL_BYTES: Final = 4096
"""How much of a program's stderr is kept for the error."""
MAX_LINE: Final = 64 * 1024
"""A longer line of stderr is passed on in parts."""
HELD_SECONDS: Final = 1.0
"""How long the output is read after the program has ended, while a process that it has left holds the pipes."""
LOOK_SECONDS: Final = 0.25
"""How often it is looked whether the program has ended, while its pipes are open."""
KILL_AFTER: Final = 0.2
"""Seconds between SIGTERM and SIGKILL."""
GIVE_UP_AFTER: Final = 1.0
"""How long the end of what was killed is awaited: what is in the midst of I/O may take its time."""

_SIGNALS: Final = {int(number): number.name for number in signal.Signals}


class BadCommand(ZtasksError):
    """The caller's fault: the command cannot be understood, or not be filled in for this job. Nothing was started."""


class CommandFailed(ZtasksError):
    """The program's word: it ended with an exit code other than 0, or by a signal. Its stdout is lost.

    `exit_code`: negative if a signal killed it, then its number. `stderr`: the last 4 KiB of what it wrote there.
    """

    def __init__(self, exit_code: int, stderr: str) -> None:
        killed_by = _SIGNALS.get(-exit_code, f"signal {-exit_code}")
        how = f"exit code {exit_code}" if exit_code >= 0 else f"killed by {killed_by}"
        last = stderr.strip().splitlines()[-1:]
        super().__init__(": ".join([how, *map(str.strip, last)]))
        self.exit_code = exit_code
        self.stderr = stderr

    def __reduce__(self) -> tuple[type[CommandFailed], tuple[int, str]]:
        return type(self), (self.exit_code, self.stderr)


class Slot(NamedTuple):
    """A placeholder in its place."""

    name: str
    quotes: str
    """For a shell: what is put before the value and behind it, to close the quotes around it and open them again."""


class Command:
    """A command line to be filled in and run; made by `parse_command`. Called, it does `run`."""

    def __init__(self, words: tuple[tuple[str | Slot, ...], ...], *, shell: bool) -> None:
        """`words`: with a shell one, its whole text."""
        self.shell = shell
        self.words = words
        self.appends = not any(isinstance(part, Slot) for parts in words for part in parts)
        """Whether the inputs come at the end, there being no placeholder."""

    def line(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the command line of a job as one would type it. Raises BadCommand."""
        words = self._fill(_Job(number, args, kwargs))
        return words[0] if self.shell else shlex.join(words)

    def run(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Run the command for one job and return its stdout; bytes that are no UTF-8 stand as escapes.

        Lines on its stderr are passed on to `sys.stderr` as they come. `number` counts the jobs from 1. Raises
        BadCommand, CommandFailed, and OSError if the program cannot be started. If it is stopped, the program and all
        else in this worker's process group is ended before, also what earlier jobs have left in the background.
        """
        words, output = self._fill(_Job(number, args, kwargs)), _Output()
        process: subprocess.Popen[bytes] | None = None
        try:
            with _not_stopped():
                # `close_fds` costs nothing that can be measured, and the program must not inherit the lifeline
                process = subprocess.Popen(
                    ["/bin/sh", "-c", *words] if self.shell else words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                )
            output.read(process)
            code = process.wait()
        except BaseException:
            if process is not None:
                _end(process)
            raise
        finally:
            output.pass_on_rest()
            for pipe in filter(None, (process.stdout, process.stderr) if process is not None else ()):
                pipe.close()
        if code:
            raise CommandFailed(code, output.tail.decode(errors="backslashreplace"))
        return b"".join(output.stdout).decode(errors="backslashreplace")

    __call__ = run

    def _fill(self, job: _Job) -> list[str]:
        """Return the words of a job: what it runs without a shell, or the one text for the shell."""
        quote = shlex.quote if self.shell else str
        filled = []
        for parts in self.words:
            texts = (
                part if isinstance(part, str) else f"{part.quotes}{quote(job.value(part.name))}{part.quotes}"
                for part in parts
            )
            filled.append("".join(texts))
        if self.appends:
            if job.kwargs:
                raise BadCommand(f"the command {_BELONGS.replace('{}', job.there_is())}")
            filled += [quote(_text(value)) for value in job.args]
        _check_characters("\n".join(filled))
        return [" ".join(filled)] if self.shell else filled


# --- parsing ---

_SLOT: Final = r"(?<!\$)\{(?P<slot>|\.|//?|/\.|\#|\d+|[^\W\d]\w*)\}"
_IN_WORD: Final = {"": re.compile(_SLOT)}
_IN_SHELL: Final = {
    "": re.compile(rf"(?s:\\.)|\$\{{\w*\}}|{_SLOT}|(?P<quote>['\"])|(?P<unclear>`|<<|\$'|\$\(\(|(?<![^\s;&|()])\#)"),
    "'": re.compile(rf"{_SLOT}|(?P<quote>')"),
    '"': re.compile(rf"(?s:\\.)|\$\{{\w*\}}|{_SLOT}|(?P<quote>\")|(?P<unclear>`|\$[({{])"),
}
"""What matters in the text for a shell: outside of quotes, and within each kind of them."""

_BELONGS: Final = "has no placeholder: write {} where the input belongs"


def parse_command(text: str, *, shell: bool) -> Command:
    """Make a command of its text. `shell`: it is run by /bin/sh, else it is cut into words as a shell would.

    Raises BadCommand if there is nothing to run, a quote is open, the program is not there, or a placeholder cannot be
    one.
    """
    _check_characters(text)
    open_quote = f"the command {text!r} has a quote that is not closed, or ends with a backslash"
    if shell:
        words = [text.strip()]
    else:
        try:
            words = shlex.split(text)
        except ValueError:
            raise BadCommand(open_quote) from None
    if not words or not words[0]:
        raise BadCommand("the command is empty: write a program and its arguments, such as 'wc -l {}'")
    parts = (_parts(word, _IN_SHELL if shell else _IN_WORD, open_quote) for word in words)
    command = Command(tuple(map(tuple, parts)), shell=shell)
    if shell and command.appends and words[0].endswith((";", "&", "|", "(", ")")):
        raise BadCommand(f"the command {text!r} {_BELONGS}")
    if not shell and command.words[0] == (words[0],):
        _check_program(words[0])
    return command


def _parts(text: str, patterns: dict[str, re.Pattern[str]], open_quote: str) -> Iterator[str | Slot]:
    """Cut text at its placeholders, noting within which of the shell's quotes each stands."""
    quote, unclear, begin, at = "", "", 0, 0
    while found := patterns[quote].search(text, at):
        at, groups = found.end(), found.groupdict()
        if groups.get("quote"):
            quote = "" if quote else groups["quote"]
        elif groups.get("unclear"):
            unclear = unclear or found[0]
        elif (name := groups["slot"]) is not None:
            if unclear:
                raise BadCommand(
                    f"how the shell reads {found[0]} behind {unclear} is not certain, so it cannot be quoted: put it "
                    f'into a variable at the beginning, as in: input={found[0]}; ... "$input" ...'
                )
            if name.isdecimal() and not int(name):
                raise BadCommand(f"{found[0]} is no placeholder: arguments are counted from 1, and {{#}} counts jobs")
            before = text[begin : found.start()]
            yield before
            # a pair of quotes ends the name of a variable that stands before the value: $name{}
            yield Slot(name, quote or ("''" if re.search(r"\$\w*$", before) and patterns is _IN_SHELL else ""))
            begin = at
    if not unclear and (quote or (patterns is _IN_SHELL and re.search(r"(?<!\\)(\\\\)*\\$", text))):
        raise BadCommand(open_quote)
    if unclear and not begin:
        raise BadCommand(f"the command {text!r} {_BELONGS}")
    yield text[begin:]


def _check_program(program: str) -> None:
    if shutil.which(program) is None:
        where, cure = " on PATH", f"a file here is ./{program}, and what only a shell knows needs --shell"
        if "/" in program:
            where, cure = "", "it must be a file that may be executed (chmod +x)"
        raise BadCommand(f"there is no program {program!r}{where}: {cure}")


def _check_characters(text: str) -> None:
    """Raise BadCommand for what no program can be given."""
    try:
        if "\0" in text:
            raise ValueError("a NUL character ends an argument")
        os.fsencode(text)
    except ValueError as error:
        shown = text if len(text) <= 200 else text[:197] + "..."
        raise BadCommand(f"no program can be given {shown!r}: {error}") from None


# --- filling in ---


class _Job(NamedTuple):
    """What the placeholders of one job stand for."""

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def value(self, name: str) -> str:
        """Return what a placeholder stands for; raises BadCommand."""
        if name == "#":
            return str(self.number)
        if name in self.kwargs:
            return _text(self.kwargs[name])
        position = int(name) if name.isdecimal() else 1 if name in _OF_INPUT else 0
        if 0 < position <= len(self.args):
            return _OF_INPUT.get(name, str)(_text(self.args[position - 1]))
        what = f"no argument {position}" if position else f"no keyword argument {name!r}"
        cure = "" if name in _OF_INPUT else f"; if it shall be no placeholder, put spaces into it: {{ {name} }}"
        raise BadCommand(f"the command has {{{name}}}, and this job has {what}; there is {self.there_is()}{cure}")

    def there_is(self) -> str:
        """Return the placeholders that it has values for."""
        names = [*map(str, range(1, len(self.args) + 1)), *self.kwargs]
        return ", ".join(f"{{{name}}}" for name in names) or "none"


def _text(value: Any) -> str:
    """Return a value as a program is given it."""
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    return {None: "", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)


def _base(path: str) -> str:
    return os.path.basename(path.rstrip("/")) or path[:1]


_OF_INPUT: Final[dict[str, Callable[[str], str]]] = {
    "": str,
    ".": lambda path: os.path.splitext(path)[0],
    "/": _base,
    "//": lambda path: os.path.dirname(path.rstrip("/") or path) or ".",
    "/.": lambda path: os.path.splitext(_base(path))[0],
    "stem": lambda path: os.path.splitext(_base(path))[0],
    "ext": lambda path: os.path.splitext(_base(path))[1],
}
"""The parts of a path; the slash at the end of a directory's divides nothing."""


# --- running ---


class _Output:
    """What a program writes."""

    def __init__(self) -> None:
        self.stdout: list[bytes] = []
        self.tail = b""
        """The last of its stderr."""
        self._line = b""
        """What has come of a line of stderr."""

    def read(self, process: subprocess.Popen[bytes]) -> None:
        """Read both pipes to their end, or until they are only held by what the program has left behind."""
        stdout, stderr = (pipe.fileno() for pipe in (process.stdout, process.stderr) if pipe)
        still_open = {stdout, stderr}
        poller = select.poll()
        for descriptor in still_open:
            poller.register(descriptor, select.POLLIN)
        look, until = monotonic() + LOOK_SECONDS, float("inf")
        while still_open and (now := monotonic()) < until:
            if now >= look:
                look = now + LOOK_SECONDS
                if process.poll() is not None:
                    until, look = now + HELD_SECONDS, float("inf")
            for descriptor, _ in poller.poll(LOOK_SECONDS * 1000):
                data = os.read(descriptor, 65536)
                if not data:
                    poller.unregister(descriptor)
                    still_open.discard(descriptor)
                elif descriptor == stdout:
                    self.stdout.append(data)
                else:
                    self._pass_on(data)

    def pass_on_rest(self) -> None:
        """Pass on the last line, which has no end."""
        if self._line:
            line, self._line = self._line, b""
            _write_stderr(line + b"\n")

    def _pass_on(self, data: bytes) -> None:
        """Pass on what are whole lines now."""
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        lines, newline, self._line = (self._line + data).rpartition(b"\n")
        if newline:
            _write_stderr(lines + newline)
        if len(self._line) > MAX_LINE:
            self.pass_on_rest()


def _write_stderr(lines: bytes) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # it is closed or full: there is nobody to tell
            sys.stderr.write(lines.decode(errors="backslashreplace"))
            sys.stderr.flush()


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """Put the signal that stops a job off: interrupted while it forks, it would not know what it has started."""
    # it is not blocked: the program would inherit that
    handler, came = signal.getsignal(STOP_SIGNAL), list[int]()
    if callable(handler):  # else this is no worker
        signal.signal(STOP_SIGNAL, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        if callable(handler):
            signal.signal(STOP_SIGNAL, handler)
        if came:
            signal.raise_signal(STOP_SIGNAL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all that it has started: SIGTERM, and SIGKILL for what is left a little later."""
    began, told = monotonic(), set[int]()
    # it is looked twice before nothing is left: one look misses what forks and exits meanwhile
    while (left := _left(process) or _left(process)) and (took := monotonic() - began) < GIVE_UP_AFTER:
        number = signal.SIGKILL if took >= KILL_AFTER else signal.SIGTERM
        for pid in left if number == signal.SIGKILL else left - told:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        told |= left
        sleep(0.002)


def _left(process: subprocess.Popen[bytes]) -> set[int]:
    """Return what still runs of a program, and of its group and the worker's.

    The program has a group of its own if it made one, as `timeout` does; a worker leads its own. Where this process
    does not lead its group, others are in it, which are none of our business.
    """
    found = {process.pid} if process.poll() is None else set[int]()
    groups = {process.pid} | ({os.getpid()} & {os.getpgrp()})
    for entry in os.listdir("/proc") if sys.platform == "linux" else ():
        with contextlib.suppress(ValueError, OSError):  # it is no process, or one no more
            # of all processes only the group is asked: to read each one's file takes ten times as long
            if os.getpgid(pid := int(entry)) in groups and pid != os.getpid():
                with open(f"/proc/{pid}/stat", "rb") as file:
                    if file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X"):
                        found.add(pid)
    return found
