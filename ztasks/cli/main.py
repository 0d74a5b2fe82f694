"""The command `ztasks`. A command's module is imported when that command, or its help, is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click

from ztasks import __version__

COMMANDS: Final = {
    "cancel": ("ztasks.cli.jobs:cancel", "Cancel jobs of a head."),
    "dev": ("ztasks.cli.dev:command", "Run a head and its workers in one terminal; code is reloaded when it changes."),
    "doctor": ("ztasks.cli.doctor:command", "Check that ztasks can work here, and say what to do if not."),
    "head": ("ztasks.cli.head:command", "Run a head: clients send it jobs, workers on other hosts do them."),
    "jobs": ("ztasks.cli.jobs:jobs", "Show the jobs of a head."),
    "keys": ("ztasks.cli.keys:command", "Show and change which keys a head lets in."),
    "result": ("ztasks.cli.result:command", "Show the result of a job."),
    "retry": ("ztasks.cli.jobs:retry", "Run failed jobs of a head again."),
    "run": ("ztasks.cli.run:command", "Run a task on each input, in parallel; one JSON record per job."),
    "send": ("ztasks.cli.send:command", "Send a job to a head, by the name of its task."),
    "status": ("ztasks.cli.status:command", "Show how a head is, and how many jobs it has."),
    "stop": ("ztasks.cli.stop:command", "End a head and its workers."),
    "why": ("ztasks.cli.jobs:why", "Say what a job waits for, or how it has ended."),
    "worker": ("ztasks.cli.worker:command", "Work for a head on this host."),
    "workers": ("ztasks.cli.workers:command", "Show who works for a head."),
}
"""Where each is (`module:attribute`), and the line that `ztasks --help` shows: it must not cost the import of all."""

INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what to do about a command that does not exist."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            cure = f" Did you mean `ztasks run {args[0]}`?" if ":" in args[0] or args[0].endswith(".py") else ""
            ctx.fail(f"no such command {args[0]!r}; there is {', '.join(sorted(COMMANDS))}.{cure}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


@click.group(
    name="ztasks",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try: ztasks run --help",
)
@click.version_option(__version__, prog_name="ztasks")
def cli() -> None:
    """Parallel batch jobs in Python, from a laptop to a fleet, with no broker to install."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit code."""
    try:
        result = cli.main(args=arguments, prog_name="ztasks", standalone_mode=False)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("ztasks: interrupted", file=sys.stderr)
        return INTERRUPTED
    return result if isinstance(result, int) else 0
