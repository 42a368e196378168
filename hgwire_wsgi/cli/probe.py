"""``hgwire probe``: report what a server supports, and what is wrong with it.

It changes nothing on the server: commands that write are never called.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import attrs

from ..client import APIS, REPLY_BYTES, Capabilities, V1Client, V2Client
from ..client.base import read_all
from ..client.connection import Address, BoundedResponse, Connection, Response, printable
from ..compression import ENGINES
from ..errors import ConnectionFailed, HgWireError, LocalProtocolError
from ..negotiation import HG_ERROR, MEDIA_TYPE_01, MEDIA_TYPE_02
from ..streams import read_exactly
from . import CommandLineError, add_timeout

__all__ = ["configure", "run"]

_NULL = "0" * 40
_BODY_BYTES = 64 * 1024
_MEDIA_TYPES = (MEDIA_TYPE_01, MEDIA_TYPE_02, HG_ERROR)
_TRACES = (b"Traceback (most recent call last)", b'  File "/')

_EXPLAINED = {
    "batch": "several commands in one request",
    "branchmap": "heads by branch",
    "bundle2": "bundles of the second format, made of parts",
    "changegroupsubset": "bundles between given changesets",
    "clonebundles": "prepared bundles for clones",
    "clonebundles_manifest": "prepared bundles for clones, some of them from this server",
    "compression": "compression of streams, the server's order",
    "getbundle": "bundles of the changesets a client lacks",
    "httpheader": "maximum length of a header line with arguments",
    "httpmediatype": "media types received (rx) and sent (tx)",
    "httppostargs": "arguments may be posted",
    "known": "which changesets exist",
    "lookup": "resolve names of changesets",
    "pushkey": "bookmarks, phases and other keys",
    "stream": "clones by copying files (old store)",
    "stream-preferred": "clones copy files by default",
    "streamreqs": "clones by copying files, for clients that support these formats",
    "unbundle": "pushes, in these formats",
    "unbundlehash": "pushes name the heads they are based on by a hash",
}

_HARMLESS: Mapping[str, Mapping[str, str]] = {
    "batch": {"cmds": "heads ;known nodes="},
    "between": {"pairs": f"{_NULL}-{_NULL}"},
    "branches": {"nodes": ""},
    "branchmap": {},
    "clonebundles": {},
    "clonebundles_manifest": {},
    "getbundle": {"common": _NULL, "heads": _NULL},
    "heads": {},
    "hello": {},
    "known": {"nodes": ""},
    "listkeys": {"namespace": "namespaces"},
    "lookup": {"key": "tip"},
    "protocaps": {"caps": ""},
    "stream_out": {},
}
"""Commands that read, with cheap arguments.  The reply of ``stream_out`` is cut off after 64 KiB."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire probe``."""
    parser.add_argument("url", metavar="URL", help="URL of a repository; may include user and password")
    add_timeout(parser, 30)


def run(args: argparse.Namespace) -> int:
    """Print the report.  The exit code is 1 if anything is wrong with the server, 2 if it does not answer."""
    try:
        with contextlib.closing(Probe(args.url, args.timeout)) as probe:
            probe.run()
    except (ConnectionFailed, LocalProtocolError) as error:
        raise CommandLineError(error.message) from error
    return 1 if probe.problems else 0


@attrs.frozen
class Answer:
    """A response with up to 64 KiB of its body."""

    status: int
    reason: str
    media_type: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def line(self) -> str:
        """The server's description of a failure, on one line."""
        text = self.body if self.media_type != "text/html" else b""
        said = " ".join(text[:300].decode("utf-8", "replace").split()).removeprefix("0 ")
        return f"{self.status} {said or self.reason}".strip()


