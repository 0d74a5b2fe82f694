"""The commands that ask a head: what they show to people and to programs, and how they end."""

import json
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import support

sys.path.append(str(Path(__file__).parents[1] / "hosts"))  # for `fleet`

from fleet import Fleet

from ztasks.cli import asking, jobs, status, workers
from ztasks.cli.main import COMMANDS, cli, main
from ztasks.cli.result import document, shown, trace_of
from ztasks.cli.send import parse_arguments
from ztasks.errors import HeadLost, InvalidOption, JobTimeout, RemoteTraceback
from ztasks.runs import place, shipping
from ztasks.runs.batch import run_batch
from ztasks.runs.progress import Activity, status_text
from ztasks.runs.record_file import read_records
from ztasks.runs.records import status_of
from ztasks.runs.summary import Tally

TASKS = """
import time
from pathlib import Path
from ztasks import task

@task
def double(x, times=2):
    return x * times

@task
def fail(x):
    raise ValueError(f"no {x}")

@task
def flag(path):
    if not Path(path).exists():
        raise LookupError("not yet")
    return "there"

@task
def wait(path):
    Path(path).touch()
    while True:
        time.sleep(0.01)

def peculiar():
    return 1j

def odd_floats():
    return {"inf": [float("inf")]}

def generator():
    return (each for each in ())

class Shop:
    def __eq__(self, other):
        return True

def shop():
    return Shop()
"""

BATCH = """
import dataclasses, os, time
import beside
from ztasks import task

@dataclasses.dataclass
class Case:
    n: int

class Odd(Exception):
    pass

@task
def half(n: int) -> int:
    if n % 2:
        raise Odd(f"{n} is odd")
    return n // 2 * beside.ONE

@task
def grow(case: Case) -> Case:
    return Case(case.n + 1)

def cases():
    return [Case(1), Case(2)]

def set_up():
    os.environ["BATCH_SET_UP"] = os.environ.get("BATCH_SET_UP", "") + "x"

@task
def seen(n: int) -> tuple[str, int]:
    time.sleep(0.05)
    return os.environ["BATCH_SET_UP"]

@task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
"""

UNKNOWN = "0123456789abcdef-7"


