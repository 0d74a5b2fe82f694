"""The client: the interface of an executor, with a head that runs elsewhere (`ztasks head`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, ParamSpec, TypeVar, cast

from ztasks import lifetime
from ztasks.base_executor import BaseExecutor
from ztasks.client_future import ClientFuture, Sending, in_event_loop, wait_for
from ztasks.core.options import name_of
from ztasks.core.slices import Slice, TaskBooks
from ztasks.errors import ExecutorClosed, InvalidOption, ZtasksError
from ztasks.intake import closed, exiting
from ztasks.io.client_link import Patience, Wishes
from ztasks.io.client_questions import Reply
from ztasks.io.client_tasks import Definitions
from ztasks.io.client_thread import RemoteHead
from ztasks.io.delivery import Delivery
from ztasks.io.head import Head
from ztasks.io.hostinfo import host_name, memory
from ztasks.io.inbox import Inbox
from ztasks.io.join import JoinFile, format_address, resolve
from ztasks.io.looking import RunningJob
from ztasks.job import Job
from ztasks.known import QUICK, KnownTasks
from ztasks.limits import LEAST_BYTES, SHARE_OF_MEMORY, positive
from ztasks.mapping import Map
from ztasks.stream import Stream
from ztasks.tasks import Task
from ztasks.units import parse_flag, parse_wait, shown
from ztasks.wire.by_name import ByName
from ztasks.wire.link import Ask
from ztasks.wire.link_codec import decode_from_client, encode
from ztasks.wire.verdict import EVERYTHING

P = ParamSpec("P")
R = TypeVar("R")

LEAST_WORKERS: Final = 64
"""A map keeps so many workers supplied, even if the head has fewer now: more may join while it goes on."""

STATUS_SECONDS: Final = 2.0
"""How long the first map waits for the head to say how many workers there are."""

MOST_LISTED: Final = 10_000
"""How many jobs `running` asks for."""

MAX_NAME: Final = 255


class Client(BaseExecutor):
    """Runs jobs on the workers of a head elsewhere. Use it in a `with`, or make it once and keep it.

    It connects when it is first used; threads may share it; after a fork, the child begins with a session of its own.

    head: "@client.join", the file that `ztasks head` writes, or "HOST:PORT" of a head without keys on this host;
        default: what the environment variable ZTASKS_HEAD says.
    routes: patterns for the names of tasks, as they are imported ("myapp.video.*"), and the queues that their jobs go
        into; the first that matches counts, and wins over the task's own `queue`.
    durable: `submit` returns when the job is in the head's journal, if it has one. False: at once.
    cancel_on_exit: what has not ended is cancelled when this client closes early, or goes away for whatever reason.
        Default: with a journal it goes on, and `client.job` gets its result.
    join_timeout: how long to wait for the head at first.
    reconnect_timeout: how long jobs wait for a head that was there and has gone, before they fail with HeadLost.
    max_bytes: the most bytes that the arguments of submitted jobs hold in this process until the jobs have ended:
        beyond that, `submit` waits. Default: a quarter of the memory there is.
    name: what the head calls this client, for people. Default: host and process.

    Raises InvalidOption for wrong arguments, BadJoinFile and NotPrivate for a head that cannot be meant.
    """

    def __init__(
        self,
        head: str | os.PathLike[str] | None = None,
        *,
        routes: Mapping[str, str] | None = None,
        durable: bool = True,
        cancel_on_exit: bool = False,
        join_timeout: float | str | None = "10s",
        reconnect_timeout: float | str | None = "5m",
        max_bytes: int | str | None = None,
        name: str | None = None,
    ) -> None:
        self._name = _checked_name(name)
        self._wishes = Wishes(
            "",
            max(LEAST_BYTES, memory() // SHARE_OF_MEMORY) if max_bytes is None else positive(max_bytes, "max_bytes"),
            parse_flag(durable, "durable"),
            parse_flag(cancel_on_exit, "cancel_on_exit"),
            Patience(parse_wait(join_timeout, "join_timeout"), parse_wait(reconnect_timeout, "reconnect_timeout")),
        )
        self._definitions = Definitions(_checked_routes(routes))
        self._join_file = _join_file(head)
        self._known = _ClientTasks(self._definitions)
        self._begin()
        self._refuse = None
        lifetime.executors.add(self)

    def _begin(self) -> None:
        self._open()
        self._starting = threading.Lock()
        self._remote: RemoteHead | None = None
        self._delivery = Delivery()

    def _after_fork(self) -> None:
        """In a forked child: begin anew, with a session of its own."""
        if self._refuse is None:
            self._begin()

    def _start(self) -> RemoteHead:
        """Return the client's thread; start it if this is the first use."""
        remote = self._remote
        if remote is None:
            with self._starting:
                remote = self._remote
                if remote is None:
                    if lifetime.ending.is_set():
                        raise exiting()
                    wishes = self._wishes._replace(name=self._name or f"{host_name()}:{os.getpid()}"[:MAX_NAME])
                    remote = RemoteHead(self._join_file, wishes, self._definitions, on_end=self._delivery.end)
                    lifetime.heads.add(remote)
                    lifetime.deliveries.add(self._delivery)
                    self._remote = remote
                    try:
                        remote.start()
                    except ZtasksError:
                        self._remote = None
                        lifetime.heads.discard(remote)
                        raise
        return remote

    @property
    def _head(self) -> Head:  # type: ignore[override]
        return cast("Head", self._start())

    @property
    def _inbox(self) -> Inbox:  # type: ignore[override]
        return self._start().inbox

    @property
    def max_workers(self) -> int:  # type: ignore[override]
        """For how many workers a map provides."""
        return max(LEAST_WORKERS, self._remote.workers if self._remote is not None else 0)

    # --- submitting ---

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> ClientFuture[R]:
        """Run `fn(*args, **kwargs)` on a worker; return its future.

        The arguments are pickled here and now. If the head has a journal, it returns when the job is in there; at once
        if it has none, where an event loop runs, or with `durable=False`. Raises CallNotPicklable, ExecutorClosed,
        HeadFull, HeadLost.
        """
        remote = self._usable()
        task, payload = self._take_in(fn, args, kwargs)
        waits = remote.may_be_durable and not in_event_loop() and threading.current_thread() is not remote.thread
        future: ClientFuture[R] = ClientFuture(remote, self._delivery, waits=waits)
        slice_ = Slice(task, future, 0, 1, payload, future._gate)
        future._slice = slice_
        self._post(remote, slice_)
        if waits:
            try:
                wait_for(future)
            except BaseException:
                future.abandon()
                raise
            if (error := future.refusal) is not None:
                raise error
        return future

    def send(self, task: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        """Have the head run a job that nobody waits for; return when it has accepted it.

        task: a callable, or the name under which workers import it, such as "myapp.tasks.resize": it need not be
        importable here. Of a task that is sent by its name this client does not see the options, but what may be
        retried: give others with `ztasks.options("myapp.tasks.resize", retries=3)`.

        The result is kept by the head until `client.job(...)` fetches it, here or elsewhere. Raises CallNotPicklable,
        ExecutorClosed, HeadFull, HeadLost.
        """
        remote = self._usable()
        if threading.current_thread() is remote.thread:
            raise ZtasksError("send() waits for the client's thread, and was called in it, by a finaliser. Use submit.")
        fn = ByName(task) if isinstance(task, str) else task
        books, payload = self._take_in(fn, args, kwargs)
        size = len(payload) if type(payload) is bytes else payload.nbytes
        owner = Sending(remote, size)
        slice_ = Slice(books, owner, 0, 1, payload, threading.Lock())
        self._post(remote, slice_)
        try:
            wait_for(owner)
        except BaseException:
            remote.post(lambda: remote.stop_job(slice_))
            raise
        if owner.error is not None:
            raise owner.error
        if owner.cancelled:
            raise ExecutorClosed("the client was closed while this job was being sent; it was not accepted")
        return Job(f"{remote.session:016x}-{owner.number}", self)

    def job(self, job: Job | str) -> Job:
        """Return a job by its id: one that was sent, or submitted to a head with a journal, here or elsewhere."""
        return Job(job.id if isinstance(job, Job) else job, self)

    def ask(self, what: str, **arguments: Any) -> Any:
        """Ask the head what the commands `ztasks status`, `workers`, `jobs` and so on ask; return its answer."""
        return self.ask_whole(what, arguments).value

    def ask_whole(self, what: str, arguments: dict[str, Any], seconds: float | None = None) -> Reply:
        """The same, with the frames that came along. Raises TimeoutError."""
        try:
            decode_from_client(encode(Ask(0, what, arguments)))
        except Exception as error:
            raise InvalidOption(
                f"a question is a word such as 'status', with arguments that JSON could hold, not {shown(what)} with "
                f"{shown(arguments)}. Nothing was asked."
            ) from error
        return self._usable().ask(what, arguments, seconds)

    def _usable(self) -> RemoteHead:
        """Return the client's thread, if work can be given to it."""
        if self._refuse is not None:
            raise self._refuse()
        remote = self._remote or self._start()
        if remote.lost is not None:
            remote.check()
        return remote

    def _post(self, remote: RemoteHead, slice_: Slice) -> None:
        remote.inbox.post(slice_)
        if remote.inbox.ended.is_set():
            remote.refuse_late()  # closed by another thread just now, or failed

    def _serves(self) -> bool:
        remote = self._remote
        return threading.current_thread() in (self._delivery._thread, remote.thread if remote is not None else None)

    # --- maps ---

    def stream(self, fn: Callable[..., Any], /, *, ordered: bool = False) -> Stream:
        """Return a map that is fed in one thread, with `feed(calls)`, and iterated over in another."""
        self._learn_of_workers()
        return super().stream(fn, ordered=ordered)

    def _map(self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], *how: Any, **more: Any) -> Map:
        self._learn_of_workers()
        return super()._map(fn, iterables, *how, **more)

    def _learn_of_workers(self) -> None:
        remote = self._usable()
        known = remote.workers or in_event_loop() or self._serves()
        remote.ask_for_workers(0.0 if known else STATUS_SECONDS)

    def running(self) -> list[RunningJob]:
        """Return which of this client's jobs workers hold just now: the one that they hold for longest first.

        `pid` is 0: the head does not know it. Raises HeadLost.
        """
        remote = self._remote
        if remote is None or (self._refuse is not None and self._refuse is not closed):
            return []
        try:
            lines = remote.ask("jobs", {"state": "running", "limit": MOST_LISTED}).value
        except ExecutorClosed:
            return []
        own = f"{remote.session:016x}-"
        found = [
            RunningJob(line["id"], line["task"], line.get("attempt", 1), 0, line.get("seconds", 0.0))
            for line in lines
            if line["id"].startswith(own)
        ]
        return sorted(found, key=lambda job: -job.seconds)

    # --- closing ---

    def kill(self) -> None:
        """Have all jobs of this client stopped that were not sent, and close it. Does not wait for their ends."""
        if self._refuse is None or self._refuse is closed:
            self._settle_maps(finish=False)
            self._refuse = closed
            if self._remote is not None:
                self._remote.post_kill()
                self._join()

    def _close_intake(self) -> None:
        if self._remote is not None:
            super()._close_intake()

    def _close(self, *, cancel_waiting: bool) -> None:
        with self._closing:
            first, self._closed = not self._closed, True
            self._refuse = closed
        if self._remote is not None and (first or cancel_waiting):
            self._remote.post_close(cancel_waiting=cancel_waiting)

    def _join(self) -> None:
        remote = self._remote
        if remote is not None and threading.current_thread() not in (self._delivery._thread, remote.thread):
            remote.join()
            self._delivery.close()
            lifetime.heads.discard(remote)

    def _shutdown_interrupted(self) -> None:
        """Leave to the head what its journal has, cancel all else and finish what runs; if interrupted again, leave."""
        self._settle_maps(finish=False)
        self._refuse = closed
        remote = self._remote
        if remote is not None:
            remote.post_leave()
            try:
                self._join()
            except KeyboardInterrupt:
                remote.post_leave()
                self._join()
                raise

    def __del__(self) -> None:
        if self._refuse is None and self._remote is not None:
            super().__del__()

    def __repr__(self) -> str:
        state = "open" if self._refuse is None else "closed"
        where = format_address(self._join_file.address, self._join_file.ports.clients)
        return f"<ztasks.Client of the head at {where}, {state}>"