class Probe:
    """One inspection of one server.

    Args:
        url: of a repository.
        timeout: give up after this many seconds without data.

    Attributes:
        problems: what is wrong, one line each.
        notes: what is worth knowing but not wrong, one line each.
        capabilities: those of the server.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self.connection = Connection(Address.parse(url), timeout=timeout)
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.capabilities = Capabilities()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def run(self) -> None:
        """Inspect everything and print the report."""
        _print(self.connection.address.url)
        self._say("HTTP version 1")
        if self._handshake():
            self._commands()
            for check in _CHECKS:
                check(self)
        self._apis()
        for title, lines in (("Notes", self.notes), ("Wrong", self.problems)):
            if lines:
                self._say(title)
                for line in lines:
                    _print(f"  - {line}")
        if not self.problems:
            self._say("Nothing is wrong.")

    def _say(self, title: str) -> None:
        _print(f"\n{title}")

    def expect(self, condition: bool, problem: str) -> None:
        """Record a problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)

    def ask(
        self, target: str, headers: Mapping[str, str] | None = None, *, method: str = "GET", body: bytes | None = None
    ) -> Answer:
        """Send a request and read up to 64 KiB of the response body."""
        response = self.connection.request(
            method, target, (headers or {}).items(), () if body is None else (body,), repeatable=True
        )
        return _read(response)

    def command(self, name: str, arguments: Mapping[str, str] | None = None, **headers: str) -> Answer:
        """Call a command with its arguments in the query string, which every server accepts."""
        query = urlencode([("cmd", name), *(arguments or {}).items()])
        sent = {"Accept": MEDIA_TYPE_01}
        if "0.1" not in self.capabilities.sends:
            sent["X-HgProto-1"] = "0.1 0.2 comp=none"
        return self.ask(f"?{query}", {**sent, **{key.replace("_", "-"): value for key, value in headers.items()}})

    def expect_error(self, what: str, answer: Answer) -> None:
        """Check that a malformed request is refused with a 4xx."""
        self.expect(400 <= answer.status < 500, f"{what}: answered with {answer.status}, not with a 4xx")
        if answer.status >= 400:
            self.expect(bool(answer.media_type), f"{what}: the error has no Content-Type")
            self.expect(bool(answer.body), f"{what}: the error has no body that explains it")
        self.expect(not any(trace in answer.body for trace in _TRACES), f"{what}: the answer shows a traceback")
        if answer.status == 401:
            self.expect("WWW-Authenticate" in answer.headers, f"{what}: a 401 without WWW-Authenticate")

    def _handshake(self) -> bool:
        answer = self.command("capabilities")
        if answer.status != 200:
            _print(f"  no: {answer.line}")
            self.expect_error("capabilities", answer)
            self.problems.append(f"the server does not report its capabilities: {answer.line}")
            return False
        self.expect(
            answer.media_type == MEDIA_TYPE_01,
            f"capabilities: the media type is {answer.media_type or 'missing'}, not {MEDIA_TYPE_01}",
        )
        capabilities = self.capabilities = Capabilities(answer.body)
        if not answer.media_type.startswith("application/mercurial-") and "<" in answer.body.decode("latin-1"):
            self.problems.append("this is a web page, not a repository")
            return False
        _print("  capabilities")
        for name, value in sorted(capabilities.items()):
            _print(f"    {name:22} {_EXPLAINED.get(name, '')}")
            if value:
                _print(f"    {'':22} {value}")
        self._consistent(capabilities)
        _print(f"  media types sent: {', '.join(capabilities.sends)}")
        _print(f"  media types received: {', '.join(capabilities.receives)}")
        _print(f"  engines offered: {', '.join(capabilities.words('compression')) or 'none'}")
        return True

    def _consistent(self, capabilities: Capabilities) -> None:
        known = {"0.1rx", "0.1tx", "0.2rx", "0.2tx"}
        for word in capabilities.words("httpmediatype"):
            self.expect(word in known or word.startswith(("minrx=", "mintx=")), f"httpmediatype has {word!r}")
        self.expect(
            "0.2" not in capabilities.sends + capabilities.receives or bool(capabilities.words("compression")),
            "0.2 is announced, but the compression capability is missing",
        )
        self.expect(
            "httpheader" not in capabilities or capabilities.max_header_length > 0 or capabilities["httpheader"] == "0",
            f"httpheader is {capabilities.get('httpheader')!r}, not a number",
        )
        for engine in capabilities.words("compression"):
            if engine not in ENGINES:
                self.notes.append(f"the engine {engine!r} is unknown to hgwire and was not tried")

    def _commands(self) -> None:
        answers = {}
        for name, arguments in _HARMLESS.items():
            answer = answers[name] = self.command(name, arguments)
            if answer.status >= 400:
                self.expect_error(name, answer)
            else:
                self.expect(
                    answer.media_type in _MEDIA_TYPES, f"{name}: the media type is {answer.media_type or 'missing'}"
                )
        refused = {name: answer for name, answer in answers.items() if answer.status != 200}
        _print(f"  commands that answer: {', '.join(name for name in answers if name not in refused)}")
        for name, answer in refused.items():
            _print(f"  refused: {name:22} {answer.line}")
        for name in ("batch", "branchmap", "known", "lookup"):
            self.expect(name not in self.capabilities or name not in refused, f"{name} is offered, but refused")

    def _apis(self) -> None:
        self._say("HTTP version 2")
        root = self.ask("/api")
        self.expect(root.status < 500, f"/api: {root.line}")
        if root.status != 200 or root.media_type != "text/plain" or b"/api/" not in root.body:
            _print(f"  no API server ({root.line})")
            return
        for name in APIS:
            answer = self.ask(f"/api/{name}")
            _print(f"  {name}: {answer.line}")
            if answer.status == 200:
                self._frames(name)

    def _frames(self, name: str) -> None:
        media_type = APIS[name].media_type
        both = {"Accept": media_type, "Content-Type": media_type}
        base = f"/api/{name}/ro"
        with V2Client(self.url, timeout=self.timeout, api=name) as client:
            for command in ("branchmap", "heads", "listkeys", "lookup"):
                try:
                    client.call_bytes(command, _HARMLESS[command])
                    _print(f"  answers in frames: {command}")
                except HgWireError as error:
                    self.problems.append(f"{command} in frames: {error.message}")
        self.expect_error("an unknown command at the API", self.ask(f"{base}/nosuch", both, method="POST", body=b""))
        get = self.ask(f"{base}/heads")
        self.expect(get.status == 405, f"GET of a command at the API: {get.status}, not 405")
        self.expect("Allow" in get.headers, "a 405 without Allow")
        plain = {"Accept": "text/plain", "Content-Type": media_type}
        self.expect_error("a foreign Accept at the API", self.ask(f"{base}/heads", plain, method="POST", body=b""))
        plain = {"Accept": media_type, "Content-Type": "text/plain"}
        self.expect_error("a foreign body at the API", self.ask(f"{base}/heads", plain, method="POST", body=b""))
        for what, body in (("garbage", b"\xff" * 64), ("no frame", b""), ("half a frame", b"\x05\x00\x00\x01")):
            answer = self.ask(f"{base}/heads", both, method="POST", body=body)
            self.expect(
                answer.status < 500 and answer.media_type == "text/plain",
                f"{what} instead of frames: {answer.status} {answer.media_type}, without an explanation",
            )
        if self.ask(f"{base}/debugreflect", both, method="POST", body=b"").status != 404:
            self.notes.append("debugreflect is enabled; it is meant for tests")


