"""The command `ztasks send`: a job by the name of its task, which is not imported here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import click

from ztasks.cli.asking import FAILED, Told, asking, asks_head, epilog, note, write
from ztasks.cli.serving import duration

EPILOG: Final = epilog(
    """\
  ztasks send myapp.tasks.resize photo.jpg width=800      resize("photo.jpg", width=800)
  ztasks send myapp.tasks.total '[1, 2.5]' '"7"'          total([1, 2.5], "7")
  ztasks send myapp.tasks.report --wait                   and show the result
  job=$(ztasks send myapp.tasks.report --queue slow --expires 1h)
  ztasks result "$job" --wait
""",
    {
        0: "it is accepted; with --wait: it is done",
        1: "--wait: it has failed, or was cancelled; its traceback is on stderr",
    },
)

_KEYWORD: Final = re.compile(r"([^\W\d]\w*)=(.*)", re.DOTALL)


@click.command(name="send", epilog=EPILOG)
@click.argument("task")
@click.argument("args", nargs=-1, metavar="[ARG]...")
@click.option("--queue", metavar="NAME", help="The queue it goes into; default: `default`.")
@click.option("--tag", "tags", multiple=True, metavar="NAME", help="What a worker must have, as given with its --tag.")
@click.option("--priority", type=int, metavar="N", help="Higher ones go first; default: 0.")
@click.option(
    "--expires", callback=duration("--expires"), metavar="TIME", help="Give it up if it has not begun by then."
)
@click.option("--retries", type=click.IntRange(min=0), metavar="N", help="Run it again up to N times if it raises.")
@click.option("--timeout", callback=duration("--timeout"), metavar="TIME", help="Stop it if it runs longer.")
@click.option("--wait", is_flag=True, help="Wait until it has ended, and show its result.")
@asks_head
def command(head: str | None, seconds: float, task: str, args: tuple[str, ...], wait: bool, **options: Any) -> int:
    """Send a job to a head, by the name of its task: package.module.function. Its id is written to stdout.

    The workers import it; nothing is imported here. An ARG is JSON if it can be read as such, else text; NAME=ARG is a
    keyword argument. Text that looks like JSON or like a keyword is given as JSON: '"7"', '"a=b"'. After -- an ARG may
    begin with a dash.
    """
    positional, keywords = parse_arguments(args)
    changes = {name: value for name, value in options.items() if value not in (None, ())}
    with asking(head, seconds) as client:
        from ztasks.tasks import options as with_options
        from ztasks.wire.by_name import ByName

        id_ = client.send(with_options(ByName(task), **changes), *positional, **keywords).id
        if not wait:
            try:
                return write(id_)
            except Told as error:  # whoever has the id must not be told that nothing was changed
                raise Told(f"job {id_} was accepted, but {error.message}", FAILED) from error
        from ztasks.cli.result import show_result

        note(f"job {id_}")
        return show_result(client, id_, None, as_json=False)


def parse_arguments(texts: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and keyword arguments; raises click.UsageError."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for text in texts:
        found = _KEYWORD.fullmatch(text)
        if found is None:
            positional.append(parse_value(text))
        elif found[1] in keywords:
            raise click.UsageError(f"the argument {found[1]} is given twice")
        else:
            keywords[found[1]] = parse_value(found[2])
    return positional, keywords


def parse_value(text: str) -> Any:
    """Return what a text is in JSON, or the text itself; NaN and Infinity are no JSON."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(text: str) -> Any:
    raise ValueError(text)
