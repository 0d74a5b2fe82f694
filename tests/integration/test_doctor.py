"""`ztasks doctor` as users run it, in surroundings that are really broken: it ends, and leaves nothing behind."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, ROOT, Finished, children, environment, run_directories, run_python, wait_for

from ztasks import Executor
from ztasks.cli import probing
from ztasks.cli.doctor import bounded, command
from ztasks.cli.findings import OK, PROBLEM
from ztasks.io.limits import DESCRIPTORS_BASE, DESCRIPTORS_PER_WORKER, open_descriptors

CHECKS = [
    *("python", "system", "ztasks", "packages", "environment", "directory", "leftovers", "descriptors", "processes"),
    *("memory", "shared memory", "cpus", "worker", "imports"),
]

IN_WORKERS = """
import os, sys, time
if "ZTASKS_WORKER" in os.environ:
    print("a worker imports this", flush=True)
    {}
def task(x):
    return x
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "SLURM_CPUS_PER_TASK", "ZTASKS_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # without another `ztasks`
    yield tmp_path
    assert run_directories() == []


def doctor(*arguments: str, **how: Any) -> Finished:
    done = run_python("-m", "ztasks", "doctor", *arguments, **how)
    assert "Traceback" not in done.err
    return done


def checks(done: Finished) -> dict[str, dict[str, Any]]:
    """The checks of a JSON document by their names; of several with one name, the worst."""
    found: dict[str, dict[str, Any]] = {}
    for check in json.loads(done.out)["checks"]:
        before = found.get(check["check"])
        if before is None or before["status"] == "ok" or check["status"] == "problem":
            found[check["check"]] = check
    return found


def examined(*arguments: str, code: int = 0, **how: Any) -> dict[str, dict[str, Any]]:
    done = doctor("--json", *arguments, **how)
    assert (done.code, done.err) == (code, ""), done.out
    return checks(done)


def beside(name: str, text: str) -> dict[str, str]:
    """Put a module first into every interpreter's path; return the environment for that."""
    Path("first").mkdir(exist_ok=True)
    Path("first", name).write_text(text)
    inherited = environment()
    return {**inherited, "PYTHONPATH": f"{Path.cwd()}/first{os.pathsep}{inherited['PYTHONPATH']}"}


# --- all is well ---


def test_in_a_pipe_it_is_plain_and_short() -> None:
    done = doctor()
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert lines[-1] in (
        "All is well.",
        *(f"No problem, {n} warning{'s' * (n > 1)}: jobs will run." for n in (1, 2, 3)),
    )
    assert "\x1b" not in done.out
    assert [line.split("  ")[0] for line in lines if line.startswith("ok")]
    told = "\n".join(lines)
    for check in CHECKS:
        assert f"  {check} " in told
    assert "came up and ran a job in" in told


