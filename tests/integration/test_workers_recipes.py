"""The recipes in `workers/`: the systemd unit says what it must, and its command line drains when it is stopped."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import support

RECIPES = Path(__file__).parents[2] / "workers"
UNIT = RECIPES / "systemd" / "ztasks-run@.service"
EXAMPLE = RECIPES / "systemd" / "example.conf"

SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "h": 3600}


def service() -> dict[str, str]:
    """The settings of the unit's section [Service]."""
    parser = ConfigParser(interpolation=None, comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())  # strict: a setting that stands twice is an error
    return dict(parser["Service"])


def environment_file(path: Path) -> dict[str, str]:
    """What systemd reads from an EnvironmentFile (as far as ours goes: no quotes around values)."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and line[0] not in "#;")


def expanded(command: str, variables: dict[str, str], instance: str) -> list[str]:
    """Expand a command line as systemd does: ${NAME} within a word, $NAME as a word of its own into several."""
    words: list[str] = []
    for word in shlex.split(command.replace("%i", instance)):
        if re.fullmatch(r"\$\w+", word):
            words += shlex.split(variables.get(word[1:], ""))
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], ""), word))
    return words


def stop_seconds() -> float:
    found = re.fullmatch(r"(\d+)\s*(\w*)", service()["TimeoutStopSec"])
    assert found
    return int(found[1]) * SECONDS[found[2]]


def test_a_stop_reaches_the_main_process_only_and_as_ctrl_c() -> None:
    settings = service()
    assert settings["Type"] == "exec"
    assert settings["KillMode"] == "mixed"
    assert settings["KillSignal"] == "SIGINT"
    assert stop_seconds() >= 60
    assert settings["SuccessExitStatus"] == "130"
    assert settings["OOMPolicy"] == "continue"
    assert "--resume" in settings["ExecStart"].split()
    assert settings["Restart"] == "on-abnormal"  # goes on after a kill; not after an exit code of its own


def test_the_example_sets_what_the_unit_uses() -> None:
    used = set(re.findall(r"\$\{?(\w+)", service()["ExecStart"]))
    assert environment_file(EXAMPLE).keys() == used
    assert expanded(service()["ExecStart"], environment_file(EXAMPLE), "nightly") == [
        *("/opt/ztasks/bin/ztasks", "run", "/srv/jobs/codestats.py:measure"),
        *("--glob", "/srv/jobs/src/**/*.py", "--retries", "2", "--output", "records.jsonl", "--resume"),
    ]


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("there is no systemd-analyze on this machine")
    command = tmp_path / "ztasks"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/ztasks/bin/ztasks", str(command)))
    path = str(tmp_path / "ztasks-run@nightly.service")
    os.symlink(unit, path)
    done = subprocess.run(
        [verify, "verify", path], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=50
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "ztasks" in line]
    if done.returncode and not said:
        pytest.skip(f"systemd-analyze does not work here: {(done.stdout + done.stderr).strip()[:200]}")
    assert (done.returncode, said) == (0, [])


JOBS = """
    import os, pathlib, time

    def work(number):
        folder = pathlib.Path(__file__).parent
        (folder / f"started-{number}").touch()
        print("job", number, "runs")
        deadline = time.monotonic() + 20
        while not (folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return int(number)
"""


def test_the_command_drains_at_the_stop_signal(tmp_path: Path) -> None:
    script = support.write_script(tmp_path, JOBS, "slow.py")
    numbers = tmp_path / "numbers.txt"
    numbers.write_text("".join(f"{number}\n" for number in range(200)))
    variables = {
        "TARGET": f"{script}:work",
        "INPUTS": f"--lines '{numbers}'",
        "OPTIONS": "--workers 2 --retries 2",
        "OUTPUT": "records.jsonl",
    }
    program, *arguments = expanded(service()["ExecStart"], variables, "test")
    assert program == "/opt/ztasks/bin/ztasks"
    with support.running("-m", "ztasks", *arguments, cwd=tmp_path, stdin=subprocess.DEVNULL) as process:
        support.wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2, "two jobs that run")
        workers = support.workers(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.Signals[service()["KillSignal"]])  # KillMode=mixed: to the main process only
        assert process.stderr is not None
        told = process.stderr.readline()
        while told and "interrupted" not in told:
            told = process.stderr.readline()
        assert told, "it ended without a word on the interrupt"
        assert process.poll() is None, "it did not wait for the jobs that ran"
        (tmp_path / "go").touch()
        out, err = process.communicate(timeout=min(stop_seconds(), 30))
    assert process.returncode == 130, err
    assert str(process.returncode) in service()["SuccessExitStatus"].split()
    assert out == ""
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    started = {int(path.name.removeprefix("started-")) for path in tmp_path.glob("started-*")}
    assert {record["result"] for record in records if record["ok"]} == started
    assert {record["status"] for record in records} <= {"ok", "cancelled"}
    assert len(started) < 20
    support.wait_gone(workers)


def test_every_recipe_is_listed_and_has_a_readme() -> None:
    folders = [path for path in RECIPES.iterdir() if path.is_dir()]
    text = (RECIPES / "README.md").read_text()
    assert folders
    for folder in folders:
        assert f"({folder.name}/README.md)" in text
        assert "The one thing to get right" in (folder / "README.md").read_text()


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="systemd and /proc are Linux's")
