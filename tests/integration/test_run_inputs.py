"""What `ztasks run` runs its task on: every kind of input, what text becomes, and inputs that are not what they should.

The real command in a process of its own; one run checks several things.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_support import peak_memory, records, results, ztasks
from support import DEADLINE, environment, running, wait_for, wait_gone, workers

TASKS = """
import dataclasses, enum, os, time
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Point:
    x: int
    y: int = 0

def echo(x):
    '''Give it back.

    More is said here.'''
    return x

def call(*args, **kwargs):
    return [args, kwargs]

def typed(n: int, on: bool = False, day: date = None, path: Path = Path("."), ratio: float = 1.0):
    return [repr(value) for value in (n, on, day, str(path), type(path) is type(Path()), ratio)]

def rich(x: Colour | int, when: datetime | None = None, price: Decimal = Decimal(1), at: Point = None):
    return [repr(value) for value in (x, when, price, at)]

def later(n: "int", broken: "NoSuchType" = None):
    return repr(n)

def many(*numbers: int, **others: float):
    return [repr(numbers), repr(others)]

def _hidden(x):
    return x

def cases():
    yield {"x": 1}
    yield (2,)
    yield 3
    yield "four"
    yield {5: "five"}
    yield None

LIST = [1, (2,), [3]]
MAPPING = {"a": 1, "b": 2}
NUMBER = 5
TEXT = "abc"

def with_argument(n):
    return [n]

def returns_none():
    return None

def raises():
    raise LookupError("no cases today")

def exits():
    raise SystemExit("go away")

def exits_late():
    yield 1
    yield 2
    raise SystemExit("go away")

def half():
    yield 1
    yield 2
    raise LookupError("half way")

def endless():
    number = 0
    while True:
        number += 1
        yield f"{number:0>2000}"

def blocks():
    yield 1
    Path("blocked").touch()
    time.sleep(3600)

def odd_values():
    yield float("nan")
    yield {1, 2}
    yield object
    yield "\\udcff"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def messages(found: list[dict[str, Any]]) -> list[str | None]:
    """The message of each record that was no call; None for those that were."""
    assert all(record["ok"] or record["error"]["type"] == "InvalidInput" for record in found)
    return [record["error"] and record["error"]["message"] for record in found]


def calls(*arguments: str, **how: Any) -> list[str]:
    """The calls that a dry run shows."""
    done = ztasks(*arguments, "--dry-run", **how)
    assert (done.code, done.err) == (0, "")
    return done.out.splitlines()


# --- tables ---


def test_rows_of_a_table(folder: Path) -> None:
    (folder / "t.csv").write_bytes(
        b'\xef\xbb\xbfn,on,day\r\n1,yes,2024-01-02\r\n"2",off,2024-02-03\r\n\r\n3,1,2024-03-04'
    )
    (folder / "t.tsv").write_text('n\tpath\n4\t"a\tb"\n')
    (folder / "quoted.csv").write_text('n,path\n5,"two\nlines, ""quoted"""\n6,\n')
    done = ztasks("tasks.py:typed", "--csv", "t.csv", "--csv", "t.tsv", "--csv", "quoted.csv", "-k")
    assert results(done) == [
        ["1", "True", "datetime.date(2024, 1, 2)", "'.'", "True", "1.0"],
        ["2", "False", "datetime.date(2024, 2, 3)", "'.'", "True", "1.0"],
        ["3", "True", "datetime.date(2024, 3, 4)", "'.'", "True", "1.0"],
        ["4", "False", "None", "'a\\tb'", "True", "1.0"],
        ["5", "False", "None", "'two\\nlines, \"quoted\"'", "True", "1.0"],
        ["6", "False", "None", "'.'", "True", "1.0"],
    ]
    assert [record["input"] for record in records(done.out)][1:4] == [
        {"n": "2", "on": "off", "day": "2024-02-03"},
        {"n": "3", "on": "1", "day": "2024-03-04"},
        {"n": "4", "path": "a\tb"},
    ]


