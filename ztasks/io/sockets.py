"""The one place that knows ZeroMQ: sockets and contexts are made here, and closed in order.

All endpoints are ipc paths in a private directory. High-water marks are off, since they bound nothing useful: credit
bounds what is in flight, and so a send to a live peer never blocks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import warnings
from typing import Any, Final

import zmq

from ztasks.errors import WireError
from ztasks.wire import payload

LINGER_MS: Final = 1000
"""How long a closing socket may try to hand over what it still holds."""

RECONNECT_MS: Final = 10
"""How soon a worker that starts before its parent listens tries again."""

TERM_SECONDS: Final = 5.0
"""How long terminating the context may take, linger included, before it is reported and given up."""


SPARE_DESCRIPTORS: Final = 12
"""How many descriptors must be free when a worker is about to connect. If one cannot be had then, ZeroMQ does not
report it: it aborts the whole process, which is the user's (ipc_listener.cpp)."""

CONNECTING_DESCRIPTORS: Final = 3
"""How many besides for each worker that has not connected yet; of very many, the last 60 count."""

LARGE: Final = 64 * 1024
"""Frames of at least so many bytes are copied before the first frame of their message is sent."""


class Socket:
    """A ZeroMQ socket on an ipc path. Belongs to one thread at a time."""

    def __init__(self, raw: zmq.Socket[bytes], path: str | None) -> None:
        self.raw = raw
        self._path = path

    def descriptor(self) -> int:
        """Return the descriptor to poll. It is edge-triggered: look with `readable` before and after each wait."""
        return int(self.raw.get(zmq.FD))

    def readable(self) -> bool:
        """Tell whether a message is there."""
        return int(self.raw.get(zmq.EVENTS)) & zmq.POLLIN != 0

    def writable(self) -> bool:
        """Tell whether a message could be sent now: whether there is a peer."""
        return int(self.raw.get(zmq.EVENTS)) & zmq.POLLOUT != 0

    def send(self, *frames: Any) -> bool:
        """Send frames as one message, by copy and without blocking; False if there is no peer.

        Raises MemoryError, before anything is sent, if there is none for the copies.
        """
        raw, last = self.raw, len(frames) - 1
        try:
            # Copied first where they are large: half a message cannot be taken back.
            messages = [frame if len(frame) < LARGE else _own(frame) for frame in frames]
            for index, frame in enumerate(messages):
                # A Frame is ZeroMQ's own message: sending it only counts a reference.
                raw.send(frame, zmq.NOBLOCK | (zmq.SNDMORE if index < last else 0), copy=type(frame) is not zmq.Frame)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError(str(error)) from error
            raise
        return True

    def receive_header(self) -> bytes:
        """Receive the first frame of a message that is there."""
        return self.raw.recv(zmq.NOBLOCK)

    def receive_frames(self, small: int, buffers: int) -> list[Any]:
        """Receive what a header has announced: first `small` frames as bytes, then `buffers`; raises WireError.

        Buffers stay where ZeroMQ received them: arrays are built upon that memory, which can be written to.
        """
        raw = self.raw
        frames: list[Any] = []
        for _ in range(small):
            if not raw.get(zmq.RCVMORE):
                break
            frames.append(raw.recv(zmq.NOBLOCK))
        while raw.get(zmq.RCVMORE):
            frames.append(raw.recv(zmq.NOBLOCK, copy=False).buffer)
        if len(frames) != small + buffers:
            raise WireError(f"a message came with {len(frames)} frames behind its header instead of {small + buffers}")
        return frames

    def discard_rest(self) -> None:
        """Read what is left of a message that does not follow the protocol."""
        while self.raw.get(zmq.RCVMORE):
            self.raw.recv(zmq.NOBLOCK)

    def close(self, linger: int) -> None:
        """Close it, and remove its file if it was bound."""
        self.raw.close(linger=linger)
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


