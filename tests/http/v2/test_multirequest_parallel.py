"""Commands of one ``multirequest`` side by side: streams, order, bounds, and that nothing is left behind."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import FakeProvider
from v2_support import OPEN, Answer, ask, chunks, command, commands, make_app, registry, send

from hgwire_wsgi import ApiSettings, CommandContext, Lease, Limits, StreamResponse
from hgwire_wsgi.errors import LocalProtocolError, RepositoryBusy
from hgwire_wsgi.framing import STREAM_BEGIN, STREAM_END, ZLIB

TIMEOUT = 30
"""Seconds after which a test that would hang fails instead."""


class Provider(FakeProvider):
    """Counts leases from any thread, and knows the most that were out at a time."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        super().__init__(settings or OPEN)
        self.lock = threading.Lock()
        self.out = self.most = 0

    def lease(self, name: str) -> Lease:
        with self.lock:
            self.leased += 1
            self.out += 1
            self.most = max(self.most, self.out)

        def release() -> None:
            with self.lock:
                self.released += 1
                self.out -= 1

        return Lease(self.repository, release)


def parallel(made: Any = None, *, workers: int = 4, provider: Provider | None = None, **options: Any) -> Any:
    encodings = options.pop("encodings", ())
    api = ApiSettings(server=True, http_v2=True, workers=workers, encodings=encodings)
    return make_app(made, api=api, provider=provider or Provider(), **options)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name == "hgwire-worker"] == []


def meeting(count: int) -> Callable[[], bytes]:
    """A command that returns when ``count`` of its kind run at the same time."""
    barrier = threading.Barrier(count)

    def meet() -> bytes:
        barrier.wait(TIMEOUT)
        return threading.current_thread().name.encode()

    return meet


# Streams and order.


def test_independent_commands_run_at_the_same_time() -> None:
    provider = Provider()
    answer = ask(parallel(registry(x=meeting(3)), provider=provider), "ro/multirequest", commands("x", "x", "x"))
    assert {reply.data for reply in answer.replies.values()} == {b"hgwire-worker"}
    assert sorted(each.stream_id for each in answer.frames) == [2, 4, 6]
    assert {each.stream_flags for each in answer.frames} == {STREAM_BEGIN | STREAM_END}
    # One for the checks, which was given back before the others were taken.
    assert (provider.leased, provider.released, provider.most) == (4, 4, 3)


@pytest.mark.parametrize("encodings", [(), (ZLIB,)])
def test_streams_have_numbers_that_fit_whatever_the_limits(encodings: Any) -> None:
    app = parallel(workers=1, encodings=encodings, limits=Limits(open_streams=1000, encoded_streams=1000))
    answer = ask(app, "ro/multirequest", commands(*["heads"] * 300), HTTP_X_HGPROTO_1="comp=zlib")
    assert len(answer.replies) == 300
    assert max(each.stream_id for each in answer.frames) == 254


def test_frames_of_long_responses_are_interleaved() -> None:
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    def taking_turns(number: int) -> Iterator[bytes]:
        for _ in range(4):
            assert turns[number].acquire(timeout=TIMEOUT)
            yield bytes([number]) * 65536
            turns[1 - number].release()

    made = registry(x=lambda: StreamResponse(taking_turns(0)), y=lambda: StreamResponse(taking_turns(1)))
    answer = ask(parallel(made), "ro/multirequest", commands("x", "y"))
    assert {number: len(set(reply.data)) for number, reply in answer.replies.items()} == {1: 1, 3: 1}
    streams = [each.stream_id for each in answer.frames]
    assert len({tuple(each) for each in zip(streams[::2], streams[1::2], strict=True)}) == 2
    for number, stream_id in ((1, 2), (3, 4)):
        flags = [each.stream_flags for each in answer.frames if each.request_id == number]
        assert {each.stream_id for each in answer.frames if each.request_id == number} == {stream_id}
        assert flags == [STREAM_BEGIN, *[0] * 6, STREAM_END]


