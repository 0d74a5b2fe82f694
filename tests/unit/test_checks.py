"""The doctor's judgements: what follows from what was read, told by child processes, or lies in a directory."""

import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

from ztasks.cli import check_environment, check_install, check_limits, check_worker
from ztasks.cli.check_environment import Place, interpreters, other_environment, where
from ztasks.cli.check_install import Needed, parse_requirement, release
from ztasks.cli.cures import known_cure
from ztasks.cli.findings import OK, PROBLEM, WARNING, Finding
from ztasks.cli.probing import Said
from ztasks.io.limits import Bound

GIB = 2**30
NONE = resource.RLIM_INFINITY


# --- limits ---


@pytest.mark.parametrize(
    ("workers", "soft", "hard", "status", "cure"),
    [
        (4, 1024, 4096, OK, ""),
        (4, NONE, NONE, OK, ""),
        (60, 1024, 4096, WARNING, "ulimit -n 2048"),
        (200, 1024, 4096, PROBLEM, "ulimit -n 4096"),
        (200, 1024, 1024, PROBLEM, "Raise the hard limit"),
        (1, 20, 20, PROBLEM, "Raise the hard limit"),
        (1021, NONE, NONE, OK, ""),
        (1022, NONE, NONE, PROBLEM, "at most 1,021 workers"),
    ],
)
def test_descriptors(workers: int, soft: int, hard: int, status: str, cure: str) -> None:
    finding = check_limits.judge_descriptors(workers, soft, hard, taken=10)
    assert finding.status == status
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("bound", "status", "said"),
    [
        (None, OK, "no limit"),
        (Bound(1000, 10, "ulimit -u"), OK, "10 of 1,000"),
        (Bound(100, 50, "ulimit -u"), WARNING, "ulimit -u"),
        (Bound(100, 90, "/sys/fs/cgroup/pids.max"), PROBLEM, "--pids-limit"),
    ],
)
def test_processes(bound: Bound | None, status: str, said: str) -> None:
    finding = check_limits.judge_processes(4, bound)
    assert finding.status == status
    assert said in finding.found + finding.cure


