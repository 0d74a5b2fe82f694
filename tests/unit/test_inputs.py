"""Inputs: patterns, several sources one after the other, their limit, and how they are bound to a task."""

import os
from pathlib import Path
from typing import Any

import pytest

from ztasks.runs.binding import Binder
from ztasks.runs.files import JsonLines, Lines
from ztasks.runs.inputs import BadInput, Call, Cases, Entry, Glob, Inputs, Source, Total, Unreadable, Values, as_call


def read(source: Source | Inputs) -> list[Entry]:
    try:
        return list(source)
    finally:
        source.close()


def texts(source: Source | Inputs) -> list[str]:
    return [entry.input for entry in read(source)]


# --- values and patterns ---


def test_each_value_is_one_argument() -> None:
    assert read(Values(["a", "-1"])) == [Call(("a",), {}, "a"), Call(("-1",), {}, "-1")]
    assert Values(["a", "b"]).total() == Total(2, exact=True)


def test_after_stop_no_more_values_come() -> None:
    source = Values(["a", "b"])
    entries = iter(source)
    next(entries)
    source.stop()
    assert list(entries) == []


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.py", "a.py", "sub/c.py", "sub/deep/d.py", "sub/e.txt", ".hidden.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.py", ["a.py", "b.py"]),
        ("**/*.py", ["a.py", "b.py", "sub/c.py", "sub/deep/d.py"]),
        ("sub/**", ["sub/c.py", "sub/deep/d.py", "sub/e.txt"]),
        ("*/", ["folder.py/", "sub/"]),
        (".*.py", [".hidden.py"]),
    ],
)
def test_a_pattern_gives_sorted_files(tree: Path, pattern: str, paths: list[str]) -> None:
    source = Glob(pattern)
    assert texts(source) == paths
    assert source.total() == Total(len(paths), exact=True)
    assert source.name == pattern


def test_a_pattern_without_a_match_is_refused_with_the_cure(tree: Path) -> None:
    with pytest.raises(BadInput, match=r"no file matches '\*\.pyx'.*quote it"):
        Glob("*.pyx")


def test_a_file_name_that_is_no_utf8_reaches_the_task(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    open(name, "wb").close()
    [path] = texts(Glob(f"{tmp_path}/*.txt"))
    assert os.fsencode(path) == name


# --- calls ---


@pytest.mark.parametrize(
    ("value", "call"),
    [
        ({"a": 1}, Call((), {"a": 1}, {"a": 1}, 3)),
        ({}, Call((), {}, {}, 3)),
        ({1: "a"}, Call(({1: "a"},), {}, {1: "a"}, 3)),
        ((1, "x"), Call((1, "x"), {}, (1, "x"), 3)),
        ([1], Call((1,), {}, [1], 3)),
        ("ab", Call(("ab",), {}, "ab", 3)),
        (None, Call((None,), {}, None, 3)),
        ({1, 2}, Call(({1, 2},), {}, {1, 2}, 3)),
    ],
)
def test_what_a_value_is_as_a_call(value: Any, call: Call) -> None:
    assert as_call(value, 3, unpack=True) == call
    assert as_call(value, 3, unpack=False) == Call((value,), {}, value, 3)


# --- several ---


def test_sources_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"b\nc\n")
    source = Inputs([Values(["a"]), Lines(str(tmp_path / "lines"))])
    assert source.total() is None
    assert texts(source) == ["a", "b", "c"]
    assert source.total() == Total(3, exact=True)


def endless() -> Any:
    number = 0
    while True:
        yield number
        number += 1


@pytest.mark.parametrize(("limit", "expected"), [(0, []), (1, ["a"]), (2, ["a", "b"]), (3, ["a", "b", 0]), (9, None)])
def test_a_limit_ends_the_reading(limit: int, expected: list[Any] | None) -> None:
    source = Inputs([Values(["a", "b"]), Cases(endless())], limit=limit)
    assert texts(source) == (["a", "b", *range(7)] if expected is None else expected)


def test_with_a_limit_not_one_more_is_asked_for() -> None:
    asked = []

    def slow() -> Any:
        for number in range(10):
            asked.append(number)
            yield number

    assert texts(Inputs([Cases(slow()), Values(["never"])], limit=3)) == [0, 1, 2]
    assert asked == [0, 1, 2]


def test_the_limit_counts_what_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"1\nbroken\n3\n4\n")
    entries = read(Inputs([JsonLines(str(tmp_path / "lines"))], limit=3))
    assert [type(entry) for entry in entries] == [Call, Unreadable, Call]


@pytest.mark.parametrize(("limit", "number"), [(None, 5), (3, 3), (9, 5), (0, 0)])
def test_the_total_of_several(limit: int | None, number: int) -> None:
    assert Inputs([Values(["a", "b"]), Cases([1, 2, 3])], limit=limit).total() == Total(number, exact=True)
    assert Inputs([Values(["a"]), Cases(iter([1]))]).total() is None


def test_stop_reaches_all_sources() -> None:
    source = Inputs([Values(["a", "b"]), Cases(endless()), Values(["c"])])
    entries = iter(source)
    next(entries)
    source.stop()
    assert list(entries) == []


# --- bound to a task ---


def double(n: int, by: int = 2) -> int:
    return n * by


def test_text_becomes_what_the_task_wants_and_the_record_shows_the_text() -> None:
    assert read(Inputs([Values(["3", " 4"])], Binder(double))) == [Call((3,), {}, "3"), Call((4,), {}, " 4")]
    assert read(Inputs([Cases(["3", {"n": "3"}])], Binder(double))) == [
        Call(("3",), {}, "3"),
        Call((), {"n": "3"}, {"n": "3"}),
    ]


def test_constants_are_added_and_the_record_does_not_show_them() -> None:
    inputs = Inputs([Cases([{"n": 3}, {"n": 3, "by": 7}])], Binder(double, {"by": "5"}))
    assert read(inputs) == [Call((), {"by": 5, "n": 3}, {"n": 3}), Call((), {"by": 7, "n": 3}, {"n": 3, "by": 7})]


def test_what_does_not_become_it_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"1\nx\n3\n")
    path = str(tmp_path / "lines")
    first, bad, last = read(Inputs([Lines(path)], Binder(double)))
    assert (first, last) == (Call((1,), {}, "1", 1), Call((3,), {}, "3", 3))
    assert isinstance(bad, Unreadable)
    assert bad.input == "x"
    assert bad.message.startswith(f"line 2 of {path}: n='x' does not become int: ")
    [bad] = read(Inputs([Values(["y"])], Binder(double)))
    assert isinstance(bad, Unreadable)
    assert bad.message.startswith("n='y' does not become int: ")
