"""The child process in which `ztasks doctor` does what could crash, hang or print: imports, a worker, a target.

It is run by its path, with the doctor's `sys.path`, and tells the doctor what happens in lines of JSON on a pipe:

    {"stage": "importing zmq"}      what it is about to do; the doctor ends it if nothing more comes for too long
    {"found": "zmq", ...}           where a package lies
    {"module": "zmq", ...}          what became of importing it
    {"output": "..."}               what the worker wrote
    {"ended": "well", ...}          what became of the job: well, late, error, refused

The whole process group dies with the doctor: it holds on to the same lifeline as a worker.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType, ModuleType

    from ztasks.executor import Executor

STACK_SECONDS: Final = 1.0
"""How long a worker that hangs may take to write where it is."""


class Probe:
    """What the doctor has asked for, and the pipe on which it hears."""

    def __init__(self, order: dict[str, Any], events: int) -> None:
        self._order = order
        self._events = events
        self._outputs = 0

    def run(self) -> None:
        """Do what was asked for."""
        kind: str = self._order["kind"]
        {"packages": self._packages, "worker": self._worker, "target": self._target}[kind]()

    def _tell(self, **event: Any) -> None:
        os.write(self._events, json.dumps(event).encode() + b"\n")

    # --- packages ---

    def _packages(self) -> None:
        for name in self._order["names"]:
            self._tell(stage=f"importing {name}")
            self._tell(found=name, file=_where(name))  # first: the import may be the last that is heard of this process
            began = monotonic()
            try:
                module = __import__(name)
                about = _about(name, module)
            except BaseException as error:  # noqa: BLE001 - a broken package may do anything
                self._tell(module=name, error=f"{type(error).__name__}: {error}", file=_where(name))
            else:
                self._tell(module=name, seconds=monotonic() - began, **about)

    # --- a worker ---

    def _worker(self) -> None:
        self._tell(stage="starting a worker")
        began = monotonic()
        with self._executor() as executor:
            seen = self._result(executor, look_around)
            first, again = monotonic() - began, monotonic()
            if seen is not None and self._result(executor, look_around) is not None:
                round_trip = monotonic() - again
                self._tell(ended="well", first=first, round_trip=round_trip, seen=seen, sys_path=sys.path)

    @contextlib.contextmanager
    def _executor(self, initializer: Any = None, initargs: tuple[Any, ...] = ()) -> Iterator[Executor]:
        """Have an executor with one worker; nothing of it is left, however this process ends."""
        from ztasks.errors import WorkersCannotStart
        from ztasks.executor import Executor

        try:
            executor = Executor(1, initializer=initializer, initargs=initargs, output=self._pass_on)
        except WorkersCannotStart as error:
            self._tell(ended="error", type=type(error).__name__, message=str(error), traceback=None, missing=None)
            raise SystemExit from None
        try:
            yield executor
        except BaseException:
            executor.kill()
            raise
        self._tell(stage="closing the executor")
        executor.shutdown()

    # --- a target ---

    def _target(self) -> None:
        text = self._order["target"]
        self._tell(stage=f"loading {text}")
        found = self._load(text)
        if found is None:
            return
        module, function, (initializer, initargs) = found
        blob = b"" if function is None else _pickled(function)
        self._tell(stage="having a worker import it")
        with self._executor(initializer, initargs) as executor:
            seen = self._result(executor, find, module.__name__, blob)
            if seen is not None:
                self._tell(ended="well", seen=seen)

    def _load(self, text: str) -> tuple[ModuleType, Any, tuple[Callable[..., object] | None, tuple[Any, ...]]] | None:
        """Load it as `ztasks run` would; without a task, the module alone."""
        from ztasks.runs import target

        try:
            if ":" in text:
                loaded = target.load(text)
                module = sys.modules[getattr(loaded.function, "__module__", None) or loaded.name.partition(":")[0]]
                return module, loaded.function, loaded.in_workers or (None, ())
            if target._is_file(text):
                module, in_workers = target._load_file(text)
                return module, None, in_workers or (None, ())
            return target._load_module(text), None, (None, ())
        except target.BadTarget as error:
            cause = error.__cause__ or error.__context__
            missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
            self._tell(ended="refused", message=str(error), missing=missing)
            return None

    # --- jobs ---

    def _result(self, executor: Executor, function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any] | None:
        """Run a job; if it comes to nothing, tell why, kill the worker and return None."""
        from ztasks.errors import remote_traceback
        from ztasks.tasks import options

        future = executor.submit(options(function, crash_retries=0), *args)
        try:
            return future.result(timeout=self._order["seconds"])
        except BaseException as error:
            if isinstance(error, TimeoutError) and not future.done():
                self._ask_for_stacks()
                self._tell(ended="late")
            elif future.done():
                missing = error.name if isinstance(error, ModuleNotFoundError) else None
                kind, trace = type(error).__name__, remote_traceback(error)
                self._tell(ended="error", type=kind, message=str(error), traceback=trace, missing=missing)
            else:
                raise
        executor.kill()
        return None

    def _pass_on(self, lines: bytes) -> None:
        """Called in the head's thread with what the worker writes."""
        self._outputs += 1
        self._tell(output=lines.decode(errors="replace"))

    def _ask_for_stacks(self) -> None:
        """Have the worker write where it hangs: faulthandler does so at this signal, also before any import."""
        before, end = self._outputs, monotonic() + STACK_SECONDS
        for pid in children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        while self._outputs == before and monotonic() < end:
            sleep(0.01)


