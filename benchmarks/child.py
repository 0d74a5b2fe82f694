"""One measure of one contestant, in a process of its own.

`python -m benchmarks.child MEASURE CONTESTANT --report FILE`: samples are appended to FILE as JSON Lines as
soon as they are taken, so that a contestant which hangs or crashes later keeps what it has shown; `"closed"`
comes last.
"""

import argparse
import dataclasses
import json

from benchmarks.contestants import Contestant
from benchmarks.measures import MEASURES
from benchmarks.model import Settings


def main() -> None:
    """Open the contestant, run the measure, close the contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("contestant")
    parser.add_argument("--report", required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help="those that are not the default, as JSON")
    arguments = parser.parse_args()

    measure = MEASURES[arguments.measure]
    settings = Settings(**arguments.settings)
    contestant = measure.entrants[arguments.contestant](settings.workers)
    opened = contestant if isinstance(contestant, Contestant) and not measure.opens_itself else None
    with open(arguments.report, "a", buffering=1) as report:
        if opened is not None:
            opened.open()
            opened.warm_up()
        for sample in measure.run(contestant, settings):
            report.write(json.dumps(dataclasses.asdict(sample)) + "\n")
        if opened is not None:
            opened.close()
        report.write(json.dumps("closed") + "\n")


if __name__ == "__main__":
    main()
