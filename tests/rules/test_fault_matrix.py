"""Each row of the fault matrix has tests of its number; `docs/faults.md` says where."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
TEXT = (ROOT / "docs" / "faults.md").read_text()

FAULTS = {
    1: "a worker is killed",
    2: "signal",
    3: "os._exit",
    4: "memory runs out",
    5: "hangs",
    6: "starts processes",
    7: "forks",
    8: "result cannot be pickled",
    9: "does not unpickle",
    10: "exception does not survive",
    11: "chains, groups",
    12: "argument cannot be pickled",
    13: "module is missing",
    14: "huge",
    15: "input of a map",
    16: "Ctrl-C",
    17: "user's process is killed",
    18: "closing",
    19: "forked child",
    20: "descriptors",
    21: "cannot start",
    22: "stopped and continued",
    23: "clock jumps",
    24: "200 executors",
    25: "garbage",
    26: "wrong",
    27: "cut and healed",
    28: "partition",
    29: "half-open",
    30: "foreman is killed",
    31: "head is killed",
    32: "journal is torn",
    33: "two foremen with one name",
    34: "reordered",
    35: "slow, or stopped",
}
"""The rows of the matrix, with words of their faults; from 25 on they concern further hosts."""

ROW = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


@cache
def by_row() -> dict[int, dict[str, list[str]]]:
    """The names of tests for each row, by their files."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"test_row_((?:\d\d_)+)", node.name)):
                for number in match[1].split("_")[:-1]:
                    found[int(number)][str(path.relative_to(TESTS))].append(node.name)
    return found


def documented() -> dict[int, tuple[str, list[str]]]:
    """The fault and the files of each row in the documentation."""
    return {int(number): (fault, re.findall(r"`([^`]+\.py)`", files)) for number, fault, _, files in ROW.findall(TEXT)}


def test_every_row_is_documented() -> None:
    assert documented().keys() == FAULTS.keys()


@pytest.mark.parametrize("row", FAULTS)
def test_a_row_has_tests_of_its_name_where_the_documentation_says(row: int) -> None:
    fault, files = documented()[row]
    assert FAULTS[row] in fault
    assert files
    tests = by_row()[row]
    assert {file for file in files if not tests.get(file)} == set(), f"these have no test_row_{row:02}_..."


def test_no_test_is_named_after_a_row_that_does_not_exist() -> None:
    assert by_row().keys() <= FAULTS.keys()


def test_the_page_names_files_that_exist() -> None:
    named = re.findall(r"`((?:faults|hosts|unit)/[\w/]+\.py)`", TEXT)
    assert [file for file in named if not (TESTS / file).is_file()] == []


def test_semantics_leads_there() -> None:
    assert "](faults.md)" in (ROOT / "docs" / "semantics.md").read_text()
