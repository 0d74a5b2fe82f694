"""Checks that start a worker: does it come up, does it see what this process sees, can it import the user's target?"""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Any, Final

import ztasks
from ztasks.cli.check_environment import Place, add_command
from ztasks.cli.check_install import how_it_ended
from ztasks.cli.cures import known_cure
from ztasks.cli.findings import OK, PROBLEM, WARNING, Finding, duration
from ztasks.cli.probing import Said

SLOW_START: Final = 3.0
"""A worker that takes longer to come up is worth a warning: it usually takes less than a tenth of a second."""

WHY_WORKER: Final = "This is what every job needs: an executor with one worker, which runs one job."
WHY_SLOW: Final = "Each worker takes that long to come up, also one that replaces another."
WHY_WRITES: Final = "Each worker writes the same as it starts, among the output of your jobs."
WHY_IMPORTS: Final = "A task of a module is found by its name: the worker imports it with this process's sys.path."
WHY_TARGET: Final = "A worker imports the module of a task before its first job; if it cannot, every job fails."


# --- a worker comes up ---


def worker(said: Said, seconds: float) -> list[Finding]:
    """Judge the start of a worker (`said`: by the child that had one started, with this time limit)."""
    told = said.find("ended")
    if told and told[-1]["ended"] == "well":
        return [_came_up(said, told[-1]), _imports(told[-1])]
    found, output = _failure(said, seconds, "no worker came up")
    cure = known_cure(f"{found}\n{output}") or (
        "The text below is the worker's; if it says nothing, look at what its interpreter runs at its start: "
        f"{shlex.quote(sys.executable)} -v -c pass"
    )
    return [Finding("worker", PROBLEM, found, WHY_WORKER, cure, output, {"said": said._asdict()})]


def _came_up(said: Said, told: dict[str, Any]) -> Finding:
    seen = told["seen"]
    details = {"first_seconds": told["first"], "round_trip_seconds": told["round_trip"], **seen}
    found = f"came up and ran a job in {duration(told['first'])}, another in {duration(told['round_trip'])}"
    if "resident_kib" in seen:
        found += f"; it takes {seen['resident_kib'] / 1024:.0f} MiB"
    if said.stuck or said.exit_code:
        found += f"; but {said.stage} {how_it_ended(said)}"
        cure = "Please report this, with the text below."
        return Finding("worker", PROBLEM, found, WHY_WORKER, cure, said.written, details)
    if told["first"] > SLOW_START:
        command = f"{shlex.quote(sys.executable)} -X importtime -c 'import zmq, msgspec'"
        cure = f"See what takes so long: {command}; often a slow disk, or a virus scanner."
        return Finding("worker", WARNING, f"{found}: that is slow", WHY_SLOW, cure, said.output, details)
    if said.output.strip():
        cure = "See who writes it: often a sitecustomize.py, a .pth file, or a warning that a variable has turned on."
        return Finding("worker", WARNING, f"{found}; it writes at its start", WHY_WRITES, cure, said.output, details)
    return Finding("worker", OK, found, WHY_WORKER, details=details)


def _imports(told: dict[str, Any]) -> Finding:
    """Compare what the worker can import with what its parent can."""
    here, there = told["sys_path"], told["seen"]["sys_path"]
    details = {"sys_path": here, "sys_path_of_the_worker": there}
    number = f"{len(here)} {'entry' if len(here) == 1 else 'entries'}"
    if here == there:
        return Finding("imports", OK, f"the worker has the same sys.path, {number}", WHY_IMPORTS, details=details)
    missing = [entry for entry in here if entry not in there]
    told_missing = f"it lacks {', '.join(missing)}" if missing else "the order or further entries differ"
    cure = (
        "See what changes sys.path as the worker starts: a sitecustomize.py, a .pth file, a module that is preloaded."
    )
    found = f"the worker has another sys.path: {told_missing}"
    return Finding("imports", PROBLEM if missing else WARNING, found, WHY_IMPORTS, cure, details=details)


# --- a target ---


