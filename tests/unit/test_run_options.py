"""What the options of `ztasks run` come to: its inputs, its number of workers, and variables of the environment."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ztasks.cli import run_workers
from ztasks.cli.grouped import GroupedCommand, grouped
from ztasks.cli.run_inputs import open_inputs
from ztasks.cli.run_options import OPTIONS
from ztasks.cli.run_workers import gpu_number, parse_workers, workers_for
from ztasks.errors import InvalidOption, ZtasksError
from ztasks.runs.files import CsvRows, JsonLines, Lines
from ztasks.runs.inputs import BadInput, Cases, Glob, Values

# --- workers ---


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with 8 CPUs and 1000 bytes of memory."""
    monkeypatch.setattr(run_workers, "default_workers", lambda: 8)
    monkeypatch.setattr(run_workers, "cores", lambda: 8)
    monkeypatch.setattr(run_workers, "memory", lambda: 1000)


@pytest.mark.parametrize(
    ("text", "number"), [(None, 8), ("1", 1), (" 12 ", 12), ("100%", 8), ("50 %", 4), ("1%", 1), ("200%", 16)]
)
def test_workers_are_a_number_or_a_share(text: str | None, number: int) -> None:
    assert parse_workers(text) == number


@pytest.mark.parametrize("text", ["", "0", "0%", "-1", "1.5", "x", "5%%", "1e3", "9999999"])
def test_what_is_no_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is neither a number of workers, such as 4, nor a share"):
        parse_workers(text)


@pytest.mark.parametrize(
    ("workers", "cpus", "memory", "number"),
    [
        (None, None, None, 8),
        (None, 3, None, 2),
        (None, 100, None, 1),
        ("2", 3, None, 2),
        ("1", 3, None, 1),
        (None, None, "300", 3),
        (None, None, "1000", 1),
        (None, 2, "300", 3),
        ("50%", 1, "1", 4),
    ],
)
def test_what_each_job_takes_bounds_the_workers(
    workers: str | None, cpus: int | None, memory: str | None, number: int
) -> None:
    assert workers_for(workers, cpus, memory, None) == number


@pytest.mark.parametrize("memory", ["1001", "1GiB", "0"])
def test_more_memory_than_there_is_is_refused(memory: str) -> None:
    with pytest.raises(InvalidOption, match="--memory-per-job must be from 1 to the 1000 bytes there are"):
        workers_for(None, None, memory, None)


def test_the_number_of_gpus() -> None:
    assert gpu_number("4") == 4
    assert gpu_number("auto") == "auto"
    with pytest.raises(InvalidOption, match="--gpus must be at most"):
        gpu_number("9" * 5000)


# --- inputs ---


def test_inputs_come_in_the_order_of_the_help(tmp_path: Path) -> None:
    paths = {}
    for name in ("lines", "table.csv", "docs.jsonl"):
        paths[name] = str(tmp_path / name)
        Path(paths[name]).write_text("a\n")
    sources = open_inputs(
        ("x",), (f"{tmp_path}/*.csv",), (paths["lines"],), (paths["docs.jsonl"],), (paths["table.csv"],)
    )
    assert [type(source) for source in sources] == [Values, Glob, Lines, JsonLines, CsvRows]
    for source in sources:
        source.close()


def test_without_inputs_it_is_refused() -> None:
    with pytest.raises(click.UsageError, match="no input: give arguments, --glob, --lines, --jsonl, --csv or --from"):
        open_inputs(())


def test_stdin_is_read_once() -> None:
    with pytest.raises(click.UsageError, match="stdin can be read only once"):
        open_inputs((), lines=("-",), jsonl=("-",))


def test_nul_is_for_lines(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="-0 is for --lines"):
        open_inputs(("x",), null=True)
    (tmp_path / "names").write_bytes(b"a\nb\0c\0")
    [source] = open_inputs((), lines=(str(tmp_path / "names"),), null=True)
    assert [entry.input for entry in source] == ["a\nb", "c"]
    source.close()


@pytest.mark.parametrize(
    ("args", "globs", "expanded"),
    [
        (("b.py",), ("a.py",), True),
        (("b.py", "c.py"), ("a.py",), True),
        ((), ("a.py",), False),
        (("b.py", "missing"), ("a.py",), False),
        (("b.py",), ("*.py",), False),
    ],
)
def test_a_pattern_that_the_shell_has_expanded_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], globs: tuple[str, ...], expanded: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(f"{name}.py").touch()
    if expanded:
        with pytest.raises(click.UsageError, match="the shell has expanded the pattern"):
            open_inputs(args, globs)
    else:
        assert open_inputs(args, globs)


def test_cases_are_iterables_or_what_functions_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cases_for_test.py").write_text(
        "table = [1, 2]\ndef made(): yield from (3, 4)\ndef broken(): raise ValueError('no')\nnumber = 5\n"
        "def leaves(): raise SystemExit(3)\n"
    )
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    file = "cases_for_test.py"
    sources = open_inputs((), cases=(f"{file}:table", f"{file}:made"))
    assert [type(source) for source in sources] == [Cases, Cases]
    assert [[entry.input for entry in source] for source in sources] == [[1, 2], [3, 4]]
    assert sources[1].name == f"--from {file}:made"
    for name, said in [
        ("broken", "raised .*no.*Nothing was run"),
        ("leaves", "raised .*Nothing was run"),
        ("number", "must be an iterable of inputs, not 5"),
        ("missing", "has no 'missing'"),
    ]:
        with pytest.raises(ZtasksError, match=said):
            open_inputs((), cases=(f"{file}:{name}",))


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        open_inputs((), lines=(str(tmp_path / "missing"),))


# --- options in groups ---


@click.command(cls=GroupedCommand)
@grouped("First", "-n", "--number-of-things", type=int, help="How many.")
@grouped("Second", "--name", multiple=True)
@grouped("First", "--flag", is_flag=True)
def example(**options: Any) -> None:
    """Show what was given."""
    click.echo(sorted(options.items()))


def test_options_are_listed_by_group() -> None:
    text = CliRunner().invoke(example, ["--help"]).output
    assert text.index("First:") < text.index("--number-of-things") < text.index("--flag") < text.index("Second:")
    assert text.index("Second:") < text.index("--name") < text.index("Other:") < text.index("--help")


def test_each_option_has_a_variable_and_the_command_line_wins() -> None:
    variables = {"ZTASKS_NUMBER_OF_THINGS": "3", "ZTASKS_FLAG": "1", "ZTASKS_NAME": "a b\nc"}
    out = CliRunner().invoke(example, [], env=variables).output
    assert out == "[('flag', True), ('name', ('a b', 'c')), ('number_of_things', 3)]\n"
    out = CliRunner().invoke(example, ["-n", "4", "--name", "c"], env=variables).output
    assert out == "[('flag', True), ('name', ('c',)), ('number_of_things', 4)]\n"
    wrong = CliRunner().invoke(example, [], env={"ZTASKS_NUMBER_OF_THINGS": "many"})
    assert wrong.exit_code == 2
    assert "number-of-things" in wrong.output


def test_every_option_of_run_has_a_group_a_help_and_a_variable_of_its_own() -> None:
    def nothing() -> None:
        """Has options."""

    for declare in OPTIONS:
        declare(nothing)
    options = nothing.__click_params__  # type: ignore[attr-defined]
    assert len(options) == len(OPTIONS)
    assert all(option.group and option.help for option in options)
    assert len({option.envvar for option in options}) == len(options)
    assert {"ZTASKS_WORKERS", "ZTASKS_MAX_FAILURES"} < {option.envvar for option in options}
