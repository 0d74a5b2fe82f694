"""Imports point one way: the contracts in pyproject.toml, checked by import-linter (it comes with the extra `dev`)."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(LINTER), "--no-cache", "--config", "pyproject.toml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed")
def test_the_contracts_are_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed")
@pytest.mark.parametrize(
    ("file", "line"),
    [("core/lane.py", "import time"), ("wire/payload.py", "import ztasks.core.lane"), ("future.py", "import zmq")],
)
def test_the_contracts_can_be_broken(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "ztasks", tmp_path / "ztasks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "ztasks" / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 broken" in done.stdout


def test_every_module_is_in_a_layer() -> None:
    """A module that no layer names would be free of all rules."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = next(c["layers"] for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}
    top = {path.stem for path in (ROOT / "ztasks").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert named == {f"ztasks.{name}" for name in top - {"__init__", "__main__"}}
