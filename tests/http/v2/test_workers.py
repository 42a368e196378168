"""The threads of workers and their channel; ``test_multirequest_parallel`` shows what requests see of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hgwire_wsgi.http.v2.workers import Channel, Closed, Workers

TIMEOUT = 30
"""Seconds after which a test that would hang fails instead."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "hgwire-worker"] == []


def endless(closed: threading.Event) -> Iterator[bytes]:
    try:
        while True:
            yield b"x" * 65536
    finally:
        closed.set()


def test_a_full_channel_makes_its_writers_wait() -> None:
    channel = Channel(10)
    channel.put(b"x" * 9)
    channel.put(b"y" * 9)  # The bound was not reached before it.
    writer = threading.Thread(target=channel.put, args=(b"z",))
    writer.start()
    while writer.is_alive() and not channel._room._waiters:  # type: ignore[attr-defined]  # what it waits for
        pass
    assert writer.is_alive()
    assert channel.get() == b"x" * 9
    writer.join(TIMEOUT)
    assert [channel.get(), channel.get()] == [b"y" * 9, b"z"]


def test_a_closed_channel_keeps_nobody() -> None:
    channel = Channel(1)
    channel.put(b"x")
    raised: list[type] = []

    def write() -> None:
        try:
            channel.put(b"y")
        except Closed as error:
            raised.append(type(error))

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    channel.close()
    for writer in writers:
        writer.join(TIMEOUT)
    assert raised == [Closed] * 3
    channel.finish(2, None)
    assert channel.get() == (2, None)


@pytest.mark.parametrize("failure", [ValueError("first"), SystemExit(3)])
def test_what_a_task_raises_ends_all_of_them(failure: BaseException) -> None:
    closed = threading.Event()
    started = threading.Event()

    def good(lane: int) -> Iterator[bytes]:
        started.set()
        yield from endless(closed)

    def bad(lane: int) -> Iterator[bytes]:
        assert started.wait(TIMEOUT)
        raise failure
        yield b""

    with pytest.raises(type(failure)):
        for _ in Workers(2).interleave([good, bad], [2, 4], 1 << 20):
            pass
    assert closed.is_set()


def test_a_task_that_fails_when_it_is_closed() -> None:
    class Chunks:
        left = [b"x"]

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if not self.left:
                raise StopIteration
            return self.left.pop()

        def close(self) -> None:
            raise ValueError("closing")

    taken = []
    with pytest.raises(ValueError, match="closing"):
        for chunk in Workers(1).interleave([lambda lane: Chunks()], [2], 100):
            taken.append(chunk)
    assert taken == [b"x"]
