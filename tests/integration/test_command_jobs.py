"""Programs as jobs: what they are given, what becomes of their output and their end, and what they leave behind."""

import os
import pickle
import signal
import sys
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
import support

import ztasks
from ztasks.runs.command import BadCommand, CommandFailed, parse_command


def run(text: str, *args: Any, number: int = 1, shell: bool = False, **kwargs: Any) -> str:
    return parse_command(text, shell=shell).run(number, args, kwargs)


def pid_in(path: Path) -> int:
    """The number that a program writes into a file, once it is there."""
    return int(support.wait_for(lambda: path.exists() and path.read_text().strip(), f"a number in {path}"))


# --- what a program is given ---


def test_words_stay_words() -> None:
    assert run("printf '[%s]' {} 'a  b' {2}", "x  y", "'\"") == "[x  y][a  b]['\"]"
    assert run("printf '[%s]' {} 'a  b' \"{2}\"", "x  y", "'\"", shell=True) == "[x  y][a  b]['\"]"


def test_awk() -> None:
    assert run("awk '{print $2}' {}", "/proc/self/stat").startswith("(awk")
    assert run("awk '{print $2}' {} | wc -l", "/proc/self/stat", shell=True).strip() == "1"


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize(
    "value", ["; touch pwned", "$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "& touch pwned"]
)
@pytest.mark.parametrize("text", ["echo {}", "echo '{}'", 'echo "{}"', "echo"])
def test_an_injection_is_harmless(
    text: str, value: str, shell: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(text, value, shell=shell) == f"{value}\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shell", [False, True])
def test_names_that_are_no_utf8(shell: bool, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a \xff\xfe")
    Path(name).write_text("found")
    assert run("cat {}", name, shell=shell) == "found"
    assert run("printf %s {/}", name, shell=shell) == "a \\xff\\xfe"


def test_stdin_is_empty() -> None:
    assert run("cat -") == ""


# --- what it says ---


def test_output_that_is_no_utf8() -> None:
    assert run("printf 'a\\377\\303\\244'") == "a\\xffä"


def test_stderr_is_passed_on_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("printf 'one\\ntwo \\377' >&2; echo out", "", shell=True) == "out \n"
    assert capsys.readouterr() == ("", "one\ntwo \\xff\n")


def test_stderr_is_passed_on_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program waits until its first line has been passed on."""

    class Stderr:
        def write(self, text: str) -> None:
            written.append(text)
            (tmp_path / "seen").touch()

        def flush(self) -> None:
            pass

    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", Stderr())
    text = f"echo first >&2; while [ ! -e {tmp_path}/seen ]; do sleep 0.01; done; echo second >&2 {{}}"
    run(text, "line", shell=True)
    assert written == ["first\n", "second line\n"]


def test_nobody_has_to_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert run("echo out; echo gone >&2 {}", "", shell=True) == "out\n"


def test_much_output_on_both_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import os; [os.write(fd, b'x' * 65535 + b'\\n') for _ in range(160) for fd in (2, 1)]"
    assert run("{} -S -c {2}", sys.executable, code) == ("x" * 65535 + "\n") * 160
    assert len(capsys.readouterr().err) == 160 * 65536


def test_a_long_line_of_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run("sh -c 'head -c 1000000 /dev/zero | tr \"\\0\" x >&2'")
    assert capsys.readouterr().err.replace("\n", "") == "x" * 1000000


# --- how it ends ---


@pytest.mark.parametrize("shell", [False, True])
def test_exit_codes(shell: bool) -> None:
    with pytest.raises(CommandFailed, match=r"^exit code 3: the last$") as caught:
        run("sh -c 'echo first >&2; echo the last >&2; exit {}'", 3, shell=shell)
    assert (caught.value.exit_code, caught.value.stderr) == (3, "first\nthe last\n")


def test_only_the_tail_of_stderr_is_kept() -> None:
    with pytest.raises(CommandFailed, match=r"^exit code 1: 9999$") as caught:
        run("seq {} >&2; exit 1", 9999, shell=True)
    assert len(caught.value.stderr) == 4096


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_signals(number: signal.Signals) -> None:
    with pytest.raises(CommandFailed, match=f"^killed by {number.name}$") as caught:
        run("sh -c 'kill -{} $$'", int(number))
    assert caught.value.exit_code == -number


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program-zt"):
        run("{}", "no-such-program-zt")
    with pytest.raises(PermissionError, match="/etc/passwd"):
        run("{}", "/etc/passwd")
    with pytest.raises(CommandFailed, match=r"exit code 127: .*no-such-program-zt"):
        run("no-such-program-zt {}", "", shell=True)


def test_it_may_close_its_output_and_go_on(tmp_path: Path) -> None:
    done = tmp_path / "done"
    run("exec >&- 2>&-; sleep 0.05; echo > {}", done, shell=True)
    assert done.exists()


def test_what_it_leaves_in_the_background_lives_on(tmp_path: Path) -> None:
    try:
        assert run("sleep 600 & echo $! > {}/pid; echo out", tmp_path, shell=True) == "out\n"
        assert support.alive(pid_in(tmp_path / "pid"))
    finally:
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)
    support.wait_gone({pid_in(tmp_path / "pid")})


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before, children = support.descriptors(), support.children()
    for number in range(50):
        if number % 3 == 0:
            run("true")
        elif number % 3 == 1:
            with pytest.raises(CommandFailed):
                run("false")
        else:
            with pytest.raises(FileNotFoundError):
                run("{}", tmp_path / "none")
    assert support.descriptors() == before
    assert support.children() == children


# --- in workers ---


def submit(executor: ztasks.Executor, text: str, *args: Any, shell: bool = False, **options: Any) -> Any:
    return executor.submit(ztasks.options(parse_command(text, shell=shell), **options), 1, args, {})


def test_a_job_of_an_executor(shared: ztasks.Executor, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    Path(name).write_text("found")
    assert submit(shared, "cat", name).result(support.DEADLINE) == "found"
    with pytest.raises(CommandFailed, match="exit code 3: why") as caught:
        submit(shared, "echo why >&2; exit {}", 3, shell=True).result(support.DEADLINE)
    assert (caught.value.exit_code, caught.value.stderr) == (3, "why\n")
    assert pickle.loads(pickle.dumps(caught.value)).exit_code == 3
    with pytest.raises(BadCommand, match="no keyword argument 'name'"):
        submit(shared, "echo {name}", 3).result(support.DEADLINE)


def test_the_program_has_only_its_own_descriptors(shared: ztasks.Executor) -> None:
    """The lifeline above all: what is left in the background would hold it."""
    assert submit(shared, "ls /proc/self/fd").result(support.DEADLINE).split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "shell"),
    [
        ("sh -c 'sleep 600 & echo $! > {}/pid; wait'", False),
        ("sleep 600 & echo $! > {}/pid; wait", True),
        ("sh -c 'trap \"\" TERM; sleep 600 & echo $! > {}/pid; wait'", False),
        ("sh -c 'sleep 600 >/dev/null 2>&1 & echo $! > {}/pid; exec >&- 2>&-; wait'", False),
        ("timeout 600 sh -c 'echo $$ > {}/pid; sleep 600; :'", False),
        ("setsid sh -c 'echo $$ > {}/pid; sleep 600; :'", False),
    ],
)
def test_being_stopped_it_ends_all_that_it_has_started(
    text: str, shell: bool, shared: ztasks.Executor, tmp_path: Path
) -> None:
    workers = support.workers()
    future = submit(shared, text, tmp_path, shell=shell)
    pid = pid_in(tmp_path / "pid")
    assert future.cancel(running=True)
    with pytest.raises(CancelledError):
        future.result(support.DEADLINE)
    assert not support.alive(pid)
    assert [child for worker in workers for child in support.children(worker)] == []
    assert support.workers() == workers  # none had to be killed for it


def test_a_timeout_stops_it(shared: ztasks.Executor, tmp_path: Path) -> None:
    text = "echo $$ > {}/pid; sleep 600"
    with pytest.raises(ztasks.JobTimeout):
        submit(shared, text, tmp_path, shell=True, timeout=2.0).result(support.DEADLINE)
    assert not support.alive(pid_in(tmp_path / "pid"))


def test_what_a_failed_program_has_left_in_the_background_goes_on(tmp_path: Path) -> None:
    """As after one that ended well: it was left there on purpose. It ends with the worker."""
    with ztasks.Executor(max_workers=1) as executor:
        text = "sleep 600 >&- 2>&- & echo $! > {}/pid; exit 1"
        with pytest.raises(CommandFailed):
            submit(executor, text, tmp_path, shell=True).result(support.DEADLINE)
        pid = pid_in(tmp_path / "pid")
        assert support.alive(pid)
    support.wait_gone({pid})


def test_a_timeout_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    """Also while it forks: the timeouts are about as long as a program takes to start."""
    with ztasks.Executor(max_workers=1) as executor:
        worker = executor.submit(os.getpid).result(support.DEADLINE)
        before = executor.submit(open_descriptors).result(support.DEADLINE)
        futures = [
            submit(executor, "sh -c 'sleep 600 & wait'", timeout=0.0002 * (1 + number % 10)) for number in range(40)
        ]
        for future in futures:
            assert isinstance(future.exception(support.DEADLINE), ztasks.JobTimeout)
        assert executor.submit(open_descriptors).result(support.DEADLINE) == before
        assert support.children(worker) == set()
        running = {process.pid for process in support.processes() if process.group == worker and process.state != "Z"}
        assert running == {worker}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
