"""Deadlines: minimum rates of transfers, where the server gives the application its socket.

The idea.  A thread that reads a request body, or sends a reply, waits for its client inside the server, where no
timeout of ours applies: a client that moves one byte per second defeats the timeout of each system call.  So each
process has one watchdog thread.  It looks at all transfers that wait for their clients, and shuts the socket down
when too few bytes have moved.  The waiting system call then returns, and the thread goes on.

- A :class:`Transfer` is one direction of one request.  The thread of the request owns it, and says when it waits.
- A :class:`Watchdog` holds the transfers that wait now.  Its thread runs only while there are any.

What is always true: only time spent waiting for the client counts, not that of the application.  A socket is shut down
only while its transfer waits, so never after the server has closed it: ending a wait takes the lock that the watchdog
holds.  Sockets of servers that this module does not know are never used; those servers, or the front end, have
timeouts of their own (``docs/deployment.rst``).

The system counts the bytes of a TCP connection (Linux).  Where it does not, the bytes count that the application reads
and writes, in chunks; for a file that the server sends by itself, the whole size must be sent in ``size / rate``
seconds.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs

__all__ = ["Deadlines", "Transfer", "Watchdog", "client_socket", "stop_receiving"]

_TICK_SECONDS = 0.5
"""How often the watchdog looks; more often if a period is short."""

_TCP_INFO_COUNTERS = struct.Struct("=120xQQ")
"""``tcpi_bytes_acked`` and ``tcpi_bytes_received`` of ``struct tcp_info`` (Linux 4.1 and later)."""

_COUNTS = sys.platform.startswith("linux")

_IDLE_SECONDS = 5.0
"""Seconds without a waiting transfer after which the watchdog's thread ends."""

Direction = Literal["receive", "send"]


@attrs.frozen(kw_only=True)
class Deadlines:
    """Minimum rates, in periods of waiting for a client.

    Attributes:
        rate: bytes per second; 0 for none.  Apache's ``mod_reqtimeout`` has 500.
        receive: seconds of waiting for a request body in which ``rate * receive`` bytes must arrive.
        send: seconds of waiting for a client to take its reply.  A client may compute in between.
        linger: seconds in which the rest of a refused request is read, so that the client reads the refusal.
    """

    rate: int = attrs.field(default=1024, validator=attrs.validators.ge(0))
    receive: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))
    send: float = attrs.field(default=120.0, validator=attrs.validators.gt(0))
    linger: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """Return the connection to the client, if this server gives it to the application; ``None`` otherwise.

    gunicorn does.  Its HTTP/2 connections carry several requests, so they are left alone.
    """
    found = environ.get("gunicorn.socket")
    if isinstance(found, socket.socket) and environ.get("SERVER_PROTOCOL") in ("HTTP/1.0", "HTTP/1.1"):
        return found
    return None


@attrs.define(eq=False)
class Transfer:
    """One direction of one request: how many bytes have moved, and how long it has waited for the client.

    Attributes:
        connection: to the client.
        direction: a reply that is too slow is cut off; after a body that is too slow, a reply can still be sent.
        enough: bytes that must move in a period.
        period: seconds of waiting.
        moved: bytes that the application has read or written; its own thread adds to them.
        expired: set when the watchdog has shut the connection down.
    """

    _watchdog: Watchdog
    connection: socket.socket
    direction: Direction
    enough: float
    period: float
    moved: int = 0
    expired: bool = False
    _began: float | None = None
    _waited: float = 0.0
    _mark: tuple[float, int] | None = None

    def begin(self) -> None:
        """Waiting for the client begins."""
        if self._mark is None:
            self._mark = 0.0, self._count()
        self._began = self._watchdog.now()
        self._watchdog.add(self)

    def end(self) -> None:
        """Waiting has ended; the connection will not be touched until it begins again."""
        if self._began is not None:
            self._watchdog.discard(self)
            self._waited += self._watchdog.now() - self._began
            self._began = None

    def check(self, now: float) -> None:
        """Shut the connection down if too little has moved; called by the watchdog while the transfer waits."""
        assert self._mark is not None and self._began is not None
        waited, count = self._waited + now - self._began, self._count()
        if count - self._mark[1] >= self.enough:
            self._mark = waited, count
        elif waited - self._mark[0] > self.period:
            self._expire()

    def _expire(self) -> None:
        self.expired = True
        if self.direction == "receive":
            stop_receiving(self.connection)
            return
        with contextlib.suppress(OSError):
            # Closing it drops what the system has buffered: megabytes for a client that reads nothing.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _shut_down(self.connection, socket.SHUT_RDWR)

    def _count(self) -> int:
        """Bytes moved, as the system counts them if it does."""
        counters = _tcp_counters(self.connection)
        return self.moved if counters is None else counters[self.direction == "receive"]


