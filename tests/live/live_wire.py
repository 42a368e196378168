"""Handwritten requests over one kept-alive connection."""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from collections.abc import Mapping

import attrs
from live_wait import PATIENCE


@attrs.frozen
class Answer:
    """One HTTP response, read to its end."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


class Wire:
    """One keep-alive connection to a server.

    Args:
        port: the port of the server on loopback.
        path: the URL path of the repository.
    """

    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.path = path
        self.connections = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def send(
        self,
        query: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        path: str | None = None,
    ) -> Answer:
        """Send one request and read the response to its end.

        Args:
            query: the query string, sent unchanged.
            method: the HTTP method.
            headers: the headers; Content-Length is added for a body unless given.
            body: the request body.
            path: the URL path (default: that of the repository).
        """
        if self._connection.sock is None:
            self.connections += 1
        target = (self.path if path is None else path) + (f"?{query}" if query else "")
        self._connection.request(method, target, body=body, headers=dict(headers or {}))
        response = self._connection.getresponse()
        content = response.read()
        seen = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, response.reason, seen, content)

    def command(self, name: str, method: str = "GET", body: bytes | None = None, **arguments: str) -> Answer:
        """Run a command with its arguments in a header, as clients send them."""
        encoded = urllib.parse.urlencode(sorted(arguments.items()))
        headers = {"X-HgArg-1": encoded} if encoded else {}
        if body is not None:
            headers["Content-Type"] = "application/mercurial-0.1"
        return self.send(f"cmd={name}", method=method, headers=headers, body=body)


def raw(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes over a new connection and return everything until the server closes it.

    Args:
        port: the port of the server on loopback.
        data: to send.
        half_close: shut down the sending side afterwards.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        while chunk := connection.recv(65536):
            received += chunk
        return bytes(received)
