"""The worker: the simplest thing that can work. Its main thread receives, claims, runs, pushes.

It lives on its parent's host, is watched by its parent through the operating system, and talks over ipc:

    lane (PULL)     <- batches, and the word to leave
    control (SUB)   <- drain, stop; read before each claim
    sink (PUSH)     -> ready, results, bye
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from time import perf_counter

from ztasks.errors import WireError
from ztasks.io import setup as setup_file
from ztasks.io import stacks
from ztasks.io.cell import CURSOR, CUT, RECEIVED, Cell
from ztasks.io.hostinfo import resident
from ztasks.io.outbox import Outbox
from ztasks.io.runner import Runner
from ztasks.io.setup import Setup
from ztasks.io.sockets import Sockets, wait_readable
from ztasks.wire import failures
from ztasks.wire.messages import (
    Batch,
    Bye,
    Failure,
    Ready,
    StartFailed,
    check_buffers,
    check_items,
    decode_control,
    decode_to_worker,
    encode,
)
from ztasks.wire.payload import Items, load


class Worker:
    """One worker process, from its start to its end."""

    def __init__(self, directory: str, lane: int) -> None:
        self._directory = directory
        self._number = lane
        self._has_run = False
        self._wanted = "run"
        """What control wants: run, drain or stop; `leave`: it has grown too large."""

    def run(self) -> None:
        """Run until told to leave."""
        self._stack_file = stacks.write_to(self._path(stacks.file_name(self._number)))
        if isinstance(sys.stdout, io.TextIOWrapper):  # what a job prints shall be seen when it prints it
            sys.stdout.reconfigure(line_buffering=True)
        os.environ["ZTASKS_WORKER"] = str(self._number)
        sockets = Sockets()
        self._connect(sockets)
        setup = Setup.read(self._path(setup_file.FILE))
        self._outbox.max_bytes = setup.max_bytes
        self._max_memory = setup.max_memory
        failure = self._set_up(setup)
        if failure is not None:
            self._outbox.send(encode(StartFailed(self._number, failure)))
        else:
            self._outbox.send(encode(Ready(self._number, os.getpid())))
            self._serve()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        self._outbox.send(encode(Bye(self._number)))
        self._outbox.close()
        sockets.close()
        self._cell.close()

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _connect(self, sockets: Sockets) -> None:
        self._cell = Cell(self._path(f"cell-{self._number}"))
        self._control = sockets.subscribe_to(self._path("control"))
        self._lane = sockets.pull_from(self._path(f"lane-{self._number}"))
        sink = sockets.push_to(self._path("sink"))
        self._outbox = Outbox(self._number, sink, self._cell)
        self._runner = Runner(self._cell, self._outbox, self._may_claim, stack_file=self._stack_file)

    def _set_up(self, setup: Setup) -> Failure | None:
        """Take on the parent's surroundings, import what shall be there, run the initializer."""
        sys.path[:] = map(os.fsdecode, setup.sys_path)
        sys.argv[:] = map(os.fsdecode, setup.argv)
        try:
            what = f"changing to the directory {setup.cwd!r}"
            if setup.cwd is not None:
                with contextlib.suppress(FileNotFoundError):  # deleted since: what needs it will say so
                    os.chdir(setup.cwd)
            for name in setup.preload:
                what = f"preload={name!r}"
                importlib.import_module(name)
            what = "the initializer"
            if setup.initializer:
                function, args = load(setup.initializer, setup.buffers)
                function(*args)
        except BaseException as error:  # noqa: BLE001 - these run any code
            return failures.start_failed(what, error)
        return None

    def _serve(self) -> None:
        """Receive and run until told to leave."""
        lane, control = self._lane, self._control
        while self._wanted == "run":
            waiting = perf_counter()
            if not lane.readable():
                ready = wait_readable(lane, control)
                if control in ready:
                    self._read_control()
                if lane not in ready:
                    continue
            idle = perf_counter() - waiting
            # A message that does not follow the protocol ends the worker: its successor gets what it held.
            message = decode_to_worker(lane.receive_header())
            if not isinstance(message, Batch):
                return
            items = self._receive_items(message)
            self._runner.run(message, items, idle)
            self._look_at_memory()
            if self._wanted == "leave":
                return
            del message, items  # else the last arguments would stay in memory while it waits

    def _receive_items(self, batch: Batch) -> Items:
        """Receive the frames that a batch's header announces; raises WireError."""
        check_buffers(batch)
        small = int(batch.ships) + (batch.payload is None)
        frames = self._lane.receive_frames(small, sum(batch.buffers or ()))
        fields = self._cell.fields
        if batch.cut == fields[CUT]:
            if batch.position > fields[RECEIVED]:
                fields[CURSOR] = fields[RECEIVED]  # as where nothing comes behind it, what is missing is charged
                raise WireError(
                    f"batches on the lane are lost: item {fields[RECEIVED]} is due, and item {batch.position} has come"
                )
            fields[RECEIVED] = batch.position + batch.count
        self._runner.forget(batch.forget)
        if batch.ships:
            self._runner.keep_callable(batch.key, frames.pop(0))
        data = frames.pop(0) if batch.payload is None else batch.payload
        check_items(batch, len(data))
        return Items(batch.form, batch.count, data, batch.sizes, batch.buffers, frames, batch.skip)

    def _may_claim(self) -> bool:
        """Read control; tell whether another item may be begun."""
        if self._control.readable():
            self._read_control()
        if self._has_run:  # each worker runs something, or there would be no end of replacing them
            self._look_at_memory()
        self._has_run = True
        return self._wanted not in ("stop", "leave")

    def _look_at_memory(self) -> None:
        """Leave if this process has grown too large: what it was given and has not begun goes to its successor."""
        if self._max_memory is not None and resident(os.getpid()) > self._max_memory:
            self._wanted = "leave"

    def _read_control(self) -> None:
        while self._control.readable():
            with contextlib.suppress(WireError):
                self._wanted = decode_control(self._control.receive_header()).wanted
