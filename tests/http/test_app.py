"""The application: what is at its URLs, how it is embedded, and that nothing leaks between requests."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
import webob
from fakes import NOISE, OPEN, Exchange, FakeProvider, FakeRepository, Watch, makers_are_done, returning, streaming

from hgwire_wsgi import (
    AccessRequest,
    ApiSettings,
    CacheSettings,
    Command,
    CommandContext,
    CommandRegistry,
    Lease,
    PermissionDenied,
    ServerCapabilities,
    StreamResponse,
    WireApp,
    WireMiddleware,
    maintenance,
)
from hgwire_wsgi.errors import HgWireError, RepositoryBusy, RepositoryNotFound, RepositoryUnusable, RequestError
from hgwire_wsgi.logcontext import CURRENT, LOGGER
from hgwire_wsgi.repositories.base import SubresourceReply, SubresourceRequest
from hgwire_wsgi.testing import WireTestApp


def test_every_answer_forbids_guessing_its_type() -> None:
    app = WireApp(FakeProvider(OPEN))
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
    others = ["/?", "/repo?", "/repo?cmd=", "/repo?cmd=changelog", "/repo/file?cmd=file", "/other?cmd=more"]
    for url in others:
        assert app.get(url).body == b"page"
    assert seen == others
    for url in ("/repo/file?cmd=heads", "/repo/nested?cmd=nosuch", "/other?cmd=unbundle"):
        assert app.post(url, b"", expect_errors=True).status_int == 404
    assert seen == others
    assert app.get("/repo?cmd=heads&cmd=changelog", expect_errors=True).status_int == 400


def test_a_broken_server_that_hands_on_other_characters_is_reported() -> None:
    exchange = Exchange(WireApp(FakeProvider()), "cmd=heads&x=\u20ac")
    assert exchange.status.startswith("400 ")


def test_a_middleware_keeps_malformed_requests() -> None:
    exchange = Exchange(WireMiddleware(lambda environ, start: [b"page"], wire=WireApp(FakeProvider())), "cmd=\u20ac&x")
    assert exchange.status.startswith("400 ")


def test_the_bundle_cache_of_the_process(tmp_path: Path) -> None:
    assert WireApp(FakeProvider(), cache=CacheSettings(disk=0)).bundles is None
    app = WireApp(FakeProvider(), cache=CacheSettings(folder=tmp_path))
    assert app.bundles is app.bundles is not None


@pytest.mark.parametrize(
    ("query", "names", "permission"),
    [
        ("cmd=heads", ("heads",), "pull"),
        ("cmd=batch&cmds=heads+%3Bown+", ("batch", "heads", "own"), "pull"),
        (
            "cmd=batch&cmds=heads+%3Bpushkey+namespace%3Da,key%3Db,old%3Dc,new%3Dd",
            ("batch", "heads", "pushkey"),
            "push",
        ),
        ("cmd=own", ("own",), "pull"),
        ("cmd=unbundle&heads=", ("unbundle",), "push"),
    ],
)
def test_what_is_classified_is_what_the_policy_is_asked(query: str, names: tuple[str, ...], permission: str) -> None:
    """Also for commands that only the backend knows."""
    asked: list[AccessRequest] = []

    class Extended(FakeProvider):
        def commands(self) -> dict[str, Command]:
            return {"own": Command(name="own", handler=lambda context: b"", permission="pull")}

    app = WireApp(Extended(), policy=asked.append)
    exchange = Exchange(app, query, REQUEST_METHOD="POST")
    exchange.read()
    classified = app.classify(exchange.environ)
    assert classified is not None
    assert (classified.names, classified.permission) == (names, permission)
    questions = [(each.commands, each.permission) for each in asked]
    first = [(("batch",), "pull")] if names[0] == "batch" else []
    assert questions == [*first, (names, permission)]


def test_a_reply_that_was_given_before_is_given_again() -> None:
    app = WireApp(FakeProvider())
    first, second = Exchange(app, "cmd=heads"), Exchange(app, "cmd=heads")
    assert (first.status, first.headers, first.read()) == (second.status, second.headers, second.read())


def test_the_frame_based_api_is_off_unless_it_is_switched_on() -> None:
    for api, status in ((None, "404"), (ApiSettings(server=True, http_v2=True), "200")):
        assert Exchange(WireApp(FakeProvider(), api=api), path="/repo/api").status[:3] == status


# Pages for people.


class Folder(FakeProvider):
    """Several repositories; one is for alice, one is broken, one is gone."""

    def __init__(self, *listed: str) -> None:
        super().__init__()
        self.listed = listed

    def locate(self, path: str) -> tuple[str, str] | None:
        name = path.strip("/")
        return (name, "") if name in self.listed else None

    def lease(self, name: str) -> Lease:
        if name == "gone":
            raise RepositoryNotFound("no such repository")
        if name == "broken":
            raise RepositoryUnusable
        self.repository = FakeRepository({"allow_read": "alice"} if name == "private" else {})
        return super().lease(name)

    def names(self, limit: int) -> list[str]:
        return list(self.listed)[:limit]


def listed(provider: FakeProvider, path: str = "/", **environ: Any) -> tuple[str, str, bytes]:
    exchange = Exchange(WireApp(provider), path=path, HTTP_HOST="example.org", **environ)
    return exchange.status, exchange.headers["Content-Type"], exchange.read()


TEXT = "text/plain; charset=utf-8"


def test_the_root_of_a_folder_lists_what_the_user_may_pull_from() -> None:
    provider = Folder("a b", "broken", "gone", "private", "x/y", "\xc3\xa9", "\xff")
    public = ["a%20b", "x/y", "%C3%A9", "%FF"]

    def lines(names: list[str]) -> bytes:
        return "".join(f"http://example.org/hg/{name}\n" for name in names).encode()

    for path in ("/", ""):
        assert listed(provider, path, SCRIPT_NAME="/hg") == ("200 OK", TEXT, lines(public))
    whole = lines(["a%20b", "private", *public[1:]])
    assert listed(provider, SCRIPT_NAME="/hg", REMOTE_USER="alice") == ("200 OK", TEXT, whole)
    assert provider.held == 0


@pytest.mark.parametrize("names", [(), ("private", "broken")])
def test_a_list_with_nothing_in_it_is_not_there(names: tuple[str, ...]) -> None:
    assert listed(Folder(*names)) == ("404 Not Found", TEXT, b"no such repository\n")


def test_a_list_under_maintenance_is_not_empty() -> None:
    exchange = Exchange(WireApp(Folder("x", "y"), policy=maintenance("later")), path="/")
    assert (exchange.status[:3], exchange.headers["Retry-After"], exchange.read()) == ("503", "600", b"later\n")


def test_a_list_is_only_read() -> None:
    assert listed(Folder("x"), REQUEST_METHOD="POST")[2] == b"the request names no command\n"
    assert listed(Folder("x"), REQUEST_METHOD="HEAD") == ("200 OK", TEXT, b"")
    assert listed(Folder("x"), QUERY_STRING="cmd=heads")[:2] == ("404 no such repository", "application/hg-error")


def test_a_policy_is_asked_about_each_repository_in_a_list() -> None:
    asked: list[AccessRequest] = []
    Exchange(WireApp(Folder("x", "y"), policy=asked.append), path="/", REMOTE_USER="alice").read()
    assert [(each.permission, each.user, each.name, each.commands) for each in asked] == [
        ("pull", "alice", "x", ()),
        ("pull", "alice", "y", ()),
    ]


@pytest.mark.parametrize("path", ["/none", "/none/at/all", "/repo/page"])
def test_an_unknown_path_without_a_command_gets_text(path: str) -> None:
    status, media_type, body = listed(FakeProvider(), path)
    assert (status[:3], media_type) == ("404", TEXT)
    assert body.startswith(b"no")


def test_a_greeting_names_the_url_whatever_its_encoding() -> None:
    status, _, body = listed(Folder("\xff"), "/\xff")
    assert (status, body.split()[-1]) == ("200 OK", b"http://example.org/%FF")


# Repositories that a policy hides.


class Hiding(FakeProvider):
    """Serves ``/repo`` and ``/hidden``, which the policy below hides; also files below them."""

    def __init__(self) -> None:
        super().__init__(OPEN)
        self.repository.subresource = self.subresource

    def locate(self, path: str) -> tuple[str, str] | None:
        name, _, rest = path.strip("/").partition("/")
        return (name, rest) if name in ("repo", "hidden") else None

    def is_subresource(self, rest: str) -> bool:
        return rest.startswith("files/")

    def subresource(self, request: SubresourceRequest, authorize: Any) -> SubresourceReply:
        authorize("upload" if request.environ["REQUEST_METHOD"] == "PUT" else "pull")
        return SubresourceReply("200 OK", (("Content-Type", "x/y"),), [b"file"])

    def names(self, limit: int) -> list[str]:
        return ["hidden", "repo"]


def hides(request: AccessRequest) -> None:
    if request.name == "hidden":
        raise RepositoryNotFound("you may not know that there is a hidden repository", headers=[("X-Secret", "1")])


@pytest.mark.parametrize(
    ("below", "query", "environ"),
    [
        ("", "cmd=heads", {}),
        ("", "cmd=heads", {"REQUEST_METHOD": "HEAD"}),
        ("", "cmd=known&nodes=zz", {}),
        ("", "cmd=known", {"HTTP_X_HGARG_1": "a,b"}),
        ("", "cmd=heads", {"HTTP_X_HGPROTO_1": "x" * 5000}),
        ("", "cmd=heads", {"CONTENT_LENGTH": "x"}),
        ("", "cmd=heads&cmd=heads", {}),
        ("", "cmd=batch&cmds=", {}),
        ("", "cmd=batch&cmds=heads+", {}),
        ("", "cmd=nosuch", {}),
        ("", "cmd=unbundle", {}),
        ("", "cmd=unbundle", {"body": b"x", "CONTENT_TYPE": "text/plain"}),
        ("", "cmd=pushkey", {"REQUEST_METHOD": "POST", "HTTP_ORIGIN": "https://a.example"}),
        ("", "", {}),
        ("", "", {"body": b"x"}),
        ("", "", {"REQUEST_METHOD": "DELETE"}),
        ("", "", {"CONTENT_LENGTH": "x"}),
        ("/page", "", {}),
        ("/page", "cmd=heads", {}),
        ("/files/x", "", {}),
        ("/files/x", "", {"body": b"x", "REQUEST_METHOD": "PUT"}),
        ("/files/x", "", {"CONTENT_LENGTH": "x"}),
        ("/api", "", {}),
        ("/api", "cmd=heads", {}),
        ("/api/none", "", {}),
        ("/api/exp-http-v2-0001", "", {}),
        ("/api/exp-http-v2-0001/ro/heads", "", {}),
        ("/api/exp-http-v2-0001/ro/heads", "", {"body": b"x"}),
        ("/api/exp-http-v2-0001/rw/multirequest", "", {"body": b"x"}),
        ("/api/exp-http-v2-0001/rw/multirequest", "", {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "x"}),
        ("/api/exp-http-v2-0001/ro/debugreflect", "", {"body": b"x"}),
    ],
)
def test_a_hidden_repository_cannot_be_told_from_none(below: str, query: str, environ: dict[str, Any]) -> None:
    provider = Hiding()
    api = ApiSettings(server=True, http_v2=True, debugreflect=True)
    app = WireApp(provider, policy=hides, api=api)

    def answer(name: str) -> tuple[str, dict[str, str], Any]:
        exchange = Exchange(app, query, path=f"/{name}{below}", **environ)
        try:
            body: Any = exchange.read()
        except Exception as error:
            body = repr(error)
        return exchange.status, exchange.headers, body

    hidden, missing = answer("hidden"), answer("nothere")
    assert hidden == missing
    assert hidden[0][:3] == ("400" if query.count("cmd=") > 1 else "404")
    assert answer("repo") != missing or query.count("cmd=") > 1
    assert provider.held == 0


@pytest.mark.parametrize("query", ["cmd=heads", "cmd=unbundle", "cmd=nosuch", "cmd=batch&cmds=heads+", ""])
@pytest.mark.parametrize("error", [RepositoryUnusable(), RepositoryBusy("later"), ZeroDivisionError(), SystemExit(1)])
@pytest.mark.parametrize("part", ["commands", "view"])
def test_a_hidden_repository_that_is_broken_or_busy_is_hidden(part: str, error: BaseException, query: str) -> None:
    def fail(*given: Any) -> Any:
        raise error

    provider = Hiding()
    if part == "commands":
        provider.repository.commands = fail  # type: ignore[method-assign]  # as a backend would
    app = WireApp(provider, policy=hides, view=fail if part == "view" else None)
    hidden, missing = Exchange(app, query, path="/hidden"), Exchange(app, query, path="/nothere")
    assert (hidden.status, hidden.headers, hidden.read()) == (missing.status, missing.headers, missing.read())
    assert hidden.status[:3] == "404"
    assert Exchange(app, "cmd=heads", path="/repo").status[:3] in ("500", "503")
    with pytest.raises(RepositoryNotFound):
        app.authorize(unanswered("cmd=heads", path="/hidden"))
    assert provider.held == 0


def test_a_hidden_repository_is_not_listed_and_not_answered_from_the_cache() -> None:
    hidden: list[bool] = []
    app = WireApp(Hiding(), policy=lambda request: hides(request) if hidden else None)
    for status, names in (("200", ["hidden", "repo"]), ("404", ["repo"])):
        for _ in range(2):
            assert Exchange(app, "cmd=heads", path="/hidden").status[:3] == status
        lines = Exchange(app, path="/").read().decode().split()
        assert [line.rpartition("/")[2] for line in lines] == names
        hidden.append(True)


# Decisions without running anything.

PUSHES = "cmds=heads+%3Bpushkey+namespace%3Da%2Ckey%3Db%2Cold%3D%2Cnew%3D"


@pytest.mark.parametrize(
    ("path", "query", "environ", "expected"),
    [
        ("/repo", "cmd=heads", {}, "pull"),
        ("/repo", "cmd=unbundle&heads=", {"REQUEST_METHOD": "POST"}, "push"),
        ("/repo", "cmd=unbundle&heads=", {}, "405 push requires POST request"),
        ("/repo", "cmd=unbundle", {"REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/plain"}, 415),
        ("/repo", "cmd=nosuch", {}, "400 unknown command: nosuch"),
        ("/repo", "cmd=heads&cmd=heads", {}, 400),
        ("/repo", "cmd=batch&cmds=heads+%3Blookup+key%3Dtip", {}, "pull pull"),
        ("/repo", "cmd=batch", {"HTTP_X_HGARG_1": PUSHES, "REQUEST_METHOD": "POST"}, "pull push"),
        ("/repo", "cmd=batch", {"HTTP_X_HGARG_1": PUSHES}, 405),
        ("/repo", "cmd=batch&cmds=", {}, 400),
        ("/repo", "cmd=batch", {"HTTP_X_HGARGS_POST": "9", "REQUEST_METHOD": "POST"}, "pull push"),
        ("/repo", "cmd=known", {"HTTP_X_HGARGS_POST": "9", "REQUEST_METHOD": "POST"}, "pull"),
        ("/repo", "", {}, "pull"),
        ("/repo", "", {"REQUEST_METHOD": "POST"}, "push"),
        ("/repo/file/tip", "", {}, "pull"),
        ("/repo/page", "cmd=heads", {}, "404 not found"),
        ("/repo/page", "cmd=nosuch", {}, "404 not found"),
        ("/repo/page", "cmd=changelog", {}, "pull"),
        ("/repo/page", "", {"REQUEST_METHOD": "PUT"}, 405),
        ("/repo/page", "cmd=heads&cmd=heads", {}, 400),
        ("/none", "cmd=heads&cmd=heads", {}, 400),
        ("/repo/files/x", "", {"REQUEST_METHOD": "PUT"}, "upload"),
        ("/repo/files/x", "", {"REQUEST_METHOD": "DELETE"}, 405),
        ("/repo/api/exp-http-v2-0001/ro/heads", "", {"REQUEST_METHOD": "POST"}, "pull"),
        ("/repo/api/exp-http-v2-0001/rw/heads", "", {"REQUEST_METHOD": "POST"}, "push"),
        ("/", "", {}, ""),
        ("/none", "cmd=heads", {}, "404 no such repository"),
        ("/hidden", "cmd=heads", {}, "404 no such repository"),
        ("/hidden/page", "", {}, "404 no such repository"),
    ],
)
def test_a_decision_without_running_anything(path: str, query: str, environ: dict[str, str], expected: Any) -> None:
    asked: list[str] = []

    def policy(request: AccessRequest) -> None:
        hides(request)
        asked.append("upload" if request.upload else request.permission)

    provider = Hiding()
    app = WireApp(provider, policy=policy, api=ApiSettings(server=True, http_v2=True))
    unread = unanswered(query, path=path, **environ)
    unread["wsgi.input"] = None
    try:
        app.authorize(unread)
    except HgWireError as error:
        assert expected in (error.http_status, f"{error.http_status} {error.message}")
    else:
        assert " ".join(asked) == expected
    assert provider.held == 0
    assert CURRENT.get() is None


def unanswered(query: str, **environ: Any) -> dict[str, Any]:
    """The environ of a request that nobody has answered."""
    return Exchange(lambda environ, start_response: [], query, **environ).environ


def test_a_request_that_is_refused_on_its_arrival_is_not_decided_on() -> None:
    def identify(request: Any) -> str | None:
        raise PermissionDenied("wrong password", status=401)

    app = WireApp(Hiding(), policy=lambda request: None, identify=identify)
    assert Exchange(app, "cmd=heads").status == "401 wrong password"
    with pytest.raises(PermissionDenied, match="wrong password"):
        app.authorize(unanswered("cmd=heads"))


def test_posted_arguments_that_a_policy_wants_to_see_cannot_be_decided_on() -> None:
    def policy(request: AccessRequest) -> None:
        assert request.calls

    app = WireApp(Hiding(), policy=policy)
    for command in ("known", "batch"):
        with pytest.raises(RequestError, match="posted arguments"):
            app.authorize(unanswered(f"cmd={command}&cmds=heads+", HTTP_X_HGARGS_POST="9"))


# What a backend serves besides commands.


class Files(FakeProvider):
    """Serves what a function returns at ``/repo/files/...``."""

    def __init__(self, reply: Callable[[SubresourceRequest], SubresourceReply | None]) -> None:
        super().__init__(OPEN)
        self.repository.subresource = lambda request, authorize: authorize("pull") or reply(request)

    def is_subresource(self, rest: str) -> bool:
        return rest.startswith("files/")


class Chunks:
    """Iterable again and again, closed once."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed += 1