def test_rows_that_are_none_are_failed_records_with_their_line(folder: Path) -> None:
    lines = [
        b"n,on",
        b"1,yes",
        b"2",
        b"3,no,more",
        b"four,no",
        b"5,perhaps",
        b'"six',
        b'",no',
        b"\xff,no",
        b"8,no",
        b'"9',
    ]
    (folder / "t.csv").write_bytes(b"\n".join(lines))
    done = ztasks("tasks.py:typed", "--csv", "t.csv", "-k")
    found = records(done.out)
    said = messages(found)
    assert done.code == 1
    assert [found[0]["result"][0], found[7]["result"][0]] == ["1", "8"]
    assert said[:3] == [
        None,
        "line 3 of t.csv has 1 values, and its first row names 2 columns",
        "line 4 of t.csv has 3 values, and its first row names 2 columns",
    ]
    for place, text in (
        *(
            (3, "line 5 of t.csv: n='four' does not become int"),
            (4, "line 6 of t.csv: on='perhaps' does not become bool"),
        ),
        *((5, "line 7 of t.csv: n='six\\n' does not become int"), (6, "line 9 of t.csv is not UTF-8")),
        (8, "line 11 of t.csv is no row of a table"),
    ):
        assert text in str(said[place])
    assert len(found) == 9
    assert [record["attempts"] for record in found] == [1, 0, 0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"a,b,a\n1,2,3\n", "names a more than once"),
        (b"\xff,b\n1,2\n", "is not UTF-8"),
    ],
)
def test_a_table_whose_first_row_names_no_columns(folder: Path, table: bytes, said: str) -> None:
    (folder / "t.csv").write_bytes(table)
    for more in ([], ["--dry-run"]):
        done = ztasks("tasks.py:call", "--csv", "t.csv", *more)
        assert (done.code, done.out) == (3, "")
        assert f"the first row of t.csv, which names its columns, {said}" in done.err
        assert "Traceback" not in done.err


def test_blank_lines_before_a_table_and_columns_with_any_name(folder: Path) -> None:
    (folder / "t.csv").write_text("\n\nfirst name,class,\n1,2,3\n")
    assert results(ztasks("tasks.py:call", "--csv", "t.csv")) == [[[], {"first name": "1", "class": "2", "": "3"}]]


def test_empty_inputs_of_every_kind_are_no_failure(folder: Path) -> None:
    for name, data in {"empty": b"", "head.csv": b"a,b\n", "blank.jsonl": b"\n \n\n", "bom": b"\xef\xbb\xbf"}.items():
        (folder / name).write_bytes(data)
    (folder / "none.py").write_text("NOTHING = []\ndef none():\n    yield from ()\n")
    done = ztasks(
        *("tasks.py:echo", "--lines", "empty", "--jsonl", "empty", "--jsonl", "blank.jsonl", "--csv", "empty"),
        *("--csv", "head.csv", "--from", "none.py:NOTHING", "--from", "none.py:none", "--lines", "-"),
    )
    assert (done.code, done.out) == (0, "")
    assert "0 jobs: no input" in done.err


# --- Python ---


def test_cases_from_python() -> None:
    done = ztasks(
        *("tasks.py:call", "-k", "--from", "tasks.py:cases", "--from", "tasks.py:LIST", "--from", "tasks:MAPPING"),
    )
    assert results(done) == [
        *([[], {"x": 1}], [[2], {}], [[3], {}], [["four"], {}], [[{"5": "five"}], {}], [[None], {}]),
        *([[1], {}], [[2], {}], [[3], {}]),
        *([["a"], {}], [["b"], {}]),
    ]
    assert calls("tasks.py:echo", "--from", "tasks.py:cases", "--no-unpack") == [
        *("echo({'x': 1})", "echo((2,))", "echo(3)", "echo('four')", "echo({5: 'five'})", "echo(None)")
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NUMBER", "--from tasks.py:NUMBER must be an iterable of inputs, not 5"),
        ("TEXT", "--from tasks.py:TEXT must be an iterable of inputs, not 'abc'"),
        ("returns_none", "--from tasks.py:returns_none must be an iterable of inputs, not None"),
        ("raises", "--from tasks.py:raises raised LookupError: no cases today. Nothing was run."),
        ("with_argument", "--from tasks.py:with_argument raised TypeError: with_argument() missing 1 required"),
        ("exits", "--from tasks.py:exits raised SystemExit: go away"),
        ("case", "tasks.py has no 'case'. Did you mean cases"),
    ],
)
def test_cases_that_are_none_are_wrong_usage(name: str, said: str) -> None:
    done = ztasks("tasks.py:echo", "a", "--from", f"tasks.py:{name}")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("name", "said"), [("half", "LookupError: half way"), ("exits_late", "SystemExit: go away")])
