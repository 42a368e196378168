"""The recorded exchanges of version 1, replayed against ``WireApp``.

A repository in memory holds the history that the recording brought, and answers for itself; what it cannot answer (a
bundle2, the files of a store) is replayed.  Requests go through :mod:`wsgiref.validate`.  Where this project answers
otherwise on purpose, :data:`deviations.V1_RULES` says so; every other case must match.
"""

from __future__ import annotations

import configparser
import functools
import hashlib
import importlib.util
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import attrs
import pytest
from deviations import HG_ERROR, PAGE, V1_RULES, Expected, expected_for, wire_arguments
from vector_files import FOLDER, file_of, parameters, raw_bytes
from wire_model import Call, Recorded, Texts, bundle_parts, changegroup_contents

from hgwire_wsgi import (
    ZLIB,
    CommandRegistry,
    LegacyStreamResponse,
    OutOfBandError,
    ServerCapabilities,
    StreamResponse,
    WireApp,
    WireMiddleware,
)
from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.compression import ENGINES, DecodingReader, Engine
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

FILES = ("v1.json", "v1_args.json", "v1_config.json")

OF_THE_TRANSPORT = (b"batch", b"compression=", b"httpheader=", b"httpmediatype=", b"httppostargs")
"""Capabilities that the application makes itself; the others are the repository's, and replayed."""

RECEIVED = b"httpmediatype=0.1rx,0.1tx,0.2tx", b"httpmediatype=0.1rx,0.1tx,0.2rx,0.2tx"
"""The deviation ``0.2rx``: what was recorded, and what we offer."""

CONTENT = b"a page of the wrapped application"


@functools.cache
def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """A file of the vectors of negotiation."""
    return file_of(f"negotiation/{name}", folder)


# What the recording tells of its repository


@attrs.frozen
class Payload:
    """A decoded reply of the recording; of a long one only the digest is there."""

    digest: str
    data: bytes | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and hashlib.sha256(other).hexdigest() == self.digest


@functools.cache
def payload(digest: str, folder: Path = FOLDER) -> Payload:
    for name in FILES:
        if "hex" in (found := load(name, folder)["payloads"].get(digest, {})):
            data = raw_bytes(found["hex"])
            assert Payload(digest, None) == data
            return Payload(digest, data)
    return Payload(digest, None)


@functools.cache
def histories(name: str, folder: Path) -> list[tuple[bytes, Texts]]:
    """Whole histories among the payloads of a file, the longest first: the changegroup, and the texts in it."""
    found = []
    for digest in load(name, folder)["payloads"]:
        content = payload(digest, folder).data or b""
        if content.startswith(b"HG20"):
            parts = [
                part
                for kind, keys, part in bundle_parts(content)
                if kind == b"CHANGEGROUP" and b"version" not in dict(keys)
            ]
            content = parts[0] if parts else b""
        if content.startswith(b"\0\0"):
            texts: Texts = {}
            try:
                changegroup_contents(content, texts)
            except KeyError:  # only a part of a history
                continue
            found.append((content, texts))
    return sorted(found, key=lambda history: len(history[1]), reverse=True)


@functools.cache
def history(name: str, folder: Path = FOLDER) -> tuple[bytes, Texts]:
    """The history of the repository that a file was recorded from; the file, or another, has it as a reply."""
    nodes = [bytes.fromhex(node) for node in re.findall("[0-9a-f]{40}", load(name, folder).get("repository", ""))]
    for each in dict.fromkeys([name, *FILES]):
        for content, texts in histories(each, folder):
            if all((b"changesets", node) in texts for node in nodes):
                return content, texts
    raise LookupError(f"no reply in {folder} has the history that {name} was recorded from")


def changesets(name: str, folder: Path = FOLDER) -> frozenset[bytes]:
    return frozenset(node for section, node in history(name, folder)[1] if section == b"changesets") | {bytes(20)}


@functools.cache
def replies(name: str, command: bytes, argument: bytes = b"", folder: Path = FOLDER) -> dict[bytes, bytes]:
    """The recorded replies to a command, by the value of an argument, of all files about one repository."""
    found: dict[bytes, bytes] = {}
    for each in dict.fromkeys([name, "v1.json", "v1_args.json"]):
        file = load(each, folder)
        if "repository" in load(name, folder) and load(name, folder)["repository"] != file.get("repository"):
            continue
        for case in file["cases"]:
            if "decoded_sha256" not in case.get("response", {}) or case["response"]["status"] != 200:
                continue
            call = recorded(case, each, file.get("servers", {}).get(case.get("server"), ""), folder).call
            content = payload(case["response"]["decoded_sha256"], folder).data
            if call.command == command and content is not None and (not argument or argument in call.arguments):
                found.setdefault(call.arguments.get(argument, b""), content)
    return found


