"""The command `ztasks workers`: who works for a head."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any, Final

import click

from ztasks.cli.asking import ask, asks_head, epilog, note, on_terminal, show_json, show_table

EPILOG: Final = epilog(
    """\
  ztasks workers                                    who works for the head that ZTASKS_HEAD names?
  ztasks workers | cut -f2 | sort -u                on which hosts?
  ztasks workers --json | jq '.workers[] | select(.silent > 5) | .name'
                                                    from whom has nothing been heard for 5 s?
""",
    {0: "the head has answered"},
)

HEADINGS: Final = ("name", "host", "workers", "state", "jobs", "queues", "up", "heard", "tags", "resources", "python")
"""Columns; in a pipe the same, in this order."""

SILENT: Final = 2.0
"""Less silence than so many seconds is none: there is a sign of life each second."""


@click.command(name="workers", epilog=EPILOG)
@asks_head
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def command(head: str | None, seconds: float, as_json: bool) -> int:
    """Show who works for a head: each `ztasks worker` with how many workers it has and how many jobs it holds.

    In a pipe there is one line for each, with tabs between its fields: name, host, workers, state, jobs that it holds,
    queues, seconds since its start, seconds since it was last heard of, tags, resources, Python version.
    """
    found: list[dict[str, Any]] = ask(head, seconds, "workers")
    found.sort(key=lambda worker: (worker["host"], worker["name"]))
    if as_json:
        return show_json({"workers": found})
    if not found:
        note("there are none: start `ztasks worker --head @worker.join` on a host")
        return 0
    people, now = on_terminal(), time()
    return show_table(HEADINGS, [row(worker, now, people=people) for worker in found])


def row(worker: Mapping[str, Any], now: float, *, people: bool) -> list[str]:
    """Return the fields of one; for people, or for a program."""
    from ztasks.cli.findings import size
    from ztasks.runs.text import duration_text

    up, silent = max(0.0, now - worker["since"]), worker["silent"]
    resources = {
        name: size(number) if people and name == "memory" else str(number)
        for name, number in worker["resources"].items()
    }
    return [
        worker["name"],
        worker["host"],
        str(worker["workers"]),
        worker["state"],
        str(worker["holds"]),
        ",".join(worker["queues"]),
        duration_text(up) if people else f"{up:.1f}",
        ("now" if silent < SILENT else f"{duration_text(silent)} ago") if people else f"{silent:.1f}",
        ",".join(worker["tags"]),
        ",".join(f"{name}={text}" for name, text in resources.items()),
        worker["python"],
    ]
