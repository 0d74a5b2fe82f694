"""The keys of a head: its own pair, the allow-list, and the join files that it hands out.

What it must hold: the directory and all in it are this user's alone; a key is in the allow-list, or it is worth
nothing; a change is there as a whole or not at all, also when several processes make one at the same time; and the
secret keys of workers and clients are in their join files only, which may be moved away.

    head.key       the head's key pair
    head.json      where the head is reached: what `ztasks keys add` writes into new join files
    allowed.json   the allow-list: name, role, public key and date of each key
    NAME.join      join files; worker.join and client.join are made with the directory
    lock           held by whoever changes something
    head.lock      held by the head that uses it
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from ztasks.errors import BadJoinFile, BadKeyStore, NotPrivate
from ztasks.io.gatekeeper import Allowed
from ztasks.io.join import JoinFile, KeyPair, Ports, Role, is_key, is_name
from ztasks.io.net import make_keypair
from ztasks.io.private import check_directory, make_directory, read_private, replace, write_new

VERSION: Final = 1

FIRST: Final[tuple[Role, ...]] = ("worker", "client")
"""The roles for which there is a key from the beginning, of the same name."""

LOCK_SECONDS: Final = 10.0
"""How long to wait for another process that changes something: that takes milliseconds."""

T = TypeVar("T")
Stamp = tuple[int, ...] | None


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that is allowed."""

    name: str
    role: Role
    public_key: str
    added: str
    """When, in UTC."""


class _AllowList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    keys: list[Entry]


