from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import BodyTooLarge, BodyTruncated, LengthRequired, RequestError
from hgwire_wsgi.http.body import RequestBody, ResponseBody
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.streams import coalesce


def body(content: bytes, limits: Limits | None = None, **environ: object) -> RequestBody:
    return RequestBody({"wsgi.input": io.BytesIO(content), **environ}, limits or Limits())


def read_all(source: RequestBody, size: int = 3) -> bytes:
    return b"".join(iter(lambda: source.read(size), b""))


def test_ends_at_content_length_not_at_the_end_of_the_input() -> None:
    assert read_all(body(b"mine-and-the-next-request", CONTENT_LENGTH="4")) == b"mine"


def test_ends_with_the_input_where_the_server_promises_an_end() -> None:
    source = body(b"chunked", HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input_terminated": True})
    assert read_all(source) == b"chunked"
    assert source.read(1) == b""


def test_no_length_and_no_promise_is_an_empty_body() -> None:
    assert body(b"whatever follows").read(10) == b""


def test_chunked_body_without_a_promise_is_refused() -> None:
    with pytest.raises(LengthRequired):
        body(b"", HTTP_TRANSFER_ENCODING="chunked")


@pytest.mark.parametrize("length", ["-1", "x", "1.0", "+1", "²", " 1"])
def test_malformed_content_length(length: str) -> None:
    with pytest.raises(RequestError, match="Content-Length"):
        body(b"", CONTENT_LENGTH=length)


@pytest.mark.parametrize("length", ["11", "9" * 30])
def test_declared_length_over_the_bound(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        body(b"", Limits(body=10), CONTENT_LENGTH=length)


def test_undeclared_length_over_the_bound() -> None:
    source = body(b"x" * 20, Limits(body=10), **{"wsgi.input_terminated": True})
    with pytest.raises(BodyTooLarge):
        read_all(source)


def test_short_body_is_no_end() -> None:
    source = body(b"abc", CONTENT_LENGTH="5")
    assert source.read(10) == b"abc"
    with pytest.raises(BodyTruncated):
        source.read(10)


def test_exceptions_of_servers_become_ours() -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise RuntimeError("the server's own")

    with pytest.raises(BodyTruncated):
        RequestBody({"wsgi.input": Broken(), "CONTENT_LENGTH": "1"}, Limits()).read(1)


def test_drain_reads_what_is_left_and_no_more() -> None:
    source = io.BytesIO(b"0123456789next")
    request = RequestBody({"wsgi.input": source, "CONTENT_LENGTH": "10"}, Limits())
    assert request.read(3) == b"012"
    assert request.drain(100)
    assert source.read() == b"next"


def test_drain_stops_at_its_limit() -> None:
    assert not body(b"x" * 10, CONTENT_LENGTH="10").drain(9)
    assert body(b"x" * 10, CONTENT_LENGTH="10").drain(10)


def test_drain_does_not_mind_how_long_a_body_may_be() -> None:
    source = body(b"x" * 30, Limits(body=10), **{"wsgi.input_terminated": True})
    with pytest.raises(BodyTooLarge):
        source.read(20)
    assert source.drain(100)
    endless = body(b"x" * 30, Limits(body=10), **{"wsgi.input_terminated": True})
    assert not endless.drain(20)


def test_drain_of_a_lost_client_leaves_nothing_to_read() -> None:
    assert body(b"x", CONTENT_LENGTH="10").drain(100)


@given(st.lists(st.binary(max_size=20)), st.integers(1, 30))
def test_coalesce_keeps_bytes_and_makes_no_small_chunk_but_the_last(chunks: list[bytes], size: int) -> None:
    joined = list(coalesce(chunks, size))
    assert b"".join(joined) == b"".join(chunks)
    assert all(len(chunk) >= size for chunk in joined[:-1])
    assert all(joined)


def test_coalesce_holds_one_chunk() -> None:
    made = []

    def chunks() -> Iterator[bytes]:
        for number in range(100):
            made.append(number)
            yield b"0123456789"

    stream = coalesce(chunks(), 50)
    next(stream)
    assert len(made) == 5


def test_response_closes_everything_once_and_in_order() -> None:
    closed: list[str] = []

    def fails() -> None:
        closed.append("fails")
        raise RuntimeError

    response = ResponseBody(iter([b"x"]), [lambda: closed.append("first"), fails, lambda: closed.append("last")])
    assert list(response) == [b"x"]
    assert closed == []
    response.close()
    response.close()
    assert closed == ["first", "fails", "last"]


def test_response_that_leaves_a_body_unread_fails_after_its_last_chunk() -> None:
    response = ResponseBody(iter([b"x"]), [], cut=True)
    assert next(response) == b"x"
    with pytest.raises(BodyTooLarge):
        next(response)


def test_response_failure_reaches_the_server() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise OSError("disk")

    response = ResponseBody(chunks(), [])
    assert next(response) == b"x"
    with pytest.raises(OSError, match="disk"):
        next(response)
