"""How often each of very many numbers has been seen, in few bytes: a batch may have more inputs than memory has room.

A dictionary takes some 100 bytes an entry; this takes 18 to 36, and what exceeds 64 MiB lies in a temporary file, from
which the system takes memory back when it is needed elsewhere. It is a hash table with open addressing, split in
small ones, so that no single step takes long when it grows.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

TABLES: Final = 64
FIRST_SLOTS: Final = 128
"""How many numbers a table has room for at first, more or less."""

IN_MEMORY: Final = 64 * 1024 * 1024
"""So many bytes are memory of this process; what more is needed is a file's."""

_SLOT_BYTES: Final = 12
_MASK: Final = 2**64 - 1
_MAX_COUNT: Final = 2**32 - 1


class Counts:
    """Counts of 64-bit numbers that are spread evenly, such as digests. Not for several threads at once."""

    def __init__(self) -> None:
        self._bytes = 0
        self._tables = [_Table(self._allocate(FIRST_SLOTS), FIRST_SLOTS) for _ in range(TABLES)]

    def add(self, number: int) -> int:
        """Count a number once more; return how often it had been counted before."""
        table = self._tables[number & (TABLES - 1)]
        numbers, mask, wanted = table.numbers, table.mask, number or _MASK
        at = (wanted >> 6) & mask
        while (found := numbers[at]) != wanted:  # `find`, written out: this is done for each input
            if not found:
                numbers[at] = wanted
                table.counts[at] = 1
                table.used += 1
                if table.used > table.limit:
                    self._grow(number & (TABLES - 1))
                return 0
            at = (at + 1) & mask
        before: int = table.counts[at]
        table.counts[at] = min(before + 1, _MAX_COUNT)
        return before

    def get(self, number: int) -> int:
        """Return a number's count."""
        table = self._tables[number & (TABLES - 1)]
        at = table.look(number)
        return 0 if at is None else table.counts[at]

    def set(self, number: int, count: int) -> None:
        """Set a number's count."""
        table = self._tables[number & (TABLES - 1)]
        table.counts[table.find(number)] = count
        if table.used > table.limit:
            self._grow(number & (TABLES - 1))

    def close(self) -> None:
        """Release all memory."""
        for table in self._tables:
            table.close()
        self._tables.clear()

    def _grow(self, index: int) -> None:
        old = self._tables[index]
        slots = 2 * len(old.numbers)
        new = _Table(self._allocate(slots), slots)
        for number, count in zip(old.numbers, old.counts, strict=True):
            if number:
                new.counts[new.find(number)] = count
        self._tables[index] = new
        self._bytes -= len(old.numbers) * _SLOT_BYTES
        old.close()

    def _allocate(self, slots: int) -> mmap.mmap:
        """Return zeroed memory for so many slots."""
        size = slots * _SLOT_BYTES
        self._bytes += size
        if self._bytes > IN_MEMORY:
            try:
                with tempfile.TemporaryFile(prefix="ztasks-") as file:
                    os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would be a bus error
                    return mmap.mmap(file.fileno(), size)
            except (OSError, AttributeError):  # no room there, or no such call
                pass
        return mmap.mmap(-1, size)


class _Table:
    __slots__ = ("_memory", "counts", "limit", "mask", "numbers", "used")

    def __init__(self, memory: mmap.mmap, slots: int) -> None:
        self._memory = memory
        whole = memoryview(memory)
        self.numbers = whole[: 8 * slots].cast("Q")
        """0: the slot is free."""
        self.counts = whole[8 * slots :].cast("I")
        self.used = 0
        self.mask = slots - 1
        self.limit = slots * 2 // 3

    def find(self, number: int) -> int:
        """Return the slot of a number, which it takes if it has none."""
        at = self._place_of(number)
        if not self.numbers[at]:
            self.numbers[at] = number or _MASK
            self.used += 1
        return at

    def look(self, number: int) -> int | None:
        """Return the slot of a number, if it has one."""
        at = self._place_of(number)
        return at if self.numbers[at] else None

    def _place_of(self, number: int) -> int:
        """Return the slot that a number has, or may take."""
        number = number or _MASK
        numbers, mask = self.numbers, self.mask
        at = (number >> 6) & mask
        while numbers[at] and numbers[at] != number:
            at = (at + 1) & mask
        return at

    def close(self) -> None:
        self.numbers.release()
        self.counts.release()
        self._memory.close()