def test_cases_that_break_off_stop_the_run_and_keep_what_was_done(name: str, said: str) -> None:
    done = ztasks("tasks.py:echo", "--from", f"tasks.py:{name}", "-k")
    assert done.code == 3
    assert [record["result"] for record in records(done.out)] == [1, 2]
    assert f"--from tasks.py:{name} stopped after 2 inputs: {said}" in done.err
    assert "    raise " in done.err, "the user's own traceback"
    done = ztasks("tasks.py:echo", "--from", f"tasks.py:{name}", "--dry-run")
    assert (done.code, done.out) == (3, "echo(1)\necho(2)\n")
    assert f"--from tasks.py:{name} stopped after 2 inputs: {said}" in done.err
    assert "inputs.py" not in done.err, "none of our frames"


def test_a_dry_run_of_what_has_no_end_ends_with_its_reader() -> None:
    command = f"{sys.executable} -m ztasks run tasks.py:echo --from tasks.py:endless --dry-run | head -n 1; echo $?"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30)
    first, code = done.stdout.splitlines()
    assert first.startswith("echo('000")
    assert (code, done.stderr) == ("0", "")


def test_cases_that_json_does_not_have() -> None:
    done = ztasks("tasks.py:echo", "--from", "tasks.py:odd_values", "-k", "--pickle", "saved")
    first, second, third, fourth = records(done.out)
    assert done.code == 0
    assert (first["input"], second["input"], fourth["input"]) == (None, [1, 2], "\udcff")
    assert third["input"]["$repr"] == "<class 'object'>"


def test_an_endless_generator_needs_constant_memory() -> None:
    with running(
        *("-m", "ztasks", "run", "tasks.py:echo", "-q", "--from", "tasks.py:endless"), stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        sink, passed = process.stdout.fileno(), 0
        while passed < 400 * 2**20:  # bytes of records, each of which holds its input twice
            data = os.read(sink, 2**20)
            assert data
            passed += len(data)
        peak = peak_memory(process.pid)
        process.send_signal(signal.SIGINT)
        while os.read(sink, 2**20):
            pass
        assert process.wait(DEADLINE) == 130
    assert peak < 256 * 2**20, "200 MiB of inputs have passed through"


def test_ctrl_c_while_a_generator_blocks() -> None:
    with running("-m", "ztasks", "run", "tasks.py:echo", "--from", "tasks.py:blocks") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["result"] == 1
        wait_for(lambda: os.path.exists("blocked"), "the generator to block")
        crew = workers(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, out) == (130, "")
        assert "1 job: 1 ok" in err
        assert "interrupted: inputs that had not been read have no record" in err
        assert "Traceback" not in err
        assert crew
        wait_gone(crew)


# --- lines, documents and stdin ---


def test_names_as_find_prints_them(folder: Path) -> None:
    (folder / "found").mkdir()
    names = [b"a b.txt", b"two\nlines.txt", b"- dash.txt", b'"quoted".txt', b"caf\xc3\xa9.txt", b"return\r"]
    for name in names:
        Path(os.fsdecode(b"found/" + name)).touch()
    command = f"find found -type f -print0 | {sys.executable} -m ztasks run tasks.py:echo -0 --lines - -q"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30, check=True
    )
    found = {record["result"] for record in records(done.stdout)}
    assert found == {os.fsdecode(b"found/" + name) for name in names}


