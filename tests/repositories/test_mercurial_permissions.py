"""What extensions add to hgweb's questions: our application and hgweb ask it alike."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import wireprotoserver
from mercurial.hgweb import common, hgweb
from test_mercurial_middleware import ask

from hgwire_wsgi import ApiSettings, RequestClosed, WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

LFS = {"CONTENT_TYPE": "application/vnd.git-lfs+json", "HTTP_ACCEPT": "application/vnd.git-lfs+json"}
POST = {"method": "POST", "CONTENT_TYPE": "application/mercurial-0.1"}
KEY = "namespace=bookmarks&key=a&old=&new="
BATCHED = KEY.replace("&", "%2C").replace("=", "%3D")
REQUESTS: list[tuple[str, dict[str, Any], list[bytes]]] = [
    ("?cmd=heads", {}, [b"pull"]),
    ("?cmd=capabilities", {}, [b"pull"]),
    ("?cmd=batch&cmds=heads+%3Bknown+nodes%3D", {}, [b"pull", b"pull", b"pull"]),
    ("?cmd=unbundle&heads=666f726365", {**POST, "body": b"HG10UN" + bytes(4)}, [b"push"]),
    (f"?cmd=pushkey&{KEY}", POST, [b"push"]),
    (f"?cmd=batch&cmds=pushkey+{BATCHED}", POST, [b"pull", b"push"]),
    (
        "/.git/info/lfs/objects/batch",
        {"method": "POST", "body": b'{"operation": "x", "objects": []}', **LFS},
        [b"pull"],
    ),
    (f"/.hg/lfs/objects/{hashlib.sha256(b'x').hexdigest()}", {"method": "PUT", "body": b"x"}, [b"upload"]),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def hooks() -> Iterator[list[Any]]:
    """The list of functions, as hgweb has it; whatever a test adds is removed again."""
    before = common.permhooks[:]
    yield common.permhooks
    common.permhooks[:] = before


@pytest.fixture
def site(tmp_path: Path, demonstration: Path) -> tuple[Any, Any]:
    """Our application and hgweb, each with a copy at ``/repo``."""
    for side in ("ours", "theirs"):
        shutil.copytree(demonstration, tmp_path / side)
        (tmp_path / side / ".hg" / "hgrc").write_text("[web]\nallow-push=*\npush_ssl=no\n[extensions]\nlfs=\n")
    ours = WireApp(MercurialProvider({"repo": tmp_path / "ours"}), api=ApiSettings(server=True, http_v2=True))
    return ours, hgweb({b"repo": os.fsencode(tmp_path / "theirs")})


def test_the_same_questions(site: tuple[Any, Any], hooks: list[Any]) -> None:
    seen: list[tuple[bytes, Any]] = []

    def note(context: Any, request: Any, operation: bytes) -> None:
        facts = (
            request.method,
            request.remoteuser,
            request.reponame,
            request.apppath,
            request.dispatchpath,
            request.querystring,
            request.headers[b"X-Extra"],
            context.reponame,
            context.allowpull,
            context.configlist(b"web", b"allow-push"),
            context.repo.ui.environ[b"REMOTE_USER"],
            sorted(context.repo.heads()),
        )
        seen.append((operation, facts))

    hooks.append(note)
    for url, options, expected in REQUESTS:
        answers = []
        for app in site:
            seen.clear()
            options = {"REMOTE_USER": "é".encode().decode("latin-1"), "HTTP_X_EXTRA": "1", **options}
            answers.append((ask(app, f"/repo{url}", **options)[0], sorted(seen)))
        (mine, own), (other, asked) = answers
        # For resources, the application asks first whether the user may know that the repository exists.
        extra = {operation for operation, _ in own} - set(expected)
        assert extra == ({b"pull"} if expected == [b"upload"] else set()), url
        assert {repr(each) for each in own if each[0] not in extra} == set(map(repr, asked)), url
        assert {operation for operation, _ in asked} == set(expected)
        assert mine // 100 == other // 100, url


@pytest.mark.parametrize("code", [401, 403, 404, 429])
def test_a_refusal(site: tuple[Any, Any], hooks: list[Any], code: int) -> None:
    def refuse(context: Any, request: Any, operation: bytes) -> None:
        if request.remoteuser == b"bob":
            raise common.ErrorResponse(code, b"not you", [(b"X-Reason", b"x")])

    assert ask(site[0], "/repo?cmd=heads", REMOTE_USER="bob")[0] == 200
    hooks.append(refuse)
    for app in site:
        # The reply is cached in our application.
        assert ask(app, "/repo?cmd=heads", REMOTE_USER="alice")[0] == 200
        assert ask(app, "/repo?cmd=heads", REMOTE_USER="bob") == (code, b"0\nnot you\n")
        assert ask(app, f"/repo?cmd=pushkey&{KEY}", REMOTE_USER="bob", **POST)[0] == code
        assert ask(app, "/repo/.hg/lfs/objects/" + "a" * 64, REMOTE_USER="bob")[0] == code
    assert ask(site[0], "//repo//?cmd=heads", REMOTE_USER="bob")[0] == code
    assert ask(site[0], "/repo", REMOTE_USER="bob")[0] == code
    assert ask(site[0], "/", REMOTE_USER="bob")[0] == 404
    api = "/repo/api/exp-http-v2-0001/ro/heads"
    assert ask(site[0], api, method="POST", REMOTE_USER="bob")[0] == code


def test_a_function_that_fails_refuses(
    site: tuple[Any, Any], hooks: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(context: Any, request: Any, operation: bytes) -> None:
        # There is no body to read.
        assert request.bodyfh.read() == b""
        raise ZeroDivisionError

    hooks.insert(0, fail)
    assert ask(site[0], "/repo?cmd=heads") == (403, b"0\nrefused by the access policy\n")
    assert "ZeroDivisionError" in caplog.text


def test_the_policy_is_asked_first(tmp_path: Path, demonstration: Path, hooks: list[Any]) -> None:
    asked: list[bytes] = []
    hooks.append(lambda context, request, operation: asked.append(operation))
    app = WireApp(MercurialProvider(demonstration, config=["web.deny_read=*"]))
    assert ask(app, "/?cmd=heads")[0] == 403
    assert ask(WireApp(MercurialProvider(demonstration)), "/?cmd=heads", PATH_INFO="")[0] == 200
    assert asked == [b"pull"]


def test_text_that_is_not_latin_1(demonstration: Path, hooks: list[Any]) -> None:
    seen: list[Any] = []
    hooks.append(lambda context, request, operation: seen.append(request.rawenv[b"HOST_ADDED"]))
    app = WireApp(MercurialProvider(demonstration))
    assert ask(app, "/?cmd=heads", HOST_ADDED="\u20ac\udc80")[0] == 200
    assert seen == ["\u20ac".encode() + b"\\udc80"]


def test_withdrawn_commands_are_unknown_at_once(demonstration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a batch, and where the reply is cached."""
    outcomes: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, RequestClosed):
            outcomes.append(event.cache)

    app = WireApp(MercurialProvider(demonstration), observers=[observe])
    urls = ["/?cmd=known&nodes=", "/?cmd=batch&cmds=known+nodes%3D", "/?cmd=heads"]
    for _ in range(2):
        assert [ask(app, url)[0] for url in urls] == [200, 200, 200]
    assert outcomes[3:] == ["hit"] * 3
    plain = wireprotoserver.iscmd
    monkeypatch.setattr(wireprotoserver, "iscmd", lambda name: name != b"known" and plain(name))
    assert [ask(app, url) for url in urls[:2]] == [(400, b"0\nunknown command: known\n")] * 2
    assert ask(app, urls[2])[0] == 200
