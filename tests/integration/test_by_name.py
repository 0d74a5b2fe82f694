"""Tasks that are sent by their names: nothing is imported here, and what is missing on a worker is said there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import support

import ztasks
from ztasks.wire.by_name import ByName, import_by_name
from ztasks.wire.callables import describe, ship
from ztasks.wire.failures import not_loadable
from ztasks.wire.verdict import Judged, Verdict

TASKS = """
import ztasks

def plain(number):
    return number + 1

@ztasks.task(retries=5, retry_on=OSError)
def judged(number):
    return number + 2

@ztasks.task
def simple(number):
    return number + 3

class Holder:
    @staticmethod
    def inner(number):
        return number + 4

VALUE = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that can be imported here; what a test has imported of it is forgotten."""
    name = f"zt_named_{os.getpid()}_{len(os.listdir(tmp_path.parent))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tasks.py").write_text(TASKS)
    (folder / "broken.py").write_text("import zt_no_such_module\n")
    (folder / "failing.py").write_text("1 / 0\n")
    (folder / "half").mkdir()
    (folder / "half" / "__init__.py").write_text("import zt_no_such_module\n")
    (folder / "half" / "tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield name  # type: ignore[misc]
    for module in set(sys.modules) - before:
        if module.startswith("zt_named"):
            del sys.modules[module]


def test_making_and_pickling_it_imports_nothing(package: str) -> None:
    named = ByName(f"{package}.tasks.plain")
    shipped = ship(named)
    assert f"{package}.tasks" not in sys.modules
    assert package not in sys.modules
    assert (describe(named), shipped.name, named.__name__) == ("plain", "plain", "plain")
    assert named.__module__ == f"{package}.tasks"
    assert repr(named) == f"<{package}.tasks.plain, by name>"
    assert ship(ByName(f"{package}.tasks.plain")).key == shipped.key != ship(ByName(f"{package}.tasks.simple")).key


def test_unpickled_it_is_what_the_name_means_there(package: str) -> None:
    found = pickle.loads(ship(ByName(f"{package}.tasks.plain")).pickled)
    assert found(1) == 2
    assert found is sys.modules[f"{package}.tasks"].plain
    assert import_by_name(f"{package}.tasks.Holder.inner")(1) == 5
    assert isinstance(import_by_name(f"{package}.tasks.simple"), ztasks.Task)
    assert import_by_name("os.path.join") is os.path.join
    assert ByName(f"{package}.tasks.plain")(5) == 6, "called here, it is imported here"


def test_what_the_task_says_of_retries_holds(package: str) -> None:
    named = ByName(f"{package}.tasks.judged")
    found = pickle.loads(ship(named).pickled)
    assert isinstance(found, Judged)
    assert found.verdict == Verdict((OSError,))
    assert found.function.ztasks_function(1) == 3
    elsewhere = pickle.loads(ship(named.judged_elsewhere()).pickled)
    assert isinstance(elsewhere, ztasks.Task)


@pytest.mark.parametrize(
    "name",
    [
        "", "resize", "a.b.", ".a.b", "a..b", "a.b c", "a.b()", "a.1b", "a.class", "a.b;c", "a/b.c", "a.b\n", "é.b-c",
        "x" * 600 + ".y", None, 3, b"a.b",
    ],
)  # fmt: skip
def test_only_dotted_names_are_taken(name: Any) -> None:
    with pytest.raises(ztasks.InvalidOption, match=r"such as 'package\.module\.function'"):
        ByName(name)
    with pytest.raises(ztasks.InvalidOption):
        import_by_name(name)


def test_what_is_in_main_is_not_sent_by_name() -> None:
    with pytest.raises(ztasks.InvalidOption, match="__main__, which no worker can import"):
        ByName("__main__.resize")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zt_no_such_package.tasks.plain", "there is no module 'zt_no_such_package'"),
        ("{}.nowhere.plain", "'{}', as this worker has imported it from .*__init__.py, has no 'nowhere'"),
        ("{}.tasks.missing", "'{}.tasks', as this worker has imported it from .*tasks.py, has no 'missing'"),
        (
            "{}.tasks.Holder.missing",
            "'{}.tasks.Holder', as this worker has imported it from .*tasks.py, has no 'missing'",
        ),
        ("{}.tasks.VALUE", "it is no callable but 3"),
        ("{}.tasks", "has no 'tasks'"),
    ],
)
def test_what_is_missing_is_named_with_host_and_cures(package: str, name: str, message: str) -> None:
    path = name.format(package)
    with pytest.raises(ImportError, match=message.format(package)) as caught:
        import_by_name(path)
    text = not_loadable(0, "the callable of this job", caught.value).message
    assert text.count(path) >= 1
    for cure in (os.uname().nodename, "sys.path there", "Install it", "--import", "PYTHONPATH", "did not run"):
        assert cure in text


@pytest.mark.parametrize("name", ["{}.broken.plain", "{}.half.tasks.plain"])
def test_a_module_that_misses_another_names_that(package: str, name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="zt_no_such_module"):
        import_by_name(name.format(package))


def test_a_module_that_fails_to_import_says_why(package: str) -> None:
    with pytest.raises(ZeroDivisionError):
        import_by_name(f"{package}.failing.plain")


def test_options_for_a_task_by_its_name(package: str) -> None:
    task = ztasks.options(f"{package}.tasks.plain", retries=3, queue="gpu")
    assert f"{package}.tasks" not in sys.modules
    assert (task.ztasks_options.retries, task.ztasks_options.queue) == (3, "gpu")
    assert repr(task) == "<task plain>"
    assert task(3) == 4
    with pytest.raises(ztasks.InvalidOption):
        ztasks.options("plain", retries=3)


def test_an_executor_runs_tasks_by_their_names(package: str, tmp_path: Path) -> None:
    with ztasks.Executor(max_workers=1) as executor:
        assert executor.submit(ByName(f"{package}.tasks.plain"), 1).result(20) == 2
        assert executor.submit(ztasks.options(f"{package}.tasks.judged", retries=1), 1).result(20) == 3
        with pytest.raises(ztasks.CallNotLoadable, match=f"{package}.tasks.missing cannot be imported on"):
            executor.submit(ByName(f"{package}.tasks.missing"), 1).result(20)


def test_a_program_that_cannot_import_a_task_can_name_it(tmp_path: Path) -> None:
    code = "import ztasks.wire.by_name as b, sys; print(b.ByName('numpy.linalg.norm').path, 'numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=support.environment(), timeout=30
    )
    assert done.stdout == "numpy.linalg.norm False\n"
