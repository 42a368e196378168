#!/usr/bin/env python3
"""Clients that keep a server waiting, and a probe that measures what others notice.

Usage: slow_clients.py [--seconds N] [--lock REPOSITORY] URL [SCENE...]

Each scene opens its connections, measures ``capabilities`` on new connections for some seconds, leaves, and measures
again.  The scenes are ``clones`` (two hundred that read nothing), ``bodies`` (sixteen pushes whose bodies never come),
``chunked`` (the same in chunks), ``arguments`` (sixteen requests whose posted arguments never come), and, with
``--lock``, ``pushes`` (twenty-four against a repository that is locked).  The exit code is 1 if an answer took longer
than a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

NODE = "0" * 40
PATIENCE = 60.0
"""Seconds after which the probe gives up on an answer."""

BUNDLE = b"HG10UN" + bytes(12)
"""A bundle without changesets, for pushes that only have to reach the lock."""


class Target:
    """A repository on a server.

    Args:
        url: of the repository.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.address = parts.hostname, parts.port or 80
        self.path = parts.path or "/"

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """Open a connection."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect(self.address)
        return client

    def request(self, method: str, command: str, *headers: str) -> bytes:
        """The head of a request."""
        lines = [f"{method} {self.path}?cmd={command} HTTP/1.1", "Host: localhost", *headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def clone(target: Target) -> socket.socket:
    """Ask for everything, and read nothing."""
    client = target.connect(receive_buffer=2048)
    client.sendall(
        target.request("GET", "getbundle", f"X-HgArg-1: common={NODE}&cg=1&bundlecaps=HG20%2Cbundle2%3DHG20")
    )
    return client


def push_without_body(target: Target, *, chunked: bool = False) -> socket.socket:
    """Announce a push, and send nothing of it."""
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000"
    media_type = "Content-Type: application/mercurial-0.1"
    client = target.connect()
    client.sendall(target.request("POST", "unbundle", "X-HgArg-1: heads=666f726365", media_type, length))
    return client


def arguments_without_body(target: Target) -> socket.socket:
    """Announce posted arguments, and send nothing of them."""
    announced = ("Content-Length: 100000", "X-HgArgs-Post: 100000", "Content-Type: application/mercurial-0.1")
    client = target.connect()
    client.sendall(target.request("POST", "known", *announced))
    return client


def push(target: Target, body: bytes = BUNDLE) -> socket.socket:
    """Push a bundle; the answer is not read."""
    headers = ("X-HgArg-1: heads=666f726365", "Content-Type: application/mercurial-0.1", f"Content-Length: {len(body)}")
    client = target.connect()
    client.sendall(target.request("POST", "unbundle", *headers) + body)
    return client


def answer(client: socket.socket) -> str:
    """The status line of an answer; empty if the connection was closed without one."""
    with contextlib.suppress(OSError):
        return client.makefile("rb").readline().decode("latin-1").rstrip()
    return ""


@contextlib.contextmanager
def held(count: int, connect: Callable[[], socket.socket]) -> Iterator[list[socket.socket]]:
    """Open connections, and close them at the end of the block."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect()) for _ in range(count)]


@contextlib.contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Lock the store of a repository, as a process of another machine would that never ends."""
    lock = repository / ".hg" / "store" / "lock"
    os.symlink("elsewhere:1", lock)
    try:
        yield
    finally:
        lock.unlink()


def ask(target: Target) -> float:
    """Ask for ``capabilities`` on a new connection; return the seconds that it took.

    Raises:
        OSError: without an answer in time.
        AssertionError: if the answer is not 200.
    """
    start = time.monotonic()
    with target.connect() as client:
        client.sendall(target.request("GET", "capabilities", "Connection: close"))
        status = client.makefile("rb").readline()
        assert b" 200 " in status, status
    return time.monotonic() - start


class Probe:
    """Asks for ``capabilities`` again and again, from several threads, while it is open.

    Attributes:
        seconds: of each answer; infinite for none.
    """

    def __init__(self, target: Target, *, threads: int = 2, pause: float = 0.05) -> None:
        self.seconds: list[float] = []
        self._target = target
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.seconds.append(ask(self._target))
            except (OSError, AssertionError):
                self.seconds.append(float("inf"))
            self._stop.wait(self._pause)

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def slowest(self) -> float:
        """Seconds of the slowest answer."""
        return max(self.seconds, default=float("inf"))


def scenes(target: Target, lock: Path | None) -> dict[str, tuple[int, Callable[[], socket.socket]]]:
    """Each scene: number of clients, and what one does."""
    found: dict[str, tuple[int, Callable[[], socket.socket]]] = {
        "clones": (200, lambda: clone(target)),
        "bodies": (16, lambda: push_without_body(target)),
        "chunked": (16, lambda: push_without_body(target, chunked=True)),
        "arguments": (16, lambda: arguments_without_body(target)),
    }
    if lock is not None:
        found["pushes"] = (24, lambda: push(target))
    return found


def run(target: Target, name: str, seconds: float, lock: Path | None) -> bool:
    """Run one scene, and print its figures."""
    count, connect = scenes(target, lock)[name]
    blocked = locked(lock) if name == "pushes" and lock else contextlib.nullcontext()
    with blocked, Probe(target) as during, held(count, connect):
        time.sleep(seconds)
    start = time.monotonic()
    after = ask(target)
    slowest, answers = during.slowest, len(during.seconds)
    waited = time.monotonic() - start
    print(f"{name}: slowest {slowest:.3f} s of {answers}; afterwards {after:.3f} s ({waited:.3f})", flush=True)
    return slowest < 1 and after < 1


def main() -> int:
    """Run the scenes and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=10, help="of each scene (default: 10)")
    parser.add_argument("--lock", type=Path, metavar="REPOSITORY", help="folder of the repository at the URL")
    parser.add_argument("scenes", nargs="*", metavar="SCENE")
    options = parser.parse_args()
    target = Target(options.url)
    chosen = options.scenes or list(scenes(target, options.lock))
    results = [run(target, name, options.seconds, options.lock) for name in chosen]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
