"""Keys, join files and the allow-list: private from their first moment, changed as a whole or not at all, and never
shown. And `ztasks keys`."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from rich.pretty import pretty_repr
from support import DEADLINE, environment

from ztasks.cli.keys import command
from ztasks.errors import BadJoinFile, BadKeyStore, NotPrivate, ZtasksError
from ztasks.io import keys as keys_module
from ztasks.io import private
from ztasks.io.gatekeeper import Allowed, z85
from ztasks.io.join import JoinFile, Ports, parse_address, resolve
from ztasks.io.keys import KeyStore
from ztasks.io.net import make_keypair

PORTS = Ports.from_first(7070)
SERVER, OWN = make_keypair(), make_keypair()
JOIN = JoinFile(
    role="worker",
    name="gpu-7",
    address="head.example",
    ports=PORTS,
    curve=True,
    server_key=SERVER.public_key,
    public_key=OWN.public_key,
    secret_key=OWN.secret_key,
)


@pytest.fixture(autouse=True)
def _no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZTASKS_HEAD", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    made = KeyStore.create(str(tmp_path / "keys"))
    made.announce("head.example", PORTS)
    return made


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def check_no_secret(text: str, *more: str) -> None:
    assert not [key for key in (OWN.secret_key, OWN.public_key, SERVER.public_key, *more) if key in text]


# --- join files ---


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_join_file_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "worker.join"
    before = os.umask(umask)
    try:
        JOIN.write(str(path))
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert JoinFile.read(str(path)) == JOIN
    assert os.listdir(tmp_path) == ["worker.join"]


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "a file system without"])
def test_a_join_file_replaces_nothing(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "worker.join"
    JOIN.write(str(path))
    other = msgspec.structs.replace(JOIN, name="other")
    with pytest.raises(FileExistsError):
        other.write(str(path))
    assert JoinFile.read(str(path)) == JOIN
    dangling = tmp_path / "dangling.join"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        JOIN.write(str(dangling))
    other.write(str(path), replacing=True)
    assert JoinFile.read(str(path)) == other
    assert sorted(os.listdir(tmp_path)) == ["dangling.join", "worker.join"]


def refuse(*args: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_join_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for replacing in (False, True):
        with pytest.raises(OSError, match="No space left"):
            JOIN.write(str(tmp_path / "worker.join"), replacing=replacing)
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_keeps_no_modes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fchmod", lambda descriptor, wanted: os.chmod(f"/proc/self/fd/{descriptor}", 0o777))
    with pytest.raises(NotPrivate, match="does not keep the modes of files"):
        JOIN.write(str(tmp_path / "worker.join"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("wrong", [0o604, 0o640, 0o610, 0o602, 0o666, 0o777])
def test_a_file_that_others_can_use_is_refused_with_the_cure(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "my worker.join"
    JOIN.write(str(path))
    path.chmod(wrong)
    with pytest.raises(NotPrivate, match=rf"mode {wrong:04o}") as refused:
        JoinFile.read(str(path))
    _, _, cure = str(refused.value).partition("Run: ")
    assert cure == f"chmod 600 '{path}'"
    subprocess.run(cure, shell=True, check=True)
    assert JoinFile.read(str(path)) == JOIN


def test_a_symlink_is_refused(tmp_path: Path) -> None:
    path, link = tmp_path / "worker.join", tmp_path / "link.join"
    JOIN.write(str(path))
    link.symlink_to(path)
    with pytest.raises(NotPrivate, match="is a symlink") as refused:
        JoinFile.read(str(link))
    assert str(path) in str(refused.value)


def test_another_users_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worker.join"
    JOIN.write(str(path))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(NotPrivate, match=rf"belongs to another user \(uid {os.getuid()}\)"):
        JoinFile.read(str(path))


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)  # reading it would wait for ever
    with pytest.raises(NotPrivate, match="is no file"):
        JoinFile.read(str(tmp_path / "pipe"))
    with pytest.raises(NotPrivate, match="is no file"):
        JoinFile.read(str(tmp_path))
    with pytest.raises(BadJoinFile, match=r"there is no join file .*`ztasks head` writes worker\.join"):
        JoinFile.read(str(tmp_path / "missing"))
    huge = tmp_path / "huge"
    huge.touch(0o600)
    os.truncate(huge, 2**40)
    with pytest.raises(BadJoinFile, match="cannot be read"):
        JoinFile.read(str(huge))


def fields(**changed: Any) -> str:
    return json.dumps({**json.loads(JOIN.encode()), **changed})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in json.loads(JOIN.encode()).items() if key != name})


WRONG = {
    "": "it is no JSON",
    "hello": "it is no JSON",
    JOIN.encode().decode()[:-20]: "it is no JSON",
    "[" * 5000: "it is no JSON|fields are not those of one",
    "{}": "fields are not those of one|field version",
    "[1, 2]": "fields are not those of one",
    without("name"): "its field name is missing or wrong",
    without("ports"): "its field ports is missing or wrong",
    fields(role=OWN.secret_key): "its field role is missing or wrong",
    fields(ports={"clients": OWN.secret_key, "sink": 1, "control": 2}): "its field ports.clients is missing or wrong",
    fields(**{OWN.secret_key: 1}): "its fields are not those of one",
    fields(secret_key=OWN.secret_key[:-1]): "secret_key is no key",
    fields(public_key=OWN.secret_key + "x"): "public_key is no key",
    fields(server_key=""): "server_key is no key",
    fields(name=f"../{OWN.secret_key}"): "its name is none",
    fields(address=f"a b {OWN.secret_key}"): "its address is no name of a host",
    fields(address="head;rm -rf"): "its address is no name of a host",
    fields(ports={"clients": 0, "sink": 1, "control": 2}): "a port is not from 1 to 65535",
    fields(ports={"clients": 1, "sink": 70000, "control": 2}): "a port is not from 1 to 65535",
    fields(version=2): "has version 2 of join files, and this ztasks reads version 1",
    fields(version=2, more="x"): "Install the head's version of ztasks here",
    fields(curve=False): r"the head at head.example:7070 is not on this host",
    " " * 100_000: "too large",
}


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_no_join_file_is_told_without_repeating_it(tmp_path: Path, number: int) -> None:
    text, why = list(WRONG.items())[number]
    path = tmp_path / "worker.join"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(BadJoinFile, match=why) as wrong:
        JoinFile.read(str(path))
    assert "Nothing was started." in str(wrong.value)
    check_no_secret(str(wrong.value))
    assert wrong.value.__cause__ is None
    assert wrong.value.__suppress_context__ or wrong.value.__context__ is None


def test_nothing_shows_a_key() -> None:
    shown = [f"{each!r} {each!s} {each} {pretty_repr(each)} {[each]} { {'it': each} }" for each in (JOIN, OWN, SERVER)]
    check_no_secret(" ".join(shown), SERVER.secret_key)
    assert repr(JOIN) == "<join file 'gpu-7': worker at head.example:7070>"


def test_z85_is_zeromqs() -> None:
    import zmq.utils.z85

    for key in (bytes(32), b"\xff" * 32, *(os.urandom(32) for _ in range(50))):
        assert z85(key) == zmq.utils.z85.encode(key).decode()


# --- what the user gives as the head ---


def test_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    JOIN.write(str(tmp_path / "worker.join"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in ("@worker.join", f"@{tmp_path}/worker.join", "@~/worker.join"):
        assert resolve(text, "worker") == JOIN
        monkeypatch.setenv("ZTASKS_HEAD", text)
        assert resolve(None, "worker") == JOIN


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(JOIN.encode())))
    assert resolve("-", "worker") == JOIN
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 10**6)))
    with pytest.raises(BadJoinFile, match="what came from standard input is too large"):
        resolve("-", "worker")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BadJoinFile, match="standard input is closed"):
        resolve("-", "worker")


def test_the_environment_may_hold_the_text_and_arguments_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    text = JOIN.encode().decode()
    monkeypatch.setenv("ZTASKS_HEAD", f"  {text}\n")
    assert resolve(None, "worker") == JOIN
    assert resolve(text, "worker", private=True) == JOIN
    with pytest.raises(
        BadJoinFile, match="given as an argument, where every user of this host can read its key"
    ) as wrong:
        resolve(text, "worker")
    check_no_secret(str(wrong.value))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7070", ("127.0.0.1", 7070)),
        ("tcp://127.0.0.1:7070", ("127.0.0.1", 7070)),
        ("localhost:1", ("127.0.0.1", 1)),
        ("[::1]:7070", ("::1", 7070)),
        ("tcp://[::1]:65532", ("::1", 65532)),
        ("127.9.9.9:80", ("127.9.9.9", 80)),
    ],
)
def test_an_address_on_this_host(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    found = resolve(text, "client")
    assert (found.address, found.ports.clients, found.curve, found.role) == (*address, False, "client")
    assert (found.ports.sink, found.ports.control) == (address[1] + 1, address[1] + 2)
    assert JoinFile.parse(found.encode(), "it") == found


@pytest.mark.parametrize(
    "text", ["head:7070", "10.0.0.1:7070", "tcp://[fe80::1]:7070", "[2001:db8::1]:7070", "0.0.0.0:1"]
)
def test_an_address_on_another_host_needs_keys(text: str) -> None:
    with pytest.raises(BadJoinFile, match=r"is not on this host.*Copy client\.join from the head's --join-dir"):
        resolve(text, "client")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "127.0.0.1",
            "127.0.0.1:",
            ":7070",
            "127.0.0.1:0",
            "127.0.0.1:65533",
            "127.0.0.1:x",
            "::1:7070",
            "http://h:1",
        ),
        *(
            "127.0.0.1:7070/x",
            "a b:1",
            "*:7070",
            OWN.secret_key,
            f"{OWN.secret_key}:7070",
            f"x{JOIN.encode().decode()}",
        ),
    ],
)
def test_what_is_no_head_is_told_without_repeating_it(text: str) -> None:
    with pytest.raises(BadJoinFile, match=r"is neither @FILE, nor - for standard input, nor HOST:PORT") as wrong:
        resolve(text, "client")
    check_no_secret(str(wrong.value))


def test_no_head_at_all() -> None:
    with pytest.raises(BadJoinFile, match=r"no head is given\..*--head @worker\.join.*ZTASKS_HEAD=@worker\.join"):
        resolve(None, "worker")


def test_a_forgotten_at_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    JOIN.write("worker.join")
    with pytest.raises(BadJoinFile, match=r"Give @worker\.join\."):
        resolve("worker.join", "worker")


def test_a_join_file_of_another_role(tmp_path: Path) -> None:
    JOIN.write(str(tmp_path / "x.join"))
    with pytest.raises(BadJoinFile, match=r"for a worker, which is for `ztasks worker`.*Give .*@client\.join"):
        resolve(f"@{tmp_path}/x.join", "client")


# --- the key store ---


def test_a_new_store_has_a_key_for_each_role(tmp_path: Path) -> None:
    store = KeyStore.create(str(tmp_path / "keys"))
    written = store.announce("10.0.0.1", PORTS)
    assert [os.path.basename(path) for path in written] == ["worker.join", "client.join"]
    assert mode(store.directory) == 0o700
    assert {name: mode(store.path(name)) for name in os.listdir(store.directory)} == dict.fromkeys(
        ("head.key", "head.json", "allowed.json", "worker.join", "client.join", "lock"), 0o600
    )
    worker, client = map(JoinFile.read, written)
    assert (worker.role, client.role, worker.address, worker.ports) == ("worker", "client", "10.0.0.1", PORTS)
    assert store.allowed() == {
        worker.public_key: Allowed("worker", "worker"),
        client.public_key: Allowed("client", "client"),
    }
    assert worker.server_key == client.server_key == store.keypair().public_key
    assert len({worker.public_key, client.public_key, worker.server_key, worker.secret_key, client.secret_key}) == 5
    elsewhere = "".join(Path(store.path(name)).read_text() for name in ("head.key", "head.json", "allowed.json"))
    assert not [join for join in (worker, client) if join.secret_key in elsewhere]


def contents(store: KeyStore) -> dict[str, bytes]:
    return {name: Path(store.path(name)).read_bytes() for name in os.listdir(store.directory)}


def test_a_head_that_is_started_again_keeps_its_keys(store: KeyStore) -> None:
    before = contents(store)
    again = KeyStore.create(store.directory)
    assert again.announce("head.example", PORTS) == []
    assert contents(store) == before


def test_join_files_follow_the_heads_address(store: KeyStore) -> None:
    store.add("gone", "worker")
    os.rename(store.path("gone.join"), store.path("moved"))
    before = JoinFile.read(store.path("worker.join"))
    written = store.announce("10.9.9.9", Ports(1, 2, 3))
    assert sorted(map(os.path.basename, written)) == ["client.join", "worker.join"]
    after = JoinFile.read(store.path("worker.join"))
    assert after == msgspec.structs.replace(before, address="10.9.9.9", ports=Ports(1, 2, 3))
    assert JoinFile.read(store.add("new", "client")).address == "10.9.9.9"


def test_a_new_key_of_the_head_is_written_into_the_join_files(store: KeyStore) -> None:
    before = JoinFile.read(store.path("worker.join"))
    os.unlink(store.path("head.key"))
    again = KeyStore.create(store.directory)
    assert len(again.announce("head.example", PORTS)) == 2
    after = JoinFile.read(store.path("worker.join"))
    assert after == msgspec.structs.replace(before, server_key=again.keypair().public_key)
    assert after.server_key != before.server_key


def test_a_key_that_was_revoked_is_not_made_again(store: KeyStore) -> None:
    """Whoever wants a key for each host revokes the common one."""
    store.revoke("worker")
    assert not os.path.exists(store.path("worker.join"))
    KeyStore.create(store.directory).announce("head.example", PORTS)
    assert not os.path.exists(store.path("worker.join"))
    assert [entry.name for entry in store.entries()] == ["client"]


def test_add_and_revoke(store: KeyStore) -> None:
    path = store.add("gpu-7", "worker")
    join = JoinFile.read(path)
    assert os.path.basename(path) == "gpu-7.join"
    assert (join.name, join.role, join.address) == ("gpu-7", "worker", "head.example")
    assert store.allowed()[join.public_key] == Allowed("gpu-7", "worker")
    before = contents(store)
    with pytest.raises(BadKeyStore, match=r"there is a key 'gpu-7' already.*ztasks keys revoke gpu-7"):
        store.add("gpu-7", "client")
    assert contents(store) == before
    store.revoke("gpu-7")
    assert join.public_key not in store.allowed()
    assert not os.path.exists(path)
    with pytest.raises(BadKeyStore, match=r"there is no key 'gpu-7'.*allowed: client, worker"):
        store.revoke("gpu-7")
    assert JoinFile.read(store.add("gpu-7", "worker")).public_key != join.public_key


def test_revoking_works_whatever_became_of_the_join_file(store: KeyStore) -> None:
    for name in ("lax", "damaged", "replaced"):
        store.add(name, "worker")
    os.chmod(store.path("lax.join"), 0o644)
    Path(store.path("damaged.join")).write_text("{")
    os.replace(store.path("client.join"), store.path("replaced.join"))
    for name in ("lax", "damaged", "replaced"):
        store.revoke(name)
    assert [entry.name for entry in store.entries()] == ["worker", "client"]
    assert JoinFile.read(store.path("replaced.join")).name == "client"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "x\n", "ü", "x" * 64, "a\0b", "a;b"])
def test_names_that_are_none(store: KeyStore, name: str) -> None:
    before = contents(store)
    with pytest.raises(BadKeyStore, match="a key's name has at most 63 letters"):
        store.add(name, "worker")
    assert contents(store) == before


def test_a_file_of_somebody_elses_is_not_replaced(store: KeyStore) -> None:
    JOIN.write(store.path("gpu-7.join"))
    Path(store.path("notes.join")).write_text("mine")
    os.chmod(store.path("notes.join"), 0o600)
    before = contents(store)
    with pytest.raises(BadKeyStore, match="another head's"):
        store.add("gpu-7", "worker")
    with pytest.raises(BadKeyStore, match="damaged, or no join file"):
        store.add("notes", "worker")
    assert contents(store) == before


def test_an_add_that_was_killed_can_be_repeated(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its two files: then the first is there, and is worth nothing."""

    def killed(self: KeyStore, entries: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "_write_list", killed)
        with pytest.raises(KeyboardInterrupt):
            store.add("gpu-7", "worker")
    left = JoinFile.read(store.path("gpu-7.join"))
    assert left.public_key not in store.allowed()
    join = JoinFile.read(store.add("gpu-7", "worker"))
    assert store.allowed()[join.public_key].name == "gpu-7"
    assert join.public_key != left.public_key


