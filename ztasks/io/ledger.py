"""What the head writes to its journal, or to none: how work, outcomes and charges become operations.

What it must hold: whoever appends learns the number of the operation, and so when it is durable; without a journal
everything counts as done at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from ztasks.io.journal_ops import (
    Accepted,
    Begun,
    Charged,
    Defined,
    Ended,
    Ending,
    Fetched,
    Forgot,
    Noted,
    Revived,
    Unneeded,
)
from ztasks.io.journal_ops import Outcome as StoredOutcome
from ztasks.units import cut
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.link import Define, Outcome, Range, Submit
from ztasks.wire.link_codec import encode
from ztasks.wire.payload import Items

if TYPE_CHECKING:
    from ztasks.core.work import Work
    from ztasks.io.journal import Journal

EPOCH: Final = "epoch"
FOREMEN: Final = "foremen"
"""Notes: which run of the head this is, and the names of the foremen that have joined."""

HISTORY: Final = 32
SHOWN: Final = 2000
"""How many of a job's attempts are written down, the last, and how many characters of each error."""

_history: Final = msgspec.msgpack.Decoder(list[str | DeathCertificate])
_names: Final = msgspec.msgpack.Decoder(list[str])


class Ledger:
    """The journal, as the head's thread sees it."""

    def __init__(self, journal: Journal | None) -> None:
        self.durable = 0
        """All operations up to this number are durable. Set by the journal's thread."""
        self.appended = 0
        """So many operations there are."""
        self._journal = journal
        self._defined: set[bytes] = set()

    @property
    def is_kept(self) -> bool:
        """Whether there is a journal."""
        return self._journal is not None

    @property
    def refusing(self) -> str | None:
        """Why no new work should be accepted, or None."""
        return self._journal.refusing if self._journal is not None else None

    def knows(self, key: bytes) -> None:
        """A task stands in the journal already."""
        self._defined.add(key)

    def forget_task(self, key: bytes) -> None:
        """The head does not know a task any more, and will write it down again before it accepts more of it."""
        if key in self._defined:
            self._defined.discard(key)
            self._append(Unneeded(key))

    def define(self, key: bytes, define: Define, callable_: bytes) -> None:
        """Write down a task, once."""
        if self._journal is not None and key not in self._defined:
            self._defined.add(key)
            self._append(Defined(key, encode(define), callable_))

    def accept(self, session: int, submit: Submit, items: Items) -> int | None:
        """Write down work that has come in; return the operation."""
        if self._journal is None:
            return None
        header = encode(msgspec.structs.replace(submit, payload=None))
        buffers: Any = tuple(items.buffers)
        content = Accepted(session, submit.first, submit.count, submit.key, header, items.data, buffers, submit.sent)
        return self._append(content)

    def begin(self, work: Work) -> int | None:
        """Write down that a job that must not run twice is about to run."""
        return self._append(Begun(work.session, work.first))

    def not_begun(self, work: Work) -> None:
        """Write down that it has come back, and has not run."""
        self._append(Begun(work.session, work.first, begun=False))

    def charge(self, work: Work) -> int | None:
        """Write down an item's attempts."""
        told = [cut(end, SHOWN) if isinstance(end, str) else end for end in work.history[-HISTORY:]]
        history = msgspec.msgpack.encode(told)
        return self._append(Charged(work.session, work.first, work.failures, work.crashes, history))

    def end(self, state: Ending, outcome: Outcome, items: Items | None) -> int | None:
        """Write down the outcome of consecutive items."""
        if self._journal is None:
            return None
        data, buffers = b"", ()
        if items is not None:
            data, buffers = items.data, cast("Any", tuple(items.buffers))
        if items is None:
            outcome = msgspec.structs.replace(outcome, form=None, sizes=None, buffers=None, payload=None)
        else:
            outcome = msgspec.structs.replace(
                outcome, form=items.form, skip=items.skip, sizes=items.sizes, buffers=items.buffer_counts, payload=None
            )
        first = outcome.numbers
        assert isinstance(first, int), "consecutive items have a first number"
        header = encode(outcome)
        return self._append(Ended(outcome.session, first, outcome.count, state, header, data, buffers))

    def fetched(self, session: int, ranges: Sequence[Range], *, failed: bool = False) -> None:
        """Write down that a client has outcomes; `failed`: what has failed is not needed any more either."""
        for first, count in ranges:
            self._append(Fetched(session, first, count, failed))

    def revive(self, session: int, first: int, count: int) -> int | None:
        """Write down that failed items are run again."""
        return self._append(Revived(session, first, count))

    def forget(self, session: int) -> None:
        """Write down that a session has ended."""
        self._append(Forgot(session))

    def note_epoch(self, epoch: int) -> int | None:
        """Write down which run of the head this is."""
        return self._append(Noted(EPOCH, str(epoch).encode()))

    def note_foremen(self, names: Sequence[str]) -> None:
        """Write down who has joined: after a restart, they may come back with work."""
        self._append(Noted(FOREMEN, msgspec.msgpack.encode(list(names))))

    def outcome(self, session: int, number: int) -> StoredOutcome | None:
        """Return an outcome that is durable, if there is one; raises JournalError."""
        return self._journal.outcome(session, number) if self._journal is not None else None

    def _append(self, operation: Any) -> int | None:
        if self._journal is None:
            return None
        self.appended = self._journal.append(operation)
        return self.appended


def load_foremen(note: bytes) -> list[str]:
    """Return the names that `note_foremen` has written."""
    return _names.decode(note) if note else []


def load_history(data: bytes) -> tuple[str | DeathCertificate, ...]:
    """Return the history that `charge` has written."""
    return tuple(_history.decode(data)) if data else ()
