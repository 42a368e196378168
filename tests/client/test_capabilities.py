"""The capabilities reply, as a client reads it."""

from __future__ import annotations

import pytest

from hgwire_wsgi.client import Capabilities


def test_tokens_and_values() -> None:
    capabilities = Capabilities(b"batch compression=zstd,zlib httpheader=1024 bundle2=a%0Ab%3Dc batch=again\n")
    assert dict(capabilities) == {
        "batch": "",
        "compression": "zstd,zlib",
        "httpheader": "1024",
        "bundle2": "a%0Ab%3Dc",
    }
    assert len(capabilities) == 4
    assert capabilities.words("compression") == ("zstd", "zlib")
    assert capabilities.words("absent") == capabilities.words("batch") == ()
    assert "batch" in repr(capabilities)


@pytest.mark.parametrize(
    ("reply", "length"),
    [
        (b"", 0),
        (b"httpheader=1024", 1024),
        (b"httpheader=8000,1,1024", 8000),
        (b"httpheader", 0),
        (b"httpheader=-1", 0),
        (b"httpheader=\xc2\xb2", 0),
        (b"httpheader=99999999999", 0),
    ],
)
def test_header_length(reply: bytes, length: int) -> None:
    assert Capabilities(reply).max_header_length == length


@pytest.mark.parametrize(
    ("value", "receives", "sends"),
    [
        ("", ("0.1",), ("0.1",)),
        ("0.1rx,0.1tx,0.2tx", ("0.1",), ("0.1", "0.2")),
        ("0.1rx,0.2rx,0.1tx,mintx=0.1", ("0.1", "0.2"), ("0.1",)),
        ("0.2rx,0.1tx,minrx=0.2", ("0.2",), ("0.1",)),
        ("0.1rx,0.2rx,0.1tx,0.2tx,minrx=0.2,mintx=0.2", ("0.2",), ("0.2",)),
        ("0.1rx,0.2rx,0.10rx,0.9tx,0.10tx,minrx=0.10,mintx=0.10", ("0.10",), ("0.10",)),
        ("0.2tx,minrx=0.2", (), ("0.2",)),
        ("0.1rx,0.1tx,minrx=1,mintx=0.3", (), ()),
        ("0.1rx,xrx,minrx=0.1", ("0.1",), ("0.1",)),
        ("0.1rx,minrx=,minrx=high,minrx=\u0663,mintx=" + "9" * 5000, ("0.1",), ("0.1",)),
    ],
)
def test_media_types(value: str, receives: tuple[str, ...], sends: tuple[str, ...]) -> None:
    """``minrx`` and ``mintx`` exclude what is below; what is not a version excludes nothing."""
    capabilities = Capabilities(f"httpmediatype={value}".encode())
    assert (capabilities.receives, capabilities.sends) == (receives, sends)


def test_posted_arguments() -> None:
    assert not Capabilities().post_args
    assert Capabilities(b"httppostargs").post_args


def test_bytes_that_are_no_text() -> None:
    assert dict(Capabilities(b"\xff=\xfe")) == {"\ufffd": "\ufffd"}
