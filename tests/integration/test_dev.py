"""`ztasks dev`: head and workers in one terminal, which are there as long as it is, with the code as it is now."""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import support

sys.path.append(str(Path(__file__).parents[1] / "hosts"))  # for `fleet`

from fleet import MARK, marked

from ztasks.cli import watching
from ztasks.cli.dev import PORT_RANGE, PORTS, PREFIX, free_ports, private_directory
from ztasks.cli.watching import Watch, places
from ztasks.io import rundir


class Terminal:
    """`ztasks dev` in a process of its own, in a directory with a package `app`."""

    def __init__(self, folder: Path) -> None:
        (folder / "app").mkdir()
        (folder / "app" / "__init__.py").touch()
        self.folder, self.tasks, self.tmp = folder, folder / "app" / "tasks.py", Path(os.environ["TMPDIR"])
        self.write("VERSION = 1")
        self._mark = os.urandom(8).hex()
        self._out, self._err = folder / "out", folder / "err"

    def write(self, text: str) -> None:
        """Write a task that returns the version of its code, and one that waits for a file."""
        body = (
            "def version():\n    return VERSION\n\ndef wait(path):\n    open(path, 'w').close()\n    time.sleep(60)\n"
        )
        new = self.folder / "new"
        new.write_text(f"import time\n{text}\n\n{body}")
        new.replace(self.tasks)

    def start(self, *arguments: str) -> None:
        """Start it, and wait until it is ready."""
        env = {**support.environment(), MARK: self._mark}
        with open(self._out, "w") as out, open(self._err, "w") as err:
            command = "-m", "ztasks", "dev", "--import", "app.tasks", "-j", "1", *arguments
            self.process = support.start_python(*command, env=env, cwd=self.folder, stdin=None, stdout=out, stderr=err)
        self.wait_for("ready; watching")
        support.wait_for(lambda: self._out.read_text().endswith("\n"), "the line to be written")
        [self.head] = re.findall(r"^export ZTASKS_HEAD=(@.*/client\.join)$", self._out.read_text(), re.MULTILINE)

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until it has said this so many times."""

        def said() -> bool:
            assert self.process.poll() is None, self.err
            return self.err.count(text) >= count

        support.wait_for(said, f"{text!r} from ztasks dev")

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def processes(self) -> set[int]:
        """All that it has started, and itself."""
        return marked(f"{MARK}={self._mark}".encode())

    def ztasks(self, *arguments: str) -> support.Finished:
        """Run another command."""
        env = support.environment(ZTASKS_HEAD=self.head)
        return support.run_python("-m", "ztasks", *arguments, env=env, cwd=self.folder)

    def stop(self, number: signal.Signals) -> float:
        """End it with a signal; return how long that took."""
        began = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(support.DEADLINE) == 0
        return time.monotonic() - began

    def end(self) -> None:
        """Kill and remove what is left."""
        for pid in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(support.DEADLINE)
        support.wait_for(lambda: not self.processes, "the end of all of them")
        support.wait_for(self._swept, "what was killed to let go of its directories")

    def _swept(self) -> bool:
        rundir.sweep(str(self.tmp))
        return not list(self.tmp.glob("ztasks-*"))


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path)
    try:
        yield found
    finally:
        found.end()


def test_code_is_reloaded_and_ctrl_c_ends_all(terminal: Terminal) -> None:
    terminal.start()
    done = terminal.ztasks("send", "app.tasks.version", "--wait")
    assert (done.code, done.out) == (0, "1\n"), done.err
    terminal.write("VERSION = 2")
    terminal.wait_for("ztasks dev: reloading: tasks.py changed\n")
    terminal.wait_for("ztasks worker: joined ", 2)
    assert terminal.ztasks("send", "app.tasks.version", "--wait").out == "2\n"
    assert len(terminal.processes) == 4, "itself, head, foreman and one worker"
    assert terminal.stop(signal.SIGINT) < 3
    assert terminal.processes == set()
    assert [path.name for path in terminal.tmp.iterdir() if "ztasks" in path.name] == []


def test_code_that_cannot_be_imported_is_told_and_what_mends_it_is_used(terminal: Terminal) -> None:
    terminal.start()
    terminal.write("VERSION = = 3")
    terminal.wait_for("ztasks dev: the worker has ended with exit code 1; it is started anew when a file changes\n")
    assert "SyntaxError" in terminal.err
    joined = terminal.err.count("ztasks worker: joined ")
    terminal.write("VERSION = 4")
    terminal.wait_for("ztasks worker: joined ", joined + 1)
    assert terminal.ztasks("send", "app.tasks.version", "--wait").out == "4\n"


def test_a_job_that_runs_holds_up_neither_a_reload_nor_the_end(terminal: Terminal, tmp_path: Path) -> None:
    terminal.start("--patience", "100ms")
    begun = tmp_path / "begun"
    assert terminal.ztasks("send", "app.tasks.wait", str(begun)).code == 0
    support.wait_for(begun.exists, "the job to begin")
    begun.unlink()
    terminal.write("VERSION = 2")
    terminal.wait_for("ztasks dev: jobs still run: they are killed, and run again with the new code\n")
    support.wait_for(begun.exists, "the job to begin again")
    assert terminal.stop(signal.SIGTERM) < 3
    support.wait_for(lambda: not terminal.processes, "the end of all of them", 1.0)


def test_all_end_with_it_if_it_is_killed_and_the_next_one_sweeps(terminal: Terminal) -> None:
    terminal.start()
    terminal.process.kill()
    support.wait_for(lambda: not terminal.processes, "the end of all of them")
    assert Path(terminal.head[1:]).exists()
    with private_directory() as path:
        assert [found.name for found in terminal.tmp.glob(f"{PREFIX}*")] == [Path(path).name]
        assert Path(path).stat().st_mode & 0o777 == 0o700
        with private_directory() as other:
            assert Path(path).exists()
            assert other != path
    assert list(terminal.tmp.glob(f"{PREFIX}*")) == []


def test_a_module_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = support.run_python("-m", "ztasks", "dev", "--import", "nowhere.tasks", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "there is no module nowhere.tasks, neither here nor in sys.path" in done.err


def test_ports_are_free_and_lie_together() -> None:
    first = free_ports()
    assert PORT_RANGE[0] <= first < PORT_RANGE[1]
    assert PORTS > 4


# --- which files ---


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory with code, and some that nobody wants to hear of."""
    for name in ("a.py", "b.txt", "pack/c.py", "pack/deep/d.py", ".hidden/e.py", "__pycache__/f.py", "venv/lib/g.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    return tmp_path


def test_changes_of_code_are_seen_and_no_others(code: Path) -> None:
    watch = Watch([str(code)])
    assert (watch.files, watch.complete, watch.changed()) == (3, True, [])
    for name in ("b.txt", ".hidden/e.py", "__pycache__/f.py", "venv/lib/g.py"):
        (code / name).write_text("x = 22\n")
    assert watch.changed() == []
    (code / "pack" / "deep" / "d.py").write_text("x = 22\n")
    assert watch.changed() == [str(code / "pack" / "deep" / "d.py")]
    (code / "new.py").touch()
    (code / "a.py").unlink()
    assert watch.changed() == [str(code / "a.py"), str(code / "new.py")]
    os.utime(code / "new.py", ns=(1, 1))
    assert watch.changed() == [str(code / "new.py")]
    assert watch.changed() == []


def test_a_great_many_files_are_not_all_watched(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "MAX_FILES", 2)
    watch = Watch([str(code)])
    assert (watch.files, watch.complete) == (2, False)
    monkeypatch.setattr(watching, "MAX_FILES", 5)
    monkeypatch.setattr(watching, "MAX_DIRECTORIES", 2)
    watch = Watch([str(code)])
    assert (watch.files, watch.complete) == (2, False)


def test_places_are_those_of_the_modules_and_the_directory(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = code / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("sys.path", [*sys.path, str(code)])
    assert places([], str(elsewhere)) == [str(elsewhere)]
    assert places(["pack.deep.d", "a", "json.tool", "click"], str(elsewhere)) == [
        *(str(elsewhere), str(code / "pack"), str(code / "a.py"))
    ]
    with pytest.raises(ModuleNotFoundError):
        places(["no_such_module_at_all"], str(elsewhere))
