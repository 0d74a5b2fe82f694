"""Answers to the questions of the command line and of `client.job`."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from time import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ztasks import __version__
from ztasks.core.slices import State as WorkState
from ztasks.core.work import Work
from ztasks.errors import ZtasksError
from ztasks.io.history import EndedLine, Result, State
from ztasks.io.peers import Peer
from ztasks.io.reviving import MOST_LISTED, Reviving
from ztasks.io.stored import content_of, decode_define
from ztasks.io.telling import MAX_NUMBER
from ztasks.wire.link import Answer, Ask
from ztasks.wire.link_codec import encode

if TYPE_CHECKING:
    from ztasks.io.journal_ops import JobLine
    from ztasks.io.service import Service

_ID: Final = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,18})")

_ENDS: Final = ("done", "failed", "cancelled", "expired")


class Refusal(Exception):
    """A question that cannot be answered: a code, and a line for people."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def parse_id(text: object) -> tuple[int, int]:
    """Return session and number of a job's id; raises Refusal."""
    found = _ID.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[2]) >= MAX_NUMBER:
        raise Refusal("invalid", f"{str(text)[:80]!r} is no job id, such as 0123456789abcdef-1")
    return int(found[1], 16), int(found[2])


def job_id(session: int, number: int) -> str:
    """Return a job's id."""
    return f"{session:016x}-{number}"


