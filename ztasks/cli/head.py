"""The command `ztasks head`: the head as a service."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from ztasks.cli.serving import DEFECT, Log, collect_seldom, duration, notify, signals, size
from ztasks.errors import ZtasksError

if TYPE_CHECKING:
    from ztasks.io.journal import Journal
    from ztasks.io.journal_ops import Range
    from ztasks.io.keys import KeyStore
    from ztasks.io.net import HeadSockets
    from ztasks.io.service import Service
    from ztasks.io.terms import Place

DEFAULT_LISTEN: Final = "127.0.0.1:7070"
SWITCH_SECONDS: Final = 0.0005
"""How soon the journal's thread gets the interpreter from the head's: with Python's 5 ms it writes a third as much."""

FRESH_SECONDS: Final = 0.05
"""How old the allow-list may be: a key that is revoked is heard so much longer."""

T = TypeVar("T")

LANES: Final = 1000
"""How many ports there are for lanes, unless it is said otherwise."""

EPILOG: Final = """\
\b
Ports: with --listen HOST:7070, clients come to 7070, workers to 7071 and 7072, and each worker to one
of 7073 to 8072 (--lane-ports). Only these connections are made; nothing is ever opened towards a worker.

\b
Examples:
  ztasks head                                          for this host only
  ztasks head --listen 0.0.0.0:7070 --journal state.db for other hosts, and so that nothing accepted is lost
  ztasks worker --head @~/ztasks/worker.join           on each host

\b
Signals:
  SIGTERM, SIGINT  give out no more work, wait for what runs (--drain-timeout), end; twice: end at once
  SIGHUP           look at the keys again

\b
Exit codes:
  0  it was told to stop    1  it could not start, or was told twice    2  wrong usage
"""


@click.command(name="head", epilog=EPILOG)
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    envvar="ZTASKS_LISTEN",
    show_default=True,
    metavar="HOST:PORT",
    help="The interface, and the first of three ports.",
)
@click.option(
    "--advertise",
    metavar="HOST[:PORT]",
    help="What others shall connect to, for the join files; default: the address that is listened at, or this host's "
    "name. With another PORT, the ports behind it lead here as well (a proxy, a port mapping).",
)
@click.option("--lane-ports", metavar="FIRST-LAST", help="Ports for lanes; default: the 1000 behind the three.")
@click.option("--join-dir", default="~/ztasks", show_default=True, envvar="ZTASKS_JOIN_DIR", metavar="DIR",
              help="The private directory with the keys: worker.join and client.join are written there.")  # fmt: skip
@click.option("--journal", metavar="FILE", help="Write down jobs and results: they survive this process.")
@click.option("--sync", type=click.Choice(["full", "normal"]), default="full", show_default=True,
              help="full: the journal survives a power failure; normal: a kill.")  # fmt: skip
@click.option("--keep", default="7d", show_default=True, callback=duration("--keep"), metavar="TIME",
              help="How long the journal keeps results that nobody fetches.")  # fmt: skip
@click.option("--keep-bytes", default="1GiB", show_default=True, callback=size("--keep-bytes"), metavar="SIZE",
              help="How much of such results it keeps.")  # fmt: skip
@click.option("--min-free", default="64MiB", show_default=True, callback=size("--min-free"), metavar="SIZE",
              help="With less space on the journal's disk, new jobs are refused.")  # fmt: skip
@click.option("--max-bytes", callback=size("--max-bytes"), metavar="SIZE",
              help="How much arguments and results may take in memory; beyond that, new jobs are refused. "
              "Default: a quarter of the memory.")  # fmt: skip
@click.option("--lease", default="10s", show_default=True, callback=duration("--lease", 0.5), metavar="TIME",
              help="After so long without a sign of life a worker's jobs go elsewhere.")  # fmt: skip
@click.option("--drain-timeout", default="60s", show_default=True, callback=duration("--drain-timeout"),
              metavar="TIME", help="How long SIGTERM waits for jobs that run.")  # fmt: skip
