"""`docs/path-of-a-job.md` names only files and functions that exist, and leads through at most five files."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ztasks"
TEXT = (ROOT / "docs" / "path-of-a-job.md").read_text()

HEADING = re.compile(r"^## (\d)\. `ztasks/([\w/]+\.py)`$", re.MULTILINE)
FUNCTION = re.compile(r"`(?:(?:ztasks/)?([\w/]+\.py):)?([A-Za-z_][\w.]*)\(\)`")
FILE = re.compile(r"`(?:ztasks/)?((?:\w+/)*\w+\.py)[`:]")

ELSEWHERE = {
    "Back through 2 and 3": ("io/head.py", "core/ventilator.py"),
    "What is different for `map`": ("base_executor.py",),
}
"""The files whose functions the other sections name without their file."""


@cache
def functions(file: str) -> frozenset[str]:
    """The qualified names of all functions in a file of the package."""
    names: set[str] = set()

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                if isinstance(child, ast.FunctionDef):
                    names.add(prefix + child.name)
                walk(child, f"{prefix}{child.name}.")

    walk(ast.parse((PACKAGE / file).read_text()), "")
    return frozenset(names)


def sections() -> list[tuple[str, str]]:
    """Title and text of each section."""
    parts = re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def named_functions() -> list[tuple[tuple[str, ...], str]]:
    """Every function that is named: the files it may be in, and its name."""
    found = []
    for title, text in sections():
        heading = HEADING.match(f"## {title}")
        files = (heading[2],) if heading else ELSEWHERE.get(title, ())
        found += [((match[1],) if match[1] else files, match[2]) for match in FUNCTION.finditer(text)]
    return found


def steps() -> list[str]:
    """The files of the path, in order."""
    return [match[2] for match in HEADING.finditer(TEXT)]


def test_at_most_five_files_in_order() -> None:
    numbers = [int(match[1]) for match in HEADING.finditer(TEXT)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 1 < len(numbers) <= 5


def test_same_files_as_in_the_package() -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    assert re.findall(r"^ +\d\. +([\w/]+\.py)", docstring, re.MULTILINE) == steps()


def test_every_file_exists() -> None:
    missing = {name for name in FILE.findall(TEXT) if not (PACKAGE / name).is_file()}
    assert not missing


@pytest.mark.parametrize(("files", "name"), named_functions())
def test_every_function_exists(files: tuple[str, ...], name: str) -> None:
    assert any(name in functions(file) for file in files), f"no {name}() in {' or '.join(files) or 'any file'}"


def test_it_names_functions_of_each_step() -> None:
    assert {files[0] for files, _ in named_functions() if files} >= set(steps())
    assert len(named_functions()) > 30