def test_a_backend_serves_files_below_a_repository() -> None:
    chunks, seen = Chunks(b"one", b"two"), []

    def reply(request: SubresourceRequest) -> SubresourceReply:
        environ = request.environ
        seen.append((environ["SCRIPT_NAME"], environ["PATH_INFO"], request.path, request.body.read(100)))
        return SubresourceReply("201 Created", (("Content-Type", "x/y"),), chunks)

    provider = Files(reply)
    exchange = Exchange(WireApp(provider), path="/repo/files/x", body=b"body", SCRIPT_NAME="/hg")
    assert (exchange.status, exchange.headers) == ("201 Created", {"Content-Type": "x/y", "Cache-Control": "no-store"})
    assert (provider.held, chunks.closed) == (1, 0)
    assert exchange.read() == b"onetwo"
    exchange.close()
    assert (provider.held, chunks.closed) == (0, 1)
    assert seen == [("/hg/repo", "/files/x", "files/x", b"body")]


@pytest.mark.parametrize(
    ("own", "status", "environ", "expected"),
    [
        ((), "200 OK", {}, "private, no-cache"),
        ((), "404 Not Found", {}, "no-store"),
        ((), "200 OK", {"REQUEST_METHOD": "PUT"}, "no-store"),
        ((("cache-control", "max-age=9"),), "200 OK", {}, "max-age=9"),
    ],
)
def test_who_may_keep_a_file_is_up_to_the_backend(own: Any, status: str, environ: Any, expected: str) -> None:
    provider = Files(lambda request: SubresourceReply(status, own, [b"x"]))
    exchange = Exchange(WireApp(provider), path="/repo/files/x", **environ)
    exchange.read()
    assert {name.lower(): value for name, value in exchange.headers.items()} == {"cache-control": expected}


