"""Where a journal lies: a file on a local disk that only this user can use and only this process holds.

What it must hold: a place where SQLite's locks or its shared memory cannot be relied on is refused before anything is
written, and so is a file that others could read or write, since what is in it becomes code in the workers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import struct
from typing import Final, NamedTuple

from ztasks.errors import JournalError

MOUNTINFO: Final = "/proc/self/mountinfo"

NETWORK: Final = frozenset(
    {
        *("9p", "acfs", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2", "glusterfs"),
        *("gpfs", "lustre", "mvfs", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2"),
        *("smb", "smb2", "smb3", "smbfs", "vboxsf", "vmhgfs", "wekafs"),
    }
)
"""Types of file systems that several hosts may share."""

NETWORK_FUSE: Final = frozenset(
    {
        *("ceph-fuse", "cephfs", "cernvm-fs", "curlftpfs", "davfs2", "gcsfuse", "goofys", "gvfsd-fuse", "juicefs"),
        *("mount-s3", "mountpoint-s3", "rclone", "s3fs", "smbnetfs", "sshfs", "vmhgfs-fuse"),
    }
)
"""What follows `fuse.` in the types of others."""


class Place:
    """A journal's file, made if it was not there, and locked."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises JournalError."""
        self.path = os.path.realpath(path)
        """Where links lead to: by whatever name a journal is opened, it is locked once."""
        self._lock = -1
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise JournalError(f"the journal {path} cannot be made: there is no directory {folder}. Make it first.")
        kind = network_file_system(self.path, _mountinfo())
        if kind is not None:
            raise JournalError(
                f"the journal {path} would lie on a network file system ({kind}), where a database can be damaged. "
                "Nothing was written. Give --journal a path on a local disk of this host."
            )
        try:
            self._lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._take_lock()
            self._make(folder)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise JournalError(
                    f"the journal {path} cannot be used: {error.strerror}. Nothing was written. It must be a file that "
                    "this user can read and write, in a directory where this user can make files."
                ) from error
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            raise JournalError(
                f"the journal {self.path} is held by another head{f' (process {holder})' if holder else ''}. Stop that "
                "one first, or give this one another --journal."
            ) from None
        with contextlib.suppress(OSError):  # it is for people only, and the disk may be full
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def _make(self, folder: str) -> None:
        """Make the file, or look at that which is there; SQLite gives its other files the same mode."""
        made = not os.path.lexists(self.path)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            details = os.fstat(file)
            if not stat.S_ISREG(details.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            if details.st_uid != os.geteuid():
                raise JournalError(f"the journal {self.path} belongs to another user. Nothing was read from it.")
            if details.st_mode & 0o077:
                raise JournalError(
                    f"the journal {self.path} can be used by others (mode {stat.S_IMODE(details.st_mode):04o}), and "
                    "what is in it becomes code in the workers. Nothing was read from it. If you trust what it holds, "
                    f"run: chmod 600 {self.path}"
                )
            self._refuse_half(details.st_size)
        finally:
            os.close(file)
        if made:
            _sync(folder)

    def _refuse_half(self, size: int) -> None:
        """SQLite would remove a write-ahead log whose database is gone: never start empty beside one."""
        with contextlib.suppress(FileNotFoundError):
            waiting = os.stat(self.path + "-wal").st_size
            if not size and waiting:
                raise JournalError(
                    f"the journal {self.path} is missing or empty, but {self.path}-wal holds {waiting} bytes that "
                    "belong to it. Nothing was changed. Put the file back; or, if its jobs may be lost, move the "
                    "-wal away."
                )

    def close(self) -> None:
        """Let others have it."""
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)


def _sync(folder: str) -> None:
    """Have the name of a new file on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- network file systems ---


def _mountinfo() -> str:
    """Return the kernel's table of what is mounted; empty where there is none (macOS)."""
    try:
        with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def network_file_system(path: str, mountinfo: str) -> str | None:
    """Return the type of the network file system that an absolute path without links is on; None if it is on none."""
    found, length = "", -1
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5 or not after:
            continue
        mounted = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]).rstrip("/")
        if len(mounted) >= length and (path == mounted or path.startswith(mounted + "/")):
            found, length = after.split(" ", 1)[0], len(mounted)  # of two on one place, the later hides the earlier
    name = found.lower().removeprefix("fuse.")
    return found if name in NETWORK or (name in NETWORK_FUSE and name != found) else None


# --- the write-ahead log that a killed head has left ---

_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_MAGIC: Final = (0x377F0682, 0x377F0683)


class Log(NamedTuple):
    """What the frames of a write-ahead log say of themselves, in the order of the file."""

    size: int
    """Bytes that belong to the log: what is behind them is left from an earlier one."""
    frame: int
    """Bytes of a frame; 0 if the log has no usable header."""
    commits: list[int]
    """Which frames, counted from 1, end a transaction."""

    def lost(self, valid: int) -> tuple[int, int]:
        """Return how many bytes and how many ended transactions are behind the first `valid` frames."""
        at = _HEADER + valid * self.frame if self.frame else 0
        return max(0, self.size - at), sum(number > valid for number in self.commits)


def look_at_log(path: str) -> Log:
    """Read the headers of a write-ahead log (https://sqlite.org/fileformat2.html#the_write_ahead_log).

    The checksums of frames are left to SQLite, which says how many it has found valid. Raises OSError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Log(0, 0, [])
    try:
        size = os.fstat(file).st_size
        header = os.pread(file, _HEADER, 0)
        if not _is_whole(header):
            return Log(size, 0, [])
        salt, frame = header[16:24], _FRAME_HEADER + int.from_bytes(header[8:12], "big")
        end = _HEADER
        commits: list[int] = []
        for number, at in enumerate(range(_HEADER, size, frame), 1):
            head = os.pread(file, _FRAME_HEADER, at)
            if not salt.startswith(head[8:16]):
                continue  # of an earlier log
            end = min(at + frame, size)
            if end == at + frame and any(head[4:8]):
                commits.append(number)
        return Log(end, frame, commits)
    finally:
        os.close(file)


def _is_whole(header: bytes) -> bool:
    """Tell whether the header of a log is what was written, by its checksum."""
    if len(header) < _HEADER or int.from_bytes(header[:4], "big") not in _MAGIC:
        return False
    words = struct.unpack(">6I" if header[3] & 1 else "<6I", header[:24])
    one = two = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = (one + even + two) & 0xFFFF_FFFF
        two = (two + odd + one) & 0xFFFF_FFFF
    return struct.pack(">2I", one, two) == header[24:]


def keep_copy(path: str) -> str:
    """Copy a file to the first name beside it that is free; return that. Raises OSError."""
    number = 1
    while os.path.lexists(copy := f"{path}.damaged-{number}"):
        number += 1
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(path, "rb") as source, os.fdopen(os.open(copy, flags, 0o600), "wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    return copy
