"""Responses are inert values, and every table of renderers knows all of them."""

from __future__ import annotations

from typing import Any, get_args

import attrs
import pytest

from hgwire_wsgi.commands.responses import (
    RESPONSE_TYPES,
    BytesResponse,
    OutOfBandError,
    PushError,
    PushResponse,
    Response,
    StreamResponse,
    short_reply,
)
from hgwire_wsgi.commands.standard import STANDARD_COMMANDS
from hgwire_wsgi.http.v1 import renderers as v1
from hgwire_wsgi.http.v2 import renderers as v2


def test_types_are_those_of_the_union() -> None:
    assert set(RESPONSE_TYPES) == set(get_args(Response))


@pytest.mark.parametrize("each", RESPONSE_TYPES)
def test_inert(each: type) -> None:
    assert attrs.has(each)
    response = each(*[b"" for field in attrs.fields(each) if field.default is attrs.NOTHING])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(response, attrs.fields(each)[0].name, b"other")


@pytest.mark.parametrize("transport", [v1, v2])
def test_renderers_are_complete(transport: Any) -> None:
    assert set(transport.RENDERERS) == set(RESPONSE_TYPES)


def test_short_replies() -> None:
    """Streams are not for batches, and a refusal replaces the batch."""
    assert short_reply(BytesResponse(b"data")) == b"data"
    assert short_reply(PushResponse(2, b"said")) == b"2\nsaid"
    assert short_reply(PushError(b"raced")) == b"0\nraced\n"
    assert short_reply(StreamResponse([])) is short_reply(OutOfBandError(b"no")) is None


def test_standard_streams_are_declared_as_such() -> None:
    replies = {command.name: command.reply for command in STANDARD_COMMANDS}
    streams = {"changegroup", "changegroupsubset", "get_cached_bundle_inline", "getbundle", "stream_out"}
    assert {name for name, reply in replies.items() if reply not in ("bytes", "push")} == streams
    assert {name for name, reply in replies.items() if reply == "push"} == {"unbundle"}
