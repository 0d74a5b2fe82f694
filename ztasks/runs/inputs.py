"""What a task is run on: lazy streams of calls, read in a thread of their own.

A source yields a Call for each input, or Unreadable for one that cannot be understood: that one becomes a failed record
and the rest goes on. Nothing is read ahead but a block of a file, so that an endless pipe works in constant memory, and
`stop()` ends the reading at once even if that pipe never says another word.

    Values      the arguments of the command line, each one argument
    Glob        the paths that a pattern matches, sorted; directories only if the pattern ends with a slash
    Cases       what a Python iterable gives
    files.py    the lines of a file, its JSON documents, the rows of a table

`Inputs` puts them one after the other, and binds each call to the task (`binding.py`).
"""

from __future__ import annotations

import glob
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, Protocol

from ztasks.errors import InvalidOption, ZtasksError
from ztasks.runs.binding import BadValue, Binder
from ztasks.units import reason, shown
from ztasks.wire.payload import PRIMITIVES, dump


class BadInput(ZtasksError):
    """The caller's fault: an input cannot be opened, or holds no lines. Nothing was started, or says what was read."""


class Call(NamedTuple):
    """One job: the arguments of the task, and what the record shows as its input."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    input: Any
    line: int = 0
    """Where in its file it stands, from 1; 0 if it is in none."""


class Unreadable(NamedTuple):
    """An input that is no call: what it was, and what is wrong with it."""

    input: Any
    message: str


Entry = Call | Unreadable


class Total(NamedTuple):
    """How many inputs there are."""

    number: int
    exact: bool
    """False: estimated from the part of the file that has been read."""


class Source(Protocol):
    """Where inputs come from."""

    is_text: bool
    """Whether its values are text, which is converted to what the task's annotations say."""
    name: str
    """What messages call it."""

    def __iter__(self) -> Iterator[Entry]:
        """Yield the inputs; can be done once."""

    def total(self) -> Total | None:
        """Tell how many there are, as far as known by now. Callable from any thread."""

    def stop(self) -> None:
        """End the iteration soon, even if it waits. Callable from any thread."""

    def close(self) -> None:
        """Release what is open; after the iteration has ended."""


class Values:
    """Inputs that are there already: the arguments of the command line."""

    is_text = True
    name = "the arguments"

    def __init__(self, values: Sequence[str]) -> None:
        self._values = values
        self._stopped = False

    def __iter__(self) -> Iterator[Entry]:
        for value in self._values:
            if self._stopped:
                return
            yield Call((value,), {}, value)

    def total(self) -> Total | None:
        """Return their number."""
        return Total(len(self._values), exact=True)

    def stop(self) -> None:
        """Yield no more."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is open."""


class Glob(Values):
    """The paths that a pattern matches, sorted. Raises BadInput if there are none: that is a mistake in the pattern."""

    def __init__(self, pattern: str) -> None:
        self.name = pattern
        matches = glob.iglob(pattern, recursive=True)
        wants_directories = pattern.endswith("/")
        # `nope/**` gives "nope/" even if there is no such directory (before Python 3.13)
        paths = sorted(path for path in matches if wants_directories or not (path[-1:] == "/" or os.path.isdir(path)))
        if not paths:
            raise BadInput(
                f"no file matches {pattern!r}: look at the pattern (quote it, so that the shell leaves it alone; ** "
                "goes into directories; end it with / to match directories; names that begin with a dot need a dot)"
            )
        super().__init__(paths)


