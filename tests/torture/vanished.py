#!/usr/bin/env python3
"""Clients that vanish in the middle of a clone.

Usage: vanished.py [--clones N] [--clients N] [--hgweb]

Each one closes its connection after a random number of bytes, half of them with a reset.  When all have left, no more
descriptors are open than before, no thread is left over, memory has grown by less than 32 MiB, and a clone is complete.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time

from torture_support import Report, Server, hg, make_repository, parser, scratch, server, settles, tracebacks
from transfers import Clone, clone_request, connect

SIZE = 4_000_000
GROWTH = 32
"""MiB."""

THREADS = 12
"""Maximum number of threads: eight of gunicorn's pool, which starts them when they are needed, its own, and ours."""


def vanish(served: Server, seed: object, count: int) -> None:
    """Begin clones, one after the other, and leave."""
    numbers = random.Random(repr(seed))
    for number in range(count):
        with contextlib.suppress(OSError), connect(served.port, buffer=65536) as connection:
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(clone_request("/repo"))
            wanted = numbers.choice((0, 1, 1000, numbers.randrange(SIZE // 2)))
            while wanted > 0 and (data := connection.recv(min(wanted, 65536))):
                wanted -= len(data)


def main() -> None:
    """Run the script."""
    options = parser(__doc__, clones=2000, clients=8).parse_args()
    report = Report(f"{options.clones} clients that vanish")
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo", size=SIZE)
        with server(folder, hgweb=options.hgweb) as served:
            request = clone_request("/repo")
            for _ in range(2):
                first = Clone(served.port, request)
                first.run()
            vanish(served, options.seed, 30)
            time.sleep(1)
            before = served.descriptors(), served.threads(), served.memory()
            threads = [
                threading.Thread(
                    target=vanish, args=(served, f"{options.seed}-{number}", options.clones // options.clients)
                )
                for number in range(options.clients)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            returned = settles(lambda: served.descriptors() <= before[0] and served.threads() <= THREADS, 30)
            after = served.descriptors(), served.threads(), served.memory()
            names = ("descriptors", "threads", "MiB")
            for name, old, new in zip(names, before, after, strict=True):
                report.figure(name, f"{old:.0f} before, {new:.0f} after")
            report.check(returned, "descriptors and threads return", (before, after))
            report.check(after[2] - before[2] < GROWTH, f"memory grows by less than {GROWTH} MiB", after[2] - before[2])
            last = Clone(served.port, request)
            last.run()
            report.check(last.complete and last.digest == first.digest, "a clone is complete afterwards", last)
            log = served.log()
            report.check(not tracebacks(log), "no traceback in the log", f"{tracebacks(log)}: {log[-1500:]}")
            open_files = [name for worker in served.workers() for name in _files(worker) if str(served.cache) in name]
            report.check(not open_files, "no bundle stays open", open_files)
        code, said = hg("-R", repository, "verify", code=None)
        report.check(code == 0, "the repository verifies", said)
    report.end()


def _files(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


if __name__ == "__main__":
    main()
