"""`ztasks head` and `ztasks worker` as processes: how they start and end, what they log, and whom they put up with."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import support

sys.path.append(str(Path(__file__).parents[1] / "hosts"))  # for `fleet` and the jobs

import jobs_across as jobs
from fleet import Fleet, Part

from ztasks import Client, HeadFull, HeadLost, WorkerLost, options
from ztasks.core.joining import Joining
from ztasks.io.join import JoinFile
from ztasks.io.net import NetSocket, PeerSockets
from ztasks.wire.link import PROTOCOL, Alive, Chunk, Hello, Received, Reject, Submit, Void, Welcome
from ztasks.wire.link_codec import decode_at_peer, encode

HUGE = (1 << 64) - 1


@pytest.fixture(scope="module")
def fleet(_own_tmpdir: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A head with a journal; tests stop the foremen that they start."""
    with Fleet(tmp_path_factory.mktemp("fleet"), journal=True, lease="2s", lanes=40) as fleet:
        fleet.start_head("--max-bytes", "1MiB")
        yield fleet


def secrets(fleet: Fleet) -> set[str]:
    """Return all keys of a fleet."""
    texts = [path.read_text() for path in fleet.join_dir.glob("*.join")]
    return {value for text in texts for name, value in json.loads(text).items() if name.endswith("key")}


once = jobs.hold.options(at_most_once=True)


@contextlib.contextmanager
def parts(
    folder: Path, *, journal: bool = True, workers: int = 1, options: Sequence[str] = ()
) -> Iterator[tuple[Fleet, Part, Part, Client]]:
    """Start a head, a foreman and a client of our own."""
    with Fleet(folder, journal=journal, lease="1s", options=options) as fleet:
        head, foreman = fleet.start_head(), fleet.start_foreman("a", workers=workers)
        with jobs.using(fleet.client()) as client:
            yield fleet, head, foreman, client


# --- nothing to do ---


@pytest.mark.parametrize("journal", [False, True])
def test_who_has_nothing_to_do_uses_no_processor(tmp_path: Path, journal: bool) -> None:
    """Before the first job, behind the last, and when a worker has left, or was killed: about none, not a whole one."""
    with Fleet(tmp_path, journal=journal, lease="1s") as fleet:
        head = fleet.start_head()
        for turn in range(4):
            foreman = fleet.start_foreman("a", workers=1)
            assert support.busy([*head.processes(), *foreman.processes()], 0.5) < 0.2
            with jobs.using(fleet.client()) as client:
                assert list(client.map(jobs.nothing, range(100))) == list(range(100))
                assert support.busy([*head.processes(), *foreman.processes(), os.getpid()], 0.5) < 0.2
            if turn % 2:
                foreman.kill()
            else:
                assert foreman.stop() == 0
            head.wait_for("is gone", count=turn + 1)
            assert support.busy(head.processes(), 0.5) < 0.2


def test_two_heads_do_not_share_a_directory_of_keys(fleet: Fleet, tmp_path: Path) -> None:
    """Else the join files of the first would lead to the second."""
    before = {path.name: path.read_bytes() for path in fleet.join_dir.iterdir()}
    done = fleet.run("head", "--listen", "127.0.0.1:39876", "--join-dir", str(fleet.join_dir))
    assert done.code == 1
    assert "another head that runs uses" in done.err
    assert "--join-dir of its own" in done.err
    assert {path.name: path.read_bytes() for path in fleet.join_dir.iterdir()} == before


def test_a_head_that_is_drained_can_be_asked_and_told_otherwise(tmp_path: Path) -> None:
    with parts(tmp_path) as (fleet, head, _, client):
        job = client.send(options("jobs_across.nothing", queue="nowhere"), 1)
        assert fleet.run("stop", "--drain").code == 0
        head.wait_for("all that is queued is finished first")
        assert json.loads(fleet.run("status", "--json").out)["stopping"] is True
        assert "no worker serves queue 'nowhere'" in fleet.run("why", str(job)).out
        assert fleet.run("cancel", str(job)).code == 0
        assert head.wait() == 0


# --- a worker leaves ---


