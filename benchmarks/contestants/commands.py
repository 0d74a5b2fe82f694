"""The contestants that are command lines. Each says how a user would type what a measure asks for."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from benchmarks.contestants.base import Entrant, version_of
from benchmarks.launching import Launch

TASKS = Path(__file__).resolve().parent.parent / "tasks.py"


class Command(Entrant):
    """A command line. What it cannot do is None."""

    most_jobs: ClassVar[int | None] = None
    """How many no-ops a round has time for; None: any number."""
    journal: ClassVar[str] = "out"
    """The file in the folder of a run that says what is done, a line for each job."""
    journal_header: ClassVar[int] = 0
    """Lines at its beginning that are none."""

    def one(self, line: Path) -> Launch | None:
        """One job that does nothing, and whose line is written to stdout."""
        return None

    def one_program(self, line: Path) -> Launch | None:
        """The same, the job being the program `echo`."""
        return None

    def records(self, lines: Path, folder: Path, *, resume: bool = False) -> Launch | None:
        """A no-op for each line; `resume`: go on with what is in the folder."""
        return None

    def journal_of(self, jobs: int) -> Iterator[str] | None:
        """Lines of the journal of so many jobs; None: such a run is quick enough to get it from there."""
        return None

    def programs(self, lines: Path, folder: Path) -> Launch | None:
        """The program `sleep` for each line."""
        return None

    def tasks(self, lines: Path, folder: Path) -> Launch | None:
        """A Python function that sleeps, for each line."""
        return None

    def jsonl(self, folder: Path) -> Launch | None:
        """A Python function for each line of JSON that comes through stdin."""
        return None


class ZtasksRun(Command):
    """`ztasks run`, with nothing tuned."""

    key = "ztasks"
    title = "ztasks"

    @classmethod
    def absence(cls) -> str:
        """It is what this is about."""
        return ""

    @classmethod
    def version(cls) -> tuple[str, str] | None:
        """As the library."""
        return "ztasks", version_of("ztasks")

    def one(self, line: Path) -> Launch:
        """A Python function."""
        return self._run(f"{TASKS}:noop", "x")

    def one_program(self, line: Path) -> Launch:
        """A program."""
        return self._run("--command", "echo {}", "x")

    def records(self, lines: Path, folder: Path, *, resume: bool = False) -> Launch:
        """`--lines`, a file for the records."""
        going_on = ["--resume"] if resume else []
        return self._run(f"{TASKS}:noop", "--lines", str(lines), "-o", str(folder / self.journal), *going_on)

    def programs(self, lines: Path, folder: Path) -> Launch:
        """`--command`."""
        return self._run("--command", "sleep {}", "--lines", str(lines), "-o", str(folder / self.journal))

    def tasks(self, lines: Path, folder: Path) -> Launch:
        """A task; the annotation makes a number of the line."""
        return self._run(f"{TASKS}:wait", "--lines", str(lines), "-o", str(folder / self.journal))

    def jsonl(self, folder: Path) -> Launch:
        """`--jsonl -`."""
        return self._run(f"{TASKS}:measure", "--jsonl", "-", "-o", str(folder / self.journal))

    def _run(self, *arguments: str) -> Launch:
        script = Path(sys.executable).with_name("ztasks")
        program = [str(script)] if script.exists() else [sys.executable, "-m", "ztasks"]
        return Launch([*program, "run", "-j", str(self.workers), *arguments])


class PoolScript(Command):
    """A script by hand, around `concurrent.futures.ProcessPoolExecutor`."""

    key = "process-pool"
    title = "ProcessPoolExecutor"

    @classmethod
    def absence(cls) -> str:
        """Every Python has it."""
        return ""

    @classmethod
    def version(cls) -> tuple[str, str] | None:
        """That of Python."""
        return None

    def one(self, line: Path) -> Launch:
        """As short as it can be."""
        lines = (
            "import concurrent.futures",
            f"with concurrent.futures.ProcessPoolExecutor({self.workers}) as executor:",
            "    print(executor.submit(abs, 1).result(), flush=True)",
        )
        return Launch([sys.executable, "-c", "\n".join(lines)])

    def records(self, lines: Path, folder: Path, *, resume: bool = False) -> Launch:
        """It goes on always."""
        return self._run("noop", str(lines), folder)

    def tasks(self, lines: Path, folder: Path) -> Launch:
        """`time.sleep`."""
        return self._run("wait", str(lines), folder)

    def jsonl(self, folder: Path) -> Launch:
        """`json.loads`, in the workers."""
        return self._run("measure", "-", folder)

    def _run(self, name: str, lines: str, folder: Path) -> Launch:
        module = [sys.executable, "-m", "benchmarks.pool_script"]
        return Launch([*module, name, str(self.workers), lines, str(folder / self.journal)])


class GnuParallel(Command):
    """GNU parallel, with the log that it can go on with."""

    key = "parallel"
    title = "GNU parallel"
    most_jobs = 2_000
    journal = "joblog"
    journal_header = 1

    @classmethod
    def absence(cls) -> str:
        """There is another program of this name in moreutils."""
        return "" if _first_line("parallel").startswith("GNU parallel") else "apt-get install parallel"

    @classmethod
    def version(cls) -> tuple[str, str] | None:
        """From the program."""
        return "GNU parallel", _first_line("parallel").removeprefix("GNU parallel ")

    def one(self, line: Path) -> Launch:
        """`echo`: it knows only programs."""
        return Launch(["parallel", f"-j{self.workers}", "echo", ":::", "x"])

    def one_program(self, line: Path) -> Launch:
        """The same."""
        return self.one(line)

    def records(self, lines: Path, folder: Path, *, resume: bool = False) -> Launch:
        """`echo` for each line."""
        log = ["--joblog", str(folder / self.journal), *(["--resume"] if resume else [])]
        return Launch(["parallel", f"-j{self.workers}", *log, "echo"], lines, folder / "out")

    def journal_of(self, jobs: int) -> Iterator[str]:
        """As it writes it itself; the first column is what counts."""
        yield "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
        for number in range(1, jobs + 1):
            yield f"{number}\t:\t1700000000.000\t     0.001\t0\t13\t0\t0\techo item-{number:07}\n"

    def programs(self, lines: Path, folder: Path) -> Launch:
        """`sleep` for each line."""
        log = ["--joblog", str(folder / self.journal)]
        return Launch(["parallel", f"-j{self.workers}", *log, "sleep"], lines, folder / "out")


class Xargs(Command):
    """`xargs -P`: the floor, for it only starts programs."""

    key = "xargs"
    title = "xargs -P"
    most_jobs = 5_000

    @classmethod
    def absence(cls) -> str:
        """Other systems have other ones."""
        return "" if _first_line("xargs").startswith("xargs (GNU findutils)") else "apt-get install findutils"

    @classmethod
    def version(cls) -> tuple[str, str] | None:
        """From the program."""
        return "findutils", _first_line("xargs").rpartition(" ")[2]

    def one(self, line: Path) -> Launch:
        """`echo`."""
        return self._run("echo", line)

    def one_program(self, line: Path) -> Launch:
        """The same."""
        return self.one(line)

    def records(self, lines: Path, folder: Path, *, resume: bool = False) -> Launch | None:
        """`echo` for each line; it knows nothing of what is done."""
        return None if resume else self._run("echo", lines, folder / self.journal)

    def programs(self, lines: Path, folder: Path) -> Launch:
        """`sleep` for each line."""
        return self._run("sleep", lines)

    def _run(self, program: str, lines: Path, output: Path | None = None) -> Launch:
        return Launch(["xargs", f"-P{self.workers}", "-n1", program], lines, output)


class Python(Command):
    """`python -c pass`: what everything that is written in Python begins with."""

    key = "python"
    title = "python -c pass"

    @classmethod
    def absence(cls) -> str:
        """It runs this."""
        return ""

    @classmethod
    def version(cls) -> tuple[str, str] | None:
        """It stands in the header."""
        return None

    def one(self, line: Path) -> Launch:
        """It writes nothing: the end of its stdout counts."""
        return Launch([sys.executable, "-c", "pass"])


def _first_line(program: str) -> str:
    """What a program says of its version; empty if it is not there."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout.partition("\n")[0]
