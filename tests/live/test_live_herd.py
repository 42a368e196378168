"""Many clients at once against several workers that share a small cache; workers that are killed in the middle."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import StartServer
from live_herd import Herd, SharedScribe, View, at_once, build_base, in_scribe, one_by_one, plan, processes
from live_hg import Scribe, environment
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import Server, Site, beside_python

MIB = 1 << 20
CLIENTS = 4
OPERATIONS = 60

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="who makes a bundle is read from /proc")


def test_clients_at_once_come_to_the_same_as_with_hgweb(
    scribe: Scribe, start_server: StartServer, tmp_path: Path
) -> None:
    """Clone, pull, push, bookmark and phase, in whatever order: every repository is whole and has everything."""
    plans = plan(4, CLIENTS, OPERATIONS)
    shared = SharedScribe(scribe)
    base = tmp_path / "base"
    build_base(scribe, base)
    ends: dict[str, tuple[View, list[View]]] = {}
    for side in ("ours", "hgweb"):
        folder = tmp_path / side
        folder.mkdir()
        served = folder / "served"
        scribe("clone", "-q", "-U", str(base), str(served))
        (served / ".hg" / "hgrc").write_text((base / ".hg" / "hgrc").read_text())
        cache = {"folder": str(folder / "cache"), "disk": 3 * MIB, "memory": 2000}
        site = Site(side=side, root=str(served), workers=3 if side == "ours" else 1, cache=cache)
        server = start_server("gunicorn", site)
        if side == "ours":
            run = processes(environment(folder / "home", CLIENT_HGRC))
            herd = Herd(server.base, shared, run, folder)
            views = at_once(herd, base, plans)
            assert sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file()) <= 3 * MIB
        else:
            herd = Herd(server.base, shared, in_scribe(shared, folder), folder)
            views = one_by_one(herd, base, plans)
        assert "Traceback" not in server.log(), server.log()
        ends[side] = View.read(shared, served), views
        scribe("verify", "-q", repo=served)
        assert views == [ends[side][0].lasting()] * len(views)
    assert ends["ours"] == ends["hgweb"]
    assert len(ends["ours"][0].changesets) > OPERATIONS / 4


# Killed makers.


@pytest.fixture
def herd_of_clones(start_server: StartServer, workshop: Workshop, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """Three workers that serve 24 MiB, and the folder of their cache; nothing is in it yet."""
    served = workshop.copy("long-clone", tmp_path / "served")
    cache = tmp_path / "cache"
    site = Site(side="ours", root=str(served), workers=3, cache={"folder": str(cache)})
    yield start_server("gunicorn", site), cache


def growing(cache: Path) -> Path | None:
    """The entry that is being made, once there is something in it."""
    for path in cache.glob("*/*.part"):
        try:
            if path.stat().st_size:
                return path
        except FileNotFoundError:
            continue
    return None


def maker_of(part: Path) -> int | None:
    """The process that holds the lock of an entry."""
    try:
        inode = part.stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        found = re.search(rf"FLOCK +ADVISORY +WRITE +(\d+) +\S+:{inode} ", line)
        if found:
            return int(found[1])
    return None


def followers_of(part: Path, server: Server) -> list[int]:
    """The other workers that have an entry open."""
    maker = maker_of(part)
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    found = []
    for child in children:
        for descriptor in Path(f"/proc/{child}/fd").iterdir():
            try:
                if os.readlink(descriptor) == str(part) and int(child) != maker:
                    found.append(int(child))
            except FileNotFoundError:
                continue
    return found


def ports(pid: int, *, remote: bool) -> set[int]:
    """The ports of a process's TCP connections, at this end or the other."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[2 if remote else 1].partition(":")[2], 16) for line in lines if line[9] in inodes}


def clients_of(worker: int, clients: list[subprocess.Popen[str]]) -> list[int]:
    """The clients, by their place in the list, that are connected to a worker."""
    far = ports(worker, remote=True)
    return [number for number, client in enumerate(clients) if far & ports(client.pid, remote=False)]


def stopped_maker(cache: Path, deadline: float) -> tuple[Path, int]:
    """Wait for a bundle that is being made, and stop its maker where it is."""
    while time.monotonic() < deadline:
        if (part := growing(cache)) is None:
            time.sleep(0.001)
            continue
        if (maker := maker_of(part)) is None:
            continue
        os.kill(maker, signal.SIGSTOP)
        if part.exists() and maker_of(part) == maker:
            return part, maker
        os.kill(maker, signal.SIGCONT)
        pytest.fail("the bundle was made before its maker could be stopped")
    pytest.fail("nobody makes a bundle")


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_killed_while_it_makes_a_bundle(
    herd_of_clones: tuple[Server, Path], workshop: Workshop, tmp_path: Path, deaths: int
) -> None:
    """Clients of other workers end with a right clone; those of the killed one do too, or fail and say so."""
    server, cache = herd_of_clones
    environ = environment(tmp_path / "home", CLIENT_HGRC)
    clients: list[subprocess.Popen[str]] = []
    bereft: set[int] = set()
    with contextlib.ExitStack() as ends:

        def clone() -> None:
            command = [str(beside_python("hg")), "clone", "-q", "-U", server.base, str(target_of(len(clients)))]
            pipe = subprocess.PIPE
            client = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=pipe, text=True)
            clients.append(ends.enter_context(client))
            ends.callback(client.kill)

        def target_of(number: int) -> Path:
            return tmp_path / f"clone{number}"

        for _ in range(5):
            clone()
        deadline = time.monotonic() + 40
        for _ in range(deaths):
            part, maker = stopped_maker(cache, deadline)
            # Nothing else may happen to the entry now.  Whoever comes while its maker is stopped is served by another
            # worker: there is somebody who follows it in another process.
            clone()
            while not followers_of(part, server) and time.monotonic() < deadline:
                time.sleep(0.005)
            assert followers_of(part, server)
            bereft.update(clients_of(maker, clients))
            os.kill(maker, signal.SIGKILL)
        said = [client.communicate(timeout=60)[1] for client in clients]
    right = workshop.hg.state(workshop.original("long-clone"))
    whole = 0
    for number, (client, words) in enumerate(zip(clients, said, strict=True)):
        target = target_of(number)
        if client.returncode == 0:
            assert workshop.hg.state(target) == right
            workshop.hg("verify", "-q", repo=target)
            whole += 1
        else:
            assert number in bereft, (number, bereft, words, server.log())
            assert client.returncode == 255 and "abort: " in words, words
            assert not target.exists() or not workshop.hg.state(target)["changesets"]
    assert whole, said
    entries = [path for path in cache.glob("*/*") if path.stat().st_size > MIB]
    assert len(entries) == 1 and ".part" not in entries[0].name, entries
    assert "Traceback" not in server.log(), server.log()
