"""The head is killed, its journal is cut off or damaged, its disk is full: what was durable is there, or what is not is
told; and nothing counts as durable that is not.

Full disks are small file systems in a mount namespace of their own; where these cannot be made, a limit on the size of
files does the same to a process of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import journal_writer
import msgspec
import pytest
import support

from ztasks.errors import JournalError
from ztasks.io import journal_place
from ztasks.io.journal import SqliteJournal
from ztasks.io.journal_ops import Accepted, Begun, Charged, Defined, Ended, Noted, Recovered

HERE = Path(__file__).parent
PREAMBLE = f"""
import os, resource, signal, sys, time
sys.path.insert(0, {str(HERE)!r})
import journal_writer, surroundings
from journal_writer import Watched, operations
from ztasks.errors import JournalError
from ztasks.io.journal_ops import *
"""


def nothing(*_: object) -> None:
    return


class Holding(NamedTuple):
    """What is in a journal: all that a head would get from it."""

    recovered: Recovered
    outcomes: list[Any]


def opened(path: Path, **options: Any) -> SqliteJournal:
    calls = {"on_durable": nothing, "on_failed": nothing, "on_dropped": nothing, "wall": lambda: 0.0}
    return SqliteJournal(path, min_free=0, **calls, **options)


def holding(path: Path) -> Holding:
    """Read all, as a head that starts, and close it without writing anything more.

    Without times, sizes, and keys of what has ended: these are only shown, and have no checksum.
    """
    journal = opened(path)
    try:
        recovered = journal.load()
        found = [journal.outcome(kept.session, kept.first) for kept in recovered.kept]
        shown = [msgspec.structs.replace(kept, key=b"", size=0) for kept in recovered.kept]
        return Holding(
            recovered._replace(kept=shown), [msgspec.structs.replace(one, ended_at=0) for one in found if one]
        )
    finally:
        journal._connection.close()
        journal._reader.close()
        journal._place.close()


def check(path: Path, session: int, durable: int) -> None:
    """See that all is there that these operations have written; and that it can be written again."""
    journal = opened(path)
    recovered = journal.load()
    waiting = {one.accepted.first for one in recovered.waiting if one.accepted.session == session}
    kept = {kept.first for kept in recovered.kept if kept.session == session}
    accepted, ended = journal_writer.first(session, durable)
    assert accepted <= waiting | kept
    assert ended <= kept
    assert not waiting & kept
    assert recovered.damaged == []
    for number in sorted(ended)[-3:]:
        outcome = journal.outcome(session, number)
        assert outcome is not None
        assert outcome.header == b"outcome %d" % number
    assert journal.close(support.DEADLINE)
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.lock"]


# --- kills ---


@pytest.mark.parametrize("sync", ["full", "normal"])
def test_row_32_what_was_durable_survives_a_kill(tmp_path: Path, sync: str) -> None:
    """Three times over, while it writes as fast as it can."""
    folder = tmp_path / "journal"
    folder.mkdir()
    path = folder / "state.db"
    for session in (1, 2**64 - 1, 2):
        writer = subprocess.Popen(
            [sys.executable, str(HERE / "journal_writer.py"), str(path), str(session), sync],
            stdout=subprocess.PIPE,
            text=True,
            env=support.environment(),
        )
        assert writer.stdout is not None
        durable = 0
        for line in writer.stdout:
            durable = int(line)
            if durable > 3000 and writer.returncode is None:
                writer.kill()
                writer.wait()
        assert durable > 3000
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        check(path, session, durable)


# --- cut off ---

TRANSACTIONS = [
    [
        *(Defined(b"key", b"spec", b"callable"), Noted("epoch", b"7")),
        *(Accepted(1, number, 1, b"key", b"header", b"payload %d" % number) for number in (1, 2, 3)),
        *(Accepted(1, 4, 6, b"key", b"header", b"map"), Charged(1, 5, 1, 1, b"history"), Begun(1, 6)),
    ],
    [Ended(1, 1, 1, "done", b"outcome", b"one"), Accepted(1, 10, 1, b"key", b"header", b"more")],
    [Ended(1, 4, 2, "failed", b"outcome", b"map")],
    [Noted("epoch", b"8")],
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a journal of small pages, whose head was killed after these transactions."""
    folder = tmp_path_factory.mktemp("killed")
    script = f"""{PREAMBLE}
from ztasks.io import journal_schema
journal_schema.PAGE_BYTES = 512
sys.path.insert(0, {str(HERE)!r})
import test_journal_faults
watched = Watched({str(folder / "state.db")!r})
watched.journal.start()
for transaction in test_journal_faults.TRANSACTIONS:
    watched.append(*transaction)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = support.environment()
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), env["PYTHONPATH"]])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=40, check=False, env=env)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")
    return folder


class Copies:
    """Makes copies of a killed head's files, in memory where that is possible."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.data = (source / "state.db").read_bytes()
        self.log = (source / "state.db-wal").read_bytes()
        self.path = folder / "state.db"
        self._source = source

    def make(self, data: bytes, log: bytes) -> Path:
        for left in self.path.parent.iterdir():
            left.unlink()
        for path, content in ((self.path, data), (Path(f"{self.path}-wal"), log)):
            path.touch(0o600)
            path.write_bytes(content)
        return self.path

    def copies(self) -> list[Path]:
        return sorted(self.path.parent.glob("*.damaged-*"))


