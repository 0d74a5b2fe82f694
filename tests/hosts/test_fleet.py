"""What starts and ends heads and foremen notices what they leave, and waits for no longer than it must.

A stand-in takes the place of ztasks: it does as it is told by its last options.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from fleet import Fleet
from namespaces import hosts
from proxy import ProxySet

STAND_IN = """
import json, os, pathlib, signal, socket, subprocess, sys, time, warnings

warnings.simplefilter("ignore")

role, *options = sys.argv[1:]
value = dict(zip(options, options[1:]))
address = value.get("--advertise") or value.get("--listen")
told = options[-1]

if role == "head":
    host, port = value["--listen"].split(":")
    listener = socket.create_server((host, int(port)))
    host, port = address.split(":")
    ports = {"clients": int(port), "sink": int(port) + 1, "control": int(port) + 2}
    folder = pathlib.Path(value["--join-dir"])
    folder.mkdir(mode=0o700, exist_ok=True)
    for kind in ("worker", "client"):
        (folder / f"{kind}.join").write_text(json.dumps({"address": host, "ports": ports, "role": kind}))
elif role == "worker":
    join = json.loads(pathlib.Path(value["--head"][1:]).read_text())
    connection = socket.create_connection((join["address"], join["ports"]["clients"]))

if told == "fail":
    sys.exit("no such thing")
if told == "leave-process":
    nothing = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.Popen(["sleep", "600"], start_new_session=True, **nothing)
if told == "leave-directory":
    folder = pathlib.Path(os.environ["TMPDIR"], "ztasks-abc")
    folder.mkdir()
    (folder / "lock").touch()
if told == "warn":
    print("ResourceWarning: unclosed thing", file=sys.stderr)
