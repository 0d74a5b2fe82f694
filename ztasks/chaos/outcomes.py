"""What became of each job, as its caller sees it. Pure: it is told, and checks what can be checked of one result."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from ztasks.chaos import job
from ztasks.wire.payload import load


class Error(NamedTuple):
    """How a job failed, as its caller sees it."""

    type_name: str
    message: str


class Outcomes:
    """What became of each job, as its caller sees it."""

    def __init__(self, jobs: int, *, verify: bool = False) -> None:
        """`verify`: the task is the built-in one, and so the right results are known."""
        self.arrived = bytearray(jobs)
        """How often each job has ended."""
        self.checksums = array("I", bytes(4 * jobs))
        self.serials = array("Q", bytes(8 * jobs))
        """Which execution the result says that it comes from."""
        self.errors: dict[int, Error] = {}
        self.wrong: dict[int, str] = {}
        """By job number: what is wrong with its result in itself."""
        self.called = bytearray(jobs)
        """How often the callback of each job was called."""
        self._verify = verify

    def take(self, number: int, value: Any) -> None:
        """Take in what a job has returned, or the exception with which it has failed."""
        self.arrived[number] = min(255, self.arrived[number] + 1)
        if isinstance(value, BaseException):
            self.errors[number] = Error(job.type_name(value), str(value))
            return
        try:
            of, checksum, serial, body = job.receive(value)
        except Exception as error:  # noqa: BLE001 - whatever came, it is not what the job returned
            self.wrong[number] = f"its result is damaged: {error}"
            return
        self.checksums[number], self.serials[number] = checksum, serial
        if of != number:
            self.wrong[number] = f"it got the result of job {of}"
        elif self._verify and load(body) != job.answer(number):
            self.wrong[number] = "its result is wrong"

    def call_back(self, number: int, future: Any) -> None:
        """Done-callback: the job has ended."""
        self.called[number] = min(255, self.called[number] + 1)