def test_a_full_disk_changes_nothing(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = contents(store)
    with monkeypatch.context() as patch:
        patch.setattr(private.os, "fsync", full)
        for change in (
            lambda: store.add("x", "worker"),
            lambda: store.revoke("client"),
            lambda: store.announce("h", PORTS),
        ):
            with pytest.raises(BadKeyStore, match=r"No space left on device\. What it held before is still there"):
                change()
    assert contents(store) == before


def test_concurrent_changes_lose_nothing_and_readers_see_whole_lists(store: KeyStore) -> None:
    """Threads of one process, and several processes; meanwhile a head reads."""
    threads = [threading.Thread(target=store.add, args=(f"thread-{n}", "worker")) for n in range(5)]
    code = "import sys; from ztasks.io.keys import KeyStore; s = KeyStore(sys.argv[1]); "
    code += "[s.add(f'process-{sys.argv[2]}-{n}', 'client') for n in range(5)]; s.revoke(f'process-{sys.argv[2]}-0')"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, store.directory, str(n)], env=environment()) for n in range(3)
    ]
    reader = KeyStore(store.directory)
    seen = set()
    for thread in threads:
        thread.start()
    while any(process.poll() is None for process in processes) or any(thread.is_alive() for thread in threads):
        seen.add(len(reader.allowed()))
    for thread in threads:
        thread.join()
    assert [process.wait(DEADLINE) for process in processes] == [0, 0, 0]
    expected = {"worker", "client", *(f"thread-{n}" for n in range(5))}
    expected |= {f"process-{p}-{n}" for p in range(3) for n in range(1, 5)}
    assert {allowed.name for allowed in reader.allowed().values()} == expected
    assert len(seen) > 2
    for name in expected:
        join = JoinFile.read(store.path(f"{name}.join"))
        assert reader.allowed()[join.public_key] == Allowed(name, join.role)
    leftover = set(os.listdir(store.directory)) - {f"{name}.join" for name in expected}
    assert leftover == {"head.key", "head.json", "allowed.json", "lock"}