class _ClientTasks(KnownTasks):
    """The books on all callables that a client has been given; those that workers import are noted with their paths."""

    def __init__(self, definitions: Definitions) -> None:
        super().__init__(None)
        self._definitions = definitions

    def find(self, fn: Callable[..., Any]) -> TaskBooks:
        """Find or make the books on a callable. Raises InvalidOption, CallNotPicklable."""
        known = self.quick.get(fn) if type(fn) in QUICK else None
        if known is not None:
            return known
        inner = fn.ztasks_function if isinstance(fn, Task) else fn
        if isinstance(inner, ByName) and isinstance(fn, Task) and fn.ztasks_options.verdict != EVERYTHING:
            fn = Task(inner.judged_elsewhere(), fn.ztasks_options)
        task = super().find(fn)
        if isinstance(inner, ByName):
            self._definitions.note_path(task.callable.key, inner.path)
        elif task.callable.by_reference and getattr(fn, "__module__", None):
            self._definitions.note_path(task.callable.key, f"{fn.__module__}.{fn.__qualname__}")
        return task


def _join_file(head: str | os.PathLike[str] | JoinFile | None) -> JoinFile:
    """Find out which head is meant; raises InvalidOption, BadJoinFile, NotPrivate."""
    if isinstance(head, JoinFile):
        return head
    if isinstance(head, os.PathLike):
        head = f"@{os.fspath(head)}"
    if head is not None and not isinstance(head, str):
        raise InvalidOption(f'head must be text such as "@client.join", or None for ZTASKS_HEAD, not {shown(head)}')
    return resolve(head, role="client", private=True)


def _checked_name(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidOption(f"name must be text of at most {MAX_NAME} characters, not {shown(name)}")
    return name


def _checked_routes(routes: Mapping[str, str] | None) -> dict[str, str]:
    if routes is None:
        return {}
    if not isinstance(routes, Mapping) or not all(isinstance(pattern, str) and pattern for pattern in routes):
        raise InvalidOption(
            f'routes must be a dict of patterns and queues, such as {{"myapp.video.*": "gpu"}}, not {shown(routes)}'
        )
    return {pattern: name_of(queue, f"routes[{pattern!r}]") for pattern, queue in routes.items()}
