"""Every file in examples/ runs, and does what its docstring says: its commands are run, their output is compared.

A command stands behind `$` in the docstring, below it what it writes to stdout and stderr; `...` is any text.
"""

import ast
import csv
import doctest
import fcntl
import hashlib
import json
import re
import shutil
import sys
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import ROOT, Finished, environment, run_python

from ztasks import read_records

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

BY_THEMSELVES = [path for path in EXAMPLES if path.name != "resume_after_kill.py"]
"""Examples of which no test runs the bare file."""


class Step(NamedTuple):
    command: str
    shown: str
    """What it writes, as the docstring has it."""


def docstring(name: str) -> str:
    text = ast.get_docstring(ast.parse((ROOT / "examples" / name).read_text()))
    assert text
    return text


def steps(name: str) -> list[Step]:
    """The commands in an example's docstring."""
    pattern = r"^    \$ ((?:.*\\\n)*.*)\n((?:    (?! *\$ ).*\n?)*)"
    found = re.findall(pattern, docstring(name), re.MULTILINE)
    assert found
    return [Step(command, re.sub("^    ", "", shown, flags=re.MULTILINE)) for command, shown in found]


class Clone(NamedTuple):
    """A directory with the examples, in which commands find `python` and `ztasks`."""

    folder: Path

    def sh(self, command: str) -> Finished:
        """Run a command; what it writes to stderr comes with its output."""
        programs = self.folder / "bin"
        env = environment(
            PATH=f"{programs}:/usr/bin:/bin", no_proxy="127.0.0.1", ZTASKS_WORKERS="2", ZTASKS_NO_PROGRESS="1"
        )
        run = "import os, sys; os.dup2(1, 2); os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
        return run_python("-c", run, command, cwd=self.folder, env=env)

    def play(self, name: str) -> list[Finished]:
        """Run the commands in an example's docstring, and compare what they write."""
        return [self.check(step) for step in steps(name)]

    def check(self, step: Step) -> Finished:
        """Run a command, and compare what it writes."""
        done = self.sh(step.command)
        same = doctest.OutputChecker().check_output(step.shown, done.out, doctest.ELLIPSIS)
        assert same, f"{step.command}\nwrote:\n{done.out}\ninstead of:\n{step.shown}"
        return done

    def records(self, name: str) -> list[Any]:
        return list(read_records(self.folder / name))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    for name, options in (("python", ""), ("ztasks", " -P -m ztasks")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable}{options} "$@"\n')
        program.chmod(0o755)
    return Clone(tmp_path)


@pytest.mark.parametrize("path", BY_THEMSELVES, ids=lambda path: path.name)
def test_an_example_runs_as_a_script(path: Path, tmp_path: Path) -> None:
    done = run_python(str(path), cwd=tmp_path)
    assert done.code == 0, done.err
    assert (done.err, list(tmp_path.iterdir())) == ("", [])


def test_the_index_has_every_example_with_its_command() -> None:
    index = (ROOT / "examples" / "README.md").read_text()
    rows = dict(re.findall(r"^\| \[([\w.]+)\].*? \| `([^`]+)` \|", index, re.MULTILINE))
    assert set(re.findall(r"\]\((\w+\.py)\)", index)) == {path.name for path in EXAMPLES}
    for name, command in rows.items():
        assert command in docstring(name), name
    assert len(rows) == len(EXAMPLES) - 1  # the server has its line with the scraper


def test_codestats_on_sources_of_which_one_does_not_parse(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.py").write_text(
        "# comment\n\nimport os  # not a line of its own\n\n\nclass A:\n    def f(self):\n        '''Doc.'''\n"
        "        # inside\n        return 1\n\n\nasync def g(): pass\n"
    )
    (source / "empty.py").touch()
    (source / "bad.py").write_text("def f(:\n")
    (source / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nname = 'caf\xe9'\n")
    done = run_python(
        *("-m", "ztasks", "run", str(ROOT / "examples" / "codestats.py") + ":measure"),
        *("--glob", f"{source}/**/*.py", "-k", "-o", str(tmp_path / "stats.jsonl")),
    )
    assert (done.code, done.out) == (1, ""), done.err
    records = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    stats = {Path(record["input"]).name: record for record in records}
    assert list(stats) == ["bad.py", "empty.py", "good.py", "latin.py"]
    assert stats["bad.py"]["error"]["type"] == "SyntaxError"
    assert stats["good.py"]["result"] == {
        "lines": 13,
        "blank": 5,
        "comment": 2,
        "code": 6,
        "functions": 2,
        "classes": 1,
        "longest_function": {"name": "f", "line": 7, "lines": 4},
    }
    assert stats["empty.py"]["result"]["lines"] == 0
    assert stats["empty.py"]["result"]["longest_function"] is None
    assert stats["latin.py"]["result"]["code"] == 1
    assert "4 jobs: 3 ok, 1 failed" in done.err


def test_checksums_of_our_own_source_tree(clone: Clone) -> None:
    tree = clone.folder / "ztasks"
    shutil.copytree(ROOT / "ztasks", tree)
    run, report = clone.play("checksums.py")
    assert (run.code, report.code) == (0, 0)
    records = {record.input: record.result for record in clone.records("sums.jsonl")}
    files = {str(path.relative_to(clone.folder)): path.read_bytes() for path in tree.rglob("*.py")}
    assert len(files) > 50
    assert records == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "lines": len(data.splitlines())}
        for name, data in files.items()
    }
    total = sum(map(len, files.values()))
    assert report.out.startswith(f"{len(files):,} files, {total:,} bytes, ")


