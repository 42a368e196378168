"""The recorded exchanges of ``tests/vectors/negotiation``, replayed against ``WireApp``.

They were recorded from Mercurial 7.2.4.  The repository in memory holds the history that the recorded changegroup
brought and answers for itself; what it cannot answer (bundle2) is replayed from the recording.  Requests go through
:mod:`wsgiref.validate`.

Where this project answers otherwise on purpose, :data:`DEVIATIONS` says how and why; every other case must match.
"""

from __future__ import annotations

import configparser
import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import attrs
import pytest

from hgwire_wsgi import ZLIB, CommandRegistry, ServerCapabilities, StreamResponse, WireApp, WireMiddleware
from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.compression import ENGINES, DecodingReader, Engine
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.testing.history import Push
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

VECTORS = Path(__file__).parent / "vectors" / "negotiation"
HG_ERROR = "application/hg-error"
HISTORY = "c3006967f57dc22b977ba442d9c2535b0580cc9cff53c389f27de5547107ed60"
"""The payload with the whole history: the reply to ``getbundle`` without arguments."""

OF_THE_TRANSPORT = (b"batch", b"compression=", b"httpheader=", b"httpmediatype=", b"httppostargs")
"""Capabilities that the application makes itself; the others are the repository's, and replayed."""

PAGE = b"a page of the wrapped application"


@attrs.frozen
class Deviation:
    """How an answer differs from the recorded one, and why.

    Attributes:
        reason: why.
        status: the status instead; ``None`` if the request is the wrapped application's.
        content_type: the media type instead.
        body: the body instead, or a part of it if the status is that of an error.
        engine: the compression engine instead.
    """

    reason: str
    status: int | None = 400
    content_type: str = HG_ERROR
    body: bytes | None = b""
    engine: str | None = None


def _page() -> Deviation:
    return Deviation("pages are the wrapped application's", status=None)


def _missing(argument: str) -> Deviation:
    return Deviation("a missing argument is the client's fault", body=f"missing argument {argument}".encode())


def _nodes(words: bytes) -> Deviation:
    return Deviation("a malformed node is the client's fault", body=words)


def _typed(status: int, words: bytes) -> Deviation:
    return Deviation("the body of an error has a content type", status=status, body=b"0\n%s\n" % words)


def _none() -> Deviation:
    return Deviation(
        "a client that takes only 0.2 gets 0.2; with no common engine, uncompressed",
        status=200,
        content_type="application/mercurial-0.2",
        body=None,
        engine="none",
    )


PROTOCOLS = (
    "absent",
    "0.1",
    "0.2",
    "0.1 0.2 comp=zstd,zlib,none",
    "0.1 0.2 comp=none",
    "0.1 0.2 comp=zlib",
    "0.1 comp=zstd",
)
WITHOUT_ZLIB_AND_NONE = ("zstd", "bz2")
ONLY_02_ASKING_FOR_BZIP2 = (
    *("zliblevel: zliblevel = -1", "zliblevel: zliblevel = 1", "zliblevel: zliblevel = 6", "zliblevel: zliblevel = 9"),
    *("zstdlevel: zstdlevel = 1", "zstdlevel: zstdlevel = 3", "zstdlevel: zstdlevel = 7", "zstdlevel: zstdlevel = 22"),
)

