"""The check whether ztasks is installed where the user's packages are: workers can import nothing else.

What pipx, `uv tool` and uvx install is alone with what it needs, in an environment of its own. And it may be another
environment that is active, or that lies in the project.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from ztasks.cli.check_install import needed, parse_requirement
from ztasks.cli.cures import install_command
from ztasks.cli.findings import OK, WARNING, Finding

WHY: Final = (
    "Workers run in the environment of ztasks itself, and can import only what is installed there, the standard "
    "library, and files beside the target."
)
TOOLS: Final = frozenset(("pip", "setuptools", "wheel", "uv", "distribute", "pkg-resources"))
"""What is in an environment without anybody's wish."""

SHOWN: Final = 4
"""How many of the packages beside ztasks are named."""


class Place(NamedTuple):
    """An environment of Python: which tool has made it, and how it is called in a sentence."""

    kind: str
    """pipx, pipx run, uv tool, uvx, uv run, venv, conda or system."""
    prefix: str

    @property
    def isolated(self) -> bool:
        """Whether it was made for this command alone."""
        return self.kind in _ISOLATED

    def __str__(self) -> str:
        return f"{_NAMES[self.kind]} {self.prefix}"


_ISOLATED: Final = ("pipx", "pipx run", "uv tool", "uvx")
_NAMES: Final = {
    "pipx": "the isolated environment of pipx,",
    "pipx run": "a passing environment of pipx run,",
    "uv tool": "the isolated environment of uv tool,",
    "uvx": "a passing environment of uvx,",
    "uv run": "an environment of uv run,",
    "venv": "virtual environment",
    "conda": "conda environment",
    "system": "no environment, but the Python in",
}
_CURES: Final = {
    "pipx": "pipx inject ztasks {}",
    "pipx run": "pipx install ztasks && pipx inject ztasks {}",
    "uv tool": "uv tool install ztasks --with {}",
    "uvx": "uvx --with {} ztasks run ...",
    "uv run": "uv run --with {} ztasks run ...",
}


def environment() -> list[Finding]:
    """Check this process's environment."""
    place = where(sys.prefix, sys.base_prefix)
    details: dict[str, Any] = {"kind": place.kind, "prefix": place.prefix, "base_prefix": sys.base_prefix}
    other = other_environment(place.prefix, os.environ, _here())
    if place.isolated:
        beside = sorted(packages_beside(place.prefix))
        details |= {"packages": beside, "project": other[0] if other else None}
        return [_isolated(place, beside, other, details)]
    if other:
        prefix, how = other
        found = f"ztasks runs in {place}; but {how}"
        cure = f"Use the ztasks of that environment: {_use(prefix)}"
        return [Finding("environment", WARNING, found, WHY, cure, details={**details, "project": prefix})]
    command = command_elsewhere(place.prefix)
    if command:
        found = f"{place}; but the command `ztasks` in PATH is another one: {command}"
        cure = f"Write `{shlex.quote(sys.executable)} -m ztasks`, or put {place.prefix}/bin first in PATH."
        return [Finding("environment", WARNING, found, WHY, cure, details={**details, "command": command})]
    return [Finding("environment", OK, str(place), WHY, details=details)]


def _isolated(place: Place, beside: list[str], other: tuple[str, str] | None, details: dict[str, Any]) -> Finding:
    project = "install ztasks into your project's environment: python -m pip install ztasks (or uv add ztasks)"
    if other:
        project = f"use the environment of your project: {_use(other[0])}"
    cure = f"Add what your tasks import: {add_command(place, 'PACKAGE')}\nOr {project}"
    if beside and not other:
        shown = ", ".join(beside[:SHOWN]) + (f" and {len(beside) - SHOWN} more" if len(beside) > SHOWN else "")
        return Finding("environment", OK, f"{place}; besides ztasks, it holds {shown}", WHY, cure, details=details)
    holds = "it holds nothing but ztasks and what that needs" if not beside else f"it holds {', '.join(beside[:SHOWN])}"
    found = f"ztasks runs in {place}: {holds}{f'; and {other[1]}' if other else ''}"
    return Finding("environment", WARNING, found, WHY, cure, details=details)


def add_command(place: Place, package: str) -> str:
    """Return the command that gives the workers another package."""
    return _CURES[place.kind].format(package) if place.kind in _CURES else install_command(package)


