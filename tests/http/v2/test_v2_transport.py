"""The transport of version 2: what is refused before anything runs, and what is released."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fakes import Exchange, FakeProvider
from v2_support import MEDIA_TYPE, OPEN, Answer, Source, ask, commands, frame, make_app, registry
from v2_support import send as begin

from hgwire_wsgi import (
    AccessRequest,
    ApiSettings,
    StreamResponse,
    default_policy,
)
from hgwire_wsgi.errors import RepositoryBusy, RepositoryNotFound
from hgwire_wsgi.framing import ZLIB, ZSTD_8MB


def test_a_failing_backend() -> None:
    class Busy(FakeProvider):
        def lease(self, name: str) -> Any:
            raise RepositoryBusy("busy", headers=[("Retry-After", "5")])

    answer = ask(make_app(provider=Busy(OPEN)), "ro/heads", commands("heads"))
    assert answer.text == (503, "busy\n")
    assert answer.headers["Retry-After"] == "5"


def test_a_failing_policy() -> None:
    def policy(request: AccessRequest) -> None:
        raise RuntimeError("secret")

    answer = ask(make_app(policy=policy), "ro/heads", commands("heads"))
    assert (answer.status, answer.text) == ("403 refused by the access policy", (403, "permission denied"))


def test_start_response_that_fails_releases_everything() -> None:
    provider, source = FakeProvider(OPEN), Source(b"x" * 100_000)
    app = make_app(registry(x=lambda: StreamResponse(source)), provider=provider)
    exchange = begin(app, "ro/multirequest", commands("x"))
    exchange.close()

    def start_response(status: str, headers: Any) -> None:
        raise OSError("gone")

    exchange.environ["wsgi.input"].seek(0)
    with pytest.raises(OSError, match="gone"):
        app(exchange.environ, start_response)
    assert provider.leased == provider.released == 2


def test_what_no_exception_handler_catches_releases_everything() -> None:
    def interrupt() -> Any:
        raise KeyboardInterrupt

    provider = FakeProvider(OPEN)
    with pytest.raises(KeyboardInterrupt):
        begin(make_app(registry(x=interrupt), provider=provider), "ro/x", commands("x"))
    assert provider.leased == provider.released == 1


@pytest.mark.parametrize("headers", [{"HTTP_ORIGIN": "https://evil"}, {"HTTP_SEC_FETCH_SITE": "cross-site"}])
def test_pushes_from_web_pages_are_refused(headers: dict[str, str]) -> None:
    for target in ("rw/put", "rw/multirequest"):
        answer = ask(make_app(), target, commands("put"), **headers)
        assert (answer.status, answer.text[1]) == ("403 pushes from web pages are refused", "permission denied")
    assert ask(make_app(), "ro/heads", commands("heads"), **headers).replies[1].ended


def test_reading_may_be_denied() -> None:
    app = make_app(provider=FakeProvider({**OPEN, "deny_read": "*"}))
    for target in ("ro/heads", "ro/multirequest", "ro/nope", "ro/debugreflect"):
        assert ask(app, target, commands("heads")).status == "403 read not authorized"


def test_a_body_without_a_length() -> None:
    exchange = Exchange(
        make_app(),
        path="/repo/api/exp-http-v2-0001/ro/heads",
        REQUEST_METHOD="POST",
        HTTP_ACCEPT=MEDIA_TYPE,
        CONTENT_TYPE=MEDIA_TYPE,
        HTTP_TRANSFER_ENCODING="chunked",
        **{"wsgi.input": io.BytesIO(commands("heads")), "wsgi.input_terminated": True},
    )
    assert Answer(exchange).replies[1].ended
    refused = begin(make_app(), "ro/heads", b"", CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked")
    assert refused.status == "411 Length Required"
    assert next(refused.response).startswith(b"this server does not accept chunked request bodies")
    with pytest.raises(Exception, match="closing the connection"):
        next(refused.response)


def test_the_default_policy() -> None:
    assert make_app().policy is default_policy


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (frame("1 1 stream-begin stream-settings 0 \\x04gzip"), "unknown stream encoding profile: gzip"),
        (frame("1 1 stream-begin stream-settings 0 \\x09gzip"), "malformed stream settings"),
        (frame("1 1 stream-begin|encoded command-name eos heads"), "without encoding settings"),
        (frame("1 1 stream-begin command-name eos|have-args heads"), "announces arguments"),
    ],
)
def test_malformed_frames_of_kinds_that_nobody_recorded_are_bad_requests(frames: bytes, message: str) -> None:
    status, text = ask(make_app(), "ro/heads", frames).text
    assert status == 400
    assert message in text


def test_urls_that_inform_need_no_permission() -> None:
    provider = FakeProvider({"deny_read": "*"})
    exchange = Exchange(make_app(provider=provider), path="/repo/api/exp-http-v2-0001")
    assert exchange.read() == b"HTTP version 2 API handler"
    assert exchange.status == "200 OK"
    unknown = Exchange(make_app(provider=provider), path="/repo/api/none")
    assert (unknown.status, unknown.read()[:17]) == ("404 Not Found", b"Unknown API: none")
    assert provider.held == 0


@pytest.mark.parametrize("path", ["", "/none", "/exp-http-v2-0001", "/exp-http-v2-0001/ro/heads"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_hidden_repository_has_no_api(path: str, method: str) -> None:
    def policy(request: AccessRequest) -> None:
        raise RepositoryNotFound("secret")

    provider = FakeProvider(OPEN)
    app = make_app(provider=provider, policy=policy)
    exchange = Exchange(app, path=f"/repo/api{path}", REQUEST_METHOD=method, CONTENT_LENGTH="0")
    assert (exchange.status, exchange.read()) == ("404 Not Found", b"no such repository\n")
    assert exchange.headers["Cache-Control"] == "no-store"
    assert provider.held == 0


def test_no_cache_stores_what_was_posted() -> None:
    exchange = begin(make_app(), "ro/heads", commands("heads"))
    assert (exchange.status, exchange.headers["Cache-Control"]) == ("200 OK", "no-store")
    exchange.read()


@pytest.mark.parametrize(
    ("target", "environ", "status", "text"),
    [
        ("ro/nope", {}, 404, "unknown wire protocol command: nope\n"),
        ("ro/debugreflect", {}, 404, "debugreflect service not available"),
        ("ro/heads", {"HTTP_ACCEPT": "*/*"}, 406, f"client MUST specify Accept header with value: {MEDIA_TYPE}\n"),
        ("ro/heads", {"HTTP_ACCEPT": f"{MEDIA_TYPE};;"}, 406, None),
        ("ro/heads", {"HTTP_ACCEPT": f"{MEDIA_TYPE};q=0"}, 406, None),
        ("ro/heads", {"HTTP_ACCEPT": ""}, 406, None),
        ("ro/heads", {"CONTENT_TYPE": "text/plain"}, 415, None),
        ("ro/heads", {"CONTENT_TYPE": ""}, 415, f"client MUST send Content-Type header with value: {MEDIA_TYPE}\n"),
        ("ro/nope", {"HTTP_ACCEPT": ""}, 404, None),
    ],
)
def test_what_is_refused_before_the_body_is_read(
    target: str, environ: dict[str, str], status: int, text: str | None
) -> None:
    provider = FakeProvider(OPEN)
    answer = ask(make_app(provider=provider), target, commands("heads"), **environ)
    assert answer.text[0] == status
    assert text is None or answer.text[1] == text
    assert (provider.leased, provider.held) == (1, 0)


def test_a_command_of_another_version() -> None:
    made = registry()
    made.command("other", permission="pull", version="v2")(lambda context: b"")
    assert ask(make_app(made), "ro/other", b"").text == (404, "invalid wire protocol command: other")


def test_media_types_among_others() -> None:
    accept = f"text/plain, {MEDIA_TYPE.upper()};q=0.5"
    content_type = f"{MEDIA_TYPE}; x=y"
    assert ask(make_app(), "ro/heads", commands("heads"), HTTP_ACCEPT=accept, CONTENT_TYPE=content_type).replies


def test_debugreflect_needs_no_media_type() -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, debugreflect=True))
    answer = ask(app, "ro/debugreflect", commands("heads"), HTTP_ACCEPT="", CONTENT_TYPE="")
    assert answer.text[0] == 200
    assert answer.text[1].endswith('received: <no frame>\n{"action": "noop"}')


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (frame("1 1 stream-begin command-data eos x"), "expected command frame; got 3\n"),
        (frame("1 1 0 command-name eos heads"), None),
    ],
)
def test_malformed_frames_that_were_recorded_are_answered_with_200(frames: bytes, message: str | None) -> None:
    """The log, and the observers, know them as refusals all the same."""
    events: list[Any] = []
    status, text = ask(make_app(observers=[events.append]), "ro/heads", frames).text
    assert status == 200
    assert message is None or text == message
    assert (events[-1].outcome, events[-1].error) == ("refused", text.rstrip("\n"))


@pytest.mark.parametrize(
    ("wanted", "profile"), [("comp=zlib", "zlib"), ("comp=zstd-8mb,zlib", "zstd-8mb"), ("comp=none", ""), ("0.1", "")]
)
def test_the_best_encoding_that_the_client_asks_for(wanted: str, profile: str) -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, encodings=(ZSTD_8MB, ZLIB)))
    answer = ask(app, "ro/heads", commands("heads"), HTTP_X_HGPROTO_1=wanted)
    assert [each.payload[1:].decode() for each in answer.frames if each.type_id == 8] == ([profile] if profile else [])


def test_threads_are_those_of_the_application() -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, workers=2))
    assert len(ask(app, "ro/multirequest", commands("heads", "heads")).replies) == 2
    assert app._v2.workers is not None
    assert make_app()._v2.workers is None
