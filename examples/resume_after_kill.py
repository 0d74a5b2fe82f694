"""A run that is killed midway with SIGKILL, and resumed: what was done is not done again, and nothing is left out.

    $ python examples/resume_after_kill.py
    killed when ... of 60 inputs had a record
    ztasks: out.jsonl has records of ... inputs (... ok): what is ok there is skipped
    ztasks: ... jobs: ... ok, ... skipped
    ...
    60 inputs, 60 records, each ok; ... jobs were run twice

It does on its own what you would do by hand, with the same command both times:

    ztasks run examples/resume_after_kill.py:work --from examples/resume_after_kill.py:cases -j 4 -o out.jsonl --resume

The records in the file say what is done. What was running when the run was killed, or had ended just then, has no
record: it is run again, and nothing else is.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ztasks import read_records

INPUTS = 60


def cases() -> range:
    return range(INPUTS)


def work(number: int) -> int:
    """Note that it is run, and take a little longer than the one before."""
    with open("ran", "a") as file:  # one short line at a time: processes do not get in each other's way
        file.write(f"{number}\n")
    time.sleep(number * float(os.environ.get("PAUSE", "0.03")))
    return number**2


def start(folder: Path, pause: float) -> subprocess.Popen[bytes]:
    """Start the command on this file; the first run is slow, so that it can be killed midway."""
    run = [sys.executable, "-m", "ztasks", "run", f"{__file__}:work", "--from", f"{__file__}:cases", "-j", "4"]
    options = ["-o", "out.jsonl", "--resume", "--no-progress"]
    return subprocess.Popen([*run, *options], cwd=folder, env={**os.environ, "PAUSE": str(pause)})


def records_in(path: Path) -> int:
    return sum(1 for _ in read_records(path)) if path.exists() else 0


def main(folder: Path) -> None:
    out = folder / "out.jsonl"
    with start(folder, 0.03) as run:
        while records_in(out) < INPUTS // 6:
            if run.poll() is not None:
                sys.exit("the run ended before it could be killed")
            time.sleep(0.01)
        run.kill()
    before = [record.input for record in read_records(out)]
    print(f"killed when {len(before)} of {INPUTS} inputs had a record", flush=True)

    with start(folder, 0) as run:
        if run.wait():
            sys.exit(f"the second run ended with exit code {run.returncode}")
    records = list(read_records(out))
    assert sorted(record.input for record in records) == list(cases())
    assert all(record.ok and record.result == record.input**2 for record in records)
    times = Counter(map(int, (folder / "ran").read_text().split()))
    assert all(times[number] == 1 for number in before), "what had a record was run again"
    twice = sum(count > 1 for count in times.values())
    print(f"{INPUTS} inputs, {len(records)} records, each ok; {twice} jobs were run twice")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
