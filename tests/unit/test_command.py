"""Commands: how they are parsed, what is put in the place of each placeholder, and what a mistake is answered with."""

import os
import pickle
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ztasks.errors import ZtasksError
from ztasks.runs.command import BadCommand, Command, CommandFailed, parse_command

PATH = "some dir/sub/a file.tar.gz"


def line(text: str, *args: Any, number: int = 1, shell: bool = False, **kwargs: Any) -> str:
    return parse_command(text, shell=shell).line(number, args, kwargs)


def words(text: str, *args: Any, number: int = 1, **kwargs: Any) -> list[str]:
    return shlex.split(line(text, *args, number=number, **kwargs))[1:]


def by_shell(text: str, *args: Any, **kwargs: Any) -> list[str]:
    """What the shell makes of the words after `echo`."""
    filled = line(text, *args, shell=True, **kwargs).removeprefix("echo ")
    done = subprocess.run(["/bin/sh", "-c", f"printf '%s\\0' {filled}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


# --- placeholders ---


@pytest.mark.parametrize(
    ("placeholder", "expected"),
    [
        ("{}", PATH),
        ("{.}", "some dir/sub/a file.tar"),
        ("{/}", "a file.tar.gz"),
        ("{//}", "some dir/sub"),
        ("{/.}", "a file.tar"),
        ("{stem}", "a file.tar"),
        ("{ext}", ".gz"),
        ("{#}", "7"),
        ("{1}", PATH),
        ("{2}", "second"),
        ("-i={}:{2}", f"-i={PATH}:second"),
        ("{}{}", PATH + PATH),
    ],
)
def test_each_placeholder(placeholder: str, expected: str) -> None:
    assert words(f"echo {placeholder}", PATH, "second", number=7) == [expected]
    assert parse_command(f"echo {placeholder}", shell=True).line(7, (PATH, "second"), {}) == f"echo {shown(expected)}"


def shown(expected: str) -> str:
    """As it stands in the text for the shell, where each value is quoted by itself."""
    if expected == PATH + PATH:
        return shlex.quote(PATH) * 2
    if expected.startswith("-i="):
        return f"-i={shlex.quote(PATH)}:second"
    return shlex.quote(expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("plain", ["plain", "plain", ".", "plain", ""]),
        (".hidden", [".hidden", ".hidden", ".", ".hidden", ""]),
        ("a.b/c", ["a.b/c", "c", "a.b", "c", ""]),
        ("a/b.d/", ["a/b.d/", "b.d", "a", "b", ".d"]),
        ("/a", ["/a", "a", "/", "a", ""]),
        ("./-x.y", ["./-x", "-x.y", ".", "-x", ".y"]),
        ("./-d/x", ["./-d/x", "x", "./-d", "x", ""]),
        ("/", ["/", "/", "/", "/", ""]),
        ("", ["", "", ".", "", ""]),
    ],
)
def test_parts_of_paths(path: str, expected: list[str]) -> None:
    assert words("echo {.} {/} {//} {stem} {ext}", path) == expected


def test_keyword_arguments() -> None:
    assert words("echo {size} {name}.png", name="a b", size=3) == ["3", "a b.png"]
    assert words("echo {größe}", größe=1) == ["1"]
    assert words("echo {} {size}", "x", size=3) == ["x", "3"]
    assert words("echo {stem} {ext}", stem="mine", ext="too") == ["mine", "too"]
    assert words("echo {stem} {ext}", "a.b", stem="mine") == ["mine", ".b"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (1.5, "1.5"),
        (Path("a/b"), "a/b"),
        (b"a\xff", "a\udcff"),
        ([1], "[1]"),
        ("-rf", "-rf"),
        ("", ""),
        ("{2} {#}", "{2} {#}"),
    ],
)
def test_values(value: Any, expected: str) -> None:
    assert words("echo {}", value) == [expected]
    assert words("echo", value) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "awk '{print $1}' {}",
        "awk '{ print }' {}",
        "echo {a,b} {1..3} {x-y} {%} {1.} { } { # } {{a.b}} { {}",
        "sh -c 'echo ${HOME} ${1} ${#} ${}' {#}",
    ],
)
def test_other_braces_stay(text: str) -> None:
    expected = ["a b" if word == "{}" else word for word in shlex.split(text.replace(" {#}", " 7"))]
    assert shlex.split(line(text, "a b", number=7)) == expected


def test_a_command_without_placeholders_gets_all_arguments() -> None:
    assert words("echo -n", "a b", 2) == ["-n", "a b", "2"]
    assert words("echo") == []
    assert line(" ls | wc -l\n", "a b", "c", shell=True) == "ls | wc -l 'a b' c"


def test_the_program_may_be_a_placeholder() -> None:
    assert shlex.split(line("{} --version", "no such program")) == ["no such program", "--version"]
    assert shlex.split(line("./{/}.sh", "a/b")) == ["./b.sh"]


# --- quoting ---

NASTY = [
    *("; touch pwned", "$(touch pwned)", "`touch pwned`", "a 'b' \"c\" \\", "' ; touch pwned ; '", '"; touch pwned; "'),
    *("a\nb", "*", "~", "#", "", " ", "-n", "$HOME", "!", "\udcff", "ä"),
]

