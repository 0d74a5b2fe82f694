"""Checksums, sizes and line counts of a source tree, and which of its files are the same.

    $ ztasks run examples/checksums.py:digest --glob 'ztasks/**/*.py' -o sums.jsonl
    ztasks: ... jobs: ... ok
    ...
    $ python examples/checksums.py sums.jsonl
    ... files, ... bytes, ... lines

Files with the same content are listed below that. There is one record per file; its result is {"sha256": "9f86d0...",
"size": 5120, "lines": 131}. A file that cannot be read, such as a link that leads nowhere, gives a failed record, and
the exit code is 1. A file is known by its path: --resume does not read it again, even if it has changed (nightly.py
shows what to do about that).
"""

import hashlib
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ztasks import read_records

BLOCK = 1024 * 1024


def digest(path: Path) -> dict[str, Any]:
    """Read a file once, in blocks: it may be larger than the memory."""
    sha256, size, lines, last = hashlib.sha256(), 0, 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sha256.update(block)
            size += len(block)
            lines += block.count(b"\n")
            last = block[-1:]
    return {"sha256": sha256.hexdigest(), "size": size, "lines": lines + (last != b"\n")}


def report(path: str) -> None:
    """Print what a file of records comes to."""
    results = {record.input: record.result for record in read_records(path) if record.ok}
    size = sum(result["size"] for result in results.values())
    lines = sum(result["lines"] for result in results.values())
    print(f"{len(results):,} files, {size:,} bytes, {lines:,} lines")
    same = defaultdict(list)
    for name, result in sorted(results.items()):
        same[result["sha256"]].append(name)
    for names in same.values():
        if len(names) > 1:
            print(f"the same: {' '.join(names)}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        report(argument)
    if not sys.argv[1:]:
        print(__doc__)
