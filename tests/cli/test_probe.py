"""``hgwire probe``: ours is right, hgweb is known, and every fault is found."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cli_support import environment
from wire_servers import FRAMES, endless, http, raw_server, serving

from hgwire_wsgi import BZIP2, NONE, ZLIB, ZSTD, ApiSettings, ServerCapabilities, WireApp
from hgwire_wsgi.cli import main
from hgwire_wsgi.cli import probe as probe_module
from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository


def make_app(**options: Any) -> WireApp:
    repository = MemoryRepository()
    repository.commit({"a": b"a\n"}, message="first")
    return WireApp(MemoryProvider({"": repository}), **options)


class Meddler:
    """An application whose answers are changed on their way.

    Args:
        app: the application.
        change: is given the command or path, the environ, and status, headers and body, and returns the last three.
    """

    def __init__(self, app: Any, change: Callable[..., Any]) -> None:
        self.app = app
        self.change = change

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        started: list[Any] = []
        answer = self.app(environ, lambda *arguments: started.append(arguments))
        body = b"".join(answer)
        getattr(answer, "close", lambda: None)()
        status, headers = started[-1][:2]
        what = parse_qs(environ["QUERY_STRING"]).get("cmd", [environ["PATH_INFO"]])[0]
        status, headers, body = self.change(what, environ, status, dict(headers), body)
        start_response(status, list(headers.items()))
        return [body]


class Probed:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def section(self, title: str) -> list[str]:
        lines = self.out.partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()
        return [line.removeprefix("  - ") for line in lines]

    @property
    def wrong(self) -> list[str]:
        return self.section("Wrong")


@pytest.fixture
def probe(capsys: Any) -> Callable[[Any], Probed]:
    def run(app: Any) -> Probed:
        logging.disable(logging.CRITICAL)
        try:
            with serving(app) as url:
                code = main(["probe", url])
        finally:
            logging.disable(logging.NOTSET)
        return Probed(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"capabilities": ServerCapabilities(post_args=True, engines=(BZIP2, NONE))},
        {"capabilities": ServerCapabilities(send=("0.1",), max_header_length=0)},
        {"capabilities": ServerCapabilities(send=("0.2",))},
        {"capabilities": ServerCapabilities(receive=("0.2",), post_args=True)},
        {"capabilities": ServerCapabilities(send=("0.1",), receive=("0.2",))},
        {"api": ApiSettings(server=True)},
        {"api": ApiSettings(server=True, http_v2=True)},
    ],
)
def test_ours(options: dict[str, Any], probe: Any) -> None:
    done = probe(make_app(**options))
    assert (done.code, done.err) == (0, ""), done.out
    assert "\nNothing is wrong.\n" in done.out
    assert "Notes" not in done.out
    assert "heads by branch" in done.out


def test_report(probe: Any) -> None:
    done = probe(
        make_app(
            api=ApiSettings(server=True, http_v2=True, debugreflect=True),
            capabilities=ServerCapabilities(engines=(ZSTD, ZLIB)),
        )
    )
    assert "  streams decoded: zstd (0.2), zlib (0.2), none (0.1)\n" in done.out
    assert "  engines offered: zstd, zlib\n" in done.out
    assert "  media types sent: 0.1, 0.2\n" in done.out
    assert "  media types received: 0.1, 0.2\n" in done.out
    assert "  exp-http-v2-0001: 200 HTTP version 2 API handler\n" in done.out
    assert "  answers in frames: heads\n" in done.out
    assert done.section("Notes") == ["debugreflect is enabled; it is meant for tests"]
    assert done.code == 0


@pytest.fixture
def hg_serve(demonstration: Path) -> Iterator[str]:
    """Mercurial's own server, as a process; gives its URL."""
    command = [*hg_command(), "serve", "-R", str(demonstration), "--address", "127.0.0.1", "--port", "0", "--print-url"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.terminate()


def test_mercurial_itself(hg_serve: str, capsys: Any) -> None:
    done = Probed(main(["probe", hg_serve]), *capsys.readouterr())
    assert done.code == 1
    assert "streams decoded: zstd (0.2), zlib (0.2), none (0.1)" in done.out
    assert "no API server" in done.out
    assert done.section("Notes") == [
        "replies have no Vary header: an HTTP cache would mix up replies to different arguments"
    ]
    assert {
        "HEAD is answered with a body, which clients take for the next response",
        "a missing argument: answered with 500, not with a 4xx",
        "malformed hexadecimal digits: answered with 500, not with a 4xx",
        "a malformed batch: answered with 500, not with a 4xx",
        "an unknown command in a batch: answered with 500, not with a 4xx",
    } <= set(done.wrong)


UNKNOWN = "hgwire-no-such-command"


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def altered(
    where: str, *, status: str = "", media: str | None = None, body: Callable[[bytes], bytes] | None = None, **more: str
) -> Callable[..., Any]:
    """A change of the answers to a command, or of those with a media type, or with ``*`` of all."""

    def change(what: str, environ: Any, old: str, headers: dict[str, str], content: bytes) -> Any:
        if where not in ("*", what, headers.get("Content-Type")):
            return old, headers, content
        headers = {**without(headers, "Content-Length"), **more}
        if media is not None:
            headers = {**without(headers, "Content-Type"), **({"Content-Type": media} if media else {})}
        return status or old, headers, content if body is None else body(content)

    return change


def crash_at_the_api(what: str, environ: Any, status: str, headers: dict[str, str], body: bytes) -> Any:
    failed = environ["REQUEST_METHOD"] == "POST" and status.startswith("4")
    return "500 Oops" if failed else status, headers, body


def no_allow(what: str, environ: Any, status: str, headers: dict[str, str], body: bytes) -> Any:
    return status, without(headers, "Allow"), body


IN_01, IN_02 = "application/mercurial-0.1", "application/mercurial-0.2"

FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "no media type": (altered("heads", media=""), "heads: the media type is missing"),
    "foreign media type": (
        altered("capabilities", media="text/html"),
        "capabilities: the media type is text/html, not application/mercurial-0.1",
    ),
    "wrong Vary": (altered("*", Vary="Accept"), "Vary is 'Accept' without X-HgArg-1"),
    "broken prefix": (altered(IN_02, body=lambda body: body[1:]), "a stream with comp=zstd: "),
    "broken stream": (altered(IN_02, body=lambda body: body[:-2]), "a stream with comp=zlib: compressed data end"),
    "0.2 unasked": (altered("getbundle", media=IN_02), "0.1 was requested, but the reply is application/mercurial-0.2"),
    "0.1 instead": (altered(IN_02, media=IN_01), "a stream with comp=zstd: "),
    "traceback": (
        altered(UNKNOWN, media="text/plain", body=lambda body: b"Traceback (most recent call last):"),
        "an unknown command: the answer shows a traceback",
    ),
    "success": (altered(UNKNOWN, status="200 OK"), "an unknown command: answered with 200, not with a 4xx"),
    "no body": (altered(UNKNOWN, body=lambda body: b""), "an unknown command: the error has no body"),
    "error without media type": (altered(UNKNOWN, media=""), "an unknown command: the error has no Content-Type"),
    "401 without challenge": (
        altered(UNKNOWN, status="401 No"),
        "an unknown command: a 401 without WWW-Authenticate",
    ),
    "offered and refused": (altered("known", status="400 No"), "known is offered, but refused"),
    "unknown version": (
        altered("capabilities", body=lambda body: body.replace(b"0.1rx", b"0.3rx")),
        "httpmediatype has '0.3rx'",
    ),
    "no number": (
        altered("capabilities", body=lambda body: b"httpheader=many"),
        "httpheader is 'many', not a number",
    ),
    "no engines": (
        altered("capabilities", body=lambda body: b"httpmediatype=0.2tx"),
        "0.2 is announced, but the compression capability is missing",
    ),
    "no engines for bodies": (
        altered("capabilities", body=lambda body: b"httpmediatype=0.1rx,0.1tx,0.2rx"),
        "0.2 is announced, but the compression capability is missing",
    ),
    "crashes at the API": (crash_at_the_api, "an unknown command at the API: answered with 500, not with a 4xx"),
    "frames of another type": (altered(FRAMES, media="application/x"), "heads in frames: "),
    "405 without Allow": (no_allow, "a 405 without Allow"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, probe: Any) -> None:
    change, problem = FAULTS[fault]
    done = probe(Meddler(make_app(api=ApiSettings(server=True, http_v2=True)), change))
    assert done.code == 1
    assert any(line.startswith(problem) for line in done.wrong), done.out
    assert "Nothing is wrong" not in done.out


def test_an_unharmed_meddler_does_no_harm(probe: Any) -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True))
    done = probe(Meddler(app, lambda what, environ, status, headers, body: (status, headers, body)))
    assert done.code == 0, done.out