def test_the_allow_list_is_read_again_when_it_has_changed_and_only_then(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = KeyStore(store.directory)
    before = head.allowed()
    assert not head.changed()
    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "read_private", refuse)
        assert head.allowed() is before
    store.add("x", "worker")
    assert head.changed()
    assert not head.changed()
    assert {allowed.name for allowed in head.allowed().values()} == {"worker", "client", "x"}
    os.unlink(store.path("allowed.json"))
    assert head.changed()
    with pytest.raises(BadKeyStore, match=r"there is no allowed\.json"):
        head.allowed()


def lax_directory(store: KeyStore) -> None:
    os.chmod(store.directory, 0o750)


def lax_file(name: str) -> Callable[[KeyStore], None]:
    return lambda store: os.chmod(store.path(name), 0o640)


def linked(name: str) -> Callable[[KeyStore], None]:
    def link(store: KeyStore) -> None:
        os.rename(store.path(name), store.path("elsewhere"))
        os.symlink(store.path("elsewhere"), store.path(name))

    return link


@pytest.mark.parametrize(
    ("spoil", "cure"),
    [
        (lax_directory, "chmod 700"),
        (lax_file("head.key"), "chmod 600"),
        (lax_file("allowed.json"), "chmod 600"),
        (lax_file("worker.join"), "chmod 600"),
        (linked("head.key"), "is a symlink"),
        (linked("allowed.json"), "is a symlink"),
        (linked("worker.join"), "is a symlink"),
    ],
)
def test_a_store_that_others_can_use_is_refused(store: KeyStore, spoil: Callable[[KeyStore], None], cure: str) -> None:
    spoil(store)
    with pytest.raises(NotPrivate, match=cure):
        KeyStore.create(store.directory).announce("head.example", PORTS)


