"""How a job of a fleet fails when it is the head that says so, and what of its arguments goes back to its client."""

from __future__ import annotations

import msgspec

from ztasks.core import endings
from ztasks.core.work import Work
from ztasks.wire.loss import SHOWN_BYTES, Loss
from ztasks.wire.messages import Failure
from ztasks.wire.payload import Items, Pickled


def poison(work: Work) -> Loss:
    """Describe a job whose worker died too often."""
    return _travelling(endings.poison(work), work)


def lost(work: Work) -> Loss:
    """Describe a job with `at_most_once` whose worker died."""
    return _travelling(endings.lost(work), work)


def timeout(work: Work) -> Loss:
    """Describe a job that had to be killed."""
    return _travelling(endings.timeout(work), work)


def lost_with_host(work: Work, name: str, host: str, why: str) -> Loss:
    """Describe a job with `at_most_once` whose host was lost."""
    where = f"worker {name} on host {host}" if host and host != name else f"worker {name}"
    message = (
        f"a job of {work.spec.name} is lost: {where} had been given it and is lost ({why}). It may have begun, and "
        "at_most_once forbids to run it again. What it has done until then is done."
    )
    return Loss(
        0,
        "lost",
        "WorkerLost",
        message,
        "",
        b"",
        retry=False,
        what="lost",
        name=work.spec.name,
        shape=work.shape,
        payload=_shown(work),
        history=(),
        certificates=(),
    )


def expired(work: Work) -> Failure:
    """Describe a job that had not begun in time."""
    message = (
        f"a job of {work.spec.name} had not begun {work.spec.expires} s after it was accepted (expires=), and was "
        "given up. It did not run."
    )
    return Failure(0, "timeout", "JobExpired", message, "", b"", retry=False)


def _travelling(loss: Loss, work: Work) -> Loss:
    """Return a loss that can be sent to a client."""
    return msgspec.structs.replace(loss, shape=work.shape, payload=_shown(work))


def _shown(work: Work) -> bytes:
    """Return the pickle of a job's arguments, for its client to show them; empty if it is not one small pickle."""
    payload = work.payload
    if isinstance(payload, Items):
        if payload.form != "each" or payload.buffers:
            return b""
        payload = payload.data
    elif isinstance(payload, Pickled):
        if payload.buffers:
            return b""
        payload = payload.data
    return payload if len(payload) <= SHOWN_BYTES else b""
