"""The command line: `python -m benchmarks`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, table
from benchmarks.contestants import TITLES
from benchmarks.measures import MEASURES
from benchmarks.model import Settings
from benchmarks.report import OURS, Report
from benchmarks.rounds import Trial, play


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for, print the table; 0 when every trial ended well, else 1."""
    arguments = _parser().parse_args(argv)
    contestants, skipped = _present(arguments.only, arguments.peers)
    entrants = [MEASURES[measure].entrants[name] for measure, names in contestants.items() for name in names]
    if not entrants:
        print(*skipped, "no contestant can run here", sep="\n", file=sys.stderr)
        return 1
    header = [*machine.describe(entrants, arguments.workers), *skipped]
    print("\n".join(header), file=sys.stderr, flush=True)

    trials = _trials(arguments, contestants)
    report = Report(trials)
    rows = [row for name in arguments.only for row in MEASURES[name].rows]
    columns = [name for name in TITLES if any(name in names for names in contestants.values())]
    if arguments.markdown:
        print("\n".join(f"- {line}" for line in header), "", sep="\n")
        print(table.markdown(report, rows, columns))
    else:
        print("\n".join(header), "", sep="\n")
        print(table.text(report, rows, columns))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(_document(header, arguments, trials), indent=1) + "\n")
    return 1 if report.problems else 0


def _trials(arguments: argparse.Namespace, contestants: dict[str, list[str]]) -> list[Trial]:
    """All trials, or those made before Ctrl-C."""
    settings = Settings(arguments.workers, arguments.quick, arguments.records, arguments.input_mib)
    trials: list[Trial] = []
    try:
        for trial in play(arguments.rounds, contestants, settings, arguments.timeout, _announce):
            trials.append(trial)
    except KeyboardInterrupt:
        print("interrupted: the table holds what was measured so far", file=sys.stderr)
    return trials


def _present(measures: list[str], peers: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """For each measure, ztasks and the peers asked for that can run here; and a line for each that cannot."""
    present: dict[str, list[str]] = {}
    skipped: dict[str, None] = {}
    for measure in measures:
        names = present.setdefault(measure, [])
        for name, entrant in MEASURES[measure].entrants.items():
            if name != OURS and name not in peers:
                continue
            if reason := entrant.absence():
                skipped[f"skipped: {entrant.title} ({reason})"] = None
            else:
                names.append(name)
    return {measure: names for measure, names in present.items() if names}, list(skipped)


def _announce(trial: Trial) -> None:
    values = ", ".join(f"{sample.row} {sample.value:,.4g}" for sample in trial.samples) or "nothing measured"
    problem = f" [{trial.problem}]" if trial.problem else ""
    line = f"round {trial.round}  {trial.measure:<15} {trial.contestant:<13} {trial.seconds:6.1f} s  {values}"
    print(line + problem, file=sys.stderr, flush=True)


def _document(header: list[str], arguments: argparse.Namespace, trials: list[Trial]) -> dict[str, Any]:
    return {
        "header": header,
        "options": vars(arguments),
        "trials": [dataclasses.asdict(trial) for trial in trials],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="ztasks and its peers on the same work, alternating."
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="how often everything runs (default 3)")
    parser.add_argument(
        "--only",
        type=_names(MEASURES),
        default=list(MEASURES),
        metavar="MEASURE,...",
        help=", ".join(MEASURES),
    )
    peers = [name for name in TITLES if name != OURS]
    parser.add_argument(
        "--peers", type=_names(peers), default=peers, metavar="PEER,...", help=f"{', '.join(peers)}, or none"
    )
    parser.add_argument("--workers", type=_positive, default=2, help="worker processes (default 2)")
    parser.add_argument(
        "--records", type=_positive, default=500_000, metavar="N", help="inputs of `records` (default 500000)"
    )
    parser.add_argument(
        "--input-mib", type=_positive, default=1024, metavar="N", help="largest input of `input_memory` (default 1024)"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs: to try, not to quote")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds per trial (default 300)")
    parser.add_argument("--json", metavar="FILE", help="also write every sample to FILE")
    parser.add_argument("--markdown", action="store_true", help="print one Markdown table")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """An argument type: names from `known` with commas between; "none" is none of them."""
    allowed = list(known)

    def parse(value: str) -> list[str]:
        names = [] if value == "none" else [name.strip() for name in value.split(",") if name.strip()]
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)} among {', '.join(allowed)}")
        return names

    return parse
