"""What proxies stand on: one thread that waits for sockets and times, ports that nobody else gets, an abrupt end."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from selectors import EVENT_READ
from time import monotonic
from typing import TypeVar

from support import DEADLINE

T = TypeVar("T")


def reserve(count: int, host: str = "127.0.0.1", first: int | None = None) -> list[socket.socket]:
    """Return sockets that hold consecutive ports, below those that the kernel chooses.

    Nobody else gets such a port by chance; who knows of it may listen there with SO_REUSEADDR, as ZeroMQ does.
    """
    for _ in range(100):
        start = first or random.randrange(10_000, 32_000 - count)
        holders: list[socket.socket] = []
        try:
            for port in range(start, start + count):
                holders.append(hold(host, port))
        except OSError:
            for holder in holders:
                holder.close()
            if first:
                raise
        else:
            return holders
    raise AssertionError(f"found no {count} consecutive free ports on {host}")


def hold(host: str, port: int) -> socket.socket:
    """Bind a socket exclusively, and then let others listen on its port."""
    holder = socket.socket()
    try:
        holder.bind((host, port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except BaseException:
        holder.close()
        raise
    return holder


def reset(connection: socket.socket) -> None:
    """Close a connection with RST, whatever is unsent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Loop(threading.Thread):
    """The thread of one or more proxies: it waits for sockets, times and what others ask for."""

    def __init__(self) -> None:
        super().__init__(name="ztasks-proxy", daemon=True)  # daemon: a test that forgets to close it fails, not hangs
        self._selector = selectors.DefaultSelector()
        self._masks: dict[socket.socket, int] = {}
        self._asked: deque[Callable[[], None]] = deque()
        self._times: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._over = False
        self.watch(self._woken, EVENT_READ, lambda mask: None)
        self.start()

    def do(self, action: Callable[[], T]) -> T:
        """Have this done in the thread; return what it returns."""
        future: Future[T] = Future()

        def act() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        self._asked.append(act)
        self._wake.send(b"!")
        return future.result(DEADLINE)

    def watch(self, what: socket.socket, mask: int, callback: Callable[[int], None]) -> None:
        """Call back when one of these events is there; with a mask of 0, no longer."""
        before = self._masks.get(what, 0)
        if mask == before:
            return
        if not before:
            self._selector.register(what, mask, callback)
        elif mask:
            self._selector.modify(what, mask, callback)
        else:
            self._selector.unregister(what)
        if mask:
            self._masks[what] = mask
        else:
            del self._masks[what]

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._times, (monotonic() + seconds, next(self._numbers), callback))

    def run(self) -> None:
        while not self._over:
            pause = max(0.0, self._times[0][0] - monotonic()) if self._times else None
            for key, mask in self._selector.select(pause):
                key.data(mask)
            while self._times and self._times[0][0] <= monotonic():
                heapq.heappop(self._times)[2]()
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            while self._asked:
                self._asked.popleft()()

    def close(self) -> None:
        """End the thread; nothing is watched any more."""
        if not self._over:
            self.do(lambda: setattr(self, "_over", True))
            self.join(DEADLINE)
            assert not self.is_alive(), "the thread of a proxy does not end"
            self._selector.close()
            self._wake.close()
            self._woken.close()