@click.option("--plain", is_flag=True, help="No keys and no encryption; on this host only.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(**options: Any) -> int:
    """Run a head: clients send it jobs, workers on any number of hosts do them.

    It is one process. While it is down, nothing is given out; with --journal, it goes on where it was when it is
    started again, and jobs that run meanwhile are not run twice.
    """
    log = Log("head", as_json=options["log_format"] == "json")
    try:
        return serve(options, log)
    except (ZtasksError, OSError) as error:
        raise log.failure(error) from error
    except click.ClickException:
        raise
    except Exception:  # noqa: BLE001 - whatever it is, whoever reads the log shall find it there
        log(
            DEFECT,
            "a defect in ztasks has ended the head. Please report this.\n" + traceback.format_exc(),
            level="error",
        )
        return 1


def serve(options: dict[str, Any], log: Log) -> int:
    """Run the head; raises ZtasksError and OSError."""
    from ztasks.io.join import parse_address
    from ztasks.io.service import Service
    from ztasks.io.terms import Place, Terms

    sys.setswitchinterval(SWITCH_SECONDS)
    collect_seldom()
    try:
        host, port = parse_address(options["listen"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    lanes = _lane_ports(options["lane_ports"], port)
    store = None if options["plain"] else _key_store(options["join_dir"])
    sockets = _sockets(store, log)
    terms = Terms(
        lease=options["lease"],
        heartbeat=min(1.0, options["lease"] / 4),
        max_bytes=options["max_bytes"] or _default_bytes(),
        drain_seconds=options["drain_timeout"],
    )
    advertised = _advertised(options["advertise"], host, port)
    place = Place(host, port, lanes, advertised[1] - port)
    try:
        service = Service(sockets, place, terms, lambda service: _open_journal(service, options, log), log)
    except BaseException:
        sockets.close()
        raise
    told: list[None] = []

    def stop() -> None:
        """A signal: the first stops, the second kills."""
        notify("STOPPING=1")
        told.append(None)
        if len(told) == 1:
            service.stop()
        else:
            service.kill()

    with signals({signal.SIGTERM: stop, signal.SIGINT: stop,
                  signal.SIGHUP: lambda: log("keys", "looking at the keys again")}):  # fmt: skip
        try:
            service.open()
            _announce(service, place, advertised, store, log)
        except BaseException:
            service.close()
            raise
        code = service.run()
    log("ended", "ended")
    return code


def _announce(service: Service, place: Place, advertised: tuple[str, int], store: KeyStore | None, log: Log) -> None:
    """Write the join files, and say that the head is ready; raises BadKeyStore, NotPrivate and OSError."""
    from ztasks.io.join import Ports

    address, first = advertised
    if store is not None:
        for path in store.announce(address, Ports.from_first(first)):
            log("join-file", f"wrote {path}")
    if service.recovered:
        log("recovered", service.recovered)
    if (why := service.books.full) is not None:
        log("refusing", f"new jobs are refused: {why}", level="warning")
    where = f"{address}:{first}" + ("" if store is not None else " (plain: no keys, this host only)")
    log("ready", f"ready, listening on {place.host}:{place.port} as {where}", epoch=service.roster.epoch)
    notify("READY=1")


def _key_store(directory: str) -> KeyStore:
    from ztasks.io.keys import KeyStore

    store = KeyStore.create(os.path.expanduser(directory))
    store.hold()
    return store


def _sockets(store: KeyStore | None, log: Log) -> HeadSockets:
    from ztasks.io.net import HeadSockets

    def report(refusal: object) -> None:
        log("refused-connection", str(refusal), level="warning")

    if store is None:
        return HeadSockets(None, None, report)
    return HeadSockets(store.keypair(), lately(store.allowed), report)


def _open_journal(service: Service, options: dict[str, Any], log: Log) -> Journal | None:
    if options["journal"] is None:
        return None
    from ztasks.io.journal import SqliteJournal

    return SqliteJournal(
        os.path.expanduser(options["journal"]),
        on_durable=service.on_durable,
        on_failed=lambda error: log("journal", f"the journal cannot be written: {error}", level="error"),
        on_dropped=lambda ranges: _on_dropped(service, ranges, log),
        wall=time,
        sync=options["sync"],
        keep_seconds=options["keep"],
        keep_bytes=options["keep_bytes"],
        min_free=options["min_free"],
    )


def _on_dropped(service: Service, ranges: Sequence[Range], log: Log) -> None:
    service.on_dropped([(each.session, each.first, each.count) for each in ranges])
    number = sum(each.count for each in ranges)
    log("journal", f"{number} results that nobody fetched in time, or were too many, were dropped", level="warning")


def lately(allowed: Callable[[], T]) -> Callable[[], T]:
    """Return what gives the same, looked up anew after FRESH_SECONDS: it is asked for each message."""
    found: list[tuple[float, T]] = []

    def look() -> T:
        now = monotonic()
        if not found or now - found[0][0] > FRESH_SECONDS:
            found[:] = [(now, allowed())]
        return found[0][1]

    return look


def _lane_ports(text: str | None, port: int) -> range:
    if text is None:
        return range(port + 3, min(port + 3 + LANES, 65536))
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if found is None or not 0 < int(found[1]) <= int(found[2]) < 65536:
        raise click.BadParameter(f"{text!r} is no range of ports, such as 7073-7080", param_hint="--lane-ports")
    return range(int(found[1]), int(found[2]) + 1)


def _advertised(text: str | None, host: str, port: int) -> tuple[str, int]:
    """Return what peers connect to."""
    from ztasks.io.join import parse_address

    if text is not None:
        try:
            return parse_address(text if re.search(r":\d+$", text) and text.count(":") == 1 else f"{text}:{port}")
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--advertise") from error
    if host in ("0.0.0.0", "::", "*"):
        import socket

        return socket.getfqdn(), port
    return host, port


def _default_bytes() -> int:
    from ztasks.io.hostinfo import memory

    return max(64 * 1024 * 1024, memory() // 4)
