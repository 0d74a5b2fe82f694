"""The report as text for a terminal, and as Markdown for a README."""

from collections.abc import Iterable, Sequence

from benchmarks.contestants import TITLES
from benchmarks.model import Row
from benchmarks.report import OURS, Figures, Ratio, Report, Verdict

MET = {True: "met", False: "MISSED", None: "not measured"}


def text(report: Report, rows: Sequence[Row], contestants: Sequence[str]) -> str:
    """One block per row: a line for each contestant, then the goals."""
    blocks = [_block(report, row, contestants) for row in rows]
    if report.problems:
        blocks.append("\n".join(["Problems", *(f"  {problem}" for problem in report.problems)]))
    return "\n\n".join(block for block in blocks if block)


def markdown(report: Report, rows: Sequence[Row], contestants: Sequence[str]) -> str:
    """One wide table: a line per row, a column per contestant: its median, and the ratio of ztasks to it."""
    titles = [TITLES[contestant] for contestant in contestants]
    lines = [["measure", "goal", *titles], ["---", "---", *["---:"] * len(titles)]]
    for row in rows:
        cells = [_markdown_cell(report, row, contestant) for contestant in contestants]
        if any(cells):
            goals = "; ".join(f"{verdict.text}: {MET[verdict.met]}" for verdict in report.verdicts(row))
            better = "higher" if row.higher_is_better else "lower"
            lines.append([f"{row.title}, {row.unit} ({better} is better)", goals, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _block(report: Report, row: Row, contestants: Sequence[str]) -> str:
    """Title, aligned lines, goals; empty when nothing was measured."""
    lines = []
    for contestant in contestants:
        figures = report.figures(row, contestant)
        if figures is not None:
            ratio = None if contestant == OURS else report.ratio(row, contestant)
            lines.append(_line(row, TITLES[contestant], figures, ratio))
    if not lines:
        return ""
    better = "higher" if row.higher_is_better else "lower"
    header = ("", row.unit, "least - greatest", "ztasks/peer", "by round", "jobs", "")
    title = f"{row.key}: {row.title} [{row.unit}, {better} is better]"
    return "\n".join([title, *_aligned([header, *lines]), *_goal_lines(report.verdicts(row))])


def _line(row: Row, title: str, figures: Figures, ratio: Ratio | None) -> tuple[str, ...]:
    least, greatest = figures.spread
    return (
        title,
        _number(figures.median, row.digits),
        f"{_number(least, row.digits)} - {_number(greatest, row.digits)}",
        _times(ratio.value) if ratio else "",
        f"{_times(ratio.least)} - {_times(ratio.greatest)}" if ratio else "",
        f"{figures.jobs:,}",
        "; ".join(figures.notes),
    )


def _goal_lines(verdicts: Iterable[Verdict]) -> list[str]:
    return [f"  goal {verdict.text}: {MET[verdict.met]}" for verdict in verdicts]


def _markdown_cell(report: Report, row: Row, contestant: str) -> str:
    figures = report.figures(row, contestant)
    if figures is None:
        return ""
    number = _number(figures.median, row.digits)
    ratio = None if contestant == OURS else report.ratio(row, contestant)
    if contestant == OURS:
        return f"**{number}**"
    return f"{number} ({_times(ratio.value)})" if ratio else number


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns padded to the same width: the first and the last to the left, figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    result = []
    for line in lines:
        first, *middle, last = (
            cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        result.append("  ".join(["", first, *middle, last]).rstrip())
    return result


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _times(value: float) -> str:
    """A ratio with two or three figures that mean something."""
    return f"{value:,.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"