# --- what is told ---


def _about(name: str, module: ModuleType) -> dict[str, Any]:
    """Tell what a package says of itself; not by attributes that are made on demand, with a warning."""
    about = {"file": getattr(module, "__file__", None), "version": vars(module).get("__version__")}
    if name == "zmq":
        about |= {"libzmq": module.zmq_version(), "ipc": module.has("ipc")}
    return about


def _where(name: str) -> str | None:
    """Tell where a package is found, without importing it."""
    with contextlib.suppress(Exception):
        spec = importlib.util.find_spec(name)
        return spec.origin if spec is not None else None
    return None


def _pickled(function: Any) -> bytes:
    """Pickle a function as an executor would: by reference, or else by value."""
    try:
        return pickle.dumps(function)
    except Exception:  # noqa: BLE001 - pickle raises what it likes
        import cloudpickle

        return bytes(cloudpickle.dumps(function))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started; none where there is no /proc."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc/self") else ()):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                found.append(int(name))
    return found


# --- jobs: these run in a worker ---


def look_around() -> dict[str, Any]:
    """Tell where this worker is, and what it takes."""
    import ztasks

    status = ""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        status = file.read()
    return {
        "pid": os.getpid(),
        "executable": sys.executable,
        "version": sys.version.split()[0],
        "sys_path": sys.path,
        "ztasks": ztasks.__file__,
        "cwd": os.getcwd(),
        **_numbers(status),
    }


def _numbers(status: str) -> dict[str, int]:
    """Pick memory and threads out of /proc/self/status."""
    fields = {"VmHWM": "resident_kib", "VmPeak": "address_space_kib", "Threads": "threads"}
    pairs = (line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {fields[name]: int(value.split()[0]) for name, value in pairs if name in fields}


def find(module: str, pickled: bytes) -> dict[str, Any]:
    """Import a module, and unpickle a function of it; tell how long that took."""
    began = monotonic()
    found = importlib.import_module(module)
    if pickled:
        pickle.loads(pickled)
    return {"seconds": monotonic() - began, "file": getattr(found, "__file__", None)}


def main() -> None:
    """Take the doctor's `sys.path`, hold on to the lifeline, and do what was asked for."""
    events, lifeline, order = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    sys.path[:] = order["sys_path"]
    sys.argv[:] = order["argv"]
    signal.signal(signal.SIGTERM, _leave)
    from ztasks.cli.probe import Probe as Importable  # the worker must find the jobs, and __main__ is this file
    from ztasks.io.lifeline import hold

    hold(lifeline)
    Importable(order, events).run()


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