def _print(text: str) -> None:
    """Print text that may contain the server's, without control characters."""
    print(printable(text))


def _read(response: Response) -> Answer:
    with contextlib.closing(response):
        body = read_exactly(response, _BODY_BYTES)
    return Answer(response.status, response.reason, response.media_type, response.headers, body)


def _check_errors(probe: Probe) -> None:
    """A malformed request gets a 4xx with an explanation, and the connection stays usable."""
    heads = probe.command("heads").body
    for what, name, arguments in (
        ("an unknown command", "hgwire-no-such-command", {}),
        ("a missing argument", "lookup", {}),
        ("malformed hexadecimal digits", "known", {"nodes": "xyz"}),
        ("a malformed batch", "batch", {"cmds": "heads"}),
        ("an unknown command in a batch", "batch", {"cmds": "hgwire-no-such-command "}),
    ):
        probe.expect_error(what, probe.command(name, arguments))
        probe.expect(probe.command("heads").body == heads, f"after {what} the reply to the next request is wrong")


def _check_posted(probe: Probe) -> None:
    """An impossible length of posted arguments is refused."""
    for value in ("x", "-1", "1000"):
        headers = {"Accept": MEDIA_TYPE_01, "Content-Type": MEDIA_TYPE_01, "X-HgArgs-Post": value}
        if probe.capabilities.post_args:
            answer = probe.ask("?cmd=known", headers, method="POST", body=b"nodes=")
            probe.expect_error(f"X-HgArgs-Post: {value}", answer)