@pytest.mark.parametrize(
    ("host", "group", "status", "said"),
    [
        (None, None, OK, "unknown"),
        (Bound(16 * GIB, 4 * GIB, "this host"), None, OK, "12 GiB of the host's 16 GiB free"),
        (Bound(16 * GIB, 4 * GIB, "this host"), Bound(GIB // 4, 0, "memory.max"), WARNING, "64 MiB for each of 4"),
        (Bound(16 * GIB, 4 * GIB, "this host"), Bound(GIB, GIB, "memory.max"), PROBLEM, "0 bytes for each of 4"),
        (Bound(GIB // 16, 0, "this host"), Bound(8 * GIB, 0, "memory.max"), PROBLEM, "16 MiB for each of 4"),
    ],
)
def test_memory(host: Bound | None, group: Bound | None, status: str, said: str) -> None:
    finding = check_limits.judge_memory(4, host, group, kills=0)
    assert finding.status == status
    assert said in finding.found


def test_memory_tells_of_the_oom_killer() -> None:
    finding = check_limits.judge_memory(1, Bound(16 * GIB, 0, "this host"), None, kills=2)
    assert "the kernel has killed 2 processes" in finding.found


def test_shared_memory(tmp_path: Path) -> None:
    [finding] = check_limits.shared_memory(f"{tmp_path}/missing")
    assert (finding.status, "No such file" in finding.found) == (WARNING, True)


def test_cpus_inside_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTASKS_WORKER", "3")
    [finding] = check_limits.cpus(None)
    assert (finding.status, finding.cure) == (WARNING, "If this is no job: unset ZTASKS_WORKER")


def test_cpus_follow_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTASKS_WORKER", raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    [finding] = check_limits.cpus(None)
    assert "1 worker by default" in finding.found
    assert "SLURM_CPUS_PER_TASK=1" in finding.found
    [finding] = check_limits.cpus(10_000)
    assert (finding.status, "10000 workers for" in finding.found) == (WARNING, True)


# --- packages ---


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("pyzmq>=26.2", Needed("pyzmq", "zmq", "26.2")),
        ("Rich >= 13.9, <16", Needed("rich", "rich", "13.9")),
        ("some-thing[extra]; python_version >= '3.12'", Needed("some-thing", "some_thing", "")),
        ("click<9,>=8.1", Needed("click", "click", "8.1")),
    ],
)
def test_requirements(line: str, needed: Needed) -> None:
    assert parse_requirement(line) == needed


def test_versions_are_compared_by_number() -> None:
    assert release("27.0.0rc1") == (27, 0, 0)
    assert release("8.10") > release("8.9.1")
    assert release("unknown") == ()


def test_all_that_is_needed_is_found() -> None:
    assert {package.name for package in check_install.needed()} == {"pyzmq", "cloudpickle", "msgspec", "click", "rich"}


def said(*events: dict[str, Any], **more: Any) -> Said:
    fields = {"written": "", "output": "", "stage": "importing zmq", "stuck": False, "exit_code": 0, **more}
    return Said(list(events), **fields)


ZMQ = Needed("pyzmq", "zmq", "26.2")
IMPORTED = {"module": "zmq", "seconds": 0.1, "version": "27.0", "libzmq": "4.3.5", "ipc": True}


def zmq(monkeypatch: pytest.MonkeyPatch, *, installed: tuple[str, str] | None, **event: Any) -> list[Finding]:
    """Judge pyzmq, installed in a version and a place."""
    monkeypatch.setattr(check_install, "_installed", lambda name: installed)
    return check_install.packages([ZMQ], said({**IMPORTED, **event}))


def test_packages_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    [finding] = zmq(monkeypatch, installed=("27.0", "/site"), file="/site/zmq/__init__.py")
    assert (finding.status, finding.found) == (OK, "pyzmq 27.0 (libzmq 4.3.5)")
    [finding] = zmq(monkeypatch, installed=None, file="/vendored/zmq/__init__.py")
    assert finding.status == OK


@pytest.mark.parametrize(
    ("installed", "event", "status", "words"),
    [
        (("26.1.9", "/site"), {"file": "/site/zmq/__init__.py"}, PROBLEM, "pyzmq 26.1.9 is too old: ztasks needs 26.2"),
        (("27.0", "/site"), {"file": "/here/zmq.py", "version": None}, WARNING, "imported from /here/zmq.py, not from"),
        (("27.0", "/site"), {"file": "/site/zmq/__init__.py", "ipc": False}, PROBLEM, "libzmq 4.3.5 has no ipc"),
        (("27.0", "/site"), {"file": "/site/zmq/__init__.py", "libzmq": "3.2"}, WARNING, "libzmq 3.2 is old"),
        (None, {"file": None, "error": "ModuleNotFoundError: no"}, PROBLEM, "zmq cannot be imported"),
        (("27.0", "/site"), {"file": "/here/zmq.py", "error": "E: x"}, PROBLEM, "E: x (found in /here/zmq.py)"),
    ],
)
def test_packages_out_of_order(
    monkeypatch: pytest.MonkeyPatch,
    installed: tuple[str, str] | None,
    event: dict[str, Any],
    status: str,
    words: str,
) -> None:
    [finding] = zmq(monkeypatch, installed=installed, **event)
    assert finding.status == status
    assert words in finding.found
    assert finding.cure
    if "/here/" in str(event["file"]):
        assert finding.cure.startswith("/here/zmq.py hides the installed package: rename it")


def test_an_import_that_ends_the_process() -> None:
    wanted = [ZMQ, Needed("rich", "rich", "")]
    [finding] = check_install.packages(wanted, said({"found": "zmq", "file": None}, exit_code=-11))
    assert finding.status == PROBLEM
    assert finding.found == "importing zmq was killed by SIGSEGV; not tried: rich"
    assert check_install.not_importable([finding]) == {"zmq", "rich"}
    [finding] = check_install.packages([ZMQ], said(stuck=True, exit_code=-6))
    assert finding.found == "importing zmq did not end in time"


def test_a_python_that_does_not_start() -> None:
    [finding] = check_install.packages([ZMQ], said(stage="", exit_code=1, written="in /x/sitecustomize.py: error"))
    assert finding.found == "a second process of this Python ended the process with exit code 1"
    assert finding.cure == "Mend /x/sitecustomize.py: every Python of this environment runs it at its start."
    [finding] = check_install.packages([ZMQ], said(stage="", exit_code=1, trouble="[Errno 24] Too many open files"))
    assert "cannot be started: [Errno 24]" in finding.found
    assert finding.cure == "ulimit -n 65536"


# --- the environment ---


@pytest.mark.parametrize(
    ("path", "files", "kind"),
    [
        ("pipx/venvs/ztasks", {}, "pipx"),
        ("custom/ztasks", {"pipx_metadata.json": "{}"}, "pipx"),
        (".cache/pipx/0123abcd", {}, "pipx run"),
        ("pipx/.cache/0123abcd", {}, "pipx run"),
        ("share/uv/tools/ztasks", {}, "uv tool"),
        ("custom/ztasks", {"uv-receipt.toml": ""}, "uv tool"),
        (".cache/uv/archive-v0/AbC_12", {"pyvenv.cfg": "uv = 0.9\n"}, "uvx"),
        (".cache/uv/environments-v2/ztasks-01", {}, "uvx"),
        (".cache/uv/builds-v0/.tmp1", {"pyvenv.cfg": "extends-environment = /project/.venv\n"}, "uv run"),
        ("project/.venv", {"pyvenv.cfg": "home = /usr/bin\nuv = 0.9\n"}, "venv"),
        ("pipx/projects/.venv", {}, "venv"),
    ],
)
def test_which_tool_has_made_the_environment(tmp_path: Path, path: str, files: dict[str, str], kind: str) -> None:
    prefix = tmp_path / path
    prefix.mkdir(parents=True)
    for name, text in files.items():
        (prefix / name).write_text(text)
    place = where(str(prefix), "/usr")
    assert place.kind == kind
    assert place.isolated == (kind in ("pipx", "pipx run", "uv tool", "uvx"))


def test_no_environment_at_all(tmp_path: Path) -> None:
    assert where(str(tmp_path), str(tmp_path)).kind == "system"
    (tmp_path / "conda-meta").mkdir()
    assert where(str(tmp_path), str(tmp_path)).kind == "conda"


def test_the_environment_that_is_meant(tmp_path: Path) -> None:
    for name in ("ours", "theirs", "project/.venv"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "pyvenv.cfg").touch()
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    ours, theirs, project = (str(tmp_path / name) for name in ("ours", "theirs", "project"))

    def other(here: str = "", **environ: str) -> str | None:
        found = other_environment(ours, environ, here)
        return found[0] if found else None

    assert other() is None
    assert other(VIRTUAL_ENV=f"{tmp_path}/link") is None
    assert other(VIRTUAL_ENV=f"{tmp_path}/deleted") is None
    assert other(VIRTUAL_ENV=theirs) == theirs
    assert other(CONDA_PREFIX=theirs, CONDA_DEFAULT_ENV="science") == theirs
    assert other(CONDA_PREFIX=theirs, CONDA_DEFAULT_ENV="base") is None
    assert other(here=project) == f"{project}/.venv"
    assert other(here=project, VIRTUAL_ENV=ours) is None


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("#!/opt/venv/bin/python3.11\nimport re\n", ["/opt/venv/bin/python3.11"]),
        ("#!/bin/sh\n'''exec' \"/opt/my venv/bin/python\" \"$0\" \"$@\"\n' '''\n", ["/opt/my venv/bin/python"]),
        ("#!/bin/sh\n'''exec' /opt/venv/bin/python \"$0\" \"$@\"\n' '''\n", ["/opt/venv/bin/python"]),
        ("#!/bin/sh\necho python\n", []),
        ("\x7fELF", []),
    ],
)
def test_the_python_of_a_script(tmp_path: Path, head: str, found: list[str]) -> None:
    (tmp_path / "script").write_text(head)
    assert list(interpreters(f"{tmp_path}/script")) == found


