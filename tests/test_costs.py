"""What a request costs before anybody has allowed it: time in proportion to its size, and a small multiple in memory.

Each row of the table makes a request of a size.  Twice the size must take less than three times as long, which a
quadratic algorithm does not, however fast the machine is.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import Exchange, FakeProvider

from hgwire_wsgi import PermissionDenied, ServerCapabilities, WireApp
from hgwire_wsgi.compression import BZIP2, ZLIB, ZSTD, Engine
from hgwire_wsgi.repositories.finder import Found, make_finder

Run = Callable[[], Any]
Make = Callable[[int], tuple[int, Run]]
"""Makes the size of a request in bytes, and a function that runs it."""

_FASTEST = 0.004
"""Seconds below which a measurement says nothing."""


def refuse(request: Any) -> None:
    raise PermissionDenied("no")


APP = WireApp(FakeProvider(), policy=refuse, capabilities=ServerCapabilities(post_args=True))


def ask(query: str = "cmd=heads", path: str = "/repo", body: bytes = b"", **environ: Any) -> tuple[int, Run]:
    size = len(query) + len(path) + len(body) + sum(len(name) + len(value) for name, value in environ.items())

    def run() -> None:
        exchange = Exchange(APP, query, path=path, body=body, **environ)
        exchange.read()
        assert exchange.status[:3] in ("400", "401", "403", "404", "413")

    return size, run


def headers(value: str, *more: str) -> tuple[int, Run]:
    values: dict[str, Any] = {f"HTTP_X_HGARG_{number}": each for number, each in enumerate((value, *more), 1)}
    return ask(**values)


def post(arguments: bytes, engine: Engine | None = None, query: str = "cmd=heads") -> tuple[int, Run]:
    body = arguments if engine is None else engine.prefix + b"".join(engine.compress([arguments]))
    media_type = "application/mercurial-0.1" if engine is None else "application/mercurial-0.2"
    size, run = ask(query, body=body, HTTP_X_HGARGS_POST=str(len(arguments)), CONTENT_TYPE=media_type)
    return size, run


def batch(cmds: bytes) -> tuple[int, Run]:
    return post(b"cmds=" + cmds, query="cmd=batch")


def numbered(count: int, form: bytes) -> bytes:
    return b"".join(form % number for number in range(count))


REQUESTS: dict[str, Make] = {
    "path: segments": lambda n: ask(path="/repo/" + "a/" * n),
    "path: slashes": lambda n: ask(path="/repo" + "/" * n),
    "path: one segment": lambda n: ask(path="/repo/" + "a" * n),
    "path: another repository": lambda n: ask(path="/x" * n, query=""),
    "query: pairs": lambda n: ask("cmd=heads" + "&a=b" * n),
    "query: separators": lambda n: ask("&" * n + "cmd=heads"),
    "query: commands": lambda n: ask("cmd=heads&" * n),
    "query: escapes": lambda n: ask("cmd=heads&x=" + "%41" * n),
    "query: escapes and letters": lambda n: ask("cmd=heads&x=" + "%41a" * n),
    "query: broken escapes": lambda n: ask("cmd=heads&x=" + "%" * n),
    "query: plus signs": lambda n: ask("cmd=heads&x=" + "+" * n),
    "query: long name": lambda n: ask("cmd=" + "x" * n),
    "query: nearly cmd": lambda n: ask("cm" * n),
    "headers: many": lambda n: headers("x=", *["y"] * (n // 20)),
    "headers: escapes": lambda n: headers("x=" + "%41" * n),
    "headers: pairs": lambda n: headers("x=y&" * n),
    "protocol: tokens": lambda n: ask(HTTP_X_HGPROTO_1="0.1 " * n),
    "posted: value": lambda n: post(b"x=" + b"a" * n),
    "posted: escapes": lambda n: post(b"x=" + b"%41" * n),
    "posted: pairs": lambda n: post(b"x=y&" * n),
    "batch: equal commands": lambda n: batch(b"heads+;" * n + b"heads+"),
    "batch: commands": lambda n: batch(numbered(n // 10, b"%d+;")),
    "batch: arguments": lambda n: batch(b"x+" + b"a%3D," * n),
    "batch: different arguments": lambda n: batch(b"x+" + numbered(n // 4, b"%d%%3D,")),
    "batch: escapes": lambda n: batch(b"x+a%3D" + b":c" * n),
}


def cost(make: Make, size: int) -> tuple[float, float]:
    """Seconds of processor time, the least of five runs; and bytes of memory per byte of the request."""
    length, run = make(size)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    try:
        run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return min(seconds), peak / length


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str) -> None:
    size = 20_000
    small, _ = cost(REQUESTS[name], size)
    large, memory = cost(REQUESTS[name], 4 * size)
    assert large < 10 * max(small, _FASTEST / 10) or large < _FASTEST
    # A command of a batch is an object with a name; ``Limits.batch_commands`` bounds their number.
    assert memory < (64 if name == "batch: commands" else 12)


@pytest.mark.parametrize("engine", [ZSTD, ZLIB, BZIP2], ids=lambda engine: engine.name)
@pytest.mark.parametrize("arguments", [b"x=" + b"a" * 8_000_000, b"a&" * 4_000_000], ids=["value", "pairs"])
def test_posted_arguments_that_compress_well(engine: Engine, arguments: bytes) -> None:
    size, run = post(arguments, engine)
    assert size < 80_000
    tracemalloc.start()
    try:
        run()
        # What may always be decoded, the pieces of the decoder, and a small multiple of what was sent.
        assert tracemalloc.get_traced_memory()[1] < 1_500_000 + 64 * size
    finally:
        tracemalloc.stop()


def test_nodes_of_clients_compress_too_little_to_be_refused() -> None:
    accepted = WireApp(FakeProvider(), capabilities=ServerCapabilities(post_args=True))
    nodes = b"nodes=" + b"+".join([b"11" * 20] * 100 + [os.urandom(20).hex().encode() for _ in range(5000)])
    body = ZSTD.prefix + b"".join(ZSTD.compress([nodes]))
    exchange = Exchange(
        accepted,
        "cmd=known",
        body=body,
        HTTP_X_HGARGS_POST=str(len(nodes)),
        CONTENT_TYPE="application/mercurial-0.2",
    )
    assert exchange.read() == b"1" * 100 + b"0" * 5000


FINDERS = ["single", "folder", "mapping", "callable"]


@pytest.mark.parametrize("segment", ["a/", "repo/", "/", "./", "../", ".hg/", "\xff/"])
@pytest.mark.parametrize("kind", FINDERS)
def test_finders(kind: str, segment: str, tmp_path: Path) -> None:
    calls = 0

    def is_repository(path: bytes) -> bool:
        nonlocal calls
        calls += 1
        return path.endswith(b"repo")

    def find(name: str) -> Found | None:
        nonlocal calls
        calls += 1
        return None

    (tmp_path / "folder" / "sub").mkdir(parents=True)
    sources: dict[str, Any] = {
        "single": tmp_path / "repo",
        "folder": tmp_path / "folder",
        "mapping": {"repo": tmp_path / "repo", "a/" * 30 + "x": tmp_path / "repo"},
        "callable": find,
    }
    finder = make_finder(sources[kind], is_repository)

    def make(size: int) -> tuple[int, Run]:
        path = "/" + segment * size
        return len(path), lambda: finder.locate(path)

    small, _ = cost(make, 5_000)
    calls = 0
    large, memory = cost(make, 20_000)
    assert calls <= 6 * 17
    assert large < 10 * max(small, _FASTEST / 10) or large < _FASTEST
    assert memory < 32