def test_checksums_of_odd_files(clone: Clone) -> None:
    tree = clone.folder / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "below" / "large").write_bytes(bytes(2**20) + b"\nwithout an end of line")
    (tree / "a name, with spaces\n").write_text("same\n")
    (tree / "below" / "twin").write_text("same\n")
    (tree / "link").symlink_to("nowhere")
    done = clone.sh("ztasks run examples/checksums.py:digest --glob 'tree/**' -o odd.jsonl")
    assert done.code == 1, done.out
    records = {record.input: record for record in clone.records("odd.jsonl")}
    assert {name: record.ok and record.result["lines"] for name, record in records.items()} == {
        "tree/a name, with spaces\n": 1,
        "tree/below/large": 2,
        "tree/below/twin": 1,
        "tree/empty": 0,
        "tree/link": False,
    }
    assert records["tree/link"].error.type == "FileNotFoundError"
    assert records["tree/below/large"].result["size"] == 2**20 + 23
    report = clone.sh("python examples/checksums.py odd.jsonl").out
    assert report.endswith("\nthe same: tree/a name, with spaces\n tree/below/twin\n")
    refused = clone.sh("ztasks run examples/checksums.py:digest --glob 'no-such-tree/**'")
    assert refused.code == 2
    assert refused.out.startswith("ztasks run: no file matches 'no-such-tree/**'")


def test_the_sweep(clone: Clone) -> None:
    run, report = clone.play("sweep.py")
    assert (run.code, report.code) == (0, 0)
    records = clone.records("sweep.jsonl")
    cases = sorted(tuple(record.input.values()) for record in records)
    assert cases == list(product((0.5, 0.7, 0.9), ("each", "shared"), range(6)))
    for line in report.out.splitlines()[1:]:
        load, _, waited, expected = line.split()
        assert float(waited) == pytest.approx(float(expected), rel=0.3), load
    # the seed decides: the same again, here and without a worker
    code = (
        "from sweep import *; from dataclasses import asdict; import json;"
        "print(json.dumps(asdict(simulate(0.5, Queue.SHARED, 2, customers=4000))))"
    )
    (there,) = (record.result for record in records if tuple(record.input.values()) == (0.5, "shared", 2))
    assert json.loads(clone.sh(f"cd examples && python -c '{code}'").out) == there


def test_orders_of_which_some_are_wrong_and_then_mended(clone: Clone) -> None:
    run, report = clone.play("orders.py")
    assert (run.code, report.code) == (1, 0)
    records = clone.records("invoices.jsonl")
    results = [record.result for record in sorted(records, key=lambda record: record.index) if record.ok]
    assert results[1] == {
        "number": 1002,
        "payment": "transfer",
        "due": "2026-03-16",
        "net": "1259.00",
        "total": str((Decimal("1259.00") * Decimal("1.19")).quantize(Decimal("0.01"))),
    }
    assert [result["number"] for result in results] == [1001, 1002, 1003, 1009, 1001]
    failed = {record.index: (record.error.type, record.attempts) for record in records if not record.ok}
    assert failed == {**dict.fromkeys((3, 4, 5, 6), ("InvalidInput", 0)), 7: ("ValueError", 1)}

    table = clone.folder / "examples" / "orders.csv"
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[4][1], rows[6][4], rows[8][4] = "2026-02-28", "2", "1"
    rows[7] += ["no", ""]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    again = clone.sh(f"{steps('orders.py')[0].command} --resume")
    assert again.code == 1
    assert "\nztasks: 5 jobs: 4 ok, 1 failed, 5 skipped\n" in again.out
    report = clone.sh(steps("orders.py")[1].command)
    assert [line[:5] for line in report.out.splitlines()] == ["card ", "trans", "1005:"]


