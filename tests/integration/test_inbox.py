"""The inbox's byte budget, with threads that really wait: they go on as soon as there is room, or never will be."""

from __future__ import annotations

import random
import selectors
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support import DEADLINE, wait_for

from ztasks.errors import TooLarge
from ztasks.io.inbox import Inbox

BUDGET = 100


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox(BUDGET)
    yield inbox
    inbox.wakeup.close()


def submit(inbox: Inbox, size: int, *, may_wait: bool = True) -> None:
    """Take so many bytes, as `Executor.submit` does."""
    inbox.taken += size
    if inbox.taken - inbox.freed > inbox.max_bytes:
        inbox.wait_for_room(size, may_wait=may_wait)


class Submitting(threading.Thread):
    """A thread that submits jobs of these sizes."""

    def __init__(self, inbox: Inbox, *sizes: int) -> None:
        super().__init__()
        self.inbox, self.sizes = inbox, sizes
        self.done = 0
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for size in self.sizes:
                submit(self.inbox, size)
                self.done += 1
        except TooLarge as error:
            self.error = error

    def ended(self) -> None:
        """Wait until all has been submitted."""
        self.join(DEADLINE)
        assert not self.is_alive(), "it waits for room that is there"


def waiting(inbox: Inbox, *sizes: int) -> Submitting:
    """Return a thread that waits for room."""
    before = set(inbox._waiting)
    thread = Submitting(inbox, *sizes)
    wait_for(lambda: set(inbox._waiting) - before, "a thread that waits for room")
    return thread


def round_of_the_head(inbox: Inbox, at_work: Callable[[], bool] = lambda: False) -> bool:
    """What the head does in each of its rounds; `at_work` lets jobs end, and tells whether some have not."""
    for item in inbox.take():
        item()  # type: ignore[operator]
    more = at_work()
    inbox.give_room()
    return more