def test_lines_that_are_no_text(folder: Path) -> None:
    (folder / "names").write_bytes(b"a\0caf\xe9\0\0c")
    (folder / "lines").write_bytes(b"1\r\n x \r\n\xff\n4")
    (folder / "calls").write_bytes(
        b'{"x": [1, {}]}\n{"x": 1}}\n{x: 1}\n[1, 2\n' + b"[" * 100_000 + b"\nNaN\n" + b"9" * 5000
    )
    done = ztasks("tasks.py:echo", "-0", "--lines", "names", "-k")
    found = records(done.out)
    assert [record["result"] for record in found] == ["a", None, "", "c"]
    assert "line 2 of names is not UTF-8: byte 0xe9 at position 4" in str(messages(found)[1])
    assert found[1]["input"] == "caf\\xe9"
    done = ztasks("tasks.py:echo", "--lines", "lines", "--jsonl", "calls", "-k")
    found = records(done.out)
    assert done.code == 1
    assert [record["result"] for record in found] == ["1", " x ", None, "4", [1, {}], *[None] * 6]
    said = messages(found)
    assert "line 3 of lines is not UTF-8" in str(said[2])
    assert [str(text).partition(":")[0] for text in said[5:9]] == [
        *("line 2 of calls is not JSON", "line 3 of calls is not JSON"),
        *("line 4 of calls is not JSON", "line 5 of calls is not JSON"),
    ]
    assert found[9]["ok"], "NaN, which Python writes, is read"


def test_documents_as_the_one_argument(folder: Path) -> None:
    (folder / "calls").write_text('{"x": 1}\n[1, 2]\n3\n')
    (folder / "t.csv").write_text("x,y\n1,2\n")
    assert calls("tasks.py:echo", "--no-unpack", "--jsonl", "calls", "--csv", "t.csv") == [
        *("echo({'x': 1})", "echo([1, 2])", "echo(3)", "echo({'x': '1', 'y': '2'})")
    ]


def test_several_sources_in_one_run_come_in_the_order_of_the_help(folder: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (folder / name).touch()
    (folder / "lines").write_text("line\n")
    (folder / "t.csv").write_text("x\nrow\n")
    done = ztasks(
        *("tasks.py:call", "-k", "--from", "tasks.py:LIST", "--csv", "t.csv", "--jsonl", "-", "--lines", "lines"),
        *("--glob", "*.md", "--glob", "*.txt", "--lines", "lines", "arg", "arg"),
        stdin="[0]\n",
    )
    assert [record["input"] for record in records(done.out)] == [
        *("arg", "arg", "c.md", "a.txt", "b.txt", "line", "line", [0], {"x": "row"}, 1, [2], [3])
    ]
    assert len({record["key"] for record in records(done.out)}) == 12
    assert "12 jobs: 12 ok" in done.err


# --- how many ---


@pytest.mark.parametrize("limit", [0, 2])
def test_a_limit_does_not_wait_for_a_pipe_that_is_silent(limit: int) -> None:
    arguments = ("-m", "ztasks", "run", "tasks.py:echo", "-q", "--lines", "-", "--limit", str(limit))
    with running(*arguments) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("y\n" * limit)
        process.stdin.flush()
        assert [record["result"] for record in records(process.stdout.read())] == ["y"] * limit
        assert process.wait(DEADLINE) == 0


def test_a_limit_ends_an_endless_pipe_and_does_not_reach_for_more() -> None:
    command = f"yes | {sys.executable} -m ztasks run tasks.py:echo -q --lines - --from tasks.py:blocks --limit 1000"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30)
    assert done.returncode == 0
    assert [record["result"] for record in records(done.stdout)] == ["y"] * 1000
    assert not os.path.exists("blocked")


def test_a_limit_counts_what_is_read_of_all_sources(folder: Path) -> None:
    (folder / "lines").write_text("1\nx\n3\n4\n")
    done = ztasks("tasks.py:typed", "0", "--lines", "lines", "--limit", "4", "-k")
    assert [record["input"] for record in records(done.out)] == ["0", "1", "x", "3"]
    assert done.code == 1


# --- what text becomes ---


