"""Responses as frames."""

from __future__ import annotations

from typing import Any

import pytest
from v2_support import Answer, Reply, ask, chunks, commands, make_app, one, registry
from v2_support import send as begin

from hgwire_wsgi import (
    BytesResponse,
    LegacyStreamResponse,
    Limits,
    OutOfBandError,
    PushError,
    PushResponse,
    StreamResponse,
)
from hgwire_wsgi.commands.responses import RESPONSE_TYPES
from hgwire_wsgi.http.v2.renderers import RENDERERS


def test_renderers_are_complete() -> None:
    assert set(RENDERERS) == set(RESPONSE_TYPES)


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        (b"plain", Reply(b"plain", ended=True)),
        (BytesResponse(b""), Reply(b"", ended=True)),
        (BytesResponse(b"x" * 70000), Reply(b"x" * 70000, ended=True)),
        (StreamResponse([b"one", b"", b"two"]), Reply(b"onetwo", ended=True)),
        (StreamResponse([]), Reply(b"", ended=True)),
        (StreamResponse([bytearray(b"x"), memoryview(b"y" * 40000)]), Reply(b"x" + b"y" * 40000, ended=True)),
        (LegacyStreamResponse(list(chunks(100))), Reply(b"".join(chunks(100)), ended=True)),
        (PushResponse(3, b"said\n"), Reply(b"3\nsaid\n", ended=True)),
        (PushError(b"raced"), Reply(error=b"raced", kind="application", ended=True)),
        (PushError(b"raced", b"said\n"), Reply(b"", b"raced", "application", b"said\n", True)),
        (OutOfBandError(b"too old\n"), Reply(error=b"too old\n", kind="application", ended=True)),
    ],
)
def test_every_response_as_frames(response: Any, reply: Reply) -> None:
    assert one(response) == reply


@pytest.mark.parametrize(
    "output", [b"line\n" * 20_000, b"x" * 100_000, "ä€𝄞".encode() * 20_000, b"\xff" * 40_000, b"\n" * 70_000]
)
def test_long_output_goes_into_several_frames(output: bytes) -> None:
    answer = ask(make_app(registry(x=PushError(b"no", output))), "ro/x", commands("x"))
    assert answer.replies[1].output == output.decode("utf-8", "replace").encode()
    texts = [each.payload for each in answer.frames if each.type_id == 6]
    assert len(texts) > 1
    assert max(map(len, texts)) <= 32768


def test_frames_too_small_for_text() -> None:
    """Bounds that leave no room for a character are the host's fault, and nothing to try for ever."""
    output = "\u20ac\u20ac".encode()
    app = make_app(registry(x=PushError(b"no", output=output)), limits=Limits(frame_payload=8))
    assert ask(app, "ro/x", commands("x")).text == (500, "internal server error\n")
    assert one(PushError(b"no", output=output), limits=Limits(frame_payload=12)).output == output


def test_frames_obey_a_lower_limit() -> None:
    limits = Limits(frame_payload=1000)
    answer = ask(
        make_app(registry(x=lambda: StreamResponse(chunks(9)), y=PushError(b"n" * 2000, b"o" * 5000)), limits=limits),
        "ro/multirequest",
        commands("x", "y"),
    )
    assert max(len(each.payload) for each in answer.frames) == 1000
    assert answer.replies[1].data == b"".join(chunks(9))
    assert answer.replies[3] == Reply(b"", b"n" * 1000, "application", b"o" * 5000, True)


def test_a_body_is_made_of_whole_frames_and_a_response_is_sent_at_once() -> None:
    app = make_app(registry(x=lambda: StreamResponse(chunks(200)), y=b"y"))
    exchange = begin(app, "ro/multirequest", commands("y", "x", "y"))
    pieces = list(exchange.response)
    exchange.close()
    assert [len(Answer(exchange, piece).frames) for piece in pieces] == [1, 2, 2, 2, 1, 1]
    assert len(pieces[1]) == 2 * (8 + 32768)
