"""`ztasks.run_batch`: the records and guarantees of the command, from code."""

import asyncio
import contextlib
import importlib
import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import date
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import DEADLINE, Finished, check_script, environment, run_python, running, wait_for, workers, write_script

import ztasks
from ztasks import InvalidOption, Record, RunSummary, ZtasksError, read_pickles, read_records, run_batch

TASKS = """
import os, time
from datetime import date
from pathlib import Path
from ztasks import options, run_batch, task

def note(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")

def echo(x, n=0):
    note(x)
    return x

def call(*args, **kwargs):
    return [args, kwargs]

def forget(*args, **kwargs):
    return None

def typed(day: date, folder: Path, n: int = 0):
    return [type(day).__name__, type(folder).__name__, n]

def odd(x):
    note(x)
    if x % 2 and not os.path.exists("mended"):
        raise ValueError(f"{x} is odd")
    return x

def wait(x):
    note(x)
    Path(f"started-{x}").touch()
    while not os.path.exists("go"):
        time.sleep(0.005)
    return x

def wait_or_fail(x):
    if x != "fail":
        return wait(x)
    while not os.path.exists("started-a"):
        time.sleep(0.005)
    raise RuntimeError("as told")

def talk(x):
    print(f"job {x} prints")

def unequal(x):
    note(x)
    return 1j * x if x == 2 else x

@task(retries=2, backoff=0.001)
def flaky(x):
    note(x)
    if Path("ran").read_text().split().count(str(x)) < 3:
        raise OSError("not yet")
    return x

def configure(value):
    os.environ["CONFIGURED"] = value

def configured(x):
    return os.environ.get("CONFIGURED")

def nested(x):
    return str(run_batch(echo, [x], output=f"nested-{x}", workers=1)).splitlines()[0]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module that this process and its workers import."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "batch_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("batch_tasks")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["batch_tasks"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(task: Any, inputs: Any, output: Any = "out", **how: Any) -> RunSummary:
    return run_batch(task, inputs, output=output, **{"workers": 1, **how})


def command(*arguments: str, **how: Any) -> Finished:
    return run_python("-m", "ztasks", "run", *arguments, **how)


def ran() -> list[str]:
    """Return what was executed since this was last called."""
    path = Path("ran")
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def records(path: str = "out") -> list[dict[str, Any]]:
    """Parse what must be JSON Lines and nothing else."""
    text = Path(path).read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def final(path: str = "out") -> dict[Any, str]:
    """Return the status of each input's final record."""
    return {record.input: record.status for record in read_records(path)}


# --- the same as the command ---

NIGHTLY = """
import sys
from ztasks import run_batch, task

def note(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")

@task(retries=1)
def decorated(x, n: int = 0):
    note(x)
    return [x, n]

def plain(x, n: int = 0):
    note(x)
    return [x, n]

def broken(x, n: int = 0):
    raise ValueError(x)

if __name__ == "__main__":
    for function in (decorated, plain, broken):
        print(run_batch(function, [1, {"x": 2}, (3, 4), 1], output="out", resume=True, constants={"n": 5}, workers=1))
"""


@pytest.mark.parametrize(
    ("name", "as_script", "target"),
    [
        ("nightly.py", ["nightly.py"], "nightly.py"),
        ("job-of-the-night.py", ["job-of-the-night.py"], "job-of-the-night.py"),
        ("other/json.py", ["-P", "other/json.py"], "other/json.py"),
        ("package/nightly.py", ["-m", "package.nightly"], "package.nightly"),
    ],
)
def test_a_script_and_the_command_go_on_with_each_other(
    folder: Path, name: str, as_script: list[str], target: str
) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(NIGHTLY)
    (folder / "in").write_text('1\n{"x": 2}\n[3, 4]\n1\n')
    given = ("--jsonl", "in", "-o", "out", "--set", "n=5", "-j1", "--resume")
    assert command(f"{target}:plain", *given).code == 0
    assert ran() == ["1", "2", "3", "1"]
    done = run_python(*as_script)
    assert (done.code, done.err) == (0, "")
    assert ran() == ["1", "2", "3", "1"], "only the decorated one"
    assert command(f"{target}:decorated", *given).code == 0
    assert ran() == []
    found = records()
    assert len(found) == 12
    by_command, by_code = found[:4], found[8:]
    assert [list(record) for record in by_command] == [list(record) for record in by_code]
    assert [record["result"] for record in found[:8]] == [[1, 5], [2, 5], [3, 4], [1, 5]] * 2
    assert found[8]["error"]["type"] == "ValueError"
    assert len({record["source"] for record in found}) == 1
    done = command(f"{target}:broken", *given)
    assert "4 jobs: 4 failed" in done.err
    assert [record["key"] for record in records()[12:]] == [record["key"] for record in found[8:]]