def test_a_command_of_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ztasks"
    script.write_text(f"#!{tmp_path}/other/bin/python\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check_environment.command_elsewhere(sys.prefix) == f"{script}, which runs {tmp_path}/other/bin/python"
    assert check_environment.command_elsewhere(f"{tmp_path}/other") == ""
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert check_environment.command_elsewhere(sys.prefix) == "", "that is how this process was started"


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("pipx", "pipx inject ztasks pandas"),
        ("uv tool", "uv tool install ztasks --with pandas"),
        ("uvx", "uvx --with pandas ztasks run ..."),
        ("venv", " pandas"),
    ],
)
def test_how_a_package_is_added(kind: str, command: str) -> None:
    assert check_environment.add_command(Place(kind, "/x"), "pandas").endswith(command)


# --- workers and targets ---

SEEN = {"pid": 5, "sys_path": ["/a", "/b"], "resident_kib": 20480}
WELL = {"ended": "well", "first": 0.08, "round_trip": 0.0003, "seen": SEEN, "sys_path": ["/a", "/b"]}


def test_a_worker_that_comes_up() -> None:
    worker, imports = check_worker.worker(said(WELL), 20)
    assert (worker.status, imports.status) == (OK, OK)
    assert worker.found == "came up and ran a job in 80 ms, another in 0.3 ms; it takes 20 MiB"


