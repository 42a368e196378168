"""Admission control in the application: which request takes which slot, and when it gives it back."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider, Watch, returning

from hgwire_wsgi import BytesResponse, CacheSettings, LegacyStreamResponse, ServerCapabilities, StreamResponse, WireApp
from hgwire_wsgi.access.admission import THREADS_VARIABLE, Admission, AdmissionControl
from hgwire_wsgi.commands.registry import CommandRegistry
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.http import uwsgi

BUSY = "503 the server is busy; try again in 10 seconds"
MANY = "wsgi.multithread"


def used(app: WireApp) -> dict[str, int]:
    control = app._control.get()
    assert control is not None
    return {lane: count for lane, count in control._used.items() if count}


def control_of(app: WireApp) -> AdmissionControl:
    control = app._control.get()
    assert control is not None
    return control


def make(provider: FakeProvider | None = None, **options: Any) -> WireApp:
    settings = {"threads": 2, "wait": 0, "make_wait": 0, **options.pop("admission", {})}
    return WireApp(provider or FakeProvider(OPEN), admission=Admission(**settings), **options)


def ask(app: WireApp, query: str, body: bytes = b"", **environ: Any) -> Exchange:
    return Exchange(app, query, body=body, **{MANY: True, **environ})


class Unreadable:
    """A request body that never comes."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


NEVER = {"wsgi.input": Unreadable(), "CONTENT_LENGTH": "1000000", "REQUEST_METHOD": "POST"}


@contextlib.contextmanager
def full(app: WireApp) -> Iterator[None]:
    """All slots are taken."""
    slot = control_of(app).enter("send")
    yield
    slot.release()
    assert used(app) == {}


def stream() -> StreamResponse:
    """A reply that stays long when it is compressed."""
    return StreamResponse([random.Random(each).randbytes(100_000) for each in range(3)])


def test_a_stream_that_turned_out_to_be_short_has_no_slot() -> None:
    app = make(commands=returning(StreamResponse([b"x"] * 3)))
    exchange = ask(app, "cmd=x", HTTP_X_HGPROTO_1="0.1 0.2 comp=zstd,zlib,none")
    assert used(app) == {}
    assert exchange.headers["Content-Length"] == str(len(exchange.read()))


def test_a_stream_of_20_kilobytes_has_a_slot_until_it_is_closed() -> None:
    app = make(commands=returning(StreamResponse([random.Random(1).randbytes(20_000)])))
    exchange = ask(app, "cmd=x", HTTP_X_HGPROTO_1="0.1 0.2 comp=zstd,zlib,none")
    assert used(app) == {"send": 1}
    assert exchange.headers["Content-Length"] == str(len(exchange.read()))
    assert used(app) == {}


def test_small_commands_take_no_slot() -> None:
    app = make()
    with full(app):
        for _ in range(2):
            assert ask(app, "cmd=heads").read()
            assert ask(app, "cmd=capabilities").status.startswith("200")


@pytest.mark.parametrize("response", [stream(), LegacyStreamResponse([b"x" * 100_000] * 3)])
def test_a_long_reply_has_a_slot_until_it_is_closed(response: object) -> None:
    provider = FakeProvider(OPEN)
    app = make(provider, commands=returning(response))
    exchange = ask(app, "cmd=x")
    assert used(app) == {"send": 1}
    refused = ask(app, "cmd=x")
    assert (refused.status, refused.headers["Retry-After"]) == (BUSY, "10")
    assert refused.read() == b"0\nthe server is busy; try again in 10 seconds\n"
    exchange.close()
    assert used(app) == {}
    assert provider.held == 0


def test_a_reply_that_turns_out_to_be_long_needs_one_too() -> None:
    provider = FakeProvider(OPEN)
    app = make(provider, commands=returning(BytesResponse(b"x" * 100_000)))
    exchange = ask(app, "cmd=x")
    assert used(app) == {"send": 1}
    assert len(exchange.read()) == 100_000
    assert used(app) == {}
    with full(app):
        assert ask(app, "cmd=x").status == BUSY
    assert provider.held == 0