def test_a_backend_that_has_no_such_file() -> None:
    provider = Files(lambda request: None)
    for path in ("/repo/files/x", "/repo/other"):
        assert listed(provider, path) == ("404 Not Found", TEXT, b"not found\n")
    provider.repository.web["allow_read"] = "alice"
    assert listed(provider, "/repo/files/x")[0] == "401 Unauthorized"
    assert provider.held == 0


def test_a_path_that_a_provider_rewrites_has_no_mount_point() -> None:
    seen: list[Any] = []

    class Rewriting(Files):
        def locate(self, path: str) -> tuple[str, str] | None:
            return "repo", "files/rewritten"

    provider = Rewriting(lambda request: seen.append(request.environ["SCRIPT_NAME"]))
    Exchange(WireApp(provider), path="/repo/files/x", SCRIPT_NAME="/hg").read()
    assert seen == ["/hg"]


# Nothing leaks.


@pytest.mark.parametrize(
    ("query", "environ"),
    [
        ("cmd=heads", {}),
        ("cmd=nosuch", {}),
        ("cmd=x", {}),
        ("cmd=known", {"HTTP_X_HGARG_1": "nodes=zz"}),
        ("cmd=known", {"HTTP_X_HGPROTO_1": "x" * 5000}),
        ("cmd=unbundle&heads=", {"REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/plain"}),
        ("cmd=heads", {"CONTENT_LENGTH": "x"}),
        ("", {}),
        ("", {"REQUEST_METHOD": "DELETE"}),
    ],
)
@pytest.mark.parametrize("method", [None, "HEAD"])
def test_every_lease_is_released(query: str, environ: dict[str, str], method: str | None) -> None:
    commands = CommandRegistry.standard()
    commands.command("x", permission="pull")(lambda context: 1 / 0)
    provider = FakeProvider(OPEN)
    exchange = Exchange(
        WireApp(provider, commands=commands), query, **{**environ, **({"REQUEST_METHOD": method} if method else {})}
    )
    try:
        exchange.read()
    except Exception as error:
        assert "closing the connection" in str(error)
    assert provider.held == 0
    assert provider.leased == provider.released
    assert CURRENT.get() is None


