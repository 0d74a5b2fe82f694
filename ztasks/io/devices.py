"""GPUs: each worker sees one, its own. A worker that takes another's place takes its device, too."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from ztasks.core.options import count
from ztasks.errors import InvalidOption
from ztasks.units import shown

DEVICE_VARIABLE: Final = "CUDA_VISIBLE_DEVICES"

_DEVICE_FILE: Final = re.compile(r"nvidia(\d+)")


class Devices:
    """The devices of one crew, and how many workers are pinned to each."""

    def __init__(self, names: Sequence[str]) -> None:
        self._users: Counter[str] = Counter(dict.fromkeys(names, 0))

    def take(self) -> str:
        """Return the device with the fewest workers, the first among equals."""
        device = min(self._users, key=lambda name: self._users[name])
        self._users[device] += 1
        return device

    def give_back(self, device: str) -> None:
        """A worker that was pinned to this device has gone."""
        self._users[device] -= 1


def find_devices(gpus: object) -> list[str]:
    """Return the devices that `gpus=` means: `auto`, all that this process may use, or so many of them.

    Raises InvalidOption if there are not so many.
    """
    available = _available()
    if isinstance(gpus, str) and gpus == "auto":
        if not available:
            told = os.environ.get(DEVICE_VARIABLE, "not set")
            raise InvalidOption(
                f"gpus='auto', but no GPU was found: {DEVICE_VARIABLE} is {told!r}, and there is no /dev/nvidia0. "
                "Leave gpus out, or say how many."
            )
        return available
    if isinstance(gpus, str):
        raise InvalidOption(f"gpus must be 'auto' or a whole number of at least 1, not {shown(gpus)}")
    number = count(gpus, "gpus", 1)
    if number > len(available) and (available or DEVICE_VARIABLE in os.environ):
        raise InvalidOption(f"gpus={number}, but {len(available)} can be used here: {', '.join(available) or 'none'}")
    return available[:number] if available else [str(device) for device in range(number)]


def _available() -> list[str]:
    """Return the devices that this process may use: those it was told, else those the driver shows."""
    told = os.environ.get(DEVICE_VARIABLE)
    if told is not None:
        names = takewhile(lambda name: name != "-1", map(str.strip, told.split(",")))  # as CUDA reads it
        return list(filter(None, names))
    try:
        found = [match[1] for name in os.listdir("/dev") if (match := _DEVICE_FILE.fullmatch(name))]
    except OSError:
        return []
    return sorted(found, key=int)
