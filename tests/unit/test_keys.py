"""Keys: the same for equal inputs in every run, different for all others."""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.runs.encoding import Encoder
from ztasks.runs.keys import Key, Keys, carried_by, parse_key


def keys_of(*inputs: Any, target: str = "m:f", constants: Mapping[str, Any] | None = None) -> list[str]:
    keys, encoder = Keys(target, constants), Encoder()
    try:
        return [str(keys.next(input_, encoder.encode(input_))) for input_ in inputs]
    finally:
        keys.close()


def key(input_: Any, target: str = "m:f", constants: Mapping[str, Any] | None = None) -> str:
    [found] = keys_of(input_, target=target, constants=constants)
    return found


def test_a_key_is_16_digits() -> None:
    assert len(key("x")) == 16
    assert int(key("x"), 16)


def test_keys_stay_the_same_in_later_versions() -> None:
    assert key("a.py", target="stats:measure") == "9a3eba37fb76e983"
    assert keys_of("a.py", "a.py", {"b": 1, "a": [2, None]}, 3, target="stats:measure", constants={"n": 3}) == [
        "749feb58ec4eeab5",
        "749feb58ec4eeab5-2",
        "22fe60b77cd3326a",
        "719e54e0c90e4c85",
    ]


def test_a_key_depends_on_target_constants_and_input() -> None:
    different = [
        key("x"),
        key("x", target="m:g"),
        key("y"),
        key(["x"]),
        key({"x": None}),
        key(""),
        key(None),
        key("x", constants={"a": 1}),
        key("x", constants={"a": "1"}),
        key("x", constants={"b": 1}),
        key("x", constants={"a": 1, "b": 1}),
        key(1),
        key("1"),
    ]
    assert len(set(different)) == len(different)
    assert key("x", constants={}) == key("x")
    assert key("x", constants={"a": 1, "b": 2}) == key("x", constants={"b": 2, "a": 1})


def test_equal_inputs_are_jobs_of_their_own() -> None:
    first, second, third = keys_of("x", "x", "x")
    assert (second, third) == (f"{first}-2", f"{first}-3")
    assert keys_of("y", "x", "z", "x")[1::2] == [first, second], "whatever stands between them"


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


class Nameless:
    """Has an address in its repr, and cannot be pickled."""

    def __reduce__(self) -> str:
        raise TypeError("never")


EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}),
    ({1, 2, 3}, {3, 2, 1}),
    ({"p": Path("x"), "b": 1}, {"b": 1, "p": Path("x")}),
    ({"\udcff": 1, "b": {"d": 1, "c": 2}}, {"b": {"c": 2, "d": 1}, "\udcff": 1}),
    ((1, 2), [1, 2]),
    (Path("x"), Path("x")),
    (Plain(1), Plain(1)),
    (Nameless(), Nameless()),
    ([Nameless()], [Nameless()]),
    (lambda: 1, lambda: 1),
]
DIFFERENT: list[tuple[Any, Any]] = [
    ([1, 2], [2, 1]),
    ({"a": 1}, {"a": 2}),
    ({"p": Path("x")}, {"p": Path("y")}),
    (Plain(1), Plain(2)),
    ([1, Plain([1])], [1, Plain([2])]),
    (1, True),
    ("a", "a "),
    ("\udcff", "\udcfe"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_inputs_have_one_key(one: Any, other: Any) -> None:
    first, second = keys_of(one, other)
    assert second == f"{first}-2"


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_inputs_have_different_keys(one: Any, other: Any) -> None:
    first, second = keys_of(one, other)
    assert second[:16] != first


SCRIPT = """
from pathlib import Path
from ztasks.runs.encoding import Encoder
from ztasks.runs.keys import Keys

class Plain:
    def __init__(self, value):
        self.value = value

names = {"one", "two", "three", "four", "five"}
keys = Keys("m:f", {"names": names, "p": Path("x")})
for input_ in (names, frozenset(names), {"p": Path("x"), "names": names}, {"\\udcff": names}, Plain([Plain("x")]), len,
               lambda: 1):
    print(keys.next(input_, Encoder().encode(input_)))
"""


def test_neither_order_of_sets_nor_addresses_matter_from_run_to_run() -> None:
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert len(set(found.pop().split())) == 7


# --- as text and as a number ---


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_a_key_is_read_as_it_is_written(digest: int, occurrence: int) -> None:
    found = Key(digest, occurrence)
    assert parse_key(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "9a3eba37fb76e98",
        "9a3eba37fb76e9833",
        "9A3EBA37FB76E983",
        "9a3eba37fb76e983-",
        "9a3eba37fb76e983-0",
        "9a3eba37fb76e983-02",
        "9a3eba37fb76e983--2",
        "9a3eba37fb76e983-2\n",
        " 9a3eba37fb76e983",
        "9a3eba37fb76e983-99999999999",
    ],
)
def test_what_is_no_key(text: str) -> None:
    assert parse_key(text) is None


def test_occurrences_have_numbers_of_their_own() -> None:
    keys = [Key(digest, occurrence) for digest in (0, 1, 2**64 - 1) for occurrence in range(100)]
    assert len({each.number for each in keys}) == len(keys)
    assert all(0 <= each.number < 2**64 for each in keys)


# --- what else tells tasks apart ---


def make(factor: int, *, empty: bool = False) -> Any:
    def scaled(n: int) -> int:
        return n * factor

    if empty:
        del factor
    return scaled


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def times(self, n: int) -> int:
        return n * self.factor

    def __call__(self, n: int) -> int:
        return n * self.factor


@pytest.mark.parametrize(
    "tasks",
    [
        lambda: [make(2), make(3), make(3, empty=True)],
        lambda: [partial(divmod, 2), partial(divmod, 3), partial(make(2), 2), partial(make(3), 2)],
        lambda: [Scale(2).times, Scale(3).times],
        lambda: [Scale(2), Scale(3)],
        lambda: [lambda n: n + 1, lambda n: n + 2, lambda n: n - 1, lambda n: n.a, lambda n: n.b],
    ],
)
def test_tasks_of_one_name_are_told_apart_by_what_they_carry(tasks: Any) -> None:
    carried = [carried_by(task) for task in tasks()]
    assert len(set(carried)) == len(carried)
    assert carried == [carried_by(task) for task in tasks()], "in each run the same"
    found = {str(Keys("m:f", None, each).next("x", b'"x"')) for each in carried}
    assert len(found) == len(carried)


def test_a_function_that_a_module_defines_carries_nothing() -> None:
    assert [carried_by(function) for function in (make, len, Scale, Path.exists)] == [b"", b"", b"", b""]
    assert str(Keys("m:f", None, b"").next("x", b'"x"')) == key("x")
