"""The contestants: ztasks first, then its peers, then the floor."""

from benchmarks.contestants.base import Contestant
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

__all__ = ["CONTESTANTS", "Contestant"]
