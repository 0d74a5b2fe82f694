"""A head's ports behind a slow link: `python -m benchmarks.slow_link HEAD_PORT COUNT FIRST_PORT BYTES_PER_SECOND`.

The proxies of the tests, in a process of their own, until stdin ends. No more than that passes each way, of all
connections together. They are there when `ready` is written.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"


def main(head: str, count: str, first: str, rate: str) -> None:
    """Do that."""
    sys.path[:0] = [str(TESTS), str(TESTS / "hosts")]
    from proxy import ProxySet

    with ProxySet(("127.0.0.1", int(head)), int(count) - 3, base=int(first)) as proxies:
        proxies.limit(float(rate))
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
