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


def test_media_types_and_posted_arguments() -> None:
    assert Capabilities().media_types == ("0.1",)
    assert Capabilities(b"httpmediatype=0.1rx,0.1tx,0.2tx,mintx=0.1").media_types == ("0.1", "0.2")
    assert not Capabilities().post_args
    assert Capabilities(b"httppostargs").post_args


def test_bytes_that_are_no_text() -> None:
    assert dict(Capabilities(b"\xff=\xfe")) == {"\ufffd": "\ufffd"}
