"""Losses: how a job fails when it is the head that says so, because its worker died. They never leave the process.

The head has the job's call only as a pickle, and does not unpickle; the thread that asks for the result reads it to say
what the call was, and runs nothing of it: it may be what has killed the worker.
"""

from __future__ import annotations

import reprlib
from typing import Any, Final, Literal

import msgspec

from ztasks.errors import JobTimeout, PoisonJob, WorkerLost
from ztasks.wire.careful import load_to_show
from ztasks.wire.certificate import DeathCertificate
from ztasks.wire.messages import Failure, Shape
from ztasks.wire.payload import Items, Pickled

SHOWN_BYTES: Final = 256 * 1024
"""Arguments that take more than this are not read only to be shown."""


_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlong = 40


class Loss(Failure, tag="loss", frozen=True, kw_only=True):
    """How a job ended with its worker: gave up (`poison`), could not be run again (`lost`), or ran late (`timeout`)."""

    what: Literal["poison", "lost", "timeout"]
    name: str
    """The task's."""
    shape: Shape
    payload: Any
    """The call as it was sent: bytes, Pickled, or Items of one item."""
    history: tuple[str, ...]
    certificates: tuple[DeathCertificate, ...]


def rebuild_loss(loss: Loss) -> WorkerLost | JobTimeout:
    """Make the exception that a future raises, with the job's arguments as they can be shown."""
    call = describe_call(loss)
    certificates = tuple(msgspec.structs.replace(certificate, call=call) for certificate in loss.certificates)
    message = "\n".join(filter(None, (loss.message, certificates[-1].details if certificates else "")))
    if loss.what == "timeout":
        late = JobTimeout(message)
        late.certificate = certificates[-1] if certificates else None
        return late
    if loss.what == "poison":
        return PoisonJob(message, loss.history, certificates)
    return WorkerLost(message, certificates)


def describe_call(loss: Loss) -> str:
    """Return the call as it would be written, with its arguments' shortened repr."""
    payload = loss.payload
    size = len(payload) if isinstance(payload, bytes) else payload.nbytes
    if size > SHOWN_BYTES:
        return f"{loss.name}(... {size} bytes of arguments ...)"
    try:
        args, kwargs = _arguments(loss.shape, payload)
        shown = [_shown(value) for value in args] + [f"{name}={_shown(value)}" for name, value in kwargs.items()]
    except Exception as error:  # noqa: BLE001 - a broken pickle can raise anything; this must not hide the loss
        return f"{loss.name}(... its arguments cannot be shown: {type(error).__name__})"
    return f"{loss.name}({', '.join(shown)})"


def _arguments(shape: Shape, payload: bytes | Pickled | Items) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(payload, Items):
        (value,) = payload.listed() if payload.form == "list" else (load_to_show(*each) for each in payload.pickles())
    else:
        value = load_to_show(payload) if isinstance(payload, bytes) else load_to_show(*payload)
    if shape == "call":
        return value  # type: ignore[no-any-return]
    return (value if shape == "star" else (value,)), {}


def _shown(value: object) -> str:
    if value is ...:  # what was lost was not submitted from here
        return "..."
    try:
        return _short.repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__
        return f"<{type(value).__qualname__}>"
