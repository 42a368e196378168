from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Hashable

import pytest

from hgwire_wsgi.cache.keys import ResponseKey
from hgwire_wsgi.cache.responses import CachedResponse, ResponseCache
from hgwire_wsgi.cache.stores.memory import MemoryStore

REPLY = CachedResponse(("heads",), (("Content-Type", "application/mercurial-0.1"),), b"0" * 41)


class Recorder:
    """A store that anyone could write."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[CachedResponse, int]] = {}

    def get(self, key: Hashable) -> CachedResponse | None:
        return self.kept[key][0] if key in self.kept else None

    def put(self, key: Hashable, value: CachedResponse, size: int) -> None:
        self.kept[key] = value, size


KEY = ("project", b"token", (("cmd=heads",), ("nodes=",), ()))
OTHER = ("project", b"other token", KEY[2])


def test_replies_are_found_again() -> None:
    cache = ResponseCache(MemoryStore(10_000))
    assert cache.get(KEY) is None
    cache.put(KEY, REPLY)
    assert cache.get(KEY) == REPLY
    assert cache.get(OTHER) is None


def test_any_store_will_do_and_learns_what_a_reply_occupies() -> None:
    store = Recorder()
    cache = ResponseCache(store)
    cache.put(KEY, REPLY)
    assert cache.get(KEY) == REPLY
    _, size = store.kept[KEY]
    assert size > len(REPLY.body) + sum(len(word) for header in REPLY.headers for word in header)


def unshared(text: str) -> str:
    return text.encode().decode()


def make(number: int, size: int) -> tuple[ResponseKey, CachedResponse]:
    """A reply whose parts are shared with no other, like those that come from requests."""
    headers = (
        (unshared("Content-Type"), unshared("application/mercurial-0.1")),
        (unshared("Vary"), unshared("X-HgArg-1, X-HgProto-1")),
        (unshared("X-Content-Type-Options"), unshared("nosniff")),
        (unshared("Content-Length"), str(1000 + number)),
    )
    commands = (unshared("batch"), unshared("heads"), unshared("known"))
    key = unshared("project"), b"%20d" % number, ((unshared("cmd=batch"),), (f"cmds={number}",), (unshared("0.1 0.2"),))
    return key, CachedResponse(commands, headers, b"%*d" % (size, number))


@pytest.mark.parametrize(("capacity", "size"), [(500_000, 1), (500_000, 1000), (1_000_000, 41), (2_000_000, 41)])
def test_memory_stays_near_its_bound(capacity: int, size: int) -> None:
    cache = ResponseCache(MemoryStore(capacity))
    # Empties the free lists: what comes from there is not traced.
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(capacity // 700):
            cache.put(*make(number, size))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * capacity < used < 1.2 * capacity


APPLICATION = "0" * 64


def shared(number: int, size: int) -> tuple[ResponseKey, CachedResponse]:
    """A reply as the transport makes it: with new objects that are equal to those of other replies."""
    _, response = make(0, 1)
    request = (APPLICATION, f"cmd=known&x={number}"), (f"{number:0{size}}",), ()
    return (unshared("project"), b"%20d" % 7, request), CachedResponse(
        tuple(map(unshared, response.commands)), response.headers[:3], b"%20d" % number
    )


def batch(number: int, size: int) -> tuple[ResponseKey, CachedResponse]:
    """A reply to a batch of many commands."""
    key, response = make(number, 1)
    return key, CachedResponse(tuple(unshared("heads") for _ in range(size)), response.headers, b";" * size)


def varying(number: int, size: int) -> tuple[ResponseKey, CachedResponse]:
    """A reply with headers of its own."""
    key, response = make(number, 1)
    return key, CachedResponse(response.commands, (("Vary", f"{number:0{size}}"),), b"")


@pytest.mark.parametrize(
    ("reply", "size"), [(shared, 1), (shared, 1000), (batch, 2), (batch, 1000), (varying, 500), (varying, 5000)]
)
def test_replies_count_what_they_cost(
    reply: Callable[[int, int], tuple[ResponseKey, CachedResponse]], size: int
) -> None:
    capacity = 1_000_000
    cache = ResponseCache(MemoryStore(capacity))
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(3000):
            cache.put(*reply(number, size))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * capacity < used < 1.2 * capacity


def test_equal_parts_are_kept_once() -> None:
    cache = ResponseCache(MemoryStore(100_000))
    replies = [shared(number, 10) for number in range(2)]
    for key, response in replies:
        cache.put(key, response)
    first, second = (cache.get(key) for key, _ in replies)
    assert first is not None and second is not None
    assert (first, second) == tuple(response for _, response in replies)
    assert first.commands is second.commands and first.headers is second.headers


def test_a_command_that_is_repeated_counts_once() -> None:
    """A batch of 50,000 commands is a tuple of 400 KB; its names are few objects."""
    cache = ResponseCache(MemoryStore(4_000_000))
    name = unshared("heads")
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(12):
            key, reply = make(number, 41)
            cache.put(key, CachedResponse((name,) * 50_000, reply.headers, reply.body))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * 4_000_000 < used < 1.2 * 4_000_000