def test_log_lines_name_what_they_are_about(caplog: pytest.LogCaptureFixture) -> None:
    commands = CommandRegistry.standard()

    @commands.command("x", permission="pull", args=["*"])
    def warns(context: CommandContext, rest: dict[str, bytes]) -> bytes:
        LOGGER.warning("a warning about %s", "something")
        raise ZeroDivisionError

    environ = {"REMOTE_USER": "eve\n", "REMOTE_ADDR": "192.0.2.1", "HTTP_X_REQUEST_ID": "r1"}
    Exchange(WireApp(FakeProvider(), commands=commands), "cmd=batch&cmds=heads+%3Bx+", **environ).read()
    about = r" [repository=repo command=batch,heads,x user=eve\n address=192.0.2.1 request=r1]"
    assert caplog.messages == ["a warning about something" + about, "a command failed" + about]
    LOGGER.warning("later")
    assert caplog.messages[-1] == "later"


def test_log_lines_of_the_thread_that_makes_a_bundle_name_its_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def chunks() -> Iterator[bytes]:
        yield NOISE
        LOGGER.warning("from %s", threading.current_thread().name)
        yield NOISE

    app = WireApp(FakeProvider(), commands=streaming(chunks), cache=CacheSettings(folder=tmp_path))
    Exchange(app, "cmd=x", HTTP_X_REQUEST_ID="r1").read()
    makers_are_done()
    assert caplog.messages == ["from hgwire-maker [repository=repo command=x user=- address=- request=r1]"]