def test_a_worker_with_nothing_to_do_leaves(fleet: Fleet) -> None:
    foreman = fleet.start_foreman("idle", "--idle-timeout", "100ms")
    assert foreman.wait() == 0
    assert "it has had nothing to do for its idle-timeout, and leaves" in foreman.text
    fleet.head.wait_for("worker idle is gone: it has left")


def test_at_the_end_of_its_walltime_a_worker_finishes_what_runs(fleet: Fleet, tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        foreman = fleet.start_foreman("short", "--walltime", "700ms")
        future = client.submit(jobs.hold, str(notes), 1, str(go))
        jobs.wait_for_note(notes, "begun 1 short")
        waits = client.submit(jobs.run, str(notes), 2)
        foreman.wait_for("its walltime is over")
        other = fleet.start_foreman("other")
        assert waits.result(support.DEADLINE) == (2, 1)
        assert foreman.process.poll() is None
        go.touch()
        assert future.result(support.DEADLINE) == (1, 1, "short")
        assert foreman.wait() == 0
        assert other.stop() == 0


def test_without_a_head_a_worker_gives_up_in_time(fleet: Fleet, tmp_path: Path) -> None:
    (address,) = {*_free_ports(1)}
    foreman = fleet.start_foreman("early", "--head", f"127.0.0.1:{address}", "--join-timeout", "300ms", ready=False)
    assert foreman.wait() == 1
    assert f"no head answered at 127.0.0.1:{address} within 0.3 s" in foreman.text


def _free_ports(count: int) -> list[int]:
    found = []
    for _ in range(count):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            found.append(sock.getsockname()[1])
    return found


def test_told_twice_a_worker_leaves_at_once_and_charges_nobody(fleet: Fleet, tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        foreman = fleet.start_foreman("hasty")
        future = client.submit(jobs.hold, str(notes), 1, str(go))  # crash_retries=0
        jobs.wait_for_note(notes, "begun 1 hasty")
        foreman.send(signal.SIGTERM)
        foreman.wait_for("finishing what runs")
        assert foreman.process.poll() is None
        foreman.send(signal.SIGINT)
        assert foreman.wait() == 130
        fleet.head.wait_for("worker hasty is gone: it has left")
        other = fleet.start_foreman("other")
        jobs.wait_for_note(notes, "begun 1 other")
        go.touch()
        assert future.result(support.DEADLINE) == (1, 1, "other")
        assert other.stop() == 0


def test_a_host_that_is_shut_down_charges_nobody(fleet: Fleet, tmp_path: Path) -> None:
    """Batch systems send SIGTERM to every process, and SIGKILL then. What must not run twice is lost with its host."""
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        foreman = fleet.start_foreman("step", workers=2)
        futures = [client.submit(jobs.hold, str(notes), 1, str(go)), client.submit(once, str(notes), 2, str(go))]
        jobs.wait_for_note(notes, "begun", 2)
        for pid in foreman.processes():
            os.kill(pid, signal.SIGTERM)
        foreman.wait_for("finishing what runs")
        for pid in foreman.workers():
            os.kill(pid, signal.SIGKILL)
        assert foreman.wait() == 0
        other = fleet.start_foreman("other")
        go.touch()
        assert futures[0].result(support.DEADLINE) == (1, 1, "other")
        with pytest.raises(WorkerLost, match="worker step on host"):
            futures[1].result(support.DEADLINE)
        assert other.stop() == 0


def test_a_worker_that_cannot_be_set_up_says_why_and_its_jobs_go_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    with jobs.using(fleet.client()) as client:
        future = client.submit(jobs.run, str(tmp_path / "notes"), 1)
        foreman = fleet.start_foreman("broken", "--import", "no_such_module", ready=False)
        assert foreman.wait() == 1
        assert "No module named 'no_such_module'" in foreman.text
        other = fleet.start_foreman("other")
        assert future.result(support.DEADLINE) == (1, 1)
        assert other.stop() == 0


def test_a_worker_that_leaves_while_its_head_is_gone_waits_for_it(tmp_path: Path) -> None:
    """What it has done is told to the next head; nothing is run again."""
    notes, go = tmp_path / "notes", tmp_path / "go"
    with parts(tmp_path, workers=2) as (fleet, head, foreman, client):
        futures = [client.submit(each, str(notes), place, str(go)) for place, each in enumerate((jobs.hold, once))]
        jobs.wait_for_note(notes, "begun", 2)
        head.kill()
        foreman.wait_for(jobs.UNHEARD)
        foreman.send(signal.SIGTERM)
        go.touch()
        jobs.wait_for_note(notes, "ended")
        fleet.start_head()
        assert [futures[0].result(support.DEADLINE), futures[1].result(support.DEADLINE)] == [(0, 1, "a"), (1, 1, "a")]
        assert foreman.wait() == 0


# --- a head ends ---


def test_a_head_that_is_told_to_stop_leaves_what_waits_to_its_journal(tmp_path: Path) -> None:
    """It waits for what runs; workers and client go on with the next one."""
    notes, go = tmp_path / "notes", tmp_path / "go"
    with parts(tmp_path) as (fleet, head, foreman, client):
        first, second = client.submit(jobs.hold, str(notes), 1, str(go)), client.submit(jobs.run, str(notes), 2)
        jobs.wait_for_note(notes, "begun 1")
        head.send(signal.SIGTERM)
        head.wait_for("stopping: no new work is given out; what runs is waited for")
        with pytest.raises(HeadLost, match="the head is stopping"):
            client.submit(jobs.run, str(notes), 3)
        assert head.process.poll() is None
        go.touch()
        assert first.result(support.DEADLINE) == (1, 1, "a")
        assert head.wait() == 0
        assert not second.done()
        fleet.start_head()
        assert fleet.head.text.count("the journal holds 1 jobs that have not ended") == 1
        assert second.result(support.DEADLINE) == (2, 1)
        assert foreman.process.poll() is None


@pytest.mark.parametrize("how", ["twice", "drain-timeout"])
def test_a_head_does_not_wait_for_ever(tmp_path: Path, how: str) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    options = ["--drain-timeout", "60s" if how == "twice" else "0s"]
    with parts(tmp_path, options=options) as (fleet, head, foreman, client):
        future = client.submit(jobs.hold, str(notes), 1, str(go))
        jobs.wait_for_note(notes, "begun 1")
        head.send(signal.SIGTERM)
        head.wait_for("stopping")
        if how == "twice":
            head.send(signal.SIGTERM)
        assert head.wait() == (1 if how == "twice" else 0)
        fleet.start_head()
        foreman.wait_for("joined", 2)
        go.touch()
        assert future.result(support.DEADLINE) == (1, 1, "a")
    assert jobs.notes(notes) == ["begun 1 a", "ended 1 a"]


@pytest.mark.parametrize("drain", [False, True])
def test_a_head_and_its_workers_are_stopped_by_command(tmp_path: Path, drain: bool) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with parts(tmp_path, journal=False) as (_, head, foreman, client):
        runs, waits = client.submit(jobs.hold, str(notes), 1, str(go)), client.submit(jobs.run, str(notes), 2)
        jobs.wait_for_note(notes, "begun 1")
        client.ask("stop", drain=drain)
        head.wait_for("stopping")
        go.touch()
        assert runs.result(support.DEADLINE) == (1, 1, "a")
        assert (foreman.wait(), head.wait()) == (0, 0)
        if drain:
            assert waits.result(support.DEADLINE) == (2, 1)
        else:
            client.kill()
            with pytest.raises(HeadLost):
                waits.result(support.DEADLINE)


# --- how they are started ---


def test_what_a_head_cannot_be_started_with(fleet: Fleet) -> None:
    taken = "{}:{}".format(*fleet.listens)
    for arguments, code, words in (
        (["--listen", taken, "--join-dir", str(fleet.folder / "other")], 1, "is taken by another program"),
        (["--listen", "0.0.0.0:7070", "--plain"], 1, "without CURVE a head listens on this host only"),
        (["--listen", "nonsense"], 2, "an address is HOST:PORT"),
        (["--listen", "127.0.0.1:65534"], 2, "lanes follow it"),
        (["--lane-ports", "9-5"], 2, "is no range of ports"),
        (["--advertise", "a b"], 2, "an address is"),
        (["--lease", "0s"], 2, "must be at least 0.5 s"),
        (["--max-bytes", "lots"], 2, "max-bytes"),
        (["--journal", str(fleet.journal)], 1, "journal"),
    ):
        done = fleet.run("head", *(arguments if "--listen" in arguments else ["--listen", "127.0.0.1:9", *arguments]))
        assert (done.code, words in done.err) == (code, True), done.err
        assert "Traceback" not in done.err


def test_what_a_worker_cannot_be_started_with(fleet: Fleet) -> None:
    for arguments, code, words in (
        (["--head", "@nowhere.join"], 1, "there is no join file nowhere.join"),
        (["--head", fleet.join("client")], 1, "is a join file for a client"),
        (["-j", "0"], 2, "neither a number of workers"),
        (["-Q", ","], 2, "at least one queue"),
        (["-Q", "a b"], 2, "must be a name"),
        (["--tag", "x" * 200], 2, "must be a name"),
        (["--resource", "gpu"], 2, "is not NAME=N"),
        (["--resource", f"gpu={HUGE}"], 2, "is not NAME=N"),
        (["--name", "n" * 1000], 2, "no head would take this worker in"),
        (["--walltime", "soon"], 2, "walltime"),
        (["--max-memory-per-child", "much"], 2, "max-memory-per-child"),
    ):
        done = fleet.run("worker", *([] if "--head" in arguments else ["--head", fleet.join("worker")]), *arguments)
        assert (done.code, words in done.err) == (code, True), done.err
        assert "Traceback" not in done.err


def test_without_keys_on_this_host(tmp_path: Path) -> None:
    with Fleet(tmp_path, plain=True) as fleet:
        assert "(plain: no keys, this host only)" in fleet.start_head().text
        address = f"127.0.0.1:{fleet.port}"
        fleet.start_foreman("a", "--head", address)
        script = "import sys, math, ztasks\nwith ztasks.Client(sys.argv[1]) as client:\n    "
        script += "print(client.submit(math.sqrt, 9).result(20))"
        client = fleet.start_script("client", script, address)
        assert client.wait() == 0
        assert client.out.read_text() == "3.0\n"
        assert not fleet.join_dir.exists()


def test_systemd_hears_when_they_are_ready_and_when_they_stop(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(fleet.tmp / "notify"))
        heard.settimeout(support.DEADLINE)
        told = {"NOTIFY_SOCKET": str(fleet.tmp / "notify")}
        head = fleet.start_head(**told)
        assert heard.recv(100) == b"READY=1"
        foreman = fleet.start_foreman("a", **told)
        assert heard.recv(100) == b"READY=1"
        assert foreman.stop() == 0
        assert heard.recv(100) == b"STOPPING=1"
        assert head.stop() == 0
        assert heard.recv(100) == b"STOPPING=1"
        (fleet.tmp / "notify").unlink()


def test_logs_are_lines_of_json_and_hold_no_secret(tmp_path: Path) -> None:
    name = "näme with \x1b[31m, \n and \\"
    with Fleet(tmp_path, journal=True, options=["--log-format", "json"]) as fleet:
        head = fleet.start_head()
        foreman = fleet.start_foreman(name, "--log-format", "json")
        other = fleet.start_foreman("b", "--head", fleet.join("client"), "--log-format", "json", ready=False)
        assert other.wait() == 1
        with jobs.using(fleet.client()) as client:
            assert client.submit(jobs.run, str(tmp_path / "notes"), 1).result(support.DEADLINE) == (1, 1)
        head.send(signal.SIGHUP)
        head.wait_for("looking at the keys again")
        assert (foreman.stop(), head.stop()) == (0, 0)
        of_head = {"ready", "joined", "left", "keys", "stopping", "ended"}
        for part, events in ((head, of_head), (foreman, {"link", "left"})):
            lines = [json.loads(line) for line in part.text.splitlines()]
            assert {line["event"] for line in lines} >= events
            assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)
            assert not [key for key in secrets(fleet) if key in part.text]
        assert any(line.get("name") == name for line in map(json.loads, head.text.splitlines()))
        (failed,) = map(json.loads, other.text.splitlines())
        assert (failed["event"], failed["level"]) == ("failed", "error")


def test_a_name_cannot_forge_lines_of_the_log(fleet: Fleet) -> None:
    foreman = fleet.start_foreman("x\nztasks head: ended\x1b[2J")
    assert foreman.stop() == 0
    fleet.head.wait_for(r"worker x\nztasks head: ended\x1b[2J has joined")


# --- two of them ---


def test_work_is_shared_and_a_full_head_says_so(fleet: Fleet, tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with jobs.using(fleet.client()) as client:
        foremen = [fleet.start_foreman(name) for name in "ab"]
        futures = [client.submit(jobs.hold, str(notes), number, str(go)) for number in (1, 2)]
        jobs.wait_for_note(notes, "begun", 2)
        large = [client.submit(jobs.echo, number, bytes(700_000)) for number in (3, 4)]
        with pytest.raises(HeadFull, match="the head has no room for more: the head holds 1 MiB of arguments"):
            client.submit(jobs.echo, 5, b"")
        go.touch()
        assert sorted(future.result(support.DEADLINE)[2] for future in futures) == ["a", "b"]
        assert [future.result(support.DEADLINE)[0] for future in large] == [3, 4]

        def free() -> bool:  # the head hears a little later that the client has got the last
            status = client.ask("status")
            return (status["queued"], status["running"], status["refusing"]) == (0, 0, None)

        support.wait_for(free, "a head that holds nothing")
        assert [foreman.stop() for foreman in foremen] == [0, 0]


# --- peers that have a key, and say what they should not ---


class Raw:
    """A peer of our own: it joins, and says what it likes."""

    def __init__(self, fleet: Fleet, kind: str) -> None:
        join = JoinFile.read(fleet.join("client" if kind == "client" else "worker")[1:])
        self.net = PeerSockets(join)
        incarnation = int.from_bytes(os.urandom(8), "big") >> 1
        self.hello = Hello(kind, f"raw {incarnation}", incarnation, 0, PROTOCOL, "0", "3.11", "raw", 1)  # type: ignore[arg-type]
        self.joining = Joining(self.hello, monotonic())
        self.lost = False
        self.control: NetSocket | None = None
        if kind == "client":
            self.out = self.net.clients()
        else:
            self.out, self.control = self.net.sink(), self.net.control(b"%016x" % incarnation)
            self.control.raw.subscribe(b"*")

    def joined(self) -> bool:
        self.pump()
        return self.joining.link is not None

    def pump(self) -> None:
        """Take in what has come, and send what is to be sent."""
        now = monotonic()
        self.net.tend(now)
        for sock in filter(None, (self.out if self.control is None else None, self.control)):
            while sock.readable() and (message := sock.receive()) is not None:
                self.take(message.frames[1:] if sock is self.control else message.frames, now)
        hello = self.joining.hello(now) if self.out.writable() and not self.lost else None
        if hello is not None:
            self.out.send(encode(hello))
        link = self.joining.link
        for chunk, frames in link.outgoing() if link is not None else ():
            self.out.send(encode(chunk), *frames)

    def take(self, frames: list[Any], now: float) -> None:
        message = decode_at_peer(bytes(frames[0]))
        link = self.joining.link
        if isinstance(message, Welcome):
            self.joining.on_welcome(message, now)
        elif isinstance(message, Void | Reject):
            self.lost = self.lost or isinstance(message, Reject) or (link is not None and message.lane == link.lane)
        elif link is not None and message.lane == link.lane:
            if isinstance(message, Received):
                link.on_received(message, now)
            elif isinstance(message, Alive):
                link.on_alive(message, now, behind=self.control is None)
            elif isinstance(message, Chunk) and (content := link.on_chunk(message, frames[1:], now)) is not None:
                link.acknowledge(content.upto)

    def say(self, frames: list[Any]) -> None:
        """Say a content."""
        assert self.joining.link is not None
        self.joining.link.send(frames)
        self.pump()

    def keep_on(self) -> bool:
        """Say that it lives; tell whether the head has cut it off."""
        self.pump()
        if self.joining.link is not None:
            self.out.send(encode(self.joining.link.sign()))
        return self.lost

    def close(self) -> None:
        self.net.close()


def submit(**changes: Any) -> list[Any]:
    values: dict[str, Any] = {
        "key": b"k", "first": 1, "count": 1, "whole": False, "index": 0, "map_number": 0, "shape": "one",
        "form": "each", "skip": 0, "sizes": [1], "buffers": None, "detail": False, "durable": True, "sent": False,
        "payload": b"x",
    }  # fmt: skip
    return [encode(Submit(**(values | changes)))]


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


ODD: dict[str, tuple[str, list[Any]]] = {
    "nothing": ("client", [b""]),
    "no message": ("client", [b"\x93\xa4what\x01\x02"]),
    "nested deeply": ("client", [b"\x94\xa3ask\x01\xa4jobs\x81\xa1x" + nested(100_000)]),
    "another's vocabulary": ("client", [b"\x93\xa4held\x90\x90"]),
    "a number beyond all": ("client", submit(first=HUGE)),
    "a table that does not fit": ("client", submit(count=3)),
    "a Define without its callable": ("client", [b"\x91\xa6define"]),
    "a worker's nothing": ("foreman", [b""]),
    "nested deeply by a worker": ("foreman", [nested(100_000)]),
    "news before Held": ("foreman", [b"\x93\xa8returned\x01\x91\x92\x01\x01"]),
    "attempts without end": ("foreman", [b"\x93\xa4held\x91\x94\x01\x01\x01\x00\x90"]),
}


@pytest.mark.parametrize("what", ODD)
def test_who_does_not_follow_the_protocol_is_cut_off_alone(fleet: Fleet, what: str, raws: Callable[[str], Raw]) -> None:
    kind, frames = ODD[what]
    raw, bystander = raws(kind), raws("foreman")
    raw.say(frames)
    support.wait_for(raw.keep_on, "being cut off")
    with jobs.using(fleet.client()) as client:
        assert client.ask("status")["hosts"] >= 1
    assert not bystander.keep_on()
    assert "a defect in ztasks" not in fleet.head.text


@pytest.fixture
def raws(fleet: Fleet) -> Iterator[Callable[[str], Raw]]:
    made: list[Raw] = []

    def make(kind: str) -> Raw:
        made.append(Raw(fleet, kind))
        support.wait_for(made[-1].joined, "a raw peer's join")
        return made[-1]

    yield make
    for raw in made:
        raw.close()


def test_nobody_can_have_anothers_lane_given_up(fleet: Fleet, raws: Callable[[str], Raw], tmp_path: Path) -> None:
    """With another key: the head does not tell all workers that the lane is void."""
    assert fleet.run("keys", "add", "other", "--role", "worker", "--join-dir", str(fleet.join_dir)).code == 0
    victim = raws("foreman")
    assert victim.joining.link is not None
    net = PeerSockets(JoinFile.read(str(fleet.join_dir / "other.join")))
    try:
        sink = net.sink()
        # Tended, since the head may read its list a moment later, and refuse the key until then.
        support.wait_for(lambda: net.tend(monotonic()) or sink.writable(), "a connection")
        sink.send(encode(victim.joining.link.sign()))
        fleet.head.wait_for("a message names lane")
        assert not victim.keep_on()
    finally:
        net.close()


def test_one_peer_that_is_odd_ever_again_does_not_fill_the_log(fleet: Fleet, raws: Callable[[str], Raw]) -> None:
    raw = raws("client")
    before = len(fleet.head.text.splitlines())
    for _ in range(500):
        raw.out.send(b"\xc1")
    with jobs.using(fleet.client()) as client:
        client.ask("status")
    assert len(fleet.head.text.splitlines()) - before < 30


def test_the_head_has_said_nothing_of_defects(fleet: Fleet) -> None:
    part: Part = fleet.head
    assert not re.search("defect|Traceback", part.text)
    assert part.process.poll() is None
