"""The threads of workers and their channel; ``test_multirequest_parallel`` shows what requests see of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

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


def task(*chunks: bytes) -> Callable[[int], Iterator[bytes]]:
    """A task that makes chunks."""
    return lambda lane: iter(chunks)


@pytest.mark.parametrize("lanes", [[2], [2, 4], [2, 4, 6, 8]])
@pytest.mark.parametrize("count", [1, 3])
def test_all_chunks_of_all_tasks_in_the_order_of_each(lanes: list[int], count: int) -> None:
    tasks = [task(*(b"%d.%d" % (number, piece) for piece in range(20))) for number in range(10)]
    taken = list(Workers(count).interleave(tasks, lanes, 10))
    for number in range(10):
        mine = [each for each in taken if each.startswith(b"%d." % number)]
        assert mine == [b"%d.%d" % (number, piece) for piece in range(20)]
    assert len(taken) == 200


def test_a_lane_has_one_task_at_a_time() -> None:
    busy: set[int] = set()

    def run(lane: int) -> Iterator[bytes]:
        assert lane not in busy
        busy.add(lane)
        yield b"%d" % lane
        busy.remove(lane)

    assert set(Workers(3).interleave([run] * 50, [2, 4], 5)) <= {b"2", b"4"}


def test_without_a_free_thread_the_caller_runs_the_tasks() -> None:
    workers, closed = Workers(1), threading.Event()
    busy = workers.interleave([lambda lane: endless(closed)], [2], 1)
    assert next(busy)
    threads: list[str] = []

    def run(lane: int) -> Iterator[bytes]:
        threads.append(threading.current_thread().name)
        yield b"%d" % lane

    assert list(workers.interleave([run, run, run], [2, 4], 100)) == [b"2", b"4", b"2"]
    assert set(threads) == {threading.current_thread().name}
    busy.close()
    assert closed.is_set()


def test_a_system_that_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    workers = Workers(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert list(workers.interleave([task(b"a"), task(b"b")], [2], 100)) == [b"a", b"b"]
    # The thread that could not start is free again.
    names: list[str] = []
    assert list(
        workers.interleave([lambda lane: iter([names.append(threading.current_thread().name) or b"x"])], [2], 9)
    )
    assert names == ["hgwire-worker"]


def test_closing_waits_for_the_tasks() -> None:
    closed = [threading.Event() for _ in range(3)]
    chunks = Workers(3).interleave([lambda lane, each=each: endless(each) for each in closed], [2, 4, 6], 1)
    assert next(chunks)
    chunks.close()
    # Those that started have ended.
    assert any(each.is_set() for each in closed)


def test_a_reader_waits_for_a_chunk() -> None:
    channel = Channel(10)
    reader = threading.Thread(target=channel.get)
    reader.start()
    while reader.is_alive() and not channel._filled._waiters:  # type: ignore[attr-defined]  # what it waits for
        pass
    channel.put(b"x")
    reader.join(TIMEOUT)
    assert not reader.is_alive()