def keys(reply: bytes) -> dict[bytes, bytes]:
    """The keys of a namespace, from the reply to ``listkeys``."""
    pairs = (line.partition(b"\t") for line in reply.split(b"\n") if line)
    return {name: value for name, _, value in pairs}


@functools.cache
def capabilities(name: str, folder: Path) -> list[bytes]:
    """What the recording server could do."""
    said = [*replies(name, b"capabilities", folder=folder).values()]
    said += [content.partition(b": ")[2] for content in replies(name, b"hello", folder=folder).values()]
    configured = (case["capabilities"]["tokens"] for case in load("v1_config.json", folder)["cases"])
    said += [" ".join(tokens).encode() for tokens in configured]
    return said[0].split() if said else []


class RecordedRepository(MemoryRepository):
    """The recorded history, and what it does not say: capabilities, phases, and the numbers of changesets.

    Numbers count the changesets that are not served too.
    """

    tokens: list[bytes]
    recorded_keys: dict[bytes, dict[bytes, bytes]]
    recorded_numbers: dict[bytes, bytes]

    def lookup(self, key: bytes) -> bytes:
        if key not in self.recorded_numbers:
            return super().lookup(key)
        success, _, said = self.recorded_numbers[key].rstrip(b"\n").partition(b" ")
        if success != b"1":
            raise CommandFailed(said.decode())
        return bytes.fromhex(said.decode())

    def capabilities(self) -> Iterable[bytes]:
        return [token for token in self.tokens if not token.startswith(OF_THE_TRANSPORT)]

    def listkeys(self, namespace: bytes) -> Mapping[bytes, bytes]:
        if namespace in self.recorded_keys and namespace != b"bookmarks":
            return self.recorded_keys[namespace]
        return super().listkeys(namespace)