@pytest.fixture(scope="module")
def fleet(_own_tmpdir: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A head and a foreman with two workers, which can import `shop`."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "shop.py").write_text(TASKS)
    with Fleet(folder) as fleet:
        fleet.start_head()
        fleet.start_foreman("smith", "--import", "shop", "--tag", "big", workers=2, queues=["default", "slow"])
        yield fleet


Command = Callable[..., support.Finished]


@pytest.fixture
def ztasks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as if its output went into a pipe."""
    monkeypatch.setenv("ZTASKS_HEAD", fleet.join("client"))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.chdir(fleet.folder)

    def run(*arguments: object) -> support.Finished:
        code = main([str(argument) for argument in arguments])
        return support.Finished(code, *capfd.readouterr())

    return run


def rows(done: support.Finished) -> list[list[str]]:
    assert (done.code, done.err) == (0, "")
    return [line.split("\t") for line in done.out.splitlines()]


def sent(ztasks: Command, *arguments: object) -> str:
    done = ztasks("send", *arguments)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"[0-9a-f]{16}-1\n", done.out)
    return done.out.strip()


def state(ztasks: Command, job: str) -> str:
    found = {row[0]: row for row in rows(ztasks("jobs"))}
    return found[job][2] if job in found else ""


# --- with a head ---


def test_status_is_lines_for_programs_and_a_text_for_people(ztasks: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict(rows(ztasks("status")))
    assert (found["workers"], found["hosts"], found["queued"], found["journal"]) == ("2", "1", "0", "false")
    document = json.loads(ztasks("status", "--json").out)
    assert document.keys() == found.keys()
    assert document["refusing"] is None
    monkeypatch.setattr(status, "on_terminal", lambda: True)
    text = ztasks("status").out
    assert re.search(r"^workers +2 workers on 1 host$", text, re.MULTILINE)
    assert re.search(r"^jobs +0 queued, 0 running, 0 delayed$", text, re.MULTILINE)


def test_workers_are_shown_with_what_they_have(ztasks: Command) -> None:
    [row] = rows(ztasks("workers"))
    assert row[0] == "smith"
    assert row[2:6] == ["2", "run", "0", "default,slow"]
    assert 0 < float(row[6]) < 60
    assert 0 <= float(row[7]) < 2
    assert row[8] == "big"
    assert row[9].startswith("cpus=2,memory=")
    [worker] = json.loads(ztasks("workers", "--json").out)["workers"]
    assert (worker["name"], worker["workers"], worker["tags"]) == ("smith", 2, ["big"])


def test_a_job_is_sent_by_name_and_its_result_shown(ztasks: Command) -> None:
    job = sent(ztasks, "shop.double", "[1, 2]", "times=2", "--queue", "slow", "--tag", "big", "--priority", "3")
    assert ztasks("result", job, "--wait", "--timeout", "20s") == (0, "[1,2,1,2]\n", "")
    assert ztasks("result", job) == (0, "[1,2,1,2]\n", "")
    assert json.loads(ztasks("result", job, "--json").out) == {
        "id": job,
        "ok": True,
        "status": "ok",
        "result": [1, 2, 1, 2],
        "error": None,
    }
    assert ztasks("result", job, "--forget") == (0, "[1,2,1,2]\n", "")
    assert ztasks("result", job).code == 4
    assert "done" in ztasks("why", job).out


def test_what_waits_for_it_shows_the_id_on_stderr(ztasks: Command) -> None:
    done = ztasks("send", "shop.double", "--wait", "--", "-21")
    assert (done.code, done.out) == (0, "-42\n")
    assert re.fullmatch(r"ztasks send: job [0-9a-f]{16}-1\n", done.err)


def test_what_ztasks_says_of_a_failure_is_shown_below_its_traceback(ztasks: Command) -> None:
    done = ztasks("send", "shop.generator", "--wait")
    assert done.code == 1
    assert "TypeError: cannot pickle 'generator' object" in done.err
    assert "ResultNotPicklable" in done.err.splitlines()[-1]


def test_the_text_of_a_join_file_is_no_argument(ztasks: Command, fleet: Fleet) -> None:
    text = (fleet.join_dir / "client.join").read_text()
    done = ztasks("status", "--head", text)
    assert done.code not in (0, 1)
    assert "where every user of this host can read its key" in done.err
    assert json.loads(text)["secret_key"] not in done.err


def test_what_json_cannot_hold_is_shown_as_python_does(ztasks: Command) -> None:
    assert ztasks("send", "shop.peculiar", "--wait").out == "1j\n"
    assert ztasks("send", "shop.odd_floats", "--wait").out == "{'inf': [inf]}\n"
    assert re.fullmatch(r"<shop.Shop object at 0x\w+>\n", ztasks("send", "shop.shop", "--wait").out)


def test_a_failure_is_its_traceback_and_can_be_tried_again(ztasks: Command, tmp_path: Path) -> None:
    path = tmp_path / "flag"
    job = sent(ztasks, "shop.flag", path)
    done = ztasks("result", job, "--wait")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Traceback (most recent call last):\n")
    assert done.err.endswith("LookupError: not yet\n")
    assert 'raise LookupError("not yet")' in done.err
    done = ztasks("result", job, "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["status"], found["error"]["type"], found["error"]["message"]) == ("failed", "LookupError", "not yet")
    assert rows(ztasks("jobs", "--status", "failed"))[0][:3] == [job, "flag", "failed"]
    path.touch()
    assert ztasks("retry", job) == (0, "", "ztasks retry: 1 job queued again\n")
    assert ztasks("result", job, "--wait") == (0, '"there"\n', "")
    done = ztasks("retry", job)
    assert (done.code, done.err) == (
        1,
        "ztasks retry: 0 of 1 job queued again; the others have not failed, or are not known any more\n",
    )


def test_all_that_have_failed_can_be_tried_again(ztasks: Command) -> None:
    job = sent(ztasks, "shop.fail", "1")
    assert ztasks("result", job, "--wait").code == 1
    done = ztasks("retry", "--failed")
    assert (done.code, done.out) == (0, "")
    assert re.fullmatch(r"ztasks retry: \d+ jobs? queued again\n", done.err)
    assert ztasks("result", job, "--wait").code == 1
    assert ztasks("retry", "--failed", job).code == 2


def test_a_running_job_is_shown_first_and_is_stopped_only_if_that_is_said(ztasks: Command, tmp_path: Path) -> None:
    path = tmp_path / "begun"
    job = sent(ztasks, "shop.wait", path)
    support.wait_for(path.exists, "the job to begin")
    assert ztasks("send", "shop.double", "1", "--wait").code == 0
    row = rows(ztasks("jobs"))[0]
    assert row[:3] == [job, "wait", "running"]
    assert row[5], "the host where it runs"
    assert 0 <= float(row[6]) < 20
    assert "smith" in ztasks("why", job).out
    done = ztasks("result", job)
    assert (done.code, done.err) == (5, f"ztasks result: job {job} has not ended; --wait waits for it.\n")
    assert ztasks("result", job, "--wait", "--timeout", "50ms").code == 5
    done = ztasks("cancel", job)
    assert done.code == 1
    assert done.err.startswith("ztasks cancel: 0 of 1 job cancelled; the others run (--running stops them)")
    assert ztasks("cancel", "--running", job).code == 0
    done = ztasks("result", job, "--wait")
    assert (done.code, done.err) == (1, "concurrent.futures._base.CancelledError\n")
    assert state(ztasks, job) == "cancelled"


def test_a_job_that_no_worker_can_take_says_so_and_expires(ztasks: Command) -> None:
    job = sent(ztasks, "shop.double", "1", "--queue", "nowhere", "--expires", "1h")
    assert "nowhere" in ztasks("why", job).out
    assert [row[0] for row in rows(ztasks("jobs", "--status", "queued"))] == [job]
    assert ztasks("cancel", job) == (0, "", "ztasks cancel: 1 job cancelled\n")
    job = sent(ztasks, "shop.double", "1", "--queue", "nowhere", "--expires", "10ms")
    done = ztasks("result", job, "--wait")
    assert done.code == 1
    assert "JobExpired" in done.err


def test_no_more_are_shown_than_asked_for(ztasks: Command) -> None:
    for _ in range(2):
        assert ztasks("send", "shop.double", "1", "--wait").code == 0
    assert len(rows(ztasks("jobs", "--limit", "1"))) == 1
    assert len(json.loads(ztasks("jobs", "--limit", "2", "--json").out)["jobs"]) == 2


@pytest.mark.parametrize("command", ["result", "why"])
def test_what_is_no_job_is_not_found(ztasks: Command, command: str) -> None:
    done = ztasks(command, UNKNOWN)
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith(f"ztasks {command}: there is no job {UNKNOWN}")
    done = ztasks(command, "no-id")
    assert (done.code, done.out) == (2, "")
    assert "no-id" in done.err


def test_wrong_usage_asks_nobody(ztasks: Command) -> None:
    for arguments, said in (
        (["cancel"], "no JOB"),
        (["retry"], "no JOB"),
        (["result", UNKNOWN, "--timeout", "1s"], "--timeout is for --wait"),
        (["send", "shop.double", "x=1", "x=2"], "given twice"),
        (["send", "nothing"], "nothing"),
        (["send", "shop.double", "--retries", "-1"], "--retries"),
        (["jobs", "--status", "odd"], "odd"),
    ):
        done = ztasks(*arguments)
        assert (done.code, done.out) == (2, ""), arguments
        assert said in done.err


def test_a_reader_that_goes_away_is_no_error_of_ours(fleet: Fleet) -> None:
    script = "import subprocess, sys; p = subprocess.Popen([*sys.argv[1:]], stdout=subprocess.PIPE); p.stdout.close()"
    done = support.run_python(
        "-c", f"{script}; sys.exit(p.wait())", sys.executable, "-m", "ztasks", "status", "--head", fleet.join("client")
    )
    assert done == (141, "", "")


# --- without ---


@pytest.mark.parametrize("arguments", [["status"], ["send", "a.b"]])
def test_no_head_is_one_line_in_time(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--head", "127.0.0.1:9", "--join-timeout", "200ms"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"ztasks {arguments[0]}: no head has answered at 127.0.0.1:9 within 0.2 s: .*\n", err)


def test_what_names_no_head_is_refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTASKS_HEAD", raising=False)
    assert main(["status"]) == 2
    assert main(["status", "--head", "@missing.join"]) == 2
    none, missing = capfd.readouterr().err.splitlines()
    assert "client.join" in none
    assert "there is no join file missing.join" in missing


def test_stop_ends_head_and_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Fleet(tmp_path) as fleet:
        head, foreman = fleet.start_head(), fleet.start_foreman("one")
        assert main(["stop", "--drain", "--head", fleet.join("client")]) == 0
        assert capfd.readouterr().err == "ztasks stop: the head takes no new jobs, finishes all that it has, and ends\n"
        assert (foreman.wait(), head.wait()) == (0, 0)


# --- batch runs on a head ---


@pytest.fixture
def batch(fleet: Fleet, tmp_path: Path) -> Path:
    """A file with tasks, and a module beside it."""
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    (tmp_path / "batch.py").write_text(BATCH)
    return tmp_path / "batch.py"


def run(fleet: Fleet, *arguments: object, **how: Any) -> support.Finished:
    return support.run_python("-m", "ztasks", "run", *map(str, arguments), "--head", fleet.join("client"), **how)


def records(text: str) -> dict[Any, Any]:
    return {str(found["input"]): found for found in map(json.loads, text.splitlines())}


def test_a_file_runs_on_the_workers_of_a_head_and_its_output_is_that_of_a_run_here(fleet: Fleet, batch: Path) -> None:
    out = batch.parent / "out.jsonl"
    done = run(fleet, f"{batch}:half", 2, 4, 5, "-o", out)
    assert done.code == 1
    assert "2 workers" in done.err
    assert "1 x batch.Odd, such as 5: 5 is odd" in done.err
    found = records(out.read_text())
    assert [found[n]["result"] for n in ("2", "4", "5")] == [1, 2, None]
    assert found["5"]["error"]["type"] == "batch.Odd"
    done = support.run_python("-m", "ztasks", "run", f"{batch}:half", "2", "4", "6", "-o", str(out), "--resume", "-j1")
    assert done.code == 0
    assert "1 job: 1 ok, 2 skipped" in done.err


def test_classes_of_a_file_travel_and_each_worker_is_set_up_once(fleet: Fleet, batch: Path) -> None:
    done = run(fleet, f"{batch}:grow", "--from", f"{batch}:cases", "--no-unpack", "-k")
    assert (done.code, [each["result"] for each in records(done.out).values()]) == (0, [{"n": 2}, {"n": 3}]), done.err
    done = run(fleet, f"{batch}:seen", *range(6), "--init", f"{batch}:set_up")
    assert {each["result"] for each in records(done.out).values()} == {"x"}, done.err


def test_programs_run_there(fleet: Fleet) -> None:
    done = run(fleet, "--command", "echo {} {#}", "a", "--quiet")
    assert (done.code, records(done.out)["a"]["result"], done.err) == (0, "a 1\n", "")


def test_what_is_about_workers_of_this_host_is_refused_with_a_head(
    ztasks: Command, batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, flags in ((["-j", "2"], "-j is"), (["--gpus", "1", "--logs-dir", "x"], "--gpus and --logs-dir are")):
        done = ztasks("run", f"{batch}:half", "2", *arguments)
        assert (done.code, done.out) == (2, "")
        assert f"{flags} about workers of this host, and the variable ZTASKS_HEAD names a head" in done.err
    monkeypatch.setenv("ZTASKS_WORKERS", "2")
    done = ztasks("run", f"{batch}:half", "2")
    assert (done.code, done.out) == (2, "")
    assert "Unset ZTASKS_HEAD, as in ZTASKS_HEAD= ztasks run ..., to use this host." in done.err


def test_the_command_line_wins_over_variables_where_they_exclude_each_other(fleet: Fleet, batch: Path) -> None:
    done = run(fleet, f"{batch}:half", 2, "--quiet", env=support.environment(ZTASKS_WORKERS="2", ZTASKS_LOGS_DIR="/x"))
    assert (done.code, done.err) == (0, "")


def test_an_interrupt_lets_jobs_on_a_head_finish(fleet: Fleet, batch: Path) -> None:
    command = ["-m", "ztasks", "run", f"{batch}:nap", "1.5", "1.5", "9", "9", "--head", fleet.join("client")]
    with support.running(*command) as process, fleet.client() as client:
        support.wait_for(lambda: client.ask("status")["running"] >= 2, "two jobs to run")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=support.DEADLINE)
    assert process.returncode == 130
    assert re.search(r"interrupted: no new jobs; up to 2 running; press Ctrl-C again to kill them\n", err)
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["result"] for each in found if each["ok"]] == [1.5, 1.5]
    assert {each["status"] for each in found if not each["ok"]} <= {"cancelled"}


def test_a_batch_runs_on_a_head_from_code(fleet: Fleet, tmp_path: Path) -> None:
    lock = [5]
    summary = run_batch(lambda n: n + lock[0], [1, 2], output=tmp_path / "out.jsonl", head=fleet.join("client"))
    assert (summary.ok, summary.workers) == (True, 2)
    assert sorted(record.result for record in read_records(tmp_path / "out.jsonl")) == [6, 7]
    with pytest.raises(InvalidOption, match="logs_dir, workers is about workers of this host"):
        run_batch(len, ["a"], output=None, head=fleet.join("client"), workers=1, logs_dir=tmp_path / "logs")


def test_a_batch_without_a_head_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "JOIN_SECONDS", 0.1)
    with pytest.raises(HeadLost, match="no head has answered"):
        run_batch(len, ["a"], output=tmp_path / "out.jsonl", head="127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


class SomeHead:
    """A client whose head says what the test wants."""

    def __init__(self) -> None:
        self.said: Any = {"workers": 0, "hosts": 0}

    def ask(self, what: str) -> Any:
        return self.said

    def ask_whole(self, what: str, arguments: Any, seconds: float) -> Any:
        if self.said is None:
            raise TimeoutError
        return SimpleNamespace(value=self.said)

    def shutdown(self, *, cancel_futures: bool) -> None:
        pass


def test_progress_shows_the_fleet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "LOOK_SECONDS", 0.001)
    head: Any = SomeHead()
    there = place.Elsewhere(head)
    try:
        assert there.activity(9).fleet == "no workers: `ztasks worker` starts some"
        head.said = {"workers": 1200, "hosts": 30}
        support.wait_for(lambda: there.workers == 1200, "the workers to be known")
        assert there.activity(9) == Activity(9, 1200, None, "1,200 workers on 30 hosts")
        text = status_text(Tally(), None, None, there.activity(9))
        assert text == "0 done, 1,200 workers on 30 hosts"
        head.said = {"workers": 1, "hosts": 1}
        support.wait_for(lambda: there.activity(9) == Activity(1, 1, None, "1 worker on 1 host"), "fewer workers")
        assert there.workers == 1200
        head.said = None
        support.wait_for(lambda: there.activity(9).fleet == "the head does not answer", "that to be seen")
        assert there.activity(9).running == 9
    finally:
        there.close()


def test_a_file_that_is_not_there_is_loaded_from_its_text(tmp_path: Path) -> None:
    path = str(tmp_path / "gone" / "my-file.py")
    text = b"# \xc3\xa4\ndef inverse(x):\n    return 1 / x\n"
    function = shipping.load_function("my_file_1", path, text, "inverse")
    try:
        assert function(4) == 0.25
        assert shipping.load_function("my_file_1", path, b"", "inverse") is function
        with pytest.raises(ZeroDivisionError) as caught:
            function(0)
        assert "    return 1 / x" in "".join(traceback.format_exception(caught.value))
    finally:
        del sys.modules["my_file_1"]
    with pytest.raises(
        ModuleNotFoundError, match=r"my-file.py imports no_such_module_2, which this host does not have"
    ):
        shipping.load_function("my_file_2", path, b"import no_such_module_2", "x")
    assert "my_file_2" not in sys.modules


def test_what_a_lost_head_had_is_no_failure_of_a_job() -> None:
    lost = HeadLost("it is gone")
    assert status_of(lost) == "cancelled"
    lost.__cause__ = RemoteTraceback("the job itself was a client")
    assert status_of(lost) == "failed"


# --- what is shown ---


def test_a_table_is_no_wider_than_the_terminal() -> None:
    found = asking.table(("id", "nothing", "error"), [("1", "", "a" * 30), ("22", "", "b\x1b[31m\n")], 20)
    assert found.splitlines() == ["ID  ERROR", "1   aaaaaaaaaaaaa...", "22  b\\x1b[31m\\n"]
    assert asking.table(("id", "error"), [], 20) == "ID  ERROR"


def test_fields_in_a_pipe_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert asking.show_table(("a", "b"), [("x\ty", "one\ntwo")]) == 0
    assert capsys.readouterr().out == "x       y\tone\\ntwo\n"


@pytest.mark.parametrize(
    ("job", "people", "expected"),
    [
        ({"id": "a-1", "task": "t", "state": "queued"}, True, ["a-1", "t", "queued", "", "", "", "", ""]),
        ({"id": "a-1", "task": "t", "state": "queued"}, False, ["a-1", "t", "queued", "1", "", "", "", ""]),
        (
            {"id": "a-1", "task": "t", "state": "failed", "items": 3, "attempt": 2, "host": "h", "ended_at": 880.0,
             "error": "ValueError: x"},
            True,
            ["a-1", "t", "failed", "3", "2", "h", "2 min 0 s", "ValueError: x"],
        ),
    ],
)  # fmt: skip
def test_a_job_is_a_row(job: dict[str, Any], people: bool, expected: list[str]) -> None:
    assert jobs.row(job, 1000.0, people=people) == expected


def test_a_worker_is_a_row_for_people() -> None:
    worker = {"name": "n", "host": "h", "workers": 4, "state": "run", "holds": 7, "queues": ["a", "b"], "tags": [],
              "resources": {"cpus": 4, "memory": 2**30}, "silent": 4.0, "since": 100.0, "python": "3.11"}  # fmt: skip
    assert workers.row(worker, 3700.0, people=True) == [
        *("n", "h", "4", "run", "7", "a,b", "1 h 0 min", "4.0 s ago", "", "cpus=4,memory=1.0 GiB", "3.11")
    ]


def test_trouble_of_a_head_is_told() -> None:
    calm = {"ztasks": "1", "uptime": 60, "workers": 0, "hosts": 0, "clients": 1, "queued": 1, "running": 0,
            "delayed": 0, "done": 1234, "failed": 0, "cancelled": 0, "expired": 0, "journal": True, "refusing": None,
            "stopping": False, "refused_connections": 0, "stuck": 0,
            "queues": {"default": {"queued": 1, "running": 0, "delayed": 0}}}  # fmt: skip
    lines = dict(status.told(calm))
    assert lines.keys() == {"head", "workers", "clients", "jobs", "ended", "journal"}
    assert "ztasks worker" in lines["workers"]
    assert lines["ended"].startswith("1,234 done, ")
    lines = dict(status.told({**calm, "refusing": "the disk is full", "stopping": True, "refused_connections": 2}))
    assert lines["refusing"] == "new jobs, since the disk is full"
    assert lines["head"].endswith("stopping: it takes no new jobs")
    assert lines["refused"].startswith("2 connections")
    queues = {**calm["queues"], "gpu": {"queued": 1200, "running": 2, "delayed": 3}}
    lines = dict(status.told({**calm, "queues": queues, "stuck": 1200}))
    assert lines["  gpu"] == "1,200 queued, 2 running, 3 delayed"
    assert lines["stuck"].startswith("1,200 queued jobs that no worker here can take")


def test_arguments_are_json_or_text() -> None:
    assert parse_arguments(["1", "[true, null]", "x", '"7"', "NaN", "a=2", "b=c=d", "1=2", ""]) == (
        [1, [True, None], "x", "7", "NaN", "1=2", ""],
        {"a": 2, "b": "c=d"},
    )
    with pytest.raises(click.UsageError, match="a is given twice"):
        parse_arguments(["a=1", "a=2"])


def test_results_are_json_or_as_python_shows_them() -> None:
    assert shown({"a": (1, "ä")}) == '{"a":[1,"ä"]}'
    assert shown([1j]) == "[1j]"
    assert trace_of(JobTimeout("too long")) == "ztasks.errors.JobTimeout: too long"
    found = json.loads(document("a-1", None, JobTimeout("too long")))
    assert (found["status"], found["error"]["message"], found["result"]) == ("timeout", "too long", None)


# --- help and reference ---

ASKING = ("cancel", "jobs", "result", "retry", "send", "status", "stop", "why", "workers")
REFERENCE = (support.ROOT / "docs" / "reference.md").read_text()


def command_of(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return command


@pytest.mark.parametrize("name", [*ASKING, "dev"])
def test_every_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  ztasks {name} " in text.partition("Examples:")[2].partition("Exit codes:")[0]
    assert re.search(r"Exit codes:\n +0 ", text)
    assert max(map(len, text.splitlines())) < 120
    assert all(parameter.help for parameter in command_of(name).params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("name", [*ASKING, "dev"])
def test_the_reference_has_every_option_and_exit_code(name: str) -> None:
    title = "`ztasks dev`" if name == "dev" else "Commands that ask a head"
    found = re.search(rf"^## {re.escape(title)}\n(.*?)^## ", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found
    text = found[1]
    if name != "dev":
        block = re.search(rf"^### `ztasks {name}[ `].*?\n(.*?)(?=^###? |\Z)", text, re.MULTILINE | re.DOTALL)
        assert block
        text = block[1] + text[: text.index("### ")]
    options = [parameter for parameter in command_of(name).params if isinstance(parameter, click.Option)]
    explained = set(re.findall(r"`(--?[a-zA-Z][\w-]*)", text))
    assert {flag for option in options for flag in option.opts} - {"-h", "--help"} <= explained
    told = set(re.findall(r"^ +(\d+) ", (command_of(name).epilog or "").partition("Exit codes:")[2], re.MULTILINE))
    assert told
    assert told <= set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE))


def test_commands_are_imported_when_they_are_used() -> None:
    absent = ["zmq", "rich", "cloudpickle", "ztasks.client", "ztasks.executor", "asyncio"]
    modules = sorted({COMMANDS[name][0].partition(":")[0] for name in (*ASKING, "dev")})
    check = f"import sys, {', '.join(modules)}; print(*[name for name in {absent} if name in sys.modules])"
    assert support.run_python("-c", check) == (0, "\n", "")