def test_a_push_runs_alone_and_in_its_place() -> None:
    events: list[str] = []
    running = threading.Semaphore(0)
    made = registry()

    def pull(context: CommandContext, name: bytes) -> bytes:
        running.release()
        events.append("pull " + name.decode())
        return name

    made.command("read", permission="pull", args=["name"])(pull)

    @made.command("change", permission="push", body=True)
    def change(context: CommandContext) -> bytes:
        assert [thread for thread in threading.enumerate() if thread.name == "hgwire-worker"] == []
        events.append("push")
        return context.body.read(100)

    def read(name: bytes) -> Any:
        return ("read", {b"name": name})

    body = commands(read(b"a"), read(b"b"), ("change", {}, b"1"), ("change", {}, b"2"), read(b"c"), read(b"d"))
    answer = ask(parallel(made), "rw/multirequest", body)
    assert [sorted(events[:2]), events[2:4], sorted(events[4:])] == [
        ["pull a", "pull b"],
        ["push", "push"],
        ["pull c", "pull d"],
    ]
    assert [answer.replies[number].data for number in range(1, 13, 2)] == [b"a", b"b", b"1", b"2", b"c", b"d"]
    assert [each.stream_id for each in answer.frames if each.request_id in (5, 7)] == [2, 2]


def test_a_single_command_and_a_single_url_need_no_worker() -> None:
    app = parallel(registry(x=lambda: threading.current_thread().name.encode()))
    here = threading.current_thread().name.encode()
    assert ask(app, "ro/x", commands("x")).replies[1].data == here
    assert ask(app, "ro/multirequest", commands("x")).replies[1].data == here
    answer = ask(app, "rw/multirequest", commands("x", "put", "x"))
    assert [answer.replies[number].data for number in (1, 3, 5)] == [here, b"0 ", here]
    assert [each.stream_flags for each in answer.frames] == [STREAM_BEGIN] * 3


def test_data_of_commands_side_by_side() -> None:
    made = registry()

    @made.command("count", permission="pull", body=True)
    def count(context: CommandContext) -> bytes:
        return b"%d" % len(context.body.read(100))

    body = command(1, "count", data=b"x") + command(3, "count", data=b"xxx", begin=False)
    assert [reply.data for _, reply in sorted(ask(parallel(made), "ro/multirequest", body).replies.items())] == [
        b"1",
        b"3",
    ]


def test_each_worker_encodes_its_own_stream() -> None:
    made = registry(x=lambda: StreamResponse(chunks(300)))
    app = parallel(made, encodings=(ZLIB,), limits=Limits(encoded_streams=2))
    answer = ask(app, "ro/multirequest", commands(*["x"] * 7), HTTP_X_HGPROTO_1="comp=zlib")
    assert {reply.data for reply in answer.replies.values()} == {b"".join(chunks(300))}
    assert len(answer.replies) == 7
    # A client that refuses more than two encoded streams at a time takes this.
    assert {each.stream_id for each in answer.frames} == {2, 4}
    assert len([each for each in answer.frames if each.type_id == 8]) == 7


def test_more_responses_than_stream_numbers() -> None:
    answer = ask(parallel(), "ro/multirequest", commands(*[("echo", {b"text": b"%d" % n}) for n in range(300)]))
    assert [answer.replies[2 * number + 1].data for number in range(300)] == [b"%d" % n for n in range(300)]
    assert {each.stream_id for each in answer.frames} <= set(range(2, 256, 2))


# Failures.


def test_failures_beside_others() -> None:
    def failing() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise RuntimeError("secret")

    def missing() -> Any:
        raise LookupError("secret")

    made = registry(x=lambda: StreamResponse(failing()), y=missing, z=lambda: StreamResponse(chunks(100)))
    replies = ask(parallel(made), "ro/multirequest", commands("x", "y", ("known", {}), "z")).replies
    assert replies[1].error == replies[3].error == b"internal server error"
    assert replies[5].error == b"known: missing argument nodes"
    assert replies[7].data == b"".join(chunks(100))
    # What cannot run at all needs no repository.
    malformed = ask(parallel(made), "ro/multirequest", commands(("batch", {}), ("batch", {}))).replies
    assert {reply.error for reply in malformed.values()} == {b"batch: missing argument cmds"}


def test_a_repository_that_is_busy_when_its_turn_comes() -> None:
    class Busy(Provider):
        def lease(self, name: str) -> Lease:
            if self.leased:
                raise RepositoryBusy("busy")
            return super().lease(name)

    provider = Busy()
    replies = ask(parallel(provider=provider), "ro/multirequest", commands("heads", "heads")).replies
    assert {(reply.error, reply.kind) for reply in replies.values()} == {(b"busy", "application")}
    assert provider.leased == provider.released == 1


