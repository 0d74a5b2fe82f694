"""Rows 27 to 29: connections that are cut, hosts that are cut off, and peers that fall silent while all seems well."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

import jobs_across as jobs
import pytest
from fleet import Fleet, Part
from namespaces import Host, hosts
from proxy import Line, ProxySet
from proxy_port import Way
from support import DEADLINE

from ztasks import Client, Future

LEASE = "2s"
"""Of the fleet whose faults are shorter than that, on a busy machine too."""

STALL = 0.8
SHORT = "1s"
"""Of those whose faults last longer."""

CUTS = 4
"""How often a connection is cut in each test, at least."""

DIRECTIONS: list[tuple[str, Way, float]] = [
    ("lanes", "down", 6.5),  # work on its way to a foreman, and receipts
    ("sink", "up", 6.5),  # a foreman's outcomes, receipts and signs of life
    ("control", "down", 2.5),
    ("clients", "up", 6.5),  # what a client submits
    ("clients", "down", 6.5),  # its results
]
"""Of which sockets, which way, and after how many bytes they are cut at most: 10 to that power."""


class Ways(NamedTuple):
    """A fleet with proxies between the head and its foreman, and others between the head and a client."""

    fleet: Fleet
    foreman: ProxySet
    client: ProxySet

    def line(self, name: str) -> Line:
        line: Line = self.client.clients if name == "clients" else getattr(self.foreman, name)
        return line

    def joins(self) -> int:
        """How often the foreman has joined, or was given up."""
        return sum(part.text.count("joined") + part.text.count("is gone") for part in self.fleet.parts)


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """A fleet whose connections all lead through proxies; tests leave it as it was."""
    with Fleet(tmp_path_factory.mktemp("fleet"), lease=LEASE, lanes=2) as fleet:
        fleet.start_head()
        ways = Ways(fleet, fleet.proxy(), fleet.proxy())
        fleet.start_foreman("a", workers=2, through=ways.foreman)
        yield ways


# --- 27: cut, and healed ---


class Breaker(threading.Thread):
    """Cuts a line's connection so many times while bytes flow that way; what it has read then is lost.

    Not for ever: a connection that never lasts for one chunk carries none.
    """

    def __init__(self, line: Line, way: Way, cuts: int, most: float = 6) -> None:
        """`most`: up to 10 ** most bytes pass before a cut."""
        super().__init__()
        self._line, self._way, self._cuts, self._most = line, way, cuts, most
        self._stopped = threading.Event()

    def run(self) -> None:
        chance = random.Random(27)
        for _ in range(self._cuts):
            before = self._line.losses
            passed = int(10 ** chance.uniform(1, self._most))  # inside of handshakes, headers and large contents
            self._line.lose_after(passed, way=self._way)
            while self._line.losses == before and not self._stopped.wait(0.002):
                pass

    def __enter__(self) -> Breaker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


def work_while(client: Client, notes: Path, going_on: Any) -> None:
    """Submit jobs and map items, of all sizes; each ends once, with its own result, and is charged to nobody."""
    first, size = 0, 60
    while going_on():
        numbers = range(first, first + size)
        mapped = client.map(jobs.echo, numbers, [b"x" * size for size in (0, 100, 300_000)] * (size // 3))
        futures = [client.submit(jobs.run, str(notes), number) for number in numbers]
        assert [future.result(DEADLINE) for future in futures] == [(number, 1) for number in numbers]
        assert [(number, attempt) for number, attempt, _ in mapped] == [(number, 1) for number in numbers]
        first += size
    assert Counter(jobs.notes(notes)) == Counter(map(str, range(first)))


@pytest.mark.parametrize(("name", "way", "most"), DIRECTIONS)
def test_row_27_a_cut_connection_loses_nothing_and_charges_nobody(
    ways: Ways, tmp_path: Path, name: str, way: Way, most: float
) -> None:
    joins = ways.joins()
    with jobs.using(ways.fleet.client(ways.client)) as client, Breaker(ways.line(name), way, CUTS, most) as breaker:
        work_while(client, tmp_path / "notes", breaker.is_alive)
    assert ways.joins() == joins


def test_row_27_all_connections_are_cut_at_once_and_each_by_itself(ways: Ways, tmp_path: Path) -> None:
    joins = ways.joins()
    with jobs.using(ways.fleet.client(ways.client)) as client, contextlib.ExitStack() as stack:
        breakers = [stack.enter_context(Breaker(ways.line(name), way, 2, most)) for name, way, most in DIRECTIONS]

        def going_on() -> bool:
            for proxies in (ways.foreman, ways.client):
                proxies.cut()
            return any(breaker.is_alive() for breaker in breakers)

        work_while(client, tmp_path / "notes", going_on)
    assert ways.joins() == joins


def test_row_27_connections_are_refused_for_a_while(ways: Ways, tmp_path: Path) -> None:
    """There is nobody to connect to, for some attempts, while jobs run and results wait."""
    notes = tmp_path / "notes"
    with jobs.using(ways.fleet.client(ways.client)) as client:
        held = [client.submit(jobs.hold, str(notes), number, str(tmp_path / "go")) for number in (1, 2)]
        jobs.wait_for_note(notes, "begun", 2)
        for proxies in (ways.foreman, ways.client):
            proxies.refuse()
            proxies.cut()
        (tmp_path / "go").touch()
        jobs.wait_for_note(notes, "ended", 2)
        later = client.map(jobs.nothing, range(100))
        for proxies in (ways.foreman, ways.client):
            proxies.heal()
        assert [future.result(DEADLINE) for future in held] == [(1, 1, "a"), (2, 1, "a")]
        assert list(later) == list(range(100))
    assert sorted(jobs.notes(notes)) == ["begun 1 a", "begun 2 a", "ended 1 a", "ended 2 a"]


# --- 28: cut off for longer than the lease ---


class Apart(NamedTuple):
    """A head, a foreman `a` with two workers, a client, and room for another foreman: each on a host of its own."""

    fleet: Fleet
    a: Part
    hosts: list[Host]
    client: Client


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """Tests leave it as it was, with `a` joined."""
    with hosts(4) as made, Fleet(tmp_path_factory.mktemp("fleet"), host=made[0], lease=SHORT) as fleet:
        fleet.start_head()
        a = fleet.start_foreman("a", workers=2, tags=["a"], host=made[1])
        with made[3].entered():  # a client's thread is where it was started
            client = fleet.client()
            assert client.submit(jobs.nothing, 1).result(DEADLINE) == 1
        yield Apart(fleet, a, made, client)


class Lost(NamedTuple):
    """Two jobs that run on `a`, of which the head has not heard for its lease."""

    futures: list[Future[Any]]
    notes: Path
    go: Path
    """Makes them end, or does so where its name is followed by a place."""

    def end(self, place: str) -> None:
        """Let those of this place end, and wait for that."""
        Path(f"{self.go}-{place}").touch()
        jobs.wait_for_note(self.notes, "ended", 2)

    def results(self) -> list[Any]:
        return [future.result(DEADLINE) for future in self.futures]


@contextlib.contextmanager
def lost(fleet: Fleet, client: Client, a: Part, folder: Path, cut: Callable[[], object]) -> Iterator[Lost]:
    """Begin two jobs on `a`, cut it off, and wait until both ends have noticed; then until it is back and works."""
    lost = Lost([], folder / "notes", folder / "go")
    for number in (1, 2):
        lost.futures.append(client.submit(jobs.hold, str(lost.notes), number, str(lost.go)))
    jobs.wait_for_note(lost.notes, "begun", 2)
    cut()
    jobs.wait_lost(fleet.head, a)
    yield lost
    jobs.wait_for_last(a, "joined", behind=jobs.UNHEARD)
    assert client.submit(jobs.run.options(tags=["a"]), str(folder / "later"), 3).result(DEADLINE) == (3, 1)


@contextlib.contextmanager
def another(fleet: Fleet, lost: Lost, host: Host | None = None) -> Iterator[Part]:
    """Start a foreman `b`, and wait until it runs the lost jobs; stop it in the end."""
    b = fleet.start_foreman("b", workers=2, tags=["b"], host=host)
    for number in (1, 2):
        jobs.wait_for_note(lost.notes, f"begun {number} b")
    yield b
    assert b.stop() == 0


def test_row_28_what_a_lost_host_has_run_runs_elsewhere_and_its_late_results_are_dropped(
    apart: Apart, tmp_path: Path
) -> None:
    _, host, third, _ = apart.hosts
    with lost(apart.fleet, apart.client, apart.a, tmp_path, host.link_down) as jobs_lost:
        with another(apart.fleet, jobs_lost, third):
            jobs_lost.end("a")  # nobody can hear of it
            jobs_lost.go.touch()
            assert jobs_lost.results() == [(1, 1, "b"), (2, 1, "b")]
        host.link_up()
    assert len(jobs.notes(jobs_lost.notes)) == 8  # each ran twice


def test_row_28_a_late_result_counts_if_there_is_no_other_and_the_copy_is_stopped(apart: Apart, tmp_path: Path) -> None:
    _, host, third, _ = apart.hosts
    with lost(apart.fleet, apart.client, apart.a, tmp_path, host.link_down) as jobs_lost:
        jobs_lost.end("a")
        with another(apart.fleet, jobs_lost, third):
            host.link_up()
            assert jobs_lost.results() == [(1, 1, "a"), (2, 1, "a")]
            elsewhere = jobs.run.options(tags=["b"])  # there is room for it when they do not run there any more
            assert apart.client.submit(elsewhere, str(tmp_path / "later"), 4).result(DEADLINE) == (4, 1)
    assert not [line for line in jobs.notes(jobs_lost.notes) if line.startswith("ended") and line.endswith("b")]


def test_row_28_what_nobody_has_taken_up_goes_on_where_it_runs(apart: Apart, tmp_path: Path) -> None:
    host = apart.hosts[1]
    with lost(apart.fleet, apart.client, apart.a, tmp_path, host.link_down) as jobs_lost:
        host.link_up()
        jobs.wait_for_last(apart.a, "joined anew", behind=jobs.UNHEARD)
        jobs_lost.end("a")
        assert jobs_lost.results() == [(1, 1, "a"), (2, 1, "a")]
    assert len(jobs.notes(jobs_lost.notes)) == 4


# --- 29: silent, with all connections as they were ---


@pytest.fixture(scope="module")
def quiet_ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ways, Part]]:
    """As `ways`, with a shorter lease; and the foreman."""
    with Fleet(tmp_path_factory.mktemp("fleet"), lease=SHORT, lanes=4) as fleet:
        fleet.start_head()
        ways = Ways(fleet, fleet.proxy(), fleet.proxy())
        yield ways, fleet.start_foreman("a", workers=2, tags=["a"], through=ways.foreman)


@pytest.mark.parametrize("silent", [["clients", "sink", "control", "lanes"], ["sink"], ["control", "lanes"]])
def test_row_29_a_silent_connection_is_given_up_on_both_sides(
    quiet_ways: tuple[Ways, Part], tmp_path: Path, silent: list[str]
) -> None:
    """Neither end is told: each hears nothing, or only one of them does."""
    ways, a = quiet_ways
    lines: list[Line] = [getattr(ways.foreman, name) for name in silent]

    def swallow() -> None:
        for line in lines:
            line.swallow()

    with jobs.using(ways.fleet.client()) as client, lost(ways.fleet, client, a, tmp_path, swallow) as jobs_lost:
        with another(ways.fleet, jobs_lost):
            jobs_lost.go.touch()
            assert jobs_lost.results() == [(1, 1, "b"), (2, 1, "b")]
        for line in lines:
            line.resume()


def test_row_29_a_foreman_whose_lane_is_silent_learns_otherwise_that_it_may_leave(tmp_path: Path) -> None:
    """Receipts come down the lane. The head's signs of life, which come on control too, say the same."""
    notes, go = tmp_path / "notes", tmp_path / "go"
    with Fleet(tmp_path, lease=LEASE) as fleet:
        fleet.start_head()
        through = fleet.proxy()
        foreman = fleet.start_foreman("a", through=through)
        with jobs.using(fleet.client()) as client:
            future = client.submit(jobs.hold, str(notes), 1, str(go))
            jobs.wait_for_note(notes, "begun 1")
            through.lanes.swallow()
            go.touch()
            assert future.result(DEADLINE) == (1, 1, "a")
        assert foreman.stop() == 0


