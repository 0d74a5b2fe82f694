"""The commands `ztasks jobs`, `why`, `cancel` and `retry`: what becomes of the jobs that a head has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time
from typing import Any, Final

import click

from ztasks.cli.asking import (
    FAILED,
    ask,
    asks_head,
    epilog,
    note,
    on_terminal,
    plural,
    show_json,
    show_table,
    write,
)

STATES: Final = ("queued", "running", "delayed", "done", "failed", "cancelled", "expired")

ON_TERMINAL: Final = 50
"""So many jobs are shown where somebody reads them, unless it is said otherwise."""

IN_PIPE: Final = 1000

MOST: Final = 100_000
"""More than that the head does not tell at once."""

HEADINGS: Final = ("id", "task", "state", "items", "attempt", "host", "age", "error")
"""Columns; in a pipe the same, in this order."""


@click.command(
    name="jobs",
    epilog=epilog(
        """\
  ztasks jobs                                        the running ones, those that wait, the last that ended
  ztasks jobs --status failed                        what has gone wrong?
  ztasks jobs --status failed --json | jq -r '.jobs[].error'
  ztasks jobs --status queued | cut -f1 | xargs -r ztasks cancel
""",
        {0: "the head has answered"},
    ),
)
@click.option("--status", "state", type=click.Choice(STATES), help="Only those in this state.")
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    metavar="N",
    help=f"Show no more than N; default: {ON_TERMINAL} on a terminal, else {IN_PIPE}.",
)
@asks_head
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def jobs(head: str | None, seconds: float, state: str | None, limit: int | None, as_json: bool) -> int:
    """Show jobs: the running ones, then those that wait, then those that have ended, the last one first.

    Items of a map that have one history are one line, with the id of the first and their number. In a pipe there is one
    line for each, with tabs between its fields: id, task, state, items, attempt, host, age in seconds (since it was
    accepted, or has ended), error.
    """
    people = on_terminal() and not as_json
    most = limit or (ON_TERMINAL if people else IN_PIPE)
    found: list[dict[str, Any]] = ask(head, seconds, "jobs", state=state, limit=most)
    found.sort(key=lambda job: job["state"] != "running")
    if len(found) == most and limit is None:
        note(f"only {most:,} are shown; --limit N shows more")
    if as_json:
        return show_json({"jobs": found})
    now = time()
    return show_table(HEADINGS, [row(job, now, people=people) for job in found])


def row(job: Mapping[str, Any], now: float, *, people: bool) -> list[str]:
    """Return the fields of a job; for people, or for a program."""
    from ztasks.runs.text import duration_text

    items, since = job.get("items", 1), job.get("ended_at") or job.get("accepted_at")
    age = None if since is None else max(0.0, now - since)
    return [
        job["id"],
        job["task"],
        job["state"],
        "" if people and items == 1 else str(items),
        str(job.get("attempt") or ""),
        job.get("host") or "",
        "" if age is None else duration_text(age) if people else f"{age:.1f}",
        job.get("error") or "",
    ]


_ids = click.argument("ids", nargs=-1, metavar="[JOB]...")


@click.command(
    name="why",
    epilog=epilog(
        """\
  ztasks why 5f0c6d1e9a3b4c2d-17
""",
        {0: "the head has answered", 4: "there is no such job"},
    ),
)
@click.argument("id_", metavar="JOB")
@asks_head
def why(head: str | None, seconds: float, id_: str) -> int:
    """Say what a job waits for, where it runs, or how it has ended.

    So also if no worker that has joined can ever take it, and what it would need.
    """
    return write(str(ask(head, seconds, "why", id=id_)))


@click.command(
    name="cancel",
    epilog=epilog(
        """\
  ztasks cancel 5f0c6d1e9a3b4c2d-17                 if it has not begun
  ztasks cancel --running 5f0c6d1e9a3b4c2d-17       also if it runs: JobCancelled is raised inside it
  ztasks jobs --status queued | cut -f1 | xargs -r ztasks cancel
""",
        {0: "all of them are cancelled, or asked to stop", 1: "some are not: they run, have ended, or are unknown"},
    ),
)
@_ids
@click.option("--running", is_flag=True, help="Stop also those that have begun.")
@asks_head
def cancel(head: str | None, seconds: float, ids: tuple[str, ...], running: bool) -> int:
    """Cancel jobs that have not begun; with --running, stop those that have.

    What a map has sent is one line of `ztasks jobs`, but each of its items is a job: this cancels those that are named.
    """
    wanted = _wanted(ids)
    number = ask(head, seconds, "cancel", ids=wanted, running=running)
    if running:
        return _tell(number, len(wanted), "cancelled, or told to stop", "have ended, or are unknown")
    return _tell(number, len(wanted), "cancelled", "run (--running stops them), have ended, or are unknown")


@click.command(
    name="retry",
    epilog=epilog(
        """\
  ztasks retry 5f0c6d1e9a3b4c2d-17       this one
  ztasks retry --failed                  all that have failed or expired, and are still known
""",
        {0: "all of them are queued again", 1: "some are not: they have not failed, or are not known any more"},
    ),
)
@_ids
@click.option("--failed", is_flag=True, help="All that have failed.")
@asks_head
def retry(head: str | None, seconds: float, ids: tuple[str, ...], failed: bool) -> int:
    """Run failed jobs again, with the same arguments and all their retries.

    Their results are kept for `ztasks result`: whoever submitted them has been told of the failure already.
    """
    if failed and ids:
        raise click.UsageError("--failed is for all of them: leave the jobs out, or --failed")
    if failed:
        note(f"{plural(ask(head, seconds, 'retry', failed=True), 'job')} queued again")
        return 0
    wanted = _wanted(ids)
    number = ask(head, seconds, "retry", ids=wanted)
    return _tell(number, len(wanted), "queued again", "have not failed, or are not known any more")


def _wanted(ids: Sequence[str]) -> list[str]:
    if not ids:
        raise click.UsageError("no JOB: give ids, as `ztasks jobs` shows them")
    return list(dict.fromkeys(ids))


def _tell(number: int, wanted: int, done: str, otherwise: str) -> int:
    """Say how many it has come to; return the exit code."""
    if number >= wanted:
        note(f"{plural(wanted, 'job')} {done}")
        return 0
    note(f"{number:,} of {plural(wanted, 'job')} {done}; the others {otherwise}")
    return FAILED
