from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.errors import BodyTooLarge, BodyTruncated, LengthRequired, RequestError
from hgwire_wsgi.http.body import RequestBody
from hgwire_wsgi.limits import Limits


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
        body(b"", HTTP_TRANSFER_ENCODING="chunked").check()


def test_chunked_body_under_uwsgi_ends_where_its_function_says(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = iter([b"one", b"two", b""])
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(chunked_read=lambda: next(chunks)))
    source = RequestBody({"uwsgi.version": b"2.0.31", "HTTP_TRANSFER_ENCODING": "chunked"}, Limits()).check()
    assert (source.length, source.at_end) == (None, False)
    assert read_all(source) == b"onetwo"
    assert source.at_end and source.drain(100)


@pytest.mark.parametrize("length", ["-1", "x", "1.0", "+1", "²", " 1"])
def test_malformed_content_length(length: str) -> None:
    with pytest.raises(RequestError, match="Content-Length"):
        body(b"", CONTENT_LENGTH=length).check()


@pytest.mark.parametrize("length", ["11", "9" * 30])
def test_declared_length_over_the_bound(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        body(b"", Limits(body=10), CONTENT_LENGTH=length).check()


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


def test_a_preview_is_read_again() -> None:
    source = body(b"arguments and data", CONTENT_LENGTH="18")
    with source.preview(100) as first:
        assert first.read(4) == b"argu"
    with source.preview(100) as second:
        assert second.read(2) == b"ar"
    assert (source.received, source.at_end) == (4, False)
    assert read_all(source) == b"arguments and data"
    assert source.at_end


def test_a_preview_of_nothing_changes_nothing() -> None:
    source = body(b"data", CONTENT_LENGTH="4")
    with source.preview(100) as first:
        assert first.read(0) == b""
    assert (source.received, source.length) == (0, 4)
    assert read_all(source) == b"data"


def test_a_preview_has_a_limit_and_what_it_read_is_kept() -> None:
    source = body(b"0123456789", CONTENT_LENGTH="10")
    with pytest.raises(RequestError, match="posted arguments exceed the limit"), source.preview(5) as first:
        first.read(5)
        first.read(1)
    assert read_all(source) == b"0123456789"


def test_what_was_previewed_is_not_drained_again() -> None:
    source = body(b"0123456789next", CONTENT_LENGTH="10")
    with source.preview(5) as first:
        first.read(5)
    assert source.drain(5)
    assert source.read(10) == b""


def test_nothing_is_read_where_nothing_is_asked_for() -> None:
    source = body(b"data", CONTENT_LENGTH="4")
    assert source.read(0) == source.read(-1) == b""
    with source.preview(10) as first:
        first.read(1)
    assert source.read(0) == source.read(-1) == b""
    assert read_all(source) == b"data"


def test_an_environ_without_input_has_an_empty_body() -> None:
    source = RequestBody({}, Limits()).check()
    assert (source.read(10), source.at_end, source.length) == (b"", True, 0)


def test_faults_of_the_declaration_are_reported_before_anything_is_read() -> None:
    for environ, error in (
        ({"CONTENT_LENGTH": "x"}, RequestError),
        ({"CONTENT_LENGTH": "11"}, BodyTooLarge),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, LengthRequired),
    ):
        source = body(b"01234567890", Limits(body=10), **environ)
        assert (source.at_end, source.received) == (False, 0)
        with pytest.raises(error):
            source.check()
    assert body(b"").check().at_end


def test_the_end_is_unknown_behind_a_malformed_length_so_the_connection_is_cut() -> None:
    assert not body(b"", CONTENT_LENGTH="x").drain(100)
    assert not body(b"", HTTP_TRANSFER_ENCODING="chunked").drain(100)


@given(
    content=st.binary(max_size=60),
    previews=st.lists(st.lists(st.integers(1, 30), max_size=4), max_size=3),
    sizes=st.lists(st.integers(1, 30), min_size=1),
    declared=st.booleans(),
)
def test_however_it_is_previewed_and_read_the_body_is_the_same(
    content: bytes, previews: list[list[int]], sizes: list[int], declared: bool
) -> None:
    end = {"CONTENT_LENGTH": str(len(content))} if declared else {"wsgi.input_terminated": True}
    source = body(content + (b"next request" if declared else b""), **end)
    for reads in previews:
        with source.preview(1000) as preview:
            assert content.startswith(b"".join(preview.read(size) for size in reads))
    read = b"".join(source.read(size) for size in sizes)
    assert read + source.as_file().read() == content
    assert source.received == len(content)


def test_as_a_file_it_has_what_wsgi_requires() -> None:
    file = body(b"one\ntwo\nthree!more", CONTENT_LENGTH="14").as_file()
    assert file.readline() == b"one\n"
    assert file.read(2) == b"tw"
    assert list(file) == [b"o\n", b"three!"]
    assert file.read() == b""
