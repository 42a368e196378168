"""Mercurial's exceptions as ours."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import error

from hgwire_wsgi import errors as ours
from hgwire_wsgi.repositories.mercurial.errors import (
    message_of,
    text,
    translated,
    translated_chunks,
    translated_request,
)

CASES: list[tuple[Exception, type[Exception], str]] = [
    (error.LockHeld(0, b"x", b"y", b"z"), ours.RepositoryBusy, "the repository is locked; try again later"),
    (error.LockUnavailable(0, b"x", b"y", b"z"), ours.RepositoryBusy, "the repository is locked; try again later"),
    (error.LookupError(b"\1" * 20, b"i", b"no node"), ours.CommandFailed, f"unknown revision '{'01' * 20}'"),
    (error.LookupError(b"name", b"i", b"no node"), ours.CommandFailed, "unknown revision 'name'"),
    (error.Abort(b"no \xff"), ours.CommandFailed, "no \ufffd"),
    (error.RepoError(b"broken"), ours.CommandFailed, "broken"),
    (error.BundleValueError(b"bad part"), ours.CommandFailed, "bad part"),
    (zlib.error("x"), ours.CommandFailed, "the bundle is corrupt"),
    (EOFError(), ours.CommandFailed, "the bundle is corrupt"),
    (ours.BodyTruncated("cut"), ours.BodyTruncated, "cut"),
    (ValueError("x"), ours.InvalidArgument, "cmd: malformed arguments"),
    (KeyError("x"), ours.InvalidArgument, "cmd: malformed arguments"),
    (error.ProgrammingError(b"x"), ours.InvalidArgument, "cmd: malformed arguments"),
    (ZeroDivisionError("x"), ZeroDivisionError, "x"),
]


@pytest.mark.parametrize(("raised", "expected", "message"), CASES)
def test_translation(raised: Exception, expected: type[Exception], message: str) -> None:
    reported: list[str] = []
    with pytest.raises(expected) as caught, translated_request("cmd", reported.append):
        raise raised
    assert str(caught.value) == message and reported == []


@pytest.mark.parametrize("raised", [ours.BodyTruncated("cut"), ZeroDivisionError("x"), ValueError("x")])
def test_outside_of_a_command_others_pass_as_they_are(raised: Exception) -> None:
    with pytest.raises(type(raised)) as caught, translated(lambda message: None):
        raise raised
    assert caught.value is raised


def test_a_lookup_error_may_have_text_for_a_name() -> None:
    failure = error.LookupError(b"x", b"i", b"m")
    failure.name = "text"
    with pytest.raises(ours.CommandFailed, match="unknown revision 'text'"), translated_request("cmd", print):
        raise failure


def test_configuration_is_reported() -> None:
    reported: list[str] = []
    with pytest.raises(ours.RepositoryUnusable), translated_request("cmd", reported.append):
        raise error.ConfigError(b"bad line", b"/hgrc:3")
    assert reported == ["/hgrc:3: bad line"]


def test_a_request_without_arguments_is_not_blamed() -> None:
    with pytest.raises(KeyError), translated_request("cmd", print, has_arguments=False):
        raise KeyError("x")


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ValueError("text"), "text"),
        (ValueError(b"bytes"), "bytes"),
        (ValueError(), "ValueError"),
        (KeyError(), "KeyError"),
    ],
)
def test_messages(failure: Exception, message: str) -> None:
    assert message_of(failure) == message


def test_bytes_of_mercurial_are_text_that_can_be_written_back() -> None:
    assert text("ä".encode() + b"\xff").encode("utf-8", "surrogateescape") == "ä".encode() + b"\xff"


def test_streams_are_translated() -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"1234", b"5678")
        raise error.Abort(b"late")

    seen: list[bytes] = []
    with pytest.raises(ours.CommandFailed, match="late"):
        for chunk in translated_chunks(chunks(), print):
            seen.append(chunk)
    assert seen == [b"1234", b"5678"]
    assert list(translated_chunks([b"all"], print)) == [b"all"]
