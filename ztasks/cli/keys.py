"""The command `ztasks keys`: shows and changes which keys a head lets in."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from ztasks.errors import ZtasksError

if TYPE_CHECKING:
    from ztasks.io.join import Role
    from ztasks.io.keys import KeyStore

DIRECTORY: Final = "~/ztasks"
VARIABLE: Final = "ZTASKS_JOIN_DIR"

READER_GONE: Final = 141
"""128 + SIGPIPE, as shells have it."""

EPILOG: Final = """\
\b
Examples:
  ztasks keys list                              which keys are allowed?
  ztasks keys add gpu-7 --role worker           a key of its own for one host, in gpu-7.join
  ztasks keys revoke gpu-7                      that host is out, at once
  ztasks keys revoke client && ztasks keys add client --role client
                                                a new client.join; the old one is worth nothing

\b
Exit codes:
  0    done
  2    refused: nothing was changed, but for what the message says
  141  the reader of the output went away, as with `| head`
"""


class Refused(click.ClickException):
    """What cannot be done, told without the usage line: the message names the cure itself."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Write the message to stderr."""
        click.echo(f"ztasks keys: {self.message}", file=file, err=True)


_directory = click.option(
    "--join-dir",
    "directory",
    default=DIRECTORY,
    envvar=VARIABLE,
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    help="The directory that the head was started with.",
)


@click.group(name="keys", epilog=EPILOG)
def command() -> None:
    """Show and change which keys a head lets in; this takes effect at once, also at a head that runs.

    Run it on the head's host, as the user that the head runs as. A key is for a worker or for a client: whoever has a
    client's can run any code on the workers, and whoever has a worker's sees the jobs that are sent to it.
    """


@command.command(name="list", short_help="List the keys that are allowed.")
@_directory
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def list_keys(directory: str, as_json: bool) -> int:
    """List the keys that are allowed: name, role, since when, public key.

    In a pipe there is one line for each, with tabs between these four.
    """
    import json

    with _told(directory) as store:
        entries = sorted(store.entries(), key=lambda entry: (entry.role, entry.name))
    rows = [(entry.name, entry.role, entry.added, entry.public_key) for entry in entries]
    if as_json:
        fields = ("name", "role", "added", "public_key")
        text = json.dumps({"keys": [dict(zip(fields, row, strict=True)) for row in rows]}, indent=2)
    elif sys.stdout is not None and sys.stdout.isatty():
        text = _table([("NAME", "ROLE", "ADDED", "PUBLIC KEY"), *rows])
    else:
        text = "\n".join(map("\t".join, rows))
    return _write(text)


@command.command(name="add", short_help="Allow a new key, and write its join file.")
@click.argument("name")
@click.option("--role", type=click.Choice(["worker", "client"]), required=True, help="What the key is for.")
@_directory
def add_key(name: str, role: Role, directory: str) -> int:
    """Allow a new key, and write it to NAME.join; the path of that is written to stdout."""
    with _told(directory) as store:
        path = store.add(name, role)
    use = f"ztasks worker --head @{name}.join" if role == "worker" else f"ztasks run --head @{name}.join ..."
    click.echo(
        f"This file is the only copy of its secret key. Move it to where it is used (scp -p keeps it private): {use}",
        err=True,
    )
    return _write(path)


@command.command(name="revoke", short_help="Allow a key no longer.")
@click.argument("name")
@_directory
def revoke_key(name: str, directory: str) -> None:
    """Allow a key no longer: a head that runs ends the connections that came with it."""
    with _told(directory) as store:
        store.revoke(name)
    click.echo(f"revoked {name}; its join file is worth nothing now", err=True)


@contextlib.contextmanager
def _told(directory: str) -> Iterator[KeyStore]:
    """Open the keys, and turn what is wrong into a message."""
    from ztasks.io.keys import KeyStore

    try:
        yield KeyStore(os.path.expanduser(directory))
    except ZtasksError as error:
        raise Refused(str(error)) from error


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _write(text: str) -> int:
    """Write to stdout, and return the exit code."""
    try:
        if text:
            print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at its exit
        if error.errno == errno.EPIPE:
            return READER_GONE
        raise Refused(f"the output cannot be written: {error.strerror}.") from error
    return 0
