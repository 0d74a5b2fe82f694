"""The code and the commands in the documentation run as they stand, and print what is shown there."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import support

ROOT = Path(__file__).parents[2]
PAGES = {"batch.md": 25, "how-to/gnu-parallel.md": 1}
"""Pages that are run from top to bottom, and how many commands each has at least."""


def blocks() -> list[object]:
    """Each block of Python code, and what it prints where that is shown: behind the code, or in comments."""
    found = []
    for name in ("README.md", "docs/quickstart.md"):
        pattern = r"^```python\n(.*?)^```\n((?:\n(?:    [^\n]+\n)+)?)"
        matches = re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
        for number, (code, behind) in enumerate(matches, 1):
            if "ztasks.Client(" in code:
                continue  # it needs a head: tests/hosts/test_readme.py has one
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


# --- pages that are read, and run, from top to bottom ---


class File(NamedTuple):
    """A block of code that is to be saved."""

    name: str
    text: str


class Commands(NamedTuple):
    """A block of commands, each with what it prints."""

    steps: list[tuple[str, str]]
    varies: bool
    """Whether what they print depends on the moment."""


FENCE = re.compile(
    r"(?:In `(?P<name>[\w./-]+)`:\n\n)?(?P<varies>^<!-- varies -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def parts(page: str) -> Iterator[File | Commands]:
    """The page's blocks in their order."""
    for found in FENCE.finditer(page):
        if found["kind"] == "console":
            shown = re.findall(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", found["text"], re.MULTILINE)
            yield Commands(shown, bool(found["varies"]))
        elif found["name"]:
            yield File(found["name"], found["text"])


MASKS = [
    (r"\b\d[\d.,]* (us|ms|s|min|h)\b( \d+ (s|min)\b)?", "TIME"),
    (r"\b[\d.,]+/(s|min)\b", "RATE"),
    (r"\d+%", "SHARE"),
    (r"\d+ workers?", "WORKERS"),
    (r"worker \d+", "WORKER"),
    (r"pathlib\._local\.", "pathlib."),  # Python 3.13
    (r"^  slowest: .*", "  slowest"),
    (r"^ztasks: .* workers busy\n", ""),
    (r'"(started|seconds|host|pid|max_rss)": ?("[^"]*"|[\d.e-]+)', r'"\1"'),
]
"""What is different each time."""


def masked(text: str) -> list[str]:
    """The lines of an output without what is different each time; sorted, since stdout and stderr are two."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return sorted(line.rstrip() for line in text.splitlines())


def run_commands(commands: list[str], folder: Path) -> list[str]:
    """Run commands in one shell; return what each prints."""
    end = "---8<---"
    lines = [f"{command}\n{{ code=$?; echo '{end}'; (exit $code); }} 2>/dev/null" for command in commands]
    shims = folder.parent / "bin"
    shims.mkdir(exist_ok=True)
    for name, what in (("ztasks", '-m ztasks "$@"'), ("python", '"$@"')):
        (shims / name).write_text(f"#!/bin/sh\nexec {sys.executable} {what}\n")
        (shims / name).chmod(0o755)
    path = f"{shims}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=support.environment(PATH=path, LC_ALL="C.UTF-8"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    *printed, rest = done.stdout.split(f"{end}\n")
    assert (rest, len(printed)) == ("", len(commands)), done.stdout
    return printed


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / name).read_text()
    folder = tmp_path / "folder"
    folder.mkdir()
    done = 0
    assert page.count("```") == 2 * len(list(FENCE.finditer(page)))
    for part in parts(page):
        if isinstance(part, File):
            (folder / part.name).write_text(part.text)
            continue
        steps = [step for step in part.steps if shutil.which("jq") or not re.search(r"\bjq\b", step[0])]
        done += len(part.steps)
        printed_ones = run_commands([command for command, _ in steps], folder)
        for (command, shown), printed in zip(steps, printed_ones, strict=True):
            assert part.varies or masked(printed) == masked(shown), f"$ {command}\n{printed}"
    assert done >= PAGES[name]