@pytest.mark.parametrize("name", ["head.key", "allowed.json", "head.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": 2, "keys": []}'])
def test_a_damaged_store_is_told(store: KeyStore, name: str, content: str) -> None:
    Path(store.path(name)).write_text(content)
    with pytest.raises(BadKeyStore, match=rf"{name} is damaged\. Nothing was changed"):
        store.add("x", "worker")


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadKeyStore, match="start `ztasks head` once"):
        KeyStore(str(tmp_path / "missing"))
    with pytest.raises(BadKeyStore, match="cannot be made"):
        KeyStore.create(str(tmp_path / "missing" / "deep"))
    (tmp_path / "file").touch(0o600)
    with pytest.raises(NotPrivate, match="is no directory"):
        KeyStore.create(str(tmp_path / "file"))
    new = KeyStore.create(str(tmp_path / "new"))
    with pytest.raises(BadKeyStore, match=r"there is no allowed\.json .* Start `ztasks head` once"):
        new.add("x", "worker")


def test_a_lock_that_is_held_for_ever_is_told(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "LOCK_SECONDS", 0.1)
    with open(store.path("lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadKeyStore, match="another process has been changing"):
            store.add("x", "worker")
    store.add("x", "worker")


# --- the command ---


def run(store: KeyStore, *arguments: str, code: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(command, arguments, env={"ZTASKS_JOIN_DIR": store.directory}, standalone_mode=False)
    if code:
        assert isinstance(done.exception, Exception), done.output
        assert getattr(done.exception, "exit_code", None) == code
        return "", str(done.exception)
    assert done.exception is None, done.exception
    assert done.return_value in (0, None)
    return done.stdout, done.stderr


def test_the_list(store: KeyStore) -> None:
    store.add("gpu-7", "worker")
    out, err = run(store, "list")
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[:2] for row in rows] == [["client", "client"], ["gpu-7", "worker"], ["worker", "worker"]]
    assert {row[3] for row in rows} == set(store.allowed())
    assert err == ""
    document = json.loads(run(store, "list", "--json")[0])
    assert [[key[name] for name in ("name", "role", "added", "public_key")] for key in document["keys"]] == rows


def test_the_list_on_a_terminal(store: KeyStore) -> None:
    code = (
        "import sys; from ztasks.cli.keys import command; sys.exit(command.main(sys.argv[1:], standalone_mode=False))"
    )
    ours, its = pty.openpty()
    try:
        arguments = [sys.executable, "-c", code, "list", "--join-dir", store.directory]
        subprocess.run(arguments, stdout=its, env=environment(), timeout=DEADLINE, check=True)
        lines = os.read(ours, 65536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(its)
    assert lines[0].split() == ["NAME", "ROLE", "ADDED", "PUBLIC", "KEY"]
    assert [line.split()[0] for line in lines[1:]] == ["client", "worker"]
    assert (
        len({line.index(key) for line, key in zip(lines[1:], (each.split()[-1] for each in lines[1:]), strict=True)})
        == 1
    )


def test_adding_and_revoking(store: KeyStore) -> None:
    out, err = run(store, "add", "gpu-7", "--role", "worker")
    join = JoinFile.read(out.strip())
    assert "ztasks worker --head @gpu-7.join" in err
    assert join.secret_key not in out + err
    assert join.public_key in store.allowed()
    out, err = run(store, "revoke", "gpu-7")
    assert (out, err) == ("", "revoked gpu-7; its join file is worth nothing now\n")
    assert join.public_key not in store.allowed()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "client", "--role", "client"), "there is a key 'client' already"),
        (("add", "../x", "--role", "client"), "a key's name has"),
        (("add", "x"), "Missing parameter: role"),
        (("add", "x", "--role", "head"), "'head' is not one of"),
        (("revoke", "x"), "there is no key 'x'"),
        (("list", "--join-dir", "/nonexistent"), "start `ztasks head` once"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(
    store: KeyStore, arguments: tuple[str, ...], told: str
) -> None:
    before = contents(store)
    _, message = run(store, *arguments, code=2)
    assert told in message
    assert contents(store) == before


def test_a_reader_that_goes_away_is_no_failure(store: KeyStore) -> None:
    code = (
        "import sys; from ztasks.cli.keys import command; sys.exit(command.main(sys.argv[1:], standalone_mode=False))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    try:
        arguments = [sys.executable, "-c", code, "list", "--join-dir", store.directory]
        how: dict[str, Any] = {"env": environment(), "timeout": DEADLINE, "check": False}
        done = subprocess.run(arguments, stdout=writing, stderr=subprocess.PIPE, **how)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_every_error_is_of_ztasks() -> None:
    assert all(issubclass(kind, ZtasksError) for kind in (BadJoinFile, BadKeyStore, NotPrivate))
