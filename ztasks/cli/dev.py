"""The command `ztasks dev`: a head and its workers in one terminal, for writing tasks.

    this process --+-- ztasks head     in a private directory, on free ports of this host
                   +-- ztasks worker   started anew when a file changes

What it must hold: both end with this process, however that ends; and Ctrl-C ends all within two seconds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import random
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, Final

import click

from ztasks.cli.asking import plural
from ztasks.cli.serving import Failed, Log, duration, signals
from ztasks.cli.watching import Watch, places
from ztasks.io.wakeup import Wakeup

LOOK_SECONDS: Final = 0.5
"""How often files are looked at."""

LEAVING_SECONDS: Final = 0.05
"""The same for a worker that was told to leave."""

TERM_SECONDS: Final = 0.5
"""How long each may take to leave in order, when all shall end; and again so long to leave at once."""

PORTS: Final = 3 + 8
"""The head's own, and a few for lanes: a worker that is replaced may still have one."""

PORT_RANGE: Final = (10_000, 32_000)
"""Where they are looked for: below those that the kernel gives out by itself."""

MAX_NAMED: Final = 3
"""So many of the files that have changed are named."""

PREFIX: Final = "dev-ztasks-"
LOCK: Final = "dev.lock"

EPILOG: Final = """\
\b
Examples:
  ztasks dev --import myapp.tasks             as many workers as there are cores
  ztasks dev --import myapp.tasks -j 2 -Q default,mail
  export ZTASKS_HEAD=@...                     in another terminal: the line that it prints
  ztasks send myapp.tasks.resize photo.jpg --wait

\b
Signals:
  SIGINT (Ctrl-C), SIGTERM, SIGHUP  end head and workers; jobs that run are killed

\b
Exit codes:
  0  it was told to stop    1  it could not start, or the head has ended    2  wrong usage
"""


@click.command(name="dev", epilog=EPILOG)
@click.option("--import", "imports", multiple=True, metavar="MODULE", help="Import a module before the first job.")
@click.option("-j", "--workers", metavar="N", help="How many workers, or a share such as 50%; default: one per core.")
@click.option("-Q", "--queues", metavar="NAME[,NAME]", help="Queues to work for; default: `default`.")
@click.option("--tag", "tags", multiple=True, metavar="NAME", help="What jobs may ask for.")
@click.option(
    "--patience",
    default="10s",
    show_default=True,
    callback=duration("--patience"),
    metavar="TIME",
    help="How long jobs that run may hold up a reload; then they are killed, and run again with the new code.",
)
def command(imports: tuple[str, ...], patience: float, **options: Any) -> int:
    """Run a head and its workers in one terminal, for writing tasks; the workers are started anew when code changes.

    It watches the Python files of the modules that are named, of the packages around them, and below the working
    directory. Jobs that wait or fail meanwhile stay: they are the head's. When this ends, all is gone.
    """
    try:
        looked_at = places(imports, os.getcwd())
    except ModuleNotFoundError as error:
        why = f"there is no module {error}, neither here nor in sys.path: start this in the directory of the package"
        raise click.BadParameter(why, param_hint="--import") from error
    log = Log("dev", as_json=False)
    arguments = [f"--{name}={value}" for name, value in options.items() if isinstance(value, str)]
    arguments += [f"--tag={tag}" for tag in options["tags"]]
    arguments += [f"--import={module}" for module in imports]
    try:
        with private_directory() as directory, contextlib.closing(Wakeup()) as wakeup:
            development = Development(directory, arguments, Watch(looked_at), patience, wakeup, log)
            with signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), development.stop)):
                return development.run()
    except OSError as error:
        raise Failed("dev", str(error)) from error