PLACES = [
    *("{}", "'{}'", '"{}"', "a{}b", "'a{}b'", '"a {} b"', "'it'\\''s {}'", '"\\"{}"', "\\'{}", "${ZT}{}", "$ZT{}"),
    *('"$ZT{}"', '"${ZT}{}"', "$(printf %s {})x", "\\\\{}", "x#{}", "''{}", "'\\'{}"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", NASTY)
def test_no_value_is_more_than_a_word_of_the_shell(
    place: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = by_shell(f"echo {place}", "VALUE")
    assert len(expected) == 1
    found = by_shell(f"echo {place}", value)
    if not place.startswith("$("):  # its result is cut into words, as always in a shell
        assert found == [expected[0].replace("VALUE", value)]
    assert os.listdir(tmp_path) == []


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@example("'\\''")
def test_no_value_is_more_than_a_word(value: str) -> None:
    assert words("echo {}", value) == [value]
    for place in ("{}", "'{}'", '"{}"'):
        assert shlex.split(line(f"echo {place}", value, shell=True)) == ["echo", value]


@pytest.mark.parametrize(
    "text",
    [
        "echo `basename {}`",
        'echo "$(basename {})"',
        'echo "${x:-{}}"',
        "cat <<END\n{}\nEND",
        "echo $'it\\'s {}'",
        "echo # it's\ncat {}",
    ],
)
def test_a_placeholder_that_cannot_be_quoted_for_certain_is_refused(text: str) -> None:
    with pytest.raises(BadCommand, match="into a variable at the beginning"):
        parse_command(text, shell=True)


def test_what_is_not_certain_may_come_later() -> None:
    assert line('echo {} "$(date)" `id` # don\'t', "a b", shell=True) == "echo 'a b' \"$(date)\" `id` # don't"


# --- mistakes ---


@pytest.mark.parametrize(
    ("text", "shell", "message"),
    [
        ("", False, "the command is empty"),
        ("  ", False, "the command is empty"),
        ("''", False, "the command is empty"),
        ("  ", True, "the command is empty"),
        ("echo 'a", False, "not closed"),
        ("echo a\\", False, "not closed"),
        ("echo \"a 'b'", True, "not closed"),
        ("echo {} 'a", True, "not closed"),
        ("echo {} \\", True, "not closed"),
        ("echo {0}", False, "{0} is no placeholder"),
        ("echo {00}", True, "{00} is no placeholder"),
        ("no-such-program-zt {}", False, "there is no program 'no-such-program-zt' on PATH"),
        ("./no-such-program-zt {}", False, "there is no program './no-such-program-zt'"),
        ("/etc/passwd", False, "there is no program '/etc/passwd'"),
        ("echo \0", False, "NUL"),
        ("echo \0", True, "NUL"),
        ("echo \ud800", False, "surrogates"),
        ("echo a;", True, "write {} where the input belongs"),
        ("(echo a)", True, "write {} where the input belongs"),
        ("echo a # why", True, "write {} where the input belongs"),
    ],
)
def test_bad_commands(text: str, shell: bool, message: str) -> None:
    with pytest.raises(BadCommand) as caught:
        parse_command(text, shell=shell)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "args", "kwargs", "message"),
    [
        ("echo {nam}", ("a",), {}, "no keyword argument 'nam'; there is {1};"),
        ("echo {nam}", (), {"name": 1, "size": 2}, "no keyword argument 'nam'; there is {name}, {size};"),
        ("awk {print}", ("a",), {}, "put spaces into it: { print }"),
        ("echo {}", (), {"name": 1}, "the command has {}, and this job has no argument 1; there is {name}"),
        ("echo {stem}", (), {"name": 1}, "there is {name}"),
        ("echo {2}", ("a",), {}, "no argument 2; there is {1}"),
        ("echo {1}", (), {}, "no argument 1; there is none"),
        ("echo", (), {"name": 1, "size": 2}, "no placeholder: write {name}, {size} where the input belongs"),
        ("echo {}", ("a\0b",), {}, "NUL"),
        ("echo", ("a\0b",), {}, "NUL"),
        ("echo {}", ("\ud800",), {}, "surrogates"),
    ],
)
@pytest.mark.parametrize("shell", [False, True])
def test_commands_that_do_not_fit_the_job(
    text: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str, shell: bool
) -> None:
    command = parse_command(text, shell=shell)
    for method in (command.line, command.run, command):
        with pytest.raises(BadCommand) as caught:
            method(1, args, kwargs)
        assert message in str(caught.value)


# --- pickling ---


@pytest.mark.parametrize("shell", [False, True])
def test_a_command_travels(shell: bool) -> None:
    command = parse_command("echo {} '{name} \udcff'", shell=shell)
    pickled = pickle.dumps(command)
    assert len(pickled) < 500
    again = pickle.loads(pickled)
    assert type(again) is Command
    job = (3, ("a b",), {"name": "c"})
    assert again.line(*job) == command.line(*job)


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (3, "", "exit code 3"),
        (3, "first\nlast  \n \n", "exit code 3: last"),
        (1, "10%\r20%\rbroken\r\n", "exit code 1: broken"),
        (-9, "", "killed by SIGKILL"),
        (-6, "assertion failed\n", "killed by SIGABRT: assertion failed"),
        (-41, "", "killed by signal 41"),
    ],
)
def test_failures(code: int, stderr: str, message: str) -> None:
    for error in (made := CommandFailed(code, stderr), pickle.loads(pickle.dumps(made))):
        assert isinstance(error, ZtasksError)
        assert (str(error), error.exit_code, error.stderr) == (message, code, stderr)


def test_bad_commands_travel() -> None:
    assert str(pickle.loads(pickle.dumps(BadCommand("why")))) == "why"