DEVIATIONS: dict[str, Deviation] = {
    "no-common-engine: 0.2 comp=foo": _none(),
    "no-common-engine: 0.2 comp=none": _none(),
    **{f"engines-1: compressionengines = {engines} / 0.2": _none() for engines in WITHOUT_ZLIB_AND_NONE},
    **{f"{case} / 0.2 comp=bzip2": _none() for case in ONLY_02_ASKING_FOR_BZIP2},
    **{f"command-matrix: unknowncommand / {protocol}": _page() for protocol in PROTOCOLS},
    "dispatch: no cmd": _page(),
    "dispatch: empty cmd": _page(),
    "dispatch: unknown command": _page(),
    "dispatch: hgweb command name": _page(),
    "dispatch: pushkey needs push": _typed(405, b"push requires POST request"),
    "dispatch: pushkey by post without ssl": _typed(403, b"ssl required"),
    "dispatch: unbundle by get": _typed(405, b"push requires POST request"),
    "query-string: utf-8 value": Deviation(
        "argument values are bytes", 200, "application/mercurial-0.1", b"\xc3\xa9 b None None None"
    ),
    "duplicates: cmd twice": Deviation("a request names one command", body=b"cmd more than once"),
    "blank-and-missing: lookup without key": _missing("key"),
    "blank-and-missing: second arg missing": _missing("two"),
    "blank-and-missing: no args": _missing("one"),
    "x-hgarg: only 2": _missing("key"),
    "post-args-plain: lookup": attrs.evolve(
        _missing("key"), reason="X-HgArgs-Post counts where httppostargs is offered"
    ),
    "post-args-plain: two args": attrs.evolve(
        _missing("one"), reason="X-HgArgs-Post counts where httppostargs is offered"
    ),
    "post-args: length longer than body": Deviation(
        "X-HgArgs-Post must be true", body=b"exceeds the length of the body"
    ),
    "post-args: length not a number": Deviation("X-HgArgs-Post must be a number", body=b"not a number"),
    "node-lists: known not hex": _nodes(b"is not hexadecimal"),
    "node-lists: known odd length": _nodes(b"'abc' is not a node"),
    "node-lists: known too short": _nodes(b"'abcd' is not a node"),
    "node-lists: known double space": _nodes(b"'' is not a node"),
    "node-lists: getbundle unknown head": Deviation(
        "an unknown node is the client's fault", body=b"unknown revision '1111"
    ),
    "batch: no space after command": Deviation("a malformed batch is the client's fault", body=b"a name, a space"),
    "batch: unknown command": Deviation("an unknown command is the client's fault", body=b"unknown command: nosuch"),
    "batch: stream command": Deviation("streams do not fit into a batch", body=b"getbundle cannot be batched"),
}
"""Answers that differ from the recorded ones on purpose, by case."""