def test_what_cannot_be_sent_is_abandoned() -> None:
    """All its resources are released, and a failure of one is logged."""
    closed: list[int] = []

    def chunks() -> Iterator[bytes]:
        try:
            yield os.urandom(100_000)
            yield os.urandom(100_000)
        finally:
            closed.append(1)
            raise OSError("closing failed")

    provider = FakeProvider(OPEN)
    registry = CommandRegistry.standard()
    registry.command("x", permission="pull", reply="any")(lambda context: StreamResponse(chunks()))
    app = make(provider, commands=registry)
    with full(app):
        assert ask(app, "cmd=x").status == BUSY
    assert (closed, provider.held) == ([1], 0)


def test_a_push_is_refused_before_its_body_is_read() -> None:
    app = make()
    with full(app):
        for query in ("cmd=unbundle&heads=", "cmd=pushkey&namespace=a&key=b&old=c&new=d"):
            refused = ask(app, query, **NEVER)
            assert refused.status == BUSY
            with pytest.raises(Exception, match="closing the connection"):
                refused.read()


def test_a_push_without_a_body_may_wait_for_a_lock() -> None:
    seen: list[dict[str, int]] = []
    registry = CommandRegistry.standard()
    registry.command("store", permission="push")(lambda context: seen.append(used(app)) or b"")
    app = make(commands=registry)
    ask(app, "cmd=store", REQUEST_METHOD="POST").read()
    assert seen == [{"receive": 1}]
    assert used(app) == {}


def test_posted_arguments_are_not_read_without_a_slot() -> None:
    app = make(capabilities=ServerCapabilities(post_args=True))
    with full(app):
        assert ask(app, "cmd=known", HTTP_X_HGARGS_POST="1000", **NEVER).status == BUSY
    answered = ask(app, "cmd=known", b"nodes=", HTTP_X_HGARGS_POST="6")
    assert answered.status.startswith("200")
    answered.read()
    assert used(app) == {}


def test_a_request_moves_from_receiving_to_sending() -> None:
    app = make(commands=returning(stream(), reply="stream"), capabilities=ServerCapabilities(post_args=True))
    exchange = ask(app, "cmd=x", b"a=", HTTP_X_HGARGS_POST="2")
    assert used(app) == {"send": 1, "make": 1}
    exchange.close()
    assert used(app) == {}


def test_who_has_no_slot_for_the_reply_gives_back_the_other_one() -> None:
    app = make(
        commands=returning(stream(), reply="stream"),
        capabilities=ServerCapabilities(post_args=True),
        admission={"threads": 8, "send": 1},
    )
    with full(app):
        assert ask(app, "cmd=x", b"a=", HTTP_X_HGARGS_POST="2").status == BUSY


def test_the_rest_of_a_refused_request_is_read_in_a_slot() -> None:
    app = make(FakeProvider())
    denied = ask(app, "cmd=unbundle&heads=", b"x" * 100)
    assert denied.status == "403 ssl required"
    assert list(denied.response)
    assert (used(app), denied.input.read()) == ({"receive": 1}, b"")
    denied.close()
    with full(app):
        denied = ask(app, "cmd=unbundle&heads=", **NEVER)
        with pytest.raises(Exception, match="closing the connection"):
            denied.read()


def test_waitress_has_received_the_request() -> None:
    """It needs no exception, which it would log with a traceback, to close the connection."""
    app = make()
    with full(app):
        refused = ask(app, "cmd=unbundle&heads=", **NEVER, **{"waitress.client_disconnected": bool})
        assert refused.status == BUSY
        refused.read()


