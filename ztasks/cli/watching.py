"""Which Python files have changed: those of modules that were named, of their packages, and below a directory.

Files are looked at, not imported: what is broken now shall be seen when it is mended.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import sysconfig
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

MAX_FILES: Final = 5_000
MAX_DIRECTORIES: Final = 2_000
"""No more are looked at: it is done twice a second. Those nearest to the top come first."""

_SKIPPED: Final = frozenset(("__pycache__", "node_modules", "site-packages", "dist-packages"))

Look = tuple[int, int]
"""When a file was written, in nanoseconds, and its size."""


def places(modules: Sequence[str], directory: str) -> list[str]:
    """Return the files and directories to look at. Raises ModuleNotFoundError for a module that is not there.

    Only the top of a package is looked for: finding more would import it.
    """
    found = [directory]
    for name in modules:
        top = name.partition(".")[0]
        spec = importlib.machinery.PathFinder.find_spec(top, [directory])
        with contextlib.suppress(ImportError, ValueError):
            spec = spec or importlib.util.find_spec(top)
        if spec is None:
            raise ModuleNotFoundError(name)
        if spec.submodule_search_locations is not None:
            found += spec.submodule_search_locations
        elif spec.has_location and spec.origin is not None:
            found.append(spec.origin)
    paths = dict.fromkeys(map(os.path.realpath, found))
    return [path for path in paths if not _is_installed(path)]


def _is_installed(path: str) -> bool:
    """Tell whether a file or directory is not the user's own."""
    parts = Path(path).parts
    return not _SKIPPED.isdisjoint(parts) or Path(path).is_relative_to(sysconfig.get_path("stdlib"))


class Watch:
    """Looks at all files, now and whenever it is asked."""

    def __init__(self, places: Sequence[str]) -> None:
        self._places = places
        self.complete = True
        """Whether there are no more files than it looks at."""
        self._seen = self._look()

    @property
    def files(self) -> int:
        """How many files there were when it looked last."""
        return len(self._seen)

    def changed(self) -> list[str]:
        """Return the files that have been written, have come or have gone since it looked last."""
        before, self._seen = self._seen, self._look()
        return sorted(path for path in {*before, *self._seen} if before.get(path) != self._seen.get(path))

    def _look(self) -> dict[str, Look]:
        found: dict[str, Look] = {}
        for path, status in self._files():
            if len(found) == MAX_FILES:
                self.complete = False
                break
            found[path] = status.st_mtime_ns, status.st_size
        return found

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield all files, directory by directory, the ones nearest to the top first."""
        waiting = deque(self._places)
        for _ in range(MAX_DIRECTORIES):
            if not waiting:
                return
            place = waiting.popleft()
            try:
                with os.scandir(place) as found:
                    entries = list(found)
            except NotADirectoryError:
                yield from _one(place)
                continue
            except OSError:  # it has just gone, or is not for us
                continue
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _SKIPPED:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                        waiting.append(entry.path)
                elif entry.name.endswith(".py"):
                    yield from _one(entry.path)
        self.complete = self.complete and not waiting


def _one(path: str) -> Iterator[tuple[str, os.stat_result]]:
    with contextlib.suppress(OSError):  # it has just gone
        yield path, os.stat(path)
