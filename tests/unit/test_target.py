"""Targets: files and modules, names that collide, and what a mistake is answered with."""

import functools
import pickle
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ztasks.runs.target import (
    BadTarget,
    Target,
    listing,
    load,
    load_again,
    load_value,
    names_a_task,
    source_digest,
)

SOURCE = """
import dataclasses
from os.path import join
from ztasks import task

CONSTANT = 3

@dataclasses.dataclass
class Point:
    x: int

def measure(path, deep: bool = False):
    return Point(len(path))

@task(retries=2)
def decorated(x):
    return x

def _private(x):
    return x

async def later(x):
    return x

class Kind:
    @staticmethod
    def method(x):
        return [x]
"""

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_trace() -> Iterator[None]:
    """Loading a target changes `sys.path` and `sys.modules`: that is its purpose, and ends with the test."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, source: str = SOURCE) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write_file


def refusal(text: str) -> str:
    with pytest.raises(BadTarget) as caught:
        load(text)
    return str(caught.value)


def by_reference(target: Target) -> bytes:
    """What a worker gets: it fails if the function cannot be found by its name."""
    return pickle.dumps(target.function)


# --- files ---


def test_a_file_is_loaded_under_its_own_name(write: Write) -> None:
    write("tools/stats_for_test.py")
    target = load("tools/stats_for_test.py:measure")
    assert target.name == "stats_for_test:measure"
    assert target.in_workers is None
    assert target.function.__module__ == "stats_for_test"
    assert target.function("abc") == pickle.loads(pickle.dumps(target.function("abc")))
    assert sys.path[0].endswith("/tools")
    assert b"stats_for_test" in by_reference(target)


@pytest.mark.parametrize(
    "name", ["json.py", "click.py", "my-stats.py", "2nd.py", "class é.py", "__main__.py", "stats.txt"]
)
def test_a_file_whose_name_is_taken_gets_one_of_its_own(write: Write, name: str) -> None:
    path = write(f"tools/{name}")
    target = load(f"tools/{name}:measure")
    assert target.name == f"{Path(name).stem}:measure"
    module = target.function.__module__
    assert module.isidentifier()
    assert "__main__" not in module.removeprefix("main_")
    assert b"measure" in by_reference(target)
    assert sys.path[0] != str(Path(path).parent)
    assert sys.path[-1] == str(Path(path).parent)
    assert target.in_workers == (load_again, (path, module))
    import json

    assert hasattr(json, "dumps")


def test_a_worker_finds_such_a_file_again(write: Write) -> None:
    write("json.py")
    target = load("json.py:measure")
    pickled = by_reference(target)
    assert target.in_workers is not None
    again, arguments = target.in_workers
    del sys.modules[target.function.__module__]
    again(*arguments)
    loaded = pickle.loads(pickled)
    assert loaded is not target.function
    assert loaded("abc").x == 3


def test_a_package_beside_the_file_does_not_take_its_place(write: Write) -> None:
    write("twin_for_test/__init__.py", "")
    write("twin_for_test.py")
    target = load("twin_for_test.py:measure")
    assert target.in_workers is not None
    assert target.function("abc").x == 3


def test_the_guard_of_a_script_is_not_run(write: Write) -> None:
    write("guarded_for_test.py", "def f(x): return x\nif __name__ == '__main__': raise SystemExit('run')\n")
    assert load("guarded_for_test.py:f").function(1) == 1


def test_modules_beside_the_file_can_be_imported(write: Write) -> None:
    write("tools/sibling_for_test.py", "VALUE = 5")
    write("tools/uses_for_test.py", "import sibling_for_test\ndef f(x): return sibling_for_test.VALUE")
    assert load("tools/uses_for_test.py:f").function(0) == 5


# --- modules ---


def test_a_module_is_found_from_the_working_directory(write: Write) -> None:
    write("pack_for_test/__init__.py", "")
    write("pack_for_test/inner.py")
    target = load("pack_for_test.inner:measure")
    assert target.name == "pack_for_test.inner:measure"
    assert target.function("ab").x == 2
    assert target.in_workers is None


def test_an_installed_module() -> None:
    assert load("os.path:basename").function("a/b") == "b"
    assert load("math:sqrt").function(4) == 2


# --- names ---


def test_dotted_names_lead_into_classes(write: Write) -> None:
    write("dotted_for_test.py")
    assert load("dotted_for_test.py:Kind.method").function(1) == [1]


def test_a_decorated_task_keeps_its_options(write: Write) -> None:
    write("options_for_test.py")
    assert load("options_for_test.py:decorated").function.ztasks_options.retries == 2  # type: ignore[attr-defined]


def test_without_a_name_what_is_there_is_listed(write: Write) -> None:
    write("listed_for_test.py")
    for text in ("listed_for_test.py", "listed_for_test.py:", "listed_for_test"):
        message = refusal(text)
        assert "names no task" in message
        listed = [line.strip() for line in message.splitlines()[1:]]
        assert listed == ["decorated(x)", "later(x)", "measure(path, deep: bool = False)"]


def test_an_unknown_name_gives_close_matches(write: Write) -> None:
    write("close_for_test.py")
    message = refusal("close_for_test.py:mesure")
    assert "close_for_test.py has no 'mesure'. Did you mean measure?" in message
    assert "measure(path, deep: bool = False)" in message
    assert "Did you mean method?" in refusal("close_for_test.py:Kind.metod")


def test_a_name_that_cannot_be_run(write: Write) -> None:
    write("kinds_for_test.py")
    assert "CONSTANT is a int, not a function" in refusal("kinds_for_test.py:CONSTANT")
    assert "async function" in refusal("kinds_for_test.py:later")


def test_an_unknown_file_gives_close_matches(write: Write) -> None:
    write("tools/stats.py")
    assert refusal("tools/stat.py:f") == "the file tools/stat.py does not exist. Did you mean tools/stats.py?"
    assert "tools/ is a directory" in refusal("tools/:f")
    assert refusal("nowhere/x.py:f") == "the file nowhere/x.py does not exist."


def test_an_unknown_module_gives_close_matches(write: Write) -> None:
    write("stats_here.py")
    assert "Did you mean stats_here?" in refusal("stats_her:f")
    write("sub.dir/deep.py")
    assert "there is no module 'no_such_package'" in refusal("no_such_package.module:f")
    assert "there is no module 'os.nothing'" in refusal("os.nothing:f")


@pytest.mark.parametrize("text", ["", ":", ":f", "a b:f", "1x:f", "..:f"])
def test_what_is_no_target_at_all(text: str) -> None:
    assert refusal(text)


# --- code that fails ---


def test_code_that_raises_is_shown_with_its_own_traceback(write: Write) -> None:
    write("raises_for_test.py", "def g():\n    return 1 / 0\n\ng()\n")
    message = refusal("raises_for_test.py:f")
    assert message.startswith("raises_for_test.py cannot be loaded:\nTraceback")
    assert 'raises_for_test.py", line 4' in message
    assert message.endswith("ZeroDivisionError: division by zero")
    assert "importlib" not in message
    assert "target.py" not in message
    assert "raises_for_test" not in sys.modules


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("from . import sibling\n", "write package.module:TASK"),
    ],
)
def test_code_that_cannot_be_loaded(write: Write, source: str, said: str) -> None:
    write("broken_for_test.py", source)
    assert said in refusal("broken_for_test.py:f")
    assert "broken_for_test cannot be loaded" in refusal("broken_for_test:f")


def test_keyboard_interrupt_is_not_swallowed(write: Write) -> None:
    write("stopped_for_test.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load("stopped_for_test.py:f")


# --- what else is to be known of a target ---


def test_the_source_of_a_task_has_a_digest(write: Write) -> None:
    write("source_for_test.py")
    first = load("source_for_test.py:measure").source
    assert first is not None
    assert len(first) == 8
    assert load("source_for_test.py:decorated").source == first
    assert load("source_for_test.py:Kind.method").source == first
    write("source_for_test.py", SOURCE + "# changed\n")
    assert load("source_for_test.py:measure").source not in (first, None)


def test_what_is_in_no_file_has_no_source() -> None:
    assert load("time:sleep").source is None
    assert source_digest(functools.partial(len)) is None
    assert source_digest(object()) is None


def test_a_partial_has_the_source_of_its_function(write: Write) -> None:
    write("partial_for_test.py", "import functools\ndef f(a, b): return a + b\ng = functools.partial(f, 1)\n")
    assert load("partial_for_test.py:g").source == load("partial_for_test.py:f").source is not None


def test_a_file_is_loaded_once(write: Write) -> None:
    write("once_for_test.py", SOURCE + "\ncases = [1, 2]\n")
    write("tools/json.py", SOURCE + "\ncases = [1, 2]\n")
    for file in ("once_for_test.py", "tools/json.py"):
        target = load(f"{file}:measure")
        assert load_value(f"{file}:cases") == [1, 2]
        again = load(f"{file}:measure")
        assert again.function is target.function
        assert again.in_workers == target.in_workers


def test_any_value_can_be_loaded(write: Write) -> None:
    write("values_for_test.py")
    assert load_value("values_for_test.py:CONSTANT") == 3
    assert load_value("values_for_test.py:Kind").method(1) == [1]
    with pytest.raises(BadTarget, match=r"has no 'CONSTANTS'\. Did you mean CONSTANT\?"):
        load_value("values_for_test.py:CONSTANTS")
    with pytest.raises(BadTarget, match=r"'values_for_test.py' names nothing: write values_for_test.py:NAME"):
        load_value("values_for_test.py")


@pytest.mark.parametrize(
    ("text", "names"),
    [("a.py:f", True), ("a.b:c.d", True), ("a.py", False), ("a.py:", False), (":f", False), ("", False), (":", False)],
)
def test_whether_a_target_names_a_task(text: str, names: bool) -> None:
    assert names_a_task(text) is names


def test_the_tasks_of_a_file_are_listed_with_what_they_do(write: Write) -> None:
    write("doc_for_test.py", 'def b(x: int):\n    """Does it.\n\n    More."""\n\ndef a():\n    pass\n')
    assert listing("doc_for_test.py").splitlines() == ["doc_for_test.py:a()", "doc_for_test.py:b(x: int)  Does it."]
    assert listing("doc_for_test").startswith("doc_for_test:a()")
    write("empty_for_test.py", "import os\nX = len\n")
    with pytest.raises(BadTarget, match=r"empty_for_test.py defines no functions"):
        listing("empty_for_test.py")


@pytest.mark.parametrize("file", ["setup_for_test.py", "json.py"])
def test_a_worker_calls_what_prepares_it(write: Write, file: str) -> None:
    write(file, "done = []\nclass Kind:\n    @staticmethod\n    def setup():\n        done.append('set up')\n")
    target = load(f"{file}:Kind.setup")
    function, arguments = pickle.loads(pickle.dumps(target.step()))
    name = target.function.__module__
    if target.in_workers is not None:
        del sys.modules[name]
    function(*arguments)
    assert sys.modules[name].done == ["set up"]
