"""Malformed requests, over a kept-alive connection to gunicorn.

The first sixteen make hgweb 7.2 fail with a traceback and a 500.  Each must get a 4xx (or the answer that the protocol
has for it) with a text that says what is wrong; nothing may be logged as a traceback; and the next request on the
same connection must still be right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_repos import Workshop
from live_servers import OURS, Server, Site, StartServer
from live_wire import Answer, Wire, raw

pytestmark = pytest.mark.skipif(OURS != "ours", reason="hgweb fails these: HGWIRE_LIVE_OURS is set")

PUSH = {"Content-Type": "application/mercurial-0.1"}
FORCE = {"X-HgArg-1": "heads=666f726365", **PUSH}


@attrs.frozen(kw_only=True)
class Bad:
    """A malformed request, and words that its answer must contain."""

    query: str
    says: str
    method: str = "GET"
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes | None = None
    below: str = ""
    status: tuple[int, ...] = (400,)


def arguments(encoded: str) -> dict[str, str]:
    """Return the header that carries arguments."""
    return {"X-HgArg-1": encoded}


def bad_push(media_type: str, body: bytes, *, says: str, status: tuple[int, ...]) -> Bad:
    """A push whose body does not match its media type, or whose media type no client sends."""
    headers = {**FORCE, "Content-Type": media_type}
    return Bad(query="cmd=unbundle", method="POST", headers=headers, body=body, says=says, status=status)


#: The crashes of hgweb that a normal HTTP client can cause.  The others are below, because they need a raw socket.
CRASHES = {
    "batch without cmds": Bad(query="cmd=batch", says="cmds"),
    "batch without a space": Bad(query="cmd=batch", headers=arguments("cmds=heads"), says="a space"),
    "batch of an unknown command": Bad(query="cmd=batch", headers=arguments("cmds=nonsense+"), says="nonsense"),
    "batch with a=b=c": Bad(query="cmd=batch", headers=arguments("cmds=known+a%3Db%3Dc"), says="one '='"),
    "batch of getbundle": Bad(query="cmd=batch", headers=arguments("cmds=getbundle+"), says="getbundle"),
    "batch of batch": Bad(query="cmd=batch", headers=arguments("cmds=batch+cmds%3Dheads+"), says="batch"),
    "known with bad hex": Bad(query="cmd=known", headers=arguments("nodes=xyz"), says="nodes"),
    "between with bad hex": Bad(query="cmd=between", headers=arguments("pairs=xyz-abc"), says="pairs"),
    "getbundle with bad hex": Bad(query="cmd=getbundle", headers=arguments("heads=xyz"), says="heads"),
    "X-HgArgs-Post is no number": Bad(
        query="cmd=heads", method="POST", headers={"X-HgArgs-Post": "ten", **PUSH}, body=b"0123456789", says="Args-Post"
    ),
    "missing argument": Bad(query="cmd=known", says="nodes"),
    "missing argument of lookup": Bad(query="cmd=lookup", says="key"),
    "missing inline bundle": Bad(
        query="cmd=get_cached_bundle_inline", headers=arguments("path=none.hg"), says="", status=(200, 400, 404)
    ),
}

MORE = {
    "X-HgArgs-Post is negative": Bad(
        query="cmd=heads", method="POST", headers={"X-HgArgs-Post": "-1", **PUSH}, body=b"0123", says="Args-Post"
    ),
    "X-HgArgs-Post exceeds the body": Bad(
        query="cmd=heads", method="POST", headers={"X-HgArgs-Post": "5", **PUSH}, body=b"0123", says="Args-Post"
    ),
    "X-HgArgs-Post is huge": Bad(
        query="cmd=heads", method="POST", headers={"X-HgArgs-Post": "9" * 30, **PUSH}, body=b"0", says="Args-Post"
    ),
    "two commands": Bad(query="cmd=heads&cmd=capabilities", says="cmd"),
    "an unknown command": Bad(query="cmd=nonsense", says="nonsense"),
    "a command that is not ASCII": Bad(query="cmd=%ff%fe", says=""),
    "a command with a NUL": Bad(query="cmd=heads%00", says=""),
    "a semicolon is no separator": Bad(query="cmd=known;nodes=", says="known;nodes="),
    "arguments in the gap": Bad(query="cmd=known", headers={"X-HgArg-2": "nodes="}, says="nodes"),
    "bad percent encoding of hex": Bad(query="cmd=known", headers=arguments("nodes=%zz%"), says="nodes"),
    "a node of 39 digits": Bad(query="cmd=known", headers=arguments("nodes=" + "a" * 39), says="nodes"),
    "a pair without a dash": Bad(query="cmd=between", headers=arguments("pairs=" + "a" * 40), says="pairs"),
    "branches with bad hex": Bad(query="cmd=branches", headers=arguments("nodes=-"), says="nodes"),
    "changegroup with bad hex": Bad(query="cmd=changegroup", headers=arguments("roots=-"), says="roots"),
    "a push by GET": Bad(query="cmd=unbundle", headers=arguments("heads=666f726365"), says="POST", status=(405,)),
    "pushkey by GET": Bad(
        query="cmd=pushkey", headers=arguments("namespace=bookmarks&key=a&old=&new="), says="POST", status=(405,)
    ),
    "pushkey in a batch by GET": Bad(
        query="cmd=batch",
        headers=arguments("cmds=heads+%3Bpushkey+namespace%3Dbookmarks%2Ckey%3Da%2Cold%3D%2Cnew%3D"),
        says="POST",
        status=(405,),
    ),
    "a push without heads": Bad(query="cmd=unbundle", method="POST", headers=PUSH, body=b"HG10UN", says="heads"),
    "a push with bad heads": Bad(
        query="cmd=unbundle", method="POST", headers={**PUSH, **arguments("heads=zz")}, body=b"HG10UN", says="heads"
    ),
    "a push that a web page could send": bad_push(
        "text/plain", b"HG10UN", says="must be sent as application/mercurial-0.1", status=(415,)
    ),
    "a push in an unknown media type": bad_push(
        "application/mercurial-0.9", b"HG10UN", says="must be application/mercurial-0.1", status=(415,)
    ),
    "a 0.2 push with an unknown engine": bad_push(
        "application/mercurial-0.2", b"\x03xyzHG10UN", says="unknown compression engine", status=(400, 415)
    ),
    "a 0.2 push whose stream is garbage": bad_push(
        "application/mercurial-0.2", b"\x04zlibHG10UN", says="corrupt", status=(200, 400)
    ),
    "below a repository": Bad(query="cmd=heads", below="/sub", says="Not Found", status=(404,)),
    "above the root": Bad(query="cmd=heads", below="/../../etc", says="", status=(400, 404)),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    workshop.copy("history", folder / "repo", "[extensions]\nclonebundles =\n")
    workshop.copy("history", folder / "push")
    return folder


@pytest.fixture(scope="module")
def server(site: Path, start_server: StartServer) -> Server:
    return start_server("gunicorn", Site(side="ours", root=str(site), post_args=True))


@pytest.fixture(scope="module")
def connection(server: Server) -> Iterator[Wire]:
    """One connection for all tests of the module: unread bytes of one request would spoil the next."""
    with Wire(server.port, "/repo") as wire:
        yield wire


def sane(wire: Wire, workshop: Workshop) -> None:
    """The next request on the connection gets the right answer."""
    answer = wire.command("lookup", key="v1")
    node = workshop.hg("log", "-r", "v1", "-T", "{node}", repo=workshop.original("history"))
    assert (answer.status, answer.body) == (200, f"1 {node}\n".encode())


def explains(answer: Answer, says: str) -> None:
    """The answer says what is wrong, and does not reveal internals of the server."""
    assert answer.body.strip()
    assert says.lower() in answer.text.lower()
    assert "Traceback" not in answer.text and os.sep + "site-packages" not in answer.text
    assert answer.headers["content-type"].partition(";")[0] in (
        "application/hg-error",
        "application/mercurial-0.1",
        "text/plain",
    )
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("name", [*CRASHES, *MORE])
def test_bad_requests(name: str, connection: Wire, server: Server, workshop: Workshop) -> None:
    bad = {**CRASHES, **MORE}[name]
    start = server.logged
    used = connection.connections
    answer = connection.send(
        bad.query, method=bad.method, headers=bad.headers, body=bad.body, path=connection.path + bad.below
    )
    assert answer.status in bad.status, answer
    explains(answer, bad.says)
    sane(connection, workshop)
    assert connection.connections <= max(used, 1), "the connection was closed"
    assert "Traceback" not in server.log(start), server.log(start)


def test_there_are_sixteen() -> None:
    assert len(CRASHES) + len([name for name in globals() if name.startswith("test_crash_")]) >= 16


def test_crash_push_without_a_length(connection: Wire, server: Server, site: Path, workshop: Workshop) -> None:
    """Neither Content-Length nor chunked: by HTTP the body is empty, and an empty bundle is malformed."""
    start = server.logged
    request = (
        b"POST /push?cmd=unbundle HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: heads=666f726365\r\n"
        b"Content-Type: application/mercurial-0.1\r\n\r\n"
        b"GET /repo?cmd=heads HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    received = raw(server.port, request)
    first, _, rest = received.partition(b"HTTP/1.1 200 Script output follows\r\n")
    # Either refused, or answered in band with a first line of "0"; the second request gets the right answer.
    if first:
        assert first.startswith(b"HTTP/1.1 4")
    else:
        answer, _, rest = rest.partition(b"HTTP/1.1 200 Script output follows\r\n")
        assert b"\r\n\r\n0\n" in answer
    assert rest.rstrip().endswith(connection.send("cmd=heads").body.strip())
    assert "Traceback" not in server.log(start), server.log(start)


@pytest.mark.parametrize("length", [b"-1", b"x", b"", b"5, 6", b"1_0"])
def test_crash_content_length_is_no_number(length: bytes, connection: Wire, server: Server, workshop: Workshop) -> None:
    """The server itself answers these and closes the connection: it cannot know where the next request begins."""
    start = server.logged
    received = raw(
        server.port,
        b"POST /push?cmd=unbundle HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: heads=666f726365\r\nConnection: close\r\n"
        b"Content-Type: application/mercurial-0.1\r\nContent-Length: " + length + b"\r\n\r\nHG10UN",
    )
    assert received.startswith(b"HTTP/1.1 4") or (not length and b"\r\n\r\n0\n" in received), received
    assert "Traceback" not in server.log(start), server.log(start)
    sane(connection, workshop)


def test_crash_server_port_is_an_integer(connection: Wire, server: Server, workshop: Workshop) -> None:
    start = server.logged
    for query in ("cmd=heads", "cmd=capabilities", ""):
        assert connection.send(query, headers={"X-Live-Integer-Port": "1"}).status == 200
    sane(connection, workshop)
    assert "Traceback" not in server.log(start), server.log(start)


GARBAGE = {
    "nothing": b"",
    "noise": b"this is no bundle at all, only text" * 100,
    "an unknown kind": b"HG99UN" + bytes(1000),
    "bundle1 cut short": b"HG10UN" + b"\0\0\1\0" + bytes(20),
    "bundle1 with a broken stream": b"HG10GZ" + b"\xff" * 1000,
    "bundle1 with an unknown engine": b"HG10XX" + bytes(1000),
    "bundle2 cut short": b"HG20\0\0\0\0\0\0",
    "bundle2 with an unknown part": b"HG20\0\0\0\0" + b"\0\0\0\x0e" + b"\x07NOSUCHX" + b"\0\0\0\0\0\0" + b"\0" * 8,
    "bundle2 with bad parameters": b"HG20\0\0\0\x05=====" + bytes(8),
    "bundle2 with an unknown engine": b"HG20\0\0\0\x0eCompression=ZZ" + bytes(8),
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("size", [0, 300_000])
def test_garbage_is_no_push(
    name: str, size: int, connection: Wire, server: Server, site: Path, workshop: Workshop
) -> None:
    """Refused with a text or in band; the rest of the body is read; nothing changes."""
    start = server.logged
    before = workshop.hg.state(site / "push")
    answer = connection.send(
        "cmd=unbundle", path="/push", method="POST", headers=FORCE, body=GARBAGE[name] + b"\xee" * size
    )
    if answer.status == 200:
        # In band: bundle1's "0" and a message, or a bundle2 reply with an error part.
        assert answer.body.startswith(b"0\n") or b"error:" in answer.body.lower(), answer
        assert len(answer.body.strip()) > 1
    else:
        assert 400 <= answer.status < 500, answer
        explains(answer, "")
    assert workshop.hg.state(site / "push") == before
    sane(connection, workshop)
    # A message of Mercurial's parser may be logged, but not a failure of the application.
    assert "[ERROR]" not in server.log(start) and "a command failed" not in server.log(start), server.log(start)


def test_duplicate_argument_headers(connection: Wire, server: Server, workshop: Workshop) -> None:
    """gunicorn joins them with a comma: the result is not what the client meant."""
    received = raw(
        server.port,
        b"GET /repo?cmd=known HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"X-HgArg-1: nodes=\r\nX-HgArg-1: nodes=\r\n\r\n",
    )
    assert received.startswith(b"HTTP/1.1 400 "), received
    sane(connection, workshop)


def test_length_and_chunked_together(connection: Wire, server: Server, workshop: Workshop) -> None:
    received = raw(
        server.port,
        b"POST /push?cmd=unbundle HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: heads=666f726365\r\n"
        b"Content-Type: application/mercurial-0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /repo?cmd=heads HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    sane(connection, workshop)


def test_a_body_cut_short(connection: Wire, server: Server, site: Path, workshop: Workshop) -> None:
    """The client announces more than it sends, and disconnects."""
    start = server.logged
    before = workshop.hg.state(site / "push")
    answer = raw(
        server.port,
        b"POST /push?cmd=unbundle HTTP/1.1\r\nHost: localhost\r\nX-HgArg-1: heads=666f726365\r\n"
        b"Content-Type: application/mercurial-0.1\r\nContent-Length: 1000\r\n\r\nHG10UN",
        half_close=True,
    )
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200 Script output follows"))
    assert b"\r\n\r\n1\n" not in answer
    assert workshop.hg.state(site / "push") == before
    sane(connection, workshop)
    assert "Traceback" not in server.log(start), server.log(start)


def test_an_unexpected_body(connection: Wire, workshop: Workshop) -> None:
    """It is read and dropped: its bytes never become the next request."""
    smuggled = b"GET /repo?cmd=capabilities HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50
    for query in ("cmd=heads", "cmd=nonsense", "", "cmd=known"):
        connection.send(query, method="POST", headers=PUSH, body=smuggled)
        sane(connection, workshop)
    assert connection.connections == 1


def test_head_has_no_body(connection: Wire, workshop: Workshop) -> None:
    for query in ("cmd=capabilities", "cmd=heads", "cmd=nonsense", ""):
        got, head = (connection.send(query, method=method) for method in ("GET", "HEAD"))
        assert head.body == b"" and head.status == got.status
        assert head.headers.get("content-length") == got.headers.get("content-length")
        assert head.headers["content-type"] == got.headers["content-type"]
    sane(connection, workshop)


def test_unknown_arguments_of_getbundle(connection: Wire, server: Server, workshop: Workshop) -> None:
    start = server.logged
    answer: Any = connection.command("getbundle", nonsense="1")
    assert answer.status == 200 or (answer.status == 400 and "nonsense" in answer.text)
    sane(connection, workshop)
    assert "Traceback" not in server.log(start), server.log(start)
