"""Asks for replies as several users, of our application and of hgweb; run as a program, because extensions stay loaded.

Reads from standard input: a JSON object with ``served`` (repositories by name), ``safe``, ``viewed`` and ``asked``, a
list of repository, query and users.  Writes a list of rows: our status, body and cache outcome, and hgweb's status and
body.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from typing import Any
from wsgiref.util import setup_testing_defaults

from mercurial.hgweb import hgweb

from hgwire_wsgi import CacheSettings, RequestClosed, WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider

HEADERS = {"HTTP_X_HGPROTO_1": "0.1 0.2 comp=none partial-pull"}


def call(app: Any, path: str, query: str, user: str, **more: Any) -> tuple[str, bytes]:
    """Send a GET request and return the status and the body."""
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query, "REMOTE_USER": user, **HEADERS, **more}
    setup_testing_defaults(environ)
    started: list[str] = []
    body = app(environ, lambda status, headers, exc_info=None: started.append(status))
    content = b"".join(body)
    getattr(body, "close", lambda: None)()
    return started[0], content


def main() -> None:
    given = json.load(sys.stdin)
    outcomes: list[str | None] = []

    def observe(event: object) -> None:
        if isinstance(event, RequestClosed):
            outcomes.append(event.cache)

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ours = WireApp(
            MercurialProvider(given["served"], safe_extensions=given["safe"]),
            view=(lambda request: request.user) if given["viewed"] else None,
            cache=CacheSettings(folder=folder),
            observers=[observe],
        )
        for name, query, users in given["asked"]:
            for user in users:
                status, body = call(ours, f"/{name}", query, user)
                other_status, other = call(hgweb(given["served"][name].encode()), "/", query, user)
                rows.append([status, shown(body), outcomes[-1], other_status, shown(other)])
    json.dump(rows, sys.stdout)


def shown(body: bytes) -> str:
    """A short form of a body; capabilities and the manifest of clone bundles are not the same to the byte."""
    if body.startswith(b"http"):
        return body.decode().strip()
    if b" unbundle=" in body:
        return " ".join(word for word in sorted(body.decode().split()) if word.startswith("user="))
    return hashlib.sha256(body).hexdigest()


if __name__ == "__main__":
    main()