class Sockets:
    """All sockets of one head or worker, with their context; closed by their owner, in the order of their making."""

    def __init__(self, most: int = 16) -> None:
        """`most`: how many sockets there may be at a time. Raises OSError."""
        try:
            self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
            self._context.set(zmq.MAX_SOCKETS, max(1023, most))  # before the first socket is made
        except zmq.ZMQError as error:
            raise OSError(error.errno, str(error)) from error
        self._open: dict[Socket, None] = {}
        self._control: Socket | None = None
        self._connecting: list[Socket] = []
        """Lanes whose workers had not connected when the last was made."""

    def pull(self, path: str) -> Socket:
        """The sink: listen for what workers push."""
        return self._make(zmq.PULL, path, bound=True)

    def publish(self, path: str) -> Socket:
        """Control, the head's side."""
        self._control = self._make(zmq.PUB, path, bound=True)
        return self._control

    def lane(self, path: str) -> Socket:
        """A lane, the head's side; its worker is about to connect. Raises OSError."""
        connecting = [lane for lane in self._connecting if lane in self._open and not lane.writable()]
        _check_descriptors(SPARE_DESCRIPTORS + CONNECTING_DESCRIPTORS * (len(connecting) + 1))
        made = self._make(zmq.PUSH, path, bound=True)
        self._connecting = [*connecting, made][-60:]
        return made

    def push_to(self, path: str) -> Socket:
        """The way to the sink."""
        return self._make(zmq.PUSH, path, bound=False)

    def subscribe_to(self, path: str) -> Socket:
        """Control, the worker's side."""
        return self._make(zmq.SUB, path, bound=False)

    def pull_from(self, path: str) -> Socket:
        """A lane, the worker's side."""
        return self._make(zmq.PULL, path, bound=False)

    def _make(self, kind: int, path: str, *, bound: bool) -> Socket:
        try:
            raw = self._context.socket(kind)
        except zmq.ZMQError as error:  # too many sockets, or descriptors
            raise OSError(error.errno, str(error)) from error
        raw.setsockopt(zmq.LINGER, LINGER_MS)
        raw.setsockopt(zmq.SNDHWM, 0)
        raw.setsockopt(zmq.RCVHWM, 0)
        if kind == zmq.SUB:
            raw.setsockopt(zmq.SUBSCRIBE, b"")
        try:
            if bound:
                raw.bind(f"ipc://{path}")
            else:
                raw.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
                raw.connect(f"ipc://{path}")
        except BaseException as error:
            raw.close(linger=0)
            if isinstance(error, zmq.ZMQError):
                raise OSError(error.errno, str(error)) from error
            raise
        sock = Socket(raw, path if bound else None)
        self._open[sock] = None
        return sock

    def close_one(self, sock: Socket, linger: int = LINGER_MS) -> None:
        """Close one socket."""
        del self._open[sock]
        sock.close(linger)
        if self._control in self._open:
            # A lane has gone, and its worker. What a socket has kept for a peer that has gone (17 KiB) is only given
            # back when the socket is used, and control may be silent for days.
            self._control.writable()

    def close(self) -> None:
        """Close all sockets and terminate the context, in bounded time."""
        for sock in list(self._open):
            self.close_one(sock)
        # term() waits for linger in C, so a watchdog must stand beside it, not behind it.
        terminator = threading.Thread(target=self._context.term, name="ztasks-term", daemon=True)
        try:
            terminator.start()
        except RuntimeError:  # the interpreter is shutting down, and starts no threads any more (3.12)
            self._context.term()
            return
        terminator.join(TERM_SECONDS)
        if terminator.is_alive():
            warnings.warn(
                f"a ZeroMQ context did not terminate within {TERM_SECONDS} s and is left behind",
                ResourceWarning,
                stacklevel=2,
            )


def _check_descriptors(count: int) -> None:
    """Raise OSError unless so many descriptors can be had."""
    found: list[int] = []
    try:
        for _ in range(count):
            found.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in found:
            os.close(descriptor)


def _own(frame: Any) -> zmq.Frame:
    return frame if type(frame) is zmq.Frame else zmq.Frame(frame, copy=True)


def _hold(buffer: memoryview) -> zmq.Frame:
    """Copy a buffer into a message of ZeroMQ's: the one copy between the caller's memory and the kernel's."""
    return zmq.Frame(buffer, copy=True)


payload.hold_with(_hold)


def wait_readable(*sockets: Socket) -> list[Socket]:
    """Wait until at least one of the sockets has a message; return those that have one."""
    ready = {raw for raw, _ in zmq.zmq_poll([(sock.raw, zmq.POLLIN) for sock in sockets], -1)}
    return [sock for sock in sockets if sock.raw in ready]