def test_engines_that_are_unknown_here(probe: Any) -> None:
    def change(what: str, environ: Any, status: str, headers: dict[str, str], body: bytes) -> Any:
        body = body.replace(b"zstd,zlib", b"brotli,zstd,zlib") if what == "capabilities" else body
        return status, without(headers, "Content-Length"), body

    done = probe(Meddler(make_app(), change))
    assert done.section("Notes") == ["the engine 'brotli' is unknown to hgwire and was not tried"]


def test_streams_that_are_refused_are_no_fault(probe: Any) -> None:
    done = probe(Meddler(make_app(), altered("getbundle", media="application/hg-error", body=lambda body: b"not here")))
    assert done.section("Notes") == ["streams were not tried: 200 not here"]
    assert done.code == 0


def test_credentials_are_sent_every_time(capsys: Any) -> None:
    missing = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ.get("HTTP_AUTHORIZATION") != "Basic dTpw":
            missing.append(environ)
        return served(environ, start_response)

    served = make_app(api=ApiSettings(server=True, http_v2=True))
    with serving(app) as url:
        assert main(["probe", url.replace("//", "//u:p@")]) == 0
    assert not missing
    assert "u:p" not in capsys.readouterr().out


def test_no_repository(probe: Any) -> None:
    def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<html>hello</html>"]

    done = probe(page)
    assert done.code == 1
    assert "this is a web page, not a repository" in done.wrong


