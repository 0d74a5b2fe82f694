"""How findings are laid out: one line where all is well, why and cure where not; nothing that a terminal would obey."""

import json

import pytest

from ztasks.cli.findings import (
    OK,
    PROBLEM,
    WARNING,
    Finding,
    as_json,
    closing_line,
    duration,
    layout,
    size,
)

GOOD = Finding("python", OK, "CPython 3.11", "it matters")
BAD = Finding("worker", PROBLEM, "none came up", "it matters", "mend it\nthen again", "line 1\n  line 2\n", {"n": 1})
WARN = Finding("cpus", WARNING, "few", "it matters", "more")


def lines(finding: Finding, width: int | None = None, verbose: bool = False) -> list[str]:
    return [(heading + text).rstrip() for heading, text in layout(finding, width, verbose=verbose)]


def test_what_is_well_has_one_line() -> None:
    assert lines(GOOD) == ["ok       python         CPython 3.11"]
    assert lines(GOOD, verbose=True) == [
        "ok       python         CPython 3.11",
        "         why            it matters",
    ]


def test_what_is_not_well_says_why_and_what_to_do() -> None:
    assert lines(BAD) == [
        "problem  worker         none came up",
        "         why            it matters",
        "         cure           mend it",
        "                        then again",
        "         it wrote       | line 1",
        "                        |   line 2",
    ]


def test_lines_are_wrapped_on_a_terminal_but_commands_stay_whole() -> None:
    long = Finding("python", OK, "some words and /a/path/that-is/longer/than-the/room/that/is/left")
    assert lines(long, width=50) == [
        "ok       python         some words and",
        "                        /a/path/that-is/longer/than-the/room/that/is/left",
    ]
    assert len(lines(long, width=3)) > 1


def test_nothing_that_a_terminal_would_obey_is_shown() -> None:
    nasty = Finding("target", PROBLEM, "a\x1b[2Jb\rc\ud800", output="\x1b]0;title\x07\tend")
    text = "\n".join(lines(nasty))
    assert "a\\x1b[2Jb" in text
    assert "\\ud800" in text
    assert not any(ord(each) < 32 and each != "\n" for each in text)


def test_only_the_last_lines_of_long_output_are_shown() -> None:
    long = Finding("worker", PROBLEM, "", output="\n".join(map(str, range(100))))
    shown = [line.split("| ")[1] for line in lines(long) if "| " in line]
    assert shown[0] == "(70 lines before)"
    assert shown[1:] == [str(number) for number in range(70, 100)]


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ([GOOD], "All is well."),
        ([GOOD, WARN], "No problem, 1 warning: jobs will run."),
        ([BAD], "1 problem."),
        ([BAD, BAD, WARN, GOOD], "2 problems, 1 warning."),
    ],
)
def test_the_closing_line(found: list[Finding], line: str) -> None:
    assert closing_line(found) == line


def test_json_has_all() -> None:
    document = json.loads(as_json([GOOD, WARN, BAD], ztasks="1.0"))
    assert {name: document[name] for name in ("ztasks", "ok", "problems", "warnings")} == {
        "ztasks": "1.0",
        "ok": False,
        "problems": 1,
        "warnings": 1,
    }
    assert document["checks"][2] == {
        "check": "worker",
        "status": "problem",
        "found": "none came up",
        "why": "it matters",
        "cure": "mend it\nthen again",
        "output": "line 1\n  line 2\n",
        "details": {"n": 1},
    }


def test_json_bears_what_is_no_json() -> None:
    odd = Finding("x", OK, "caf\udce9", details={"path": {1, 2}})
    [check] = json.loads(as_json([odd]))["checks"]
    assert check["found"] == "caf\udce9"


def test_sizes_and_durations_are_for_reading() -> None:
    numbers = (0, 1023, 1024, 10 * 1024, 5 * 2**20, 3.5 * 2**30, 2**50)
    assert [size(number) for number in numbers] == [
        *("0 bytes", "1023 bytes", "1.0 KiB", "10 KiB", "5.0 MiB", "3.5 GiB", "1,024.0 TiB"),
    ]
    assert [duration(seconds) for seconds in (0.0004, 0.035, 1.25, 70)] == ["0.4 ms", "35 ms", "1.2 s", "70.0 s"]
