"""GPUs: which there are, who gets which, and that a successor gets its predecessor's."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztasks.errors import InvalidOption
from ztasks.io.devices import DEVICE_VARIABLE, Devices, find_devices


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that the environment and the driver tell this much."""

    def pretend(told: str | None, files: list[str] | None) -> None:
        if told is None:
            monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
        else:
            monkeypatch.setenv(DEVICE_VARIABLE, told)

        def listdir(path: str) -> list[str]:
            assert path == "/dev"
            if files is None:
                raise PermissionError(path)
            return files

        monkeypatch.setattr(os, "listdir", listdir)

    return pretend


DRIVER = ["nvidia10", "null", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia2", "nvidia-caps"]


@pytest.mark.parametrize(
    ("told", "files", "gpus", "devices"),
    [
        (None, DRIVER, "auto", ["0", "2", "10"]),
        (None, DRIVER, 2, ["0", "2"]),
        (None, DRIVER, 3, ["0", "2", "10"]),
        ("3,1", DRIVER, "auto", ["3", "1"]),  # what the process was told counts
        ("3,1", DRIVER, 1, ["3"]),
        (" GPU-8a2b , MIG-3c ", [], "auto", ["GPU-8a2b", "MIG-3c"]),
        ("0,-1,2", DRIVER, "auto", ["0"]),  # as CUDA reads it
        ("0,,2", DRIVER, "auto", ["0", "2"]),
        (None, [], 2, ["0", "1"]),  # nothing is known, so the caller is believed
        (None, None, 2, ["0", "1"]),
    ],
)
def test_found(host: Any, told: str | None, files: list[str] | None, gpus: Any, devices: list[str]) -> None:
    host(told, files)
    assert find_devices(gpus) == devices


@pytest.mark.parametrize(
    ("told", "files", "gpus", "message"),
    [
        (None, [], "auto", r"^gpus='auto', but no GPU was found: CUDA_VISIBLE_DEVICES is 'not set'"),
        (None, None, "auto", "no GPU was found"),
        ("", DRIVER, "auto", r"no GPU was found: CUDA_VISIBLE_DEVICES is ''"),
        ("-1", DRIVER, "auto", "no GPU was found"),
        ("3,1", DRIVER, 3, r"^gpus=3, but 2 can be used here: 3, 1$"),
        (None, DRIVER, 4, r"^gpus=4, but 3 can be used here: 0, 2, 10$"),
        ("", DRIVER, 1, r"^gpus=1, but 0 can be used here: none$"),  # it was told to use none
        ("-1", DRIVER, 2, "can be used here: none"),
        (None, DRIVER, 0, "^gpus must be"),
        (None, DRIVER, -1, "^gpus must be"),
        (None, DRIVER, True, "^gpus must be"),
        (None, DRIVER, 1.0, "^gpus must be"),
        (None, DRIVER, "2", "^gpus must be"),
        (None, DRIVER, "all", "^gpus must be"),
        (None, DRIVER, ["0"], "^gpus must be"),
    ],
)
def test_refused(host: Any, told: str | None, files: list[str] | None, gpus: Any, message: str) -> None:
    host(told, files)
    with pytest.raises(InvalidOption, match=message):
        find_devices(gpus)


def test_each_worker_gets_one_of_its_own_and_its_successor_the_same() -> None:
    devices = Devices(["a", "b", "c"])
    assert [devices.take() for _ in range(3)] == ["a", "b", "c"]
    devices.give_back("b")
    assert devices.take() == "b"
    assert [devices.take() for _ in range(3)] == ["a", "b", "c"], "more workers than devices share them"


@given(st.integers(1, 4), st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=40))
def test_no_device_is_taken_twice_while_another_is_free(count: int, steps: list[int | None]) -> None:
    """None: a worker starts; a number: that one of the living ends."""
    devices, living = Devices([str(number) for number in range(count)]), list[str]()
    for step in steps:
        if step is None:
            taken = devices.take()
            assert living.count(taken) == min(living.count(str(number)) for number in range(count))
            living.append(taken)
        elif living:
            devices.give_back(living.pop(step % len(living)))
