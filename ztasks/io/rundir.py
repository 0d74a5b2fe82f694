"""The private directory of one executor: sockets, claim cells and the set-up of its workers.

What it must hold: only this user can enter it, its paths fit into a socket address, and it does not outlive its
process by long: each new one sweeps those whose owner is gone, which a lock held on a file inside tells.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from ztasks.errors import WorkersCannotStart

PREFIX: Final = "ztasks-"
MAX_BASE: Final = 70
"""A socket's path may have 107 characters; this leaves room for our own part of it."""

NEWBORN_SECONDS: Final = 3600.0
"""A directory without a lock may be one that is being made right now; only older ones are swept."""


class RunDir:
    """A directory with mode 0700 and a lock that says that its owner lives."""

    def __init__(self) -> None:
        base = _base()
        sweep(base)
        try:
            self.path = tempfile.mkdtemp(prefix=PREFIX, dir=base)
        except OSError as error:
            raise WorkersCannotStart(
                f"no private directory can be made in {base}: {error}. Nothing was started. Free some space there, or "
                "set TMPDIR to a directory that can be written to."
            ) from error
        # Locked under another name first: nobody ever sees a lock file that is not locked.
        newborn = os.path.join(self.path, "newborn")
        self._lock = os.open(newborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(newborn, os.path.join(self.path, "lock"))

    def file(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return os.path.join(self.path, name)

    def close(self) -> None:
        """Remove the directory and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _base() -> str:
    """Choose where the directory goes: TMPDIR and its kin, unless its path is too long for a socket's address."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) <= MAX_BASE:
        return base
    for shorter in (os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108
        if shorter and len(os.fsencode(shorter)) <= MAX_BASE and os.access(shorter, os.W_OK | os.X_OK):
            return shorter
    raise WorkersCannotStart(
        f"the directory for temporary files, {base}, has a path too long for a socket's address, and none of /tmp, "
        "/var/tmp and /dev/shm can be written to. Set TMPDIR to a shorter one."
    )


def sweep(base: str) -> None:
    """Remove the directories in `base` that processes of this user have left behind."""
    for path in Path(base).glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and _abandoned(path, status.st_mtime):
                shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path, changed: float) -> bool:
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - changed > NEWBORN_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)
