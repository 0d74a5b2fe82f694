"""The command `ztasks stop`: ends a head and the workers that it has."""

from __future__ import annotations

from typing import Final

import click

from ztasks.cli.asking import ask, asks_head, epilog, note

EPILOG: Final = epilog(
    """\
  ztasks stop                      finish what runs, and end; what waits stays in the journal
  ztasks stop --drain              finish all that waits as well
""",
    {0: "it ends as soon as that is done"},
)


@click.command(name="stop", epilog=EPILOG)
@asks_head
@click.option("--drain", is_flag=True, help="Finish all jobs that wait first; new ones are refused meanwhile.")
def command(head: str | None, seconds: float, drain: bool) -> None:
    """End a head and the workers that have joined it: what runs is finished, then they leave.

    This returns at once. New jobs are refused from now on; what waits is kept by the journal, if there is one, for the
    next `ztasks head`, and lost otherwise. To restart a head while its workers stay, send it SIGTERM instead.
    """
    ask(head, seconds, "stop", drain=drain)
    note(f"the head takes no new jobs, finishes {'all that it has' if drain else 'what runs'}, and ends")