@pytest.mark.parametrize(
    ("event", "more", "status", "words"),
    [
        ({"first": 9.0}, {}, WARNING, "that is slow"),
        ({}, {"output": "hello\n"}, WARNING, "it writes at its start"),
        ({}, {"stuck": True, "stage": "closing the executor"}, PROBLEM, "closing the executor did not end in time"),
    ],
)
def test_a_worker_that_comes_up_and_yet(event: dict[str, Any], more: dict[str, Any], status: str, words: str) -> None:
    worker, _ = check_worker.worker(said({**WELL, **event}, **more), 20)
    assert worker.status == status
    assert words in worker.found
    assert worker.output == more.get("output", "")


def test_another_sys_path() -> None:
    _, imports = check_worker.worker(said({**WELL, "sys_path": ["/a", "/b", "/c"]}), 20)
    assert (imports.status, "it lacks /c" in imports.found) == (PROBLEM, True)
    _, imports = check_worker.worker(said({**WELL, "sys_path": ["/b", "/a"]}), 20)
    assert imports.status == WARNING


ERROR = {"ended": "error", "type": "WorkersCannotStart", "message": "it died\nmany words", "traceback": None}


@pytest.mark.parametrize(
    ("told", "words", "output"),
    [
        (said({"ended": "late"}, output="waiting"), "no worker came up within 20 s", "waiting"),
        (said(ERROR, output="repeated"), "no worker came up: WorkersCannotStart: it died", "many words"),
        (said(stage="", exit_code=1, written="no"), "a process started in the same way ended the process", "no"),
        (said(stage="starting a worker", exit_code=-9), "starting a worker was killed by SIGKILL", ""),
        (said(trouble="[Errno 11] Resource temporarily unavailable"), "cannot be started: [Errno 11]", ""),
    ],
)
def test_a_worker_that_does_not_come_up(told: Said, words: str, output: str) -> None:
    [finding] = check_worker.worker(told, 20)
    assert finding.status == PROBLEM
    assert words in finding.found
    assert finding.output == output
    assert finding.cure


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("Fatal Python error: No module named 'encodings'", "unset PYTHONHOME"),
        ('File "/a b/sitecustomize.py", line 1', "b/sitecustomize.py: every Python"),
        ("Error processing line 1 of /site/x.pth:", "/site/x.pth: every Python"),
        ("OSError: [Errno 24] Too many open files", "ulimit -n"),
        ("RuntimeError: can't start new thread", "processes"),
        ("ImportError: x.so: failed to map segment from shared object", "ulimit -v"),
        ("[Errno 28] No space left on device", "TMPDIR"),
        ("ImportError: /x.so: undefined symbol: zmq_ppoll", "pyzmq msgspec cloudpickle"),
        ("ModuleNotFoundError: No module named 'zmq'", "pyzmq msgspec cloudpickle"),
        ("OSError: [Errno 38] Function not implemented", "sandbox"),
    ],
)
def test_known_cures(text: str, cure: str) -> None:
    assert cure in known_cure(text)
    assert known_cure("all is quiet") == ""


