"""The script that a user would write by hand: a ProcessPoolExecutor, a loop, and a list of what is done.

`python -m benchmarks.pool_script noop|wait|measure WORKERS INPUT OUTPUT`: each line of INPUT (`-`: stdin) is a job;
those that OUTPUT has already are skipped. It promises nothing: the first exception ends it, and so does a crash.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import tasks

CHUNKS = {"noop": 1_000, "wait": 10, "measure": 100}


def noop(line: str) -> Any:
    """A line."""
    return tasks.noop(line)


def wait(line: str) -> None:
    """A number of seconds."""
    tasks.wait(float(line))


def measure(line: str) -> int:
    """An object of arguments."""
    return tasks.measure(**json.loads(line))


def main(name: str, workers: str, input_: str, output: str) -> None:
    """Run what is not done, write a record for each."""
    done = set(_inputs_of(output)) if name == "noop" else set()
    with (
        open(0 if input_ == "-" else input_) as lines,
        open(output, "a") as records,
        ProcessPoolExecutor(int(workers)) as executor,
    ):
        inputs = [line for line in map(str.rstrip, lines) if line not in done]
        results = executor.map(globals()[name], inputs, chunksize=CHUNKS[name])
        for value, result in zip(inputs, results, strict=True):
            records.write(json.dumps({"input": value, "result": result}) + "\n")


def _inputs_of(output: str) -> Iterator[str]:
    if Path(output).exists():
        with open(output) as records:
            for record in records:
                yield json.loads(record)["input"]


if __name__ == "__main__":
    main(*sys.argv[1:])
