"""TCP proxies of the tests' own: connections that are reset, refused, silent or slow, on a host without special rights.

What must hold: all of a proxy's sockets belong to one thread; an operation has taken effect when it returns; `close()`
leaves no descriptor and no thread. A proxy lives in the network namespace of the thread that makes it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

from proxy_loop import Loop, hold, reserve
from proxy_port import Address, Mode, Port, Rate, Way
from support import DEADLINE, wait_for

T = TypeVar("T")


class Line:
    """Proxied ports with which the same is done at the same moment."""

    def __init__(self, loop: Loop, ports: Iterable[Port]) -> None:
        self._loop = loop
        self._ports = list(ports)

    # --- what is done with it ---

    def cut(self) -> int:
        """Reset all connections on both sides; return how many there were. New ones may be made at once."""
        return sum(self._all(Port.cut))

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        self._all(Port.refuse)

    def heal(self) -> None:
        """Take new connections again."""
        self._all(Port.listen)

    def swallow(self) -> None:
        """Half-open: connections stay, are made and accepted, but bytes, ends and resets vanish."""
        self._all(lambda port: port.turn(Mode.SWALLOW))

    def stall(self) -> None:
        """Leave bytes, ends and new connections where they are, so that none is lost."""
        self._all(lambda port: port.turn(Mode.STALL))

    def resume(self) -> None:
        """Pass bytes on again; connections of which something was swallowed are reset."""
        self._all(lambda port: port.turn(Mode.PASS))

    def limit(self, bytes_per_second: float | None) -> None:
        """Let no more than this pass each way, of all ports together; None: no limit."""
        rates: dict[Way, Rate | None] = {
            way: None if bytes_per_second is None else Rate(bytes_per_second) for way in ("up", "down")
        }
        self._all(lambda port: port.rates.update(rates))

    def lose_after(self, passed: int, *, lost: int = 1, way: Way = "down") -> None:
        """Once, for each port: pass so many more bytes, lose at least so many, then reset that connection.

        Who has sent the lost ones sees them acknowledged by then.
        """
        self._all(lambda port: port.plan_loss(way, passed, lost))

    def _all(self, action: Callable[[Port], T]) -> list[T]:
        return self._loop.do(lambda: [action(port) for port in self._ports])

    # --- what it has seen ---

    @property
    def up(self) -> int:
        """Bytes that were passed on to the target."""
        return sum(port.passed["up"] for port in self._ports)

    @property
    def down(self) -> int:
        """Bytes that were passed on from the target."""
        return sum(port.passed["down"] for port in self._ports)

    @property
    def lost(self) -> int:
        """Bytes that were read and dropped."""
        return sum(port.lost for port in self._ports)

    @property
    def losses(self) -> int:
        """Connections that `lose_after` has reset."""
        return sum(port.losses for port in self._ports)

    @property
    def connected(self) -> int:
        """Connections that lead to the target now."""
        return sum(port.connected for port in self._ports)

    @property
    def accepted(self) -> int:
        """Connections that have ever led to the target."""
        return sum(port.accepted for port in self._ports)

    def wait_connected(self, count: int = 1, seconds: float = DEADLINE) -> None:
        """Wait until at least so many connections lead to the target."""
        wait_for(lambda: self.connected >= count, f"{count} connections through {self._addresses()}", seconds)

    def _addresses(self) -> str:
        return ", ".join("{}:{}".format(*port.address) for port in self._ports)


class _Whole(Line):
    """Ports with a thread of their own."""

    def __init__(self, holders: list[socket.socket], targets: list[Address]) -> None:
        loop = Loop()
        super().__init__(loop, [Port(loop, target, holder) for holder, target in zip(holders, targets, strict=True)])
        try:
            self.heal()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Reset all connections and end the thread."""
        if self._loop.is_alive():
            self._all(Port.close)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Proxy(_Whole):
    """One port that leads to a target."""

    def __init__(self, target: Address, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__([hold(host, port)], [target])
        self.address: Address = self._ports[0].address


class ProxySet(_Whole):
    """A head's ports, on another base or address: what lies at base + n leads to the head's base + n.

    So a head with `--advertise ADDRESS`, where ADDRESS is this one's, is reached through the proxies in all things.
    """

    def __init__(self, head: Address, lanes: int, *, host: str = "127.0.0.1", base: int | None = None) -> None:
        """`lanes`: how many ports from the fourth on are lanes."""
        offsets = range(3 + lanes)
        holders = reserve(len(offsets), host, base)
        self.host: str = host
        self.base: int = holders[0].getsockname()[1]
        self.address = f"{self.host}:{self.base}"
        super().__init__(holders, [(head[0], head[1] + offset) for offset in offsets])
        self.clients, self.sink, self.control = (Line(self._loop, [port]) for port in self._ports[:3])
        self.lanes = Line(self._loop, self._ports[3:])
        """All lanes at once."""
        self.lane_ports = range(self.base + 3, self.base + 3 + lanes)

    def lane(self, port: int) -> Line:
        """One lane, by the port that its foreman connects to."""
        return Line(self._loop, [self._ports[3 + self.lane_ports.index(port)]])
