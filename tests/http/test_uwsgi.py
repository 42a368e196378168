from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hgwire_wsgi.http.body import RequestBody
from hgwire_wsgi.http.uwsgi import ChunkedInput, chunked_input, disconnect, thread_count
from hgwire_wsgi.limits import Limits


def test_chunks_are_read_as_a_file() -> None:
    chunks = iter([b"abc", b"defg", b""])
    source = ChunkedInput(lambda: next(chunks))
    assert [source.read(2) for _ in range(6)] == [b"ab", b"c", b"de", b"fg", b"", b""]


def test_only_inside_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chunked_input({}) is None
    monkeypatch.setitem(sys.modules, "uwsgi", None)
    assert chunked_input({"uwsgi.version": b"2.0"}) is None


def test_a_folder_with_its_name_is_not_uwsgi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "uwsgi").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "uwsgi", raising=False)
    try:
        assert thread_count() is None
        assert not disconnect()
    finally:
        sys.modules.pop("uwsgi", None)


def test_a_chunked_body_under_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = iter([b"one", b"two", b""])
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(chunked_read=lambda: next(chunks)))
    body = RequestBody({"uwsgi.version": b"2.0", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": None}, Limits())
    assert body.read(100) == b"one"
    assert body.drain(100)
    assert body.read(1) == b""


@pytest.mark.parametrize(("options", "count"), [({"threads": b"16"}, 16), ({}, 1), ({"threads": True}, 1)])
def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch, options: dict[str, object], count: int) -> None:
    assert thread_count() is None
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))
    assert thread_count() == count


def test_the_connection_is_closed_by_uwsgi(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disconnect()
    calls: list[None] = []
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(disconnect=lambda: calls.append(None)))
    assert disconnect()
    assert calls == [None]
