"""The command `ztasks result`, and how results are shown: as JSON, or as Python shows what JSON cannot hold."""

from __future__ import annotations

import math
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

import click

from ztasks.cli.asking import FAILED, NOT_ENDED, Told, asking, asks_head, epilog, write
from ztasks.cli.serving import duration

if TYPE_CHECKING:
    from ztasks.client import Client

EPILOG: Final = epilog(
    """\
  ztasks result 5f0c6d1e9a3b4c2d-17                  if it has ended
  ztasks result 5f0c6d1e9a3b4c2d-17 --wait           as soon as it has
  ztasks result 5f0c6d1e9a3b4c2d-17 --json | jq .result
""",
    {
        0: "the job is done",
        1: "it has failed, or was cancelled; its traceback is on stderr",
        4: "there is no such job, or its result is not kept any more",
        5: "it has not ended (within --timeout)",
    },
)


@click.command(name="result", epilog=EPILOG)
@click.argument("id_", metavar="JOB")
@click.option("--wait", is_flag=True, help="Wait until it has ended.")
@click.option("--timeout", callback=duration("--timeout"), metavar="TIME", help="--wait: no longer than this.")
@click.option("--forget", is_flag=True, help="Once it is shown, have the head drop it.")
@asks_head
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document, of a failure too.")
def command(
    head: str | None, seconds: float, id_: str, wait: bool, timeout: float | None, forget: bool, as_json: bool
) -> int:
    """Show the result of a job that was sent, or submitted to a head with a journal.

    A result is shown as JSON, or as Python shows it if JSON cannot hold it; a failure as its traceback, on stderr. The
    classes of a result are imported here, also from the working directory.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait")
    with asking(head, seconds) as client:
        code = show_result(client, id_, timeout if wait else 0.0, as_json=as_json)
        if forget:
            client.job(id_).forget()
        return code


def show_result(client: Client, id_: str, timeout: float | None, *, as_json: bool) -> int:
    """Show how a job has ended, waiting for so long at most (None: for ever); return the exit code."""
    from ztasks.job import unpack

    job = client.job(id_)
    now = timeout == 0
    try:
        reply = client.ask_whole("result", {"id": job.id, "wait": not now}, None if now else timeout)
    except TimeoutError:
        cure = "--wait waits for it" if now else "wait longer, or ask `ztasks why`"
        raise Told(f"job {job.id} has not ended; {cure}.", NOT_ENDED) from None
    sys.path.append(os.getcwd())
    value, exception = unpack(reply.frames)
    if as_json:
        return write(document(job.id, value, exception)) or (FAILED if exception is not None else 0)
    if exception is None:
        return write(shown(value))
    click.echo(trace_of(exception), err=True)
    return FAILED


def shown(value: Any) -> str:
    """Return a result as JSON; as Python shows it if JSON cannot hold it."""
    from ztasks.runs.records import Recorder

    data, whole = Recorder().encode_result(value)
    return data.decode() if whole and not _has_odd_floats(value) else repr(value)


def _has_odd_floats(value: Any) -> bool:
    """Tell whether there are floats that JSON has no numbers for: they would be shown as null."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_odd_floats, value.values()))
    return isinstance(value, list | tuple | set | frozenset) and any(map(_has_odd_floats, value))


def document(id_: str, value: Any, exception: BaseException | None) -> str:
    """Return how a job has ended as one JSON document, with the fields that a record of `ztasks run` has."""
    import json

    from ztasks.runs.records import Recorder, describe, status_of

    result, error, status = "null", "null", "ok"
    if exception is None:
        result = Recorder().encode_result(value)[0].decode()
    else:
        found = describe(exception)
        status = status_of(exception)
        error = json.dumps({"type": found.type, "message": found.message, "traceback": found.traceback})
    fields = {"id": json.dumps(id_), "ok": json.dumps(exception is None), "status": json.dumps(status)}
    return (
        "{"
        + ", ".join(f'"{name}": {text}' for name, text in {**fields, "result": result, "error": error}.items())
        + "}"
    )


def trace_of(exception: BaseException) -> str:
    """Return the traceback as it was in the worker, or what is known instead."""
    from ztasks.errors import ZtasksError, remote_traceback

    text = remote_traceback(exception)
    words = "".join(traceback.format_exception_only(exception)).rstrip()
    if text is None:
        return words
    return f"{text.rstrip()}\n\n{words}" if isinstance(exception, ZtasksError) else text.rstrip()
