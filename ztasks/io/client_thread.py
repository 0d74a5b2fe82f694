"""A client's thread: it stands where an executor has its head, and has the link to one elsewhere.

Only this thread touches the socket and the books. Everybody else calls `post`, as with `io/head.py`.

    post() --> inbox --> [ books ] --> link --> socket (DEALER) --> head
                            ^                                        |
    owners <-- outcomes ----+---------- link <-----------------------+

What it must hold: what was accepted is waited for, however often the connection breaks or the head is started anew;
what is not known to be accepted is submitted again; and nobody waits for ever for a head that is not there.
"""

from __future__ import annotations

import os
import selectors
import signal
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from ztasks.core.link import Link
from ztasks.core.slices import Slice
from ztasks.errors import HeadFailed, ZtasksError
from ztasks.io import client_errors as errors
from ztasks.io.client_books import ClientBooks
from ztasks.io.client_link import HeadLink, Wishes
from ztasks.io.client_lots import Lot
from ztasks.io.client_outcomes import bring
from ztasks.io.client_questions import Question, Questions, Reply
from ztasks.io.client_tasks import FEED_BYTES, MOST_DEFINED, Definitions, submission
from ztasks.io.inbox import Inbox
from ztasks.io.join import JoinFile
from ztasks.io.refusals import closed_meanwhile
from ztasks.wire.link import Accepted, Ask, Cancel, Leaving, Outcome, Range, Refused, Welcome
from ztasks.wire.link_codec import decode_to_client, encode
from ztasks.wire.outcomes import items_of

if TYPE_CHECKING:
    from ztasks.client_future import ClientFuture

FAREWELL_SECONDS: Final = 2.0
"""How long the head may take to acknowledge that this client leaves."""

_of_parents: list[RemoteHead] = []
"""In a forked child: kept for ever, since nothing of them may be finalised there."""


