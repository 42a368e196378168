"""Responses as frames."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from v2_support import Answer, Reply, Source, ask, chunks, commands, make_app, one, registry
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
from hgwire_wsgi.errors import CommandFailed, HgWireError, LimitExceeded, RepositoryBusy
from hgwire_wsgi.framing import (
    EXP_0002,
    HEADER_SIZE,
    STREAM_ENCODED,
    STREAM_END,
    ZLIB,
    Frame,
    OutgoingStream,
    Revision,
    ServerReactor,
    encode_frame,
)
from hgwire_wsgi.http.v2.renderers import RENDERERS, Framed, FramedStream, join_frames, send_framed


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


# The parts.


def running(revision: Revision = EXP_0002) -> ServerReactor:
    """A reactor with a command to be answered."""
    reactor = ServerReactor(revision)
    list(reactor.receive_data(commands("x")))
    return reactor


def sent(framed: Framed, revision: Revision = EXP_0002, **options: Any) -> list[Frame]:
    stream = OutgoingStream(2, **options)
    actions = send_framed(running(revision), stream, 1, framed, end_stream=True)
    return [each for action in actions for each in action.frames]


def test_the_last_frame_ends_the_stream() -> None:
    for framed in (Framed(b""), Framed(b"x" * 70_000), Framed(error="no"), Framed(error=b"no", output=b"text\n")):
        flags = [each.stream_flags for each in sent(framed)]
        assert [bool(each & STREAM_END) for each in flags] == [False] * (len(flags) - 1) + [True]


def test_data_that_do_not_shrink_are_not_encoded() -> None:
    for framed, encoded in ((Framed(b"x"), 1), (Framed(b"x", encode=False), 0)):
        frames = sent(framed, profile=ZLIB)
        assert sum(bool(each.stream_flags & STREAM_ENCODED) for each in frames) == encoded
        assert len(frames) == 2


def test_a_revision_without_text_output() -> None:
    revision = attrs.evolve(EXP_0002, encode_text=None)
    (error,) = sent(Framed(error=b"no", output=b"said\n"), revision)
    assert error.payload == b"no\nsaid\n"
    (error,) = sent(Framed(error="no"), revision)
    assert error.payload == b"no"


def test_failures_and_who_caused_them() -> None:
    assert Framed.failure(CommandFailed("no")) == Framed(error="no", kind="application")
    assert Framed.failure(LimitExceeded("no")) == Framed(error="no", kind="protocol")
    assert Framed.failure(RepositoryBusy("no")) == Framed(error="no", kind="server")
    assert Framed.failure(RuntimeError("secret")) == Framed(error="internal server error", kind="server")


def test_what_the_client_was_told() -> None:
    assert Framed(b"x").told == ("", "")
    assert Framed(error="no").told == ("application", "no")
    assert Framed(error=b"\xff", kind="server").told == ("server", "\ufffd")
    stream = FramedStream([b"x"])
    assert list(stream) == [b"x"]
    assert Framed(stream).told == ("", "")


def test_a_stream_that_fails() -> None:
    source = Source(b"x", RuntimeError("secret"))
    stream = FramedStream(source)
    framed = Framed(stream)
    assert next(stream) == b"x"
    with pytest.raises(HgWireError, match="internal server error"):
        next(stream)
    assert framed.told == ("server", "internal server error")
    framed.close()
    assert source.closed


def test_chunks_are_whole_frames() -> None:
    frames = sent(Framed(b"x" * 100_000))
    limits = Limits(chunk=40_000)
    chunks = list(join_frames(frames, limits))
    assert [len(each) for each in chunks] == [2 * (HEADER_SIZE + 32768), 2 * HEADER_SIZE + 32768 + 1696]
    assert list(join_frames(sent(Framed(b"x" * 32768)), Limits(chunk=1))) == [b"".join(map(encode_frame, frames_of(1)))]
    assert list(join_frames([], limits)) == []


def frames_of(count: int) -> list[Frame]:
    return sent(Framed(b"x" * 32768 * count))
