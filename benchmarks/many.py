#!/usr/bin/env python3
"""Thousands of repositories: small commands, memory and open files, beside hgwebdir.

Usage: benchmarks/many.py [--repositories N] [--seconds N] [--connections N] [--memory MIB]

One worker serves a folder, first with one repository, then with N (copies of one template, each with its own bookmark
and ``hgrc``).  Clients send ``capabilities``, ``heads`` and ``listkeys`` to one repository, and to all of them in turn.
Three replies of each repository must fit into the cache of small replies; otherwise each request that misses it opens a
repository.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from common import Server, hg, memory_mib, server

COMMANDS = ("cmd=capabilities", "cmd=heads", "cmd=listkeys&namespace=bookmarks")


def build(folder: Path, count: int) -> None:
    """Make repositories ``r0`` to ``r<count - 1>``."""
    folder.mkdir()
    template = folder / "r0"
    hg("init", str(template))
    (template / "file").write_text("content\n")
    hg("-R", str(template), "commit", "-q", "-A", "-m", "first", "-d", "0 0")
    node = hg("-R", str(template), "log", "-r", "tip", "-T", "{node}")
    for number in range(count):
        path = folder / f"r{number}"
        if number:
            shutil.copytree(template / ".hg", path / ".hg")
        (path / ".hg" / "bookmarks").write_text(f"{node} mark{number}\n")
        (path / ".hg" / "hgrc").write_text(f"[web]\ndescription = repository {number}\nallow-push = user{number}\n")


def ask(port: int, paths: list[str], connections: int, *, until: float = 0) -> tuple[float, int]:
    """Send requests in turn; gives requests per second, and their number.

    Args:
        port: the server's port.
        paths: URLs, which the connections share.
        connections: how many clients.
        until: seconds after which to stop; 0 to send each path once.
    """
    lock, position, done = threading.Lock(), 0, 0
    started = time.monotonic()
    failures: list[str] = []

    def client() -> None:
        nonlocal position, done
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=600)) as connection:
            while not failures:
                with lock:
                    number, position = position, position + 1
                if (until and time.monotonic() - started > until) or (not until and number >= len(paths)):
                    return
                connection.request("GET", paths[number % len(paths)])
                reply = connection.getresponse()
                if reply.read() == b"" or reply.status != 200:
                    failures.append(f"{paths[number % len(paths)]}: {reply.status}")
                with lock:
                    done += 1

    threads = [threading.Thread(target=client) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0])
    return done / (time.monotonic() - started), done


def open_files(served: Server) -> int:
    """Descriptors of the worker."""
    return sum(len(os.listdir(f"/proc/{worker}/fd")) for worker in served.workers)


def measure(kind: str, folder: Path, count: int, options: argparse.Namespace) -> None:
    """Print the figures of one server."""
    with server(kind, folder, workers=1, threads=8, cache={"memory": options.memory << 20}) as served:
        paths = [f"/r{number}?{command}" for number in range(count) for command in COMMANDS]
        before = sum(memory_mib(worker, "VmRSS") for worker in served.workers)
        first, _ = ask(served.port, paths, options.connections)
        again, _ = ask(served.port, paths, options.connections, until=options.seconds)
        one, _ = ask(served.port, paths[:3], options.connections, until=options.seconds)
        print(
            f"{kind:>7} {count:>6} {first:>9.0f} {again:>9.0f} {one:>9.0f} {served.memory():>9.0f}"
            f" {served.memory() - before:>+9.0f} {open_files(served):>6}",
            flush=True,
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--memory", type=int, default=64, help="MiB of our cache of small replies")
    parser.add_argument("--kinds", nargs="+", default=["hgwire", "hgweb"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-") as temporary:
        folders = {count: Path(temporary) / str(count) for count in (1, options.repositories)}
        for count, folder in folders.items():
            build(folder, count)
        print("requests per second: each repository for the first time, all in turn again, one of them")
        print(f"{'':7} {'repos':>6} {'first':>9} {'again':>9} {'one':>9} {'RSS MiB':>9} {'grown by':>9} {'files':>6}")
        for kind in options.kinds:
            for count, folder in folders.items():
                measure(kind, folder, count, options)


if __name__ == "__main__":
    main()