class Answers:
    """Answers for one head."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._books = service.books
        self.reviving = Reviving(service.books, service.journal)
        self._kinds: dict[str, Callable[[Peer, Ask, float], Any]] = {
            "status": lambda peer, ask, now: self._status(),
            "workers": lambda peer, ask, now: self._workers(now),
            "jobs": lambda peer, ask, now: self._jobs(ask, now),
            "job": lambda peer, ask, now: self._job(ask, now),
            "why": lambda peer, ask, now: self._why(ask, now),
            "cancel": lambda peer, ask, now: self._cancel(ask, now),
            "stop": lambda peer, ask, now: self._stop(ask),
            "forget": lambda peer, ask, now: self._forget(ask),
            "withdraw": lambda peer, ask, now: self._withdraw(peer, ask),
        }

    def answer(self, peer: Peer, ask: Ask, now: float) -> None:
        """Answer a question: now, or (a result that is not there yet, many jobs to be run again) later."""
        frames: list[Any] = []
        try:
            if ask.what == "result":
                found = self._result(peer, ask)
                if found is None:
                    return
                value, frames = found
            elif ask.what == "retry":
                self._retry(peer, ask)
                return
            elif ask.what in self._kinds:
                value = self._kinds[ask.what](peer, ask, now)
            else:
                raise Refusal("invalid", f"the head does not know the question {ask.what[:80]!r}")
        except Refusal as error:
            peer.say(encode(Answer(ask.question, str(error), {"code": error.code})))
        except (ZtasksError, msgspec.MsgspecError) as error:  # the journal cannot be read, say
            peer.say(encode(Answer(ask.question, str(error), {"code": "failed"})))
        else:
            peer.say(encode(Answer(ask.question, "", value)), *frames)

    # --- the whole ---

    def _status(self) -> dict[str, Any]:
        service, books = self._service, self._books
        foremen = [peer for peer in books.peers.values() if peer.is_foreman]
        return {
            "ztasks": __version__,
            "epoch": service.roster.epoch,
            "uptime": time() - service.started,
            "workers": sum(peer.member.hello.slots for peer in foremen),
            "hosts": len(foremen),
            "clients": len(books.peers) - len(foremen),
            "queued": books.fleet.queued,
            "running": books.fleet.running,
            "delayed": books.fleet.pending - books.fleet.queued - books.fleet.running,
            "stuck": books.fleet.stuck_items(),
            "queues": {name: _as_states(counts) for name, counts in sorted(books.fleet.queues().items())},
            **books.history.totals,
            "journal": service.journal is not None,
            "refusing": books.full,
            "stopping": service.end.wanted is not None,
            "refused_connections": sum(service.gatekeeper.refused.values()),
        }

    def _workers(self, now: float) -> list[dict[str, Any]]:
        found = []
        for peer in self._books.peers.values():
            if not peer.is_foreman:
                continue
            hello, lane = peer.member.hello, self._books.fleet.lanes[peer.lane]
            found.append(
                {
                    "name": hello.name,
                    "host": hello.host,
                    "workers": hello.slots,
                    "queues": list(hello.queues or ("default",)),
                    "tags": list(hello.tags),
                    "resources": dict(hello.resources),
                    "holds": lane.outstanding,
                    "state": lane.wanted,
                    "silent": peer.link.silent(now),
                    "since": hello.started,
                    "python": hello.python,
                    "ztasks": hello.ztasks,
                }
            )
        return found

    def _stop(self, ask: Ask) -> str:
        self._service.stop("drain" if ask.arguments.get("drain") else "stop")
        return "stopping"

    # --- jobs ---

    def _jobs(self, ask: Ask, now: float) -> list[dict[str, Any]]:
        state, limit = ask.arguments.get("state"), ask.arguments.get("limit", 1000)
        if not isinstance(limit, int) or not 0 < limit <= MOST_LISTED:
            raise Refusal("invalid", f"the limit must be a number from 1 to {MOST_LISTED}")
        lines: list[dict[str, Any]] = []
        works = self._books.fleet.works(assigned=state == "running")
        for work in chain(works, self._books.doubtful.values()) if state not in _ENDS else ():
            if len(lines) >= limit:
                break
            if state in (None, self._word(work)):
                lines.append(self._line(work, now))
        for end in reversed(self._books.history.lines):
            if len(lines) >= limit:
                break
            if state in (None, end.state):
                lines.append(_ended_line(end))
        return lines + self._older_jobs(state, limit - len(lines), {line["id"] for line in lines})

    def _older_jobs(self, state: Any, limit: int, known: set[str]) -> list[dict[str, Any]]:
        """Return what only the journal knows, from before this run of the head."""
        journal = self._service.journal
        if journal is None or limit <= 0 or state not in (None, *_ENDS):
            return []
        found = []
        for each in journal.jobs(state, limit):
            if each.state != "waiting" and job_id(each.session, each.first) not in known:
                line = _line(each.session, each.first, each.count, self._task_name(each), each.state)
                found.append({**line, "ended_at": each.ended_at})
        return found

    def _task_name(self, line: JobLine) -> str:
        spec = self._books.specs.get(line.key)
        if spec is not None or not line.spec:
            return spec.name if spec is not None else "?"
        return decode_define(line.spec).name

    def _find(self, ask: Ask) -> tuple[int, int, Work | None, Result | EndedLine | None]:
        """Return session, number, the work if it has not ended, and else how it has; raises Refusal."""
        session, number = parse_id(ask.arguments.get("id"))
        work = self._books.find(session, number)
        if work is not None:
            return session, number, work, None
        ended = self._stored(session, number) or self._books.history.find(session, number)
        if ended is None:
            raise Refusal(
                "not-found", f"there is no job {job_id(session, number)}: it was never accepted here, or forgotten"
            )
        return session, number, None, ended

    def _stored(self, session: int, number: int) -> Result | None:
        """Return the outcome of a job that has ended, if it is still kept; raises JournalError and MsgspecError."""
        result = self._books.results.get(session, number)
        forgotten = self._books.forgotten
        while forgotten and next(iter(forgotten.values())) <= self._books.ledger.durable:
            forgotten.popitem(last=False)
        if result is None and self._service.journal is not None and (session, number) not in forgotten:
            stored = self._service.journal.outcome(session, number)
            if stored is not None:
                result = Result(stored.state, content_of(stored, number, 1))
        return result

    def _job(self, ask: Ask, now: float) -> dict[str, Any]:
        session, number, work, ended = self._find(ask)
        if work is not None:
            return {**self._line(work, now), "id": job_id(session, number)}
        assert ended is not None, "one of both is there"
        return {"id": job_id(session, number), "state": ended.state}

    def _line(self, work: Work, now: float) -> dict[str, Any]:
        """Return what is told of work that has not ended: also where it is, and for how many seconds, if anywhere."""
        line = _line(work.session, work.first, work.count, work.spec.name, self._word(work), attempt=work.attempt)
        line["accepted_at"] = time() - (now - work.accepted_at)
        if (batch := work.batch) is not None:
            offer = batch.lane.offer
            line |= {"host": offer.host, "worker": offer.name, "seconds": now - batch.since}
        return line

    def _result(self, peer: Peer, ask: Ask) -> tuple[dict[str, State], list[Any]] | None:
        session, number, work, ended = self._find(ask)
        if work is not None:
            if not ask.arguments.get("wait"):
                raise Refusal("not-ended", f"job {job_id(session, number)} has not ended")
            if not self._books.telling.ask(peer, ask.question, session, number):
                raise Refusal("too-many", "this client waits for too many results; let it fetch some first")
            return None
        assert ended is not None, "one of both is there"
        if not isinstance(ended, Result):
            why = f"job {job_id(session, number)} has ended ({ended.state}), and its result was fetched or forgotten"
            raise Refusal("fetched", why)
        return {"state": ended.state}, ended.frames

    def _why(self, ask: Ask, now: float) -> str:
        session, number, work, ended = self._find(ask)
        if work is not None:
            if (session, number) in self._books.doubtful:
                return "it had begun when the head was started anew; its worker has not come back yet"
            if session in self._books.sessions and number in self._books.sessions[session].undurable:
                return "it waits to be written to the journal"
            return self._books.fleet.why(session, number, now)
        assert ended is not None, "one of both is there"
        line = self._books.history.find(session, number)
        return f"it has ended: {ended.state}" + (f" ({line.error})" if line is not None and line.error else "")

    def _cancel(self, ask: Ask, now: float) -> int:
        ids = ask.arguments.get("ids")
        if not isinstance(ids, list):
            raise Refusal("invalid", "which jobs?")
        running = bool(ask.arguments.get("running", False))
        cancelled = 0
        for session, number in map(parse_id, ids):
            if self._books.find(session, number) is not None:
                cancelled += self._books.cancel(session, [(number, 1)], running=running, now=now) or int(running)
        return cancelled

    def _retry(self, peer: Peer, ask: Ask) -> None:
        """Run failed jobs again; the answer comes when all of them have been looked at."""
        ids = ask.arguments.get("ids")
        if ask.arguments.get("failed"):
            names = self.reviving.failed()
        elif isinstance(ids, list):
            names = [parse_id(each) for each in ids]
        else:
            raise Refusal("invalid", "which jobs?")
        self.reviving.begin(names, lambda number: peer.say(encode(Answer(ask.question, "", number))))

    def _forget(self, ask: Ask) -> None:
        session, number, work, _ = self._find(ask)
        if work is not None:
            raise Refusal("not-ended", f"job {job_id(session, number)} has not ended")
        self._books.forget_outcomes([(session, number, 1)])
        self._books.ledger.fetched(session, [(number, 1)], failed=True)
        self._books.forgotten[session, number] = self._books.ledger.appended

    def _withdraw(self, peer: Peer, ask: Ask) -> None:
        """Somebody does not wait for a result any more that they had asked for."""
        session, number = parse_id(ask.arguments.get("id"))
        question = ask.arguments.get("question")
        if isinstance(question, int):
            self._books.telling.withdraw(peer, question, session, number)

    def _word(self, work: Work) -> str:
        """Return where work is, in a word."""
        if work.state is WorkState.DELAYED:
            return "delayed"
        return "running" if work.batch is not None or (work.session, work.first) in self._books.doubtful else "queued"


def _as_states(counts: dict[str, int]) -> dict[str, int]:
    return {"queued": counts["queued"], "running": counts["assigned"], "delayed": counts["delayed"]}


def _line(session: int, first: int, count: int, task: str, state: str, *, attempt: int | None = None) -> dict[str, Any]:
    line: dict[str, Any] = {"id": job_id(session, first), "task": task, "state": state}
    if count > 1:
        line["items"] = count
    if attempt is not None:
        line["attempt"] = attempt
    return line


def _ended_line(end: EndedLine) -> dict[str, Any]:
    line = _line(end.session, end.first, end.items, end.task, end.state, attempt=end.attempt)
    return {**line, "host": end.host, "ended_at": end.at, "error": end.error}
