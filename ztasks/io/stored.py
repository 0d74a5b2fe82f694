"""What stands in the journal as work and contents again. Nothing is unpickled."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ztasks.core.work import TaskSpec, Work
from ztasks.io.hostinfo import host_name
from ztasks.io.journal_ops import Accepted
from ztasks.io.journal_ops import Outcome as StoredOutcome
from ztasks.wire.link import Define, Outcome, Submit
from ztasks.wire.messages import Failure
from ztasks.wire.outcomes import part, with_items
from ztasks.wire.payload import Items

DAMAGED: Final = "what the head's journal held of this job is damaged; see where its disk is. It is not run (again)"

decode_define = msgspec.msgpack.Decoder(Define).decode
_submit = msgspec.msgpack.Decoder(Submit).decode
_outcome = msgspec.msgpack.Decoder(Outcome).decode


def make_works(session: int, spec: TaskSpec, submit: Submit, items: Items, now: float) -> list[Work]:
    """Make the books' work of what a client has submitted."""

    def work(first: int, count: int, payload: Any) -> Work:
        return Work(
            session,
            first,
            count,
            spec,
            payload,
            whole=submit.whole,
            index=submit.index,
            map_number=submit.map_number,
            shape=submit.shape,
            detail=submit.detail,
            accepted_at=now,
        )

    if submit.whole:
        return [work(submit.first, submit.count, items)]
    return [
        work(number, 1, pickled if pickled.buffers else pickled.data)
        for number, pickled in enumerate(items.pickles(), submit.first)
    ]


def works_of(accepted: Accepted, spec: TaskSpec, now: float) -> list[Work]:
    """Make the books' work of what was accepted; raises MsgspecError."""
    submit = _submit(accepted.header)
    buffers = [bytes(buffer) for buffer in accepted.buffers]
    data = bytes(accepted.payload)
    items = Items(submit.form, submit.count, data, submit.sizes, submit.buffers, buffers, submit.skip)
    return make_works(accepted.session, spec, submit, items, now)


def anew(work: Work, now: float) -> Work:
    """Return work as if it had just been accepted."""
    return Work(
        work.session,
        work.first,
        work.count,
        work.spec,
        work.payload,
        whole=work.whole,
        index=work.index,
        map_number=work.map_number,
        shape=work.shape,
        detail=work.detail,
        accepted_at=now,
    )


def content_of(found: StoredOutcome, first: int, count: int) -> list[Any]:
    """Return a stored outcome, or a part of it, as a content; raises MsgspecError."""
    outcome = _outcome(found.header)
    items = None
    if outcome.form is not None:
        data, buffers = bytes(found.payload), list(found.buffers)
        items = Items(outcome.form, outcome.count, data, outcome.sizes, outcome.buffers, buffers, outcome.skip)
    start = first - found.whole_first
    some, its = part(outcome, items, start, start + count)
    return list(with_items(msgspec.structs.replace(some, withheld=[]), its))


def outcome_without(session: int, numbers: int | list[int], attempts: int | list[int], count: int) -> Outcome:
    """Return an outcome of items that have no result, of which nothing is said yet."""
    return Outcome(
        session, numbers, count, attempts, None, None, None, [], [], [], None, None, 0.0, 0, host_name(), 0, None
    )


def damaged_outcome(session: int, first: int, count: int) -> Outcome:
    """Return an outcome that says of items that the journal does not know any more what they were."""
    failures = [Failure(offset, "lost", "WorkerLost", DAMAGED, "", b"", False) for offset in range(count)]
    return msgspec.structs.replace(outcome_without(session, first, 0, count), failures=failures)
