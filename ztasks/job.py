"""Jobs by their ids: what `send` returns, and what any client of the same head can ask about."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final

from ztasks.errors import InvalidOption, NoExecutor, ResultNotLoadable
from ztasks.future import not_loadable
from ztasks.units import parse_flag, parse_wait, shown

if TYPE_CHECKING:
    from ztasks.client import Client

_ID: Final = re.compile(r"[0-9a-f]{16}-[1-9][0-9]{0,18}")

_UNKNOWN_CALL: Final = pickle.dumps(((...,), {}), 5)
"""What stands in the place of a lost job's arguments, which did not travel."""


class Job:
    """A job that a head has, known by its `id`. Made by `Client.send` and `Client.job`.

    `str(job)` is the id: keep that, in a database or a file, to come back to the job from elsewhere.
    """

    __slots__ = ("_client", "id")

    def __init__(self, id: str, client: Client | None = None) -> None:
        """Raises InvalidOption for what is no id."""
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise InvalidOption(
                f"a job's id is text such as '0123456789abcdef-1', as str(job) gives it, not {shown(id)}"
            )
        self.id = str.__str__(id)
        self._client = client

    @property
    def state(self) -> str:
        """Where it is: what the head says, such as `queued`, `running`, `delayed`, `done`, `failed` or `cancelled`.

        Raises JobNotFound, HeadLost.
        """
        return str(self.info()["state"])

    def info(self) -> dict[str, Any]:
        """Return what the head tells of it. Raises JobNotFound, HeadLost."""
        return dict(self._head_of().ask("job", id=self.id))

    def why(self) -> str:
        """Return why it is not running, or how it has ended, in words. Raises JobNotFound, HeadLost."""
        return str(self._head_of().ask("why", id=self.id))

    def result(self, timeout: float | None = None) -> Any:
        """Return its result, waiting for it up to `timeout` seconds; None: for as long as it takes.

        Raises what the job raised, CancelledError, TimeoutError if it has not ended in time, JobNotFound, HeadLost.
        """
        value, error = self._outcome(timeout)
        if error is not None:
            raise error
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what `result` would raise because of the job, or None; raises what else `result` raises."""
        _, error = self._outcome(timeout)
        if isinstance(error, CancelledError):
            raise error
        return error

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel it if it has not begun; `running`: stop it if it has. Return whether the head has done so."""
        parse_flag(running, "running")
        return bool(self._head_of().ask("cancel", ids=[self.id], running=running))

    def forget(self) -> None:
        """Have the head drop its result, which else is kept until the head's limits (`--keep`, `--keep-bytes`).

        Raises TimeoutError if it has not ended, JobNotFound, HeadLost.
        """
        self._head_of().ask("forget", id=self.id)

    def _outcome(self, timeout: float | None) -> tuple[Any, BaseException | None]:
        seconds = None if timeout is None else parse_wait(timeout, "timeout")
        now = seconds == 0
        arguments = {"id": self.id, "wait": not now}
        reply = self._head_of().ask_whole("result", arguments, None if now else seconds)
        return unpack(reply.frames)

    def _head_of(self) -> Client:
        client: Any = self._client
        if client is None:
            raise NoExecutor(f"{self!r} is without a client: use client.job(job). Nothing was lost.")
        return client  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<ztasks.Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[type[Job], tuple[str]]:
        return Job, (self.id,)


def unpack(frames: Any) -> tuple[Any, BaseException | None]:
    """Return the result that an outcome of one item holds, or the exception; unpickles it."""
    from ztasks.io.client_outcomes import told
    from ztasks.wire.failures import rebuild
    from ztasks.wire.link import Outcome
    from ztasks.wire.link_codec import decode_to_client
    from ztasks.wire.messages import Failure
    from ztasks.wire.outcomes import items_of
    from ztasks.wire.payload import load

    outcome = decode_to_client(bytes(frames[0])) if frames else None
    if not isinstance(outcome, Outcome) or outcome.count != 1:
        raise ResultNotLoadable("the head has answered, but not with the outcome of one job. Nothing is lost there.")
    items = items_of(outcome, frames[1:])
    if outcome.cancelled:
        return None, CancelledError()
    if outcome.failures:
        failure = told(outcome.failures[0], _UNKNOWN_CALL, "call")
        return None, rebuild(failure) if isinstance(failure, Failure) else failure
    try:
        if items is None:
            raise pickle.UnpicklingError("it came without a result")
        if items.form == "list":
            return items.listed()[0], None
        data, buffers = next(items.pickles())
        return load(data, buffers), None
    except Exception as error:  # noqa: BLE001 - unpickling runs any code
        return None, not_loadable(error)
