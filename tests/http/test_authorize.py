"""The decision endpoint: what a front-end server asks, and what it gets."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider, FakeRepository

from hgwire_wsgi import (
    AccessRequest,
    AuthorizeApp,
    HgWireError,
    IdentityRequest,
    Lease,
    RepositoryNotFound,
    WireApp,
    all_of,
    hgweb_policy,
    maintenance,
)


class Repositories(FakeProvider):
    """``repo`` is open, ``private`` is for alice, ``hidden`` is hidden."""

    def locate(self, path: str) -> tuple[str, str] | None:
        name, _, rest = path.strip("/").partition("/")
        return (name, rest) if name in ("repo", "private", "hidden", "\xe9") else None

    def lease(self, name: str) -> Lease:
        self.repository = FakeRepository({**OPEN, **({"allow_read": "alice"} if name == "private" else {})})
        return super().lease(name)


def hides(request: AccessRequest) -> None:
    if request.name == "hidden":
        raise RepositoryNotFound


POLICY = all_of(hides, hgweb_policy)
WIRE = WireApp(Repositories(), policy=POLICY)


def decide(app: AuthorizeApp, uri: str | None, method: str | None = "GET", **environ: Any) -> Exchange:
    if uri is not None:
        environ["HTTP_X_ORIGINAL_URI"] = uri
    if method is not None:
        environ["HTTP_X_ORIGINAL_METHOD"] = method
    exchange = Exchange(app, path="/authorize", **environ)
    exchange.content = exchange.read()  # type: ignore[attr-defined]
    return exchange


@pytest.mark.parametrize(
    ("uri", "environ", "status"),
    [
        ("/repo?cmd=heads", {}, "204 No Content"),
        ("/private?cmd=heads", {}, "401 read not authorized"),
        ("/private?cmd=heads", {"REMOTE_USER": "alice"}, "204 No Content"),
        ("/private?cmd=heads", {"REMOTE_USER": "bob"}, "403 read not authorized"),
        ("/private/file/tip", {}, "401 read not authorized"),
        ("/hidden?cmd=heads", {}, "404 no such repository"),
        ("/none?cmd=heads", {}, "404 no such repository"),
        ("/%C3%A9?cmd=heads", {}, "404 no such repository"),
        ("/%E9?cmd=heads", {}, "204 No Content"),
        ("/repo?cmd=unbundle&heads=", {}, "405 push requires POST request"),
        ("/repo?cmd=unbundle&heads=", {"method": "POST"}, "204 No Content"),
        ("/private?cmd=unbundle&heads=", {"method": "POST"}, "401 read not authorized"),
        ("/repo?cmd=heads&cmd=unbundle", {}, "400 the query string names cmd more than once"),
        ("/repo?cmd=batch", {"HTTP_X_HGARG_1": "cmds=unbundle+heads%3D"}, "405 push requires POST request"),
        ("/repo?cmd=batch", {"HTTP_X_HGARG_1": "cmds=heads+"}, "204 No Content"),
        ("/repo?cmd=batch", {"HTTP_X_HGARGS_POST": "9", "method": "POST"}, "204 No Content"),
        ("/repo?cmd=batch", {"HTTP_X_HGARGS_POST": "9", "HTTP_X_HGARG_1": "cmds=heads+"}, "405 push requires POST"),
        ("/repo?a=%zz&cmd=heads", {}, "204 No Content"),
        ("/repo?style=raw;revcount=9", {}, "204 No Content"),
        ("/repo/nested?cmd=heads", {}, "404 not found"),
        ("/", {}, "204 No Content"),
    ],
)
def test_the_answer_is_that_of_the_application(uri: str, environ: dict[str, str], status: str) -> None:
    exchange = decide(AuthorizeApp(WIRE), uri, **environ)
    assert exchange.status.startswith(status)
    assert exchange.headers["Cache-Control"] == "no-store"
    assert ("WWW-Authenticate" in exchange.headers) == (status[:3] == "401")
    if status[:3] == "204":
        assert exchange.content == b"" and len(exchange.headers) == 1
    else:
        code, _, reason = exchange.status.partition(" ")
        assert (exchange.headers["X-Hgwire-Status"], exchange.headers["X-Hgwire-Reason"]) == (code, reason)
        assert exchange.content == reason.encode() + b"\n"


@pytest.mark.parametrize(
    ("uri", "method"),
    [
        (None, "GET"),
        ("/repo?cmd=heads", None),
        ("", "GET"),
        ("/repo?cmd=heads", ""),
        ("/repo?cmd=heads", "GET, POST"),
        ("/repo?cmd=heads", "get"),
        ("repo?cmd=heads", "GET"),
        ("http://host/repo?cmd=heads", "GET"),
        ("/repo?cmd=heads#&cmd=unbundle", "GET"),
        ("/repo#x?cmd=heads", "GET"),
        ("/repo?cmd=heads\x80", "GET"),
        ("/repo?cmd=heads;cmd=unbundle", "GET"),
        ("/repo?style=raw;cmd=unbundle", "POST"),
        ("/repo cmd", "GET"),
        ("/x/../repo?cmd=heads", "GET"),
        ("/x/%2e%2E/repo?cmd=heads", "GET"),
        ("/./repo?cmd=heads", "GET"),
        ("/repo/..", "GET"),
        ("//repo?cmd=heads", "GET"),
        ("/private%2F/x", "GET"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(uri: str | None, method: str | None) -> None:
    exchange = decide(AuthorizeApp(WIRE), uri, method)
    assert exchange.status[:3] == "400"


@pytest.mark.parametrize(
    ("uri", "status"),
    [("/hg/repo?cmd=heads", "204"), ("/hg", "204"), ("/hg/", "204"), ("/repo?cmd=heads", "404"), ("/hgx/repo", "404")],
)
@pytest.mark.parametrize("prefix", ["/hg", "/hg/"])
def test_repositories_below_a_prefix(uri: str, status: str, prefix: str) -> None:
    assert decide(AuthorizeApp(WIRE, prefix=prefix), uri).status[:3] == status


def test_a_front_end_that_passes_on_only_some_statuses() -> None:
    app = AuthorizeApp(WIRE, statuses=[401, 403])
    for uri, status, real in (
        ("/hidden?cmd=heads", "403 no such repository", "404"),
        ("/private?cmd=heads", "401 read not authorized", "401"),
        ("/repo?cmd=unbundle", "403 push requires POST request", "405"),
    ):
        exchange = decide(app, uri)
        assert (exchange.status, exchange.headers["X-Hgwire-Status"]) == (status, real)
    assert decide(app, "/repo?cmd=heads").status[:3] == "204"


def test_the_headers_of_other_front_ends() -> None:
    app = AuthorizeApp(WIRE, method_header="X-Forwarded-Method", uri_header="X-Forwarded-Uri")
    given = {"HTTP_X_FORWARDED_METHOD": "GET", "HTTP_X_FORWARDED_URI": "/repo?cmd=heads"}
    assert decide(app, None, None, **given).status[:3] == "204"
    assert decide(app, "/repo?cmd=heads").status[:3] == "400"


def test_the_headers_of_an_error_and_the_challenge_of_the_application() -> None:
    later = AuthorizeApp(WireApp(Repositories(), policy=maintenance("later", 5)))
    exchange = decide(later, "/repo?cmd=heads")
    assert (exchange.status, exchange.headers["Retry-After"]) == ("503 later", "5")
    silent = AuthorizeApp(WireApp(Repositories(), policy=POLICY, challenge=None))
    assert decide(silent, "/private?cmd=heads").status == "403 read not authorized"


def test_a_failure_is_not_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Repositories):
        def locate(self, path: str) -> tuple[str, str] | None:
            raise ZeroDivisionError("/srv/secret")

    exchange = decide(AuthorizeApp(WireApp(Broken())), "/repo?cmd=heads")
    assert (exchange.status, exchange.headers["X-Hgwire-Status"]) == ("500 internal server error", "500")
    assert "/srv/secret" in caplog.text


def test_an_error_with_a_status_of_success_is_no_permission() -> None:
    class Odd(HgWireError):
        http_status = 200

    def policy(request: AccessRequest) -> None:
        raise Odd("all is well")

    exchange = decide(AuthorizeApp(WireApp(Repositories(), policy=policy)), "/repo?cmd=heads")
    assert (exchange.status, exchange.headers["X-Hgwire-Status"]) == ("403 all is well", "200")


def test_an_identity_cannot_end_the_server() -> None:
    def identify(request: IdentityRequest) -> str | None:
        sys.exit("the directory is down")

    exchange = decide(AuthorizeApp(WireApp(Repositories(), identify=identify)), "/repo?cmd=heads")
    assert exchange.status[:3] == "500"


def test_what_was_concluded_about_the_request_to_the_endpoint_does_not_count() -> None:
    wire = WireApp(Repositories(), policy=POLICY)
    environ = Exchange(lambda *given: [], "cmd=heads", path="/repo").environ
    assert wire.classify(environ) is not None
    environ |= {"HTTP_X_ORIGINAL_METHOD": "GET", "HTTP_X_ORIGINAL_URI": "/repo?cmd=batch&cmds=pushkey+"}
    started: list[str] = []
    AuthorizeApp(wire)(environ, lambda status, headers: started.append(status))
    assert started == ["405 push requires POST request"]
