"""What a head must know of a task, before work of it is submitted."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ztasks.core.options import Options
from ztasks.core.slices import TaskBooks
from ztasks.errors import JobTimeout
from ztasks.io.client_lots import Lot
from ztasks.wire.callables import ShippedCallable
from ztasks.wire.link import WINDOW_BYTES, Define, Submit
from ztasks.wire.link_codec import encode
from ztasks.wire.outcomes import with_items

PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"

REMEMBERED: Final = 1024
"""So many tasks and paths are kept; the oldest go first."""

FEED_BYTES: Final = 2 * WINDOW_BYTES
"""No more is submitted while so many bytes are not acknowledged: what waits can still be cancelled here."""

MOST_DEFINED: Final = 1000
"""So many tasks a client takes as known to the head, which forgets idle ones beyond ten times as many."""


class Definitions:
    """The definitions of a client's tasks; and by which path workers import them."""

    def __init__(self, routes: Mapping[str, str]) -> None:
        """`routes`: patterns for paths, and the queue of what matches; the first counts."""
        self._routes = dict(routes)
        self._paths: dict[bytes, str] = {}
        self._defined: dict[tuple[bytes, Options], Define] = {}

    def note_path(self, key: bytes, path: str) -> None:
        """The callable of this key is imported by the workers, as `module.qualname`."""
        if key not in self._paths:
            _put(self._paths, key, path)

    def of(self, task: TaskBooks) -> Define:
        """Return the definition of a task."""
        shipped, options = task.callable, task.options
        known = self._defined.get((shipped.key, options))
        if known is None:
            known = self._make(shipped, options)
            _put(self._defined, (shipped.key, options), known)
        return known

    def _make(self, shipped: ShippedCallable, options: Options) -> Define:
        path = self._paths.get(shipped.key, "")
        define = Define(
            key=b"",
            name=options.name or shipped.name,
            path=path,
            # A verdict may hold exceptions by value.
            by_value=not (shipped.by_reference or path) or b"cloudpickle" in shipped.pickled,
            python=PYTHON,
            retries=options.retries,
            backoff=options.backoff,
            max_backoff=options.max_backoff,
            jitter=options.jitter,
            timeout=options.timeout,
            grace=options.grace,
            crash_retries=options.crashes_allowed,
            at_most_once=options.at_most_once,
            retries_timeouts=options.verdict.allows(JobTimeout()),
            cpus=options.cpus,
            memory=options.memory,
            queue=self._queue(path, options),
            tags=options.tags,
            resources=dict(options.resources),
            priority=options.priority,
            expires=options.expires,
        )
        from hashlib import blake2b  # late: it loads OpenSSL

        digest = blake2b(encode(define), digest_size=16)
        digest.update(shipped.pickled)
        return msgspec.structs.replace(define, key=digest.digest())

    def _queue(self, path: str, options: Options) -> str:
        for pattern, queue in self._routes.items():
            if path and fnmatch.fnmatchcase(path, pattern):
                return queue
        return options.queue


def submission(define: Define, lot: Lot, *, durable: bool) -> list[Any]:
    """Return a lot as it is submitted: a content."""
    task, items = lot.task, lot.items
    submit = Submit(
        key=define.key,
        first=lot.first,
        count=items.count,
        whole=lot.whole,
        index=lot.place,
        map_number=task.map_number,
        shape=task.shape,
        form=items.form,
        skip=0,
        sizes=None,
        buffers=None,
        detail=task.detail,
        durable=durable,
        sent=lot.detached,
        payload=None,
    )
    return with_items(submit, items)


def _put(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Put into a bounded cache; several threads may do so at once."""
    cache[key] = value
    while len(cache) > REMEMBERED:
        try:
            cache.pop(next(iter(cache)), None)
        except (StopIteration, RuntimeError):  # another thread was quicker
            return