def test_what_was_checked_is_what_runs() -> None:
    """The command that was checked runs, even if the repository has replaced it since."""
    from hgwire_wsgi import Command

    provider = Provider()

    class Changing(type(provider.repository)):  # type: ignore[misc]  # of the fake, whatever it is
        def commands(self) -> Any:
            permission = "pull" if provider.leased == 1 else "push"
            return {"x": Command(name="x", handler=lambda context: permission.encode(), permission=permission)}

    provider.repository = Changing(OPEN)
    replies = ask(parallel(provider=provider), "ro/multirequest", commands("x", "x")).replies
    assert {reply.data for reply in replies.values()} == {b"pull"}


def test_a_bug_below_the_frames_cuts_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise LocalProtocolError("a bug")

    provider = Provider()
    app = parallel(provider=provider)
    monkeypatch.setattr("hgwire_wsgi.http.v2.multirequest.send_framed", broken)
    answer = ask(app, "ro/multirequest", commands("heads", "heads"))
    assert answer.text == (500, "internal server error\n")
    assert provider.leased == provider.released


# Clients.


def endless(closed: threading.Event) -> Iterator[bytes]:
    try:
        while True:
            yield b"x" * 65536
    finally:
        closed.set()


def test_a_client_that_disconnects_stops_the_workers() -> None:
    provider, closed = Provider(), [threading.Event() for _ in range(3)]
    streams = iter(closed)
    made = registry(x=lambda: StreamResponse(endless(next(streams))))
    exchange = send(parallel(made, provider=provider), "ro/multirequest", commands("x", "x", "x", "heads"))
    for _ in range(10):
        assert next(exchange.response)
    assert provider.out >= 1
    exchange.close()
    # Not eventually: when the response is closed, it is over.
    assert provider.out == 0
    assert provider.leased == provider.released
    assert all(each.is_set() for each in closed)


def test_a_client_that_leaves_before_anything_was_sent() -> None:
    provider = Provider()
    made = registry(x=lambda: StreamResponse(endless(threading.Event())))
    app = parallel(made, provider=provider)
    exchange = send(app, "ro/multirequest", commands("x", "x"))
    exchange.close()
    exchange.environ["wsgi.input"].seek(0)
    with pytest.raises(OSError, match="gone"):
        app(exchange.environ, lambda status, headers: (_ for _ in ()).throw(OSError("gone")))
    assert provider.leased == provider.released > 0


def test_a_slow_client_does_not_keep_workers_from_others() -> None:
    """The only thread waits for a client that does not read; another request runs in its own thread."""
    made = registry(x=lambda: StreamResponse(endless(threading.Event())))
    app = parallel(made, workers=1)
    slow = send(app, "ro/multirequest", commands("x", "x"))
    answer = ask(app, "ro/multirequest", commands("heads", ("echo", {b"text": b"1"})))
    assert [answer.replies[number].data for number in (1, 3)] == [b"11" * 20 + b"\n", b"1"]
    assert [each.stream_id for each in answer.frames] == [2, 4]
    slow.close()
    beside = ask(parallel(registry(x=meeting(1)), workers=1), "ro/multirequest", commands("x", "x"))
    assert {reply.data for reply in beside.replies.values()} == {b"hgwire-worker"}


def test_a_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    app = parallel(registry(x=lambda: StreamResponse(endless(threading.Event()))), workers=2)
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            answer = ask(app, "ro/multirequest", commands("heads", "heads"))
        assert [each.stream_id for each in answer.frames] == [2, 4]
        # A response made by the calling thread ends with its client too.
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            exchange = send(app, "ro/multirequest", commands("x", "x"))
            assert next(exchange.response)
            exchange.close()


def test_workers_see_the_context_of_the_request() -> None:
    variable = contextvars.ContextVar("variable", default=b"")
    made = registry(x=lambda: variable.get())
    variable.set(b"here")
    replies = ask(parallel(made), "ro/multirequest", commands("x", "x")).replies
    assert {reply.data for reply in replies.values()} == {b"here"}


def test_an_answer_is_the_same_with_and_without_workers() -> None:
    body = commands("heads", ("echo", {b"text": b"x" * 40_000}), ("known", {}))
    alone = ask(make_app(), "ro/multirequest", body).replies
    beside: Answer = ask(parallel(), "ro/multirequest", body)
    assert beside.replies == alone
