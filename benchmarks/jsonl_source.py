"""An endless table, cut off: `python -m benchmarks.jsonl_source MIB` writes so much JSONL to stdout.

Each line is about 1 KiB and differs from all others.
"""

import random
import string
import sys

LINE = 1024


def lines_in(mib: int) -> int:
    """How many lines that is."""
    return mib * 1024 * 1024 // LINE


def main(mib: str) -> None:
    """Write the lines: a number, and a window that moves over text at random."""
    text = "".join(random.Random(4).choices(string.ascii_letters, k=64 * LINE))
    written = sys.stdout.write
    for number in range(lines_in(int(mib))):
        start = number % (63 * LINE)
        head = f'{{"number": {number}, "text": "'
        written(f'{head}{text[start : start + LINE - len(head) - 3]}"}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
