"""Checks of what is installed: the interpreter, the system, ztasks and the packages that it needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import platform
import re
import signal
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

import ztasks
from ztasks.cli.cures import install_command, known_cure
from ztasks.cli.findings import OK, PROBLEM, WARNING, Finding
from ztasks.cli.probing import Said

OLDEST: Final = (3, 11)
MODULES: Final = {"pyzmq": "zmq"}
"""Where a package's module has another name."""

OLDEST_LIBZMQ: Final = (4, 3)

WHY_PYTHON: Final = "Workers are processes of the same interpreter, started with the same flags."
WHY_SYSTEM: Final = (
    "ztasks relies on POSIX (process groups, flock, Unix sockets), and on Linux for the sure end of workers."
)
WHY_ZTASKS: Final = "The doctor speaks for this copy; a program that imports another one is not examined."
WHY_PACKAGES: Final = (
    "Every worker imports pyzmq and msgspec before its first job; an older or hidden one may fail there."
)


class Needed(NamedTuple):
    """A package that ztasks needs: its name, its module, and the oldest version that will do (empty: any)."""

    name: str
    module: str
    oldest: str


# --- the interpreter and its system ---


def python() -> list[Finding]:
    """Check the interpreter."""
    gil = _gil()
    details = {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "gil": gil,
        "variables": {name: value for name, value in os.environ.items() if name.startswith("PYTHON")},
    }
    found = f"{details['implementation']} {details['version']} {gil}, {sys.executable or 'of unknown place'}"
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        why = f"{WHY_PYTHON} Python does not know (sys.executable is {sys.executable!r}) where that is."
        cure = "Run ztasks in a Python of its own, not one that is embedded in a program; or make its environment anew."
        return [Finding("python", PROBLEM, found, why, cure, details=details)]
    if sys.version_info < OLDEST:
        cure = f"Install Python {OLDEST[0]}.{OLDEST[1]} or newer, and ztasks into an environment made with it."
        return [Finding("python", PROBLEM, found, WHY_PYTHON, cure, details=details)]
    if sys.implementation.name != "cpython":
        cure = "Should something behave strangely, see whether it does so with CPython, too."
        return [Finding("python", WARNING, f"{found}: not tested", WHY_PYTHON, cure, details=details)]
    return [Finding("python", OK, found, WHY_PYTHON, details=details)]