class _Reached(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the head is reached."""

    version: int
    address: str
    ports: Ports


class KeyStore:
    """The directory with a head's keys. `KeyStore.create` is for the head, `KeyStore(path)` for all others."""

    def __init__(self, directory: str) -> None:
        """Use a directory that is there; raises BadKeyStore and NotPrivate."""
        self.directory = os.path.abspath(directory)
        try:
            check_directory(self.directory)
        except OSError as error:
            raise BadKeyStore(
                f"the directory with the head's keys cannot be used: {self.directory}: {error.strerror}. Nothing was "
                "changed. Give the --join-dir of your head, or start `ztasks head` once: it makes it."
            ) from None
        self._cached: Mapping[str, Allowed] = {}
        self._cached_of: Stamp = None
        self._seen = self._stamp()
        self._held = -1
        """The head's own lock."""

    @classmethod
    def create(cls, directory: str) -> KeyStore:
        """Use a directory, or make it, and the head's key pair if there is none; raises BadKeyStore and NotPrivate."""
        try:
            make_directory(os.path.abspath(directory))
        except OSError as error:
            raise BadKeyStore(
                f"the directory for the head's keys cannot be made: {directory}: {error.strerror}. Nothing was "
                "started. Give another one: --join-dir DIR."
            ) from None
        store = cls(directory)
        with store._writing(), store._locked():
            if not os.path.lexists(store.path("head.key")):
                write_new(store.path("head.key"), _encode(make_keypair()))
        return store

    def hold(self) -> None:
        """Keep other heads from this directory until this process ends; raises BadKeyStore."""
        self._held = os.open(self.path("head.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if not _lock(self._held):
            raise BadKeyStore(
                f"another head that runs uses {self.directory}: its join files would lead to this one. Nothing was "
                f"started. Give this one a --join-dir of its own. This shows the other: fuser "
                f"{shlex.quote(self.path('head.lock'))}"
            )

    def path(self, name: str) -> str:
        """Return the path of one of its files."""
        return os.path.join(self.directory, name)

    def keypair(self) -> KeyPair:
        """Return the head's own keys; raises BadKeyStore and NotPrivate."""
        pair = self._read("head.key", KeyPair)
        if not (is_key(pair.public_key) and is_key(pair.secret_key)):
            raise self._damaged("head.key")
        return pair

    # --- the allow-list ---

    def entries(self) -> list[Entry]:
        """Return all keys that are allowed; raises BadKeyStore and NotPrivate."""
        found = self._read("allowed.json", _AllowList)
        if found.version != VERSION or not all(
            is_key(entry.public_key) and is_name(entry.name) for entry in found.keys
        ):
            raise self._damaged("allowed.json")
        return found.keys

    def allowed(self) -> Mapping[str, Allowed]:
        """Return the allow-list by public keys: quick enough for each handshake. Raises BadKeyStore and NotPrivate."""
        stamp = self._stamp()
        if stamp is None or stamp != self._cached_of:
            self._cached = {entry.public_key: Allowed(entry.name, entry.role) for entry in self.entries()}
            self._cached_of = stamp
        return self._cached

    def changed(self) -> bool:
        """Tell whether the allow-list has been written since the last time that this was asked."""
        before, self._seen = self._seen, self._stamp()
        return before != self._seen

    def add(self, name: str, role: Role) -> str:
        """Allow a new key and write its join file; return the path of that. Raises BadKeyStore and NotPrivate."""
        if not is_name(name):
            raise BadKeyStore(
                "a key's name has at most 63 letters, digits, '.', '_' and '-', of which the first is a letter or "
                "digit: it becomes the name of a file. Nothing was changed. Give another name."
            )
        with self._writing(), self._locked():
            entries = self.entries()
            if any(entry.name == name for entry in entries):
                raise BadKeyStore(
                    f"there is a key {name!r} already. Nothing was changed. Give another name, or replace that key: "
                    f"ztasks keys revoke {name}, and then this again."
                )
            entry = self._make(name, role, self._read("head.json", _Reached))
            self._write_list([*entries, entry])
        return self.path(f"{name}.join")

    def revoke(self, name: str) -> None:
        """Allow a key no longer, and remove its join file from the directory; raises BadKeyStore and NotPrivate."""
        with self._writing(), self._locked():
            entries = self.entries()
            gone = [entry for entry in entries if entry.name == name]
            if not gone:
                names = ", ".join(sorted(entry.name for entry in entries)) or "none"
                raise BadKeyStore(f"there is no key {name!r}. Nothing was changed. Those that are allowed: {names}.")
            self._write_list([entry for entry in entries if entry.name != name])
            with contextlib.suppress(BadKeyStore, NotPrivate):  # the key is revoked, whatever its file looks like
                if (found := self._join_file(name)) and found.public_key == gone[0].public_key:
                    os.unlink(self.path(f"{name}.join"))

    # --- the head ---

    def announce(self, address: str, ports: Ports) -> list[str]:
        """Say where the head is reached from now on: write the first join files, or mend those that say otherwise.

        Returns the paths of those that were written; raises BadKeyStore and NotPrivate.
        """
        reached = _Reached(VERSION, address, ports)
        with self._writing(), self._locked():
            replace(self.path("head.json"), _encode(reached))
            if not os.path.lexists(self.path("allowed.json")):
                self._write_list([self._make(role, role, reached) for role in FIRST])
                return [self.path(f"{role}.join") for role in FIRST]
            server_key = self.keypair().public_key
            written = []
            for entry in self.entries():
                found = self._join_file(entry.name)
                if found is None or found.public_key != entry.public_key:
                    continue  # it was moved to where it is used, or is another head's
                mended = msgspec.structs.replace(found, address=address, ports=ports, server_key=server_key, curve=True)
                if mended != found:
                    mended.write(self.path(f"{entry.name}.join"), replacing=True)
                    written.append(self.path(f"{entry.name}.join"))
            return written

    # --- inside ---

    def _make(self, name: str, role: Role, reached: _Reached) -> Entry:
        """Make a key and its join file. One that an interrupted `add` has left behind is replaced, no other."""
        server_key = self.keypair().public_key
        path = self.path(f"{name}.join")
        left = self._join_file(name)
        if left is not None and left.server_key != server_key:
            raise BadKeyStore(
                f"{path} is there already, and is another head's. Nothing was changed. Move it away, or give another "
                "name."
            )
        pair = make_keypair()
        JoinFile(
            role=role,
            name=name,
            address=reached.address,
            ports=reached.ports,
            curve=True,
            server_key=server_key,
            public_key=pair.public_key,
            secret_key=pair.secret_key,
        ).write(path, replacing=left is not None)
        return Entry(name, role, pair.public_key, datetime.now(UTC).isoformat(timespec="seconds"))

    def _join_file(self, name: str) -> JoinFile | None:
        """Return a join file of the directory, or None if it is not there."""
        path = self.path(f"{name}.join")
        if not os.path.lexists(path):
            return None
        try:
            return JoinFile.read(path)
        except BadJoinFile:
            raise BadKeyStore(
                f"{path} is damaged, or no join file. Nothing was changed. Remove it: rm {shlex.quote(path)}"
            ) from None

    def _write_list(self, entries: list[Entry]) -> None:
        replace(self.path("allowed.json"), _encode(_AllowList(VERSION, entries)))

    def _read(self, name: str, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(read_private(self.path(name)), type=kind)
        except FileNotFoundError:
            raise BadKeyStore(
                f"there is no {name} in {self.directory}. Nothing was changed. Start `ztasks head` once with this "
                "--join-dir: it makes what is missing."
            ) from None
        except OSError as error:
            raise BadKeyStore(f"{self.path(name)} cannot be read: {error.strerror}. Nothing was changed.") from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise self._damaged(name) from None

    def _damaged(self, name: str) -> BadKeyStore:
        cure = "remove it, and start `ztasks head`: it makes new ones, and all join files must be handed out again"
        return BadKeyStore(f"{self.path(name)} is damaged. Nothing was changed. Put back a copy of it, or {cure}.")

    def _stamp(self) -> Stamp:
        """Return what differs between two versions of the allow-list; None if there is none."""
        try:
            status = os.stat(self.path("allowed.json"), follow_symlinks=False)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size, status.st_mode, status.st_uid

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what goes wrong with a file into a BadKeyStore."""
        try:
            yield
        except OSError as error:
            raise BadKeyStore(
                f"a file in {self.directory} cannot be written: {error.strerror}. What it held before is still there. "
                "Free some space, or see to it that this user may write there."
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the directory, and check once more that it is private."""
        check_directory(self.directory)
        lock = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            end = time.monotonic() + LOCK_SECONDS
            while not _lock(lock):
                if time.monotonic() > end:
                    raise BadKeyStore(
                        f"another process has been changing {self.directory} for {LOCK_SECONDS:g} s. Nothing was "
                        f"changed. Is it stopped? This shows it: fuser {shlex.quote(self.path('lock'))}"
                    )
                time.sleep(0.01)
            yield
        finally:
            os.close(lock)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _encode(value: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
