"""The fleet, driven by Hypothesis through any order of events; `FleetRig` checks everything after each."""

from __future__ import annotations

from typing import Any

from fleet_rig import FakeForeman, FleetRig, Record, offer, spec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

PICK = st.integers(0, 7)
"""Picks one of those that are there."""

COUNT = st.sampled_from([1, 2, 3, 5, 12, 40])
FATES = st.lists(
    st.sampled_from(["ok", "ok", "ok", "retry", "fatal", "after", "heed", "withheld"]), min_size=1, max_size=9
)
SECONDS = st.sampled_from([1e-6, 1e-4, 1e-3, 0.03, 5.0])
PAUSE = st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.3, 0.6, 3.0])

OFFERS = [
    offer("a", 2),
    offer("b", 4, queues=frozenset({"default", "video"}), tags=frozenset({"big"}), resources={"memory": 16, "gpu": 1}),
    offer("c", 1, python="3.12"),
    offer("d", 3, queues=frozenset({"default"}), resources={"memory": 8, "gpu": 2, "cpus": 6}),
]


class FleetMachine(RuleBasedStateMachine):
    """Submit, run, fail, die, return, lose, join anew, cancel, expire: in any order each item ends exactly once."""

    @initialize(known=st.sampled_from([None, 1e-6, 2e-3]), few=st.booleans())
    def open(self, known: float | None, few: bool) -> None:
        self.rig = rig = FleetRig()
        self.specs = [
            spec("plain"),
            spec("again", retries=2, backoff=0.5, crash_retries=1, retries_timeouts=False),
            spec("urgent", priority=5, expires=4.0, queue="video"),
            spec("large", memory=8, retries=1, crash_retries=0),
            spec("gpu", resources={"gpu": 1}, cpus=2, expires=9.0),
            spec("once", at_most_once=True),
            spec("by value", by_value=True, python="3.11", tags=("big",), priority=-1),
            spec("small", memory=3),
        ]
        for each in self.specs:
            each.run_time.seconds = known
        for each in OFFERS[: 2 if few else 4]:
            rig.start(each)

    # --- clients ---

    @rule(pick=PICK, count=COUNT, session=st.integers(1, 2), again=PICK)
    def submit(self, pick: int, count: int, session: int, again: int) -> None:
        self.rig.submit(self.specs[pick], count, session, detail=again == 3)
        self.rig.submit(self.specs[again], 1, session)

    @rule(pick=PICK, count=COUNT, session=st.integers(1, 2), shape=st.sampled_from(["one", "star"]))
    def submit_slice(self, pick: int, count: int, session: int, shape: str) -> None:
        self.rig.submit_slice(self.specs[pick], count, session, shape)

    @precondition(lambda self: self.rig.alive())
    @rule(pick=st.integers(0, 50), count=st.sampled_from([1, 1, 1, 1, 2, 2, 5, 2**70]), running=st.booleans())
    def cancel(self, pick: int, count: int, running: bool) -> None:
        alive = self.rig.alive()
        session, number = alive[pick % len(alive)]
        self.rig.cancel(session, [(number, count), (max(1, number - 2), 1)], running=running)

    @rule(pick=PICK, session=st.integers(1, 2), keep=st.sampled_from([0, 2, 3]))
    def forget(self, pick: int, session: int, keep: int) -> None:
        if pick:
            return  # not too often: it ends nearly everything
        numbers = range(1, self.rig.numbers.get(session, 0) + 1)
        self.rig.forget(session, [number for number in numbers if keep and number % keep])

    # --- foremen come and go ---

    @rule(pick=PICK, how=st.sampled_from(["lose", "kill", "follow", "follow unheard", "join", "join unheard", "heard"]))
    def change_lanes(self, pick: int, how: str) -> None:
        foreman = self.busy(pick)
        if how == "lose":
            self.rig.lose(foreman)
        elif how == "kill":
            self.rig.kill(foreman)
            self.rig.start(foreman.offer)
        elif how == "heard":
            self.hear(foreman)
        else:
            self.rig.join(foreman, follows=how.startswith("follow"), tell=not how.endswith("unheard"))

    @rule(pick=PICK, credit=st.sampled_from([0, 1, 3, 100]), wanted=st.sampled_from(["run", "run", "drain", "stop"]))
    def change_credit(self, pick: int, credit: int, wanted: Any) -> None:
        foreman = self.foreman(pick)
        if foreman.lane is not None:
            self.rig.fleet.on_credit(foreman.lane, credit)
            self.rig.fleet.on_wanted(foreman.lane, wanted)
            self.rig.pass_time(0.0)

    @rule(pick=PICK, fates=FATES, pause=PAUSE, late=st.booleans())
    def part(self, pick: int, fates: list[str], pause: float, late: bool) -> None:
        """A foreman is cut off for longer than its lease, and runs on; others get its work; then it is back."""
        self.rig.dispatch()
        foreman = self.busy(pick)
        foreman.receive()
        self.rig.lose(foreman)
        self.rig.pass_time(pause)
        if not late:
            self.rig.run(foreman, fates)
        self.rig.dispatch()
        self.rig.join(foreman)
        if late:
            self.rig.run(foreman, fates)
        self.rig.deliver(foreman)

    # --- the head ---

    @rule()
    def dispatch(self) -> None:
        self.rig.dispatch()

    @rule(seconds=PAUSE)
    def time_passes(self, seconds: float) -> None:
        self.rig.pass_time(seconds)

    @rule(pick=PICK, pause=st.sampled_from([0.0, 0.3, 0.6, 3.0]))
    def recall(self, pick: int, pause: float) -> None:
        """Hosts are idle while others do not move."""
        rig = self.rig
        rig.dispatch()
        if pause:
            foreman = self.choose([each for each in rig.foremen if not each.copies], pick)
            rig.lose(foreman)
            rig.join(foreman)
            rig.pass_time(pause)
            rig.dispatch()
        for number in rig.fleet.recallable(rig.now):
            lane, foreman = rig.fleet.lanes[number], rig.foreman(number)
            assert lane.outstanding > lane.slots
            assert any(other.open and other.outstanding < other.slots for other in rig.fleet.lanes.values())
            foreman.receive()
            foreman.give_back(foreman.waiting()[lane.slots :])
        assert rig.fleet.recallable(rig.now) == []
        assert rig.fleet.next_event(rig.now) != 0.0 or rig.fleet._delayed.soonest() is not None or rig.fleet._expiring

    # --- foremen work ---

    @rule(pick=PICK, fates=FATES, backwards=st.booleans())
    def run_silently(self, pick: int, fates: list[str], backwards: bool) -> None:
        """A foreman runs some jobs; what it has to tell does not arrive yet."""
        foreman = self.busy(pick)
        if backwards:
            foreman.receive()
            foreman.copies.reverse()
        self.rig.run(foreman, fates)

    @rule(pick=PICK, count=COUNT)
    def deliver(self, pick: int, count: int) -> None:
        foreman = self.choose([each for each in self.rig.foremen if each.outbox], pick)
        self.hear(foreman)
        self.rig.deliver(foreman, count)

    @rule(pick=PICK, which=PICK, late=st.booleans())
    def die(self, pick: int, which: int, late: bool) -> None:
        """A foreman's worker dies, with the job that it runs."""
        foreman = self.busy(pick)
        foreman.receive()
        if foreman.copies:
            copy = foreman.copies[which % len(foreman.copies)]
            if not copy.running:
                self.rig.begin(foreman, copy)
            foreman.tell_death(copy, late=late)
        if which < 4:
            self.hear(foreman)
            self.rig.deliver(foreman)

    @rule(pick=PICK, count=COUNT)
    def give_back(self, pick: int, count: int) -> None:
        foreman = self.busy(pick)
        foreman.receive()
        foreman.give_back(foreman.waiting()[-count:])

    @rule(pick=PICK, begin=COUNT)
    def begin(self, pick: int, begin: int) -> None:
        foreman = self.busy(pick)
        foreman.receive()
        for copy in foreman.waiting()[:begin]:
            self.rig.begin(foreman, copy)

    @rule(pick=PICK, fates=FATES, pause=PAUSE, busy=SECONDS)
    def work(self, pick: int, fates: list[str], pause: float, busy: float) -> None:
        self.go_far(pick, fates, pause, busy)

    @rule(pick=PICK, fates=FATES, pause=PAUSE, busy=SECONDS)
    def work_on(
        self, pick: int, fates: list[str], pause: float, busy: float
    ) -> None:  # so that it is chosen more often
        self.go_far(pick, fates, pause, busy)

    def go_far(self, pick: int, fates: list[str], pause: float, busy: float) -> None:
        """Much of all this at once, to get deeper in as many steps."""
        self.rig.dispatch()
        foreman = self.busy(pick)
        self.hear(foreman)
        self.rig.run(foreman, fates, busy)
        self.rig.deliver(foreman)
        self.rig.pass_time(pause)

    # --- the end ---

    def teardown(self) -> None:
        if hasattr(self, "rig") and not self.rig.failed:
            for each in OFFERS:
                self.rig.start(each)
            self.rig.finish()
            for record in self.rig.records.values():
                check_record(record)

    def foreman(self, pick: int) -> FakeForeman:
        return self.choose(self.rig.foremen, pick)

    def busy(self, pick: int) -> FakeForeman:
        """Pick one that holds something, if there is one."""
        return self.choose([each for each in self.rig.foremen if each.copies or each.inbox], pick)

    def choose(self, foremen: list[FakeForeman], pick: int) -> FakeForeman:
        foremen = foremen or self.rig.foremen
        return foremen[pick % len(foremen)]

    def hear(self, foreman: FakeForeman) -> None:
        """It says what it holds, if that is due: nothing else comes before."""
        if foreman.lane is not None and not self.rig.fleet.lanes[foreman.lane].told:
            self.rig.tell_held(foreman)


def check_record(record: Record) -> None:
    """What is done has been run; what must not run twice has not."""
    options = record.spec.options
    assert record.end is not None
    assert record.results == (record.end == "done")
    assert record.starts >= 1 or record.end not in ("done", "poison", "timeout", "failed")
    assert record.starts >= record.failures + record.crashes
    assert record.starts <= 1 or not options.at_most_once
    assert record.end != "poison" or not options.at_most_once
    assert record.end != "lost" or options.at_most_once
    assert record.end != "expired" or not record.begun


FleetMachine.TestCase.settings = settings(
    max_examples=max(150, settings.default.max_examples),
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestFleet = FleetMachine.TestCase