class RemoteHead:
    """The thread. `start()` it, `post()` to it; it ends after `post_close()`, when all is done."""

    def __init__(
        self, join: JoinFile, wishes: Wishes, definitions: Definitions, *, on_end: Callable[[], object] = lambda: None
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="ztasks-client", daemon=False)
        self.session = int.from_bytes(os.urandom(8), "big") >> 1 or 1
        self.inbox = Inbox(wishes.max_bytes)
        self.post = self.inbox.post
        self.lost: ZtasksError | None = None
        """Why nothing can be submitted now."""
        self.workers = 0
        """How many workers the head has, as it has said last."""
        self._wishes = wishes
        self._definitions = definitions
        self._on_end = on_end
        self._books = ClientBooks(self.session)
        self._questions = Questions(self._post_question, self._say_question)
        self.ask = self._questions.ask
        self._defined: set[bytes] = set()
        """The tasks that have been defined on this link."""
        self._way = HeadLink(join, self.session, wishes.name, wishes.patience, self)
        self._closing = False
        self._leaving = False
        self._forgets = wishes.cancel_on_exit
        """Whether the head shall forget what has not ended, when this client leaves."""
        self._farewell: float | None = None
        """When it stops waiting for the head to acknowledge that it leaves."""
        self._broken: ZtasksError | None = None

    # --- any thread ---

    def start(self) -> None:
        """Start the thread. Raises HeadLost."""
        try:
            self.thread.start()
        except RuntimeError as error:
            self.inbox.wakeup.close()
            self.inbox.end()
            raise errors.no_thread(error) from error

    def join(self) -> None:
        """Wait until everything has been closed."""
        self.inbox.ended.wait()  # first: a KeyboardInterrupt inside Thread.join makes the thread look ended (3.11)
        self.thread.join()

    def check(self) -> None:
        """Raise why nothing can be submitted now, if so. After a refusal the head is greeted anew instead."""
        lost = self.lost
        if lost is not None:
            if not self._way.refused:
                raise type(lost)(f"{lost} Nothing was submitted.")
            self.post(self._greet_anew)

    def post_close(self, *, cancel_waiting: bool = False) -> None:
        """Take no more work, finish what there is (or cancel what has not begun), then end."""
        self.post(lambda: self._close(cancel_waiting=cancel_waiting))

    def post_leave(self) -> None:
        """End soon: what has a journal goes on without this client, all else is cancelled. Again: end at once."""
        self.post(self._leave)

    def post_kill(self) -> None:
        """Have all jobs stopped, and end."""
        self.post(self._kill)

    def ask_to_cancel(self, future: ClientFuture[Any], seconds: float) -> None:
        """Ask the head to cancel a job that has not begun, and wait for its word for a while."""
        question = Question("cancel", {}, lambda question: self._ask_to_cancel(question, future))
        self._questions.ask_quietly(question, seconds)

    def ask_for_workers(self, seconds: float) -> None:
        """Learn how many workers there are, if the head tells in time."""
        self._questions.ask_quietly(Question("status", {}, self._questions.begin, self._on_status), seconds)

    def _post_question(self, question: Question) -> None:
        self.post(question)
        if self.inbox.ended.is_set():
            self.refuse_late()

    def after_fork(self) -> None:
        """In a forked child: what waits here fails; nothing is closed or woken, since all of it is the parent's."""
        self.inbox.asleep = False
        _of_parents.append(self)
        self._books.waiting.extend(item for item in self.inbox.items if isinstance(item, Slice))
        for job in self._books.outstanding_jobs():
            job.owner.after_fork()
        self._books.fail_all(lambda number: errors.forked())

    # --- the thread ---

    def _run(self) -> None:
        """The thread, from its start to its end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for the user's threads
        self._selector = selectors.DefaultSelector()
        try:
            self._selector.register(self.inbox.wakeup.fileno(), selectors.EVENT_READ, self.inbox.wakeup.clear)
            self._way.open(self._selector)
            self._loop()
        except OSError as error:
            self._broken = errors.no_thread(error)
        except BaseException as error:  # noqa: BLE001 - every waiting thread must learn of it
            self._broken = HeadFailed(
                f"the client's thread stopped because of a defect in ztasks ({type(error).__name__}: {error}); what "
                "has become of jobs that were not done is not known. Please report this with the traceback above."
            )
            self._broken.__cause__ = error
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            self._shut()

    def _loop(self) -> None:
        inbox, way = self.inbox, self._way
        while True:
            now = monotonic()
            way.read(now)
            self._read_inbox()
            way.keep(now)
            self._feed()
            way.flush(now)
            inbox.give_room()
            if self._closing and self._may_end(now):
                return
            due, link = way.due(now), way.link
            if self._farewell is not None:
                due = max(0.0, min(due, self._farewell - now))
            # What is posted while a message is under way need not wake this thread: its receipt will, and then all that
            # has been posted goes together.
            inbox.hungry = link.idle if link is not None else way.refused
            inbox.asleep = True
            if inbox or way.readable():
                due = 0.0
            for key, _ in self._selector.select(due):
                key.data()
            inbox.asleep = False

    def _read_inbox(self) -> None:
        books = self._books
        for item in self.inbox.take():
            if type(item) is not Slice:
                item()  # type: ignore[operator]
            elif self.lost is None and not self._leaving and self._farewell is None:
                books.add(item)
            else:
                error = self.lost or closed_meanwhile()
                ClientBooks.fail(item, errors.lost(error, None, durable=False))

    # --- what comes from the head ---

    def on_join(self, link: Link, welcome: Welcome) -> None:
        """There is a new link: say what is waited for, and what is not wanted any more; ask again what was asked."""
        self.lost = None
        self._books.max_bytes = welcome.max_bytes
        self._defined.clear()
        leaves, durable = self._wishes.cancel_on_exit, self._durable
        link.send([encode(self._books.join(cancel_on_exit=leaves, epoch=welcome.epoch, durable=durable))])
        self._say_unwanted()
        self._questions.again()

    def on_content(self, frames: list[Any]) -> None:
        """A content has come; raises WireError."""
        message = decode_to_client(bytes(frames[0]))
        if isinstance(message, Outcome):
            bring(self._books, message, items_of(message, frames[1:]))
        elif isinstance(message, Accepted):
            self._books.on_accepted(message.upto)
        elif isinstance(message, Refused):
            if message.code == "undefined":
                self._defined.clear()
            self._books.on_refused(message)
        else:
            self._questions.on_answer(message, frames[1:])

    def on_lost(self, error: ZtasksError) -> None:
        """There is no head: nobody waits for it any longer."""
        self.lost = error
        self._fail_all(lambda job_id: errors.lost(error, job_id, durable=self._durable))
        self._questions.fail_all(self._lost_anew)

    @property
    def may_be_durable(self) -> bool:
        """Whether what is submitted may go into a journal: there is one, or the head has not been heard of yet."""
        return self._wishes.durable and self._way.durable is not False

    @property
    def _durable(self) -> bool:
        """Whether what was submitted outlives this client and its head."""
        return self._wishes.durable and self._way.durable is True

    # --- what goes to the head ---

    def _feed(self) -> None:
        """Submit what waits, as far as the link takes it."""
        link = self._way.link
        if link is not None and self._farewell is None:
            again = self._books.submits_again
            while link.queued_bytes < FEED_BYTES and (lot := self._books.next_lot()) is not None:
                self._submit(link, lot)
            if again and not self._books.submits_again:  # the head has not known what to cancel
                self._say_unwanted()

    def _submit(self, link: Link, lot: Lot) -> None:
        define = self._definitions.of(lot.task)
        if define.key not in self._defined:
            self._defined = {
                *list(self._defined)[:MOST_DEFINED],
                define.key,
            }
            link.send([encode(define), lot.task.callable.pickled])
        link.send(submission(define, lot, durable=self._wishes.durable))

    def _say(self, message: Any) -> None:
        if (link := self._way.link) is not None:
            link.send([encode(message)])

    def _say_cancel(self, ranges: list[Range], *, running: bool) -> None:
        if ranges:
            self._say(Cancel(self.session, ranges, running))

    def _say_unwanted(self) -> None:
        for ranges, running in zip(self._books.unwanted(), (False, True), strict=True):
            self._say_cancel(ranges, running=running)

    def _greet_anew(self) -> None:
        self.lost = None
        self._way.greet()

    # --- questions ---

    def _say_question(self, ask: Ask) -> None:
        if self.lost is None:
            self._say(ask)  # without a link: when there is one
        else:
            self._questions.fail_all(self._lost_anew)

    def _lost_anew(self) -> ZtasksError:
        assert self.lost is not None
        return type(self.lost)(str(self.lost))

    def _ask_to_cancel(self, question: Question, future: ClientFuture[Any]) -> None:
        job = future._slice
        if job is None or self._books.cancel_unsent(job) or future.job_id is None:
            question.end(Reply(0, ()))
            return
        number = job.first
        question.arguments = {"ids": [future.job_id], "running": False}
        question.on_reply = lambda reply: self._on_cancelled(number, reply)
        self._questions.begin(question)

    def _on_cancelled(self, number: int, reply: Reply) -> None:
        """The head has cancelled a job, or could not."""
        if reply.value:
            job = self._books.pop_job(number)
            if job is not None:
                job.owner.cancelled_by_head()

    def _on_status(self, reply: Reply) -> None:
        workers = reply.value.get("workers") if isinstance(reply.value, dict) else None
        self.workers = workers if isinstance(workers, int) else 0

    # --- cancelling, called in the thread as `io/head.py` has it ---

    def cancel_slice(self, slice_: Slice) -> None:
        """A caller has acquired the slice's gate to cancel it."""
        self._books.strike(slice_)

    def stop_job(self, job: Slice) -> None:
        """A caller wants a job stopped, wherever it is."""
        if not self._books.cancel_unsent(job) and job.first:
            self._books.want_job_no_more(job.first, running=True)
            self._say_cancel([(job.first, 1)], running=True)

    def cancel_owner(self, owner: object) -> None:
        """Cancel what has not begun of one map."""
        self._books.cancel_waiting(owner)
        self._say_cancel(self._books.want_no_more(owner), running=False)

    # --- the end ---

    def _close(self, *, cancel_waiting: bool) -> None:
        self._closing = True
        if cancel_waiting:
            self._books.cancel_waiting()
            self._say_cancel(self._books.want_no_more(), running=False)

    def _leave(self) -> None:
        if self._leaving:
            self._kill()
        elif not self._durable or self._wishes.cancel_on_exit:
            self._leaving = True
            self._close(cancel_waiting=True)
        else:
            self._leaving = self._closing = True
            self._books.cancel_waiting()
            self._say_cancel(self._books.want_no_more(maps_only=True), running=False)
            self._fail_all(errors.left)

    def _kill(self) -> None:
        survives = self._leaving and self._durable and not self._wishes.cancel_on_exit
        self._leaving = self._closing = True
        self._books.cancel_waiting()
        if not survives:
            self._forgets = True
            self._say_cancel(self._books.want_no_more(running=True), running=True)
        self._fail_all(errors.killed)
        if self._farewell is not None:
            self._farewell = 0.0

    def _may_end(self, now: float) -> bool:
        """Tell whether all is done; say farewell before."""
        link = self._way.link
        if not self._books.empty or self.inbox:
            return False
        if link is None:
            return True
        if self._farewell is None:
            self._farewell = now + FAREWELL_SECONDS
            self._say(Leaving(cancel=self._forgets or not self._durable))
            self._way.flush(now)
        return link.idle or now >= self._farewell

    def _fail_all(self, error_of: Callable[[str | None], ZtasksError]) -> None:
        """Fail all that is outstanding; `error_of` is given the id of each job, or None if it has none."""
        self._books.fail_all(lambda number: error_of(None if number is None else f"{self.session:016x}-{number}"))

    def _shut(self) -> None:
        """Close everything; whatever is still open is failed first."""
        try:
            error = self._broken or closed_meanwhile()
            self.lost = self.lost or error
            self._fail_all(lambda job_id: errors.lost(error, job_id, durable=self._durable))
            self._questions.fail_all(lambda: self._broken or errors.closed())
            self._way.close()
            self._selector.close()
        finally:
            self.inbox.wakeup.close()
            self.inbox.end()
            self.refuse_late()
            self._on_end()

    def refuse_late(self) -> None:
        """Fail what was posted too late; called at the end, and by whoever posts after it."""
        error = self._broken or closed_meanwhile()
        for item in self.inbox.take():
            if isinstance(item, Slice):
                ClientBooks.fail(item, error)
            elif type(item) is Question:
                item.end(self._broken or errors.closed())