APART = """
import operator
from functools import partial, wraps
from ztasks import run_batch
from ztasks.runs.batch import _work

def echo(x, n=0):
    return [x, n]

def make(n):
    def inner(x):
        return x * n
    return inner

def decorate(function):
    state = {"calls": object()}
    @wraps(function)
    def inner(*args):
        state["calls"] = object()
        return function(*args)
    return inner

@decorate
def wrapped(x):
    return x

class Model:
    def __init__(self, n):
        self.n = n
    def __call__(self, x):
        return x + self.n
    def method(self, x):
        return x + self.n

if __name__ == "__main__":
    tasks = [
        echo, partial(echo, n=1), partial(echo, n=2), wrapped, make, make(2), make(3),
        lambda x: x, lambda x: -x, lambda x: x + 1, lambda x: x + 2, lambda x: [y for y in [x]],
        Model(1), Model(2), Model(1).method, Model(2).method, abs, operator.itemgetter(0), operator.itemgetter(1),
    ]
    for task in tasks:
        print(_work(task, None, (), {}, {}).keys().next(1, b"1"))
    for n in (1, 2, 2):
        print(run_batch(partial(echo, n=n), [1], output="out", resume=True, workers=1).skipped)
"""


def test_tasks_are_told_apart_by_what_they_hold(folder: Path) -> None:
    """A partial with other arguments is another task: what the first has done is not skipped by the second."""
    *keys, first, second, third = check_script(folder, APART).split()
    assert len(set(keys)) == 19
    assert (first, second, third) == ("0", "0", "1")
    assert [record["result"] for record in records()] == [[1, 1], [1, 2]]
    again = check_script(folder, APART, env=environment(PYTHONHASHSEED="7")).split()
    assert again == [*keys, "1", "1", "1"], "and in the next process they are the same"


