"""Minimum rates: what counts, what is shut down, and what is left alone."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from hgwire_wsgi.http import deadlines
from hgwire_wsgi.http.deadlines import Deadlines, Transfer, Watchdog, client_socket, stop_receiving

Pair = tuple[socket.socket, socket.socket]


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def unix() -> Iterator[Pair]:
    """The server's and the client's end of a connection whose bytes the system does not count."""
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def tcp() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    with near, far:
        yield near, far


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread looks; tests do."""
    monkeypatch.setattr(Watchdog, "_watch", lambda self: None)


def watchdog(clock: Clock, **settings: float) -> Watchdog:
    return Watchdog(Deadlines(**{"rate": 10, "receive": 4, "send": 8, **settings}), clock)  # type: ignore[arg-type]


def required(transfer: Transfer | None) -> Transfer:
    assert transfer is not None
    return transfer


def test_only_the_sockets_of_known_servers_are_used(unix: Pair) -> None:
    near, _ = unix
    assert client_socket({"gunicorn.socket": near, "SERVER_PROTOCOL": "HTTP/1.1"}) is near
    assert client_socket({"gunicorn.socket": near, "SERVER_PROTOCOL": "HTTP/2.0"}) is None
    assert client_socket({"gunicorn.socket": object(), "SERVER_PROTOCOL": "HTTP/1.1"}) is None
    assert client_socket({"some.socket": near, "SERVER_PROTOCOL": "HTTP/1.1"}) is None


def test_without_a_socket_or_a_rate_nothing_is_watched(unix: Pair, clock: Clock) -> None:
    assert watchdog(clock).receiving(None) is None
    assert watchdog(clock).sending(None, 100) is None
    assert watchdog(clock, rate=0).receiving(unix[0]) is None
    assert watchdog(clock, rate=0).sending(unix[0], 100) is None


@pytest.mark.usefixtures("quiet")
def test_a_body_that_stops_is_given_up_but_can_be_answered(unix: Pair, clock: Clock) -> None:
    near, far = unix
    watch = watchdog(clock)
    transfer = required(watch.receiving(near))
    transfer.begin()
    clock.now += 4
    assert watch.look()
    assert not transfer.expired
    clock.now += 0.1
    assert not watch.look()
    assert transfer.expired
    assert near.recv(10) == b""
    near.sendall(b"408")
    assert far.recv(10) == b"408"


@pytest.mark.usefixtures("quiet")
def test_a_reply_that_is_not_read_is_cut_off(tcp: Pair, clock: Clock) -> None:
    near, far = tcp
    watch = watchdog(clock)
    transfer = required(watch.sending(near))
    near.sendall(b"x")
    transfer.begin()
    clock.now += 9
    watch.look()
    with pytest.raises(BrokenPipeError):
        near.sendall(b"x")
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 1, 0)
    del far


@pytest.mark.usefixtures("quiet")
def test_only_waiting_counts(unix: Pair, clock: Clock) -> None:
    """The application may take as long as it likes between two reads."""
    watch = watchdog(clock)
    transfer = required(watch.receiving(unix[0]))
    transfer.end()
    for _ in range(10):
        transfer.begin()
        clock.now += 0.4
        transfer.end()
        clock.now += 1000
        assert not watch.look()
    transfer.begin()
    clock.now += 0.1
    watch.look()
    assert transfer.expired


@pytest.mark.usefixtures("quiet")
def test_each_period_needs_its_bytes(unix: Pair, clock: Clock) -> None:
    """A fast beginning does not pay for a stop later on."""
    watch = watchdog(clock)
    transfer = required(watch.receiving(unix[0]))
    for moved in (1_000_000, 40, 40):
        transfer.begin()
        transfer.moved += moved
        clock.now += 3.9
        watch.look()
        transfer.end()
    assert not transfer.expired
    transfer.moved += 39
    transfer.begin()
    clock.now += 4.1
    watch.look()
    assert transfer.expired


