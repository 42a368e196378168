"""The common part of the clients: calls, outcomes, replies, refusals."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPMessage
from typing import Any

import attrs
import pytest

from hgwire_wsgi.client.base import Call, Client, Outcome, Reply, read_all, refusal
from hgwire_wsgi.errors import CommandRefused, LimitExceeded, LocalProtocolError


class TestCall:
    def test_arguments_are_sorted_and_encoded(self) -> None:
        call = Call("x", {"b": "\u00e9", "a": b"\xff"})
        assert list(call.encoded_arguments.items()) == [("a", b"\xff"), ("b", b"\xc3\xa9")]

    @pytest.mark.parametrize(
        ("name", "permission", "writes"),
        [
            ("heads", None, False),
            ("unbundle", None, True),
            ("pushkey", None, True),
            ("pushkey", "pull", False),
            ("x-unknown", None, False),
            ("x-unknown", "push", True),
        ],
    )
    def test_writes(self, name: str, permission: str | None, writes: bool) -> None:
        assert Call(name, permission=permission).writes is writes

    @pytest.mark.parametrize(("name", "arguments"), [("\udcff", {}), ("x", {"\udcff": b""}), ("x", {"a": "\udcff"})])
    def test_text_that_is_not_unicode(self, name: str, arguments: Mapping[str, str | bytes]) -> None:
        with pytest.raises(LocalProtocolError, match="not UTF-8: the name or an argument of a command"):
            Call(name, arguments)


def test_outcome() -> None:
    assert Outcome(b"data").result() == b"data"
    with pytest.raises(CommandRefused, match="no"):
        Outcome(error=CommandRefused("no")).result()


@attrs.define
class Pieces:
    """The pieces of a reply, which note when they are given up."""

    pieces: Sequence[bytes | Exception]
    closed: int = 0

    def close(self) -> None:
        self.closed += 1

    def reply(self) -> Reply:
        return Reply(self._iterate(), self.close, media_type="x/y")

    def _iterate(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


class TestReply:
    def test_file(self) -> None:
        reply = Pieces([b"abcd", b"ef"]).reply()
        assert [reply.read(size) for size in (3, 0, 3, 3, 3)] == [b"abc", b"", b"d", b"ef", b""]

    @pytest.mark.parametrize("first", [0, 1, 4])
    def test_rest(self, first: int) -> None:
        for rest in (lambda reply: reply.read(), lambda reply: b"".join(reply)):
            reply = Pieces([b"abcd", b"ef"]).reply()
            assert reply.read(first) + rest(reply) == b"abcdef"

    def test_close(self) -> None:
        pieces = Pieces([b"abcd", b"ef"])
        with pieces.reply() as reply:
            assert reply.read(1) == b"a"
        assert pieces.closed == 1
        assert reply.read(1) == reply.read() == b""

    def test_error(self) -> None:
        pieces = Pieces([b"abcd", LimitExceeded("too much")])
        reply = pieces.reply()
        assert reply.read(9) == b"abcd"
        with pytest.raises(LimitExceeded):
            reply.read(9)
        assert pieces.closed == 1

    def test_read_all(self) -> None:
        pieces = Pieces([b"ab", b"cd"])
        assert read_all(pieces.reply(), 4) == b"abcd"
        with pytest.raises(LimitExceeded, match="more than 3 bytes"):
            read_all(pieces.reply(), 3)
        assert pieces.closed == 2


class Canned(Client):
    """A client that answers every call with its arguments."""

    def run(self, call: Call) -> Reply:
        return Pieces([call.name.encode(), *call.encoded_arguments.values(), b"push" * call.writes]).reply()

    def call_many(self, calls: Sequence[Call], *, limit: int = 0) -> list[Outcome]:
        raise NotImplementedError


class TestClient:
    def test_call(self) -> None:
        with Canned("http://localhost/repo") as client:
            assert client.call("x", {"a": "1"}, permission="push").read() == b"x1push"
            assert client.call_bytes("heads") == b"heads"
            with pytest.raises(LimitExceeded):
                client.call_bytes("heads", limit=4)
        assert client.connection.address.url == "http://localhost/repo"

    def test_credentials(self) -> None:
        for client in (Canned("http://u:p@localhost"), Canned("http://localhost", auth=("u", "p"))):
            assert client.connection.address.authorization == "Basic dTpw"

    def test_not_a_url(self) -> None:
        with pytest.raises(LocalProtocolError, match="http://"):
            Canned("ssh://localhost/repo")


class Answer(io.BytesIO):
    """A response."""

    def __init__(self, body: bytes, status: int, media_type: str, reason: str) -> None:
        super().__init__(body)
        self.status, self.media_type, self.reason = status, media_type, reason
        self.headers = HTTPMessage()


@pytest.mark.parametrize(
    ("body", "status", "media_type", "reason", "message"),
    [
        (b"no such thing\n", 404, "text/plain", "Not Found", "no such thing"),
        (b"0\nno such thing\n", 404, "application/mercurial-0.1", "Not Found", "no such thing"),
        (b"0\nout of band\n", 200, "application/hg-error", "OK", "out of band"),
        (b"0\nis the text", 200, "text/plain", "OK", "0\nis the text"),
        (b"<html>", 502, "text/html", "Bad \x1bGateway", "502 Bad ?Gateway"),
        (b"", 500, "", "", "500"),
        (b"x" * 20_000, 500, "text/plain", "", "x" * 16_384),
    ],
)
def test_refusal(body: bytes, status: int, media_type: str, reason: str, message: str) -> None:
    answer: Any = Answer(body, status, media_type, reason)
    error = refusal(answer, kind="protocol")
    assert (error.message, error.status, error.kind) == (message, status, "protocol")
    assert answer.closed
