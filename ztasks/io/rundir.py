"""The private directory of one executor: sockets, claim cells and the set-up of its workers.

What it must hold: only this user can enter it, its paths fit into a socket address, and it does not outlive its
process by long: each new one sweeps those whose owner is gone, which a lock held on a file inside tells.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from typing import Final

from ztasks.errors import WorkersCannotStart

PREFIX: Final = "ztasks-"
MAX_BASE: Final = 70
"""A socket's path may have 107 characters; this leaves room for our own part of it."""

ROOM_BYTES: Final = 64 * 1024
"""What must fit on its file system. The set-up and the claim cells are small, but a full disk would cut them off."""

NEWBORN_SECONDS: Final = 3600.0
"""A directory without a lock may be one that is being made right now; only older ones are swept."""


class RunDir:
    """A directory with mode 0700 and a lock that says that its owner lives."""

    _owner = 0
    """The process that has made it; 0 until then."""

    def __init__(self, only: str | None = None) -> None:
        """`only`: make it there, or not at all. Raises WorkersCannotStart."""
        troubles: dict[str, OSError] = {}
        self._owner = os.getpid()
        self._opened: list[int] = []
        for base in _bases() if only is None else [only]:
            sweep(base)
            self.path = os.path.join(base, PREFIX + os.urandom(6).hex())
            try:
                _make(self.path, self._opened)
            except OSError as error:
                troubles[base] = error
            else:
                return
        if not troubles:
            raise _no_base()
        told = "; ".join(f"{base}: {error.strerror}" for base, error in troubles.items())
        raise WorkersCannotStart(
            f"no private directory can be made: {told}. Nothing was started. Free some space there, or set TMPDIR to a "
            "directory that can be written to."
        ) from next(iter(troubles.values()))

    def file(self, name: str) -> str:
        """Return the path of a file in the directory."""
        return os.path.join(self.path, name)

    def let_go(self) -> None:
        """Close this process's copy of the lock; in a forked child, the parent's stays locked."""
        while self._opened:
            os.close(self._opened.pop())  # a number is closed once: afterwards it may be another file's

    def close(self) -> None:
        """Remove the directory and all in it."""
        if self._opened:
            remove(self.path)
            self.let_go()

    def __del__(self) -> None:
        """Remove what nobody else will, since whoever made this was interrupted before it had it."""
        if self._owner == os.getpid():  # in a forked child it is the parent's
            self.close()


def _make(path: str, opened: list[int]) -> None:
    """Make a new directory with mode 0700 and a lock file in it, whose descriptor is added to `opened`; or nothing.

    The name is as tempfile.mkdtemp would choose it, without what importing that costs (6 ms).
    """
    try:
        os.mkdir(path, 0o700)
        # Locked under another name first: nobody ever sees a lock file that is not locked.
        newborn = os.path.join(path, "newborn")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        opened.extend(map(os.open, (newborn,), (flags,), (0o600,)))  # in C: a KeyboardInterrupt finds it noted
        (lock,) = opened
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.write(lock, bytes(ROOM_BYTES)) < ROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(lock, 0)
        os.rename(newborn, os.path.join(path, "lock"))
    except FileExistsError:  # somebody else's
        raise
    except BaseException:  # KeyboardInterrupt too
        remove(path)
        while opened:
            os.close(opened.pop())
        raise


def _wanted() -> str:
    """Return the directory for temporary files: TMPDIR and its kin."""
    wanted = next((value for name in ("TMPDIR", "TEMP", "TMP") if (value := os.environ.get(name))), "/tmp")
    return os.path.abspath(wanted)


def _bases() -> Iterator[str]:
    """Yield where the directory may go, the wanted place first."""
    for base in dict.fromkeys((_wanted(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm")):
        if base and len(os.fsencode(base)) <= MAX_BASE and _usable(base):
            yield base


def _usable(base: str) -> bool:
    """Tell whether this user can make something in it, and ZeroMQ can write its name."""
    try:
        base.encode()
    except UnicodeEncodeError:
        return False
    return os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK)


def _base() -> str:
    """Return where the directory goes, unless there is no room; raises WorkersCannotStart."""
    base = next(_bases(), None)
    if base is None:
        raise _no_base()
    return base


def _no_base() -> WorkersCannotStart:
    return WorkersCannotStart(
        f"there is no directory for sockets: {_wanted()} is missing, cannot be written to, or its path is too long for "
        f"a socket's address (more than {MAX_BASE} bytes), and so it is with /tmp, /var/tmp and /dev/shm. Nothing was "
        "started. Set TMPDIR to a directory with a short path."
    )


def sweep(base: str) -> None:
    """Remove the directories in `base` that processes of this user have left behind, if it can be listed."""
    with contextlib.suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if not entry.name.startswith(PREFIX):
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and _abandoned(entry.path, status):
                    remove(entry.path)


def remove(path: str) -> None:
    """Remove a directory and the files in it; there are no directories inside."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(path, name))
        os.rmdir(path)


def _abandoned(path: str, status: os.stat_result) -> bool:
    """Tell whether the owner of a directory is gone."""
    try:
        lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - status.st_mtime > NEWBORN_SECONDS
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(lock)