def test_jobs_are_not_run_again_by_another_process(tasks: ModuleType) -> None:
    """Keys do not depend on what Python makes anew in each process: hashes of strings, addresses."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport batch_tasks, ztasks\nfrom datetime import date\n"
        "inputs = [{'x': set('abc')}, {'x': frozenset('xyz'), 'n': 1}, date(2024, 2, 29), b'\\xff', 1j, object,\n"
        "          print, slice(1, 2), float('nan'), '\\udc80']\n"
        "print(ztasks.run_batch(batch_tasks.forget, inputs, output='out', resume=True, workers=1).skipped)"
    )
    for seed, skipped in (("0", 0), ("1", 10), ("2", 10)):
        done = run_python("-c", code, str(Path(tasks.__file__ or "").parent), env=environment(PYTHONHASHSEED=seed))
        assert (done.code, done.out, done.err) == (0, f"{skipped}\n", "")


# --- inputs ---


def test_inputs_become_calls(tasks: ModuleType) -> None:
    inputs = [1, (2, 3), [4], {"x": 5}, {1: 6}, "seven", None, ()]
    assert run(tasks.call, iter(inputs), ordered=True).ok
    calls = [[[1], {}], [[2, 3], {}], [[4], {}], [[], {"x": 5}], [[{"1": 6}], {}], [["seven"], {}], [[None], {}]]
    assert [record["result"] for record in records()] == [*calls, [[], {}]]
    assert [record["input"] for record in records()] == [1, [2, 3], [4], {"x": 5}, {"1": 6}, "seven", None, []]
    assert [record["index"] for record in records()] == list(range(8))

    run(tasks.call, inputs, unpack=False, overwrite=True, ordered=True)
    assert [record["result"] for record in records()] == [[[each["input"]], {}] for each in records()]

    run(tasks.call, [(1,), {"n": 2}], constants={"n": 3, "m": "4"}, overwrite=True, ordered=True)
    assert [record["result"] for record in records()] == [[[1], {"n": 3, "m": "4"}], [[], {"n": 2, "m": "4"}]]


def test_values_become_what_annotations_say(tasks: ModuleType) -> None:
    inputs = [("2024-02-29", "a"), (date(2024, 2, 29), Path("a")), {"day": "x", "folder": "a"}]
    summary = run(tasks.typed, inputs, constants={"n": "7"}, ordered=True)
    assert [record["result"] for record in records()] == [["date", "PosixPath", 7]] * 2 + [None]
    assert summary.failures == {"InvalidInput": 1}
    assert "day='x' does not become date" in records()[2]["error"]["message"]


def test_inputs_are_read_lazily_and_limited(tasks: ModuleType) -> None:
    taken = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    summary = run(tasks.echo, endless(), limit=50)
    assert (summary.jobs, summary.ok, summary.stopped) == (50, True, None)
    assert len(taken) == 50
    assert run(tasks.echo, endless(), limit=0, overwrite=True).jobs == 0
    assert len(taken) == 50
    assert run(tasks.echo, [], None).jobs == 0


def test_inputs_that_break_off(tasks: ModuleType) -> None:
    def breaking() -> Iterator[int]:
        yield from range(3)
        raise LookupError("the database has gone")

    summary = run(tasks.echo, breaking())
    assert (summary.jobs, summary.ok, summary.stopped) == (3, False, "the input ended early")
    [problem] = summary.problems
    assert problem.startswith("the inputs stopped after 3 inputs: LookupError: the database has gone\nTraceback")
    assert final() == dict.fromkeys(range(3), "ok")

    summary = run(tasks.echo, [0, threading.Lock(), 3], resume=True)
    assert not summary.ok
    assert "cannot be pickled" in " ".join([*summary.problems, *(each.message for each in summary.examples.values())])


# --- the output ---


def test_the_output_is_a_journal(tasks: ModuleType) -> None:
    assert not run(tasks.odd, [0, 1, 2, 3], limit=3).ok
    with pytest.raises(ZtasksError, match=r"out exists and is not empty: --resume goes on.*--append.*--overwrite"):
        run(tasks.odd, [0])
    assert ran() == ["0", "1", "2"]
    summary = run(tasks.odd, range(4), resume=True, skip_failed=True)
    assert (summary.skipped, summary.failed, ran()) == (3, 1, ["3"])
    assert "out has records of 3 inputs (2 ok, 1 failed): what is ok or has failed there is skipped" in summary.notes
    Path("mended").touch()
    summary = run(tasks.odd, range(4), Path("out"), resume=True)
    assert (summary.skipped, summary.ok, ran()) == (2, True, ["1", "3"])
    assert (final(), len(records())) == (dict.fromkeys(range(4), "ok"), 6)
    assert run(tasks.odd, [0], b"out", append=True).ok
    assert (final(), len(records())) == (dict.fromkeys(range(4), "ok"), 7)
    assert run(tasks.odd, [9], overwrite=True).ok
    assert final() == {9: "ok"}


def test_a_changed_source_warns_where_it_was_called(tasks: ModuleType) -> None:
    assert run(tasks.echo, [1]).ok
    Path("out").write_text(Path("out").read_text().replace('"source":"', '"source":"0'))
    with pytest.warns(UserWarning, match="the task's source has changed since results that are skipped") as caught:
        run_batch(tasks.echo, [1], output="out", resume=True, workers=1)
    assert caught[0].filename == __file__
    with warnings.catch_warnings(action="error"), pytest.raises(UserWarning):
        run(tasks.echo, [1, 2], resume=True)
    assert ran() == ["1", "2"]  # it is told when all is done: a warning that is an error loses nothing


def test_ordered(tasks: ModuleType) -> None:
    run(tasks.echo, range(300), workers=2, ordered=True)
    assert [record["index"] for record in records()] == list(range(300))


def test_without_an_output(tasks: ModuleType, folder: Path) -> None:
    summary = run(tasks.odd, [0, 1], None)
    assert (summary.statuses["ok"], summary.failures) == (1, {"ValueError": 1})
    assert os.listdir(folder) == ["ran"]


def test_logs(tasks: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    run(tasks.talk, ["a"], logs_dir="logs/deep")
    [record] = records()
    assert record["log"] == f"logs/deep/{record['key']}.log"
    assert Path(record["log"]).read_text() == "job a prints\n"
    assert capfd.readouterr() == ("", "")


def test_results_that_json_cannot_hold(tasks: ModuleType) -> None:
    summary = run(tasks.unequal, range(1, 4000))
    assert (summary.stopped, summary.ok) == ("a result does not fit into JSON", False)
    assert (
        "JSON cannot hold all of the result of 2, a complex: it is saved in out.unsaved.pickle" in summary.problems[0]
    )
    first = ran()
    summary = run(tasks.unequal, range(1, 4000), resume=True, pickle=Path("out.unsaved.pickle"))
    assert summary.ok
    assert not set(first) & set(ran())
    assert dict(read_pickles("out.unsaved.pickle")) == {
        record.key: 2j for record in read_records("out") if record.pickle == "out.unsaved.pickle"
    }
    run(tasks.unequal, [2], "other", pickle="results")
    assert [value for _, value in read_pickles("results")] == [2j]
    assert not os.path.exists("other.unsaved.pickle")


def test_what_is_written_otherwise_is_noted(tasks: ModuleType) -> None:
    summary = run(tasks.echo, [float("nan"), Path("a"), 1])
    assert "JSON has no such values, so they were written as what comes near: " in summary.notes[0]
    assert "1 x NaN or infinity" in summary.notes[0]
    assert "1 x pathlib" in summary.notes[0]
    assert [record["result"] for record in records()] == [None, "a", 1]


def test_read_records(tasks: ModuleType, folder: Path) -> None:
    run(tasks.odd, [1, 2, 2])
    with open("out", "ab") as file:
        file.write(b'\nnotes\n{"v": 1}\n[]\n{"v":1,"index":0,"ke')
    found = list(read_records(folder / "out"))
    assert all(type(record) is Record for record in found)
    failed, second, third = found
    assert (failed.v, failed.index, failed.input, failed.ok, failed.status, failed.result) == (
        *(1, 0, 1, False, "failed"),
        None,
    )
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("ValueError", "1 is odd")
    assert "raise ValueError" in (failed.error.traceback or "")
    assert (second.ok, second.result, second.attempts, third.key) == (True, 2, 1, f"{second.key}-2")
    assert second.pid != os.getpid()
    assert second.seconds >= 0
    with pytest.raises(FileNotFoundError):
        list(read_records("missing"))


# --- failures, and what stops a run ---


def test_options_of_the_task(tasks: ModuleType) -> None:
    summary = run(tasks.flaky, ["a"])
    assert (summary.ok, summary.attempts, ran()) == (True, 3, ["a"] * 3)
    summary = run(tasks.flaky, ["b"], "second", options={"retries": 1})
    assert (summary.failures, summary.attempts, ran()) == ({"OSError": 1}, 2, ["b"] * 2)
    summary = run(tasks.wait, ["c"], "third", options={"timeout": "50ms"})
    assert summary.statuses["timeout"] == 1
    summary = run(ztasks.options(tasks.odd, retries=1, backoff=0.0), [1], "fourth")
    assert summary.attempts == 2


@pytest.mark.parametrize(("limit", "least", "most"), [(3, 3, 1500), ("3", 3, 1500), ("50%", 3, 3999)])
def test_max_failures(tasks: ModuleType, limit: Any, least: int, most: int) -> None:
    summary = run(tasks.odd, (1 for _ in range(4000)), max_failures=limit)
    assert summary.stopped is not None
    assert summary.stopped.startswith("stopped after ")
    assert not summary.ok
    assert least <= summary.failed == len(ran()) < most
    assert len(records()) == summary.jobs


def test_halt_now_kills_what_runs(tasks: ModuleType) -> None:
    summary = run(tasks.wait_or_fail, ["a", "fail", "b"], workers=2, max_failures=1, halt="now")
    assert summary.stopped == "stopped after 1 failure"
    found = final()
    assert found["fail"] == "failed"
    assert found["a"] in ("lost", "cancelled")
    assert found.get("b", "cancelled") == "cancelled"
    assert len(records()) == summary.jobs == len(found)


def test_halt_soon_finishes_what_runs(tasks: ModuleType) -> None:
    def go_when_failed() -> None:
        wait_for(lambda: os.path.exists("out") and '"as told"' in Path("out").read_text(), "the failure")
        Path("go").touch()

    waiting = threading.Thread(target=go_when_failed)
    waiting.start()
    summary = run(tasks.wait_or_fail, ["a", "fail", *map(str, range(100))], workers=2, max_failures=1)
    waiting.join()
    assert summary.stopped == "stopped after 1 failure"
    assert (final()["a"], final()["fail"]) == ("ok", "failed")
    assert summary.statuses["ok"] == len(ran()) <= 2, "one may have begun beside the first"


def test_the_summary(tasks: ModuleType) -> None:
    summary = run(tasks.odd, [0, 1, 2, 3, 4], workers=2)
    assert summary.statuses == {"ok": 3, "failed": 2, "timeout": 0, "lost": 0, "cancelled": 0}
    assert (summary.jobs, summary.failed, summary.ok) == (5, 2, False)
    assert (summary.skipped, summary.attempts, summary.workers) == (0, 5, 2)
    assert (summary.stopped, summary.problems, summary.notes) == (None, [], [])
    assert summary.failures == {"ValueError": 2}
    example = summary.examples["ValueError"]
    assert example.input in (1, 3)
    assert example.message == f"{example.input} is odd"
    assert 0 < summary.busy_seconds < summary.seconds * 2
    assert len(summary.slowest) == 3
    slow = [job.seconds for job in summary.slowest]
    assert slow == sorted(slow, reverse=True)
    assert all(job.input == job.place for job in summary.slowest)
    text = str(summary)
    assert text.startswith("5 jobs: 3 ok, 2 failed\n")
    assert "2 x ValueError, such as " in text
    with pytest.raises(AttributeError):
        summary.skipped = 1  # type: ignore[misc]


# --- workers ---


def test_workers_and_their_initializer(tasks: ModuleType) -> None:
    summary = run(tasks.configured, [1], workers=3, initializer=tasks.configure, initargs=("x",))
    assert summary.workers == 3
    assert records()[0]["result"] == "x"
    summary = run(tasks.odd, range(0, 20, 2), max_tasks_per_child=2, overwrite=True)
    assert len({record["pid"] for record in records()}) >= 5, "further options are those of Executor"


def test_the_executor_around_it_stays_the_one_of_all_tasks(tasks: ModuleType) -> None:
    flaky = ztasks.task(pow)
    with ztasks.Executor(max_workers=1) as executor:
        run(tasks.echo, [1])
        assert flaky.submit(2, 3).result() == 8
        assert executor.submit(pow, 2, 4).result() == 16


def test_inside_of_a_job(tasks: ModuleType) -> None:
    assert run(tasks.nested, ["a", "b"], workers=2).ok
    assert {record["result"] for record in records()} == {"1 job: 1 ok"}
    assert final("nested-a") == {"a": "ok"}


# --- threads ---


def test_from_other_threads(tasks: ModuleType) -> None:
    """Several at a time; a file is for one of them."""
    handler = signal.getsignal(signal.SIGINT)
    found: dict[str, Any] = {}

    def batch(name: str) -> None:
        try:
            found[name] = run(tasks.wait, [name], f"out-{name}")
        except ZtasksError as error:
            found[name] = error

    threads = [threading.Thread(target=batch, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    wait_for(lambda: os.path.exists("started-a") and os.path.exists("started-b"), "both jobs")
    with pytest.raises(ZtasksError, match="out-a is being written by another run"):
        run(tasks.wait, ["c"], "out-a", resume=True)
    Path("go").touch()
    for thread in threads:
        thread.join(DEADLINE)
    assert [found[name].ok for name in ("a", "b")] == [True, True]
    assert sorted(ran()) == ["a", "b"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_beside_an_event_loop(tasks: ModuleType) -> None:
    async def main() -> RunSummary:
        batch = asyncio.create_task(asyncio.to_thread(run, tasks.wait, ["a"]))
        while not os.path.exists("started-a"):
            await asyncio.sleep(0.005)
        Path("go").touch()
        return await batch

    assert asyncio.run(main()).ok
    assert final() == {"a": "ok"}


# --- Ctrl-C ---

INTERRUPTED = """
    import os, signal, sys, time
    from pathlib import Path
    from ztasks import run_batch

    def wait(x):
        Path(f"started-{x}").touch()
        while not os.path.exists("go"):
            time.sleep(0.005)
        Path(f"finished-{x}").touch()
        return x

    if __name__ == "__main__":
        before = signal.getsignal(signal.SIGINT)
        try:
            run_batch(wait, range(500), output="out", workers=2)
        except KeyboardInterrupt:
            print("interrupted", signal.getsignal(signal.SIGINT) is before, flush=True)
            sys.exit(7)
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_in_a_script(folder: Path, presses: int) -> None:
    with running(str(write_script(folder, INTERRUPTED))) as process:
        wait_for(lambda: len(list(folder.glob("started-*"))) == 2, "two jobs to start")
        crew = workers(process.pid)
        assert len(crew) >= 2
        process.send_signal(signal.SIGINT)
        if presses == 1:
            assert process.stdout is not None
            wait_for(lambda: b"cancelled" in (folder / "out").read_bytes(), "the records of what is not run")
            assert process.poll() is None, "what runs is finished"
            (folder / "go").touch()
        else:
            wait_for(lambda: b"cancelled" in (folder / "out").read_bytes(), "the records of what is not run")
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (7, "interrupted True\n", "")
    finished = [int(path.name.removeprefix("finished-")) for path in folder.glob("finished-*")]
    assert len(finished) == (2 if presses == 1 else 0)
    found = final()
    assert sorted(input_ for input_, status in found.items() if status == "ok") == sorted(finished)
    assert set(found.values()) - {"lost"} <= {"ok", "cancelled"}
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in crew), "the end of the workers")
    (folder / "go").touch()
    summary = run_python("-c", "import script, ztasks; print(ztasks.run_batch(script.wait, range(500), output='out', "
                         "resume=True))")  # fmt: skip
    assert f"{500 - len(finished)} jobs: {500 - len(finished)} ok" in summary.out, summary.err