def _gil() -> str:
    """Tell whether this interpreter has a GIL, and whether it is used."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "with GIL"
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    return f"free-threaded, GIL {'on' if enabled else 'off'}"


def standard_library(targets: tuple[str, ...]) -> list[Finding]:
    """Look for files that hide modules of the standard library, also beside targets; nothing if there are none."""
    library = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    before = list(itertools.takewhile(lambda entry: os.path.realpath(entry) not in library, sys.path))
    beside = [os.path.dirname(os.path.abspath(file)) for file in _files_of(targets)]
    hiding = sorted({file for folder in (*before, *beside) for file in _named_like_the_library(folder or os.getcwd())})
    if not hiding:
        return []
    found = f"{', '.join(hiding)} {'hides a module' if len(hiding) == 1 else 'hide modules'} of the standard library"
    why = "Whatever imports that module, in ztasks or in any package, gets your file instead."
    cure = "Rename it." if len(hiding) == 1 else "Rename them."
    return [Finding("python", WARNING, found, why, cure, details={"hiding": hiding})]


def _files_of(targets: tuple[str, ...]) -> list[str]:
    """Return the files among the targets whose directories come first in `sys.path` (see target.py)."""
    files = [file for each in targets if os.path.isfile(file := each.rpartition(":")[0] or each)]
    return [file for file in files if Path(file).stem not in sys.stdlib_module_names]


def _named_like_the_library(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    files = [name for name in names if name.endswith(".py") and name[:-3] in sys.stdlib_module_names]
    packages = [name for name in names if name in sys.stdlib_module_names]
    packages = [name for name in packages if os.path.isfile(os.path.join(folder, name, "__init__.py"))]
    return [os.path.join(folder, name) for name in files + packages]


def system() -> list[Finding]:
    """Check the operating system."""
    libc = " ".join(platform.libc_ver()).strip() or "unknown libc"
    place = _container()
    details = {"system": platform.system(), "kernel": platform.release(), "machine": platform.machine(), "libc": libc}
    details["container"] = place
    found = (
        f"{platform.system()} {platform.release()} on {platform.machine()}, {libc}{f', in {place}' if place else ''}"
    )
    if sys.platform != "linux":
        why = (
            f"{WHY_SYSTEM} Elsewhere a worker whose job holds the interpreter may outlive a killed parent for a while."
        )
        cure = "Please report what does not work; for work that matters, use Linux."
        return [Finding("system", WARNING, f"{found}: meant to work, not tested", why, cure, details=details)]
    trouble = _pidfd_trouble()
    if trouble:
        why = "The end of a worker is noticed through a pidfd (Linux 5.3 and newer), which a sandbox can forbid."
        cure = "See whether a worker starts (below); if not, use a newer kernel, or a sandbox that allows pidfd_open."
        return [Finding("system", WARNING, f"{found}; pidfd_open fails: {trouble}", why, cure, details=details)]
    return [Finding("system", OK, found, WHY_SYSTEM, details=details)]


def _pidfd_trouble() -> str:
    if not hasattr(os, "pidfd_open"):
        return ""  # a thread waits instead
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _container() -> str:
    """Return what this system runs in, as far as one can tell."""
    if "microsoft" in platform.release().lower():
        return "WSL"
    for name, what in (("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")):
        if os.path.exists(name):
            return what
    return "Kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else ""


# --- ztasks itself ---


def ztasks_itself() -> list[Finding]:
    """Check which copy of ztasks this is, and whether its metadata belong to it."""
    folder = os.path.dirname(os.path.abspath(ztasks.__file__))
    installed = {each.version: str(each.locate_file("")) for each in importlib.metadata.distributions(name="ztasks")}
    details = {"version": ztasks.__version__, "folder": folder, "installed": installed}
    found = f"{ztasks.__version__}, {folder}"
    if not installed:
        return [Finding("ztasks", OK, f"{found} (run from its source, not installed)", WHY_ZTASKS, details=details)]
    if ztasks.__version__ not in installed:
        others = ", ".join(f"{version} in {place}" for version, place in installed.items())
        why = "Two copies are mixed: what pip knows is not what Python imports. Workers import what this process does."
        cure = f"Install it anew: {install_command('ztasks', anew=True)}; and look at PYTHONPATH and the directory."
        return [Finding("ztasks", WARNING, f"{found}, but installed is {others}", why, cure, details=details)]
    return [Finding("ztasks", OK, found, WHY_ZTASKS, details=details)]


def needed() -> list[Needed]:
    """Return what ztasks needs: from its metadata, or from pyproject.toml if it is run from its source."""
    try:
        lines = importlib.metadata.requires("ztasks") or []
    except importlib.metadata.PackageNotFoundError:
        project = Path(ztasks.__file__).parents[1] / "pyproject.toml"
        lines = tomllib.loads(project.read_text())["project"]["dependencies"] if project.is_file() else []
    return [parse_requirement(line) for line in lines if "extra" not in line.partition(";")[2]]


def parse_requirement(line: str) -> Needed:
    """Return the package that a line of metadata names, such as `pyzmq>=26.2`."""
    found = re.match(r"\s*([A-Za-z0-9][\w.-]*)", line)
    name = found[1].lower() if found else line.strip()
    oldest = re.search(r">=\s*([\d.]+)", line.partition(";")[0])
    return Needed(name, MODULES.get(name, name.replace("-", "_")), oldest[1] if oldest else "")


def release(version: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version: `27.0.0rc1` is (27, 0, 0)."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()


# --- packages ---


def packages(wanted: list[Needed], said: Said) -> list[Finding]:
    """Check the packages: installed, new enough, and importable as they were installed (`said`: by a child)."""
    told = {event["module"]: event for event in said.find("module")}
    good, bad, untold, details = [], [], [], {}
    for package in wanted:
        event = told.get(package.module)
        if event is None:
            untold.append(package)
            continue
        installed = _installed(package.name)
        version = installed[0] if installed else event.get("version")
        details[package.name] = {"version": version, "oldest": package.oldest, **event}
        finding = _package(package, installed, event, said)
        if finding is None:
            libzmq = f" (libzmq {event['libzmq']})" if "libzmq" in event else ""
            good.append(f"{package.name} {version or 'of unknown version'}{libzmq}")
        else:
            bad.append(finding)
    summary = Finding("packages", OK, ", ".join(good), WHY_PACKAGES, details=details)
    return [*([summary] if good else []), *bad, *([_ended_badly(untold, said)] if untold else [])]


def not_importable(findings: list[Finding]) -> set[str]:
    """Return the modules that could not be imported, according to these findings."""
    return {module for finding in findings for module in finding.details.get("not_importable", ())}


def _installed(name: str) -> tuple[str, str] | None:
    """Return version and place of an installed package."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    return found.version, os.path.realpath(str(found.locate_file("")))


