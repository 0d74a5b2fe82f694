"""A client's questions to its head, until they are answered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ztasks.errors import ZtasksError
from ztasks.io.client_errors import of_answer
from ztasks.wire.link import Answer, Ask


class Reply(NamedTuple):
    """What the head has answered."""

    value: Any
    frames: Sequence[Any]


class Question:
    """One question; what is posted."""

    __slots__ = ("_alarm", "_ask", "_found", "arguments", "number", "on_reply", "what")

    def __init__(
        self,
        what: str,
        arguments: dict[str, Any],
        ask: Callable[[Question], object],
        on_reply: Callable[[Reply], None] | None = None,
    ) -> None:
        """`on_reply` is called in the client's thread with what was answered."""
        self.what = what
        self.arguments = arguments
        self.number = 0
        self._ask = ask
        self.on_reply = on_reply
        self._found: Reply | BaseException | None = None
        self._alarm = threading.Lock()
        self._alarm.acquire()

    def __call__(self) -> None:
        """Ask itself, in the client's thread."""
        self._ask(self)

    def end(self, found: Reply | BaseException) -> None:
        """The client's thread: it is answered, or will never be."""
        if self._found is None:
            self._found = found
            if self.on_reply is not None and isinstance(found, Reply):
                self.on_reply(found)
            self._alarm.release()

    def wait(self, seconds: float | None) -> Reply:
        """Wait for the answer; raises TimeoutError, and the error that is the answer. One thread only."""
        if not self._alarm.acquire(timeout=-1 if seconds is None else seconds) and self._found is None:
            raise TimeoutError
        found = self._found
        if isinstance(found, BaseException):
            raise found
        assert found is not None
        return found


class Questions:
    """All questions that are not answered."""

    def __init__(self, post: Callable[[Question], None], say: Callable[[Ask], None]) -> None:
        """`post` hands a question to the client's thread; that thread says it with `say`."""
        self._post = post
        self._say = say
        self._open: dict[int, Question] = {}
        self._next = 1

    # --- any thread ---

    def ask(self, what: str, arguments: dict[str, Any], seconds: float | None = None) -> Reply:
        """Ask the head; wait for the answer. Raises TimeoutError, and the error that is the answer."""
        question = Question(what, arguments, self.begin)
        self._post(question)
        try:
            return question.wait(seconds)
        except BaseException:
            self._post(Question("", {}, lambda _: self._withdraw(question)))
            raise

    def ask_quietly(self, question: Question, seconds: float) -> None:
        """Ask the head, and give it so many seconds to answer."""
        self._post(question)
        if seconds:
            with contextlib.suppress(TimeoutError, ZtasksError):
                question.wait(seconds)

    # --- the client's thread ---

    def begin(self, question: Question) -> None:
        """Take a question in, and ask it."""
        question.number, self._next = self._next, self._next + 1
        self._open[question.number] = question
        self._say(Ask(question.number, question.what, question.arguments))

    def _withdraw(self, question: Question) -> None:
        """Nobody waits for the answer any more: if it may be long in coming, and large, the head need not give it."""
        if self._open.pop(question.number, None) is not None and question.what == "result":
            self._next += 1
            withdrawn = {"id": question.arguments["id"], "question": question.number}
            self._say(Ask(self._next - 1, "withdraw", withdrawn))

    def again(self) -> None:
        """There is a new link: ask all of them again."""
        for number, question in self._open.items():
            self._say(Ask(number, question.what, question.arguments))

    def on_answer(self, answer: Answer, frames: Sequence[Any]) -> None:
        """One is answered."""
        question = self._open.pop(answer.question, None)
        if question is not None:
            question.end(of_answer(answer.error, answer.value) if answer.error else Reply(answer.value, frames))

    def fail_all(self, error_of: Callable[[], ZtasksError]) -> None:
        """None of them will be answered."""
        questions, self._open = list(self._open.values()), {}
        for question in questions:
            question.end(error_of())
