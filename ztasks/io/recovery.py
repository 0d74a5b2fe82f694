"""How a head that starts anew takes up what its journal holds."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import msgspec

from ztasks.core.ranges import Ranges
from ztasks.core.work import Work
from ztasks.errors import JournalError, WireError
from ztasks.io.books import Books
from ztasks.io.journal import Journal
from ztasks.io.journal_ops import Defined, Mark, Recovered, Waiting
from ztasks.io.ledger import load_history
from ztasks.io.stored import decode_define, works_of


def recover(journal: Journal, books: Books) -> Recovered:
    """Load a journal into the head's books; raises JournalError.

    Outcomes stay where they are until somebody asks for them.
    """
    recovered = journal.load()
    now = monotonic()
    try:
        for session, highest in recovered.highest.items():
            opened = books.session(session, now)
            opened.accepted = opened.told = highest
            opened.journaled = True
        unused = {definition.key: definition for definition in recovered.definitions}
        for waiting in recovered.waiting:
            _define(unused.pop(waiting.accepted.key, None), books)
            _queue_again(waiting, books, now)
        for definition in unused.values():
            _define(definition, books)
        for kept in recovered.kept:
            if not kept.sent:
                books.session(kept.session, now).stored.add(kept.first, kept.count)
        for bad in recovered.damaged:
            books.session(bad.session, now).journaled = True
            books.damaged.append((bad.session, bad.first, bad.count))
    except (msgspec.MsgspecError, WireError, KeyError) as error:
        raise JournalError(
            f"the journal holds what this ztasks cannot read ({type(error).__name__}: {error}). Nothing was changed or "
            "started. Start the head with the ztasks that wrote it."
        ) from error
    return recovered


def _define(definition: Defined | None, books: Books) -> None:
    """Take in a task, if it has not been."""
    if definition is not None:
        books.ledger.knows(definition.key)
        books.specs.define(decode_define(definition.spec), definition.callable)


def _queue_again(waiting: Waiting, books: Books, now: float) -> None:
    """Queue those items that have not ended, with their attempts."""
    accepted = waiting.accepted
    spec = books.specs.get(accepted.key)
    if spec is None:
        raise KeyError(f"the task of job {accepted.session:016x}-{accepted.first}")
    works = list(_open_works(waiting, works_of(accepted, spec, now)))
    books.take_in(works)
    session = books.session(accepted.session, now)
    session.firsts.add(accepted.first)
    if accepted.sent:
        session.sent.update(number for work in works for number in range(work.first, work.end))
    doubtful = {(work.session, work.first): work for work in works if work.begun and spec.options.at_most_once}
    books.doubtful.update(doubtful)
    books.fleet.on_submit([work for work in works if (work.session, work.first) not in doubtful], now)


def _open_works(waiting: Waiting, works: list[Work]) -> Iterator[Work]:
    """Yield what of some works has not ended, with its attempts."""
    still_open = Ranges((range_.first, range_.count) for range_ in waiting.ranges)
    marks = sorted(waiting.marks)
    at = 0
    for work in works:
        for first, count in still_open.within(work.first, work.count):
            part = work if count == work.count else work.part(first - work.first, first - work.first + count)
            while at < len(marks) and marks[at] < first:
                at += 1
            stop = at
            while stop < len(marks) and marks[stop] < first + count:
                stop += 1
            yield from _marked(part, {number: waiting.marks[number] for number in marks[at:stop]})
            at = stop


def _marked(work: Work, marks: dict[int, Mark]) -> Iterator[Work]:
    """Give items their attempts, in the order of `marks`; an item that has some of its own is by itself."""
    begin, end = work.first, work.end
    for number, mark in marks.items():
        if number > begin:
            yield work.part(begin - work.first, number - work.first)
        marked = work.part(number - work.first, number - work.first + 1)
        marked.failures, marked.crashes = mark.failures, mark.crashes
        marked.history = load_history(mark.history)
        marked.begun = mark.begun or bool(mark.failures or mark.crashes)
        yield marked
        begin = number + 1
    if begin < end:
        yield work if begin == work.first else work.part(begin - work.first, work.count)