def _package(package: Needed, installed: tuple[str, str] | None, event: dict[str, Any], said: Said) -> Finding | None:
    """Return what is wrong with a package; None if nothing is."""
    requirement = f"{package.name}>={package.oldest}" if package.oldest else package.name
    cure = f"Install it anew: {install_command(requirement, anew=True)}"
    if "error" in event:
        found = f"{package.module} cannot be imported: {event['error']}"
        if event["file"]:
            found += f" (found in {event['file']})"
            cure = _unhide(installed, event["file"]) or cure
        details = {"not_importable": [package.module], **event}
        return Finding("packages", PROBLEM, found, WHY_PACKAGES, cure, said.written, details)
    version = installed[0] if installed else event["version"]
    if package.oldest and version and release(version) < release(package.oldest):
        found = f"{package.name} {version} is too old: ztasks needs {package.oldest} or newer"
        cure = f"Upgrade it: {install_command(requirement)}"
        return Finding("packages", PROBLEM, found, WHY_PACKAGES, cure)
    hidden = _unhide(installed, event["file"])
    if installed and hidden and event["version"] != version:
        found = f"{package.module} is imported from {event['file']}, not from {installed[1]}, where {version} is"
        return Finding("packages", WARNING, found, WHY_PACKAGES, hidden)
    return _zmq(event, cure) if package.module == "zmq" else None


def _unhide(installed: tuple[str, str] | None, file: str | None) -> str:
    """Return the cure if a module is not the installed one, but another that comes first in sys.path."""
    if installed is None or file is None or os.path.realpath(file).startswith(f"{installed[1]}{os.sep}"):
        return ""
    return f"{file} hides the installed package: rename it, or take its directory out of PYTHONPATH."


def _zmq(event: dict[str, Any], cure: str) -> Finding | None:
    if not event["ipc"]:
        why = "Jobs and results travel over ipc sockets; this libzmq was built without them."
        return Finding("packages", PROBLEM, f"libzmq {event['libzmq']} has no ipc", why, cure)
    if release(event["libzmq"]) < OLDEST_LIBZMQ:
        why = "ztasks is tested with libzmq 4.3; the wheels of pyzmq bring it along."
        return Finding("packages", WARNING, f"libzmq {event['libzmq']} is old", why, cure)
    return None


def _ended_badly(untold: list[Needed], said: Said) -> Finding:
    """The child has not come to tell of these packages: the first of them ended it, or it did not even start."""
    culprit, how = untold[0], how_it_ended(said)
    details = {"not_importable": [package.module for package in untold], "said": said._asdict()}
    if said.stage:
        found = f"importing {culprit.module} {how}"
        if len(untold) > 1:
            found += f"; not tried: {', '.join(package.name for package in untold[1:])}"
        file = next((event["file"] for event in said.find("found") if event["found"] == culprit.module), None)
        cure = _unhide(_installed(culprit.name), file)
        cure = cure or f"Install it anew: {install_command(culprit.name, anew=True)}"
    else:
        found = f"a second process of this Python {how}"
        cure = known_cure(f"{said.trouble}\n{said.written}")
        cure = cure or "See what it wrote, and what Python runs at its start: sitecustomize.py, .pth files, PYTHONHOME."
    return Finding("packages", PROBLEM, found, WHY_PACKAGES, cure, said.written, details)


def how_it_ended(said: Said) -> str:
    """Say how a child ended that has not done all it should."""
    if said.trouble:
        return f"cannot be started: {said.trouble}"
    if said.stuck:
        return "did not end in time"
    if said.exit_code < 0:
        try:
            return f"was killed by {signal.Signals(-said.exit_code).name}"
        except ValueError:
            return f"was killed by signal {-said.exit_code}"
    return f"ended the process with exit code {said.exit_code}"