def test_constants() -> None:
    assert calls("tasks.py:typed", "1", "--set", "on=yes", "--set", "day=2024-05-06", "--set", "path=a b=c") == [
        "typed(1, on=True, day=datetime.date(2024, 5, 6), path=PosixPath('a b=c'))"
    ]
    assert calls("tasks.py:call", "1", "--set", "n=1", "--set", "n=2", "--set", "empty=") == [
        "call('1', n='2', empty='')"
    ]
    assert calls("tasks.py:many", "1", "2", "--set", "x=3") == ["many(1, x=3.0)", "many(2, x=3.0)"]
    assert calls("tasks.py:typed", "1", "--set", "n=2") == ["typed(1)"], "the input wins"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("on=maybe", "a constant cannot be used: on='maybe' does not become bool"),
        ("unknown=1", "the task has no argument 'unknown' for a constant; it has n, on, day, path, ratio"),
        ("on", "'on' is not NAME=VALUE"),
        ("=1", "'=1' is not NAME=VALUE"),
        ("a b=1", "'a b=1' is not NAME=VALUE"),
        ("", "'' is not NAME=VALUE"),
    ],
)
def test_constants_that_cannot_be_used(text: str, said: str) -> None:
    done = ztasks("tasks.py:typed", "1", "--set", text)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_text_becomes_what_the_annotations_say(folder: Path) -> None:
    (folder / "t.csv").write_text('x,when,price,at\nred,2024-01-02T03:04:05,1.50,"{""x"": 1}"\n7,2024-01-02,2,[]\n')
    done = ztasks("tasks.py:rich", "red", "12", "blue", "--csv", "t.csv", "-k")
    found = records(done.out)
    assert [record["result"] and record["result"][0] for record in found[:3]] == ["<Colour.RED: 'red'>", "12", None]
    assert found[3]["result"] == [
        *("<Colour.RED: 'red'>", "datetime.datetime(2024, 1, 2, 3, 4, 5)", "Decimal('1.50')", "Point(x=1, y=0)")
    ]
    assert "x='blue' does not become" in str(messages(found)[2])
    assert "line 3 of t.csv: when='2024-01-02' does not become" in str(messages(found)[4])
    assert results(ztasks("tasks.py:later", "7")) == ["7"], "one that means nothing is left alone"


def test_values_of_json_stay_what_they_are(folder: Path) -> None:
    (folder / "calls").write_text(
        '{"n": 1, "day": "2024-01-02", "path": "a"}\n["1"]\n[true]\n{"n": 2, "day": "never"}\n'
    )
    done = ztasks("tasks.py:typed", "--jsonl", "calls", "-k")
    found = records(done.out)
    assert [record["result"] and record["result"][:4] for record in found] == [
        ["1", "False", "datetime.date(2024, 1, 2)", "'a'"],
        ["'1'", "False", "None", "'.'"],
        ["True", "False", "None", "'.'"],
        None,
    ]
    assert "line 4 of calls: day='never' does not become date" in str(messages(found)[3])


def test_text_that_does_not_convert_is_a_failed_record_and_strict_stops(folder: Path) -> None:
    (folder / "lines").write_text("1\ntwo\n3\n")
    done = ztasks("tasks.py:typed", "--lines", "lines", "-k")
    first, second, third = records(done.out)
    assert (done.code, first["ok"], third["ok"]) == (1, True, True)
    assert (second["status"], second["input"], second["attempts"], second["pid"]) == ("failed", "two", 0, None)
    assert second["error"]["message"].startswith("line 2 of lines: n='two' does not become int")
    assert "1 x InvalidInput, such as two: line 2 of lines" in done.err
    done = ztasks("tasks.py:typed", "--lines", "lines", "--lines", "-", "-k", "--strict", stdin="4\n5\n")
    assert done.code == 3
    assert [record["input"] for record in records(done.out)] == ["1", "two"]
    assert "With --strict that stops the run: nothing behind it was read." in done.err
    assert "Traceback" not in done.err


# --- names ---


