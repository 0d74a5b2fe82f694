"""A client process of `hosts_durable`: `python -m benchmarks.submitter HEAD THREADS JOBS`.

It connects, says `ready`, waits for a line, submits and gets all results, and says `done`.
"""

import sys

from benchmarks import work
from benchmarks.contestants.hosts_ours import ZtasksHosts
from benchmarks.measures.hosts_durable import submit


def main(head: str, threads: str, jobs: str) -> None:
    """Do that."""
    from ztasks import Client

    contestant = ZtasksHosts(0)
    with Client(head) as contestant.executor:
        contestant.executor.submit(work.noop, 0).result()
        print("ready", flush=True)
        sys.stdin.readline()
        submit(contestant, int(threads), int(jobs))
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
