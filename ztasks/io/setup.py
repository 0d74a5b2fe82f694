"""What every worker of an executor is told before its first job: a file in the private directory.

A file, not a message: a worker can read it before it has imported ZeroMQ, and no round trip is spent on it.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

FILE: Final = "setup"


class Setup(msgspec.Struct):
    """The parent's surroundings, and the executor's initializer."""

    sys_path: list[bytes]
    """This and the following as the file system has them: such names need not be text."""
    cwd: bytes | None
    argv: list[bytes]
    preload: list[str]
    initializer: bytes
    """The pickle of (function, arguments); empty if there is none."""
    buffers: list[bytearray]
    max_bytes: int | None = None
    """The most bytes that one result may take."""
    max_memory: int | None = None
    """With more resident memory than this, in bytes, a worker takes no further job and is replaced."""

    def write(self, path: str) -> None:
        """Write the file, readable by this user only."""
        data = msgspec.msgpack.encode(self)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(data)

    @classmethod
    def read(cls, path: str) -> Setup:
        """Read the file."""
        with open(path, "rb") as stream:
            return msgspec.msgpack.decode(stream.read(), type=cls)
