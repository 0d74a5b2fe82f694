"""A head, foremen and clients as real processes, for tests across hosts.

What must hold: each wait has a deadline, and its failure shows what the processes have written; at the end all of them
are stopped in an orderly way, or killed if the test has failed, and reaped; and what they leave behind fails the test:
a process, a private directory, a traceback or a warning on stderr.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import support
from namespaces import Host
from proxy import ProxySet
from proxy_loop import reserve

import ztasks
from ztasks.io import rundir

MARK = "ZT_FLEET"
"""An environment variable that all processes of a part inherit: so they are found, whoever their parent is."""

PORT = 7070
"""Where a head listens that has a host of its own."""

NOISE = ("Traceback (most recent call last)", "ResourceWarning", "DeprecationWarning", "RuntimeWarning")
"""What nobody wants to read on stderr."""


class Part:
    """One of our processes, with all that it starts. Its output is in the files `out` and `err`."""

    def __init__(self, name: str, mark: str, process: subprocess.Popen[Any], out: Path, err: Path) -> None:
        self.name, self.process, self.pid = name, process, process.pid
        self.out, self.err = out, err
        self.killed = False
        """Whether it was given no time to clean up."""
        self._mark = f"{MARK}={mark}".encode()

    # --- what it says ---

    @property
    def text(self) -> str:
        """What it has written to stderr."""
        return self.err.read_text(errors="replace")

    def wait_for(self, words: str, count: int = 1, seconds: float = support.DEADLINE) -> None:
        """Wait until it has written this to stderr so many times; fail at once if it has ended without."""

        def written() -> bool:
            over = self.process.poll() is not None
            found = self.text.count(words) >= count
            assert found or not over, f"{self.told()}\n{self.name} has ended without a word of {words!r}"
            return found

        try:
            support.wait_for(written, f"{words!r} from {self.name}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.told()}") from None

    def told(self) -> str:
        """Return how it is and the end of what it has written, for messages."""
        code = self.process.poll()
        how = "runs" if code is None else f"has ended with {code}"
        written = [f"{file.name}:\n{file.read_text(errors='replace')[-4000:]}" for file in (self.out, self.err)]
        return f"--- {self.name} (pid {self.pid}) {how}; " + "\n".join(written)

    # --- what it has ---

    def processes(self) -> set[int]:
        """Return all its processes that run, its own included."""
        return marked(self._mark)

    def workers(self) -> set[int]:
        """Return those that are workers."""
        return {pid for pid in self.processes() if support.is_worker(pid)}

    # --- what is done to it ---

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self.process.send_signal(number)

    def kill(self, seconds: float = 5.0) -> None:
        """SIGKILL it, and wait until all that it had started is gone as well."""
        self.killed = self.killed or self.process.poll() is None
        self.process.kill()
        self.process.wait(support.DEADLINE)
        self.wait_gone(seconds)

    def stop(self, seconds: float = support.DEADLINE) -> int:
        """SIGTERM it; return the exit code that it ends with."""
        self.send(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = support.DEADLINE) -> int:
        """Wait until it has ended, and all that it has started; return its exit code, negative for a signal."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within {seconds} s; {self.told()}") from None
        self.wait_gone(2.0)
        return code

    def wait_gone(self, seconds: float = 5.0) -> None:
        """Wait until none of its processes runs."""
        support.wait_for(lambda: not self.processes(), f"the end of {self.processes()} of {self.name}", seconds)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process itself for a while, without its knowing: SIGSTOP, SIGCONT."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    def end(self) -> None:
        """Kill whatever of it runs, and reap it."""
        for pid in self.processes() | ({self.pid} if self.process.poll() is None else set()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(support.DEADLINE)


class Fleet:
    """A head, its foremen and its clients. All files are below `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        journal: bool = False,
        plain: bool = False,
        proxied: bool = False,
        lanes: int = 8,
        lease: str = "2s",
        host: Host | None = None,
        options: Sequence[str] = (),
        quiet: bool = True,
        command: Sequence[str] = (sys.executable, "-m", "ztasks"),
    ) -> None:
        """`proxied`: the head advertises the address of `proxies`, and all connections lead through them.

        `host`: where the head runs; `options`: further ones of its command. `quiet`: nobody may write a traceback.
        """
        self.folder, self.host, self._quiet, self._command = folder, host, quiet, list(command)
        self.join_dir, self.journal = folder / "join", folder / "state.db"
        self.tmp = Path(tempfile.mkdtemp(prefix="f"))
        """The directory for temporary files of all parts."""
        self.parts: list[Part] = []
        """All that were ever started."""
        self._numbers, self._mark = itertools.count(1), os.urandom(8).hex()
        self._clients: list[ztasks.Client] = []
        self._stack = contextlib.ExitStack()
        self._lanes = lanes
        if host is None:
            holders = [self._stack.enter_context(contextlib.closing(holder)) for holder in reserve(3 + lanes)]
            self.listens = ("127.0.0.1", int(holders[0].getsockname()[1]))
        else:
            self.listens = (host.address, PORT)
        self.port = self.listens[1]
        """The first of the ports that peers are told to connect to."""
        self._head_options = [
            *("--listen", "{}:{}".format(*self.listens)),
            *("--lane-ports", f"{self.listens[1] + 3}-{self.listens[1] + 2 + lanes}"),
            *("--join-dir", str(self.join_dir), "--lease", lease, *options),
            *(("--journal", str(self.journal)) if journal else ()),
            *(("--plain",) if plain else ()),
        ]
        if proxied:
            self.proxies = self._stack.enter_context(ProxySet(self.listens, lanes))
            self.port = self.proxies.base
            self._head_options += ["--advertise", self.proxies.address]

    # --- its parts ---

    @property
    def head(self) -> Part:
        """The head that was started last."""
        return [part for part in self.parts if part.name == "head"][-1]

    def start_head(self, *options: str, ready: bool = True, **env: str) -> Part:
        """Start the head, the first time or again, and wait until it is ready."""
        head = self._start("head", [*self._command, "head", *self._head_options, *options], self.host, env)
        if ready:
            head.wait_for("ready")
        return head

    def start_foreman(
        self,
        name: str,
        *options: str,
        workers: int = 1,
        queues: Iterable[str] = (),
        tags: Iterable[str] = (),
        through: ProxySet | None = None,
        host: Host | None = None,
        ready: bool = True,
        **env: str,
    ) -> Part:
        """Start a foreman and wait until it has joined. `through`: proxies of its own."""
        arguments = ["--head", self.join("worker", through), "-j", str(workers), "--name", name]
        if queues:
            arguments += ["-Q", ",".join(queues)]
        for tag in tags:
            arguments += ["--tag", tag]
        foreman = self._start(name, [*self._command, "worker", *arguments, *options], host, env)
        if ready:
            foreman.wait_for("joined")
        return foreman

    def start_script(self, name: str, text: str, *arguments: str, host: Host | None = None, **env: str) -> Part:
        """Start a program in a process of its own; ZTASKS_HEAD tells it the head."""
        script = support.write_script(self.folder, text, f"{name}.py")
        return self._start(name, [sys.executable, str(script), *arguments], host, env)

    def client(self, through: ProxySet | None = None, **how: Any) -> ztasks.Client:
        """Return a client in this process. It is closed at the end at the latest."""
        client = ztasks.Client(self.join("client", through), **how)
        self._clients.append(client)
        return client

    def run(self, *arguments: str, **how: Any) -> support.Finished:
        """Run a command of ztasks to its end; ZTASKS_HEAD tells it the head."""
        env = self._environment("command", {})
        return support.run_python(*self._command[1:], *arguments, env=env, cwd=self.folder, **how)

    # --- the ways between them ---

    def proxy(self) -> ProxySet:
        """Return proxies with the ports that the head advertises, on an address of their own: for one peer alone."""
        number = next(self._numbers)
        return self._stack.enter_context(ProxySet(self.listens, self._lanes, host=f"127.0.1.{number}", base=self.port))

    def join(self, role: str, through: ProxySet | None = None) -> str:
        """Return what a peer of this role joins with. `through`: a join file with the address of these proxies."""
        path = self.join_dir / f"{role}.join"
        if through is not None:
            content = json.loads(path.read_text())
            content["address"] = through.host
            content["ports"] = {name: port + through.base - self.port for name, port in content["ports"].items()}
            path = self.join_dir / f"{role}-{through.host}.join"
            with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                json.dump(content, file)
        return f"@{path}"

    def _start(self, name: str, argv: list[str], host: Host | None, env: dict[str, str]) -> Part:
        base = self.folder / f"{name}-{next(self._numbers)}"
        out, err = base.with_suffix(".out"), base.with_suffix(".err")
        popen = subprocess.Popen if host is None else host.popen
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = popen(
                argv,
                cwd=self.folder,
                env=self._environment(base.name, env),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        part = Part(name, f"{self._mark}/{base.name}", process, out, err)
        self.parts.append(part)
        return part

    def _environment(self, name: str, env: dict[str, str]) -> dict[str, str]:
        """Tests' jobs are found, and what is started is marked."""
        found = support.environment(TMPDIR=str(self.tmp), ZTASKS_HEAD=self.join("client"), **env)
        found["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), found["PYTHONPATH"]))
        return {**found, MARK: f"{self._mark}/{name}"}

    # --- the end ---

    def close(self) -> None:
        """End all parts in an orderly way, foremen first; fail if something is left, or was said that should not be."""
        try:
            self._close_clients()
            running = [part for part in self.parts if part.process.poll() is None]
            for part in sorted(running, key=lambda part: part.name == "head"):
                part.stop()
            trouble = self._left() + self._noise()
            assert not trouble, "\n".join((*trouble, *(part.told() for part in self.parts)))
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Kill and remove what there is."""
        with self._stack, contextlib.ExitStack() as stack:  # each of these is done, whatever becomes of the others
            stack.callback(shutil.rmtree, self.tmp, ignore_errors=True)
            for part in self.parts:
                stack.callback(part.end)
            stack.callback(self._close_clients)

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().shutdown(wait=False, cancel_futures=True)

    def _left(self) -> list[str]:
        """Return what was left behind. Directories of what was killed are left to the next one that sweeps."""
        left = [f"{part.name} has left behind process {pid}" for part in self.parts for pid in part.processes()]
        if any(part.killed for part in self.parts):
            with contextlib.suppress(AssertionError):
                support.wait_for(self._swept, "what was killed to let go of its directories", 5.0)
        return left + [f"left behind: {path.name}" for path in self.tmp.glob("*")]

    def _swept(self) -> bool:
        rundir.sweep(str(self.tmp))
        return not list(self.tmp.glob("*"))

    def _noise(self) -> list[str]:
        """Return what was written that nobody wants to read."""
        noise = NOISE if self._quiet else ()
        return [f"{part.name} has written {word!r}" for part in self.parts for word in noise if word in part.text]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            for part in self.parts:  # shown with the failure
                print(part.told())
            self.abandon()


def marked(mark: bytes) -> set[int]:
    """Return the processes that run with this in their environment."""

    def has(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False

    return {process.pid for process in support.processes() if process.state not in "ZX" and has(process.pid)}
