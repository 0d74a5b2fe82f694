"""The tests' own hosts are apart, reach each other unless a link is down, and leave nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import namespaces
import pytest
import support
from namespaces import Host, hosts
from proxy import Proxy

PORT = 7070


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Host]]:
    """Two hosts for tests that do them no harm."""
    with hosts(2) as pair:
        yield pair


def names() -> set[str]:
    """The namespaces of all tests on this system."""
    return {name for name in os.listdir(namespaces.KNOWN) if name.startswith("zt-")}


def ours() -> set[str]:
    """The namespaces of this process."""
    return {name for name in names() if name.startswith(f"zt-{os.getpid()}-")}


def connected(stack: contextlib.ExitStack, one: Host, other: Host, port: int = PORT) -> list[socket.socket]:
    """Connect from the first host to the second; return both ends."""
    with other.entered():
        listener = stack.enter_context(socket.create_server((other.address, port)))
    with one.entered():
        near = stack.enter_context(socket.create_connection((other.address, port), support.DEADLINE))
    listener.settimeout(support.DEADLINE)
    far, peer = listener.accept()
    assert peer[0] == one.address
    far.settimeout(support.DEADLINE)
    return [near, stack.enter_context(far)]


def run(host: Host, code: str) -> str:
    """Run Python on a host; return what it prints."""
    process = host.popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=support.DEADLINE)
    assert process.returncode == 0
    return str(out)


# --- hosts ---


def test_hosts_reach_each_other_and_nobody_else(pair: list[Host]) -> None:
    one, other = pair
    assert (one.address, other.address) == ("192.0.2.1", "192.0.2.2")
    with contextlib.ExitStack() as stack:
        for end in connected(stack, one, other):
            end.sendall(b"x")
        stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # here, and not there
        elsewhere = socket.create_server(("127.0.0.1", 0))
        stack.enter_context(elsewhere)
        with one.entered(), pytest.raises(ConnectionRefusedError):
            socket.create_connection(elsewhere.getsockname(), support.DEADLINE)
        with one.entered(), pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("198.51.100.1", PORT), support.DEADLINE)


def test_each_host_has_a_loopback(pair: list[Host]) -> None:
    with contextlib.ExitStack() as stack:
        for host in pair:
            with host.entered():
                server = stack.enter_context(socket.create_server(("127.0.0.1", PORT)))
                stack.enter_context(socket.create_connection(server.getsockname(), support.DEADLINE))


def test_a_thread_comes_back_even_after_a_failure(pair: list[Host]) -> None:
    before, open_before = os.readlink("/proc/thread-self/ns/net"), support.descriptors()
    inside = []

    def fail() -> None:
        with pair[0].entered():
            inside.append(os.readlink("/proc/thread-self/ns/net"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside != [before]
    assert os.readlink("/proc/thread-self/ns/net") == before
    assert support.descriptors() == open_before


def test_a_process_runs_on_its_host(pair: list[Host]) -> None:
    code = """
        import os, socket
        socket.create_server(("192.0.2.2", 0)).close()
        import ztasks
        print(os.readlink("/proc/self/ns/net"))
    """
    inside = run(pair[1], code).strip()
    with pair[1].entered():
        assert os.readlink("/proc/thread-self/ns/net") == inside


def test_a_proxy_lives_where_it_is_made(pair: list[Host]) -> None:
    one, other = pair
    with contextlib.ExitStack() as stack:
        with other.entered():
            server = stack.enter_context(socket.create_server((other.address, 0)))
        with one.entered(), Proxy(server.getsockname(), host=one.address) as proxy:
            stack.enter_context(socket.create_connection(proxy.address, support.DEADLINE))
            proxy.wait_connected(1)


# --- links ---


def test_a_connection_outlives_a_link_that_was_down() -> None:
    with hosts(3) as (one, other, third), contextlib.ExitStack() as stack:
        near, far = connected(stack, one, other)
        one.link_down()
        near.sendall(b"patience")
        far.settimeout(0.2)
        with pytest.raises(TimeoutError):
            far.recv(8)
        for end in connected(stack, third, other, PORT + 1):  # the others are not concerned
            end.sendall(b"x")
        one.link_up()
        far.settimeout(support.DEADLINE)
        assert far.recv(8) == b"patience"


# --- nothing is left ---


def test_all_is_removed_at_the_end_even_after_a_failure() -> None:
    before, made_before = support.descriptors(), ours()
    started: list[tuple[subprocess.Popen[bytes], set[int]]] = []
    script = "import signal, subprocess; subprocess.Popen(['sleep', '600']); signal.pause()"

    def fail() -> None:
        with hosts(2) as (one, other):
            assert len(ours() - made_before) == 3
            assert ours() > {one.name, other.name}
            argv = [sys.executable, "-c", script]
            process = one.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
            support.wait_for(lambda: len(one.pids()) == 2, "two processes")
            started.append((process, one.pids()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    [(process, pids)] = started
    assert process.pid in pids
    assert not any(map(support.alive, pids))
    assert process.returncode == -signal.SIGKILL
    assert (support.descriptors(), ours()) == (before, made_before)


def test_half_made_hosts_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = namespaces._ip

    def failing(*arguments: str) -> str:
        if arguments[:2] == ("netns", "add"):
            made.append(arguments[2])
        if "192.0.2.2/24" in arguments:
            raise namespaces.CommandFailed("no more addresses")
        return real(*arguments)

    assert namespaces.why_not() is None or pytest.skip(str(namespaces.why_not()))
    monkeypatch.setattr(namespaces, "_ip", failing)
    with pytest.raises(namespaces.CommandFailed, match="no more addresses"), hosts(3):
        pass
    assert len(made) == 3
    assert not names() & set(made)


def test_what_a_killed_test_has_left_is_swept(pair: list[Host]) -> None:
    """But not what belongs to one that runs."""
    code = f"""
        import os, signal, sys
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        from namespaces import hosts
        with hosts(1) as (host,):
            sleeper = host.popen(["sleep", "600"])
            print(host.name, sleeper.pid, flush=True)
            sys.stdin.read()
    """
    with support.running("-c", textwrap.dedent(code)) as process:
        assert process.stdout is not None
        name, sleeper = process.stdout.readline().split()
        both = {name, name[:-1] + namespaces.SWITCH}
        namespaces.sweep()
        assert names() > both
        process.kill()
        process.wait(support.DEADLINE)
    namespaces.sweep()
    support.wait_for(lambda: not names() & both, "the end of the namespaces")  # another test may be at it just now
    assert not support.alive(int(sleeper))
    assert ours() > {host.name for host in pair}


# --- where it cannot be ---


@pytest.fixture
def _forgetful() -> Iterator[None]:
    namespaces.why_not.cache_clear()
    yield
    namespaces.why_not.cache_clear()


@pytest.mark.usefixtures("_forgetful")
def test_without_the_program_the_test_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "IP", None)
    with pytest.raises(pytest.skip.Exception, match=r"`ip` \(iproute2\), which is not installed"), hosts(1):
        pass


@pytest.mark.usefixtures("_forgetful")
def test_without_the_permission_the_test_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = support.write_script(tmp_path, '#!/bin/sh\necho "mount: Operation not permitted" >&2\nexit 1\n', "ip")
    program.chmod(0o700)
    monkeypatch.setattr(namespaces, "IP", str(program))
    with (
        pytest.raises(pytest.skip.Exception, match=r"be made here: `ip netns add \S+` says: .* not permitted"),
        hosts(1),
    ):
        pass
