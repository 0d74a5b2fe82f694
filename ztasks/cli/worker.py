"""The command `ztasks worker`: a foreman with its workers, on one host."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import click

from ztasks import __version__
from ztasks.cli.serving import Log, collect_seldom, duration, notify, signals, size
from ztasks.errors import InvalidOption, WireError, ZtasksError

if TYPE_CHECKING:
    from ztasks.io.head import Head
    from ztasks.wire.link import Hello

MAX_COUNT: Final = 2**53
"""The most of a resource: what every language can hold."""

EPILOG: Final = """\
\b
Examples:
  ztasks worker --head @worker.join                        as many workers as there are cores
  ztasks worker --head @worker.join -j 4 -Q gpu,default    four, for two queues
  ztasks worker --head @worker.join --import myapp.tasks   myapp is imported before the first job
  ztasks worker --head @worker.join --walltime 55m --idle-timeout 5m      in a batch system's slot

\b
Signals:
  SIGTERM, SIGINT, SIGUSR1  hand back what has not begun, finish what runs, leave; twice: leave at once

\b
Exit codes:
  0    it has left in order    1  it could not start or join    2  wrong usage    130  it left at once
"""


@click.command(name="worker", epilog=EPILOG)
@click.option("--head", "head", metavar="@FILE", help="The head's worker.join; default: ZTASKS_HEAD.")
@click.option("-j", "--workers", metavar="N", help="How many workers, or a share such as 50%; default: one per core.")
@click.option("-Q", "--queues", default="default", show_default=True, metavar="NAME[,NAME]", help="Queues to work for.")
@click.option("--tag", "tags", multiple=True, metavar="NAME", help="What this host has; jobs may ask for it.")
@click.option("--resource", "resources", multiple=True, metavar="NAME=N",
              help="How much of something there is for jobs that ask for it.")  # fmt: skip
@click.option("--memory", callback=size("--memory"), metavar="SIZE", help="Memory for jobs; default: all there is.")
@click.option("--gpus", metavar="N", help="`auto`, or how many: each worker has one.")
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Import a module before the first job.")
@click.option("--preload", "preloads", multiple=True, metavar="MODULE", help="The same, for a library.")
@click.option("--name", metavar="NAME", help="Its name; a second of that name replaces the first. Default: host:pid.")
@click.option("--walltime", callback=duration("--walltime"), metavar="TIME", help="Leave in order after so long.")
@click.option("--idle-timeout", callback=duration("--idle-timeout"), metavar="TIME",
              help="Leave after so long without work.")  # fmt: skip
@click.option("--join-timeout", callback=duration("--join-timeout"), metavar="TIME",
              help="Give up if no head answers for so long at the start.")  # fmt: skip
@click.option("--max-tasks-per-child", type=click.IntRange(min=1), metavar="N",
              help="Replace a worker process after so many jobs.")  # fmt: skip
@click.option("--max-memory-per-child", callback=size("--max-memory-per-child"), metavar="SIZE",
              help="Replace a worker process that has grown larger.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(**options: Any) -> int:
    """Work for a head: start workers on this host, and run the jobs that the head gives them."""
    log = Log("worker", as_json=options["log_format"] == "json")
    try:
        return work(options, log)
    except InvalidOption as error:
        raise click.UsageError(str(error)) from error
    except (ZtasksError, OSError) as error:
        raise log.failure(error) from error


def work(options: dict[str, Any], log: Log) -> int:
    """Run the foreman; raises ZtasksError and OSError."""
    from ztasks.io.foreman import Foreman
    from ztasks.io.join import resolve
    from ztasks.io.leaving import Stay

    join = resolve(options["head"], "worker")
    make_head, workers, gpus = _crew(options)
    hello = _hello(options, workers, gpus)
    stay = Stay(options["walltime"], options["idle_timeout"], options["join_timeout"])
    told: list[int] = []

    def stop() -> None:
        notify("STOPPING=1")
        told.append(1)
        if len(told) == 1:
            log("stopping", "handing back what has not begun, finishing what runs, and leaving")
            foreman.stop()
        else:
            foreman.kill()

    def say(line: str, *, level: str = "info") -> None:
        log("link", line, level=level)
        if line.startswith("joined"):
            notify("READY=1")

    collect_seldom()
    foreman = Foreman(hello, join, make_head, stay, say)
    with signals(dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1), stop)):
        code = foreman.run()
    log("left", "left")
    return code


def _hello(options: dict[str, Any], workers: int, gpus: int) -> Hello:
    """Return what this worker says of itself to its head."""
    from ztasks.io.hostinfo import host_name, memory, random_number
    from ztasks.wire.link import PROTOCOL, Hello
    from ztasks.wire.link_codec import check_hello

    resources = {"cpus": workers, "memory": options["memory"] or memory(), **({"gpu": gpus} if gpus else {})}
    hello = Hello(
        "foreman",
        options["name"] or f"{host_name()}:{os.getpid()}",
        random_number(),
        0,
        PROTOCOL,
        __version__,
        ".".join(platform.python_version_tuple()[:2]),
        host_name(),
        workers,
        _names(options["queues"].split(","), "--queues"),
        _names(options["tags"], "--tag"),
        {**resources, **_resources(options["resources"])},
        time.time(),
    )
    try:
        check_hello(hello)
    except WireError as error:
        raise click.UsageError(f"no head would take this worker in: {error}") from error
    return hello


def _crew(options: dict[str, Any]) -> tuple[Callable[[Callable[[], None]], Head], int, int]:
    """Return what makes the crew's head, how many workers it will have, and how many GPUs."""
    from ztasks.cli.run_workers import gpu_number, parse_workers
    from ztasks.intake import make_setup
    from ztasks.io.head import Head
    from ztasks.io.held_signals import hold_signals
    from ztasks.limits import make_limits

    gpus = None if options["gpus"] is None else gpu_number(options["gpus"])
    workers = None if options["workers"] is None and gpus is not None else parse_workers(options["workers"])
    sys.path.insert(0, os.getcwd())
    setup = make_setup(hold_signals, (), [*options["imports"], *options["preloads"]])
    largest = options["max_memory_per_child"]
    limits = make_limits(workers, None, options["memory"], options["max_tasks_per_child"], None, gpus, largest)
    setup.max_bytes, setup.max_memory = limits.max_bytes, largest

    def make_head(on_end: Callable[[], None]) -> Head:
        return Head(limits, setup, on_end=on_end, counts=False)

    return make_head, limits.workers, len(limits.devices)


def _names(texts: Iterable[str], option: str) -> tuple[str, ...]:
    """Return names that are given to an option, checked. Raises click.BadParameter."""
    from ztasks.core.options import name_of

    found = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
    try:
        for name in found:
            name_of(name, option)
    except InvalidOption as error:
        raise click.BadParameter(str(error), param_hint=option) from error
    if not found and option == "--queues":
        raise click.BadParameter("there must be at least one queue, such as default", param_hint=option)
    return found


def _resources(texts: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals or not number.isdecimal() or int(number) > MAX_COUNT:
            what = f"{text!r} is not NAME=N, such as license=2, with a number of at most {MAX_COUNT}"
            raise click.BadParameter(what, param_hint="--resource")
        found[_names([name], "--resource")[0] if name.strip() else ""] = int(number)
    if not all(found):
        raise click.BadParameter("a resource needs a name, such as license=2", param_hint="--resource")
    return found