# Hosts that route requests themselves.


def test_a_webob_request_gets_a_webob_response() -> None:
    app = WireApp(FakeProvider())
    response = app.respond(webob.Request.blank("/repo?cmd=heads"))
    assert (response.status, response.body) == ("200 Script output follows", b"11" * 20 + b"\n")
    assert (response.content_type, response.charset, response.content_length) == ("application/mercurial-0.1", None, 41)
    assert app.respond(webob.Request.blank("/repo?cmd=nosuch")).status_int == 400


def test_a_webob_response_streams_and_is_closed_once() -> None:
    made: list[int] = []
    closed: list[int] = []

    class Source:
        def __iter__(self) -> Iterator[bytes]:
            for number in range(5):
                made.append(number)
                yield NOISE

        def close(self) -> None:
            closed.append(1)

    provider, watch = FakeProvider(), Watch()
    app = WireApp(provider, commands=returning(StreamResponse(Source()), reply="stream"), observers=[watch])
    response = app.respond(webob.Request.blank("/repo?cmd=x"))
    assert response.content_length is None
    chunks = iter(response.app_iter)
    assert next(chunks)
    assert len(made) < 5 and closed == [] and provider.held == 1
    response.app_iter.close()
    response.app_iter.close()
    assert (closed, provider.held, watch.closed.outcome) == ([1], 0, "cut")