@contextmanager
def head(inbox: Inbox, at_work: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """A thread that sleeps until it is woken, as the head does: what does not wake it is not seen."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            more = round_of_the_head(inbox, at_work)
            inbox.asleep = True
            if not inbox and not more:
                selector.select()
            inbox.asleep = False
            inbox.wakeup.clear()

    with selectors.DefaultSelector() as selector:
        selector.register(inbox.wakeup.fileno(), selectors.EVENT_READ)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            inbox.wakeup.set()
            thread.join(DEADLINE)
            assert not thread.is_alive()


def test_what_fits_does_not_wait(inbox: Inbox) -> None:
    submit(inbox, 60)
    submit(inbox, 40)
    submit(inbox, 0)
    assert inbox.taken == BUDGET
    inbox.free(60)
    submit(inbox, 60)


def test_who_waits_goes_on_when_enough_has_ended_and_not_before(inbox: Inbox) -> None:
    with head(inbox):
        submit(inbox, 70)
        thread = waiting(inbox, 80)
        inbox.free(20)
        wait_for(lambda: inbox._seen_freed == 20, "the head's look")
        assert thread.done == 0
        assert inbox.taken == 70, "what waits is in no books"
        inbox.free(30)
        thread.ended()
    assert (thread.done, inbox.taken - inbox.freed) == (1, 100)


def test_of_two_that_wait_only_so_many_go_on_as_there_is_room_for(inbox: Inbox) -> None:
    with head(inbox):
        submit(inbox, BUDGET)
        threads = [waiting(inbox, 60), waiting(inbox, 60)]
        inbox.free(BUDGET)
        wait_for(lambda: sum(thread.done for thread in threads), "one of the two")
        assert inbox.taken - inbox.freed == 60
        inbox.free(60)
        for thread in threads:
            thread.ended()
    assert inbox.taken - inbox.freed == 60


def test_a_thread_waits_again_and_again(inbox: Inbox) -> None:
    with head(inbox):
        thread = waiting(inbox, 60, 60, 60, 60)
        for done in range(1, 5):
            wait_for(lambda done=done: thread.done == done, f"job {done}")
            inbox.free(60)
        thread.ended()
    assert inbox.taken == inbox.freed == 240


def test_what_can_never_fit_is_refused_at_once_and_leaves_nothing(inbox: Inbox) -> None:
    submit(inbox, 5)
    with pytest.raises(
        TooLarge, match=r"take 101 bytes, more than the byte budget of this executor, 100\. Nothing was"
    ):
        submit(inbox, BUDGET + 1)
    with pytest.raises(TooLarge):
        submit(inbox, BUDGET + 1, may_wait=False)
    assert inbox.taken - inbox.freed == 5
    assert not inbox._waiting


def test_who_must_not_wait_exceeds_the_budget_instead(inbox: Inbox) -> None:
    """In a done-callback: nobody else would end the jobs it would wait for."""
    submit(inbox, 90)
    submit(inbox, 80, may_wait=False)
    assert inbox.taken - inbox.freed == 170
    thread = waiting(inbox, 1)
    inbox.free(90)
    round_of_the_head(inbox)
    thread.ended()


def test_what_can_never_fit_stands_in_nobody_s_way(inbox: Inbox) -> None:
    """While it is in the books, for a moment, another one looks. No job ends afterwards, so nobody else wakes it."""
    inbox.taken += 1000  # the beginning of a `submit`
    thread = waiting(inbox, 50)
    with pytest.raises(TooLarge):
        inbox.wait_for_room(1000, may_wait=True)  # the rest of it
    thread.ended()
    assert inbox.taken - inbox.freed == 50


def test_what_must_wait_itself_stands_in_nobody_s_way(inbox: Inbox) -> None:
    submit(inbox, 40)
    inbox.taken += 90
    small = waiting(inbox, 50)
    large = threading.Thread(target=inbox.wait_for_room, args=(90,), kwargs={"may_wait": True})
    large.start()
    small.ended()
    inbox.free(40)
    inbox.free(50)
    with head(inbox):
        large.join(DEADLINE)
        assert not large.is_alive()
    assert inbox.taken - inbox.freed == 90


def test_when_the_head_ends_nobody_waits_any_more(inbox: Inbox) -> None:
    submit(inbox, BUDGET)
    threads = [waiting(inbox, 10), waiting(inbox, BUDGET)]
    inbox.end()
    for thread in threads:
        thread.ended()
        assert thread.error is None
    late = Submitting(inbox, 30, 30)  # it is refused elsewhere
    late.ended()


def test_a_job_that_ends_in_any_thread_wakes_the_head_for_those_who_wait(inbox: Inbox) -> None:
    """`cancel` frees what a job held in its caller's thread, after it has told the head."""
    with head(inbox):
        submit(inbox, BUDGET)
        thread = waiting(inbox, 10)
        wait_for(lambda: inbox.asleep, "the head's sleep")
        inbox.free(BUDGET)
        thread.ended()


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_never_hold_more_than_the_budget_and_all_come_to_an_end(inbox: Inbox, seed: int) -> None:
    lock, held, running = threading.Lock(), [0], list[int]()
    refused = [0]

    def end_some() -> bool:
        """The head's part: jobs end in any order."""
        with lock:
            chance.shuffle(running)
            ended = [running.pop() for _ in range(min(len(running), 3))]
            held[0] -= sum(ended)
        for size in ended:
            inbox.free(size)
        return bool(running)

    def work(sizes: list[int]) -> None:
        for size in sizes:
            try:
                submit(inbox, size)
            except TooLarge:
                with lock:
                    refused[0] += 1
                continue
            with lock:
                held[0] += size
                most.append(held[0])
                running.append(size)
            inbox.post(lambda: None)  # the job

    chance, most = random.Random(seed), list[int]()
    sizes = [[chance.choice([0, 1, 10, 50, 90, 100, 101, 1000]) for _ in range(150)] for _ in range(8)]
    with head(inbox, end_some):
        threads = [threading.Thread(target=work, args=(each,)) for each in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), "it waits for ever"
        inbox.post(lambda: None)
        wait_for(lambda: inbox.taken == inbox.freed, "the end of all jobs")
    assert max(most) <= BUDGET
    assert refused[0] == sum(size > BUDGET for each in sizes for size in each)