def test_row_29_a_client_that_hears_nothing_joins_anew_and_has_its_results(
    quiet_ways: tuple[Ways, Part], tmp_path: Path
) -> None:
    ways, _ = quiet_ways
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(ways.fleet.client(ways.client)) as client:
        futures = [client.submit(jobs.hold, str(notes), number, str(go)) for number in (1, 2)]
        later = client.map(jobs.nothing, range(100))
        jobs.wait_for_note(notes, "begun", 2)
        ways.client.swallow()
        go.touch()
        jobs.wait_for_note(notes, "ended", 2)
        with pytest.raises(TimeoutError):
            client.ask_whole("status", {}, seconds=2.0)  # longer than the lease
        ways.client.resume()
        assert [future.result(DEADLINE) for future in futures] == [(1, 1, "a"), (2, 1, "a")]
        assert list(later) == list(range(100))
    assert len(jobs.notes(notes)) == 4


def test_row_29_what_stalls_for_less_than_the_lease_costs_nothing(ways: Ways, tmp_path: Path) -> None:
    notes, go, joins = tmp_path / "notes", tmp_path / "go", ways.joins()
    with jobs.using(ways.fleet.client(ways.client)) as client:
        futures = [client.submit(jobs.hold, str(notes), number, str(go)) for number in (1, 2)]
        later = client.map(jobs.nothing, range(100))
        jobs.wait_for_note(notes, "begun", 2)
        for proxies in (ways.foreman, ways.client):
            proxies.stall()
        go.touch()
        jobs.wait_for_note(notes, "ended", 2)
        sleep(STALL)  # this is the fault
        for proxies in (ways.foreman, ways.client):
            proxies.resume()
        assert [future.result(DEADLINE) for future in futures] == [(1, 1, "a"), (2, 1, "a")]
        assert list(later) == list(range(100))
    assert len(jobs.notes(notes)) == 4
    assert ways.joins() == joins