def test_addresses_and_users_have_limits() -> None:
    app = make(commands=returning(stream()), admission={"threads": 8, "client": 1})
    one = ask(app, "cmd=x", REMOTE_ADDR="one", REMOTE_USER="ann")
    assert ask(app, "cmd=x", REMOTE_ADDR="one").status == BUSY
    assert ask(app, "cmd=x", REMOTE_ADDR="two", REMOTE_USER="ann").status == BUSY
    two = ask(app, "cmd=x", REMOTE_ADDR="two")
    one.close()
    two.close()


def test_a_refusal_is_an_outcome() -> None:
    watch = Watch()
    app = make(observers=[watch], commands=returning(stream()))
    with full(app):
        ask(app, "cmd=x").read()
    closed = watch.closed
    assert (closed.status, closed.outcome) == (503, "refused")
    assert closed.error == "the server is busy; try again in 10 seconds"


def test_making_is_limited_apart_from_sending() -> None:
    """Without a cache, the slot is kept until the response is closed."""
    app = make(commands=returning(stream(), reply="stream"), admission={"threads": 16, "make": 1})
    exchange = ask(app, "cmd=x")
    assert used(app) == {"send": 1, "make": 1}
    refused = ask(app, "cmd=x")
    assert refused.status == BUSY
    refused.close()
    exchange.close()
    assert used(app) == {}


def test_a_cached_bundle_is_made_in_a_slot_of_its_own(tmp_path: Path) -> None:
    """It is free when the bundle is complete, however slow the client is."""
    registry = CommandRegistry.standard()
    registry.command("x", permission="pull", reply="stream", cacheable=True)(
        lambda context: StreamResponse([os.urandom(100_000) for _ in range(3)])
    )
    app = make(commands=registry, admission={"threads": 16, "make": 1}, cache=CacheSettings(folder=tmp_path))
    exchanges = [ask(app, "cmd=x")]
    assert app.bundles is not None
    assert app.bundles.wait(10)
    exchanges.append(ask(app, "cmd=x"))
    assert used(app) == {"send": 2}
    for exchange in exchanges:
        exchange.close()


def test_a_failure_gives_all_slots_back() -> None:
    def fail(context: object) -> StreamResponse:
        raise CommandFailed("no")

    registry = CommandRegistry.standard()
    registry.command("x", permission="pull", reply="stream")(fail)
    app = make(commands=registry)
    ask(app, "cmd=x").read()
    assert used(app) == {}


def test_a_bundle_that_is_an_error_gives_its_slot_back() -> None:
    registry = CommandRegistry.standard()
    registry.command("x", permission="pull", reply="stream")(lambda context: BytesResponse(b"short"))
    app = make(commands=registry)
    ask(app, "cmd=x").read()
    assert used(app) == {}


@pytest.mark.parametrize(("threads", "environ"), [(1, {MANY: True}), (8, {MANY: False}), (8, {})])
def test_with_one_thread_nothing_is_limited(threads: int, environ: dict[str, Any]) -> None:
    app = make(commands=returning(stream()), admission={"threads": threads, "client": 1})
    exchanges = [Exchange(app, "cmd=x", REMOTE_ADDR="one", **environ) for _ in range(5)]
    assert {exchange.status[:3] for exchange in exchanges} == {"200"}
    for exchange in exchanges:
        exchange.close()


def test_how_many_threads_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's setting, the environment, the server, and a default."""

    def slots(**settings: int) -> int:
        return control_of(WireApp(FakeProvider(), admission=Admission(**settings))).slots

    assert slots() == 6
    monkeypatch.setattr("hgwire_wsgi.http.app.thread_count", lambda: 16)
    assert slots() == 12
    monkeypatch.setenv(THREADS_VARIABLE, "4")
    assert slots() == 3
    assert slots(threads=2) == 1
    monkeypatch.setenv(THREADS_VARIABLE, "many")
    assert slots() == 12
    monkeypatch.setattr("hgwire_wsgi.http.app.thread_count", lambda: 1)
    assert WireApp(FakeProvider())._control.get() is None
    assert uwsgi.thread_count() is None
