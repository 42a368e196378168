"""Clients that clone without ``hg``: at a pace, halfway, many at once.  They check whether a reply is complete."""

from __future__ import annotations

import hashlib
import http.client
import socket
import struct
import threading
import time

CLONE = "bundlecaps=HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02&cg=1&common=" + "0" * 40
"""Arguments of ``getbundle`` for a full clone."""

PATIENCE = 120
"""Seconds without a byte after which a client gives up."""


def connect(port: int, *, buffer: int = 0) -> socket.socket:
    """Connect to a server on this machine.

    Args:
        port: its port.
        buffer: bytes that the system receives ahead of the client; 0 for its default.
    """
    made = socket.socket()
    try:
        if buffer:
            # It must be set before the connection exists.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.settimeout(PATIENCE)
        made.connect(("127.0.0.1", port))
    except BaseException:
        made.close()
        raise
    return made


def clone_request(path: str, arguments: str = CLONE) -> bytes:
    """Return the HTTP request of a clone, without keep-alive."""
    return (
        f"GET {path}?cmd=getbundle HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Accept: application/mercurial-0.1\r\nX-HgArg-1: {arguments}\r\n\r\n"
    ).encode()


def uwsgi_request(path: str, arguments: str = CLONE) -> bytes:
    """Return the same request in uWSGI's own protocol, as nginx sends it."""
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": f"{path}?cmd=getbundle",
        "PATH_INFO": path,
        "QUERY_STRING": "cmd=getbundle",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT": "application/mercurial-0.1",
        "HTTP_X_HGARG_1": arguments,
    }
    body = b"".join(
        struct.pack("<H", len(part)) + part
        for item in variables.items()
        for part in (item[0].encode(), item[1].encode())
    )
    return struct.pack("<BHB", 0, len(body), 0) + body


class Clone(threading.Thread):
    """A clone that reads at an even pace.  Join it, then look at its attributes.

    Args:
        port: the server's port.
        request: what to send.
        rate: bytes per second; 0 for no limit.

    Attributes:
        status: the status of the reply; 0 if none came.
        received: bytes of the body.
        complete: whether the status is 200 and all of the body came, according to its length or its last chunk.
        digest: SHA-256 of the body.
        problem: the error of the connection, if there was one.
    """

    def __init__(self, port: int, request: bytes, *, rate: float = 0) -> None:
        super().__init__(daemon=True)
        self._port, self._request, self._rate = port, request, rate
        self.status = self.received = 0
        self.complete = False
        self.digest = self.problem = ""

    def run(self) -> None:
        """Send the request and read the reply."""
        try:
            with connect(self._port, buffer=65536 if self._rate else 0) as connection:
                connection.sendall(self._request)
                self._read(connection)
        except (OSError, http.client.HTTPException) as failure:
            self.problem = repr(failure)

    def _read(self, connection: socket.socket) -> None:
        digest = hashlib.sha256()
        with http.client.HTTPResponse(connection) as reply:
            reply.begin()
            self.status, began = reply.status, time.monotonic()
            while data := reply.read1(32768):
                self.received += len(data)
                digest.update(data)
                if self._rate:
                    time.sleep(max(0, began + self.received / self._rate - time.monotonic()))
            # A chunked reply that ends early raises IncompleteRead; one with a length only leaves some of it.
            self.complete = self.status == 200 and not reply.length
        self.digest = digest.hexdigest()

    def __repr__(self) -> str:
        return f"<clone: {self.status}, {self.received} bytes, complete: {self.complete} {self.problem}>"


def start_clones(count: int, port: int, request: bytes, *, rate: float = 0) -> list[Clone]:
    """Start several clones at once."""
    clones = [Clone(port, request, rate=rate) for _ in range(count)]
    for clone in clones:
        clone.start()
    return clones
