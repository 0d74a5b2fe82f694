"""Counts of very many numbers: they are those of a dictionary, also when tables grow and when they lie in files."""

import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ztasks.runs import counts
from ztasks.runs.counts import FIRST_SLOTS, TABLES, Counts

MOST = 2**64 - 1
NUMBERS = st.integers(0, MOST) | st.integers(0, 300) | st.integers(MOST - 70, MOST)


@pytest.fixture
def counted() -> Iterator[Counts]:
    found = Counts()
    yield found
    found.close()


@given(st.lists(NUMBERS | NUMBERS.map(lambda number: number << 6 & MOST), max_size=400))
@example([0, 0, 63, MOST, MOST, 0])
@example([number << 6 for number in range(200)] * 2)
@example([number << 20 for number in range(200)] * 2)
def test_they_count_as_a_dictionary_does(numbers: list[int]) -> None:
    found, expected = Counts(), Counter[int]()
    for number in numbers:
        assert found.add(number) == expected[number]
        expected[number] += 1
        assert found.get(number) == expected[number]
    assert {number: found.get(number) for number in expected} == expected
    assert found.get(12345678901) == expected[12345678901]
    found.close()


STEPS = st.lists(st.tuples(st.sampled_from(["add", "set", "get"]), NUMBERS, st.integers(0, 2**32 - 2)), max_size=300)


@given(STEPS)
def test_what_is_set_is_counted_on(steps: list[tuple[str, int, int]]) -> None:
    found, expected = Counts(), Counter[int]()
    for what, number, count in steps:
        if what == "add":
            assert found.add(number) == expected[number]
            expected[number] += 1
        elif what == "set":
            found.set(number, count)
            expected[number] = count
        assert found.get(number) == expected[number]
    found.close()


def spread(number: int) -> int:
    """Numbers that are spread as digests are."""
    return number * 0x9E3779B97F4A7C15 & MOST


def test_tables_grow_with_what_is_in_them(counted: Counts) -> None:
    number = TABLES * FIRST_SLOTS * 8
    for each in range(number):
        assert counted.add(spread(each)) == 0
    assert all(counted.add(spread(each)) == 1 for each in range(number))
    assert all(counted.get(spread(each)) == 0 for each in range(number, number + 1000))
    slots = sum(len(table.numbers) for table in counted._tables)
    assert 1.4 * number < slots < 4 * number
    assert counted._bytes == 12 * slots


def test_one_table_that_gets_all_of_them_grows(counted: Counts) -> None:
    for each in range(5000):
        counted.set(each << 6, each)
    assert [counted.get(each << 6) for each in range(5000)] == list(range(5000))


def test_a_count_does_not_run_over(counted: Counts) -> None:
    counted.set(5, 2**32 - 2)
    assert [counted.add(5) for _ in range(3)] == [2**32 - 2, 2**32 - 1, 2**32 - 1]


def mapped_from(folder: Path) -> list[str]:
    """What files of a directory are memory of this process."""
    with open("/proc/self/maps") as file:
        return [line for line in file if f"{folder}/" in line]


def test_what_exceeds_its_memory_lies_in_files_that_go_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(counts, "IN_MEMORY", 200_000)
    before = len(os.listdir("/proc/self/fd"))
    found = Counts()
    for each in range(30_000):
        found.add(spread(each))
    mapped = mapped_from(tmp_path)
    assert mapped
    assert all("(deleted)" in line for line in mapped)
    assert all(found.get(spread(each)) == 1 for each in range(30_000))
    assert os.listdir(tmp_path) == []
    found.close()
    assert mapped_from(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_room_for_files_memory_must_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(file: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(counts, "IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    found = Counts()
    assert mapped_from(tmp_path) == []
    assert [found.add(7), found.add(7), found.get(7)] == [0, 1, 2]
    found.close()


def test_closing_releases_the_memory() -> None:
    found = Counts()
    memory: list[mmap.mmap] = [table._memory for table in found._tables]
    found.close()
    assert all(each.closed for each in memory)
    found.close()