# --- the display ---


def test_progress_on_a_terminal_and_elsewhere(folder: Path) -> None:
    script = write_script(
        folder,
        """
        import os, time
        from ztasks import run_batch

        def talk(x):
            print(f"job {x} prints")
            while not os.path.exists("go"):
                time.sleep(0.005)

        if __name__ == "__main__":
            run_batch(talk, ["a", "b"], output="out", workers=1, progress=True)
            print("done")
        """,
    )
    screen, inner = os.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(screen, 65536):
                shown.extend(data)

    reader = threading.Thread(target=read)
    try:
        process = subprocess.Popen(
            [sys.executable, str(script)], stdout=inner, stderr=inner, env=environment(TERM="xterm", COLUMNS="100")
        )
        os.close(inner)
        reader.start()
        wait_for(lambda: b"0/2 done" in shown, "the status")
        Path("go").touch()
        assert process.wait(DEADLINE) == 0
        reader.join(DEADLINE)
    finally:
        os.close(screen)
    text = shown.decode()
    for part in ("[a] job a prints\r\n", "[b] job b prints\r\n", "/2 done", "━", "\x1b[?25h", "done\r\n"):
        assert part in text, text
    os.unlink("out")
    done = run_python(str(script))
    assert (done.code, done.out) == (0, "done\n")
    assert "[a] job a prints\n" in done.err
    assert "\x1b" not in done.err