@pytest.mark.usefixtures("quiet")
def test_the_rest_of_a_refused_request_is_read_for_seconds_only(unix: Pair, clock: Clock) -> None:
    watch = watchdog(clock, linger=2)
    transfer = required(watch.lingering(unix[0]))
    transfer.begin()
    transfer.moved += 10**12
    clock.now += 2.1
    watch.look()
    assert transfer.expired


@pytest.mark.usefixtures("quiet")
def test_a_file_that_the_server_sends_has_its_time(unix: Pair, clock: Clock) -> None:
    watch = watchdog(clock)
    transfer = required(watch.sending(unix[0], 1000))
    transfer.begin()
    clock.now += 107.9
    watch.look()
    assert not transfer.expired
    clock.now += 0.2
    watch.look()
    assert transfer.expired


@pytest.mark.skipif(not deadlines._COUNTS, reason="only Linux counts the bytes of a connection")
@pytest.mark.usefixtures("quiet")
def test_the_system_counts(tcp: Pair, clock: Clock) -> None:
    """What a client takes of a file that the server sends by itself, and what it sends."""
    near, far = tcp
    watch = watchdog(clock)
    sending, receiving = required(watch.sending(near, 10**9)), required(watch.receiving(near))
    for transfer in (sending, receiving):
        transfer.begin()
    for _ in range(5):
        near.sendall(bytes(80))
        far.sendall(bytes(40))
        far.recv(80, socket.MSG_WAITALL)
        near.recv(40, socket.MSG_WAITALL)
        time.sleep(0.05)
        clock.now += 3.9
        watch.look()
    assert not (sending.expired or receiving.expired)
    clock.now += 8.1
    watch.look()
    assert sending.expired
    assert receiving.expired


@pytest.mark.parametrize("data", [b"short", OSError])
def test_a_system_that_does_not_count(tcp: Pair, clock: Clock, monkeypatch: pytest.MonkeyPatch, data: object) -> None:
    monkeypatch.setattr(deadlines, "_TCP_INFO_COUNTERS", Counters(data))
    assert required(watchdog(clock).sending(tcp[0], 1000)).period == 108
    monkeypatch.setattr(deadlines, "_COUNTS", False)
    assert required(watchdog(clock).sending(tcp[0], 1000)).period == 108


class Counters:
    def __init__(self, data: object) -> None:
        self._data = data
        self.size = 136

    def unpack(self, data: bytes) -> object:
        if self._data is OSError:
            raise OSError
        return struct.unpack("=120xQQ", b"short")


def test_the_watchdog_wakes_a_thread_that_waits(tcp: Pair) -> None:
    """In both directions, by itself; and its thread ends when there is nothing to watch."""
    near, far = tcp
    watch = Watchdog(Deadlines(rate=1000, receive=0.2, send=0.4))
    receiving, sending = required(watch.receiving(near)), required(watch.sending(near))
    receiving.begin()
    assert near.recv(10) == b""
    receiving.end()
    sending.begin()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            near.sendall(bytes(1 << 20))
    sending.end()
    assert receiving.expired
    assert sending.expired
    del far


def test_its_thread_ends_and_starts_again(unix: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "_IDLE_SECONDS", 0.02)
    watch = Watchdog(Deadlines(receive=0.1))
    for _ in range(2):
        transfer = required(watch.receiving(unix[0]))
        transfer.begin()
        transfer.end()
        deadline = time.monotonic() + 10
        while watch._running:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_system_without_threads(unix: Pair, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    watch = watchdog(clock)
    transfer = required(watch.receiving(unix[0]))

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        transfer.begin()
    assert not watch._running
    transfer.end()


def test_a_closed_connection_stays_closed(unix: Pair) -> None:
    near, _ = unix
    near.close()
    stop_receiving(near)


def test_settings_are_checked() -> None:
    for wrong in ({"rate": -1}, {"receive": 0}, {"send": 0}, {"linger": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Deadlines(**wrong)  # type: ignore[arg-type]  # by name