def test_waveforms_drawn_by_a_program(clone: Clone) -> None:
    made, run = clone.play("waveforms.py")
    assert (made.code, run.code) == (0, 1)
    records = {Path(record.input).stem: record for record in clone.records("drawn.jsonl")}
    assert {name: record.result for name, record in records.items()} == {
        "a4": "0.50 s, peak 0.80\n",
        "broken": None,
        "chirp": "0.50 s, peak 0.49\n",
        "silence": "0.50 s, peak 0.00\n",
    }
    error = records["broken"].error
    assert (error.exit_code, error.traceback) == (1, None)
    assert error.stderr.startswith("sounds/broken.wav: ")
    pictures = {path.stem: path.read_text() for path in (clone.folder / "sounds").glob("*.svg")}
    assert set(pictures) == {"a4", "chirp", "silence"}
    bars = {name: [int(bar) for bar in re.findall(r"M\d+ \d+v(\d+)", svg)] for name, svg in pictures.items()}
    assert set(bars["silence"]) == {1}
    assert set(bars["a4"]) <= {50, 51}
    assert max(bars["chirp"][:100]) < 15 < 28 < max(bars["chirp"][-100:])


def test_the_scraper_and_the_flaky_server(clone: Clone) -> None:
    run, report = clone.play("scraper.py")
    assert (run.code, report.code) == (1, 0)
    records = {record.input: record for record in clone.records("pages.jsonl")}
    assert {page: record.attempts for page, record in records.items()} == {
        **{f"/page/{number}": 1 for number in range(1, 7)},
        "/errors": 3,
        "/hangs-up": 2,
        "/cut": 2,
        "/busy": 2,
        "/down": 4,
        "/gone": 1,
    }
    assert {page: record.error.type for page, record in records.items() if not record.ok} == {
        "/down": "ztasks.Retry",
        "/gone": "scraper.Refused",
    }
    assert records["/busy"].result["tries"] == 2
    assert sorted(records["/cut"].result["links"]) == sorted(set(records) - {"/cut"})
    # another server, on another port: what has been fetched is known by its path
    again = clone.sh(f"{steps('scraper.py')[0].command} --resume --retries 0")
    assert again.code == 1
    assert "\nztasks: 2 jobs: 2 failed, 10 skipped\n" in again.out


def test_the_scraper_understands_both_kinds_of_retry_after(clone: Clone) -> None:
    code = (
        "from scraper import pause; from email.utils import format_datetime; from datetime import *;"
        "later = datetime.now(UTC) + timedelta(hours=1);"
        "print(pause(None), pause('7'), 3500 < pause(format_datetime(later, usegmt=True)) <= 3600,"
        " pause('Wed, 21 Oct 2015 07:28:00 GMT'), pause('soon'))"
    )
    assert clone.sh(f'cd examples && python -c "{code}"').out == "None 7.0 True 0.0 None\n"


def test_the_flaky_server_runs_a_command(clone: Clone) -> None:
    clone.play("flaky_server.py")
    assert clone.sh("python examples/flaky_server.py sh -c 'exit 7'").code == 7


def test_a_run_that_is_killed_and_resumed(clone: Clone) -> None:
    (done,) = clone.play("resume_after_kill.py")
    assert done.code == 0
    found = re.search(r"killed when (\d+) .*?(\d+) jobs: \2 ok, \1 skipped", done.out, re.DOTALL)
    assert found, done.out
    assert int(found[1]) + int(found[2]) == 60


def test_nightly_does_what_is_new_or_has_grown(clone: Clone) -> None:
    assert [done.code for done in clone.play("nightly.py")] == [0, 0, 0, 0]
    first = clone.folder / "logs" / "2026-03-01.log"
    with first.open("a") as file:
        file.write("23:59 ERROR one more\n")
    output = clone.folder / "logs" / "summary.jsonl"
    before = output.read_bytes()
    with output.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = clone.sh("python examples/nightly.py run logs")
        assert (refused.code, output.read_bytes()) == (2, before)
        assert "being written by another run" in refused.out
    done = clone.sh("python examples/nightly.py run logs")
    assert done.code == 0
    assert done.out.startswith("1 job: 1 ok, 3 skipped\n")
    assert done.out.endswith("\nlogs/2026-03-01.log: 43 lines, 3 errors\n")
    assert output.read_bytes().startswith(before)


def test_constants_inputs_and_set_up_of_one_file_meet_in_one_module(clone: Clone) -> None:
    """For a file whose name is a module's, and for one whose name is none."""
    code = (
        "from enum import Enum\nimport threading\nclass Kind(Enum):\n    A = 'a'\nREADY = threading.Event()\n"
        "def cases():\n    yield {'kind': Kind.A}\n"
        "def set_up():\n    READY.set()\n"
        "def use(kind):\n    return [kind is Kind.A, READY.is_set()]\n"
    )
    for name in ("plain.py", "with-dashes.py"):
        (clone.folder / name).write_text(code)
        done = clone.sh(f"ztasks run {name}:use --from {name}:cases --init {name}:set_up -q -o {name}l")
        assert (done.code, done.out) == (0, ""), done.out
        (record,) = clone.records(f"{name}l")
        assert record.result == [True, True]