# --- wrong arguments ---


class NoPath:
    def __fspath__(self) -> str:
        raise RuntimeError("broken")


async def coroutine(x: int) -> int:
    return x


BAD: dict[str, list[Any]] = {
    "task": [None, 5, "json:dumps", coroutine],
    "inputs": [None, 5, "abc", b"abc", object()],
    "output": [5, 1.5, True, [], "", "a\0b", NoPath(), "no/such/file", ".", "x" * 300],
    "resume": [1, "yes", None],
    "append": [1, "yes", None],
    "overwrite": [1, "yes", None],
    "skip_failed": [1, "yes", None, True],
    "constants": [5, "n=1", ["n"], {1: 2}, {"nonsense": 1}, {"": 1}, 0],
    "unpack": [1, "yes", None],
    "limit": [-1, 1.5, "5", True, 10**30, float("nan")],
    "ordered": [1, "yes", None],
    "max_failures": [0, -1, 1.5, "0", "-1", "0%", "101%", "many", True, [], 10**30 * -1],
    "halt": ["later", None, 1, True, []],
    "pickle": [5, True, "", "a\0b", NoPath(), "no/such/file", "."],
    "logs_dir": [5, True, "", "a\0b", NoPath(), "script/below"],
    "workers": [0, -1, 1.5, "2", True, 10**9, float("nan")],
    "initializer": [5, "setup", coroutine],
    "initargs": [5, "abc", None, {"a": 1}],
    "strict": [1, "yes", None],
    "progress": [1, "yes", None],
    "head": [5, True, b"@x", "", "@missing.join", "@script", "{}", "192.0.2.1:7070"],
    "options": [5, "retries=1", ["retries"], {1: 2}, {"nonsense": 1}, {"retries": -1}, {"timeout": "soon"}, 0],
    "preload": [5, "json", [5]],
    "max_tasks_per_child": [0, -1, "5", True],
    "max_bytes": [-1, "much", True],
    "gpus": ["some", -1],
}


