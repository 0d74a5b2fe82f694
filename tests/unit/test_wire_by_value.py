"""Classes by value: two sides in one process, each with the tables that a process of its own would have."""

from __future__ import annotations

import contextlib
import gc
import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import cloudpickle.cloudpickle as tracker
import pytest

from ztasks.wire import by_value


class Side:
    """A process, as far as classes by value are concerned: which it has made, received and remembered."""

    def __init__(self) -> None:
        self._tables = {
            (by_value, "_class_of"): weakref.WeakValueDictionary(),
            (by_value, "_key_of"): weakref.WeakKeyDictionary(),
            (by_value, "_received"): weakref.WeakSet(),
            (tracker, "_DYNAMIC_CLASS_TRACKER_BY_CLASS"): weakref.WeakKeyDictionary(),
            (tracker, "_DYNAMIC_CLASS_TRACKER_BY_ID"): weakref.WeakValueDictionary(),
        }

    @contextlib.contextmanager
    def _in(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for (module, name), table in self._tables.items():
                assert hasattr(module, name)
                patch.setattr(module, name, table)
            yield

    def dump(self, value: object, *, answering: bool = False) -> bytes:
        with self._in():
            return by_value.dumps(value, answering=answering)

    def load(self, data: bytes) -> Any:
        with self._in():
            return pickle.loads(data)


@pytest.fixture
def caller() -> Side:
    return Side()


@pytest.fixture
def worker() -> Side:
    return Side()


def of_main(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace


POINT = """
class Point:
    made = 0
    def __init__(self, x): self.x = x
    def twice(self): return type(self)(2 * self.x)
def double(point): return point.twice()
"""


def test_the_sides_are_apart(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    there = worker.load(caller.dump(main["Point"]))
    assert there is not main["Point"]
    assert there(3).twice().x == 6


def test_an_instance_comes_back_as_one_of_the_callers_class(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    there = worker.load(caller.dump(main["Point"](3)))
    back = caller.load(worker.dump(there.twice(), answering=True))
    assert type(back) is main["Point"]
    assert back.x == 6


def test_coming_back_resets_nothing_of_the_callers_class(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    there = worker.load(caller.dump(main["Point"](3)))
    main["Point"].made = 7  # the caller goes on meanwhile
    main["Point"].added = True
    caller.load(worker.dump(there, answering=True))
    assert main["Point"].made == 7
    assert main["Point"].added


def test_what_the_worker_changes_in_its_copy_stays_there(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    there = worker.load(caller.dump(main["Point"](3)))
    type(there).made = 99
    caller.load(worker.dump(there, answering=True))
    assert main["Point"].made == 0


def test_what_is_sent_twice_is_one_class_there_and_up_to_date(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    first = worker.load(caller.dump(main["Point"](1)))
    main["Point"].made = 5
    second = worker.load(caller.dump(main["Point"](2)))
    assert type(first) is type(second)
    assert type(first).made == 5


def test_a_function_and_its_arguments_share_their_class(caller: Side, worker: Side) -> None:
    main = of_main(POINT + "def is_point(p): return type(p) is Point")
    function = worker.load(caller.dump(main["is_point"]))
    assert function(worker.load(caller.dump(main["Point"](1))))


def test_an_answer_without_an_instance_names_the_class_itself(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    there = worker.load(caller.dump(main["Point"]))
    assert caller.load(worker.dump([there], answering=True)) == [main["Point"]]


def test_an_exception_class_comes_back_as_the_callers(caller: Side, worker: Side) -> None:
    main = of_main("class Odd(ValueError): pass")
    there = worker.load(caller.dump(main["Odd"]))
    back = caller.load(worker.dump(there("no"), answering=True))
    assert type(back) is main["Odd"]


def test_a_class_that_the_worker_made_comes_by_value(caller: Side, worker: Side) -> None:
    made = of_main(POINT)["Point"](4)
    back = caller.load(worker.dump(made, answering=True))
    assert type(back) is not type(made)
    assert back.twice().x == 8
    again = worker.load(caller.dump(back))
    assert type(again) is type(made), "it is sent home under the key it came with"


def test_base_classes_and_their_children_both_come_back(caller: Side, worker: Side) -> None:
    main = of_main("class Base: pass\nclass Child(Base): pass")
    there = worker.load(caller.dump(main["Child"]()))
    back = caller.load(worker.dump([there, type(there).__mro__[1]()], answering=True))
    assert [type(value) for value in back] == [main["Child"], main["Base"]]


KINDS = {
    "enum": """
import enum
class T(enum.Enum):
    A = 1
value = T.A
""",
    "dataclass": """
import dataclasses
@dataclasses.dataclass(frozen=True)
class T:
    x: int = 3
value = T(4)
""",
    "dataclass with slots": """
import dataclasses
@dataclasses.dataclass(slots=True)
class T:
    x: int = 3
value = T(4)
""",
    "slots": """
class T:
    __slots__ = ("x", "__y", "__weakref__")
value = T()
value.x = value._T__y = 1
""",
    "inherited slots": """
class R:
    __slots__ = ()
class S(R):
    __slots__ = ("x",)
class T(S):
    __slots__ = "y"
value = T()
value.x = value.y = 1
""",
    "named tuple": """
import typing
class T(typing.NamedTuple):
    x: int
value = T(3)
""",
    "metaclass": """
class Meta(type): pass
class T(metaclass=Meta): pass
value = T()
""",
    "abstract base": """
import abc
class S(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
class T(S):
    def f(self): pass
value = T()
""",
}


@pytest.mark.parametrize("source", KINDS.values(), ids=KINDS.keys())
def test_classes_of_all_kinds_make_the_round_trip(caller: Side, worker: Side, source: str) -> None:
    value = of_main(source)["value"]
    there = worker.load(caller.dump(value))
    assert type(there) is not type(value)
    back = caller.load(worker.dump(there, answering=True))
    assert type(back) is type(value)
    assert state_of(back) == state_of(value)


def state_of(value: object) -> dict[str, Any]:
    names = [name for name in dir(value) if name in ("x", "y", "_T__y", "name")]
    return {name: getattr(value, name) for name in names}


def test_importable_classes_go_by_reference(caller: Side, worker: Side) -> None:
    assert worker.load(caller.dump(Side)) is Side
    assert len(caller.dump(Side)) < 100


def test_a_class_that_the_caller_has_deleted_is_missed_with_the_reason(caller: Side, worker: Side) -> None:
    main = of_main(POINT)
    there = worker.load(caller.dump(main["Point"](1)))
    del main
    gc.collect()
    with pytest.raises(pickle.UnpicklingError, match="has been deleted since; keep a reference"):
        caller.load(worker.dump(there, answering=True))
