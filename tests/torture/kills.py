#!/usr/bin/env python3
"""Workers that are killed (SIGKILL) in the middle of pushes and clones, while clients work.

Usage: kills.py [--push-kills N] [--clone-kills N] [--pushers N] [--hgweb] [--seed N]

Clients push changesets and clone all the time.  The worker that holds the repository's lock is killed, later any
worker.  The server rolls back the abandoned transactions (``hgwire.recover``); for hgweb, the script runs
``hg recover``, as an operator would.  No acknowledged push is lost, the repository verifies, and the server goes on.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from torture_support import Report, Server, hg, make_repository, parser, scratch, server, settles, wait_for
from transfers import Clone, clone_request, start_clones


class Pusher(threading.Thread):
    """Commits and pushes until it is stopped.

    Attributes:
        acknowledged: the nodes that the server took.
        failed: how many pushes failed.
    """

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.stop = threading.Event()
        self.acknowledged: list[str] = []
        self.failed = 0
        hg("clone", "-q", url, folder)

    def run(self) -> None:
        """Push one changeset after the other."""
        number = 0
        while not self.stop.is_set():
            number += 1
            (self._folder / f"{self._folder.name}-{number}").write_bytes(os.urandom(20_000))
            hg("-R", self._folder, "commit", "-q", "-A", "-m", f"{self._folder.name} {number}")
            node = hg("-R", self._folder, "log", "-r", ".", "-T", "{node}")[1]
            while not self.stop.is_set():
                # A client that lost its answer tries again; 1 says that the server has it already.
                if hg("-R", self._folder, "push", "-f", "-q", "-r", ".", code=None)[0] in (0, 1):
                    self.acknowledged.append(node)
                    break
                self.failed += 1


def holder(repository: Path) -> int:
    """The process that holds the store's lock; 0 for none."""
    with contextlib.suppress(OSError, ValueError):
        return int(os.readlink(repository / ".hg" / "store" / "lock").rpartition(":")[2].partition("/")[0])
    return 0


def kill_in_push(served: Server, repository: Path, numbers: random.Random) -> bool:
    """Kill the worker that writes; gives whether one was found."""
    found: list[int] = []

    def look() -> bool:
        pid = holder(repository)
        if pid in served.workers() and (repository / ".hg" / "store" / "journal").exists():
            found.append(pid)
        return bool(found)

    if not settles(look, 30):
        return False
    time.sleep(numbers.random() * 0.1)
    with contextlib.suppress(ProcessLookupError):
        os.kill(found[0], signal.SIGKILL)
    return True


def recover(served: Server, repository: Path) -> bool:
    """Roll back an abandoned transaction; gives whether there was one for the operator to roll back."""
    time.sleep(0.3)
    abandoned = (repository / ".hg" / "store" / "journal").exists() and holder(repository) not in served.workers()
    return abandoned and hg("-R", repository, "recover", "-q", code=None)[0] == 0


def main() -> None:
    """Run the script."""
    made = parser(__doc__, push_kills=20, clone_kills=15, pushers=3)
    options = made.parse_args()
    report = Report(f"{options.push_kills} kills in pushes, {options.clone_kills} in clones")
    numbers = random.Random(options.seed)
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo", size=6_000_000)
        config = ["hooks.pretxnchangegroup.slow=sleep 0.2", "hgwire.recover=true"]
        with server(folder, hgweb=options.hgweb, workers=2, config=config) as served:
            (folder / "clones").mkdir()
            pushers = [Pusher(f"{served.url}/repo", folder / "clones" / f"p{n}") for n in range(options.pushers)]
            for pusher in pushers:
                pusher.start()
            killed = recovered = 0
            for _ in range(options.push_kills):
                killed += kill_in_push(served, repository, numbers)
                recovered += options.hgweb and recover(served, repository)
            report.figure("killed in pushes", killed)
            report.check(killed == options.push_kills, "every kill met a push", killed)
            clones: list[Clone] = []
            for _ in range(options.clone_kills):
                clones += start_clones(3, served.port, clone_request("/repo"), rate=8_000_000)
                time.sleep(0.2 + numbers.random() * 0.5)
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(numbers.choice(served.workers()), signal.SIGKILL)
                recovered += options.hgweb and recover(served, repository)
            for clone in clones:
                clone.join()
            report.figure("transactions rolled back by hand", recovered)
            whole = sum(clone.complete for clone in clones)
            report.figure(
                "clones during the kills",
                f"{len(clones)}, {whole} complete; {Counter(clone.status for clone in clones)}",
            )
            wait_for(lambda: served.answers("/repo?cmd=heads"), "the server answers", served.log)
            acknowledged = [len(pusher.acknowledged) for pusher in pushers]
            going = settles(
                lambda: all(len(pusher.acknowledged) > old for pusher, old in zip(pushers, acknowledged, strict=True))
            )
            for pusher in pushers:
                pusher.stop.set()
            for pusher in pushers:
                pusher.join()
            report.check(going, "pushes go on after the last kill")
            last = Clone(served.port, clone_request("/repo"))
            last.run()
            report.check(last.complete, "a clone is complete after the last kill", last)
        nodes = set(hg("-R", repository, "log", "-T", "{node}\n")[1].split())
        taken = {node for pusher in pushers for node in pusher.acknowledged}
        report.figure("pushes", f"{len(taken)} acknowledged, {sum(pusher.failed for pusher in pushers)} failed")
        report.check(taken <= nodes, "nothing acknowledged is lost", taken - nodes)
        code, said = hg("-R", repository, "verify", code=None)
        report.check(code == 0, "the repository verifies", said)
    report.end()


if __name__ == "__main__":
    main()
