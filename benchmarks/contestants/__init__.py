"""The contestants: ztasks first, then its peers, then the floor. Libraries, command lines, and what spans hosts."""

from benchmarks.contestants.base import Contestant, Entrant
from benchmarks.contestants.commands import Command, GnuParallel, PoolScript, Python, Xargs, ZtasksRun
from benchmarks.contestants.dask_ import Dask
from benchmarks.contestants.hosts_celery import CeleryRedis
from benchmarks.contestants.hosts_dask import DaskHosts
from benchmarks.contestants.hosts_ipyparallel import IPyParallel
from benchmarks.contestants.hosts_ours import ZtasksHosts, ZtasksJournal, ZtasksPlain, ZtasksUndurable
from benchmarks.contestants.hosts_parsl import ParslHosts
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

FLEETS: dict[str, type[Contestant]] = {
    contestant.key: contestant
    for contestant in (
        *(ZtasksHosts, ZtasksPlain, ZtasksJournal, ZtasksUndurable),
        *(DaskHosts, Ray, ParslHosts, IPyParallel, CeleryRedis),
    )
}

TITLES: dict[str, str] = {key: entrant.title for key, entrant in (CONTESTANTS | COMMANDS | FLEETS).items()}

__all__ = ["COMMANDS", "CONTESTANTS", "FLEETS", "TITLES", "Command", "Contestant", "Entrant"]
