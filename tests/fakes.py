"""A backend without a repository, and a bare WSGI client that sees when things happen."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from hgwire_wsgi import (
    CommandRegistry,
    Lease,
    Repository,
    RepositoryProvider,
    RequestClosed,
    RequestStarted,
    StreamResponse,
    WireApp,
)
from hgwire_wsgi.testing import WireTestApp


class FakeRepository(Repository):
    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self.web = dict(settings or {})
        self.token = b"state"

    def content_token(self) -> bytes:
        return self.token

    def setting(self, section: str, name: str) -> str | None:
        return self.web.get(name) if section == "web" else None

    def heads(self) -> list[bytes]:
        return [b"\x11" * 20]

    def known(self, nodes: Any) -> list[bool]:
        return [node == b"\x11" * 20 for node in nodes]

    def capabilities(self) -> list[bytes]:
        return [b"known"]


class FakeProvider(RepositoryProvider):
    """One repository at ``/repo``, which counts its leases."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self.repository = FakeRepository(settings)
        self.leased = 0
        self.released = 0

    @property
    def held(self) -> int:
        """How many leases are not released."""
        return self.leased - self.released

    def locate(self, path: str) -> tuple[str, str] | None:
        parts = path.strip("/").split("/")
        return ("repo", "/".join(parts[1:])) if parts[0] == "repo" else None

    def lease(self, name: str) -> Lease:
        self.leased += 1

        def release() -> None:
            self.released += 1

        return Lease(self.repository, release)


class Exchange:
    """One request to a WSGI application, iterated and closed when the test says so."""

    def __init__(self, app: Any, query: str = "", *, path: str = "/repo", body: bytes = b"", **environ: Any) -> None:
        self.input = io.BytesIO(body)
        self.status = ""
        self.headers: dict[str, str] = {}
        self.environ: dict[str, Any] = {
            "REQUEST_METHOD": "POST" if body else "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.input": self.input,
            **({"CONTENT_LENGTH": str(len(body))} if body else {}),
            **environ,
        }
        self.response = app(self.environ, self.start_response)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        self.status = status
        self.headers = dict(headers)
        assert len(self.headers) == len(headers), "a header twice"

    def read(self) -> bytes:
        try:
            return b"".join(self.response)
        finally:
            self.close()

    def close(self) -> None:
        if hasattr(self.response, "close"):
            self.response.close()


OPEN = {"push_ssl": "no", "allow-push": "*"}
"""Settings that let anyone push."""

NOISE = random.Random(0).randbytes(1 << 20)


def returning(response: Any, *, permission: str = "pull", **declaration: Any) -> CommandRegistry:
    """The standard commands, and ``x`` with a response."""
    registry = CommandRegistry.standard()
    registry.command("x", permission=permission, **declaration)(lambda context, **arguments: response)
    return registry


def streaming(chunks: Callable[[], Iterator[bytes]], **options: Any) -> CommandRegistry:
    """The standard commands, and ``x`` with a stream that may be cached."""
    registry = CommandRegistry.standard()
    registry.command("x", permission="pull", cacheable=True, reply="stream", **options)(
        lambda context: StreamResponse(chunks())
    )
    return registry


def ask(commands: CommandRegistry, protocol: str | None = None, **options: Any) -> Any:
    """The reply to ``x``."""
    app = WireTestApp(WireApp(FakeProvider(OPEN), commands=commands, **options))
    return app.wire("/repo", "x", protocol=protocol, compression=["zstd"] if protocol == "0.2" else ())


def makers_are_done() -> None:
    """Wait until what was made has its name; its last byte may be read before."""
    for thread in threading.enumerate():
        if thread.name == "hgwire-maker":
            thread.join(30)


class Watch:
    """An observer that knows what must be true of events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    @property
    def closed(self) -> RequestClosed:
        """The end of the only request so far, which started and ended exactly once."""
        assert [type(event) for event in self.events] == [RequestStarted, RequestClosed]
        started, closed = self.events
        for name in ("request_id", "method", "path", "user", "address"):
            assert getattr(started, name) == getattr(closed, name)
        assert closed.wall >= 0 and closed.cpu >= 0
        self.events.clear()
        return closed