class Child:
    """A head or a worker: a process that says when it is ready, and ends with this one."""

    def __init__(self, name: str, arguments: Sequence[str], directory: str) -> None:
        self.name = name
        self.ready = False
        self._word = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        address = os.path.join(directory, f"{name}.ready")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        self._word.bind(address)
        held, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ztasks.cli.tied", str(held), name, *arguments],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which ends it in order
                pass_fds=(held,),
                env={**os.environ, "NOTIFY_SOCKET": address},
            )
        except BaseException:
            os.close(self._lifeline)
            self._word.close()
            raise
        finally:
            os.close(held)

    def fileno(self) -> int:
        """Return the descriptor on which it says that it is ready."""
        return self._word.fileno()

    def listen(self) -> None:
        """Take in what it has said."""
        with contextlib.suppress(BlockingIOError):
            while word := self._word.recv(4096):
                self.ready = self.ready or b"READY=1" in word

    def exit_code(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.poll()

    def tell(self) -> None:
        """Tell it to leave in order; the second time, to leave at once."""
        self._process.send_signal(signal.SIGTERM)

    def end(self, seconds: float) -> None:
        """End it: in order, at once, or by force."""
        for step in (self.tell, self.tell, self._process.kill):
            step()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        else:
            self._process.wait()
        self.close()

    def close(self) -> None:
        """Let go of what belongs to it; it has ended."""
        self._word.close()
        os.close(self._lifeline)


class Development:
    """The head, its workers, and what starts these anew."""

    def __init__(
        self, directory: str, arguments: Sequence[str], watch: Watch, patience: float, wakeup: Wakeup, log: Log
    ) -> None:
        """`arguments`: of `ztasks worker`; `patience`: how long jobs that run may hold up a reload."""
        self._directory = directory
        self._arguments = arguments
        self._watch = watch
        self._patience = patience
        self._wakeup = wakeup
        self._log = log
        self._stopping = False
        self._announced = False
        self._head: Child | None = None
        self._worker: Child | None = None
        self._until: float | None = None
        """Until when the worker may finish what it runs, if it was told to leave."""
        self._broken = False
        """Whether the worker has ended by itself: with the same code another one would, too."""

    def stop(self) -> None:
        """End all; for signal handlers."""
        self._stopping = True
        self._wakeup.set()

    def run(self) -> int:
        """Run until told to stop; return the exit code."""
        try:
            self._head = head = self._start_head()
            look_at = monotonic() + LOOK_SECONDS
            while not self._stopping:
                if (code := head.exit_code()) is not None:
                    self._log("ended", f"the head has ended with exit code {code}", level="error")
                    return 1
                self._tend(head)
                self._sleep(LEAVING_SECONDS if self._until is not None else LOOK_SECONDS)
                if monotonic() >= look_at:
                    look_at = monotonic() + LOOK_SECONDS
                    if changed := self._watch.changed():
                        self._reload(changed)
            return 0
        finally:
            for child in (self._worker, self._head):
                if child is not None:
                    child.end(TERM_SECONDS)

    def _start_head(self) -> Child:
        port = free_ports()
        listen = f"--listen=127.0.0.1:{port}", f"--lane-ports={port + 3}-{port + PORTS - 1}"
        return Child("head", [*listen, f"--join-dir={self._directory}"], self._directory)

    def _sleep(self, seconds: float) -> None:
        """Wait until something is said, a signal comes, or the time is over."""
        children = [child for child in (self._head, self._worker) if child is not None]
        select.select([self._wakeup.fileno(), *(child.fileno() for child in children)], [], [], seconds)
        self._wakeup.clear()
        for child in children:
            child.listen()

    def _tend(self, head: Child) -> None:
        """See how the worker is; start one if there is none and one is wanted."""
        worker, now = self._worker, monotonic()
        if worker is None:
            if head.ready and not self._broken:
                join = os.path.join(self._directory, "worker.join")
                self._worker = Child("worker", [f"--head=@{join}", "--name=dev", *self._arguments], self._directory)
        elif (code := worker.exit_code()) is not None:
            worker.close()
            self._worker, self._broken, self._until = None, self._until is None, None
            if self._broken:
                told = f"the worker has ended with exit code {code}; it is started anew when a file changes"
                self._log("broken", told, level="error")
            else:
                self._tend(head)
        elif self._until is not None and now >= self._until:
            self._until = float("inf")
            self._log("killing", "jobs still run: they are killed, and run again with the new code", level="warning")
            worker.tell()
        elif worker.ready and not self._announced:
            self._announced = True
            self._announce()

    def _reload(self, changed: Sequence[str]) -> None:
        """Have the worker replaced."""
        names = [os.path.basename(path) for path in changed[:MAX_NAMED]]
        more = f" and {len(changed) - MAX_NAMED} more" if len(changed) > MAX_NAMED else ""
        self._log("reloading", f"reloading: {', '.join(names)}{more} changed")
        self._broken = False
        if self._worker is not None and self._until is None:
            self._until = monotonic() + self._patience
            self._worker.tell()

    def _announce(self) -> None:
        """Say how all this is reached."""
        files = plural(self._watch.files, "file")
        rest = "" if self._watch.complete else ", and no more of them: start this nearer to your code"
        self._log("ready", f"ready; watching {files}{rest}. In another terminal:")
        join = os.path.join(self._directory, "client.join")
        with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
            print(f"export ZTASKS_HEAD=@{shlex.quote(join)}", flush=True)


# --- what they need ---


def free_ports() -> int:
    """Return the first of so many ports of this host's loopback that are free, one behind the other."""
    for _ in range(100):
        first = random.randrange(*PORT_RANGE)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + PORTS):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise OSError(errno.EADDRINUSE, f"there are no {PORTS} free ports in a row from {PORT_RANGE[0]} on")


@contextlib.contextmanager
def private_directory() -> Iterator[str]:
    """Make a directory for keys, and remove it at the end; also those of predecessors that were killed.

    The private directories of executors are not used: a head's keys have a lock of the same name.
    """
    base = tempfile.gettempdir()
    sweep(base)
    path = tempfile.mkdtemp(prefix=PREFIX, dir=base)
    lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep(base: str) -> None:
    """Remove the directories in `base` whose owner is gone, which the lock tells."""
    for path in glob.glob(os.path.join(glob.escape(base), f"{PREFIX}*")):
        with contextlib.suppress(OSError):  # another user's, in use, or just being made
            lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)
