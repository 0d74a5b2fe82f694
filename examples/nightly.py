"""Work for every night, from code: the logs in a folder are summarized, but only those that are new or have grown.

    $ python examples/nightly.py make logs 3
    $ python examples/nightly.py run logs
    3 jobs: 3 ok
    ...
    logs/2026-03-01.log: 42 lines, 2 errors
    logs/2026-03-02.log: 44 lines, 4 errors
    logs/2026-03-03.log: 46 lines, 6 errors
    $ python examples/nightly.py make logs 4
    $ python examples/nightly.py run logs
    1 job: 1 ok, 3 skipped
    ...
    logs/2026-03-04.log: 48 lines, 8 errors

`ztasks.run_batch` is what the command line calls: the same records, the same guarantees. With resume=True, the next
night does what an interrupted one has left. An input is known by its value: as the size of a file is part of it here, a
log that has grown is a new input. Two nights that overlap do not mix: the second one is refused.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ztasks


def summarize(path: Path, size: int) -> dict[str, int]:
    """Count the lines of a log by their level; `size` says up to where it is read."""
    counts: Counter[str] = Counter()
    with path.open("rb") as file:
        for line in file.read(size).decode(errors="replace").splitlines():
            counts[line.split(" ", 2)[1]] += 1
    return dict(counts)


def logs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the inputs: for each log, the arguments of its job."""
    for path in sorted(folder.glob("*.log")):
        yield {"path": str(path), "size": path.stat().st_size}


def run(folder: Path) -> int:
    """Do what is to be done, print what is new, and return the exit code for cron."""
    output = folder / "summary.jsonl"
    known = {record.key for record in ztasks.read_records(output)} if output.exists() else set()
    try:
        summary = ztasks.run_batch(
            summarize,
            logs(folder),
            output=output,
            resume=True,
            max_failures="50%",
            options={"retries": 2, "timeout": "10 min"},
        )
    except ztasks.ZtasksError as error:
        print(f"nothing was done: {error}", file=sys.stderr)
        return 2
    print(summary)
    for record in sorted(ztasks.read_records(output), key=lambda record: record.index):
        if record.ok and record.key not in known:
            counts = record.result
            print(f"{record.input['path']}: {sum(counts.values())} lines, {counts.get('ERROR', 0)} errors")
    return 0 if summary.ok else 1


def make(folder: Path, days: int) -> None:
    """Write logs of some days, each with some more lines than the one before."""
    folder.mkdir(exist_ok=True)
    for day in range(1, days + 1):
        lines = [f"{n // 60:02}:{n % 60:02} INFO request {n} answered\n" for n in range(40)]
        lines += [f"23:{n:02} ERROR request {n} failed\n" for n in range(2 * day)]
        (folder / f"2026-03-{day:02}.log").write_text("".join(lines))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder, days]:
            make(Path(folder), int(days))
        case ["run", folder]:
            sys.exit(run(Path(folder)))
        case _:
            print(__doc__)
