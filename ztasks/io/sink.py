"""The sink: takes in what workers send, in the head's thread.

A message that does not follow the protocol is dropped whole, and told on stderr; if it says whose it is, that worker is
killed, and what it held goes to its successor.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from ztasks.core.lane import LaneState
from ztasks.core.ventilator import Ventilator
from ztasks.errors import WireError
from ztasks.io.crew import write_stderr
from ztasks.io.deliver import deliver, receive_items
from ztasks.io.watch import Watch
from ztasks.wire.messages import Bye, Ready, Results, StartFailed, decode_from_worker

if TYPE_CHECKING:
    from ztasks.io.sockets import Socket

MESSAGES_AT_ONCE: Final = 64
"""How many messages are read before the lanes are looked after again."""


class Sink:
    """The PULL socket on which everything from the workers arrives."""

    def __init__(self, sock: Socket, ventilator: Ventilator, watch: Watch) -> None:
        self._sock = sock
        self._ventilator = ventilator
        self._watch = watch

    def descriptor(self) -> int:
        """Return the descriptor that tells of arrivals (edge-triggered: look at `waiting` afterwards)."""
        return self._sock.descriptor()

    def waiting(self) -> bool:
        """Tell whether there is a message."""
        return self._sock.readable()

    def read(self, now: float) -> bool:
        """Take in what workers have sent; tell whether there was anything."""
        sock = self._sock
        for count in range(MESSAGES_AT_ONCE):
            if not sock.readable():
                return count > 0
            try:
                self._read_message(now)
            except WireError as error:
                sock.discard_rest()
                write_stderr(f"ztasks: {error}\n".encode())
        return True

    def _read_message(self, now: float) -> None:
        message = decode_from_worker(self._sock.receive_header())
        if type(message) is Results:
            self._take_results(message, now)
            return
        self._sock.receive_frames(0, 0)  # raises WireError if there is more
        if isinstance(message, Ready):
            self._watch.on_ready(message.lane)
        elif isinstance(message, StartFailed):
            lane = self._ventilator.lanes.get(message.lane)
            if lane is not None and lane.state is not LaneState.STARTING:
                raise WireError(f"lane {message.lane} says that its worker did not start, although it has")
            self._watch.on_start_failed(message.lane, message.failure)
        elif isinstance(message, Bye) and message.lane in self._ventilator.lanes:
            self._ventilator.on_leaving(message.lane)
            self._watch.on_bye(message.lane, monotonic())

    def _take_results(self, results: Results, now: float) -> None:
        try:
            items = receive_items(self._sock, results)
            finished = self._ventilator.on_results(results, now)
        except WireError:
            self._watch.kill(results.lane, "ztasks did this because a message of its did not follow the protocol")
            raise
        except MemoryError:
            why = "ztasks did this because there was not enough memory in the user's process for its results"
            self._watch.kill(results.lane, why)
            raise WireError(f"a worker was killed; {why}") from None
        if finished is not None:
            deliver(finished, results, items, self._watch.crew.workers[results.lane].pid)
