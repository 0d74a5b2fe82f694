"""Programs as a shell would start them."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Launch:
    """A program, what it reads, and where its stdout goes."""

    argv: list[str]
    stdin: Path | None = None
    """None: nothing."""
    stdout: Path | None = None
    """None: nowhere."""


def run(launch: Launch) -> float:
    """Seconds from the start of a program to its end. Raises RuntimeError if it fails."""
    with open(launch.stdout or os.devnull, "ab") as output:
        started = time.perf_counter()
        with running(launch, stdout=output) as process:
            process.wait()
            return time.perf_counter() - started


def until_output(launch: Launch) -> tuple[float, float]:
    """Seconds until a program has written its first byte to stdout, or closed it, and until it has ended."""
    started = time.perf_counter()
    with running(launch, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        first = time.perf_counter() - started
        process.stdout.read()
        process.wait()
        return first, time.perf_counter() - started


@contextmanager
def running(launch: Launch, *, stdin: IO[bytes] | None = None, stdout: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and see at the end that it has done well. Raises RuntimeError if not."""
    with open(launch.stdin or os.devnull, "rb") as given, tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            launch.argv, stdin=stdin or given, stdout=stdout, stderr=errors, env=_environment()
        ) as process:
            yield process
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"{launch.argv[0]}: exit code {process.returncode}: {told[-500:]}")


def _environment() -> dict[str, str]:
    """Without options that the user has for these programs."""
    return {name: value for name, value in os.environ.items() if name != "PARALLEL" and not name.startswith("ZTASKS_")}
