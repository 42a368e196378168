from __future__ import annotations

from typing import Any

import pytest
from fakes import OPEN, Exchange, FakeProvider

from hgwire_wsgi import (
    CommandRegistry,
    WireApp,
    WireMiddleware,
)
from hgwire_wsgi.testing import WireTestApp


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(OPEN)


def test_every_answer_forbids_guessing_its_type(provider: FakeProvider) -> None:
    app = WireApp(provider)
    for query, path in (("cmd=heads", "/repo"), ("cmd=nosuch", "/repo"), ("", "/repo"), ("cmd=heads", "/none")):
        assert Exchange(app, query, path=path).headers["X-Content-Type-Options"] == "nosniff"


def test_unknown_repositories_and_paths_below_one() -> None:
    app = WireTestApp(WireApp(FakeProvider()))
    assert app.wire("/none", "heads").status == 404
    reply = app.wire("/repo/below", "heads")
    assert (reply.status, reply.media_type, reply.data) == (404, "application/mercurial-0.1", b"0\nNot Found\n")


def test_a_browser_is_told_how_to_clone() -> None:
    app = WireTestApp(WireApp(FakeProvider()))
    assert b"hg clone http://localhost/repo" in app.get("/repo").body
    assert app.post("/repo", b"x", expect_errors=True).status_int == 400
    assert app.get("/repo/page", expect_errors=True).status_int == 404
    denied = WireTestApp(WireApp(FakeProvider({"allow_read": "alice"})))
    assert denied.get("/repo", expect_errors=True).status_int == 401


def test_two_applications_do_not_see_each_other() -> None:
    commands = CommandRegistry.standard()
    first = WireApp(FakeProvider(), commands=commands)
    commands.command("late", permission="pull")(lambda context: b"late")
    second = WireApp(FakeProvider(), commands=commands)
    assert WireTestApp(first).wire("/repo", "late").status == 400
    assert WireTestApp(second).wire("/repo", "late").data == b"late"
    with pytest.raises(TypeError):
        first.commands.remove("heads")


def test_middleware_hands_on_what_is_not_its_own() -> None:
    seen: list[str] = []

    def pages(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["PATH_INFO"] + "?" + environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page"]

    app = WireTestApp(WireMiddleware(pages, wire=WireApp(FakeProvider())))
    assert app.wire("/repo", "heads").data == b"11" * 20 + b"\n"
    assert seen == []
    others = ["/?", "/repo?", "/repo?cmd=", "/repo?cmd=changelog", "/repo/file?cmd=heads", "/other?cmd=heads"]
    for url in others:
        assert app.get(url).body == b"page"
    assert seen == others
    assert app.get("/repo?cmd=heads&cmd=changelog", expect_errors=True).status_int == 400


def test_a_broken_server_that_hands_on_other_characters_is_told() -> None:
    exchange = Exchange(WireApp(FakeProvider()), "cmd=heads&x=\u20ac")
    assert exchange.status.startswith("400 ")
