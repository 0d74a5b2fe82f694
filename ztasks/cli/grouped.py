"""Options in groups, each of which can also be given by an environment variable: what click has no words for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

PREFIX: Final = "ZTASKS_"
_RANGE: Final = re.compile(r"\s*\[x[<>]=?\d+\]$")
"""What click adds to the help of a number."""


class GroupedOption(click.Option):
    """An option that is listed in the help under its group."""

    def __init__(self, *arguments: Any, group: str, **how: Any) -> None:
        super().__init__(*arguments, **how)
        self.group = group
        longest = max(self.opts, key=len)
        self.envvar = PREFIX + longest.lstrip("-").upper().replace("-", "_")

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Read the variable: of an option that may be given several times, each line of it is one value."""
        text = self.resolve_envvar_value(ctx)
        if self.multiple:
            return text.splitlines() if text else None
        return super().value_from_envvar(ctx)


class GroupedCommand(click.Command):
    """A command whose help lists options by group, in the order in which groups first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options; those of no group, such as --help, come last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        for option in sorted(options, key=lambda each: not isinstance(each, GroupedOption)):
            line = option.get_help_record(ctx)
            if line is not None:
                groups.setdefault(getattr(option, "group", "Other"), []).append((line[0], _RANGE.sub("", line[1])))
        for name, lines in groups.items():
            with formatter.section(name):
                formatter.write_dl(lines)


def grouped(group: str, *declarations: str, **how: Any) -> Callable[[Any], Any]:
    """Declare an option of a group."""
    return click.option(*declarations, cls=GroupedOption, group=group, **how)
