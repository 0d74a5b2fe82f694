"""The check of the private directory: which one would be chosen, does it bear sockets, and what lies there already?"""

from __future__ import annotations

import contextlib
import mmap
import os
import shlex
import socket
import stat
from typing import Any, Final, NamedTuple

from ztasks.cli.findings import OK, PROBLEM, WARNING, Finding, size
from ztasks.errors import WorkersCannotStart
from ztasks.io import rundir
from ztasks.io.rundir import MAX_BASE, PREFIX, RunDir

LITTLE_SPACE: Final = 64 * 1024 * 1024
"""With less than this, warn: ztasks itself needs next to nothing, but jobs put their temporary files there."""

TRIAL_BYTES: Final = 64 * 1024
"""How much is written to see whether there is room: the set-up of the workers may well be as large."""

WHY: Final = "Each executor has a private directory for its sockets, the cells of its workers, and their set-up."
WHY_LEFTOVERS: Final = "A process that was killed could not remove its private directory; the next executor does."


def directory() -> list[Finding]:
    """Check where the private directory would be made, by making one."""
    name, wanted = wanted_base()
    details = {"wanted": wanted, "variable": name, "longest": MAX_BASE}
    try:
        base = rundir._base()
    except WorkersCannotStart as error:
        cure = "Set TMPDIR to a directory that you can write to, with a short path: mkdir -p ~/t; export TMPDIR=~/t"
        return [Finding("directory", PROBLEM, str(error).partition(" Nothing was")[0], WHY, cure, details=details)]
    before = look_for_leftovers(base)
    trouble = attempt(base)
    details |= {"chosen": base, **_space(base)}
    return [*_directory(name, wanted, base, trouble, details), _leftovers(base, before)]


def _directory(name: str, wanted: str, base: str, trouble: str, details: dict[str, Any]) -> list[Finding]:
    """Say which directory it is and what is wrong with it."""
    free = details.get("free_bytes")
    found = f"{base}, {'space unknown' if free is None else f'{size(free)} free'}"
    if trouble:
        cure = "Free some space there, or set TMPDIR to a directory on a local disk: export TMPDIR=/var/tmp"
        return [Finding("directory", PROBLEM, f"{found}: {trouble}", WHY, cure, details=details)]
    findings = [_unused(name, wanted, base, details)] if base != wanted else []
    if free is not None and free < LITTLE_SPACE:
        why = f"{WHY} They are small, but jobs, too, put their temporary files there."
        cure = "Free some space there, or set TMPDIR to a directory on a larger disk."
        return [*findings, Finding("directory", WARNING, f"{found}: that is little", why, cure, details=details)]
    return findings or [Finding("directory", OK, found, WHY, details=details)]


def wanted_base() -> tuple[str, str]:
    """Return which variable names the directory for temporary files (empty: none does), and that directory."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        if value := os.environ.get(name):
            return name, os.path.abspath(value)
    return "", "/tmp"


def _unused(name: str, wanted: str, base: str, details: dict[str, Any]) -> Finding:
    """The directory for temporary files cannot be used, another is: no harm, but it is not what was asked for."""
    subject = f"{name}={wanted}" if name else wanted
    length = len(os.fsencode(wanted))
    if length > MAX_BASE:
        trouble = f"has a path of {length} bytes, at most {MAX_BASE} can be used"
        why = f"{WHY} A socket's path may have 107 bytes in all. Jobs' own temporary files are not concerned."
        cure = f"None is needed. A shorter {name or 'TMPDIR'} would be used: a symlink to it will do."
    else:
        trouble = "does not exist" if not os.path.exists(wanted) else "cannot be written to"
        trouble = trouble if os.path.isdir(wanted) or not os.path.exists(wanted) else "is not a directory"
        why = f"{WHY} Jobs' own temporary files, too, will be elsewhere than you may think."
        cure = (
            f"mkdir -p {shlex.quote(wanted)}"
            if trouble == "does not exist"
            else f"Set {name or 'TMPDIR'} to another directory."
        )
    return Finding("directory", WARNING, f"{subject} {trouble}; {base} is used instead", why, cure, details=details)


def attempt(base: str) -> str:
    """Do what an executor does with its private directory; return what goes wrong, or nothing."""
    what = "a directory cannot be made"
    try:
        private = RunDir(base)
        try:
            what = "files cannot be written"
            path = private.file("trial")
            with open(path, "wb+") as file:
                file.write(bytes(TRIAL_BYTES))
                file.flush()
                what = "files cannot be mapped into memory"
                mmap.mmap(file.fileno(), 64).close()
            os.unlink(path)
            what = "sockets cannot be made"
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as trial:
                trial.bind(private.file("lane-9999999"))
        finally:
            private.close()
    except (OSError, WorkersCannotStart) as error:
        cause = error.__cause__ if isinstance(error, WorkersCannotStart) else error
        return f"{what}: {cause.strerror if isinstance(cause, OSError) and cause.strerror else error}"
    return ""


def _space(base: str) -> dict[str, int]:
    try:
        status = os.statvfs(base)
    except OSError:
        return {}
    space = {"free_bytes": status.f_bavail * status.f_frsize, "total_bytes": status.f_blocks * status.f_frsize}
    return space if space["total_bytes"] else {}


# --- what is left from before ---


class Left(NamedTuple):
    """The private directories in one directory, by what became of their owners."""

    abandoned: list[str]
    alive: int
    foreign: int


def _leftovers(base: str, before: Left) -> Finding:
    """Say what lay there; making a private directory should have removed what was abandoned."""
    details = {"abandoned": before.abandoned, "in_use": before.alive, "of_others": before.foreign}
    used = f"{before.alive} in use" if before.alive else "none in use"
    still = set(look_for_leftovers(base).abandoned) & set(before.abandoned)
    if still:
        found = f"{len(still)} of killed processes in {base} cannot be removed: {min(still)}"
        return Finding(
            "leftovers",
            WARNING,
            found,
            WHY_LEFTOVERS,
            " ".join(["rm -r", *map(shlex.quote, sorted(still))]),
            details=details,
        )
    found = f"none in {base} ({used})"
    if before.abandoned:
        found = f"{len(before.abandoned)} of killed processes in {base}, just removed ({used})"
    return Finding("leftovers", OK, found, WHY_LEFTOVERS, details=details)


def look_for_leftovers(base: str) -> Left:
    """Sort the private directories in `base`."""
    abandoned, alive, foreign = [], 0, 0
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX):
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    continue
                if status.st_uid != os.getuid():
                    foreign += 1
                elif rundir._abandoned(entry.path, status):
                    abandoned.append(entry.path)
                else:
                    alive += 1
    return Left(sorted(abandoned), alive, foreign)