@pytest.fixture
def copies(killed: Path, tmp_path: Path) -> Iterator[Copies]:
    folder = Path("/dev/shm") / f"ztasks-test-{os.getpid()}" if os.access("/dev/shm", os.W_OK) else tmp_path / "copies"
    folder.mkdir()
    yield Copies(killed, folder)
    shutil.rmtree(folder)


def test_row_32_the_log_is_cut_at_every_byte(copies: Copies, killed: Path) -> None:
    """What is left are the transactions that are whole; if there was a part of another, that is told."""
    log = journal_place.look_at_log(str(killed / "state.db-wal"))
    ends = [32 + number * log.frame for number in log.commits]
    assert ends[-1] == log.size < len(copies.log), "behind it, there are frames of an earlier log"
    states = {end: holding(copies.make(copies.data, copies.log[:end])) for end in ends[-4:]}
    assert [len(state.recovered.waiting) for state in states.values()] == [4, 4, 4, 4]
    assert [len(state.outcomes) for state in states.values()] == [0, 1, 2, 2]
    assert [state.recovered.notes["epoch"] for state in states.values()] == [b"7", b"7", b"7", b"8"]
    assert all("dropped" not in state.recovered.told for state in states.values())
    around = {
        at + near for at in range(ends[-4], ends[-2], log.frame) for near in (0, 1, 15, 16, 24, 300, log.frame - 1)
    }
    for at in [*sorted(around), *range(ends[-2], ends[-1] + 1)]:
        whole = max(end for end in ends if end <= at)
        found = holding(copies.make(copies.data, copies.log[:at]))
        assert found.recovered[:-1] == states[whole].recovered[:-1], at
        assert found.outcomes == states[whole].outcomes, at
        if at == whole:
            assert found.recovered.told == states[whole].recovered.told
        else:
            assert f"an unfinished transaction ({at - whole} bytes)" in found.recovered.told, at
        assert copies.copies() == []


@pytest.mark.parametrize("left", [1, 17, 31])
def test_row_32_nothing_is_left_of_the_log(copies: Copies, left: int) -> None:
    """Only what had come from it into the database is there; that is told, and a copy is kept of what there was."""
    found = holding(copies.make(copies.data, copies.log[:left]))
    assert found.recovered.waiting == []
    (copy,) = copies.copies()
    assert f"the log is damaged: its beginning is unreadable, {left} bytes were dropped" in found.recovered.told
    assert str(copy) in found.recovered.told
    assert copy.read_bytes() == copies.log[:left]
    assert copy.stat().st_mode & 0o777 == 0o600