@functools.cache
def load(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((VECTORS / name).read_bytes())
    return data


def raw_bytes(value: Any) -> bytes:
    """A byte value of the vectors: hexadecimal, repeated or joined."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    if "concat" in value:
        return b"".join(map(raw_bytes, value["concat"]))
    return bytes.fromhex(value["repeat_hex"]) * int(value["count"])


@functools.cache
def payload(digest: str) -> bytes:
    """A decoded reply of the recording."""
    for name in ("v1.json", "v1_args.json", "v1_config.json"):
        if digest in load(name)["payloads"]:
            data = raw_bytes(load(name)["payloads"][digest]["hex"])
            assert hashlib.sha256(data).hexdigest() == digest
            return data
    raise KeyError(digest)


CAPABILITIES = next(
    case["response"]["decoded_sha256"] for case in load("v1.json")["cases"] if case["command"] == "capabilities"
)
BOOKMARKS = next(
    case["response"]["decoded_sha256"] for case in load("v1.json")["cases"] if case["command"] == "listkeys"
)


class RecordedRepository(MemoryRepository):
    """The recorded history and bookmarks, with the capabilities of the recording server."""

    def capabilities(self) -> Iterable[bytes]:
        tokens = payload(CAPABILITIES).split(b" ")
        return [token for token in tokens if not token.startswith(OF_THE_TRANSPORT)]


@functools.cache
def repository(hgrc: str) -> MemoryRepository:
    parser = configparser.ConfigParser()
    parser.read_string(hgrc)
    settings = {f"{section}.{name}": value for section in parser.sections() for name, value in parser[section].items()}
    made = RecordedRepository.from_bundle(io.BytesIO(payload(HISTORY)), settings=settings)
    for line in payload(BOOKMARKS).splitlines():
        name, node = line.split(b"\t")
        assert made.pushkey(b"bookmarks", name, b"", node).success
    return made


def graded(engine: Engine, level: str | None) -> Engine:
    return engine if level is None else attrs.evolve(engine, level=int(level))


def offer_of(settings: MemoryRepository) -> ServerCapabilities:
    """The negotiation that the recording server was set to; it did not offer to receive 0.2."""
    engines = settings.settings("server", "compressionengines") or ["zstd", "zlib"]
    levels = {"zlib": settings.setting("server", "zliblevel"), "zstd": settings.setting("server", "zstdlevel")}
    wire_names = {"bz2": "bzip2"}
    return ServerCapabilities(
        engines=tuple(
            graded(ENGINES[name], levels.get(name)) for name in (wire_names.get(name, name) for name in engines)
        ),
        legacy_engine=graded(ZLIB, levels["zlib"]),
        receive=("0.1",),
        max_header_length=int(settings.setting("server", "maxhttpheaderlen") or 1024),
        post_args=settings.setting("experimental", "httppostargs") == "true",
    )


def debugwireargs(context: Any, one: bytes, two: bytes, rest: Mapping[str, bytes]) -> bytes:
    return b" ".join([one, two, rest.get("three", b"None"), rest.get("four", b"None"), b"None"])


def application(hgrc: str, replay: bytes | None = None) -> Any:
    commands = CommandRegistry.standard()
    commands.command("debugwireargs", permission="pull", args=["one", "two", "*"])(debugwireargs)
    if replay is not None:
        commands.override("getbundle", lambda context, **arguments: StreamResponse([replay]))
    served = repository(hgrc)
    # Nothing is kept: every case shows what is made for it.
    cache = CacheSettings(memory=0, disk=0)
    return WireApp(MemoryProvider({"": served}), commands=commands, capabilities=offer_of(served), cache=cache)


def page(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return [PAGE]


@attrs.frozen
class Answer:
    status: str
    headers: dict[str, str]
    body: bytes


def request(app: Any, method: str, target: str, headers: Iterable[Iterable[str]] = (), body: bytes = b"") -> Answer:
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    environ["wsgi.input"] = io.BytesIO(body)
    for name, value in headers:
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, dict(headers)))
        return lambda data: pytest.fail("write() is for old applications")

    response = validator(app)(environ, start_response)
    try:
        content = b"".join(response)
    finally:
        response.close()  # type: ignore[attr-defined]  # the validator has it
    return Answer(*started[-1], content)


def decode(answer: Answer, stream: bool) -> tuple[str | None, bytes]:
    """The engine that the body names, and the body without compression."""
    engine, body, name = ZLIB, answer.body, None
    if answer.headers["Content-Type"] == "application/mercurial-0.2":
        length = body[0]
        name, body = body[1 : 1 + length].decode(), body[1 + length :]
        engine = ENGINES[name]
    elif not stream:
        return None, body
    reader = DecodingReader(io.BytesIO(body), engine, Limits())
    return name, b"".join(iter(lambda: reader.read(1 << 16), b""))


def revisions(changegroup: bytes) -> Any:
    """What is in a changegroup, whatever its order and deltas; hashes stand for texts."""
    push = Push.read(io.BytesIO(changegroup), 1 << 20)
    groups = [("changesets", push.changesets), ("manifests", push.manifests), *push.files]
    return {name: {(each.node, each.p1, each.p2, each.link) for each in chunks} for name, chunks in groups}


def check_error(answer: Answer, deviation: Deviation) -> None:
    assert answer.status.startswith(f"{deviation.status} ")
    assert answer.headers["Content-Type"] == deviation.content_type
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert deviation.body is not None and deviation.body in answer.body and b"Traceback" not in answer.body


def check(answer: Answer, recorded: Mapping[str, Any], deviation: Deviation | None) -> None:
    """Compare an answer with the recorded one, or with what is meant to be instead."""
    assert "Connection" not in answer.headers and "Transfer-Encoding" not in answer.headers
    if deviation is not None and deviation.status != 200:
        check_error(answer, deviation)
        return
    failed = recorded["status"] != 200 and deviation is None
    assert answer.status == (recorded["status_line"].partition(" ")[2] if failed else "200 Script output follows")
    stream = not recorded["has_content_length"] and (deviation is None or deviation.engine is not None)
    # A stream that was kept has a length too; where it ends is the HTTP server's business either way.
    length = answer.headers.get("Content-Length", str(len(answer.body)) if stream else None)
    assert length == str(len(answer.body))
    engine, body = decode(answer, stream)
    if deviation is not None:
        assert (answer.headers["Content-Type"], engine) == (deviation.content_type, deviation.engine)
        if deviation.body is not None:
            assert body == deviation.body
            return
    else:
        assert answer.headers["Content-Type"] == recorded["content_type"]
        assert engine == (recorded["prefix"]["engine"] if recorded["prefix"] else None)
        level = recorded.get("engine_level_bytes_hex")
        if level and engine in (None, "zlib"):
            assert answer.body.removeprefix(b"\4zlib")[:2].hex() == level[:4]
    expected = payload(recorded["decoded_sha256"])
    if stream and not expected.startswith(b"HG20"):
        assert revisions(body) == revisions(expected)
    else:
        assert body == expected


def exchanges(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in load(name)["cases"]]


def replay_exchange(case: Mapping[str, Any], hgrc: str) -> None:
    deviation = DEVIATIONS.get(case["name"])
    recorded, asked = case["response"], case["request"]
    headers = [["Host", "localhost"] if name == "Host" else [name, value] for name, value in asked["headers"]]
    arguments = (asked["method"], asked["target"], headers, raw_bytes(asked.get("body_hex", "")))
    if deviation is not None and deviation.status is None:
        assert recorded["content_type"] == "text/html; charset=utf-8"
        assert request(WireMiddleware(page, wire=application(hgrc)), *arguments).body == PAGE
        return
    replay = None
    if "decoded_sha256" in recorded and (expected := payload(recorded["decoded_sha256"])).startswith(b"HG20"):
        replay = expected
    check(request(application(hgrc, replay), *arguments), recorded, deviation)


@pytest.mark.parametrize("case", exchanges("v1.json"))
def test_v1(case: Mapping[str, Any]) -> None:
    replay_exchange(case, "")


@pytest.mark.parametrize("case", exchanges("v1_args.json"))
def test_v1_args(case: Mapping[str, Any]) -> None:
    replay_exchange(case, load("v1_args.json")["servers"][case["server"]])


@pytest.mark.parametrize("case", exchanges("v1_config.json"))
def test_v1_config_capabilities(case: Mapping[str, Any]) -> None:
    app = application(case["hgrc"])
    tokens = request(app, "GET", "/?cmd=capabilities").body.decode().split(" ")
    assert set(case["capabilities"]["tokens"]) <= set(tokens)
    assert ("httppostargs" in tokens) is ("httppostargs" in case["capabilities"]["tokens"])
    heads = request(app, "GET", "/?cmd=heads")
    assert heads.status.startswith(str(case["heads"]["status"]))
    assert heads.headers["Content-Type"] == case["heads"]["content_type"]
    assert ("Content-Length" in heads.headers) is case["heads"]["has_content_length"]


def negotiations() -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    return [
        (f"{case['name']} / {each['x_hgproto'] or 'absent'}", case, each)
        for case in load("v1_config.json")["cases"]
        for each in case["getbundle"]
    ]


@pytest.mark.parametrize(
    ("name", "case", "each"), [pytest.param(*exchange, id=exchange[0]) for exchange in negotiations()]
)
def test_v1_config_negotiation(name: str, case: Mapping[str, Any], each: Mapping[str, Any]) -> None:
    headers = [["X-HgProto-1", each["x_hgproto"]]] if each["x_hgproto"] else []
    answer = request(application(case["hgrc"]), "GET", "/?cmd=getbundle", headers)
    check(answer, each["response"], DEVIATIONS.get(name))


def test_every_deviation_is_one() -> None:
    """The table has no entry for a case that does not exist, or where the answer is the recorded one."""
    recorded = {case["name"]: case["response"] for name in ("v1.json", "v1_args.json") for case in load(name)["cases"]}
    recorded.update((name, each["response"]) for name, _, each in negotiations())
    for name, deviation in DEVIATIONS.items():
        answer = recorded[name]
        assert deviation.reason
        assert (deviation.status, deviation.content_type) != (answer["status"], answer["content_type"]), name


@pytest.mark.parametrize("name", sorted(name for name, deviation in DEVIATIONS.items() if deviation.status is None))
def test_pages_alone(name: str) -> None:
    """Without a wrapped application an unknown command is an error for clients, and no command a line for people."""
    case = next(case for each in ("v1.json", "v1_args.json") for case in load(each)["cases"] if case["name"] == name)
    answer = request(application(""), "GET", case["request"]["target"])
    if case["request"]["target"] in ("/", "/?cmd="):
        assert answer.status == "200 OK" and b"hg clone http://127.0.0.1/" in answer.body
    else:
        check_error(answer, Deviation("", body=b"unknown command"))
