"""One measure of one contestant, in a process of its own.

`python -m benchmarks.child MEASURE CONTESTANT --report FILE`: samples are appended to FILE as JSON Lines as
soon as they are taken, so that a contestant which hangs or crashes later keeps what it has shown; `"closed"`
comes last.
"""

import argparse
import dataclasses
import json

from benchmarks.contestants import CONTESTANTS
from benchmarks.measures import MEASURES
from benchmarks.model import Settings


def main() -> None:
    """Open the contestant, run the measure, close the contestant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("--report", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()

    measure = MEASURES[arguments.measure]
    settings = Settings(workers=arguments.workers, quick=arguments.quick)
    contestant = CONTESTANTS[arguments.contestant](arguments.workers)
    with open(arguments.report, "a", buffering=1) as report:
        if not measure.opens_itself:
            contestant.open()
            contestant.warm_up()
        for sample in measure.run(contestant, settings):
            report.write(json.dumps(dataclasses.asdict(sample)) + "\n")
        if not measure.opens_itself:
            contestant.close()
        report.write(json.dumps("closed") + "\n")


if __name__ == "__main__":
    main()