signal.signal(signal.SIGTERM, signal.SIG_IGN if told == "stay" else lambda *_: sys.exit(0))
print("ready", " ".join(options), file=sys.stderr)
print("joined", file=sys.stderr, flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def fleets(tmp_path: Path) -> Iterator[Any]:
    """Make fleets of stand-ins; they are gone afterwards, whatever the test has made of them."""
    made: list[Fleet] = []

    def make(**how: Any) -> Fleet:
        script = support.write_script(tmp_path, STAND_IN, "stand_in.py")
        made.append(Fleet(tmp_path, command=(sys.executable, str(script)), **how))
        return made[-1]

    yield make
    for fleet in made:
        fleet.abandon()


def test_a_fleet_that_leaves_nothing(fleets: Any) -> None:
    before = support.descriptors()
    with fleets(journal=True, plain=True, lanes=4, lease="3s", options=["--log-format", "json"]) as fleet:
        head = fleet.start_head("--extra")
        foreman = fleet.start_foreman("a", workers=2, queues=["gpu", "default"], tags=["big", "old"])
        port = fleet.port
        assert head.text.splitlines()[0] == (
            f"ready --listen 127.0.0.1:{port} --lane-ports {port + 3}-{port + 6} --join-dir {fleet.join_dir} "
            f"--lease 3s --log-format json --journal {fleet.journal} --plain --extra"
        )
        assert foreman.text.splitlines()[0] == (
            f"ready --head @{fleet.join_dir}/worker.join -j 2 --name a -Q gpu,default --tag big --tag old"
        )
        assert (head.processes(), foreman.processes(), foreman.workers()) == ({head.pid}, {foreman.pid}, set())
    assert (head.process.returncode, foreman.process.returncode) == (0, 0)
    assert not fleet.tmp.exists()
    assert support.descriptors() == before


def test_a_head_starts_again_on_its_ports(fleets: Any) -> None:
    with fleets() as fleet:
        first = fleet.start_head()
        foreman = fleet.start_foreman("a")
        first.kill()
        assert first.process.returncode == -signal.SIGKILL
        assert fleet.start_head() is fleet.head
        assert fleet.head.pid != first.pid
        assert foreman.stop() == 0


@pytest.mark.parametrize(
    ("told", "trouble"),
    [
        ("leave-process", r"in vain for the end of \{\d+\} of a"),
        ("leave-directory", "left behind: ztasks-abc"),
        ("warn", "a has written 'ResourceWarning'"),
    ],
)
def test_what_is_left_is_noticed_and_removed(fleets: Any, told: str, trouble: str) -> None:
    fleet: Fleet = fleets()
    fleet.start_head()
    foreman = fleet.start_foreman("a", told)
    with pytest.raises(AssertionError, match=trouble):
        fleet.close()
    assert (foreman.processes(), fleet.tmp.exists()) == (set(), False)


def test_what_outlives_a_part_that_has_ended_by_itself_is_noticed(fleets: Any) -> None:
    fleet: Fleet = fleets()
    script = fleet.start_script("script", "import os; os.fork() or os.execlp('sleep', 'sleep', '600')")
    script.process.wait(support.DEADLINE)
    with pytest.raises(AssertionError, match=r"script has left behind process \d+"):
        fleet.close()
    support.wait_for(lambda: not script.processes(), "the end of what it has left behind")


def test_the_directory_of_a_killed_part_is_swept(fleets: Any) -> None:
    with fleets() as fleet:
        fleet.start_head()
        fleet.start_foreman("a", "leave-directory").kill()
        assert os.listdir(fleet.tmp) == ["ztasks-abc"]


def test_who_does_not_end_is_killed(fleets: Any) -> None:
    fleet: Fleet = fleets()
    head = fleet.start_head("stay")
    with pytest.raises(AssertionError, match=r"head has not ended within 0.2 s; --- head \(pid \d+\) runs(.|\n)*ready"):
        head.stop(0.2)
    fleet.abandon()
    assert not support.alive(head.pid)


def test_the_wait_for_words_ends_with_the_process(fleets: Any) -> None:
    fleet: Fleet = fleets()
    with pytest.raises(AssertionError, match=r"has ended with 1(.|\n)*no such thing(.|\n)*without a word of 'ready'"):
        fleet.start_head("fail")


def test_after_a_failure_all_is_killed_and_shown(fleets: Any, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with fleets() as fleet:
            parts.append(fleet.start_head("stay"))
            raise ZeroDivisionError

    parts: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert parts[0].process.returncode == -signal.SIGKILL
    assert "ready --listen" in capfd.readouterr().out


def test_the_ways_through_proxies(fleets: Any) -> None:
    """What the head advertises leads through its proxies; a foreman may have proxies of its own."""
    with fleets(proxied=True, lanes=2) as fleet:
        head = fleet.start_head()
        assert f"--advertise 127.0.0.1:{fleet.proxies.base}" in head.text
        own: ProxySet = fleet.proxy()
        assert own.address == f"127.0.1.{own.host.rpartition('.')[2]}:{fleet.proxies.base}"
        fleet.start_foreman("a")
        fleet.start_foreman("b", through=own)
        for proxies in (fleet.proxies, own):
            proxies.clients.wait_connected(1)
            assert proxies.connected == 1
        path = Path(fleet.join("worker", own)[1:])
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_text())["ports"]["control"] == fleet.proxies.base + 2


def test_a_script_knows_the_head(fleets: Any) -> None:
    with fleets() as fleet:
        fleet.start_head()
        code = "import os, sys; print(os.environ['ZTASKS_HEAD'], *sys.argv[1:])"
        script = fleet.start_script("client", code, "x")
        assert script.wait() == 0
        assert script.out.read_text() == f"@{fleet.join_dir}/client.join x\n"


def test_parts_on_hosts_of_their_own(fleets: Any) -> None:
    with hosts(2) as (one, other), fleets(host=one) as fleet:
        head = fleet.start_head()
        assert "--listen 192.0.2.1:7070" in head.text
        foreman = fleet.start_foreman("a", host=other)
        assert (one.pids(), other.pids()) == ({head.pid}, {foreman.pid})
