"""Redirects to repositories that have a new name."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeProvider

from hgwire_wsgi import AccessRequest, PermissionDenied, RepositoryNotFound, WireApp, WireMiddleware
from hgwire_wsgi.errors import RepositoryBusy, RepositoryMoved
from hgwire_wsgi.testing import WireTestApp


class Moving(FakeProvider):
    """Has ``/old`` at ``/new`` now."""

    def locate(self, path: str) -> tuple[str, str] | None:
        if path == "/busy":
            raise RepositoryBusy("not now")
        if path.startswith("/old"):
            raise RepositoryMoved("n\xc3\xa9w" + path[4:])
        return super().locate(path)


def ask(method: str, url: str, **environ: str) -> Any:
    made = WireTestApp(WireApp(Moving()))
    return made.request(url, method=method, expect_errors=True, environ={"REQUEST_METHOD": method, **environ})


@pytest.mark.parametrize(
    ("method", "url", "mount", "status", "location"),
    [
        ("GET", "/old?cmd=heads", "", 301, "/n%C3%A9w?cmd=heads"),
        ("HEAD", "/old?cmd=lookup&key=a%20b%26", "/hg", 301, "/hg/n%C3%A9w?cmd=lookup&key=a%20b%26"),
        ("GET", "/old/.git/info", "/hg", 301, "/hg/n%C3%A9w/.git/info"),
        ("GET", "/old", "/a b", 301, "/a%20b/n%C3%A9w"),
        ("POST", "/old?cmd=unbundle", "", 308, "/n%C3%A9w?cmd=unbundle"),
    ],
)
def test_redirects_keep_path_and_query(method: str, url: str, mount: str, status: int, location: str) -> None:
    reply = ask(method, url, SCRIPT_NAME=mount)
    assert (reply.status_int, reply.headers["Location"]) == (status, location)


@pytest.mark.parametrize("below", ["", "/", "/.git/info", "?cmd=heads", "?cmd=unbundle"])
def test_the_new_name_of_a_hidden_repository_is_not_told(below: str) -> None:
    class There(Moving):
        def locate(self, path: str) -> tuple[str, str] | None:
            return ("n\xc3\xa9w", "") if path.startswith("/n\xc3\xa9w") else super().locate(path)

    def hides(request: AccessRequest) -> None:
        if request.name == "n\xc3\xa9w" and request.user is None:
            raise RepositoryNotFound

    def denies(request: AccessRequest) -> None:
        raise PermissionDenied("no", status=401)

    wire = WireApp(There(), policy=hides)
    made = WireTestApp(wire)
    old, none = (made.get(f"/{name}{below}", expect_errors=True) for name in ("old", "none"))
    assert (old.status_int, old.body, old.headers) == (404, none.body, none.headers)
    assert made.get(f"/old{below}", extra_environ={"REMOTE_USER": "alice"}, expect_errors=True).status_int == 301
    assert WireTestApp(WireApp(There(), policy=denies)).get(f"/old{below}", expect_errors=True).status_int == 301
    path, _, query = below.partition("?")
    with pytest.raises(RepositoryNotFound):
        wire.authorize({"PATH_INFO": f"/old{path}", "QUERY_STRING": query})


def test_a_query_cannot_end_the_header() -> None:
    reply = ask("GET", "/old", QUERY_STRING="cmd=heads\r\nSet-Cookie: a=b")
    assert reply.headers["Location"] == "/n%C3%A9w?cmd=heads%0D%0ASet-Cookie:%20a=b"


@pytest.mark.parametrize(("path", "status"), [("/old?cmd=heads", 301), ("/busy?cmd=heads", 503)])
def test_a_middleware_answers_for_what_moved_or_cannot_be_found(path: str, status: int) -> None:
    app = WireTestApp(WireMiddleware(lambda environ, start: pytest.fail("reached"), wire=WireApp(Moving())))
    assert app.get(path, expect_errors=True).status_int == status
