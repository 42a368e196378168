"""Clients that disconnect, repositories that change between requests, constant memory."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from live_hg import environment, run_hg, running_hg
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import Server, Site, StartServer, needs_proc, remote_ports
from live_wait import PATIENCE, wait_for
from live_wire import Wire

MIB = 1024 * 1024
NODE = "0" * 40


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    folder = tmp_path_factory.mktemp("robust")
    workshop.copy("long-clone", folder / "long")
    workshop.copy("history", folder / "repo")
    return folder


@pytest.fixture(scope="module")
def server(site: Path, start_server: StartServer) -> Server:
    return start_server("gunicorn", Site(side="ours", root=str(site)))


@contextlib.contextmanager
def begun_clone(port: int, path: str) -> Iterator[socket.socket]:
    """Request everything and read the beginning; the connection is closed at the end of the block."""
    arguments = f"common={NODE}&cg=1&bundlecaps=HG20"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        request = f"GET {path}?cmd=getbundle HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: {arguments}\r\n\r\n"
        client.sendall(request.encode())
        with client.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 200")
            answer.read1(10_000)
        yield client


def reset_at_the_end(client: socket.socket) -> None:
    """Make closing the connection send a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_clients_that_vanish_leave_nothing_behind(server: Server, workshop: Workshop, site: Path) -> None:
    """First more of them than any pool has threads or repository objects, then enough to occupy all threads."""
    for number in range(24):
        with begun_clone(server.port, "/long") as client:
            if number % 2:
                reset_at_the_end(client)
    with contextlib.ExitStack() as stuck:
        for _ in range(7):
            stuck.enter_context(begun_clone(server.port, "/long"))
    node = workshop.hg("log", "-r", "tip", "-T", "{node}\n", repo=site / "long").encode()

    def ask(_: int) -> list[bytes]:
        with Wire(server.port, "/long") as wire:
            return [wire.command("heads").body for _ in range(5)]

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(ask, range(8))) == [[node] * 5] * 8
    assert "Traceback" not in server.log(), server.log()


def test_a_slow_client_does_not_hold_up_the_others(server: Server, workshop: Workshop, site: Path) -> None:
    with contextlib.ExitStack() as slow, Wire(server.port, "/long") as wire:
        for number in range(4):
            slow.enter_context(begun_clone(server.port, "/repo" if number % 2 else "/long"))
        assert wire.command("heads").status == 200
        # A commit is possible too: readers hold no lock.
        workshop.commit(site / "long", "while others read", small="x\n")
        node = workshop.hg("log", "-r", "tip", "-T", "{node}\n", repo=site / "long")
        assert wire.command("heads").body.decode() == node


def test_an_hg_killed_in_the_middle_of_a_clone(server: Server, tmp_path: Path) -> None:
    """It stops itself at the beginning of the bundle, and is killed."""
    environ = environment(tmp_path / "home", CLIENT_HGRC)
    command = ["clone", "--config", "hooks.pretxnopen.stop=kill -STOP $PPID", f"{server.base}/long", "clone"]
    with running_hg(command, environ=environ, cwd=tmp_path) as client:
        stopped_or_ended = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        seen = wait_for(lambda: os.waitid(os.P_PID, client.pid, stopped_or_ended), "the client stops")
        assert seen is not None and seen.si_code == os.CLD_STOPPED
    run_hg(["clone", "-q", f"{server.base}/repo", "again"], environ=environ, cwd=tmp_path, code_ok=[0])


def test_what_changes_on_disk_is_seen_on_the_same_connection(server: Server, workshop: Workshop, site: Path) -> None:
    repo = workshop.copy("public-only", site / "changing")
    with Wire(server.port, "/changing") as wire:
        for number in range(3):
            workshop.commit(repo, f"number {number}", a=f"{number}\n")
            node = workshop.hg("log", "-r", "tip", "-T", "{node}", repo=repo)
            assert wire.command("heads").body == f"{node}\n".encode()
            workshop.hg("bookmark", "-f", "-r", "tip", "mark", repo=repo)
            assert wire.command("listkeys", namespace="bookmarks").body == f"mark\t{node}".encode()
            workshop.hg("branch", "-q", "-f", f"branch{number}", repo=repo)
            assert wire.command("lookup", key="tip").body == f"1 {node}\n".encode()
        workshop.hg("phase", "-s", "-f", "-r", "tip", repo=repo)
        assert node.encode() not in wire.command("heads").body
        (repo / ".hg" / "hgrc").write_text("[web]\nallow-pull = no\n")
        assert wire.command("heads").status == 403
        (repo / ".hg" / "hgrc").write_text("")
        assert wire.command("heads").status == 200
        # The repository is replaced by another one.
        repo.rename(site.parent / f"{site.name}-gone")
        assert wire.command("heads").status == 404
        workshop.copy("history", repo)
        tip = workshop.hg("log", "-r", "tip", "-T", "{node}", repo=repo)
        assert tip.encode() in wire.command("heads").body
        assert wire.connections == 1


