"""Callables: pickled once while nothing they depend on has changed, and anew when something has."""

from __future__ import annotations

import functools
import gc
import math
import operator
import pickle
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from ztasks.errors import CallNotPicklable
from ztasks.wire import callables
from ztasks.wire.callables import CACHE_SIZE, describe, ship


def of_main(source: str) -> dict[str, Any]:
    """Run source as if it were the user's script: its functions are of `__main__` and go by value."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace


def loaded(function: Any) -> Any:
    return pickle.loads(ship(function).pickled)


@pytest.fixture(autouse=True)
def _empty_caches() -> Iterator[None]:
    caches: list[dict[Any, Any]] = [callables._by_fingerprint, callables._by_reference, callables._names_of_code]
    for cache in caches:
        cache.clear()
    yield
    for cache in caches:
        cache.clear()


def importable(x: int) -> int:
    return x + 1


class Importable:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, x: int) -> int:
        return self.factor * x

    @classmethod
    def made(cls, x: int) -> int:
        return x


# --- by reference ---


@pytest.mark.parametrize("function", [importable, len, math.sin, operator.add, dict, Importable, dict.fromkeys])
def test_what_can_be_imported_goes_by_reference_once(function: Any) -> None:
    first = ship(function)
    assert first.by_reference
    assert ship(function) is first
    assert loaded(function) == function
    assert len(first.pickled) < 100


@pytest.mark.parametrize(
    "function",
    [functools.partial(importable, 3), Importable(3).times, operator.itemgetter(1), {1: 2}.get, [3].count, "x".join],
)
def test_what_holds_values_is_pickled_anew(function: Any) -> None:
    first = ship(function)
    assert not first.by_reference
    assert ship(function) is not first
    assert ship(function) == first, "the same content has the same key"


def test_a_method_of_a_dict_shows_what_the_dict_holds_now() -> None:
    prices = {"tea": 2}
    assert loaded(prices.get)("tea") == 2
    prices["tea"] = 3
    assert loaded(prices.get)("tea") == 3


def test_an_attribute_of_the_same_name_is_another_function() -> None:
    def importable(x: int) -> int:
        return x - 1

    importable.__qualname__ = "importable"  # shadows the one that would be imported
    assert not ship(importable).by_reference
    assert loaded(importable)(1) == 0


# --- by value ---

FUNCTION = """
FACTOR = 2
def scale(x): return FACTOR * x
def scale_all(xs): return [scale(x) for x in xs]
def deep(xs): return scale_all(xs)
"""


@pytest.mark.parametrize("name", ["scale", "scale_all", "deep"])
def test_pickled_once_while_nothing_changes(name: str) -> None:
    function = of_main(FUNCTION)[name]
    first = ship(function)
    assert not first.by_reference
    assert ship(function) is first


@pytest.mark.parametrize(("name", "argument", "result"), [("scale", 1, 3), ("scale_all", [1], [3]), ("deep", [1], [3])])
def test_a_rebound_global_is_noticed_at_any_depth(name: str, argument: Any, result: Any) -> None:
    main = of_main(FUNCTION)
    before = ship(main[name])
    main["FACTOR"] = 3
    after = ship(main[name])
    assert after.key != before.key
    assert pickle.loads(after.pickled)(argument) == result
    main["FACTOR"] = 2
    assert ship(main[name]) is before


def test_a_rebound_function_is_noticed() -> None:
    main = of_main(FUNCTION)
    assert loaded(main["deep"])([1]) == [2]
    main["scale"] = lambda x: -x
    main["scale"].__module__ = "__main__"
    assert loaded(main["deep"])([1]) == [-1]


def test_a_global_that_comes_into_being_is_noticed() -> None:
    main = of_main("def late(): return LATER")
    ship(main["late"])
    main["LATER"] = 5
    assert loaded(main["late"])() == 5


def test_a_global_that_only_an_inner_function_names_is_noticed() -> None:
    main = of_main("N = 1\ndef outer(): return [(lambda: N)() for _ in range(1)]")
    assert loaded(main["outer"])() == [1]
    main["N"] = 2
    assert loaded(main["outer"])() == [2]


def closure() -> tuple[Any, Any]:
    value = 1

    def get() -> int:
        return value

    def put(new: int) -> None:
        nonlocal value
        value = new

    return get, put


def test_a_changed_closure_cell_is_noticed() -> None:
    get, put = closure()
    assert loaded(get)() == 1
    assert ship(get) is ship(get)
    put(2)
    assert loaded(get)() == 2


def test_a_cell_that_is_still_empty_is_no_obstacle() -> None:
    def empty() -> Any:
        return later

    first = ship(empty)
    assert ship(empty) is first
    later = 3
    assert ship(empty) is not first
    assert loaded(empty)() == 3


@pytest.mark.parametrize(
    ("attribute", "value", "result"),
    [
        ("__defaults__", (5,), (5, 2)),
        ("__kwdefaults__", {"b": 6}, (1, 6)),
        ("__code__", (lambda a=0, *, b=0: (b, a)).__code__, (2, 1)),
    ],
)
def test_what_a_function_is_made_of_can_be_replaced(attribute: str, value: object, result: object) -> None:
    function = of_main("def f(a=1, *, b=2): return a, b")["f"]
    assert loaded(function)() == (1, 2)
    setattr(function, attribute, value)
    assert loaded(function)() == result


def test_the_names_of_defaults_count_and_not_only_their_values() -> None:
    function = of_main("def f(*, a=0, b=0): return a, b")["f"]
    shared = 1000
    function.__kwdefaults__ = {"a": shared}
    assert loaded(function)(b=1) == (1000, 1)
    function.__kwdefaults__ = {"b": shared}
    assert loaded(function)(a=1) == (1, 1000)


def test_a_function_as_a_default_is_looked_into() -> None:
    main = of_main("N = 1\ndef inner(): return N\ndef outer(f=inner): return f()")
    assert loaded(main["outer"])() == 1
    main["N"] = 2
    assert loaded(main["outer"])() == 2


def test_attributes_of_a_function_count() -> None:
    function = of_main("def f(): return f.state")["f"]
    function.state = 1
    assert loaded(function)() == 1
    function.state = 2
    assert loaded(function)() == 2


def test_recursion_ends() -> None:
    main = of_main("""