class Cases:
    """What an iterable gives: a dict is keyword arguments, a tuple or list positional ones, all else one argument."""

    is_text = False

    def __init__(self, cases: Iterable[Any], *, unpack: bool = True, name: str = "the inputs") -> None:
        """Without `unpack` each is the one argument. Raises InvalidOption."""
        if not isinstance(cases, Iterable) or isinstance(cases, str | bytes):
            raise InvalidOption(f"{name} must be an iterable of inputs, not {shown(cases)}")
        self.name = name
        self._cases = cases
        self._unpack = unpack
        self._yielded = 0
        self._ended = False
        self._stopped = False

    def __iter__(self) -> Iterator[Entry]:
        try:
            for case in self._cases:
                if self._stopped:
                    return
                self._yielded += 1
                yield _unpicklable(case) or as_call(case, 0, unpack=self._unpack)
        except (Exception, SystemExit) as error:
            trace = error.__traceback__ and error.__traceback__.tb_next  # without our own frame
            theirs = "".join(traceback.format_exception(type(error), error, trace))
            raise BadInput(
                f"{self.name} stopped after {self._yielded} inputs: {reason(error)}\n{theirs.rstrip()}"
            ) from error
        self._ended = True

    def total(self) -> Total | None:
        """Return their number, if they tell it or have come to their end."""
        if self._ended:
            return Total(self._yielded, exact=True)
        try:
            return Total(len(self._cases), exact=True) if isinstance(self._cases, Sized) else None
        except Exception:  # noqa: BLE001 - a broken __len__ is nobody's business here
            return None

    def stop(self) -> None:
        """Take no more of them; the next one may take its time."""
        self._stopped = True

    def close(self) -> None:
        """Nothing is open."""


def _unpicklable(case: Any) -> Unreadable | None:
    """Tell what is wrong with a case that cannot travel to a worker."""
    if type(case) in PRIMITIVES or (type(case) is tuple and PRIMITIVES.issuperset(map(type, case))):
        return None
    try:
        dump(case)
    except Exception as error:  # noqa: BLE001 - pickling runs any code
        return Unreadable(case, f"it cannot be pickled: {reason(error)}")
    return None


def as_call(value: Any, line: int, *, unpack: bool) -> Call:
    """Make a call of a value that is a JSON document, or like one."""
    if unpack and isinstance(value, dict) and all(type(name) is str for name in value):
        return Call((), value, value, line)
    if unpack and isinstance(value, list | tuple):
        return Call(tuple(value), {}, value, line)
    return Call((value,), {}, value, line)


class Inputs:
    """Several sources, one after the other, bound to a task."""

    def __init__(self, sources: Sequence[Source], binder: Binder | None = None, limit: int | None = None) -> None:
        """`limit`: so many inputs are read at the most."""
        self._sources = sources
        self._binder = binder
        self._limit = limit
        self._stopped = False

    def __iter__(self) -> Iterator[Entry]:
        left, binder = self._limit, self._binder
        if binder is not None and binder.idle:
            binder = None
        self._stopped = self._stopped or left == 0
        for source in self._sources:
            if self._stopped:
                return
            for entry in source:
                if left is not None:
                    left -= 1
                yield entry if binder is None or type(entry) is Unreadable else self._bind(source, entry)
                if left == 0:  # not after looking for another one: a pipe may take its time
                    self._stopped = True
                    return

    def _bind(self, source: Source, call: Any) -> Entry:
        assert self._binder is not None
        try:
            args, kwargs = self._binder.bind(call.args, call.kwargs, text=source.is_text)
        except BadValue as error:
            place = f"line {call.line} of {source.name}: " if call.line else ""
            return Unreadable(call.input, f"{place}{error}")
        return Call(args, kwargs, call.input, call.line)

    def total(self) -> Total | None:
        """Return how many inputs there are in all, if each source knows or can guess."""
        totals = [source.total() for source in self._sources]
        known = [total for total in totals if total is not None]
        if len(known) < len(totals):
            return None
        number, exact = sum(total.number for total in known), all(total.exact for total in known)
        return Total(number if self._limit is None else min(number, self._limit), exact)

    def stop(self) -> None:
        """End the iteration soon."""
        self._stopped = True
        for source in self._sources:
            source.stop()

    def close(self) -> None:
        """Release what is open."""
        for source in self._sources:
            source.close()
