"""`@task`: a function that can be sent to a worker, with options; still a plain function when called."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from ztasks.core.options import DEFAULTS, Options
from ztasks.errors import InvalidOption, NoExecutor
from ztasks.units import shown

if TYPE_CHECKING:
    from ztasks.base_executor import BaseExecutor
    from ztasks.future import Future
    from ztasks.job import Job
    from ztasks.outcome import Outcome

P = ParamSpec("P")
R = TypeVar("R")

current_executor: ContextVar[BaseExecutor | None] = ContextVar("ztasks_executor", default=None)
"""The executor or client of the enclosing `with`."""

_default: BaseExecutor | None = None


def set_default(executor: BaseExecutor | None) -> None:
    """Make a client, or an executor, the one of all tasks that are given jobs outside of a `with`; None: there is none.

    It holds in all threads, and it is the caller's to close. Raises InvalidOption.
    """
    global _default
    try:
        usable = executor is None or (callable(executor.submit) and callable(executor.outcomes))
    except Exception:  # noqa: BLE001 - AttributeError, or whatever a broken object raises
        usable = False
    if not usable:
        raise InvalidOption(f"the default must be a ztasks.Client or a ztasks.Executor, not {shown(executor)}")
    _default = executor


class Task(Generic[P, R]):
    """A function with options. Immutable; `.options(...)` gives a copy with others.

    Pickled by reference when importing its module gives it back, else together with its function.
    """

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], options: Options = DEFAULTS) -> None:
        if not callable(function):
            raise InvalidOption(f"a task needs a callable, not {shown(function)}")
        if not isinstance(options, Options):
            raise InvalidOption(f"options must be ztasks.Options, not {shown(options)}")
        functools.update_wrapper(self, function, updated=())
        self.ztasks_function = function
        self.ztasks_options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, as if it were not decorated."""
        return self.ztasks_function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind like a function, so that methods can be tasks."""
        if instance is None:
            return self
        return Task(functools.partial(self.ztasks_function, instance), self.ztasks_options)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<task {self.ztasks_options.name or getattr(self, '__qualname__', self.ztasks_function)}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        home = self._home()
        if home is self:
            return self.__qualname__
        return _copy, (self.ztasks_function if home is None else home, self.ztasks_options)

    @property
    def ztasks_shipped(self) -> Any:
        """What is pickled for a worker: the task that can be imported there, else the function itself."""
        return self._home() or self.ztasks_function

    def _home(self) -> Task[P, R] | None:
        """Find the task of this function that can be imported: this one, or the one that it is a copy of."""
        module = getattr(self, "__module__", None)
        if module is None or module == "__main__":
            return None
        found: Any = sys.modules.get(module)
        for part in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, Task) and found.ztasks_function is self.ztasks_function else None

    def options(self, **changes: Any) -> Task[P, R]:
        """Return a copy with other options; see `ztasks.Options` for their names. Raises InvalidOption."""
        return Task(self.ztasks_function, self.ztasks_options.replaced(changes))

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a job to the executor or client of the enclosing `with`, or the default. Raises NoExecutor."""
        return self._executor().submit(self, *args, **kwargs)  # type: ignore[return-value]

    def send(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Send a job with the client of the enclosing `with`, or the default; see `Client.send`. Raises NoExecutor."""
        send: Callable[..., Job] | None = getattr(self._executor(), "send", None)
        if send is None:
            raise NoExecutor(
                f"{self!r} cannot be sent with an Executor: its jobs end with this program. Nothing was lost: use "
                "submit, or a ztasks.Client, whose head keeps what is sent."
            )
        return send(self, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], **how: Any) -> Iterator[R]:
        """Like `Executor.map`, with the executor of the enclosing `with`."""
        return self._executor().map(self, *iterables, **how)

    def map_unordered(self, *iterables: Iterable[Any], **how: Any) -> Iterator[R]:
        """Like `Executor.map_unordered`, with the executor of the enclosing `with`."""
        return self._executor().map_unordered(self, *iterables, **how)

    def outcomes(self, *iterables: Iterable[Any], **how: Any) -> Iterator[Outcome[R]]:
        """Like `Executor.outcomes`, with the executor of the enclosing `with`."""
        return self._executor().outcomes(self, *iterables, **how)

    def _executor(self) -> BaseExecutor:
        executor = current_executor.get()
        if executor is None:
            executor = _default
        if executor is None:
            raise NoExecutor(
                f"{self!r} was given a job outside a `with Executor() as executor:` block (a thread has a context of "
                "its own), and there is no default. Nothing was lost: use executor.submit(task, ...), put the call "
                "into such a block, or call ztasks.set_default(client) once."
            )
        return executor


def _copy(what: Any, options: Options) -> Task[Any, Any]:
    """Rebuild a task (runs while unpickling)."""
    return Task(what.ztasks_function if isinstance(what, Task) else what, options)


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@task` or `@task(retries=3, backoff="2s", ...)`. Raises InvalidOption.

    The names of the options are those of `ztasks.Options`.
    """
    checked = DEFAULTS.replaced(options)
    if function is not None:
        return Task(function, checked)
    return lambda function: Task(function, checked)


def options(function: Callable[P, R] | str, /, **changes: Any) -> Task[P, R]:
    """Return a task of any callable with these options (a task keeps its other ones). Raises InvalidOption.

    function: may also be the name of one, `"package.module.function"`: it is imported where it runs.
    """
    if isinstance(function, Task):
        return function.options(**changes)
    if isinstance(function, str):
        from ztasks.wire.by_name import ByName  # late: few programs need it

        return Task(ByName(function), DEFAULTS.replaced(changes))
    return Task(function, DEFAULTS.replaced(changes))


def options_of(fn: Any) -> Options:
    """Return a task's options; also of one behind a partial, or bound as a method."""
    if isinstance(fn, functools.partial):
        return options_of(fn.func)
    return fn.ztasks_options if isinstance(fn, Task) else DEFAULTS
