"""The ventilator: decides which lane takes which batch, and what each outcome means. It is the head's books.

What it must hold: every item of every slice given to `on_submit` ends exactly once, in a `Finished` or as cancelled;
what a lost or recalled lane held is queued again, and only the job that was running when its worker died is charged.

It does no I/O. Methods `on_*` take in what has happened; `dispatch` returns what shall be sent.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from ztasks.core.delayed import Delayed
from ztasks.core.endings import lost, named, poison, timeout
from ztasks.core.lane import Batch, Lane, LaneState, Send
from ztasks.core.options import retry_delay
from ztasks.core.room import Room, find_lane
from ztasks.core.slices import Finished, Slice, State, TaskBooks
from ztasks.core.taking import split_at, take
from ztasks.errors import WireError
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.messages import Failure, Results


class Ventilator:
    """The books on all queued and all assigned work."""

    def __init__(self, chance: Callable[[], float], room: Room, *, counts: bool = True) -> None:
        """`chance`: numbers from 0 to 1, for jitter. `counts`: it tries again what fails; a foreman's does not."""
        self.lanes: dict[int, Lane] = {}
        self.pending = 0
        """Items that have not ended yet."""
        self.timed: dict[int, Lane] = {}
        """The lanes that may hold jobs with a timeout; whoever keeps time takes out those that do not."""
        self._chance, self._counts = chance, counts
        self._round: deque[TaskBooks] = deque()
        """The tasks that have queued work, in turn."""
        self._open: OrderedDict[int, Lane] = OrderedDict()
        """The lanes that want work; the one at the end comes first: it worked last, so its caches are warm."""
        self._delayed = Delayed()
        self._ready = 0
        self._room = room
        self._singular = False
        """Whether there has ever been a task that needs room; if not, nobody looks."""
        self._blocked = False
        """Whether the task whose turn it is waits for room."""
        self.stopped: list[Slice] = []
        """Assigned jobs that have ended as cancelled; whoever tells their owners takes them out."""

    # --- work comes in ---

    def on_submit(self, slices: Iterable[Slice]) -> None:
        """Queue new slices."""
        for slice_ in slices:
            self.pending += slice_.count
            task = slice_.task
            task.queue.append(slice_)
            task.queued += slice_.count
            if not task.waiting:
                task.waiting = True
                self._round.append(task)
                self._singular = self._singular or task.singular

    def on_cancel(self, slice_: Slice) -> bool:
        """Cancel a slice that waits; its gate, if any, is the caller's. False: it is assigned, or has ended."""
        if slice_.state is not State.QUEUED and slice_.state is not State.DELAYED:
            return False
        slice_.move(State.CANCELLED)
        self.pending -= slice_.count
        return True

    def cancel_waiting(self, wanted: Callable[[Slice], bool] | None = None) -> list[Slice]:
        """Cancel all waiting slices (that are `wanted`) and return them, queued ones in their order."""
        waiting = [slice_ for task in self._round for slice_ in task.queue]
        waiting += [slice_ for _, _, slice_ in self._delayed]
        cancelled = []
        for slice_ in waiting:
            mine = (wanted is None or wanted(slice_)) and (slice_.gate is None or slice_.gate.acquire(False))
            if mine and self.on_cancel(slice_):
                cancelled.append(slice_)
        return cancelled

    def on_stop(self, job: Slice) -> Lane | None:
        """Take in that a job that is assigned shall be stopped; return its lane, or None if it is not assigned."""
        if job.state is not State.ASSIGNED:
            return None
        for lane in self.lanes.values():
            for batch in lane.batches:
                if batch.task is not job.task or job not in batch.slices:
                    continue
                position = batch.position + batch.slices.index(job)
                if position < lane.received:  # an earlier attempt, whose neighbours have not ended yet
                    continue
                job.stopping = True
                lane.stopping.setdefault(position, None)
                self.timed[lane.number] = lane
                return lane
        return None

    # --- lanes come and go ---

    def on_starting(self, number: int, budget: int | None = None) -> Lane:
        """Open the books on a worker that is being started."""
        lane = self.lanes[number] = Lane(number, budget)
        return lane

    def on_ready(self, number: int) -> None:
        """Take in that a lane's worker is ready for work."""
        lane = self.lanes[number]
        if lane.state is LaneState.STARTING:
            lane.state = LaneState.READY
            self._ready += 1
            self._open[number] = lane

    def on_leaving(self, number: int) -> None:
        """Give a lane no more work: its worker has been told to leave."""
        lane = self.lanes[number]
        if lane.state is LaneState.READY:
            self._ready -= 1
        lane.state = LaneState.LEAVING
        self._open.pop(number, None)

    def on_lost(
        self, number: int, cursor: int | None, death: DeathCertificate, now: float, *, late: bool = False
    ) -> list[Finished]:
        """Take in that a worker has gone, and queue again what it held.

        `cursor` is the position it was running, from its claim cell (None: it had not begun any); the job there is
        charged with a crash, unless its outcome has come. `late`: the worker was killed because the job did not heed
        its timeout. The sink has been drained before.
        """
        lane = self.lanes.pop(number)
        if lane.state is LaneState.READY:
            self._ready -= 1
        lane.state = LaneState.LOST
        self._open.pop(number, None)
        self.timed.pop(number, None)
        finished: list[Finished] = []
        again: list[Slice] = []
        for batch in lane.batches:
            start = max(lane.received, batch.position)
            if cursor is None or not start <= cursor < batch.end:
                again += batch.rest(start - batch.position)
                continue
            rest = batch.rest(start - batch.position)
            before, culprit, after = split_at(rest, cursor - start)
            again += before
            if culprit.stopping:
                self._stopped(culprit)
            elif not self._charge(culprit, named(culprit, death), finished, now, late=late):
                again.append(culprit)
            again += after
        self._requeue(again)
        return finished

    def _charge(
        self, culprit: Slice, death: DeathCertificate, finished: list[Finished], now: float, *, late: bool
    ) -> bool:
        """Charge a job with the death of its worker; False: it shall be queued again at once."""
        culprit.history = (*culprit.history, death)
        if not self._counts:
            failure: Failure = timeout(culprit) if late else lost(culprit)
        elif late:  # it had to be killed, since it did not heed its timeout: that is a failure, not a crash
            if culprit.may_retry(failure := timeout(culprit)):
                self._delay(culprit, failure, now)
                return True
        elif culprit.task.options.at_most_once:
            failure = lost(culprit)
        elif culprit.crashes < culprit.task.options.crashes_allowed:
            culprit.crashes += 1
            return False
        else:
            failure = poison(culprit)
        self._end(culprit, failure, finished)
        return True

    def _stopped(self, job: Slice) -> None:
        """End a job as cancelled that was assigned, or has just come back."""
        job.move(State.CANCELLED)
        self.pending -= 1
        self.stopped.append(job)

    def _end(self, job: Slice, failure: Failure, finished: list[Finished]) -> None:
        """End an assigned job with a failure that comes from the head itself."""
        job.move(State.FAILED)
        self.pending -= 1
        outcome = Finished([job], 0, 1)
        outcome.failures[0] = failure
        finished.append(outcome)

    def on_unsendable(self, sends: list[Send]) -> list[Slice]:
        """Take in that the first of these, all that were to go down one lane, could not be sent. Its jobs have failed,
        and are returned; the others are queued again."""
        again: list[Slice] = []
        for send in reversed(sends):
            batch = send.lane.take_back()
            if send.ships:
                send.lane.callables.pop(batch.task.callable.key, None)
            send.lane.callables.update(dict.fromkeys(send.forget))  # the worker still has them
            again[:0] = batch.slices
        failed, again = again[: len(batch.slices)], again[len(batch.slices) :]
        self.pending -= batch.count
        for slice_ in failed:
            slice_.move(State.FAILED)
        self._requeue(again)
        if send.lane.wants_more():
            self._open[send.lane.number] = send.lane
        return failed

    # --- outcomes come in ---

    def on_results(self, results: Results, now: float) -> Finished | None:
        """Take in a worker's report, checked by `check_items`; None if its lane has been lost.

        Raises WireError if it does not fit the books, which are unchanged then.
        """
        lane = self.lanes.get(results.lane)
        if lane is None:
            return None
        batch = lane.batches[0] if lane.batches else None
        if batch is None or results.position != lane.received or results.position + results.count > batch.end:
            raise WireError(
                f"lane {lane.number} reports items {results.position} to {results.position + results.count - 1}, "
                f"but item {lane.received} of {lane.dispatched} is due"
            )
        if results.form == "list" and not batch.task.map_number:
            raise WireError(f"lane {lane.number} reports submitted jobs in the form of a map's")
        offset = results.position - batch.position
        finished = Finished(batch.slices, offset, results.count)
        self._settle(batch, finished, results.failures, now)
        lane.received += results.count
        lane.on_moved(now)
        if lane.stopping:
            lane.stopping = {at: since for at, since in lane.stopping.items() if at >= lane.received}
        batch.task.run_time.learn(results.busy, results.count)
        lane.judge_idling(results.busy, results.idle)
        if lane.received == batch.end:
            lane.batches.popleft()
            lane.nbytes -= batch.nbytes
        if lane.wants_more():
            self._open[lane.number] = lane
        return finished

    def _settle(self, batch: Batch, finished: Finished, failures: list[Failure], now: float) -> None:
        """Decide what has ended and what is tried again, and change the states."""
        offset, end = finished.offset, finished.offset + finished.count
        many = len(batch.slices) == batch.count
        if many:
            for slice_ in batch.slices[offset:end]:
                slice_.state = State.DONE  # from ASSIGNED; this is the hot path, so the table is not asked
        elif end == batch.count:
            batch.slices[0].state = State.DONE
        for failure in failures:
            at = offset + failure.offset
            job = batch.slice_at(at)
            if many:
                job.state = State.ASSIGNED  # not done after all
            if job.stopping:
                finished.withheld.add(at)
                self._stopped(job)
            elif self._counts and job.may_retry(failure):
                job.history = (*job.history, f"{failure.type_name}: {failure.message}")
                self._delay(job, failure, now)
                finished.withheld.add(at)
            else:
                job.state = State.FAILED
                finished.failures[at] = failure
        self.pending -= finished.count - len(finished.withheld)

    def _delay(self, job: Slice, failure: Failure, now: float) -> None:
        """Keep a failed job, whose history tells of it, until its next attempt is due."""
        job.failures += 1
        job.state = State.ASSIGNED
        job.move(State.DELAYED)
        if job.gate is not None:
            job.gate.release()
        pause = failure.after
        if pause is None:
            pause = retry_delay(job.task.options, job.failures, self._chance())
        self._delayed.add(job, now + pause)

    # --- work is taken back ---

    def recallable(self, now: float) -> list[Lane]:
        """Return the lanes whose unstarted work should be taken back, if they have any: they have not moved for a
        while, another lane is idle, and nothing is queued."""
        if (self._round and not self._blocked) or not any(not lane.batches for lane in self._open.values()):
            return []
        return [
            lane
            for lane in self.lanes.values()
            if lane.state is not LaneState.LOST and lane.outstanding and now - lane.moved >= lane.patience()
        ]

    def on_recalled(self, lane: Lane, claimed: int, now: float) -> int:
        """Take back what the worker had not claimed, from position `claimed` on; return how many items came back."""
        lane.moved = now
        claimed = max(claimed, lane.received)
        again: list[Slice] = []
        while lane.batches and lane.batches[-1].position >= claimed:
            batch = lane.batches.pop()
            again[:0] = batch.slices
            lane.nbytes -= batch.nbytes
        if lane.batches and lane.batches[-1].end > claimed:
            batch = lane.batches[-1]
            again[:0] = batch.rest(claimed - batch.position)
            batch.truncate(claimed - batch.position)
            if batch.end == lane.received:  # what is left of it has all come
                lane.batches.pop()
                lane.nbytes -= batch.nbytes
        lane.cut += 1  # as the cell's has been, also when nothing came back
        taken = lane.dispatched - claimed
        if lane.stopping:  # the positions will be another's
            lane.stopping = {at: since for at, since in lane.stopping.items() if at < claimed}
        if taken > 0:
            lane.give_back(taken)
            self._requeue(again)
            if not lane.batches and lane.wants_more():  # it holds nothing, so no report will open it again
                self._open[lane.number] = lane
                self._open.move_to_end(lane.number, last=False)  # the others come first
        return taken

    def _requeue(self, slices: list[Slice]) -> None:
        """Queue again, before all else, what has not been run to an end."""
        for slice_ in reversed(slices):
            if slice_.stopping:
                self._stopped(slice_)
                continue
            slice_.move(State.QUEUED)
            if slice_.gate is not None:
                slice_.gate.release()
            task = slice_.task
            task.queue.appendleft(slice_)
            task.queued += slice_.count
            if not task.waiting:
                task.waiting = True
                self._round.appendleft(task)

    # --- work goes out ---

    def next_event(self, now: float) -> float | None:
        """Return in how many seconds something falls due by itself, or None."""
        soonest = self._delayed.soonest()
        due = [soonest - now] if soonest is not None else []
        if (not self._round or self._blocked) and any(not lane.batches for lane in self._open.values()):
            due += [lane.moved + lane.patience() - now for lane in self.lanes.values() if lane.outstanding]
        return max(0.0, min(due)) if due else None

    def wants_work(self) -> bool:
        """Tell whether new work could be sent at once."""
        return bool(self._open)

    def dispatch(self, now: float) -> list[Send]:
        """Return what shall be sent now, and enter it in the books."""
        self._wake_delayed(now)
        self._blocked = False
        sends: list[Send] = []
        shares: dict[TaskBooks, int] = {}
        while self._open and self._round:
            number, lane = next(reversed(self._open.items()))
            task = self._round[0]
            if self._singular:
                roomy = find_lane(task, reversed(self._open.values()), self.lanes.values(), self._room)
                self._blocked = roomy is None
                if roomy is None:
                    break
                number, lane = roomy.number, roomy
            if task not in shares:  # all lanes shall get some of what is there
                shares[task] = -(-task.queued // max(1, self._ready))
            batch = take(task, lane, shares[task])
            if not task.queue:
                self._round.popleft()
                task.waiting = False
            elif batch is not None:
                self._round.rotate(-1)
            if batch is None:
                continue
            lane.add(batch, now)
            if task.options.timeout is not None:
                self.timed[number] = lane
            ships, forget = lane.need(task.callable.key)
            sends.append(Send(lane, batch, ships, forget))
            if lane.wants_more():
                self._open.move_to_end(number, last=False)  # the others come first
            else:
                del self._open[number]
        for lane in self._open.values():
            lane.starved = True
        return sends

    def _wake_delayed(self, now: float) -> None:
        """Queue the retries that are due."""
        due = self._delayed.take_due(now)
        for job in due:
            job.move(State.QUEUED)
        self.pending -= sum(job.count for job in due)
        self.on_submit(due)