@needs_proc
def test_a_push_that_breaks_off(server: Server, workshop: Workshop, site: Path, tmp_path: Path) -> None:
    """It leaves nothing behind, no lock either, and the same push succeeds afterwards."""
    repo = workshop.copy("empty", site / "broken")
    bundle = tmp_path / "it.hg"
    workshop.hg("bundle", "-q", "--all", "-t", "none-v1", str(bundle), repo=workshop.original("large-push"))
    body = bundle.read_bytes()
    head = (
        "POST /broken?cmd=unbundle HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: heads=666f726365\r\n"
        f"Content-Type: application/mercurial-0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for reset in (False, True):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(head.encode() + body[: len(body) // 2])
            port = client.getsockname()[1]
            wait_for(lambda port=port: port in remote_ports(server.worker), "the push has begun")
            if reset:
                reset_at_the_end(client)
        wait_for(lambda port=port: port not in remote_ports(server.worker), "the push is aborted")
    with Wire(server.port, "/broken") as wire:
        assert wire.command("unbundle", "POST", body, heads="666f726365").body.startswith(b"1\n")
        assert wire.command("unbundle", "POST", body, heads="666f726365").status == 200
    assert len(workshop.hg.state(repo)["changesets"]) == 1
    workshop.hg("verify", "-q", repo=repo)
    assert not list((repo / ".hg").rglob("*lock")) and not (repo / ".hg" / "store" / "journal").exists()


MEETING = """\
import os, sys, time

def hook(ui, repo, **more):
    here, there = {here!r}, {there!r}
    ui.write(b'begin {name}\\n')
    open(here, 'w').close()
    deadline = time.monotonic() + {patience}
    while not os.path.exists(there) and time.monotonic() < deadline:
        time.sleep(0.005)
    ui.write(b'met: %d {name}\\n' % os.path.exists(there))
    ui.warn(b'warned {name}\\n')
    ui.system(b'echo from a shell {name}', blockedtag=b'hook')
"""


def test_pushes_at_the_same_time_do_not_mix(server: Server, workshop: Workshop, site: Path, tmp_path: Path) -> None:
    """Two hooks wait for each other, in two repositories; each client gets all output of its own push and no other."""
    pairs = (("red", "blue"), ("blue", "red"))
    with contextlib.ExitStack() as ends:
        clients = {}
        for name, other in pairs:
            here, there = str(tmp_path / name), str(tmp_path / other)
            hook = tmp_path / f"{name}_hook.py"
            hook.write_text(MEETING.format(here=here, there=there, name=name, patience=PATIENCE / 2))
            shell = f"sh -c 'echo shell {name}; echo error {name} >&2'"
            hgrc = f"[hooks]\npretxnchangegroup.one = python:{hook}:hook\npretxnchangegroup.two = {shell}\n"
            workshop.copy("history", site / name, hgrc)
            work = workshop.copy("ahead", tmp_path / f"work-{name}")
            environ = environment(tmp_path / f"home-{name}", CLIENT_HGRC)
            push = ["push", f"{server.base}/{name}"]
            clients[name] = ends.enter_context(running_hg(push, environ=environ, cwd=work))
        said = {name: client.communicate(timeout=PATIENCE)[0] for name, client in clients.items()}
    for name, other in pairs:
        assert clients[name].returncode == 0, said
        for words in ("begin", "met: 1", "warned", "from a shell", "shell", "error"):
            assert f"remote: {words} {name}\n" in said[name], said
        assert f" {other}\n" not in said[name], said


def test_many_clients_at_once(server: Server, workshop: Workshop, site: Path, tmp_path: Path) -> None:
    """More clones at once than this machine has cores, of a repository that also receives a push."""
    repo = workshop.copy("history", site / "busy")
    environ = environment(tmp_path / "home", CLIENT_HGRC)
    url = f"{server.base}/busy"
    work = workshop.copy("ahead", tmp_path / "work")
    clones = {tmp_path / f"clone{number}": flags for number, flags in enumerate([[], ["--stream"]] * 2)}
    commands = [["clone", "-q", "-U", *flags, url, str(target)] for target, flags in clones.items()]
    with contextlib.ExitStack() as ends:
        clients = [
            ends.enter_context(running_hg(command, environ=environ, cwd=work))
            for command in [*commands, ["push", "-q", url]]
        ]
        said = [client.communicate(timeout=PATIENCE)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * 5, said
    pushed = [line.split()[0] for line in workshop.hg.state(repo)["changesets"]]
    assert len(pushed) == 9
    for target in clones:
        cloned = [line.split()[0] for line in workshop.hg.state(target)["changesets"]]
        # A clone sees the repository before or after the push.
        assert cloned in (pushed[:7], pushed)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    """A folder with a repository of 200 incompressible MiB in 100 files, and an empty repository."""
    folder = tmp_path_factory.mktemp("heavy")
    noise = random.Random(200)
    repo = folder / "heavy"
    workshop.hg("init", str(repo))
    block = bytearray(noise.randbytes(2 * MIB))
    for number in range(100):
        block[:32] = noise.randbytes(32)
        (repo / f"noise{number}").write_bytes(block)
    workshop.hg("commit", "-A", "-q", "-m", "noise", repo=repo)
    workshop.hg("phase", "-p", "all()", repo=repo)
    for path in repo.glob("noise*"):
        path.unlink()
    workshop.hg("init", str(folder / "target"))
    return folder


class Growth:
    """The maximum growth of a server's worker, sampled while the block runs."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._start = server.resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.size = 0

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.size = max(self.size, self._server.resident() - self._start)

    def __enter__(self) -> Growth:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()


@needs_proc
def test_memory_stays_while_much_is_transferred(heavy: Path, start_server: StartServer) -> None:
    """A streamed clone, a clone and a push of 200 MiB each, and what the worker may grow by.

    Mercurial leaves each file's revision in reference cycles, so a clone and a push hold what the garbage collector
    has not seen: the bound there allows for that, but not for a transfer that is held whole.
    """
    server = start_server("gunicorn", Site(side="ours", root=str(heavy)))
    body = heavy / "push"
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:

        def clone(arguments: str, target: Path) -> tuple[int, int]:
            unpack = zlib.decompressobj()
            total = 0
            with Growth(server) as growth, open(target, "wb") as kept:
                kept.write(b"HG10UN")
                connection.request("GET", "/heavy?cmd=getbundle", headers={"X-HgArg-1": arguments})
                answer = connection.getresponse()
                while data := answer.read(MIB):
                    total += len(data)
                    kept.write(unpack.decompress(data))
            return total, growth.size

        connection.request("GET", "/heavy?cmd=capabilities")
        connection.getresponse().read()
        stream = f"common={NODE}&cg=0&stream=1&bundlecaps=HG20%2Cbundle2%3DHG20%250Astream%253Dv2"
        total, grown = clone(stream, Path("/dev/null"))
        assert total > 200 * MIB
        assert grown < 32 * MIB, f"a streamed clone: {grown / MIB:.0f} MiB"

        # Without bundlecaps the reply is the changegroup that a push with bundle1 consists of.
        total, cloned = clone(f"common={NODE}", body)
        assert total > 190 * MIB

        headers = {"X-HgArg-1": "heads=666f726365", "Content-Type": "application/mercurial-0.1"}
        headers["Content-Length"] = str(body.stat().st_size)
        with Growth(server) as growth, open(body, "rb") as source:
            connection.request("POST", "/target?cmd=unbundle", body=source, headers=headers)
            assert connection.getresponse().read().startswith(b"1\n")
    body.unlink()
    assert cloned < 64 * MIB, f"a clone: {cloned / MIB:.0f} MiB"
    # Mercurial itself needs this to apply a bundle: under hgweb 100 MiB, on Python 3.13 147.
    assert growth.size < 192 * MIB, f"a push: {growth.size / MIB:.0f} MiB"
    assert "Traceback" not in server.log(), server.log()