# --- damaged ---


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def test_row_32_bits_of_the_log_are_flipped(copies: Copies, killed: Path) -> None:
    """What comes before is there; that transactions are lost is told, and a copy is kept."""
    log = journal_place.look_at_log(str(killed / "state.db-wal"))
    ends = [32 + number * log.frame for number in log.commits]
    states = [holding(copies.make(copies.data, copies.log[:end])).recovered for end in (32, *ends)]
    salt = range(ends[-1] - log.frame + 8, ends[-1] - log.frame + 16)
    for at in [*range(32), *range(32, log.size, 59), ends[-2] + 6]:
        if at in salt:
            continue  # then the last frame looks as if it were of an earlier log
        data = flipped(copies.log, at, at % 8)
        found = holding(copies.make(copies.data, data)).recovered
        whole = max((number for number, end in enumerate((32, *ends)) if end <= at), default=0)
        assert found[:-1] == states[whole][:-1], at
        kept = copies.copies()
        if not kept:  # the last frame does not say any more that it ends a transaction
            assert at in range(ends[-1] - log.frame + 4, ends[-1] - log.frame + 8)
            assert "an unfinished transaction" in found.told, at
            continue
        assert "the log is damaged" in found.told, at
        assert [copy.read_bytes() for copy in kept] == [data]


def test_row_32_bits_of_the_database_are_flipped(copies: Copies) -> None:
    """It is refused, or what is damaged is named, or it makes no difference; and it is never changed by refusing it."""
    before = holding(copies.make(copies.data, copies.log))
    journal = opened(copies.path)
    assert journal.close(support.DEADLINE)
    data = copies.path.read_bytes()
    refused = named = 0
    for at in range(0, len(data), 37):
        bad = flipped(data, at, at % 8)
        try:
            found = holding(copies.make(bad, b""))
        except JournalError as error:
            told = str(error)
        else:
            told = ""
        if told:
            refused += 1
            assert str(copies.path) in told
            assert copies.path.read_bytes() == bad
            continue
        if found.recovered.damaged:
            named += 1
            assert f"{sum(one.count for one in found.recovered.damaged)} jobs are damaged" in found.recovered.told
            lost = {(one.session, one.first) for one in found.recovered.damaged}
            missing = [one for one in before.recovered.waiting if one not in found.recovered.waiting]
            assert lost == {(one.session, one.first) for slice_ in missing for one in slice_.ranges}, at
        else:
            assert found.recovered == before.recovered, at
            assert found.outcomes == before.outcomes, at
    assert refused > 50
    assert named > 0


def test_row_32_what_is_damaged_can_be_ended(copies: Copies) -> None:
    """Then it is not named any more."""
    copies.make(copies.data, copies.log)
    journal = opened(copies.path)
    assert journal.close(support.DEADLINE)
    data = copies.path.read_bytes()
    copies.make(data.replace(b"payload 2", b"PAYLOAD 2"), b"")
    journal = opened(copies.path)
    (bad,) = journal.load().damaged
    assert (bad.session, bad.first, bad.count) == (1, 2, 1)
    with pytest.raises(JournalError, match="job 0000000000000001-2 is not what was written"):
        journal.work(1, 2)
    journal.append(Ended(1, 2, 1, "failed", b"damaged"))
    assert journal.close(support.DEADLINE)
    assert holding(copies.path).recovered.damaged == []


def test_row_32_an_outcome_is_damaged(copies: Copies) -> None:
    copies.make(copies.data, copies.log)
    journal = opened(copies.path)
    assert journal.close(support.DEADLINE)
    copies.make(copies.path.read_bytes().replace(b"outcomeone", b"outcomeOne"), b"")
    journal = opened(copies.path)
    with pytest.raises(JournalError, match="the outcome of job 0000000000000001-1 is not what was written to it"):
        journal.outcome(1, 1)
    assert journal.outcome(1, 4) is not None
    assert journal.close(support.DEADLINE)


# --- full disks ---

FILLS = """
    def grows_until_it_fails(watched, stream):
        while not watched.failed:
            for _ in range(20):
                watched.appended = watched.journal.append(next(stream))
            watched.wait(lambda: watched.durable >= watched.appended or watched.failed)
        return watched.durable

    def still_fails(watched, durable):
        for attempt in range(2):  # it goes on trying
            seen = watched.journal._store.connection.total_changes
            end = time.monotonic() + 20
            while watched.journal._store.connection.total_changes == seen and time.monotonic() < end:
                time.sleep(0.01)
        assert watched.durable == durable, (watched.durable, durable)
        assert len(watched.failed) == 1, watched.failed
        assert "cannot be written" in watched.journal.refusing, watched.journal.refusing
"""

LIMITED = """
    path = os.environ["JOURNAL"]
    watched = Watched(path)
    watched.journal.start()
    stream = operations(1, 2000)
    watched.append(*(next(stream) for _ in range(100)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path + "-wal").st_size + 200_000, -1))
    durable = grows_until_it_fails(watched, stream)
    still_fails(watched, durable)
"""


