"""The command `ztasks status`: how a head and its fleet are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from ztasks.cli.asking import ask, asks_head, epilog, on_terminal, plural, show_json, show_table, write
from ztasks.cli.findings import printable

EPILOG: Final = epilog(
    """\
  ztasks status                                  of the head that ZTASKS_HEAD names
  ztasks status --head @client.join              of another one
  ztasks status --json | jq .queued              one figure
""",
    {0: "the head has answered"},
)

NAME_WIDTH: Final = 9


@click.command(name="status", epilog=EPILOG)
@asks_head
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def command(head: str | None, seconds: float, as_json: bool) -> int:
    """Show how a head is: its workers, how many jobs wait and run, and how many have ended since it was started.

    In a pipe there is one line for each figure: its name, a tab, and the figure, as JSON has them.
    """
    found: dict[str, Any] = ask(head, seconds, "status")
    if as_json:
        return show_json(found)
    if on_terminal():
        return write("\n".join(f"{name:<{NAME_WIDTH}}  {printable(text)}" for name, text in told(found)))
    return show_table((), [(name, as_text(value)) for name, value in found.items()])


def as_text(value: object) -> str:
    """Return a figure for a program that reads lines: nothing for None, true and false as JSON has them."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool | dict) else str(value)


def _states(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{counts[state]:,} {state}" for state in ("queued", "running", "delayed"))


def told(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines for people, each with its name."""
    from ztasks.runs.text import duration_text

    end = ", stopping: it takes no new jobs" if status["stopping"] else ""
    yield "head", f"ztasks {status['ztasks']}, up {duration_text(status['uptime'])}{end}"
    workers = f"{plural(status['workers'], 'worker')} on {plural(status['hosts'], 'host')}"
    yield "workers", workers if status["hosts"] else "none: start `ztasks worker --head @worker.join` on a host"
    yield "clients", f"{status['clients']:,}"
    yield "jobs", _states(status)
    if len(status["queues"]) > 1:
        yield from ((f"  {name}", _states(counts)) for name, counts in status["queues"].items())
    if status["stuck"]:
        yield (
            "stuck",
            f"{plural(status['stuck'], 'queued job')} that no worker here can take: `ztasks why JOB` says why",
        )
    yield "ended", ", ".join(f"{status[name]:,} {name}" for name in ("done", "failed", "cancelled", "expired"))
    kept = "yes: jobs and results survive a restart" if status["journal"] else "no: a restart loses all jobs"
    yield "journal", kept
    if status["refusing"]:
        yield "refusing", f"new jobs, since {status['refusing']}"
    if status["refused_connections"]:
        yield "refused", f"{plural(status['refused_connections'], 'connection')} (see the head's log)"
