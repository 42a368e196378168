"""The recorded exchanges of the frame-based API."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fakes import Exchange, FakeProvider, FakeRepository
from v2_support import MEDIA_TYPE

from hgwire_wsgi import (
    ApiSettings,
    CommandContext,
    CommandRegistry,
    OutOfBandError,
    StreamResponse,
    WireApp,
    WireMiddleware,
)
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.framing import Frame, FrameBuffer

VECTORS = Path(__file__).parent.parent.parent / "vectors" / "framing-0002" / "http.json"
RECORDED = json.loads(VECTORS.read_text())

NOT_FRAMES = "a body that is no frames, or holds no whole command, is answered with 400 and a text (decisions)"
ERROR_FRAME = "a failed command is answered with an error frame (specification), not with a crash"
WORKS = "the reference crashes at what it cannot do yet, and this server can"

DEVIATIONS: dict[str, tuple[str, int, bytes | str | None]] = {
    "url/api-root-disabled": ("what the URL means with the API off is hgweb's affair there, and ours here", 404, None),
    "malformed-body/empty-body": (NOT_FRAMES, 400, b"the request holds no command\n"),
    "malformed-body/truncated-header": (
        NOT_FRAMES,
        400,
        b"received incomplete frame: got 5 of 8 bytes of its header\n",
    ),
    "malformed-body/truncated-payload": (NOT_FRAMES, 400, b"frame length error: expected 14; got 10\n"),
    "malformed-body/multirequest-empty-body": (NOT_FRAMES, 400, b"the request holds no command\n"),
    "malformed-body/only-incomplete-command": (
        NOT_FRAMES,
        400,
        b"received end of input inside a command: request 1\n",
    ),
    "command-failure/missing-argument": (ERROR_FRAME, 200, "listkeys: missing argument namespace"),
    "command-failure/command-raises-abort": (ERROR_FRAME, 200, "aborter says no"),
    "command-failure/star-args-command": (WORKS, 200, b""),
    "command-failure/stream-response-command": (WORKS, 200, b"chunk1chunk2"),
}
"""The exchanges that come out otherwise: why, the status, and the body, response data, or (``str``) error message."""

MISSING_TYPE = "text/plain"
"""Of the answers that have no ``Content-Type`` in the recording: WSGI wants one, and decisions ask for it in errors."""


class Repository(FakeRepository):
    """The empty repository of the recording."""

    def heads(self) -> list[bytes]:
        return [b"\0" * 20]

    def listkeys(self, namespace: bytes) -> dict[bytes, bytes]:
        return dict.fromkeys((b"bookmarks", b"namespaces", b"phases"), b"") if namespace == b"namespaces" else {}


def recorded_commands() -> CommandRegistry:
    registry = CommandRegistry.standard()

    @registry.command("customreadonly", permission="pull")
    def customreadonly(context: CommandContext) -> bytes:
        return b"customreadonly bytes response"

    @registry.command("customreadwrite", permission="push")
    def customreadwrite(context: CommandContext) -> bytes:
        return b"customreadwrite bytes response"

    @registry.command("echoargs", permission="pull", args=["one", "two"])
    def echoargs(context: CommandContext, one: bytes, two: bytes) -> bytes:
        return b"one=%s;two=%s" % (one, two)

    @registry.command("fill", permission="pull", args=["byte", "count"])
    def fill(context: CommandContext, byte: bytes, count: bytes) -> bytes:
        return byte * int(count)

    @registry.command("aborter", permission="pull")
    def aborter(context: CommandContext) -> bytes:
        raise CommandFailed("aborter says no")

    @registry.command("oob", permission="pull")
    def oob(context: CommandContext) -> OutOfBandError:
        return OutOfBandError(b"out of band")

    @registry.command("streamer", permission="pull")
    def streamer(context: CommandContext) -> StreamResponse:
        return StreamResponse([b"chunk1", b"chunk2"])

    @registry.command("v1only", permission="pull", version="v2")
    def v1only(context: CommandContext) -> bytes:
        return b""

    return registry


def raw_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return bytes.fromhex(value)
    if "concat" in value:
        return b"".join(map(raw_bytes, value["concat"]))
    return raw_bytes(value["repeat_hex"]) * int(value["count"])


def configured(name: str, **options: Any) -> WireApp:
    """The application with the configuration of a recording."""
    config = RECORDED["configs"][name]
    switches = config.get("experimental", {})
    provider = FakeProvider()
    provider.repository = Repository(config.get("web", {}))
    api = ApiSettings(
        server="web.apiserver" in switches,
        http_v2="web.api.http-v2" in switches,
        debugreflect="web.api.debugreflect" in switches,
        **options,
    )
    return WireApp(provider, commands=recorded_commands(), api=api)


def replay(case: Any, app: Any) -> Exchange:
    """The recorded request; the repository was at the root of its server, ours is at ``/repo``."""
    request = case["request"]
    environ: dict[str, Any] = {"REQUEST_METHOD": request["method"], "CONTENT_LENGTH": ""}
    for name, value in request["headers"]:
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    environ["wsgi.input"] = io.BytesIO(raw_bytes(request.get("body_hex", "")))
    path, _, query = request["target"].partition("?")
    return Exchange(app, query, path="/repo" + unquote(path), **environ)


by_name = pytest.mark.parametrize("case", RECORDED["cases"], ids=[case["name"] for case in RECORDED["cases"]])


@by_name
def test_recorded(case: Any) -> None:
    app = configured(case["config"])
    exchange = replay(case, app)
    body = exchange.read()
    assert isinstance(app.provider, FakeProvider)
    assert app.provider.leased == app.provider.released
    assert exchange.headers["X-Content-Type-Options"] == "nosniff"
    if case["name"] in DEVIATIONS:
        check_deviation(case, exchange, body)
        return
    expected = case["response"]
    headers = dict(expected["headers"])
    assert exchange.status == expected["status_line"].removeprefix("HTTP/1.1 ")
    assert exchange.headers["Content-Type"] == headers.get("Content-Type", MISSING_TYPE)
    for name in ("Allow", "Content-Length"):
        assert exchange.headers.get(name) == headers.get(name)
    assert body == raw_bytes(expected["body_hex"])


def check_deviation(case: Any, exchange: Exchange, body: bytes) -> None:
    _, status, wanted = DEVIATIONS[case["name"]]
    assert case["response"]["status"] != status
    assert int(exchange.status[:3]) == status
    if status == 200:
        assert exchange.headers["Content-Type"] == MEDIA_TYPE
        data = wanted.encode() if isinstance(wanted, str) else wanted
        (frame,) = parse_frames(body)
        assert (frame.request_id, frame.stream_id, frame.stream_flags, frame.payload) == (1, 2, 1, data)
        assert (frame.type_id, frame.flags) == ((5, 2) if isinstance(wanted, str) else (4, 2))
    elif wanted is not None:
        assert (exchange.headers["Content-Type"], body) == ("text/plain", wanted)


def test_every_deviation_is_recorded() -> None:
    assert DEVIATIONS.keys() <= {case["name"] for case in RECORDED["cases"]}


@by_name
def test_recorded_with_workers(case: Any) -> None:
    """Switched on, workers change the streams of several responses to one request, and nothing else."""
    alone, beside = (replay(case, configured(case["config"], workers=workers)) for workers in (0, 3))
    bodies = alone.read(), beside.read()
    assert (beside.status, beside.headers) == (alone.status, alone.headers)
    if case["request"]["target"].endswith("/multirequest") and alone.headers["Content-Type"] == MEDIA_TYPE:
        contents = [
            sorted((each.request_id, each.type_id, each.flags, each.payload) for each in parse_frames(body))
            for body in bodies
        ]
        assert contents[0] == contents[1]
    else:
        assert bodies[0] == bodies[1]


def parse_frames(data: bytes) -> list[Frame]:
    buffer = FrameBuffer()
    buffer.feed(data)
    frames = list(buffer)
    buffer.end()
    return frames


def test_off_unless_switched_on() -> None:
    """Without the API its URLs are as any other, for the application and its middleware."""
    provider = FakeProvider()
    for app, status in ((WireApp(provider), 404), (configured("v2"), 200)):
        exchange = Exchange(app, path="/repo/api/exp-http-v2-0001")
        exchange.read()
        assert int(exchange.status[:3]) == status

    def pages(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"page"]

    for path in ("/repo/api", "/repo/api/", "/repo/api/exp-http-v2-0001/ro/heads"):
        assert Exchange(WireMiddleware(pages, wire=WireApp(provider)), path=path).read() == b"page"
        assert Exchange(WireMiddleware(pages, wire=configured("v2")), path=path).read() != b"page"
    for path in ("/repo/apis", "/repo/other/api", "/other/api"):
        assert Exchange(WireMiddleware(pages, wire=configured("v2")), path=path).read() == b"page"


def test_unknown_repository() -> None:
    exchange = Exchange(configured("v2"), path="/other/api")
    exchange.read()
    assert exchange.status.startswith("404")


def test_the_url_ends_with_the_command() -> None:
    exchange = Exchange(configured("v2"), path="/repo/api/exp-http-v2-0001/ro/heads/x", REQUEST_METHOD="POST")
    assert exchange.read() == b"do not know how to process api/exp-http-v2-0001/ro/heads/x\n"
    assert exchange.status == "404 Not Found"


def test_head_has_no_body() -> None:
    exchange = Exchange(configured("v2"), path="/repo/api", REQUEST_METHOD="HEAD")
    assert exchange.read() == b""
    assert (exchange.status, exchange.headers["Content-Length"]) == ("200 OK", "96")


@pytest.mark.parametrize(
    ("accept", "good"),
    [
        (MEDIA_TYPE, True),
        (MEDIA_TYPE.upper(), True),
        (f"text/plain, {MEDIA_TYPE};q=0.5", True),
        (f"{MEDIA_TYPE} ; x=y, */*", True),
        (f"{MEDIA_TYPE};q=0", False),
        (f"{MEDIA_TYPE}; q=0.000", False),
        (f"{MEDIA_TYPE}x", False),
        (f'text/plain;x="a, {MEDIA_TYPE}"', False),
        (f"{MEDIA_TYPE};;", False),
        ("application/*", False),
        ("", False),
    ],
)
def test_accept_is_a_list_with_weights(accept: str, good: bool) -> None:
    case = next(case for case in RECORDED["cases"] if case["name"] == "single-command/heads")
    request = {**case["request"], "headers": [pair for pair in case["request"]["headers"] if pair[0] != "accept"]}
    request["headers"].append(["accept", accept])
    exchange = replay({"request": request}, configured("v2"))
    exchange.read()
    assert exchange.status[:3] == ("200" if good else "406")


def test_content_type_may_have_parameters() -> None:
    case = next(case for case in RECORDED["cases"] if case["name"] == "single-command/heads")
    headers = [*case["request"]["headers"], ["content-type", f"{MEDIA_TYPE}; x=y"]]
    exchange = replay({"request": {**case["request"], "headers": headers}}, configured("v2"))
    exchange.read()
    assert exchange.status == "200 OK"