def test_row_32_files_cannot_grow(tmp_path: Path) -> None:
    """Nothing counts as durable until it is; then all does, in its order."""
    text = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    watched.append(*(next(stream) for _ in range(100)))
    assert watched.durable == watched.appended and watched.journal.refusing is None
    assert watched.journal.close(20)
    print(watched.durable)
    """
    path = private_folder(tmp_path) / "state.db"
    done = support.check_script(tmp_path, script(FILLS, LIMITED, text), env=support.environment(JOURNAL=str(path)))
    check(path, 1, int(done))


def test_row_32_a_kill_while_files_cannot_grow(tmp_path: Path) -> None:
    text = """
    print(watched.durable, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    path = private_folder(tmp_path) / "state.db"
    done = support.run_script(tmp_path, script(FILLS, LIMITED, text), env=support.environment(JOURNAL=str(path)))
    assert (done.code, done.err) == (-signal.SIGKILL, "")
    recovered = holding(path).recovered
    accepted, ended = journal_writer.first(1, int(done.out))
    assert {one.accepted.first for one in recovered.waiting} == accepted - ended
    assert {kept.first for kept in recovered.kept} == ended
    check(path, 1, int(done.out))


def test_row_32_closing_while_files_cannot_grow(tmp_path: Path) -> None:
    """It gives up in time, and says so."""
    text = """
    begin = time.monotonic()
    assert not watched.journal.close(0.5)
    assert time.monotonic() - begin < 5
    print(watched.durable)
    """
    path = private_folder(tmp_path) / "state.db"
    done = support.check_script(tmp_path, script(FILLS, LIMITED, text), env=support.environment(JOURNAL=str(path)))
    recovered = holding(path).recovered
    accepted, ended = journal_writer.first(1, int(done))
    assert {one.accepted.first for one in recovered.waiting} == accepted - ended


def test_row_32_a_full_disk(tmp_path: Path) -> None:
    """New work is refused before it is full; full, nothing counts as durable; with space again, all goes on."""
    text = """
    folder = os.environ["FULL"]
    path = folder + "/state.db"
    watched = Watched(path, min_free=2_000_000)
    watched.journal.start()
    stream = operations(1, 2000)
    assert watched.journal.refusing is None
    while watched.journal.refusing is None:
        watched.append(*(next(stream) for _ in range(20)))
    assert "bytes left" in watched.journal.refusing and not watched.failed
    assert watched.journal.free_bytes() > 1_000_000
    watched.append(*(next(stream) for _ in range(20)))  # what is under way goes on
    filling = surroundings.fill(folder)
    durable = grows_until_it_fails(watched, stream)
    still_fails(watched, durable)
    assert watched.journal.outcome(1, 1).header == b"outcome 1"
    os.unlink(filling)
    watched.wait(lambda: watched.durable == watched.appended)
    assert watched.journal.close(20)

    filling = surroundings.fill(folder)  # a head that starts on a full disk: it says so, or works; and changes nothing
    try:
        second = Watched(path)
        second.journal.close(1)
    except JournalError as error:
        assert "cannot be used" in str(error), error
    os.unlink(filling)
    third = Watched(path)
    recovered = third.journal.load()
    accepted, ended = journal_writer.first(1, watched.durable)
    assert {one.accepted.first for one in recovered.waiting} == accepted - ended
    assert {kept.first for kept in recovered.kept} == ended
    assert third.journal.close(20)
    """
    full = tmp_path / "full"
    full.mkdir()
    with_small_disk(tmp_path, full, script(FILLS, text))


def private_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder


def script(*texts: str) -> str:
    return PREAMBLE + "\n".join(line.removeprefix("    ") for text in texts for line in text.splitlines())


def with_small_disk(tmp_path: Path, place: Path, text: str) -> None:
    """Run a script in a mount namespace of its own, with a small file system."""
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "x", str(place)]
    probe = subprocess.run([*namespace, *mount], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no file systems can be mounted here: {probe.stderr.strip()}")
    path = support.write_script(tmp_path, text)
    done = subprocess.run(
        [*namespace, "sh", "-ec", f'{" ".join(mount)}\nexec "$@"', "sh", sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=support.environment(FULL=str(place)),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
