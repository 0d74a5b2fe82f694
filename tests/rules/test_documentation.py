"""The documentation agrees with the code: commands, links, files, names, options, errors, record fields, exit codes."""

import inspect
import re
import subprocess
from pathlib import Path

import click
import pytest

import ztasks
from ztasks.cli.run import command
from ztasks.core.options import NAMES
from ztasks.runs.records import JobError, Record

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "workers").rglob("*.md")),
]
GLOSSARY = ROOT / "docs" / "glossary.md"
FLAGS = {flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts}
"""All options of `ztasks run`."""


def commands() -> list[str]:
    """The README's commands for a fresh machine."""
    return [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]


def section(text: str, title: str) -> str:
    """The text from a heading to the next one of its level or above, without blocks of code."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*)", without_code, re.MULTILINE | re.DOTALL)
    assert found, title
    return re.split(rf"^#{{1,{len(found[1])}}} ", found[2], maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str, head: str) -> str:
    """The table whose first column has this head."""
    found = re.search(rf"^\| {re.escape(head)} \|.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, head
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
    assert run.endswith("-o stats.jsonl --resume")
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
    text = section(REFERENCE, "The record of a job")
    assert first_cells(table(text, "field")) == list(Record.__struct_fields__)
    assert first_cells(table(text, "field of `error`")) == list(JobError.__struct_fields__)


def test_the_reference_has_every_option_and_exit_code_of_the_command() -> None:
    text = section(REFERENCE, "`ztasks run`")
    assert command.epilog is not None
    told = set(re.findall(r"^  (\d+) ", command.epilog, re.MULTILINE))
    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == told
    explained = {cell.split()[0] for cell in first_cells(text) if cell.startswith("-") and cell != "-"}
    assert explained == FLAGS


def test_the_reference_has_every_placeholder() -> None:
    assert command.epilog is not None
    listed = command.epilog.split("Placeholders of --command:")[1].split("Environment:")[0]
    told = set(re.findall(r"\{\S*\}", listed))
    assert len(told) > 8
    assert told <= set(first_cells(section(REFERENCE, "Placeholders")))


def test_the_reference_has_every_parameter_of_run_batch() -> None:
    text = section(REFERENCE, "`run_batch`")
    parameters = inspect.signature(ztasks.run_batch).parameters
    assert set(first_cells(table(text, "argument"))) == set(parameters)
    shown = re.search(r"^    run_batch\((.*?)\)$", text, re.MULTILINE | re.DOTALL)
    assert shown
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters.values()]
    assert re.sub(r"\s+", " ", shown[1].replace('"', "'")) == str(inspect.Signature(bare))[1:-1]


def test_the_reference_has_every_field_of_a_summary() -> None:
    public = {name for name in vars(ztasks.RunSummary) if not name.startswith("_")}
    assert set(first_cells(table(section(REFERENCE, "RunSummary"), "field"))) == public


@pytest.mark.parametrize("name", ["batch.md", "quickstart.md"])
def test_tutorials_name_options_that_exist(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    used = set(re.findall(r"`(--?[a-z][\w-]*)", text))
    assert used
    assert used - FLAGS == set()


def test_options_beside_those_of_gnu_parallel_exist() -> None:
    text = section((ROOT / "docs" / "how-to" / "gnu-parallel.md").read_text(), "Options")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 25
    ours = {flag for row in rows for flag in re.findall(r"(?<![\w-])--?[a-z0][\w-]*", row[1])}
    assert len(ours) > 10
    assert ours - FLAGS == {"-n"}, "but for `nice -n`"
