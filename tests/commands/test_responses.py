"""Responses are inert values, and every table of renderers knows all of them."""

from __future__ import annotations

from typing import get_args

import attrs
import pytest

from hgwire_wsgi.commands.responses import RESPONSE_TYPES, OutOfBandError, Response
from hgwire_wsgi.commands.standard import BATCH_RENDERERS, STANDARD_COMMANDS
from hgwire_wsgi.http.render import RENDERERS


def test_types_are_those_of_the_union() -> None:
    assert set(RESPONSE_TYPES) == set(get_args(Response))


@pytest.mark.parametrize("each", RESPONSE_TYPES)
def test_inert(each: type) -> None:
    assert attrs.has(each)
    response = each(*[b"" for field in attrs.fields(each) if field.default is attrs.NOTHING])
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(response, attrs.fields(each)[0].name, b"other")


def test_renderers_of_version_1_are_complete() -> None:
    assert set(RENDERERS) == set(RESPONSE_TYPES)


def test_renderers_of_batch_are_complete() -> None:
    """Streams are not for batches, and an error replaces the batch."""
    streams = {each for each in RESPONSE_TYPES if "chunks" in attrs.fields_dict(each)}
    assert set(BATCH_RENDERERS) == set(RESPONSE_TYPES) - streams - {OutOfBandError}


def test_standard_streams_are_declared_as_such() -> None:
    replies = {command.name: command.reply for command in STANDARD_COMMANDS}
    streams = {"changegroup", "changegroupsubset", "get_cached_bundle_inline", "getbundle", "stream_out"}
    assert {name for name, reply in replies.items() if reply not in ("bytes", "push")} == streams
    assert {name for name, reply in replies.items() if reply == "push"} == {"unbundle"}