def even(n): return True if n == 0 else odd(n - 1)
def odd(n): return False if n == 0 else even(n - 1)
def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
""")
    assert loaded(main["factorial"])(5) == 120
    assert loaded(main["even"])(10) is True
    assert ship(main["even"]) is ship(main["even"])


@pytest.mark.parametrize(
    "source",
    [
        "class Tool: step = 1\ndef f(): return Tool.step",
        "class Tool:\n  def __call__(self): return 1\ntool = Tool()\ndef f(): return tool()",
        "class Tool: step = 1\ndef g(): return Tool.step\ndef f(): return g()",
    ],
)
def test_what_names_a_class_of_main_is_pickled_anew(source: str) -> None:
    main = of_main(source)
    function = main["f"]
    assert ship(function) is not ship(function)
    assert callables._by_fingerprint == {}


def test_an_attribute_of_such_a_class_that_is_rebound_is_noticed() -> None:
    main = of_main("class Tool: step = 1\ndef f(): return Tool.step")
    before = ship(main["f"])
    main["Tool"].step = 2
    assert ship(main["f"]).key != before.key


def test_mutation_in_place_is_not_noticed() -> None:
    """As documented: identity is what counts."""
    main = of_main("table = [1]\ndef f(): return table[0]")
    before = ship(main["f"])
    main["table"][0] = 2
    assert ship(main["f"]) is before


def test_equal_code_with_other_globals_is_told_apart() -> None:
    first, second = of_main("N = 1\ndef f(): return N"), of_main("N = 2\ndef f(): return N")
    assert (loaded(first["f"])(), loaded(second["f"])()) == (1, 2)


def test_no_identity_is_reused() -> None:
    """What a fingerprint refers to is kept alive: else a new object at the same address would look unchanged."""
    main = of_main("def f(): return value")
    main["value"] = Importable(1)
    alive = weakref.ref(main["value"])
    ship(main["f"])
    del main["value"]
    gc.collect()
    assert alive() is not None


def test_a_task_is_shipped_as_its_function() -> None:
    class Task:
        ztasks_shipped = staticmethod(importable)

    assert ship(Task()) is ship(importable)


# --- bounds ---


def test_the_caches_are_bounded() -> None:
    main = of_main("N = 0\ndef f(): return N")
    for number in range(CACHE_SIZE + 10):
        main["N"] = -1000 - number
        ship(main["f"])
        ship(eval(f"lambda: {number}", {"__name__": "__main__"}))
    assert len(callables._by_fingerprint) == CACHE_SIZE
    assert len(callables._names_of_code) <= CACHE_SIZE
    oldest = ship(main["f"])
    main["N"] = -1000
    assert pickle.loads(ship(main["f"]).pickled)() == -1000
    assert oldest.pickled


def test_the_cache_of_references_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callables, "CACHE_SIZE", 3)
    for function in (len, abs, min, max, sum):
        ship(function)
    assert list(callables._by_reference) == [min, max, sum]


# --- errors and names ---


def test_what_cannot_be_pickled_is_refused_with_the_cure() -> None:
    lock = threading.Lock()

    def hold() -> object:
        return lock

    with pytest.raises(CallNotPicklable, match=r"the callable .*hold cannot be pickled, .*lock.* Nothing was sent"):
        ship(hold)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (importable, "importable"),
        (len, "len"),
        (Importable, "Importable"),
        (Importable(1).times, "Importable.times"),
        (functools.partial(importable, 1), "importable"),
        (functools.partial(functools.partial(len)), "len"),
        (operator.itemgetter(1), "itemgetter"),
        (lambda: None, "<lambda>"),
    ],
)
def test_names(function: Any, name: str) -> None:
    assert describe(function) == name
    assert ship(function).name == name