def target(text: str, said: Said, seconds: float, place: Place) -> Finding:
    """Judge whether a worker can import a target."""
    told = said.find("ended")
    if told and told[-1]["ended"] == "well":
        seen = told[-1]["seen"]
        found = f"{text}: a worker imports it in {duration(seen['seconds'])} ({seen['file'] or 'built in'})"
        return Finding("target", OK, found, WHY_TARGET, details=seen)
    if told and told[-1]["ended"] == "refused":
        found, output = _refusal(told[-1]["message"])
    else:
        found, output = _failure(said, seconds, "no worker can import it")
    output = without_machinery(output)
    cure = _target_cure(told[-1] if told else {}, f"{found}\n{output}" if output else "", place)
    if said.stuck or (told and told[-1]["ended"] == "late"):
        cure = "See below where it hangs: what a module does when it is imported, every worker does."
    return Finding("target", PROBLEM, f"{text}: {found}", WHY_TARGET, cure, output, {"said": said._asdict()})


def _refusal(message: str) -> tuple[str, str]:
    """Split the message of a target that cannot be loaded: what is wrong, and the traceback of the user's code."""
    first, _, rest = message.partition("\n")
    errors = re.findall(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning)\b.*", rest, re.MULTILINE)
    return (f"{first} {errors[-1]}", rest) if errors else (message, "")


def without_machinery(text: str) -> str:
    """Return stacks and tracebacks without the frames of importlib and of ztasks: what is left is the user's."""
    kept, skipping, ours = [], False, os.path.dirname(os.path.abspath(ztasks.__file__))
    for line in text.splitlines():
        frame = re.match(r'\s+File "(.*?)", line \d+', line)
        if frame is not None:
            skipping = "importlib" in frame[1] or frame[1].startswith(f"{ours}{os.sep}")
        elif not line.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(line)
    return "\n".join(kept)


def _target_cure(told: dict[str, Any], output: str, place: Place) -> str:
    """Return what to do about a target that cannot be imported."""
    missing = told.get("missing") or ""
    found = re.search(r"No module named '([\w.]+)'", output)
    name = (missing or (found[1] if found else "")).partition(".")[0]
    if name and name not in sys.stdlib_module_names:
        cure = f"If {name} is a package: {add_command(place, name)}"
        if place.isolated:
            cure += f" (ztasks runs in {place}, without the packages of your project)"
        return f"{cure}\nIf it is a file of yours: start in its directory, or add that to PYTHONPATH."
    advice = re.search(r"^The file is part of a package: .*", output, re.MULTILINE)
    if advice:
        return advice[0]
    if told.get("ended") == "refused" and not output:
        return "Mend the name: file.py:task, package.module:task, or the name of a module."
    what = "Mend what the text below says" if output else "See what it does when it is imported"
    return known_cure(output) or f"{what}; `ztasks run` would fail in the same way."


# --- what both need ---


def not_tried(check: str, hopeless: list[str], subject: str = "") -> Finding:
    """Return that something was not tried, since it cannot succeed."""
    why = WHY_TARGET if check == "target" else WHY_WORKER
    found = f"{subject}not tried: it cannot succeed before the problem with {' and '.join(hopeless)} is solved"
    return Finding(check, WARNING, found, why, "Mend that first.")


def _failure(said: Said, seconds: float, nothing: str) -> tuple[str, str]:
    """Return what has gone wrong in one line, and what the processes wrote."""
    told = said.find("ended")
    written = "\n".join(filter(None, (said.written.strip(), said.output.strip())))
    if not told:
        if not said.stage or said.trouble:
            return f"{nothing}: a process started in the same way {how_it_ended(said)}", written
        return f"{nothing}: {said.stage} {how_it_ended(said)}", written
    last = told[-1]
    if last["ended"] == "late":
        return f"{nothing} within {seconds:g} s", written
    if last["ended"] == "error":
        first, _, rest = last["message"].partition("\n")
        texts = (last["traceback"] or "", rest, "" if rest else written)
        return f"{nothing}: {last['type']}: {first}", "\n".join(filter(None, map(str.strip, texts)))
    return nothing, written
