"""Every file in examples/ runs, and does what its docstring says."""

import json
from pathlib import Path

import pytest
from support import ROOT, run_python

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_a_script(path: Path, tmp_path: Path) -> None:
    done = run_python(str(path), cwd=tmp_path)
    assert done.code == 0, done.err


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