def _check_head(probe: Probe) -> None:
    """HEAD has the status of GET and no body."""
    with contextlib.closing(Connection(probe.connection.address, timeout=probe.timeout)) as connection:
        connection.http.response_class = _WithBody
        headers = [("Accept", MEDIA_TYPE_01), ("Connection", "close")]
        body = b""
        try:
            response = connection.request("HEAD", "?cmd=capabilities", headers)
            probe.expect(response.status == 200, f"HEAD of capabilities: {response.status}")
            # One without a body breaks off here, before the bytes that Content-Length announces.
            with contextlib.suppress(ConnectionFailed):
                body = response.read(1)
        except ConnectionFailed as error:
            probe.problems.append(f"HEAD of capabilities: {error.message}")
    probe.expect(not body, "HEAD is answered with a body, which clients take for the next response")


class _WithBody(BoundedResponse):
    """A response to HEAD that is read like one to GET: http.client would not read its body."""

    def __init__(self, sock: socket.socket, **_: Any) -> None:
        super().__init__(sock)


def _check_vary(probe: Probe) -> None:
    """A cache must distinguish replies to different arguments."""
    if not probe.capabilities.max_header_length:
        return
    answer = probe.command("known", X_HgArg_1="nodes=", X_HgProto_1="0.1 0.2 comp=zlib")
    varied = {name.strip().lower() for name in answer.headers.get("Vary", "").split(",")}
    if not varied - {""}:
        probe.notes.append("replies have no Vary header: an HTTP cache would mix up replies to different arguments")
    else:
        probe.expect(
            "*" in varied or "x-hgarg-1" in varied,
            f"Vary is {answer.headers['Vary']!r} without X-HgArg-1: an HTTP cache would mix up replies",
        )


def _check_streams(probe: Probe) -> None:
    """Streams have the negotiated media type, and an engine both sides know."""
    capabilities = probe.capabilities
    if "getbundle" not in capabilities:
        return
    arguments = dict(_HARMLESS["getbundle"])
    if "bundle2" in capabilities:
        arguments |= {"bundlecaps": f"HG20,bundle2={capabilities['bundle2']}"}
    plain = probe.command("getbundle", arguments)
    if plain.status != 200 or plain.media_type == HG_ERROR:
        probe.notes.append(f"streams were not tried: {plain.line}")
        return
    if "0.1" in capabilities.sends:
        probe.expect(plain.media_type == MEDIA_TYPE_01, f"0.1 was requested, but the reply is {plain.media_type}")
    if "0.2" not in capabilities.sends:
        return
    tried = []
    for name in (*filter(ENGINES.__contains__, capabilities.words("compression")), "none"):
        with V1Client(probe.url, timeout=probe.timeout, engines=(ENGINES[name],)) as client:
            try:
                reply = client.call("getbundle", arguments)
                read_all(reply, REPLY_BYTES)
            except HgWireError as error:
                probe.problems.append(f"a stream with comp={name}: {error.message}")
                continue
        tried.append(f"{name} ({reply.media_type.rpartition('-')[2]})")
        if name != "none":
            probe.expect(
                reply.media_type == MEDIA_TYPE_02, f"{name} is offered, but a stream was sent as {reply.media_type}"
            )
    _print(f"  streams decoded: {', '.join(tried)}")


_CHECKS: tuple[Callable[[Probe], None], ...] = (
    _check_streams,
    _check_vary,
    _check_head,
    _check_errors,
    _check_posted,
)
