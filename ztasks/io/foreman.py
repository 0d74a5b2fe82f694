"""The foreman: a worker to its head, a ventilator with a crew to its own workers. It runs no user code.

Two threads: this one has the connection to the head, and `Head`'s the crew, as in a user's process.

    control (SUB)  <- Welcome, Reject, Void, Alive
    lane (PULL)    <- chunks of work, receipts
    sink (PUSH)    -> Hello; chunks of outcomes, receipts, Alive

What it must hold: it answers always; a connection that breaks, or a head that restarts, costs no work and no outcome;
when it leaves, what has not begun goes back first.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, Final

import msgspec

from ztasks.core.joining import Joining
from ztasks.core.link import Link
from ztasks.errors import HeadLost, WireError, ZtasksError
from ztasks.io.head import Head
from ztasks.io.holdings import Holdings
from ztasks.io.join import JoinFile
from ztasks.io.leaving import Leaver, Stay
from ztasks.io.net import NetSocket, PeerSockets
from ztasks.io.tending import Lasting, no_head
from ztasks.io.terms import EVERYBODY
from ztasks.io.wakeup import Wakeup
from ztasks.wire.link import (
    Alive,
    Batch,
    Cancel,
    Chunk,
    Define,
    Forget,
    Hello,
    Leaving,
    Recall,
    Received,
    Reject,
    Void,
    Wanted,
    Welcome,
)
from ztasks.wire.link_codec import decode_at_peer, decode_to_foreman, encode
from ztasks.wire.messages import MAX_ITEMS

MESSAGES_AT_ONCE: Final = 64

TEND_SECONDS: Final = 1.0
"""How often connections are looked after."""

TEND_NEW_SECONDS: Final = 0.01
"""The same for a lane that is being connected."""

REFUSED_SECONDS: Final = 2.0
"""How long to wait before greeting a head again that is stopping, or full."""

Say = Callable[..., None]
"""Called with a line for people, and perhaps `level`."""


class Foreman:
    """One foreman, from its start to its end; `run` it in the main thread."""

    def __init__(
        self,
        hello: Hello,
        join: JoinFile,
        make_head: Callable[[Callable[[], None]], Head],
        stay: Stay,
        say: Say,
    ) -> None:
        """`make_head` makes the crew's head; it is given what to call at its end. `say` tells people."""
        self._hello = hello
        self._join = join
        self._say = say
        self._wakeup = Wakeup()
        self._holdings = Holdings(self._wakeup.set)
        self._head = make_head(self._wakeup.set)
        now = monotonic()
        self._joining = Joining(hello, now, stay.join_timeout)
        self._greet_at: float | None = None
        """When to greet again a head that did not take this foreman in for the time being."""
        self._leaver = Leaver(stay, now)
        self._join_timeout = stay.join_timeout
        self._killing = False
        self._tend_at = now
        self._net: PeerSockets | None = None
        self._lane: NetSocket | None = None
        self._unreached_since = now
        """Since when the lane is not connected."""
        self._lasting = Lasting()
        self._said: tuple[int, int, Wanted] | None = None
        """The lane, the credit, and what is wanted, as the head was told last."""

    # --- any thread, and signal handlers ---

    def stop(self, *, drain: bool = False) -> None:
        """Take no more work and leave: finish what runs, and with `drain` all that is here; the rest goes back."""
        self._leaver.stop("drain" if drain else "stop")
        self._wakeup.set()

    def kill(self) -> None:
        """Leave at once: what runs is lost here, and runs again elsewhere."""
        self._leaver.kill()
        self._wakeup.set()

    # --- the loop ---

    def run(self) -> int:
        """Run until it has left; return the exit code."""
        self._selector = selectors.DefaultSelector()
        code = 1
        try:
            self._head.start()
            self._net = PeerSockets(self._join)
            self._open(self._net)
            code = self._loop(self._net)
            return code
        finally:
            if code == 0:
                self._head.post_close(cancel_waiting=True)  # workers leave by themselves
            else:
                self._head.post_kill()
            if self._head.thread.ident is not None:
                self._head.join()
            if self._net is not None:
                self._net.close()
            self._selector.close()
            self._wakeup.close()

    def _open(self, net: PeerSockets) -> None:
        self._sink = net.sink()
        self._control = net.control(b"%016x" % self._hello.incarnation)
        self._control.raw.subscribe(EVERYBODY)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._wakeup.clear)
        self._selector.register(self._control.descriptor(), selectors.EVENT_READ, _nothing)

    def _loop(self, net: PeerSockets) -> int:
        while True:
            now = monotonic()
            self._read(self._control, now)
            if self._lane is not None:
                self._read(self._lane, now)
            self._tell_reports(now)
            self._keep(net, now)
            self._flush(now)
            code = self._leave(now)
            if code is not None:
                return code
            waiting = self._holdings.reports and not self._killing
            due = 0.0 if waiting else self._next_event(now)
            for key, _ in self._selector.select(due):
                key.data()

    def _next_event(self, now: float) -> float:
        if self._control.readable() or (self._lane is not None and self._lane.readable()):
            return 0.0
        due = self._tend_at - now
        if self._greet_at is not None:
            due = min(due, self._greet_at - now)
        elif (joining := self._joining.next_event(now)) is not None:
            due = min(due, joining)
        return max(0.0, min(due, self._leaver.next_event(now, idle=not self._holdings.items)))

    # --- in ---

    def _read(self, sock: NetSocket, now: float) -> None:
        on_control = sock is self._control
        for _ in range(MESSAGES_AT_ONCE):
            if not sock.readable():
                return
            message = sock.receive()
            if message is None:
                continue
            try:
                self._take(message.frames[1:] if on_control else message.frames, now, on_control=on_control)
            except WireError as error:
                self._say(f"the head does not follow the protocol, and is joined anew: {error}", level="error")
                self._lose(now)
            if sock is not self._control and sock is not self._lane:
                return  # the lane was closed

    def _take(self, frames: list[Any], now: float, *, on_control: bool) -> None:
        if not frames:
            return
        message = decode_at_peer(bytes(frames[0]))
        joining, link = self._joining, self._joining.link
        if isinstance(message, Welcome):
            new = joining.on_welcome(message, now)
            if new is not None:
                self._on_join(new, message, now)
        elif isinstance(message, Reject):
            if joining.on_reject(message):
                self._on_reject(message, now)
        elif isinstance(message, Void):
            if joining.on_void(message, now):
                self._close_lane()
        elif isinstance(message, Alive):
            if joining.on_alive(message, now) and link is not None:
                link.on_alive(message, now, behind=not on_control)
                self._holdings.on_acknowledged(link.acknowledged_there)
                if message.wanted != "run" and self._leaver.stop(message.wanted):
                    self._say(f"the head wants this worker to {message.wanted}")
            elif joining.link is None:
                self._close_lane()
        elif link is not None and message.lane == link.lane:
            if isinstance(message, Chunk):
                content = link.on_chunk(message, frames[1:], now)
                if content is not None:
                    self._on_content(content.frames, now)
                    link.acknowledge(content.upto)
            else:
                assert isinstance(message, Received)
                link.on_received(message, now)
            self._holdings.on_acknowledged(link.acknowledged_there)

    def _on_content(self, frames: list[Any], now: float) -> None:
        message = decode_to_foreman(bytes(frames[0]))
        holdings, head = self._holdings, self._head
        if isinstance(message, Define):
            if len(frames) != 2:
                raise WireError("a task came without its callable")
            holdings.on_define(message, bytes(frames[1]))
        elif isinstance(message, Batch):
            if self._leaver.has_said_farewell:
                return  # it is the head's again when that hears the farewell
            for slice_ in holdings.on_batch(message, frames[1:]):
                head.post(slice_)
            self._leaver.busy(now)
            if self._leaver.hands_back:
                self._hand_back()
        elif isinstance(message, Cancel):
            self._cancel(message)
        elif isinstance(message, Recall):
            self._hand_back()
        else:
            assert isinstance(message, Forget)
            holdings.forget(message.keys)

    def _cancel(self, cancel: Cancel) -> None:
        wanted = self._holdings.on_cancel(cancel)
        if wanted is None:
            return
        self._head.post(lambda: self._head.cancel_unbegun(wanted))
        if cancel.running:
            self._head.post(lambda: self._head.stop_begun(wanted))

    def _hand_back(self) -> None:
        """Give back what has not begun."""
        self._head.post(lambda: self._head.cancel_unbegun(lambda slice_: True))

    # --- out ---

    def _tell_reports(self, now: float) -> None:
        """Tell what became of work: now, or when there is a link again."""
        holdings, link = self._holdings, self._joining.link
        if not holdings.reports or self._leaver.killed:
            return  # what the killing of workers makes of their jobs says nothing of these
        for content in holdings.take_reports(leaving=self._leaver.hands_back):
            holdings.told(link.send(content.frames) if link is not None else inf, content)
        self._leaver.busy(now)

    def _flush(self, now: float) -> None:
        joining = self._joining
        hello = joining.hello(now) if self._greet_at is None else None
        if hello is not None:
            self._sink.send(encode(hello))
        link = joining.link
        if link is None:
            return
        link.wanted = self._leaver.wanted
        link.credit = MAX_ITEMS if link.wanted == "run" and self._is_reached() else 0
        changed = self._said != (link.lane, link.credit, link.wanted)
        if changed:  # before Held, upon which work comes
            self._said = link.lane, link.credit, link.wanted
            self._sink.send(encode(link.sign()))
        for chunk, frames in link.outgoing():
            if not self._sink.send(encode(chunk), *frames):
                link.unsent(chunk.number)
                break
        receipt = link.receipt()
        if receipt is not None:
            self._sink.send(encode(receipt))
        if (alive := link.alive(now)) is not None:
            self._sink.send(encode(alive))

    def _is_reached(self) -> bool:
        """Tell whether the head's work comes through to here."""
        return self._lane is not None and self._net is not None and self._net.connected(self._lane)

    # --- joining ---

    def _on_join(self, link: Link, welcome: Welcome, now: float) -> None:
        assert self._net is not None, "it is open"
        self._close_lane()
        self._hello = msgspec.structs.replace(self._hello, after=welcome.lane)
        self._lane = self._net.lane(welcome.port)
        self._tend_at = self._unreached_since = now
        self._selector.register(self._lane.descriptor(), selectors.EVENT_READ, _nothing)
        again = self._holdings.take_unacknowledged()
        link.send([encode(self._holdings.held(again))])
        for content in again:
            self._holdings.told(link.send(content.frames), content)
        where = f"{self._join.address}:{self._join.ports.clients}"
        what = "joined" if not self._leaver.joined else "joined anew:"
        slots = f"{self._hello.slots} worker" + ("s" if self._hello.slots != 1 else "")
        self._say(f"{what} {where} as {self._hello.name} with {slots}")
        self._leaver.joined = True

    def _on_reject(self, reject: Reject, now: float) -> None:
        """The head does not take this foreman in: for ever, or (stopping, full) for the time being."""
        self._close_lane()
        if reject.code not in ("stopping", "full"):
            self._leaver.fail(HeadLost(f"the head refuses this worker: {reject.why}. Nothing was run, or is lost."))
            return
        self._say(f"the head does not take this worker in for now: {reject.why}", level="warning")
        self._greet_at = now + REFUSED_SECONDS

    def _lose(self, now: float) -> None:
        if self._joining.link is not None:
            self._joining.lose(now)
        self._close_lane()

    def _close_lane(self) -> None:
        if self._lane is not None and self._net is not None:
            self._selector.unregister(self._lane.descriptor())
            self._net.close_one(self._lane)
            self._lane = None

    def _keep(self, net: PeerSockets, now: float) -> None:
        """Do what is due."""
        joining, leaver = self._joining, self._leaver
        if now >= self._tend_at:
            self._tend(net, now)
        if self._greet_at is not None and now >= self._greet_at:
            self._greet_at = None
            self._joining = joining = Joining(self._hello, now, leaver.join_seconds(now))
        if joining.keep(now):
            self._close_lane()
        if joining.missed(now):
            self._say("the head has not been heard of for a while; jobs that run go on, and it is looked for")
        if joining.too_late(now):
            leaver.fail(no_head(self._join, self._join_timeout or 0.0, net.trouble()))
        if (why := self._head.why_ended()) is not None:
            leaver.fail(why)
        elif self._head.inbox.ended.is_set():
            leaver.fail(ZtasksError("the workers have ended"))
        if (why_now := leaver.keep(now, idle=not self._holdings.items)) is not None:
            self._say(why_now)
        if leaver.begins_to_hand_back():
            self._hand_back()

    def _tend(self, net: PeerSockets, now: float) -> None:
        """Look after the connections: closely while a new lane is being connected, since no work comes before."""
        net.tend(now)
        reached = self._is_reached()
        if reached:
            self._unreached_since = now
        new = self._lane is not None and not reached and now - self._unreached_since < TEND_SECONDS
        self._tend_at = now + (TEND_NEW_SECONDS if new else TEND_SECONDS)
        if self._lasting.note("" if reached else net.trouble(), now):
            what = "not joined" if self._joining.link is None else "joined, but no work can come"
            self._say(f"{what}: {net.trouble()}", level="warning")

    # --- leaving ---

    def _leave(self, now: float) -> int | None:
        """Return the exit code if it is time to go; raises why there is nothing else to do."""
        leaver, holdings, link = self._leaver, self._holdings, self._joining.link
        if leaver.killed and not self._killing:
            self._killing = True
            self._head.post_kill()
        done = leaver.killed or (leaver.wanted != "run" and holdings.empty)
        if done and link is not None and leaver.says_farewell(now):
            link.send([encode(Leaving(cancel=leaver.killed or holdings.gives_up))])
            self._flush(now)
        code = leaver.may_go(
            now, done=done, idle=not holdings.items, linked=link is not None, heard=link is None or link.idle
        )
        if leaver.gave_up and (untold := holdings.untold):
            self._say(
                f"the head is not there, and has not acknowledged what became of {untold} jobs: they will run again",
                level="error",
            )
            return 1
        return code


def _nothing() -> None:
    """A ZeroMQ descriptor only wakes the loop, which then looks at the socket itself."""
