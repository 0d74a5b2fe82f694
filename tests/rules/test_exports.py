"""What `ztasks` offers: each name is there, is explained, and costs nothing before it is used."""

import importlib
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ztasks
from ztasks import errors

ROOT = Path(__file__).parents[2]

PROMISED = {
    *("Executor", "Future", "Options", "Outcome", "Task", "CurrentJob", "DeathCertificate", "Retry", "RunningJob"),
    *("current_job", "options", "remote_traceback", "task"),
    *("Client", "Job", "set_default"),
    *("BadOutput", "BadPickles", "CommandFailed", "Record", "RunSummary", "read_pickles", "read_records", "run_batch"),
}

INTERNAL = {"WireError"}
"""It never reaches a user."""


def test_all_is_what_is_promised() -> None:
    kinds = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    ours = {name for name, kind in kinds.items() if issubclass(kind, errors.ZtasksError)}
    assert set(ztasks.__all__) == PROMISED | ours - INTERNAL
    assert len(ztasks.__all__) == len(set(ztasks.__all__))


@pytest.mark.parametrize("name", ztasks.__all__)
def test_each_name_is_there_and_explained(name: str) -> None:
    value = getattr(ztasks, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert name in dir(ztasks)


@pytest.mark.parametrize("name", ztasks.__all__)
def test_no_module_has_the_name_of_an_export(name: str) -> None:
    """Importing it would put the module in the place of the export."""
    assert importlib.util.find_spec(f"ztasks.{name}") is None


def test_star_import() -> None:
    namespace: dict[str, object] = {}
    exec("from ztasks import *", namespace)
    assert namespace.keys() >= set(ztasks.__all__)


def test_an_unknown_name_is_missed_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'ztasks' has no attribute 'Broker'"):
        ztasks.Broker  # noqa: B018


@pytest.mark.parametrize("module", [path.stem for path in (ROOT / "ztasks").glob("[!_]*.py")])
def test_importing_a_module_hides_no_export(module: str) -> None:
    importlib.import_module(f"ztasks.{module}")
    assert not [name for name in ztasks.__all__ if inspect.ismodule(getattr(ztasks, name))]


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ztasks", ["zmq", "cloudpickle", "rich", "click", "msgspec", "numpy"]),
        ("import ztasks; ztasks.task(len)", ["zmq", "cloudpickle", "rich", "click"]),
        ("import ztasks; ztasks.current_job()", ["zmq", "cloudpickle", "rich", "click"]),
        ("import ztasks; ztasks.Executor", ["cloudpickle", "rich", "click"]),
        ("import ztasks; ztasks.Client; ztasks.Job", ["zmq", "cloudpickle", "rich", "click", "sqlite3"]),
        ("import ztasks; ztasks.Client('127.0.0.1:7070')", ["zmq", "cloudpickle", "rich", "click", "asyncio"]),
        ("import ztasks; ztasks.run_batch", ["cloudpickle", "rich", "click"]),
        ("import ztasks; ztasks.read_records", ["zmq", "cloudpickle", "rich", "click"]),
    ],
)
def test_what_is_not_used_is_not_imported(code: str, absent: list[str]) -> None:
    check = f"import sys; {code}; print(*[name for name in {absent} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