def test_a_target_without_inputs_lists_what_is_there(folder: Path) -> None:
    (folder / "only_data.py").write_text("X = 1\n")
    for target in ("tasks.py", "./tasks.py", "tasks"):
        done = ztasks(target)
        assert (done.code, done.err) == (0, "")
        lines = done.out.splitlines()
        assert [line for line in lines if ":echo" in line] == [f"{target}:echo(x)".ljust(60) + "  Give it back."]
        assert f"{target}:call(*args, **kwargs)" in lines
        assert "_hidden" not in done.out
        assert ":Point" not in done.out
        assert ":dataclasses" not in done.out
    done = ztasks("only_data.py")
    assert (done.code, done.err) == (2, "ztasks run: only_data.py defines no functions.\n")
    assert "no input: give arguments" in ztasks("tasks.py:echo").err


def test_unknown_names_give_close_matches(folder: Path) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    for target, said in {
        "tasks.py:ecoh": "tasks.py has no 'ecoh'. Did you mean echo or rich? There is:\n    blocks()",
        "tasks.py:Colour.RAD": "Did you mean RED?",
        "tassk.py:echo": "the file tassk.py does not exist. Did you mean tasks.py?",
        "taskz": "Did you mean tasks?",
        "package.tasks:echo": "there is no module 'package.tasks'",
        "no/such/file.py:echo": "the file no/such/file.py does not exist",
        "package/:echo": "the file package/ is a directory",
        "tasks.py:NUMBER": "tasks.py:NUMBER is a int, not a function",
        "zzz:echo": "there is no module 'zzz'",
    }.items():
        done = ztasks(target, "a")
        assert (done.code, done.out) == (2, "")
        assert said in done.err, target
        assert "Traceback" not in done.err


def test_a_pattern_that_the_shell_has_expanded(folder: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).touch()
    for arguments in ("tasks.py:echo --glob *.txt", "--glob *.txt tasks.py:echo"):
        command = f"{sys.executable} -m ztasks run {arguments}"
        done = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=30, check=False
        )
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "Quote the pattern" in done.stderr, arguments
    assert results(ztasks("tasks.py:echo", "a", "--glob", "a.txt", "-k")) == ["a", "a.txt"], "a name is a pattern, too"


def test_patterns(folder: Path) -> None:
    for name in ("d/e/x.txt", "d/[1].txt", "d/.hidden.txt", "d/b.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    expected = ["d/[1].txt", "d/b.txt", "d/e/x.txt", "d/[1].txt", "d/e/", "d/b.txt"]
    done = ztasks(
        "tasks.py:echo", "-k", "--glob", "d/**/*.txt", "--glob", "d/[[]1].txt", "--glob", "d/*/", "--glob", "d/b.txt"
    )
    assert results(done) == expected
    done = ztasks("tasks.py:echo", "a", "--glob", "*.none")
    assert (done.code, done.out) == (2, "")
    assert "no file matches '*.none': look at the pattern" in done.err


# --- the environment ---


def test_options_from_the_environment(folder: Path) -> None:
    (folder / "lines").write_text("1\n2\n3\n")
    env = environment(
        ZTASKS_LINES="lines",
        ZTASKS_LIMIT="2",
        ZTASKS_ORDERED="1",
        ZTASKS_WORKERS="1",
        ZTASKS_OUTPUT="out",
        ZTASKS_SET="n=1",
    )
    done = ztasks("tasks.py:call", env=env)
    assert (done.code, done.out) == (0, "")
    assert [record["result"] for record in records((folder / "out").read_text())] == [
        [["1"], {"n": "1"}],
        [["2"], {"n": "1"}],
    ]
    assert "; 1 worker," in done.err
    done = ztasks("tasks.py:call", "--limit", "1", "--overwrite", "-o", "-", "--append", env=env)
    assert done.code == 2
    done = ztasks("tasks.py:call", "--limit", "1", "-o", "-", env=env)
    assert results(done) == [[["1"], {"n": "1"}]], "the command line wins"
    for name, value in {"RETRIES": "many", "TIMEOUT": "soon", "QUIET": "perhaps", "MAX_FAILURES": "-1"}.items():
        done = ztasks("tasks.py:echo", "a", env=environment(**{f"ZTASKS_{name}": value}))
        assert (done.code, done.out) == (2, ""), name
        assert value in done.err
        assert "Traceback" not in done.err