def test_json_is_for_programs_and_has_what_was_measured() -> None:
    done = doctor("--json", "json:dumps")
    document = json.loads(done.out)
    assert (done.code, document["ok"], document["problems"]) == (0, True, 0)
    assert [check["check"] for check in document["checks"]][: len(CHECKS)] == CHECKS
    found = checks(done)
    assert all(check["why"] for check in found.values())
    assert found["python"]["details"]["executable"] == sys.executable
    assert found["packages"]["details"]["pyzmq"]["libzmq"].startswith("4.")
    assert found["descriptors"]["details"]["soft"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found["imports"]["details"]["sys_path"] == found["imports"]["details"]["sys_path_of_the_worker"]
    assert found["worker"]["details"]["first_seconds"] > 0
    assert found["directory"]["details"]["chosen"] == tempfile.gettempdir()
    assert found["target"]["details"]["file"] == json.__file__


def test_why_it_matters_is_told_of_what_is_well_if_asked_for() -> None:
    lines = doctor("-v").out.splitlines()
    assert sum(line.startswith("         why  ") for line in lines) >= len(CHECKS)


def test_so_many_descriptors_does_a_worker_take() -> None:
    before = open_descriptors()
    with Executor(max_workers=4) as executor:
        executor.submit(pow, 2, 2).result(DEADLINE)
        wait_for(lambda: all(worker.ready for worker in executor._head._watch.crew.workers.values()), "4 workers")
        taken = open_descriptors() - before
    assert taken <= DESCRIPTORS_BASE + 4 * DESCRIPTORS_PER_WORKER
    assert taken > 4 * (DESCRIPTORS_PER_WORKER - 2)


# --- usage ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-such-option"], "No such option"),
        (["--timeout", "soon"], "must be a duration"),
        (["--timeout", "0"], "from 0.1s to 1h"),
        (["-j", "0"], "neither a number of workers"),
        ([""], "must not be empty"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    done = doctor(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_the_help_teaches_and_needs_nothing() -> None:
    program = "import sys; from ztasks.cli.main import main; main(['doctor', '--help']); print(*sys.modules)"
    out = run_python("-c", program).out
    for words in ("ztasks doctor stats.py:measure", "Exit codes:", "--timeout DURATION", "problem  jobs will not run"):
        assert words in out
    assert not {"zmq", "rich", "cloudpickle", "msgspec", "asyncio"} & set(out.split())


def test_the_doctor_itself_imports_nothing_that_may_be_broken() -> None:
    program = "import sys; from ztasks.cli.main import main; main(['doctor']); print(*sys.modules)"
    done = run_python("-c", program)
    assert "came up and ran a job" in done.out
    assert not {"zmq", "rich", "cloudpickle", "msgspec"} & set(done.out.splitlines()[-1].split())


def test_the_documentation_has_every_check_option_and_exit_code() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    assert set(re.findall(r"^\| `([a-z ]+)` \|", text, re.MULTILINE)) == {*CHECKS, "target"}
    assert command.epilog is not None
    told = set(re.findall(r"^  (\d+) ", command.epilog, re.MULTILINE))
    assert set(re.findall(r"^\| (\d+) \|", text, re.MULTILINE)) == told
    for flag in ("--timeout", "--json", "-j"):
        assert flag in text


# --- broken packages and interpreters ---


def test_a_module_that_hides_pyzmq(folder: Path) -> None:
    found = examined(code=1, env=beside("zmq.py", "raise RuntimeError('not the real one')"))
    assert found["packages"]["status"] == "problem"
    assert "RuntimeError: not the real one" in found["packages"]["found"]
    assert found["packages"]["cure"].startswith(f"{folder}/first/zmq.py hides the installed package")
    assert found["worker"]["status"] == "warning"
    assert "not tried" in found["worker"]["found"]


def test_a_package_that_kills_the_interpreter() -> None:
    found = examined(code=1, env=beside("msgspec.py", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert "importing msgspec was killed by SIGSEGV" in found["packages"]["found"]
    assert "msgspec.py" in found["packages"]["output"], "faulthandler tells where"


def test_rich_is_not_needed_to_be_told_that_it_is_broken() -> None:
    found = examined(code=1, env=beside("rich.py", "raise ImportError('broken rich')"))
    assert "ImportError: broken rich" in found["packages"]["found"]
    assert found["worker"]["status"] == "ok"


ONLY_IN_WORKERS = "import sys\nif any('worker_main.py' in each for each in sys.orig_argv):\n    "


def test_a_file_that_hides_a_module_of_the_standard_library(folder: Path) -> None:
    (folder / "colorsys.py").touch()
    (folder / "other").mkdir()
    (folder / "other" / "this.py").touch()
    (folder / "other" / "stats.py").write_text("def measure(x): return x\n")
    found = examined("other/stats.py:measure")["python"]
    assert found["status"] == "warning"
    assert found["details"]["hiding"] == [f"{folder}/colorsys.py", f"{folder}/other/this.py"]
    assert found["cure"] == "Rename them."


def test_workers_whose_interpreter_does_not_start(folder: Path) -> None:
    text = f"{ONLY_IN_WORKERS}raise SystemExit('no licence on this host')"
    found = examined(code=1, env=beside("sitecustomize.py", text))
    assert found["packages"]["status"] == "ok"
    assert "WorkersCannotStart" in found["worker"]["found"]
    assert "no licence on this host" in found["worker"]["output"]
    assert f"{folder}/first/sitecustomize.py" in found["worker"]["cure"]


def test_workers_that_hang_as_they_start() -> None:
    text = f"{ONLY_IN_WORKERS}import time; print('waiting for the licence'); sys.stdout.flush(); time.sleep(600)"
    found = examined("--timeout", "4s", code=1, env=beside("sitecustomize.py", text))
    assert found["worker"]["found"] == "no worker came up within 4 s"
    assert "waiting for the licence" in found["worker"]["output"]


def test_workers_that_write_as_they_start() -> None:
    text = f"{ONLY_IN_WORKERS}print('hello from sitecustomize', file=sys.stderr)"
    found = examined(env=beside("sitecustomize.py", text))
    assert found["worker"]["status"] == "warning"
    assert "hello from sitecustomize" in found["worker"]["output"]


# --- the directory ---


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x" * 90, f"at most {probing.rundir.MAX_BASE} can be used; /tmp is used instead"),
        ("missing", "does not exist; /tmp is used instead"),
        ("file", "is not a directory; /tmp is used instead"),
    ],
)
def test_a_tmpdir_that_cannot_be_used(folder: Path, name: str, said: str) -> None:
    (folder / ("x" * 90)).mkdir()
    (folder / "file").touch()
    short = Path(tempfile.mkdtemp(prefix="d-", dir="/tmp"))
    shutil.move(folder / name, short) if name != "missing" else None
    try:
        found = examined(env=environment(TMPDIR=f"{short}/{name}", XDG_RUNTIME_DIR=""))
    finally:
        shutil.rmtree(short)
    assert found["directory"]["status"] == "warning"
    assert said in found["directory"]["found"]
    assert found["directory"]["cure"]
    assert found["worker"]["status"] == "ok"


def test_a_directory_in_which_nothing_can_be_made() -> None:
    if os.geteuid():
        pytest.skip("only root is told that /proc can be written to")
    found = examined(code=1, env=environment(TMPDIR="/proc"))
    assert found["directory"]["status"] == "problem"
    assert "a directory cannot be made" in found["directory"]["found"]
    assert "not tried" in found["worker"]["found"]


def in_small_tmpfs(folder: Path, options: str, prepare: str = ":") -> Finished:
    """Run the doctor with TMPDIR in a file system of its own."""
    may = subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=DEADLINE, check=False)
    if may.returncode:
        pytest.skip(f"no mount namespaces here: {may.stderr.decode().strip()}")
    short = Path(tempfile.mkdtemp(prefix="d-", dir="/tmp"))
    command = (
        f"mount -t tmpfs -o {options} tmpfs {short} && {{ {prepare}; TMPDIR={short} {sys.executable} -m ztasks "
        f"doctor --json; code=$?; ls {short} >&2; exit $code; }}"
    )
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", command.replace("TARGET", str(short))],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env=environment(),
            check=False,
        )
    finally:
        short.rmdir()
    if "mount" in done.stderr:
        pytest.skip(f"no mounting here: {done.stderr.strip()}")
    return Finished(done.returncode, done.stdout, done.stderr)


def test_a_full_disk(folder: Path) -> None:
    done = in_small_tmpfs(folder, "size=16k", "head -c 100000 /dev/zero >TARGET/fill 2>/dev/null")
    found = checks(done)
    assert done.code == 1
    assert found["directory"]["status"] == "problem"
    assert "No space left on device" in found["directory"]["found"]
    assert done.err.split() == ["fill"], "nothing is left behind"


def test_little_space(folder: Path) -> None:
    done = in_small_tmpfs(folder, "size=1m")
    found = checks(done)
    assert (done.code, done.err) == (0, "")
    assert found["directory"]["status"] == "warning"
    assert "that is little" in found["directory"]["found"]
    assert found["worker"]["status"] == "ok"


def test_leftovers_of_killed_processes_are_counted_and_removed() -> None:
    left = Path(tempfile.gettempdir(), "ztasks-0123456789ab")
    left.mkdir(mode=0o700)
    (left / "lock").touch()
    with Executor(max_workers=1) as executor:
        executor.submit(pow, 2, 2).result(DEADLINE)
        left.mkdir(mode=0o700, exist_ok=True)  # the executor has swept it
        (left / "lock").touch()
        found = examined()
    assert found["leftovers"]["details"] == {"abandoned": [str(left)], "in_use": 1, "of_others": 0}
    assert "1 of killed processes" in found["leftovers"]["found"]
    assert not left.exists()


# --- limits ---


def limited(number: int, value: int) -> Callable[[], None]:
    """Return what lowers a limit in a process that is about to start."""
    return lambda: resource.setrlimit(number, (value, value))


@pytest.mark.filterwarnings("ignore:.*preexec_fn.*:DeprecationWarning")
def test_too_few_descriptors() -> None:
    found = examined("-j", "8", code=1, preexec_fn=limited(resource.RLIMIT_NOFILE, 80))
    assert found["descriptors"]["status"] == "problem"
    assert found["descriptors"]["details"]["soft"] == 80
    assert 0 < found["descriptors"]["details"]["workers_that_fit"] < 8
    assert "Raise the hard limit" in found["descriptors"]["cure"]
    assert found["worker"]["status"] == "ok", "one fits"


@pytest.mark.filterwarnings("ignore:.*preexec_fn.*:DeprecationWarning")
@pytest.mark.parametrize("number", [8, 20])
def test_next_to_no_descriptors(number: int) -> None:
    found = examined(code=1, preexec_fn=limited(resource.RLIMIT_NOFILE, number))
    assert found["descriptors"]["status"] == "problem"
    worst = found["packages"] if found["packages"]["status"] == "problem" else found["worker"]
    assert (
        "descriptors" in worst["found"] + worst["output"] or "Too many open files" in worst["found"] + worst["output"]
    )
    assert worst["cure"] == "ulimit -n 65536"


@pytest.mark.filterwarnings("ignore:.*preexec_fn.*:DeprecationWarning")
def test_a_limited_address_space() -> None:
    done = doctor("--json", preexec_fn=limited(resource.RLIMIT_AS, 700 * 2**20))
    found = checks(done)
    assert found["memory"]["status"] == "warning"
    assert "700 MiB" in found["memory"]["found"]
    assert found["worker"]["status"] == "ok"


# --- isolated installs ---


def python_of(prefix: Path) -> tuple[str, dict[str, str]]:
    """Make an environment as pipx does, but one that finds our packages; return its Python and its variables."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(prefix)
    places = [str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return f"{prefix}/bin/python", environment(PYTHONPATH=os.pathsep.join(dict.fromkeys(places)))


def examined_by(python: str, *arguments: str, env: dict[str, str]) -> tuple[int, dict[str, dict[str, Any]]]:
    arguments = (python, "-m", "ztasks", "doctor", "--json", *arguments)
    done = subprocess.run(arguments, capture_output=True, text=True, env=env, timeout=DEADLINE, check=False)
    return done.returncode, checks(Finished(done.returncode, done.stdout, done.stderr))


def test_an_install_by_pipx_cannot_import_the_user_s_packages(folder: Path) -> None:
    python, env = python_of(folder / "pipx" / "venvs" / "ztasks")
    (folder / "project.py").write_text("import pandas_of_the_user\ndef task(x):\n    return x\n")
    code, found = examined_by(python, "project.py:task", env=env)
    assert code == 1
    assert found["environment"]["status"] == "warning"
    assert "isolated environment of pipx" in found["environment"]["found"]
    assert "nothing but ztasks" in found["environment"]["found"]
    assert "pipx inject ztasks PACKAGE" in found["environment"]["cure"]
    assert found["worker"]["status"] == "ok"
    assert found["target"]["status"] == "problem"
    assert "No module named 'pandas_of_the_user'" in found["target"]["found"]
    assert "pipx inject ztasks pandas_of_the_user" in found["target"]["cure"]
    assert "isolated environment of pipx" in found["target"]["cure"]


def test_what_was_injected_is_named(folder: Path) -> None:
    prefix = folder / "pipx" / "venvs" / "ztasks"
    python, env = python_of(prefix)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)}))
    (site / "pandas-3.0.dist-info").mkdir()
    (site / "pandas-3.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pandas\nVersion: 3.0\n")
    code, found = examined_by(python, env=env)
    assert (code, found["environment"]["status"]) == (0, "ok")
    assert "it holds pandas" in found["environment"]["found"]


def test_an_active_environment_that_is_not_ours(folder: Path) -> None:
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "project" / ".venv")
    active = f"{folder}/project/.venv"
    found = examined(env=environment(VIRTUAL_ENV=active))["environment"]
    assert found["status"] == "warning"
    assert f"VIRTUAL_ENV is {active}" in found["found"]
    assert f"{active}/bin/python -m pip install ztasks" in found["cure"]


# --- targets ---


def test_targets_that_a_worker_imports(folder: Path) -> None:
    (folder / "stats.py").write_text("print('noise')\nfrom ztasks import task\n@task\ndef measure(x): return x\n")
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text("value = lambda x: x\n")
    targets = ["stats.py:measure", "stats:measure", "stats.py", "package.module:value", "package.module"]
    document = json.loads(doctor("--json", *targets).out)
    found = {check["found"].partition(": ")[0]: check for check in document["checks"] if check["check"] == "target"}
    assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(targets, "ok")
    assert found["stats.py"]["details"]["file"] == f"{folder}/stats.py"


def test_a_file_whose_name_is_taken(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "json.py").write_text("def parse(x): return x\n")
    found = examined("other/json.py:parse")
    assert found["target"]["status"] == "ok"
    assert found["python"]["status"] == "ok", "its directory goes last in sys.path, so it hides nothing"


@pytest.mark.parametrize(
    ("body", "said", "output"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", "stats.py"),
        ("sys.exit('not here')", "SystemExit: not here", "sys.exit"),
        ("os._exit(7)", "exited with code 7", "a worker imports this"),
    ],
)
def test_a_target_that_only_workers_cannot_import(folder: Path, body: str, said: str, output: str) -> None:
    (folder / "stats.py").write_text(IN_WORKERS.format(body))
    found = examined("stats.py:task", code=1)
    assert found["worker"]["status"] == "ok"
    assert said in found["target"]["found"]
    assert output in found["target"]["output"]


def test_a_target_at_which_a_worker_hangs(folder: Path) -> None:
    (folder / "stats.py").write_text(IN_WORKERS.format("time.sleep(600)"))
    target = examined("stats.py:task", "--timeout", "4s", code=1)["target"]
    assert "no worker can import it within 4 s" in target["found"]
    assert 'stats.py", line 5 in <module>' in target["output"], "it says where"
    assert "probe.py" not in target["output"]


def test_a_target_at_which_even_the_loading_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "stats.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr(probing, "SLACK_SECONDS", 0.5)
    with probing.no_core_files():
        said = probing.probe(2.0, kind="target", target="stats.py:task")
    assert (said.stage, said.stuck, said.exit_code) == ("loading stats.py:task", True, -signal.SIGABRT)
    assert said.written.startswith("loading\n")
    assert 'stats.py", line 3 in <module>' in said.written
    assert list(folder.glob("core*")) == []


def test_a_target_that_leaves_a_process_behind(folder: Path) -> None:
    """It holds on to the pipes; the doctor neither waits for it nor leaves it."""
    (folder / "stats.py").write_text(
        "import os, subprocess\n"
        "if 'ZTASKS_WORKER' not in os.environ:\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    open('pid', 'w').write(str(child.pid))\n"
        "def task(x): return x\n"
    )
    assert examined("stats.py:task")["target"]["status"] == "ok"
    pid = int((folder / "pid").read_text())
    wait_for(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in Path(f"/proc/{pid}/stat").read_text(), "its end")


# --- bounded, and nothing left behind ---


def test_a_check_that_never_comes_back() -> None:
    never = threading.Event()
    [finding] = bounded("directory", lambda: [never.wait()], 0.05)  # type: ignore[list-item]
    never.set()
    assert (finding.check, finding.status) == ("directory", PROBLEM)
    assert finding.found == "no answer within 0.05 s"


def test_a_check_with_a_defect_does_not_hide_the_others() -> None:
    [finding] = bounded("cpus", lambda: 1 // 0, 5)  # type: ignore[arg-type,return-value]
    assert "ZeroDivisionError" in finding.found
    assert finding.status != OK


def hanging(folder: Path, *how: str) -> list[str]:
    """Arguments for a doctor that is busy until it is told to end, with a worker that hangs."""
    (folder / "stats.py").write_text(IN_WORKERS.format("open('hangs', 'w').close(); time.sleep(600)"))
    return ["-m", "ztasks", "doctor", "stats.py:task", *how]


def descendants(pid: int) -> set[int]:
    below = children(pid)
    return below.union(*map(descendants, below))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_it_ends_at_once_when_it_is_told_to(folder: Path, number: signal.Signals, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, *hanging(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    with process:
        wait_for(lambda: (folder / "hangs").exists(), "a worker that hangs")
        below = descendants(process.pid)
        assert len(below) >= 2, "a child and its worker"
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == code
    assert "Traceback" not in err
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in below), "the end of all it has started", 2)
    if number == signal.SIGKILL:
        [left] = run_directories()
        shutil.rmtree(left)  # nobody is there to remove it; the next executor would


def on_terminal(*arguments: str, act: Callable[[int, bytes], None] = lambda pid, seen: None) -> tuple[int, str]:
    """Run Python on a pseudo-terminal; `act` is told what has been seen so far."""
    pid, file = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [sys.executable, *arguments], {**environment(), "TERM": "xterm", "COLUMNS": "80"})
    seen = b""
    try:
        while True:
            try:
                data = os.read(file, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
            act(file, seen)
    finally:
        os.close(file)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_on_a_terminal_it_is_in_colour() -> None:
    code, text = on_terminal("-m", "ztasks", "doctor", "no_such_module")
    assert code == 1
    assert "\x1b[32m✓" in text
    assert "\x1b[1;31m✗" in text
    assert "starting a worker" in text, "what it is doing"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h"), "the cursor is shown again"
    assert "1 problem" in text


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_ctrl_c_on_a_terminal(folder: Path) -> None:
    pressed = []

    def press(file: int, seen: bytes) -> None:
        if not pressed and (folder / "hangs").exists():
            pressed.append(os.write(file, b"\x03"))

    code, text = on_terminal(*hanging(folder), act=press)
    assert (code, pressed) == (130, [1])
    assert "interrupted; nothing is left behind" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_the_reader_goes_away() -> None:
    command = f"{sys.executable} -m ztasks doctor | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment(), timeout=DEADLINE, check=True
    )
    assert done.stdout.splitlines()[-1] == "141"
    assert done.stderr == ""


def test_where_the_report_cannot_be_written() -> None:
    with open("/dev/full", "w") as full:
        done = doctor(stdout=full)
    assert done.code == 1
    assert done.err == "ztasks doctor: the report cannot be written: No space left on device\n"
    closed = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m ztasks doctor >&- 2>&- <&-"],
        env=environment(),
        timeout=DEADLINE,
        check=False,
    )
    assert closed.returncode == 0
