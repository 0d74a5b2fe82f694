"""The inputs of `ztasks run`: the sources that its options name, opened."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ztasks.runs.inputs import Source


def open_inputs(
    args: tuple[str, ...],
    globs: tuple[str, ...] = (),
    lines: tuple[str, ...] = (),
    jsonl: tuple[str, ...] = (),
    csv: tuple[str, ...] = (),
    cases: tuple[str, ...] = (),
    *,
    null: bool = False,
    unpack: bool = True,
) -> list[Source]:
    """Open all inputs; raises click.UsageError and ZtasksError."""
    from ztasks.runs.files import CsvRows, JsonLines, Lines
    from ztasks.runs.inputs import Glob, Values

    if (lines + jsonl + csv).count("-") > 1:
        raise click.UsageError("stdin can be read only once: give - once")
    if null and not lines:
        raise click.UsageError("-0 is for --lines")
    check_expanded(args, globs)
    sources: list[Source] = [Values(args)] if args else []
    sources += [Glob(pattern) for pattern in globs]
    sources += [Lines(path, end=b"\0" if null else b"\n") for path in lines]
    sources += [JsonLines(path, unpack=unpack) for path in jsonl]
    sources += [CsvRows(path, unpack=unpack) for path in csv]
    sources += [_cases(text, unpack=unpack) for text in cases]
    if not sources:
        raise click.UsageError("no input: give arguments, --glob, --lines, --jsonl, --csv or --from")
    return sources


def check_expanded(args: tuple[str, ...], globs: tuple[str, ...]) -> None:
    """See whether the shell has put the matches in place of a pattern."""
    import glob

    plain = [pattern for pattern in globs if not glob.has_magic(pattern) and os.path.lexists(pattern)]
    if plain and args and all(map(os.path.lexists, args)):
        raise click.UsageError(
            f"--glob got {plain[0]!r}, and {args[0]!r} came behind it: it seems that the shell has expanded the "
            "pattern. Quote the pattern, as in --glob '*.py'."
        )


def check_output(output: str | None, inputs: tuple[str, ...], code: tuple[str | None, ...]) -> None:
    """See that the output is none of the files that are read: it would be emptied, or grow for ever."""
    try:
        there = os.stat(output or "-")
    except OSError:
        return
    places = [*inputs, *[text.rpartition(":")[0] or text for text in code if text]]
    for place in places if output != "-" and stat.S_ISREG(there.st_mode) else ():
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(0) if place == "-" else os.stat(place), there):
                name = "stdin" if place == "-" else place
                raise click.UsageError(f"-o {output} is the file that is read as {name}: give another name")


def _cases(text: str, *, unpack: bool) -> Source:
    """Load what `--from` names, and call it if it is a function."""
    from ztasks.runs.inputs import BadInput, Cases
    from ztasks.runs.target import load_value
    from ztasks.units import reason

    found = load_value(text)
    if callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise BadInput(f"--from {text} raised {reason(error)}. Nothing was run.") from error
    return Cases(found, unpack=unpack, name=f"--from {text}")