def where(prefix: str, base_prefix: str) -> Place:
    """Tell which tool has made the environment: by its path, and by the files that the tools leave in it."""
    path = Path(prefix)
    parts = path.parts[:-1]
    config = _text(path / "pyvenv.cfg")
    if prefix == base_prefix:
        return Place("conda" if (path / "conda-meta").is_dir() else "system", prefix)
    if re.search(r"^extends-environment\s*=", config, re.MULTILINE):
        return Place("uv run", prefix)  # a layer upon the project's environment, which it sees
    if (path / "uv-receipt.toml").is_file() or parts[-2:] == ("uv", "tools"):
        return Place("uv tool", prefix)
    if any(re.fullmatch(r"(archive|environments|builds)-v\d+", part) for part in parts):
        return Place("uvx", prefix)  # folders of uv's cache
    if parts[-2:] in (("pipx", ".cache"), (".cache", "pipx"), ("pipx", "cache")):
        return Place("pipx run", prefix)
    if (path / "pipx_metadata.json").is_file() or parts[-2:] == ("pipx", "venvs"):
        return Place("pipx", prefix)
    return Place("venv", prefix)


def other_environment(prefix: str, environ: Mapping[str, str], here: str) -> tuple[str, str] | None:
    """Return the environment that the user probably means, and how that shows; None if it is this one."""
    active = environ.get("VIRTUAL_ENV", "")
    if active and os.path.isdir(active):
        return None if _same(active, prefix) else (active, f"another environment is active: VIRTUAL_ENV is {active}")
    conda, name = environ.get("CONDA_PREFIX", ""), environ.get("CONDA_DEFAULT_ENV", "")
    if conda and name != "base" and os.path.isdir(conda) and not _same(conda, prefix):
        return conda, f"the conda environment {name or conda} is active"
    for folder in (".venv", "venv"):
        beside = os.path.join(here, folder)
        if here and os.path.isfile(f"{beside}/pyvenv.cfg"):
            return None if _same(beside, prefix) else (beside, f"there is an environment in this directory: ./{folder}")
    return None


def packages_beside(prefix: str) -> set[str]:
    """Return the packages that are installed in an environment beside ztasks and what that needs."""
    found = {
        _normal(each.metadata["Name"] or ""): each.requires or []
        for each in importlib.metadata.distributions()
        if f"{os.path.realpath(str(each.locate_file('')))}{os.sep}".startswith(f"{os.path.realpath(prefix)}{os.sep}")
    }
    ours = {"ztasks"}
    queue = [_normal(package.name) for package in needed()]
    while queue:
        name = queue.pop()
        if name not in ours:
            ours.add(name)
            queue += [_normal(parse_requirement(line).name) for line in found.get(name, ()) if "extra" not in line]
    return found.keys() - ours - TOOLS - {""}


def command_elsewhere(prefix: str) -> str:
    """Return the interpreter of the command `ztasks` in PATH if that is not of this environment; else nothing."""
    command = shutil.which("ztasks")
    if command is None or os.path.realpath(sys.argv[0]) == os.path.realpath(command):
        return ""
    for interpreter in interpreters(command):
        if not _same(os.path.dirname(os.path.dirname(interpreter)), prefix):
            return f"{command}, which runs {interpreter}"
    return ""


def interpreters(script: str) -> Iterator[str]:
    """Yield the Python that the first lines of a script name (the second, where the path is long or has spaces)."""
    try:
        with open(script, "rb") as file:
            head = file.read(4096).decode(errors="replace")
    except OSError:
        return
    found = re.match(r"#!(\S*python[\w.]*)\s", head) or re.match(
        r"#!/bin/sh\n'''exec' [\"']?(/.*?)[\"']? \"\$0\"", head
    )
    if found:
        yield found[1]


def _use(prefix: str) -> str:
    """Return how to use ztasks in another environment."""
    if os.path.exists(f"{prefix}/bin/ztasks"):
        return (
            f"{shlex.quote(f'{prefix}/bin/ztasks')} run ... (after activating it, `hash -r` makes the shell look anew)"
        )
    python = f"{prefix}/bin/python"
    if "uv = " in _text(Path(prefix) / "pyvenv.cfg"):
        return f"uv pip install --python {shlex.quote(python)} ztasks"
    return f"{shlex.quote(python)} -m pip install ztasks"


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it has been deleted
        return ""


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
