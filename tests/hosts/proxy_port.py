"""One port of a proxy and its connections. But for the counts, only the thread of its loop touches any of it.

Up is the way from who has connected to the target, down is the way back.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from enum import Enum
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from time import monotonic
from typing import Literal

from proxy_loop import Loop, reset

Address = tuple[str, int]
Way = Literal["up", "down"]

ROOM = 256 * 1024
"""The most bytes of a connection that a proxy holds each way; and the size of its socket buffers."""

BURST_SECONDS = 0.02
"""A limited proxy may make up for so long a pause."""


class Rate:
    """How many bytes may pass in a second, shared by whoever takes from it."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._tokens, self._at = 0.0, monotonic()

    def take(self, wanted: int) -> int:
        """Return how many of these bytes may pass now."""
        now = monotonic()
        burst = max(1.0, self._per_second * BURST_SECONDS)
        self._tokens = min(burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        taken = min(wanted, int(self._tokens))
        self._tokens -= taken
        return taken

    def pause(self) -> float:
        """Return the seconds after which it is worth asking again."""
        return min(0.1, max(1.0 / self._per_second, BURST_SECONDS / 4))


class Mode(Enum):
    """What becomes of bytes."""

    PASS = "passed on"
    STALL = "left where they are"
    SWALLOW = "read and dropped"


class Flow:
    """One way of a connection."""

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self.way: Way = way
        self.source, self.target = source, target
        self.data = bytearray()
        self.ended = self.told = self.waiting = False
        """The source has ended; the target knows; the rate lets nothing pass now."""
        self.losing: int | None = None
        """Set: all is dropped, and the connection is reset when these bytes are."""


class Pair:
    """A connection to a port of a proxy, and the one from there to the target."""

    def __init__(self, port: Port, near: socket.socket) -> None:
        self.port = port
        self.near, self.far = near, socket.socket()
        self.flows = (Flow("up", self.near, self.far), Flow("down", self.far, self.near))
        self.connected = self.closed = self.spoilt = False
        near.setblocking(False)
        self.far.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.far.setsockopt(socket.SOL_SOCKET, option, ROOM)
        for end in (self.near, self.far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.far.connect_ex(port.target)  # how it ends is an event
        self.update()

    def update(self) -> None:
        """Wait for what can be done now."""
        if not self.closed:
            up, down = self.flows
            for end, incoming, outgoing in ((self.near, up, down), (self.far, down, up)):
                self.port.loop.watch(end, self._events(end, incoming, outgoing), partial(self._on, end))

    def _events(self, end: socket.socket, incoming: Flow, outgoing: Flow) -> int:
        mode = self.port.mode
        if not self.connected:
            return EVENT_WRITE if end is self.far else 0
        if mode is Mode.STALL:
            return 0
        mask = 0
        if not incoming.ended and (mode is Mode.SWALLOW or len(incoming.data) < ROOM):
            mask |= EVENT_READ
        if outgoing.data and not outgoing.waiting and mode is Mode.PASS:
            mask |= EVENT_WRITE
        return mask

    def _on(self, end: socket.socket, mask: int) -> None:
        if self.closed:
            return
        if not self.connected:
            if self.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.reset()
                return
            self.connected = True
            self.port.connected += 1
            self.port.accepted += 1
        else:
            for flow in self.flows:
                try:
                    if mask & EVENT_READ and flow.source is end:
                        self._read(flow)
                    if mask & EVENT_WRITE and flow.target is end:
                        self._write(flow)
                except BlockingIOError:
                    continue
                except OSError:  # who is gone tells the other one, unless nothing passes
                    if self.port.mode is Mode.PASS:
                        self.reset()
                        return
                    flow.ended = self.spoilt = True
        self.finish()

    def _read(self, flow: Flow) -> None:
        data = flow.source.recv(ROOM)
        flow.ended = not data
        if self.port.mode is Mode.SWALLOW:
            self.port.lost += len(data)
            self.spoilt = True
            return
        flow.data += self.port.keep(self, flow, data)

    def _write(self, flow: Flow) -> None:
        rate = self.port.rates[flow.way]
        allowed = len(flow.data) if rate is None else rate.take(len(flow.data))
        if allowed:
            with memoryview(flow.data) as view, view[:allowed] as part:
                sent = flow.target.send(part)
            del flow.data[:sent]
            self.port.passed[flow.way] += sent
        elif rate is not None:
            flow.waiting = True
            self.port.loop.after(rate.pause(), lambda: self._go_on(flow))

    def _go_on(self, flow: Flow) -> None:
        flow.waiting = False
        self.update()

    def finish(self) -> None:
        """Tell each end that the other one has ended; close when both have, reset when what had to be lost is."""
        if self.port.mode is Mode.PASS:
            for flow in self.flows:
                if flow.data:
                    continue
                if flow.losing == 0 or (flow.ended and flow.losing is not None):
                    self.port.losses += 1
                    self.reset()
                    return
                if flow.ended and not flow.told:
                    flow.told = True
                    with contextlib.suppress(OSError):
                        flow.target.shutdown(socket.SHUT_WR)
            if all(flow.told for flow in self.flows):
                self._close(socket.socket.close)
        self.update()

    def swallow(self) -> None:
        """Drop what is under way."""
        for flow in self.flows:
            self.port.lost += len(flow.data)
            self.spoilt = self.spoilt or bool(flow.data)
            flow.data.clear()

    def reset(self) -> None:
        """Break both connections."""
        self._close(reset)

    def _close(self, how: Callable[[socket.socket], None]) -> None:
        self.closed = True
        self.port.pairs.discard(self)
        self.port.connected -= self.connected
        for end in (self.near, self.far):
            self.port.loop.watch(end, 0, lambda mask: None)
            how(end)


class Port:
    """A port that is proxied. But for the counts, only its loop's thread touches it."""

    def __init__(self, loop: Loop, target: Address, holder: socket.socket) -> None:
        self.loop, self.target, self.holder = loop, target, holder
        self.address: Address = holder.getsockname()
        self.mode = Mode.PASS
        self.rates: dict[Way, Rate | None] = {"up": None, "down": None}
        self.passed: dict[Way, int] = {"up": 0, "down": 0}
        self.connected = self.accepted = self.lost = self.losses = 0
        self.pairs: set[Pair] = set()
        self._planned: dict[Way, tuple[int, int]] = {}
        self._unheard: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def listen(self) -> None:
        """Take new connections."""
        if self._listener is None:
            self._listener = socket.socket()
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # what it accepts inherits them
                self._listener.setsockopt(socket.SOL_SOCKET, option, ROOM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setblocking(False)
            self._listener.bind(self.address)
            self._listener.listen(128)
        self.loop.watch(self._listener, 0 if self.mode is Mode.STALL else EVENT_READ, self._accept)

    def refuse(self) -> None:
        """Take none; the holder keeps the port."""
        if self._listener is not None:
            self.loop.watch(self._listener, 0, self._accept)
            self._listener.close()
            self._listener = None

    def _accept(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while self._listener is not None:
                near = self._listener.accept()[0]
                if self.mode is Mode.SWALLOW:
                    self._unheard.append(near)
                else:
                    self.pairs.add(Pair(self, near))

    def plan_loss(self, way: Way, passed: int, lost: int) -> None:
        """Lose so many bytes, and the connection, when so many more have passed."""
        self._planned[way] = passed, lost

    def keep(self, pair: Pair, flow: Flow, data: bytes) -> bytes:
        """Return what of this data is passed on."""
        kept = data
        if flow.losing is not None:
            kept = b""
        elif flow.way in self._planned:
            passed, lost = self._planned[flow.way]
            kept = data[:passed]
            if len(kept) == len(data):
                self._planned[flow.way] = passed - len(data), lost
            else:
                del self._planned[flow.way]
                flow.losing = lost
        if flow.losing is not None:
            self.lost += len(data) - len(kept)
            flow.losing = max(0, flow.losing - (len(data) - len(kept)))
        return kept

    def turn(self, mode: Mode) -> None:
        """From now on, treat bytes like this."""
        before, self.mode = self.mode, mode
        if self._listener is not None:
            self.listen()
        for pair in list(self.pairs):
            if mode is Mode.SWALLOW:
                pair.swallow()
            if before is Mode.SWALLOW and pair.spoilt:
                pair.reset()
            else:
                pair.finish()
        if before is Mode.SWALLOW and mode is not before:
            self._forget()

    def cut(self) -> int:
        """Reset all connections; return how many there were."""
        pairs = list(self.pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs) + self._forget()

    def _forget(self) -> int:
        count = len(self._unheard)
        while self._unheard:
            reset(self._unheard.pop())
        return count

    def close(self) -> None:
        self.refuse()
        self.cut()
        self.holder.close()
