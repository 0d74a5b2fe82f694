"""The contestants: ztasks first, then its peers, then the floor. Libraries, and command lines."""

from benchmarks.contestants.base import Contestant, Entrant
from benchmarks.contestants.commands import Command, GnuParallel, PoolScript, Python, Xargs, ZtasksRun
from benchmarks.contestants.dask_ import Dask
from benchmarks.contestants.loky_ import Loky
from benchmarks.contestants.ours import Ztasks
from benchmarks.contestants.parsl_ import Parsl
from benchmarks.contestants.pipeline import Pipeline
from benchmarks.contestants.ray_ import Ray
from benchmarks.contestants.stdlib import Pool, ProcessPool

CONTESTANTS: dict[str, type[Contestant]] = {
    contestant.key: contestant for contestant in (Ztasks, ProcessPool, Pool, Loky, Dask, Ray, Parsl, Pipeline)
}

COMMANDS: dict[str, type[Command]] = {
    command.key: command for command in (ZtasksRun, PoolScript, GnuParallel, Xargs, Python)
}

TITLES: dict[str, str] = {key: entrant.title for key, entrant in (CONTESTANTS | COMMANDS).items()}

__all__ = ["COMMANDS", "CONTESTANTS", "TITLES", "Command", "Contestant", "Entrant"]
