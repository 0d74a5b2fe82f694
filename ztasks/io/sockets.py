"""The one place where zmq sockets and contexts are made, and closed in order.

All endpoints are ipc paths in a private directory. High-water marks are off, since they bound nothing useful: credit
bounds what is in flight, and so a send to a live peer never blocks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from typing import Any, Final

import zmq

from ztasks.errors import WireError

LINGER_MS: Final = 1000
"""How long a closing socket may try to hand over what it still holds."""

TERM_SECONDS: Final = 5.0
"""How long terminating the context may take, linger included, before it is reported and given up."""

Sock = zmq.Socket[bytes]


class Sockets:
    """All sockets of one head or one worker, with their context; closed by their owner, in the order of their making."""

    def __init__(self) -> None:
        self._context: zmq.Context[Sock] = zmq.Context(io_threads=1)
        self._open: dict[Sock, str | None] = {}

    def bind(self, kind: int, path: str) -> Sock:
        """Make a socket that listens on an ipc path; the file is removed when it is closed."""
        return self._make(kind, path, bound=True)

    def connect(self, kind: int, path: str) -> Sock:
        """Make a socket that connects to an ipc path."""
        return self._make(kind, path, bound=False)

    def _make(self, kind: int, path: str, bound: bool) -> Sock:
        sock = self._context.socket(kind)
        sock.setsockopt(zmq.LINGER, LINGER_MS)
        sock.setsockopt(zmq.SNDHWM, 0)
        sock.setsockopt(zmq.RCVHWM, 0)
        if kind == zmq.SUB:
            sock.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            if bound:
                sock.bind(f"ipc://{path}")
            else:
                sock.connect(f"ipc://{path}")
        except BaseException:
            sock.close(linger=0)
            raise
        self._open[sock] = path if bound else None
        return sock

    def close_one(self, sock: Sock, linger: int = LINGER_MS) -> None:
        """Close one socket and remove its file."""
        path = self._open.pop(sock, None)
        sock.close(linger=linger)
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        """Close all sockets and terminate the context, in bounded time."""
        for sock in list(self._open):
            self.close_one(sock)
        # term() waits for linger in C, so a watchdog must stand beside it, not behind it.
        terminator = threading.Thread(target=self._context.term, name="ztasks-term", daemon=True)
        terminator.start()
        terminator.join(TERM_SECONDS)
        if terminator.is_alive():
            warnings.warn(
                f"a ZeroMQ context did not terminate within {TERM_SECONDS} s and is left behind",
                ResourceWarning,
                stacklevel=2,
            )


def receive_frames(sock: Sock, small: int, buffers: int) -> list[Any]:
    """Receive the frames that a header has announced: first `small` ones as bytes, then `buffers`; raises WireError.

    Buffers stay where ZeroMQ received them: arrays are built upon that memory, which can be written to.
    """
    frames: list[Any] = []
    for _ in range(small):
        if not sock.get(zmq.RCVMORE):
            break
        frames.append(sock.recv(zmq.NOBLOCK))
    while sock.get(zmq.RCVMORE):
        frames.append(sock.recv(zmq.NOBLOCK, copy=False).buffer)
    if len(frames) != small + buffers:
        raise WireError(f"a message came with {len(frames)} frames behind its header instead of {small + buffers}")
    return frames