PIPX = Place("pipx", "/home/me/pipx/venvs/ztasks")
VENV = Place("venv", "/project/.venv")


def refused(message: str, missing: str | None = None) -> Said:
    return said({"ended": "refused", "message": message, "missing": missing})


def test_a_target_that_is_imported() -> None:
    seen = {"seconds": 0.25, "file": "/here/stats.py"}
    finding = check_worker.target("stats:measure", said({"ended": "well", "seen": seen}), 20, VENV)
    assert finding.status == OK
    assert finding.found == "stats:measure: a worker imports it in 250 ms (/here/stats.py)"


LOADING = "stats.py cannot be loaded:\nTraceback (most recent call last):\n  ..."


@pytest.mark.parametrize(
    ("told", "place", "words", "cure"),
    [
        (
            refused(f"{LOADING}\nModuleNotFoundError: No module named 'pandas'", "pandas"),
            PIPX,
            "named 'pandas'",
            "inject",
        ),
        (refused("there is no module 'pandas.x'", "pandas.x"), VENV, "there is no module", "install --upgrade pandas"),
        (refused("stats.py has no 'x'. There is:\n    y()"), VENV, "There is:\n    y()", "Mend the name"),
        (refused(f"{LOADING}\nZeroDivisionError: z"), VENV, "loaded: ZeroDivisionError: z", "Mend what the text below"),
        (
            refused(f"{LOADING}\nImportError: relative\nThe file is part of a package: write a.b:TASK"),
            VENV,
            "ImportError: relative",
            "The file is part of a package: write a.b:TASK",
        ),
        (said(stage="loading s", stuck=True), VENV, "loading s did not end in time", "See below where it hangs"),
        (said({"ended": "late"}), VENV, "no worker can import it within 20 s", "See below where it hangs"),
    ],
)
def test_a_target_that_is_not_imported(told: Said, place: Place, words: str, cure: str) -> None:
    finding = check_worker.target("stats.py:measure", told, 20, place)
    assert finding.status == PROBLEM
    assert words in finding.found
    assert cure in finding.cure


def test_stacks_are_shown_without_our_machinery() -> None:
    ours = os.path.dirname(check_worker.ztasks.__file__)
    text = f"""\
Traceback (most recent call last):
  File "{ours}/cli/probe.py", line 9, in find
    found = importlib.import_module(module)
            ^^^^^^^^^^^^^^^^^^^^^^^
  File "<frozen importlib._bootstrap>", line 1204, in _gcd_import
  File "/here/stats.py", line 3, in <module>
    import nothing
ModuleNotFoundError: No module named 'nothing'
Current thread 0x1 (most recent call first):
  File "/here/stats.py", line 4 in <module>
  File "{ours}/io/worker.py", line 68 in run"""
    assert check_worker.without_machinery(text).splitlines() == [
        "Traceback (most recent call last):",
        '  File "/here/stats.py", line 3, in <module>',
        "    import nothing",
        "ModuleNotFoundError: No module named 'nothing'",
        "Current thread 0x1 (most recent call first):",
        '  File "/here/stats.py", line 4 in <module>',
    ]