def test_a_repository_that_may_not_be_read(probe: Any) -> None:
    from hgwire_wsgi import PermissionDenied

    def refuse(request: Any) -> None:
        raise PermissionDenied("read not authorized", status=401)

    done = probe(make_app(policy=refuse))
    assert done.code == 1
    assert done.wrong == ["the server does not report its capabilities: 401 read not authorized"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "nonsense"])
def test_no_server(url: str, capsys: Any) -> None:
    assert main(["probe", url]) == 2
    assert capsys.readouterr().err.startswith("hgwire: ")


def test_a_server_that_speaks_no_http(capsys: Any) -> None:
    with raw_server(b"SSH-2.0-x\r\n") as (url, _):
        assert main(["probe", url]) == 2
    assert "hgwire: " in capsys.readouterr().err


def test_a_server_that_hangs_up_at_head(capsys: Any) -> None:
    def script(sock: Any, request: bytes) -> None:
        if not request.startswith(b"HEAD "):
            sock.sendall(http(b"heads", "application/mercurial-0.1"))

    with raw_server(script) as (url, _):
        done = Probed(main(["probe", url]), *capsys.readouterr())
    assert done.code == 1
    assert any(line.startswith("HEAD of capabilities: http://127.0.0.1:") for line in done.wrong)


def test_a_stream_without_end(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(sock: Any, request: bytes) -> None:
        if b"cmd=getbundle" in request and b"comp=none" in request:
            endless(http(b"\x04none", "application/mercurial-0.2"), b"x")(sock, request)
        sock.sendall(http(b"getbundle httpmediatype=0.1tx,0.2tx compression=none", "application/mercurial-0.1"))

    monkeypatch.setattr(probe_module, "REPLY_BYTES", 1 << 20)
    with raw_server(script) as (url, _):
        done = Probed(main(["probe", url]), *capsys.readouterr())
    assert "a stream with comp=none: the reply has more than 1048576 bytes" in done.wrong


def test_text_of_the_server_is_safe_for_a_terminal(capsys: Any) -> None:
    capabilities = b"httpmediatype=%1b[31mtx compression=%1b[32m other%07=%1b"
    refusal = http(b"", "application/mercurial-0.1", "400 \x1b[33m")
    with raw_server(http(capabilities, "application/mercurial-0.1"), refusal) as (url, _):
        assert main(["probe", url]) == 1
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_a_server_that_stops_in_the_middle(capsys: Any) -> None:
    with raw_server(http(b"heads", "application/mercurial-0.1"), b"") as (url, _):
        assert main(["probe", url]) == 2
    assert capsys.readouterr().err.startswith("hgwire: ")
