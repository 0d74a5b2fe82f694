"""The Python code in README and quickstart runs as it stands, and writes nothing to stderr."""

import json
import re
import textwrap
from pathlib import Path

import pytest
import support

ROOT = Path(__file__).parents[2]


def blocks() -> list[object]:
    """Each block of Python code, and what it prints where that is shown: behind the code, or in comments."""
    found = []
    for name in ("README.md", "docs/quickstart.md"):
        pattern = r"^```python\n(.*?)^```\n((?:\n(?:    [^\n]+\n)+)?)"
        matches = re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
        for number, (code, behind) in enumerate(matches, 1):
            shown = textwrap.dedent(behind).lstrip()
            if not shown:
                shown = "".join(f"{line}\n" for line in re.findall(r"print\(.*\) +# (.+)$", code, re.MULTILINE))
            found.append(pytest.param(code, shown if name != "README.md" else "", id=f"{name}-{number}"))
    return found


@pytest.mark.parametrize(("code", "shown"), blocks())
def test_code_runs(code: str, shown: str, tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        (tmp_path / name).write_text("some text\n")
    out = support.check_script(tmp_path, code, cwd=tmp_path)
    assert out
    if shown:
        assert out == shown


def test_the_quickstart_s_command(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "quickstart.md").read_text()
    code = re.search(r"in `words.py`:\n\n((?:    .*\n)+)", text)
    line = re.search(r"^    \.venv/bin/ztasks (run words\.py:count .*)$", text, re.MULTILINE)
    assert code
    assert line
    support.write_script(tmp_path, code[1], "words.py")
    (tmp_path / "a.md").write_text("three short words\n")
    arguments = [word.strip("'") for word in line[1].split()]
    done = support.run_python("-m", "ztasks", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    (record,) = map(json.loads, (tmp_path / "words.jsonl").read_text().splitlines())
    assert record["result"] == 3