def settings_of(hgrc: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(hgrc)
    return {f"{section}.{name}": value for section in parser.sections() for name, value in parser[section].items()}


@functools.cache
def repository(name: str, hgrc: str, folder: Path, pushed_to: str = "") -> RecordedRepository:
    """The repository; one that is ``pushed_to`` by a case is that case's alone."""
    made = RecordedRepository.from_bundle(io.BytesIO(history(name, folder)[0]), settings=settings_of(hgrc))
    assert isinstance(made, RecordedRepository)
    made.tokens = capabilities(name, folder)
    listed, lookups = (replies(name, *each, folder) for each in ((b"listkeys", b"namespace"), (b"lookup", b"key")))
    made.recorded_keys = {namespace: keys(reply) for namespace, reply in listed.items()}
    made.recorded_numbers = {key: reply for key, reply in lookups.items() if re.fullmatch(rb"-?[0-9]{1,5}", key)}
    for bookmark, node in made.recorded_keys.get(b"bookmarks", {}).items():
        if bytes.fromhex(node.decode()) in changesets(name, folder):
            assert made.pushkey(b"bookmarks", bookmark, b"", node).success
    return made


# The application


def graded(engine: Engine, level: str | None) -> Engine:
    """An engine at a level, if that is one: the deviation ``broken-settings``."""
    known = {"zlib": range(-1, 10), "zstd": range(1, 23)}.get(engine.name, range(0))
    usable = level is not None and re.fullmatch("-?[0-9]+", level) and int(level) in known
    return attrs.evolve(engine, level=int(level or 0)) if usable else engine


def offered(hgrc: str) -> ServerCapabilities:
    """The negotiation that the recording server was set to; a setting that it could not use is left out."""
    settings = settings_of(hgrc)
    named = [
        {"bz2": "bzip2"}.get(name, name)
        for name in re.findall(r"[^\s,]+", settings.get("server.compressionengines", ""))
    ]
    names = list(dict.fromkeys(name for name in named if name in ENGINES)) or ["zstd", "zlib"]
    levels = {"zlib": settings.get("server.zliblevel"), "zstd": settings.get("server.zstdlevel")}
    length = settings.get("server.maxhttpheaderlen", "")
    return ServerCapabilities(
        engines=tuple(graded(ENGINES[name], levels.get(name)) for name in names),
        legacy_engine=graded(ZLIB, levels["zlib"]),
        max_header_length=int(length) if length.isdigit() else 1024,
        post_args=settings.get("experimental.httppostargs") == "true",
    )


def debugwireargs(context: Any, one: bytes, two: bytes, rest: Mapping[str, bytes]) -> bytes:
    arguments = {b"one": one, b"two": two, **{name.encode("latin-1"): value for name, value in rest.items()}}
    return wire_arguments(Call(b"debugwireargs", arguments))


def replaying(call: Call, content: bytes, content_type: str) -> Any:
    """A handler with a recorded reply, for a call whose arguments arrive as they were meant."""
    kinds: dict[str, Any] = {
        **dict.fromkeys(("heads", "common"), lambda value: [bytes.fromhex(word.decode()) for word in value.split()]),
        **dict.fromkeys(("bundlecaps", "listkeys"), lambda value: value.split(b",")),
        **dict.fromkeys(("cg", "bookmarks", "phases", "stream", "obsmarkers"), lambda value: value not in (b"", b"0")),
    }
    wanted = {name.decode("latin-1"): value for name, value in call.arguments.items()}

    def handler(context: Any, **arguments: Any) -> Any:
        for name, value in arguments.items():
            if name in kinds:
                assert value == kinds[name](wanted[name])
        if call.command in (b"stream_out", b"unbundle"):
            return LegacyStreamResponse([content])
        if call.command.startswith(b"clonebundles"):
            return content
        if content_type == HG_ERROR:
            return OutOfBandError(content)
        prefer_uncompressed = bool(re.match(rb"HG20.{9}(STREAM|ERROR:)", content, re.DOTALL))
        return StreamResponse([content], prefer_uncompressed=prefer_uncompressed)

    return handler


REPLAYED = (b"stream_out", b"get_cached_bundle_inline", b"clonebundles", b"clonebundles_manifest")
"""Commands that depend on files which a history in memory does not have."""


def application(name: str, hgrc: str, asked: Recorded | None = None, folder: Path = FOLDER) -> Any:
    """The application that a request of this file is for."""
    commands = CommandRegistry.standard()
    commands.command("debugwireargs", permission="pull", args=["one", "two", "*"])(debugwireargs)
    if asked is not None and asked.answer.get("status") == 200 and "decoded_sha256" in asked.answer:
        content = payload(asked.answer["decoded_sha256"], folder).data
        content_type = asked.answer["content_type"]
        replayed = asked.call.command in REPLAYED or content_type == HG_ERROR
        if content and (replayed or content.startswith(b"HG2")):
            commands.override(asked.call.command.decode(), replaying(asked.call, content, content_type))
    # Nothing is cached: every case shows what is made for it.
    cache = CacheSettings(memory=0, disk=0)
    pushed_to = str(id(asked)) if asked is not None and asked.method == "POST" else ""
    provider = MemoryProvider({"": repository(name, hgrc, folder, pushed_to)})
    return WireApp(provider, commands=commands, capabilities=offered(hgrc), cache=cache)


def page(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/html")])
    return [CONTENT]


@attrs.frozen
class Answer:
    status: str
    headers: dict[str, str]
    body: bytes


def send(app: Any, asked: Recorded) -> Answer:
    """Send a request as a server would."""
    path, _, query = asked.target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": asked.method, "SCRIPT_NAME": "", "PATH_INFO": path}
    environ["QUERY_STRING"] = query if all(ord(char) < 256 for char in query) else query.encode().decode("latin-1")
    setup_testing_defaults(environ)
    environ["wsgi.input"] = io.BytesIO(asked.body)
    for name in {name.lower() for name, _ in asked.headers}:
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = asked.header(name)
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


def get(app: Any, target: str, *headers: tuple[str, str]) -> Answer:
    return send(app, Recorded("GET", target, [("Host", "localhost"), *headers]))


# Comparison


def decoded(answer: Answer, compressed: bool) -> tuple[str | None, bytes]:
    """The engine that the body names, and the body without compression."""
    engine, body, name = ZLIB, answer.body, None
    if answer.headers["Content-Type"] == "application/mercurial-0.2":
        length = body[0]
        name, body = body[1 : 1 + length].decode(), body[1 + length :]
        engine = ENGINES[name]
    elif not compressed:
        return None, body
    reader = DecodingReader(io.BytesIO(body), engine, Limits())
    return name, b"".join(iter(lambda: reader.read(1 << 16), b""))


def contents(body: bytes, texts: Texts) -> Any:
    """What is in a bundle, whatever its order, deltas and chunks."""
    if not body.startswith(b"HG20"):
        return changegroup_contents(body, dict(texts))
    parts = []
    for kind, parameters_, part in bundle_parts(body):
        if kind == b"CHANGEGROUP":
            version = dict(parameters_).get(b"version", b"01").decode()
            parts.append((kind, parameters_, changegroup_contents(part, dict(texts), version)))
        else:
            parts.append((kind, parameters_, part))
    return sorted(parts, key=lambda part: (part[0], sorted(part[1])))


def is_bundle(content: bytes | None) -> bool:
    return content is not None and content.startswith((b"HG20", b"\0\0\0"))


def check_length(answer: Answer, stream: bool) -> None:
    """A stream that was cached has a length too; where it ends is the HTTP server's business either way."""
    length = answer.headers.get("Content-Length", str(len(answer.body)) if stream else None)
    assert length == str(len(answer.body))
    assert "Connection" not in answer.headers and "Transfer-Encoding" not in answer.headers


ZLIB_HEADERS = {"7801": "785e"} if importlib.util.find_spec("zlib_ng") else {}
"""How streams begin here that began differently when they were recorded: zlib-ng has another level 1."""


def check_recorded(answer: Answer, asked: Recorded, texts: Texts, folder: Path = FOLDER) -> None:
    """The answer is the recorded one."""
    recorded = asked.answer
    failed = recorded["status"] != 200
    assert answer.status == (recorded["status_line"].partition(" ")[2] if failed else "200 Script output follows")
    check_length(answer, not recorded["has_content_length"])
    expected = payload(recorded["decoded_sha256"], folder)
    assert answer.headers["Content-Type"] == recorded["content_type"]
    engine, body = decoded(answer, bool(recorded.get("engine_level_bytes_hex")) and recorded["prefix"] is None)
    assert engine == (recorded["prefix"]["engine"] if recorded["prefix"] else None)
    level = recorded.get("engine_level_bytes_hex")
    if level and engine in (None, "zlib"):
        assert answer.body.removeprefix(b"\4zlib")[:2].hex() == ZLIB_HEADERS.get(level[:4], level[:4])
    check_body(body, expected, asked, texts)


def check_body(body: bytes, expected: Payload, asked: Recorded, texts: Texts) -> None:
    """A decoded body has the recorded contents."""
    if expected == body:
        return
    assert expected.data is not None, "the digest differs"
    if asked.call.command in (b"changegroup", b"changegroupsubset"):
        # The repository in memory adds what the other parent of a merge brings, which hgweb leaves out.
        found, wanted = contents(body, texts), contents(expected.data, texts)
        assert all(wanted[section].items() <= found[section].items() for section in wanted)
    elif is_bundle(expected.data):
        assert contents(body, texts) == contents(expected.data, texts)
    elif asked.call.command == b"unbundle":
        # What a push says besides its result is the backend's.
        assert body.partition(b"\n")[0] == expected.data.partition(b"\n")[0]
    else:
        # In a batch the capabilities are escaped.
        escaped = (each.replace(b"=", b":e").replace(b",", b":o") for each in RECEIVED)
        assert body == expected.data.replace(*RECEIVED).replace(*escaped)


def check_expected(answer: Answer, expected: Expected, asked: Recorded, texts: Texts, folder: Path = FOLDER) -> None:
    """The answer is what a rule says."""
    assert int(answer.status[:3]) in expected.status
    assert b"Traceback" not in answer.body
    for name in expected.headers:
        assert name in answer.headers
    assert answer.status.startswith("401 ") == ("WWW-Authenticate" in answer.headers)
    if asked.method == "HEAD":
        assert (answer.headers["Content-Type"], answer.body) == (expected.content_type, b"")
        return
    check_length(answer, expected.engine is not None)
    if answer.status.startswith("200 ") and expected.status != (200,):
        assert answer.body.startswith(b"0\n")
    else:
        assert answer.headers["Content-Type"] == expected.content_type
    for words in expected.says:
        assert words.lower() in answer.body.decode("utf-8", "replace").lower()
    if expected.engine is not None:
        engine, body = decoded(answer, True)
        assert engine == expected.engine
        check_body(body, payload(asked.answer["decoded_sha256"], folder), asked, texts)
    elif expected.body is not None:
        assert answer.body == expected.body


def recorded(case: Mapping[str, Any], name: str, hgrc: str, folder: Path = FOLDER) -> Recorded:
    """The request and answer of a case."""
    request = case["request"]
    headers = [(key, "localhost" if key == "Host" else value) for key, value in request["headers"]]
    post_args = settings_of(hgrc).get("experimental.httppostargs") == "true"
    body = raw_bytes(request.get("body_hex", ""))
    return Recorded(request["method"], request["target"], headers, body, case["response"], post_args)


def replay(asked: Recorded, name: str, hgrc: str, folder: Path = FOLDER) -> None:
    """Send a recorded request, and compare."""
    asked.known = changesets(name, folder)
    texts = history(name, folder)[1]
    found = expected_for(V1_RULES, asked)
    answer = send(application(name, hgrc, asked, folder), asked)
    if found is None:
        check_recorded(answer, asked, texts, folder)
        return
    _, expected = found
    if expected is PAGE:
        wire = application(name, hgrc, folder=folder)
        assert send(WireMiddleware(page, wire=wire), asked).body == CONTENT
        check_alone(answer, asked)
    elif expected.like is not None:
        assert answer == send(application(name, hgrc, asked, folder), expected.like)
    else:
        check_expected(answer, expected, asked, texts, folder)


def check_alone(answer: Answer, asked: Recorded) -> None:
    """Without pages an unknown command is an error for clients, and the URL of a repository a line for people."""
    if asked.target.partition("?")[0] != "/":
        assert answer.status[:3] in ("400", "404")
    elif any(asked.commands):
        assert answer.status.startswith("400 ") and answer.headers["Content-Type"] == HG_ERROR
        assert b"unknown command" in answer.body
    elif asked.method == "GET":
        assert answer.status == "200 OK" and b"hg clone http://localhost/" in answer.body


@parameters(load("v1.json")["cases"])
def test_v1(case: Mapping[str, Any]) -> None:
    replay(recorded(case, "v1.json", ""), "v1.json", "")


@parameters(load("v1_args.json")["cases"])
def test_v1_args(case: Mapping[str, Any]) -> None:
    hgrc = load("v1_args.json")["servers"][case["server"]]
    replay(recorded(case, "v1_args.json", hgrc), "v1_args.json", hgrc)


@parameters(load("v1_config.json")["cases"])
def test_v1_config_capabilities(case: Mapping[str, Any]) -> None:
    app = application("v1_config.json", case["hgrc"])
    answer = get(app, "/?cmd=capabilities")
    assert answer.status.startswith("200 ")
    if case["capabilities"]["status"] == 200:
        tokens = answer.body.split(b" ")
        wanted = [token.encode().replace(*RECEIVED) for token in case["capabilities"]["tokens"]]
        assert set(wanted) <= set(tokens)
        assert (b"httppostargs" in tokens) is (b"httppostargs" in wanted)
    heads = get(app, "/?cmd=heads")
    assert heads.status.startswith("200 ")
    if case["heads"]["status"] == 200:
        assert heads.headers["Content-Type"] == case["heads"]["content_type"]
        assert ("Content-Length" in heads.headers) is case["heads"]["has_content_length"]


def negotiations(folder: Path = FOLDER) -> list[dict[str, Any]]:
    return [
        {"name": f"{case['name']} / {each['x_hgproto'] or 'absent'}", "hgrc": case["hgrc"], **each}
        for case in load("v1_config.json", folder)["cases"]
        for each in case["getbundle"]
    ]


def negotiated(case: Mapping[str, Any]) -> Recorded:
    headers = [("X-HgProto-1", case["x_hgproto"])] if case["x_hgproto"] else []
    return Recorded("GET", "/?cmd=getbundle", headers, b"", case["response"])


@parameters(negotiations())
def test_v1_config_negotiation(case: Mapping[str, Any]) -> None:
    if case["response"]["status"] == 200:
        replay(negotiated(case), "v1_config.json", case["hgrc"])
    else:
        # A setting that the recorded server could not use.
        answer = send(application("v1_config.json", case["hgrc"]), negotiated(case))
        assert answer.status == "200 Script output follows"