def test_a_webob_response_to_head_is_complete() -> None:
    """WebOb closes the body of a response to ``HEAD``, and does not iterate it."""
    watch, provider = Watch(), FakeProvider()
    app = WireApp(provider, observers=[watch])
    request = webob.Request.blank("/repo?cmd=heads", method="HEAD")
    exchange = Exchange(app.respond(request), REQUEST_METHOD="HEAD")
    assert exchange.headers["Content-Length"] == "41"
    assert exchange.read() == b""
    closed = watch.closed
    assert (closed.outcome, closed.bytes_out, provider.held) == ("ok", 0, 0)


def test_a_webob_response_with_a_file_keeps_the_servers_wrapper(tmp_path: Path) -> None:
    app = WireApp(FakeProvider(), commands=streaming(lambda: iter([NOISE])), cache=CacheSettings(folder=tmp_path))
    expected = app.respond(webob.Request.blank("/repo?cmd=x")).body
    makers_are_done()
    request = webob.Request.blank("/repo?cmd=x", environ={"wsgi.file_wrapper": FileWrapper})
    response = app.respond(request)
    exchange = Exchange(response)
    assert isinstance(exchange.response, FileWrapper)
    assert exchange.headers["Content-Length"] == str(len(expected))
    assert exchange.read() == expected
    assert exchange.response.filelike.closed


