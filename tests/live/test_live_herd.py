"""Many clients at once against several workers that share a small cache; workers that are killed in the middle."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from live_herd import Herd, SharedScribe, View, at_once, build_base, in_scribe, one_by_one, plan, processes
from live_hg import Scribe, environment, running_hg
from live_pair import CLIENT_HGRC
from live_repos import Workshop
from live_servers import Server, Site, StartServer, descriptors, local_ports, needs_proc, remote_ports
from live_wait import PATIENCE, wait_for

MIB = 1 << 20
CLIENTS = 4
OPERATIONS = 60
WORKERS = 3
CAPACITY = 3 * MIB

pytestmark = needs_proc


def test_clients_at_once_come_to_the_same_as_with_hgweb(
    scribe: Scribe, start_server: StartServer, tmp_path: Path
) -> None:
    """Clone, pull, push, bookmark and phase, in any order: every repository is intact and complete."""
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
        kept = folder / "cache"
        cache = {"folder": str(kept), "disk": CAPACITY, "memory": 2000}
        site = Site(side=side, root=str(served), workers=WORKERS if side == "ours" else 1, cache=cache)
        server = start_server("gunicorn", site)
        if side == "ours":
            run = processes(environment(folder / "home", CLIENT_HGRC))
            herd = Herd(server.base, shared, run, folder)
            views = at_once(herd, base, plans)
            wait_for(lambda kept=kept: is_settled(kept), "all entries are complete")
        else:
            herd = Herd(server.base, shared, in_scribe(shared, folder), folder)
            views = one_by_one(herd, base, plans)
        server.stop()
        assert "Traceback" not in server.log(), server.log()
        ends[side] = View.read(shared, served), views
        scribe("verify", "-q", repo=served)
        assert views == [ends[side][0].lasting()] * len(views)
    assert ends["ours"] == ends["hgweb"]
    assert len(ends["ours"][0].changesets) > OPERATIONS / 4
    taken = sum(path.stat().st_size for path in (tmp_path / "ours" / "cache").rglob("*") if path.is_file())
    # Each worker checks the folder after it has added an eighth of the capacity.
    assert taken <= CAPACITY * (1 + WORKERS / 8)


# Workers that are killed while they make a bundle.


HALF = 12
"""After how many of 24 files a worker stops."""

# Stops the process in the middle of the files of a bundle, until the file ``over`` exists.
HALT = """\
import os, signal
from mercurial import changegroup, extensions

def halting(original, packer, *args, **more):
    for number, item in enumerate(original(packer, *args, **more)):
        if number == {half} and not os.path.exists({over!r}):
            os.kill(os.getpid(), signal.SIGSTOP)
        yield item

def extsetup(ui):
    extensions.wrapfunction(changegroup.cgpacker, "generatefiles", halting)
"""


@attrs.frozen
class Halting:
    """A server whose workers stop in the middle of each bundle of 24 MiB, until the file ``over`` exists."""

    server: Server
    cache: Path
    over: Path

    def maker(self) -> tuple[Path, int] | None:
        """Return the unfinished entry and the process that makes it, once that has stopped."""
        for part in self.cache.glob("*/*.part"):
            maker = maker_of(part)
            if maker is not None and is_stopped(maker):
                return part, maker
        return None

    def followers(self, part: Path, maker: int) -> list[int]:
        """Return the other workers that have an entry open."""
        return [worker for worker in self.server.workers() if worker != maker and str(part) in descriptors(worker)]


@pytest.fixture
def halting(start_server: StartServer, workshop: Workshop, tmp_path: Path) -> Iterator[Halting]:
    """Three workers with an empty cache."""
    extension, cache, over = tmp_path / "halt.py", tmp_path / "cache", tmp_path / "over"
    extension.write_text(HALT.format(half=HALF, over=str(over)))
    served = workshop.copy("long-clone", tmp_path / "served", f"[extensions]\nhalt = {extension}\n")
    site = Site(side="ours", root=str(served), workers=WORKERS, cache={"folder": str(cache)}, safe=("halt",))
    server = start_server("gunicorn", site)
    yield Halting(server, cache, over)
    server.stop()


def is_settled(cache: Path) -> bool:
    """Whether every entry has its final name, which it gets shortly after the client got its last byte."""
    return not list(cache.glob("*/*.part"))


def maker_of(part: Path) -> int | None:
    """Return the process that holds the lock of an entry, if there is one."""
    try:
        inode = part.stat().st_ino
    except FileNotFoundError:
        return None
    found = re.search(rf"FLOCK +ADVISORY +WRITE +(\d+) +\S+:{inode} ", Path("/proc/locks").read_text())
    return int(found[1]) if found else None


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process has stopped."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return set(states) == {"T"}


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_killed_while_it_makes_a_bundle(
    halting: Halting, workshop: Workshop, tmp_path: Path, deaths: int
) -> None:
    """Clients of other workers end with a correct clone; those of the killed one do too, or report failure."""
    server = halting.server
    environ = environment(tmp_path / "home", CLIENT_HGRC)
    clients: list[subprocess.Popen[str]] = []
    orphaned: set[int] = set()
    with contextlib.ExitStack() as ends:

        def clone() -> None:
            command = ["clone", "-q", "-U", server.base, str(target_of(len(clients)))]
            clients.append(ends.enter_context(running_hg(command, environ=environ, cwd=tmp_path)))

        def target_of(number: int) -> Path:
            return tmp_path / f"clone{number}"

        for _ in range(5):
            clone()
        for death in range(deaths):
            part, maker = wait_for(halting.maker, "a worker makes a bundle")
            assert part.stat().st_size > MIB
            # The entry stays as it is now.  A client that comes while its maker is stopped is served by another
            # worker, which follows the entry.
            clone()
            wait_for(functools.partial(halting.followers, part, maker), "another worker follows it")
            far = remote_ports(maker)
            orphaned.update(number for number, client in enumerate(clients) if far & local_ports(client.pid))
            if death == deaths - 1:
                halting.over.touch()
            os.kill(maker, signal.SIGKILL)
            wait_for(lambda maker=maker: maker not in server.workers(), "it is dead")
        said = [client.communicate(timeout=PATIENCE)[0] for client in clients]
    right = workshop.hg.state(workshop.original("long-clone"))
    whole = 0
    for number, (client, words) in enumerate(zip(clients, said, strict=True)):
        target = target_of(number)
        if client.returncode == 0:
            assert workshop.hg.state(target) == right
            workshop.hg("verify", "-q", repo=target)
            whole += 1
        else:
            assert number in orphaned, (number, orphaned, words, server.log())
            assert client.returncode == 255 and "abort: " in words, words
            assert not target.exists() or not workshop.hg.state(target)["changesets"]
    assert whole, said
    wait_for(lambda: is_settled(halting.cache), "the bundle has its name")
    entries = [path for path in halting.cache.glob("*/*") if path.stat().st_size > MIB]
    assert len(entries) == 1, entries
    assert "Traceback" not in server.log(), server.log()
