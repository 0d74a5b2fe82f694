"""No file of the repository names a path of the machine that it was built on."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

MACHINE = [
    "/".join(parts) for parts in (("", "work", "main"), ("", "work", "shared"), ("", "tmp", "v", ""), ("", "root", "."))
]
"""Put together here, so that this file does not name them."""

NOT_OURS = {"__pycache__", "build", "dist", "node_modules", "stats.jsonl"}
"""What is made here: the last by the README's main job, whose inputs are files of this machine."""


def files(folder: Path) -> Iterator[Path]:
    """The repository's files: what is hidden is a cache or an environment, but for .ci and .gitignore."""
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or (path.name.startswith(".") and path.name not in (".ci", ".gitignore")):
            continue
        if path.is_dir():
            yield from files(path)
        elif path.is_file():
            yield path


def test_no_path_of_the_build_machine() -> None:
    found = [path for path in files(ROOT) if any(name.encode() in path.read_bytes() for name in MACHINE)]
    assert found == []


def test_the_repository_is_looked_through() -> None:
    names = {str(path.relative_to(ROOT)) for path in files(ROOT)}
    assert {".ci/run", "pyproject.toml", "README.md", "ztasks/core/lane.py", "tests/rules/test_paths.py"} <= names