def stop_receiving(connection: socket.socket) -> None:
    """Let reading from a connection end at once; a reply can still be sent."""
    _shut_down(connection, socket.SHUT_RD)


def _shut_down(connection: socket.socket, how: int) -> None:
    # SSLSocket.shutdown would continue in clear text.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, how)


def _tcp_counters(connection: socket.socket) -> tuple[int, int] | None:
    """Bytes that the client has acknowledged and sent; ``None`` if unknown."""
    if not _COUNTS or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_COUNTERS.size)
        acknowledged, received = _TCP_INFO_COUNTERS.unpack(data)
    except (OSError, struct.error):
        return None
    return acknowledged, received


class Watchdog:
    """Ends transfers that are too slow.  Each process has its own.

    Args:
        deadlines: the minimum rates.
        clock: seconds, as :func:`time.monotonic`.
    """

    def __init__(self, deadlines: Deadlines, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self._deadlines = deadlines
        self._lock = threading.Lock()
        self._waiting: set[Transfer] = set()
        self._running = False

    def receiving(self, connection: socket.socket | None) -> Transfer | None:
        """A transfer for a request body; ``None`` if it cannot be watched, or no rate is set."""
        period = self._deadlines.receive
        return self._transfer(connection, "receive", self._deadlines.rate * period, period)

    def lingering(self, connection: socket.socket | None) -> Transfer | None:
        """A transfer for the rest of a refused request, which ends after ``Deadlines.linger`` in any case."""
        return self._transfer(connection, "receive", math.inf, self._deadlines.linger)

    def sending(self, connection: socket.socket | None, size: int = 0) -> Transfer | None:
        """A transfer for a reply; ``None`` if it cannot be watched, or no rate is set.

        Args:
            connection: to the client.
            size: bytes of a file that the server sends by itself.
        """
        rate, period = self._deadlines.rate, self._deadlines.send
        if size and rate and connection is not None and _tcp_counters(connection) is None:
            period += size / rate
        return self._transfer(connection, "send", rate * period, period)

    def _transfer(
        self, connection: socket.socket | None, direction: Direction, enough: float, period: float
    ) -> Transfer | None:
        return Transfer(self, connection, direction, enough, period) if connection is not None and enough else None

    def add(self, transfer: Transfer) -> None:
        """A transfer begins to wait."""
        with self._lock:
            self._waiting.add(transfer)
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._watch, name="hgwire-watchdog", daemon=True).start()
        except RuntimeError:  # the system has no more threads; the next transfer tries again
            self._running = False

    def discard(self, transfer: Transfer) -> None:
        """A transfer no longer waits."""
        with self._lock:
            self._waiting.discard(transfer)

    def look(self) -> bool:
        """Check all transfers that wait.

        Returns:
            Whether there are any.
        """
        with self._lock:
            now = self.now()
            for transfer in self._waiting:
                transfer.check(now)
            self._waiting = {transfer for transfer in self._waiting if not transfer.expired}
            return bool(self._waiting)

    def _watch(self) -> None:
        periods = (self._deadlines.receive, self._deadlines.send, self._deadlines.linger)
        tick = min(_TICK_SECONDS, min(periods) / 4)
        idle = 0.0
        while True:
            time.sleep(tick)
            # Not at once: a fast transfer waits often and briefly.
            idle = 0.0 if self.look() else idle + tick
            with self._lock:
                if idle >= _IDLE_SECONDS and not self._waiting:
                    self._running = False
                    return
