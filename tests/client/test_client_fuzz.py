"""Whatever a server sends, a client gives a reply or raises a documented error, in the time it takes to read it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from wire_servers import FRAMES, PATIENCE, http, raw_server

from hgwire_wsgi import BZIP2, NONE, ZLIB, ZSTD
from hgwire_wsgi.client import Call, V1Client, V2Client
from hgwire_wsgi.errors import HgWireError
from hgwire_wsgi.framing import EXP_0002, encode_frame, parse_frame

FRAMED = b"".join(
    encode_frame(parse_frame(line, EXP_0002))
    for line in (
        "1 2 stream-begin stream-settings 0 \\x08identity",
        "1 2 0 text-output 0 \\x03\\x00\\x00\\x01\\x02\\x00a%syo",
        "1 2 encoded bytes-response continuation some",
        "1 2 stream-end bytes-response eos more",
    )
)
ENGINES = (ZSTD, ZLIB, BZIP2, NONE)


def chunked(body: bytes, content_type: str) -> bytes:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return http(chunks, content_type, more="Transfer-Encoding: chunked\r\n")


WHOLE = [
    http(b"heads", "application/mercurial-0.1", more="Content-Length: 5\r\n"),
    http(zlib.compress(b"data"), "application/mercurial-0.1"),
    http(b"refused\n", "application/hg-error"),
    http(b"0\nno\n", "text/plain", "401 Unauthorized"),
    *(chunked(engine.prefix + b"".join(engine.compress([b"data"])), "application/mercurial-0.2") for engine in ENGINES),
    chunked(FRAMED, FRAMES),
    http(FRAMED, FRAMES, more=f"Content-Length: {len(FRAMED)}\r\n"),
]


@st.composite
def answers(draw: Any) -> bytes:
    """A response that is right but for a few bytes, or cut, or repeated; or nonsense behind a good head."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 8))
        data[place : place + length] = draw(st.binary(max_size=12))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data) + draw(st.sampled_from([b"", b"\0", bytes(data)]))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers what the list holds; gives its URL and the list."""
    answer = [b""]
    with raw_server(lambda sock, request: sock.sendall(answer[0])) as (url, requests):
        yield url, answer
        requests.clear()


def fit_for_a_terminal(error: HgWireError) -> None:
    assert error.message
    assert error.message.replace("\n", "").replace("\t", "").isprintable(), repr(error.message)


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(answers())
@example(b"HTTP/\x001.1 200 OK\r\n\r\n")
@example(b"HTTP/1.1 400 \x1b[31m\r\n\r\n")
@example(http(b"", "\x1b[31m"))
def test_version_1(server: Any, answer: bytes) -> None:
    url, answered = server
    answered[0] = answer
    with V1Client(url, timeout=PATIENCE) as client:
        for command in ("heads", "getbundle", "thing"):
            try:
                assert isinstance(client.call_bytes(command), bytes)
            except HgWireError as error:
                fit_for_a_terminal(error)


@FUZZ
@given(answers())
def test_version_2(server: Any, answer: bytes) -> None:
    url, answered = server
    answered[0] = answer
    with V2Client(url, timeout=PATIENCE) as client:
        try:
            assert isinstance(client.call_bytes("heads"), bytes)
        except HgWireError as error:
            fit_for_a_terminal(error)
        try:
            assert len(client.call_many([Call("heads"), Call("branchmap")])) == 2
        except HgWireError as error:
            fit_for_a_terminal(error)
