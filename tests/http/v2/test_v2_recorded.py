"""The recorded exchanges of the frame-based API.

The commands of the recording are made from what the vectors say of them.  What a body means is taken from a
``ServerReactor``, which has vectors of its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import pytest
from deviations import FRAMED_RULES, Expected, Framed, expected_for
from fakes import Exchange, FakeProvider, FakeRepository
from v2_support import MEDIA_TYPE
from vector_files import COPIES, file_of, parameters, raw_bytes

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
from hgwire_wsgi.framing import EXP_0002, Frame, FrameBuffer, encode_frame, parse_frame

RECORDED = file_of("framing-0002/http.json")
OWN = file_of("framing-0002/http.json", COPIES)
"""Those that came with the project, for requests that are made from one of them."""


class Repository(FakeRepository):
    """The empty repository of the recording."""

    def heads(self) -> list[bytes]:
        return [b"\0" * 20]

    def known(self, nodes: Any) -> list[bool]:
        return [node == b"\0" * 20 for node in nodes]

    def listkeys(self, namespace: bytes) -> dict[bytes, bytes]:
        return dict.fromkeys((b"bookmarks", b"namespaces", b"phases"), b"") if namespace == b"namespaces" else {}


class RecordedCommand:
    """A command of the recording, as the vectors describe it: ``pull, args 'one two', returns bytes '<one>;<two>'``."""

    def __init__(self, name: str, described: str) -> None:
        def find(pattern: str) -> str | None:
            match = re.search(pattern, described)
            return match[1] if match else None

        self.name = name
        self.permission = find(r"\b(pull|push)\b")
        self.args = (find("args? '([^']*)'") or find(r"arg (\w+)") or "").split()
        self.bytes = find("returns bytes '([^']*)'")
        self.repeated = re.search(r"returns bytes (\w+)\*(\w+)", described)
        self.abort = find(r"raises error.Abort\('([^']*)'")
        self.refusal = find("returns ooberror '([^']*)'")
        self.chunks = find(r"returns a stream response of chunks ([\w, ]+)")
        self.only_v1 = "version 1 transports only" in described

    @property
    def is_ours(self) -> bool:
        """Whether it has to be made; the others are standard commands."""
        return self.permission is not None and self.name not in CommandRegistry.standard()

    def answer(self, arguments: Mapping[str, bytes]) -> bytes | str:
        """What it returns, or the message (``str``) that it fails with."""
        if self.abort is not None or self.refusal is not None:
            return self.abort or self.refusal or ""
        if self.chunks is not None:
            return b"".join(chunk.encode() for chunk in self.chunks.split(", "))
        if self.repeated:
            return arguments[self.repeated[1]] * int(arguments[self.repeated[2]])
        text = self.bytes or ""
        return re.sub(rb"<(\w+)>", lambda match: arguments[match[1].decode()], text.encode())

    def __call__(self, context: CommandContext, **arguments: bytes) -> Any:
        answer = self.answer(arguments)
        if self.abort is not None:
            raise CommandFailed(self.abort)
        if isinstance(answer, str):
            return OutOfBandError(answer.encode())
        return StreamResponse([chunk.encode() for chunk in self.chunks.split(", ")]) if self.chunks else answer


COMMANDS = {
    name: RecordedCommand(name, described)
    for name, described in {**OWN["commands"], **RECORDED.get("commands", {})}.items()
}
CONFIGURATIONS = {**OWN["configs"], **RECORDED.get("configs", {})}


def recorded_commands() -> CommandRegistry:
    registry = CommandRegistry.standard()
    for name, each in COMMANDS.items():
        if each.is_ours:
            options: dict[str, Any] = {"version": "v2"} if each.only_v1 else {}
            registry.command(name, permission=each.permission, args=each.args, **options)(each.__call__)
    return registry


def result(name: bytes, arguments: Mapping[bytes, bytes]) -> bytes | str:
    """What a command of the recording answers to arguments."""
    known = {key.decode("latin-1"): value for key, value in arguments.items()}
    command = COMMANDS.get(name.decode("latin-1"))
    if command is not None and command.is_ours:
        return command.answer(known)
    if name == b"known":
        return b"".join(b"%d" % (node == b"0" * 40) for node in known["nodes"].split())
    if name == b"heads":
        return b"0" * 40 + b"\n"
    assert name == b"listkeys", name
    return b"\n".join(b"%s\t%s" % item for item in sorted(Repository().listkeys(known["namespace"]).items()))


def required(name: bytes) -> list[bytes]:
    command = COMMANDS.get(name.decode("latin-1"))
    return [each.encode() for each in command.args if each != "*"] if command is not None else []


def configured(name: str, **options: Any) -> WireApp:
    """The application with the configuration of a recording."""
    config = CONFIGURATIONS[name]
    switches = config.get("experimental", {})
    provider = FakeProvider()
    provider.repository = Repository(config.get("web", {}))
    api = ApiSettings(
        server=switches.get("web.apiserver") == "true",
        http_v2=switches.get("web.api.http-v2") == "true",
        debugreflect=switches.get("web.api.debugreflect") == "true",
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
    return Exchange(app, query, path="/repo" + unquote(path, "latin-1"), **environ)


def framed(case: Any) -> Framed:
    return Framed(case, raw_bytes(case["request"].get("body_hex", "")), required, result)


@parameters(RECORDED["cases"])
def test_recorded(case: Any) -> None:
    app = configured(case["config"])
    exchange = replay(case, app)
    body = exchange.read()
    assert isinstance(app.provider, FakeProvider)
    assert app.provider.leased == app.provider.released
    assert exchange.headers["X-Content-Type-Options"] == "nosniff"
    if (found := expected_for(FRAMED_RULES, framed(case))) is not None:
        check_deviation(case, exchange, body, found[1])
        return
    expected = case["response"]
    headers = dict(expected["headers"])
    assert exchange.status == expected["status_line"].partition(" ")[2]
    assert exchange.headers["Content-Type"] == headers["Content-Type"]
    for name in ("Allow", "Content-Length"):
        assert exchange.headers.get(name) == headers.get(name)
    check_body(body, expected)


def check_body(body: bytes, expected: Mapping[str, Any]) -> None:
    if "body_hex" in expected:
        assert body == raw_bytes(expected["body_hex"])
    elif "body_length" in expected:
        assert len(body) == expected["body_length"]


def check_deviation(case: Any, exchange: Exchange, body: bytes, expected: Expected) -> None:
    if expected.like is not None:
        other = replay(expected.like, configured(case["config"]))
        assert (other.read(), other.status, other.headers) == (body, exchange.status, exchange.headers)
        assert exchange.status[:3] not in ("406", "415")
        return
    assert int(exchange.status[:3]) in expected.status
    assert not expected.content_type or exchange.headers["Content-Type"] == expected.content_type
    if expected.frames is not None:
        check_frame(body, expected.frames)
        return
    assert exchange.headers["Content-Length"] == str(len(body)) and b"Traceback" not in body
    for words in expected.says:
        assert words in body.decode()
    if expected.body is not None:
        assert body == expected.body
        assert exchange.headers.get("Allow") == dict(case["response"]["headers"]).get("Allow")


def check_frame(body: bytes, wanted: bytes | str) -> None:
    """The frames of one response: its data, or the message of an error."""
    frames = parse_frames(body)
    assert [(each.stream_id, each.stream_flags) for each in frames[:1]] == [(2, 1)]
    assert {each.request_id for each in frames} == {1}
    if isinstance(wanted, bytes):
        assert b"".join(each.payload for each in frames) == wanted
        assert [(each.type_id, each.flags) for each in frames] == [(4, 1)] * (len(frames) - 1) + [(4, 2)]
    else:
        (frame,) = frames
        assert (frame.type_id, frame.flags) == (5, 2) and wanted.encode() in frame.payload


@parameters(RECORDED["cases"])
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


def made(
    target: str, frames: list[str], status: int = 500, content_type: str | None = None, cut: int = 0, **headers: str
) -> dict[str, Any]:
    """A case as if recorded: a request for a command, and what the reference would say."""
    body = b"".join(encode_frame(parse_frame(line, EXP_0002)) for line in frames)
    body = body[: len(body) - cut]
    sent = {"accept": MEDIA_TYPE, "content-type": MEDIA_TYPE, "content-length": str(len(body))}
    sent.update({name.strip("_").replace("_", "-"): value for name, value in headers.items()})
    typed = [["Content-Type", content_type]] if content_type else []
    return {
        "config": "v2",
        "request": {
            "method": "POST",
            "target": f"/api/exp-http-v2-0001/{target}",
            "headers": [[name, value] for name, value in sent.items()],
            "body_hex": body.hex(),
        },
        "response": {"status": status, "status_line": f"HTTP/1.1 {status} text", "headers": typed},
    }


HEADS_FRAME = "1 1 stream-begin command-name eos heads"
LISTKEYS = "1 1 stream-begin command-name have-args listkeys"
TEXT = "text/plain"

MADE = {
    "api-off": [{**made("ro/heads", [], 400), "config": "no-api", "body_is_hgweb_specific": True}],
    "more-path-parts": [
        made("ro/heads/x", [HEADS_FRAME], 200, MEDIA_TYPE),
        made("ro/heads/x/y?z", [HEADS_FRAME], 405),
        made("ro/multirequest/heads", [HEADS_FRAME], 200, MEDIA_TYPE),
    ],
    "accept-ranges": [
        made("ro/heads", [HEADS_FRAME], 406, TEXT, accept=f"text/plain, {MEDIA_TYPE};q=0.5"),
        made("ro/heads", [HEADS_FRAME], 406, TEXT, accept=f"{MEDIA_TYPE};x=y"),
    ],
    "content-type-parameters": [made("ro/heads", [HEADS_FRAME], 415, TEXT, content_type_=f"{MEDIA_TYPE}; x=y")],
    "no-command": [
        made("ro/heads", []),
        made("ro/multirequest", []),
        made("ro/heads", ["1 1 stream-begin stream-settings 0 \\x08identity"]),
    ],
    "broken-frames": [
        made("ro/heads", [HEADS_FRAME], cut=1),
        made("ro/heads", [HEADS_FRAME], cut=len("heads") + 3),
        made("ro/listkeys", [LISTKEYS]),
        made("ro/multirequest", [HEADS_FRAME, LISTKEYS.replace("1", "3", 1)], 200, MEDIA_TYPE),
        made("ro/listkeys", [LISTKEYS, r"1 1 0 command-argument eoa \0\0\1\0x"], 200, MEDIA_TYPE),
        made("ro/heads", ["2 1 stream-begin command-name eos heads"], 200, MEDIA_TYPE),
        made("ro/heads", ["1 1 stream-begin command-name eos|have-args heads"], 200, MEDIA_TYPE),
        made("ro/heads", ["1 1 stream-begin|encoded command-name eos heads"]),
    ],
    "failed-command": [
        made("ro/listkeys", [LISTKEYS, r"1 1 0 command-argument eoa \1\0\1\0ab"]),
        made("ro/aborter", ["1 1 stream-begin command-name eos aborter"]),
    ],
    "works-over-frames": [
        made("ro/streamer", ["1 1 stream-begin command-name eos streamer"]),
        made(
            "ro/known",
            [
                "1 1 stream-begin command-name have-args known",
                rf"1 1 0 command-argument eoa \5\0\x51\0nodes{'00' * 20} {'11' * 20}",
            ],
        ),
        made(
            "ro/listkeys",
            [
                LISTKEYS,
                r"1 1 0 command-argument continuation \11\0\12\0namespacename",
                "1 1 0 command-argument eoa spaces",
            ],
        ),
    ],
    "typed-answers": [{**made("ro/heads", [], 405), "request": {**made("ro/heads", [])["request"], "method": "GET"}}],
}
"""Cases as if recorded, by the rule that decides them."""
MADE["typed-answers"][0]["response"].update(
    body_hex=b"commands require POST requests".hex(), headers=[["Allow", "POST"]]
)


@pytest.mark.parametrize(
    ("rule", "case"), [pytest.param(rule, case, id=rule) for rule, cases in MADE.items() for case in cases]
)
def test_rules_by_requests(rule: str, case: Any) -> None:
    found = expected_for(FRAMED_RULES, framed(case))
    assert found is not None and found[0].name == rule
    test_recorded(case)


def test_every_rule_has_a_request() -> None:
    assert MADE.keys() == {deviation.name for deviation in FRAMED_RULES}


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


HEADS = next(case for case in OWN["cases"] if case["request"]["target"].endswith("/ro/heads"))


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
    case = HEADS
    request = {**case["request"], "headers": [pair for pair in case["request"]["headers"] if pair[0] != "accept"]}
    request["headers"].append(["accept", accept])
    exchange = replay({"request": request}, configured("v2"))
    exchange.read()
    assert exchange.status[:3] == ("200" if good else "406")


def test_content_type_may_have_parameters() -> None:
    case = HEADS
    headers = [*case["request"]["headers"], ["content-type", f"{MEDIA_TYPE}; x=y"]]
    exchange = replay({"request": {**case["request"], "headers": headers}}, configured("v2"))
    exchange.read()
    assert exchange.status == "200 OK"