def test_all_arguments_are_tried() -> None:
    named = inspect.signature(run_batch).parameters
    assert set(named) - {"executor_options"} <= set(BAD)


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments_are_refused_and_leave_nothing(tasks: ModuleType, folder: Path, name: str) -> None:
    (folder / "script").touch()
    (folder / "old").write_text('{"torn')
    for value in BAD[name]:
        for output, mode in (("old", {"overwrite": True}), ("new", {}), ("old", {"resume": True})):
            if name in ("resume", "append", "overwrite", "output") or (name == "skip_failed" and value is True):
                mode = {}
            arguments: dict[str, Any] = {"task": tasks.odd, "inputs": [1], "output": output, "workers": 1, **mode}
            if name == "initargs":
                arguments["initializer"] = tasks.configure
            if name == "head":
                del arguments["workers"]
            arguments[name] = value
            with pytest.raises(ZtasksError) as caught:
                run_batch(arguments.pop("task"), arguments.pop("inputs"), **arguments)
            assert "Traceback" not in str(caught.value)
            assert sorted(os.listdir()) == ["old", "script"], (value, mode)
            assert Path("old").read_text() == '{"torn'


def test_arguments_that_do_not_go_together(tasks: ModuleType, folder: Path) -> None:
    for wrong, said in (
        ({"resume": True, "append": True}, "resume and append exclude each other"),
        ({"append": True, "overwrite": True}, "append and overwrite exclude each other"),
        ({"resume": True, "output": None}, "resume=True needs the file"),
        ({"overwrite": True, "output": None}, "overwrite=True needs the file"),
        ({"skip_failed": True}, "skip_failed=True is for resume=True"),
    ):
        with pytest.raises(InvalidOption, match=said):
            run(tasks.odd, [1], **{"output": "out", **wrong})
    with pytest.raises(TypeError, match="wrokers"):
        run(tasks.odd, [1], wrokers=3)
    with pytest.raises(TypeError, match="output"):
        run_batch(tasks.odd, [1])  # type: ignore[call-arg]
    assert os.listdir(folder) == []


def test_a_task_that_cannot_travel(tasks: ModuleType, folder: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(ZtasksError, match="cannot be pickled"):
        run(lambda x: lock, [1])
    with pytest.raises(ZtasksError, match="cannot be pickled"):
        run(tasks.odd, [1], initializer=partial(print, lock))
    assert os.listdir(folder) == []
