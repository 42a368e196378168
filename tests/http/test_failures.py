"""What commands raise: a failed request with a reason, and never the end of the server, unless a signal asks for it."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import NOISE, OPEN, Exchange, FakeProvider, Watch, streaming

from hgwire_wsgi import CacheSettings, CommandRegistry, StreamResponse, WireApp
from hgwire_wsgi.errors import HgWireError, RepositoryBusy
from hgwire_wsgi.http.failures import public


def raising(error: BaseException) -> Callable[..., Any]:
    def handler(*_: Any) -> Any:
        raise error

    return handler


def leave(*_: Any) -> Any:
    sys.exit(3)


def endless(*arguments: Any) -> Any:
    return endless(*arguments)


EXIT = "a command or hook on the server called exit: "
CASES = [
    (leave, "500 " + EXIT + "SystemExit(3)"),
    (raising(SystemExit()), "500 " + EXIT + "SystemExit()"),
    (raising(KeyboardInterrupt()), "500 " + EXIT + "KeyboardInterrupt()"),
    (raising(SystemExit("x" * 999)), "500 " + EXIT + "SystemExit('" + "x" * 88),
    (raising(MemoryError()), "503 the server is out of memory; try again later"),
    (endless, "500 the request nests too deeply for the server"),
    (raising(OSError(errno.ENOSPC, "full", "/secret")), "507 the server has no space left to write to"),
    (raising(OSError(errno.EFBIG, "large")), "507 the server has no space left to write to"),
    (raising(OSError(errno.EIO, "broken")), "500 internal server error"),
]


def app_of(handler: Callable[..., Any], **options: Any) -> WireApp:
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull")(handler)
    return WireApp(FakeProvider(OPEN), commands=commands, **options)


@pytest.mark.parametrize(("handler", "status"), CASES)
def test_a_command_that_fails_badly(handler: Callable[..., Any], status: str, caplog: pytest.LogCaptureFixture) -> None:
    watch = Watch()
    app = app_of(handler, observers=[watch])
    exchange = Exchange(app, "cmd=x")
    assert exchange.read() == f"0\n{status[4:]}\n".encode()
    assert exchange.status == status
    closed = watch.events[-1]
    outcome = "refused" if status.startswith("503") else "failed"
    assert (closed.outcome, closed.status, closed.error) == (outcome, int(status[:3]), status[4:])
    assert len(caplog.records) == 1
    assert "/secret" not in status
    assert Exchange(app, "cmd=heads").read()


@pytest.mark.parametrize(("handler", "status"), CASES)
def test_a_policy_that_fails_badly_refuses(handler: Callable[..., Any], status: str) -> None:
    exchange = Exchange(WireApp(FakeProvider(), policy=handler), "cmd=heads")
    exchange.read()
    assert exchange.status == "403 refused by the access policy"


@pytest.mark.parametrize("disk", [0, 1 << 20])
def test_a_stream_that_fails_badly(disk: int, caplog: pytest.LogCaptureFixture) -> None:
    def chunks() -> Iterator[bytes]:
        yield NOISE[:400_000]
        yield NOISE[400_000:800_000]
        sys.exit(3)

    provider, watch = FakeProvider(), Watch()
    app = WireApp(provider, commands=streaming(chunks), observers=[watch], cache=CacheSettings(disk=disk))
    exchange = Exchange(app, "cmd=x")
    with pytest.raises(HgWireError if not disk else Exception):
        exchange.read()
    assert watch.events[-1].outcome == "cut"
    assert provider.held == 0


def send_signal(number: int) -> Callable[..., Any]:
    def handler(*_: Any) -> Any:
        os.kill(os.getpid(), number)
        for _number in range(1000):
            pass
        raise AssertionError("the signal came too late")

    return handler


@pytest.fixture
def stopping() -> Iterator[None]:
    """A server that ends itself when it gets a signal, as gunicorn's workers do."""

    class Worker:
        def stop(self, number: int, frame: Any) -> None:
            sys.exit(0)

    before = signal.signal(signal.SIGUSR1, Worker().stop), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGUSR1, before[0])
    signal.signal(signal.SIGINT, before[1])


SIGNALS = [(signal.SIGUSR1, SystemExit), (signal.SIGINT, KeyboardInterrupt)]


@pytest.mark.parametrize(("number", "stop"), SIGNALS)
def test_a_signal_ends_the_server(stopping: None, number: int, stop: type[BaseException]) -> None:
    provider, watch = FakeProvider(OPEN), Watch()
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull")(send_signal(number))
    app = WireApp(provider, commands=commands, observers=[watch])
    with pytest.raises(stop):
        Exchange(app, "cmd=x")
    assert [type(event).__name__ for event in watch.events] == ["RequestStarted", "RequestClosed"]
    assert (watch.events[-1].outcome, watch.events[-1].error) == ("cut", f"the server is stopping: {stop.__name__}")
    assert provider.held == 0
    with pytest.raises(stop):
        Exchange(app_of(send_signal(number)), "cmd=x")
    with pytest.raises(stop):
        Exchange(WireApp(FakeProvider(), policy=send_signal(number)), "cmd=heads")


@pytest.mark.parametrize(("number", "stop"), SIGNALS)
def test_a_signal_ends_the_server_amid_a_response(stopping: None, number: int, stop: type[BaseException]) -> None:
    def chunks() -> Iterator[bytes]:
        yield NOISE[:400_000]
        send_signal(number)()

    watch = Watch()
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull")(lambda context: StreamResponse(chunks()))
    exchange = Exchange(WireApp(FakeProvider(), commands=commands, observers=[watch]), "cmd=x")
    with pytest.raises(stop):
        exchange.read()
    assert watch.events[-1].outcome == "cut"


@pytest.mark.parametrize(("number", "stop"), SIGNALS)
def test_a_signal_while_the_rest_of_a_request_is_read(stopping: None, number: int, stop: type[BaseException]) -> None:
    class Source:
        def read(self, size: int) -> bytes:
            send_signal(number)()
            return b""

    watch = Watch()
    with pytest.raises(stop):
        environ: dict[str, Any] = {"CONTENT_LENGTH": "9", "wsgi.input": Source()}
        Exchange(WireApp(FakeProvider(), observers=[watch]), "cmd=nosuch", **environ).read()
    assert [type(event).__name__ for event in watch.events] == ["RequestStarted", "RequestClosed"]


def test_outside_the_main_thread_nothing_comes_from_a_signal(stopping: None) -> None:
    found: list[str] = []

    def run() -> None:
        for handler in (leave, raising(KeyboardInterrupt())):
            exchange = Exchange(app_of(handler), "cmd=x")
            exchange.read()
            found.append(exchange.status[:3])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == ["500", "500"]


def test_errors_of_the_package_are_themselves() -> None:
    error = RepositoryBusy("busy")
    assert public(error) is error
