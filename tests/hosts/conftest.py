"""What a mounted application sees, without Mercurial."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    # Pyramid 2.1 imports pkg_resources, which newer releases of setuptools warn about.
    warnings.simplefilter("ignore")
    importlib.import_module("pyramid.config")


class Witness:
    """A WSGI application that remembers each request's environ, and how much of the body had been read before it."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []
        self.closed = 0
        self.sent = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.environs.append(environ)
        start_response("200 Script output follows", [("Content-Type", "application/mercurial-0.1")])
        return _Reply(self)


class _Reply:
    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    def __iter__(self) -> Iterator[bytes]:
        for chunk in (b"one", b"two"):
            self.witness.sent += 1
            yield chunk

    def close(self) -> None:
        self.witness.closed += 1


class CountingBody:
    """A body of one gigabyte that nobody should read."""

    asked = 0

    def read(self, size: int = -1) -> bytes:
        self.asked += 1
        return b"x" * (65536 if size < 0 else min(size, 65536))


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
def push_environ() -> dict[str, Any]:
    """The environ of a large push; ``PATH_INFO`` and ``SCRIPT_NAME`` are to be set."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": "cmd=unbundle",
        "CONTENT_TYPE": "application/mercurial-0.1",
        "CONTENT_LENGTH": str(1 << 30),
        "wsgi.input": CountingBody(),
    }
    setup_testing_defaults(environ)
    return environ


@pytest.fixture
def check_streaming(witness: Witness, push_environ: dict[str, Any], call: Any) -> Any:
    """Check that a push to ``/hg/repo`` of a site streams into the application that is mounted at ``/hg``, and back."""

    def check(site: Any) -> None:
        status, _, body = call(site, {**push_environ, "PATH_INFO": "/hg/repo"})
        assert status == "200 Script output follows"
        assert witness.environs[0]["wsgi.input"] is push_environ["wsgi.input"]
        assert push_environ["wsgi.input"].asked == 0
        assert next(iter(body)) == b"one"
        assert witness.sent == 1
        body.close()
        assert witness.closed == 1

    return check


@pytest.fixture
def call() -> Any:
    """Call a WSGI application; gives status, header list and the iterable it returned."""

    def call(app: Any, environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], Any]:
        started: list[Any] = []
        body = app(environ, lambda status, headers, exc_info=None: started.append((status, headers)))
        return (*started[0], body)

    return call
