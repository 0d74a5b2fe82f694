"""The documentation agrees with the code: commands, links, files, names, options, errors, record fields, exit codes."""

import re
import subprocess
from pathlib import Path

import pytest

import ztasks
from ztasks.cli.records import Record
from ztasks.cli.run import command
from ztasks.core.options import NAMES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "workers").rglob("*.md")),
]
GLOSSARY = ROOT / "docs" / "glossary.md"


def commands() -> list[str]:
    """The README's commands for a fresh machine."""
    return [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]


def section(text: str, title: str) -> str:
    """The text between a heading and the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_cells(table: str) -> list[str]:
    """The names in backticks in the first column of a table."""
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_readme_begins_with_three_lines_and_has_two_commands() -> None:
    title, rest = README.split("\n\n", 1)
    assert title == "# ztasks"
    assert len(rest.split("\n\n")[0].splitlines()) == 3
    run, tests = commands()
    assert ".venv/bin/ztasks run examples/codestats.py:measure --glob " in run
    assert run.endswith("-o stats.jsonl")
    assert '".[test]"' in tests
    assert tests.endswith("-m pytest")
    assert README.index("<!-- benchmarks:begin -->") < README.index("<!-- benchmarks:end -->")


def test_ci_runs_the_readme_s_commands() -> None:
    done = subprocess.run([ROOT / ".ci" / "run", "--commands"], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines() == commands()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}: no such heading"


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_the_glossary_names_files_that_exist() -> None:
    files = re.findall(r"`([\w/]+\.py)`", GLOSSARY.read_text())
    assert len(files) > 20
    assert [name for name in files if not (ROOT / "ztasks" / name).is_file()] == []


def test_the_reference_has_every_error() -> None:
    errors = {
        name
        for name in ztasks.__all__
        if isinstance(getattr(ztasks, name), type) and issubclass(getattr(ztasks, name), Exception)
    }
    assert set(first_cells(section(REFERENCE, "Errors"))) == errors - {"ZtasksError"}


def test_the_reference_has_every_public_name() -> None:
    missing = {name for name in ztasks.__all__ if not re.search(rf"\b{name}\b", REFERENCE)}
    assert not missing


def test_the_reference_has_every_option() -> None:
    table = section(REFERENCE, "Tasks and options").split("ztasks.Options")[1]
    assert set(first_cells(table)) == NAMES


def test_the_reference_has_every_record_field() -> None:
    assert first_cells(section(REFERENCE, "The record of a job")) == list(Record.__struct_fields__)


def test_the_reference_has_every_option_and_exit_code_of_the_command() -> None:
    text = section(REFERENCE, "`ztasks run`")
    assert command.epilog is not None
    told = set(re.findall(r"^  (\d+) ", command.epilog, re.MULTILINE))
    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == told
    flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
    assert flags
    assert {flag for flag in flags if not re.search(rf"`{flag}\b", text)} == set()
