"""Files that hold keys: read only if they are this user's alone, written so that nobody else ever can read them.

What it must hold: a file is looked at through the descriptor that it is then read from, so that it cannot be exchanged
in between; and what is written is there as a whole or not at all, with mode 0600 from its first moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from typing import Final

from ztasks.errors import NotPrivate

MAX_BYTES: Final = 1024 * 1024
"""No file with keys is larger: an allow-list of this size has some thousand entries."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def read_private(path: str) -> bytes:
    """Return a file's content; raises NotPrivate and OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP or os.path.islink(path):
            raise NotPrivate(
                f"{path} is a symlink, and whoever can change where it leads chooses the keys. It was not read. Give "
                f"the file itself: {shlex.quote(os.path.realpath(path))}."
            ) from None
        raise
    try:
        _check(path, os.fstat(descriptor), directory=False)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_BYTES} bytes", path)
    return content


def check_directory(path: str) -> None:
    """Check that a directory with keys is this user's alone; raises NotPrivate and OSError."""
    _check(path, os.stat(path), directory=True)


def make_directory(path: str) -> None:
    """Make a directory with mode 0700 where there is none, and check it; raises NotPrivate and OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    check_directory(path)


def _check(path: str, status: os.stat_result, *, directory: bool) -> None:
    kind, mode = ("directory", "700") if directory else ("file", "600")
    rightly = stat.S_ISDIR if directory else stat.S_ISREG
    quoted = shlex.quote(path)
    if not rightly(status.st_mode):
        raise NotPrivate(f"{path} is no {kind}. It was not used. Give the path of a {kind}")
    if status.st_uid != os.geteuid():
        raise NotPrivate(
            f"{path} belongs to another user (uid {status.st_uid}), who can change it. It was not used. Use a {kind} "
            f"of your own, or have root run: chown {os.geteuid()} {quoted}"
        )
    if status.st_mode & _OTHERS:
        raise NotPrivate(
            f"{path} can be used by other users (mode {stat.S_IMODE(status.st_mode):04o}), so its keys may be known "
            f"to them. It was not used. Run: chmod {mode} {quoted}"
        )


def write_new(path: str, content: bytes) -> None:
    """Write a file that does not exist yet; raises FileExistsError, NotPrivate and OSError."""
    temporary = _write_beside(path, content)
    try:
        try:
            os.link(temporary, path)  # unlike a rename, this never replaces anything
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: take the name first, and exclusively
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.rename(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync(os.path.dirname(path))


def replace(path: str, content: bytes) -> None:
    """Write a file, in the place of the one that may be there; raises NotPrivate and OSError."""
    temporary = _write_beside(path, content)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync(os.path.dirname(path))


def _write_beside(path: str, content: bytes) -> str:
    """Write a file of a name that nobody can know beforehand, in the same directory; return its path."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            if os.fstat(descriptor).st_mode & _OTHERS:
                raise NotPrivate(
                    f"the file system of {path} does not keep the modes of files: others could read the keys. Nothing "
                    "was written. Choose a directory on another file system."
                )
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def _sync(folder: str) -> None:
    """Have the directory's change survive a power cut, where the file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