def pushing() -> tuple[WireApp, list[bytes]]:
    pushed: list[bytes] = []
    commands = CommandRegistry.standard()

    @commands.command("push", permission="push", body=True)
    def push(context: CommandContext) -> bytes:
        pushed.append(context.body.read(100))
        return b"1\n"

    return WireApp(FakeProvider(OPEN), commands=commands), pushed


def test_a_push_through_webob() -> None:
    app, pushed = pushing()
    headers = {"Content-Type": "application/mercurial-0.1"}
    request = webob.Request.blank("/repo?cmd=push", method="POST", body=b"bundle", headers=headers)
    assert app.respond(request).body == b"1\n"
    assert pushed == [b"bundle"]


def test_a_pyramid_view_returns_the_response(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # Pyramid 2.1 imports pkg_resources, which newer releases of setuptools warn about.
        warnings.simplefilter("ignore")
        pyramid = pytest.importorskip("pyramid.config")
    app, pushed = pushing()
    watch = Watch()
    big = WireApp(
        FakeProvider(),
        commands=streaming(lambda: iter([NOISE])),
        cache=CacheSettings(folder=tmp_path),
        observers=[watch],
    )

    def view(request: Any) -> Any:
        shifted = webob.BaseRequest({**request.environ, "PATH_INFO": "/" + "/".join(request.matchdict["rest"])})
        return (big if request.path.startswith("/big") else app).respond(shifted)

    with pyramid.Configurator() as config:
        for name in ("hg", "big"):
            config.add_route(name, f"/{name}/*rest")
            config.add_view(view, route_name=name)
        site = config.make_wsgi_app()
    assert Exchange(site, "cmd=heads", path="/hg/repo").read() == b"11" * 20 + b"\n"
    push = Exchange(site, "cmd=push", path="/hg/repo", body=b"bundle", CONTENT_TYPE="application/mercurial-0.1")
    assert (push.status, push.read(), pushed) == ("200 Script output follows", b"1\n", [b"bundle"])
    expected = Exchange(site, "cmd=x", path="/big/repo").read()
    assert watch.closed.bytes_out == len(expected) > len(NOISE)
    makers_are_done()
    cached = Exchange(site, "cmd=x", path="/big/repo", **{"wsgi.file_wrapper": FileWrapper})
    assert isinstance(cached.response, FileWrapper)
    assert cached.read() == expected
    assert watch.closed.cache == "hit"
    head = Exchange(site, "cmd=x", path="/big/repo", REQUEST_METHOD="HEAD")
    assert head.read() == b""
    closed = watch.closed
    assert (closed.outcome, closed.method, int(head.headers["Content-Length"])) == ("ok", "HEAD", len(expected))
    leaves = Exchange(site, "cmd=x", path="/big/repo")
    next(iter(leaves.response))
    leaves.close()
    assert watch.closed.outcome == "cut"


def test_respond_after_classify_reads_posted_arguments_again() -> None:
    app = WireApp(FakeProvider(OPEN), capabilities=ServerCapabilities(post_args=True))
    request = webob.BaseRequest.blank("/repo?cmd=known", method="POST", headers={"X-HgArgs-Post": "46"})
    request.body = b"nodes=" + b"11" * 20
    assert request.is_body_seekable
    classified = app.classify(request.environ)
    assert classified is not None and classified.posted == 46
    assert app.respond(request).body == b"1"


def test_a_request_that_changes_after_it_was_classified_is_read_again() -> None:
    """The policy decides about the command that runs."""
    asked: list[tuple[str, ...]] = []
    app = WireApp(FakeProvider(), policy=lambda request: asked.append(request.commands))
    environ = unanswered("cmd=pushkey&namespace=a&key=b&old=&new=")
    assert app.classify(environ) is not None
    environ["QUERY_STRING"] = "cmd=heads"
    assert b"".join(app(environ, lambda status, headers: None)) == b"11" * 20 + b"\n"
    assert asked == [("heads",)]


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/repo/api/exp-http-v2-0001/ro/heads", "POST", ("heads", "pull")),
        ("/repo/api/exp-http-v2-0001/rw/multirequest", "POST", ("multirequest", "push")),
        ("/repo/api/exp-http-v2-0001/xx/heads", "POST", ("heads", "push")),
        ("/repo/api", "GET", ("", "pull")),
        ("/repo/.hg/lfs/objects/aa", "GET", ("resource", "pull")),
        ("/repo/.hg/lfs/objects/aa", "PUT", ("resource", "push")),
        ("/repo/.git/info/lfs/objects/batch", "POST", ("resource", "push")),
        ("/repo/page", "GET", None),
        ("/repo", "GET", None),
    ],
)
def test_what_names_no_command_is_classified_by_its_url(path: str, method: str, expected: Any) -> None:
    class Provider(FakeProvider):
        def is_subresource(self, rest: str) -> bool:
            return rest.startswith((".hg/", ".git/"))

    app = WireApp(Provider(OPEN), api=ApiSettings(server=True, http_v2=True))
    found = app.classify({"PATH_INFO": path, "REQUEST_METHOD": method})
    assert (found and (found.command, found.permission)) == expected
