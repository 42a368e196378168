"""Frames read on demand, and the data of commands."""

from __future__ import annotations

import io

import pytest
from v2_support import command, commands, frame

from hgwire_wsgi import Limits
from hgwire_wsgi.errors import (
    BodyTooLarge,
    BodyTruncated,
    HgWireError,
    LimitExceeded,
    RequestError,
    TruncatedFrame,
    UnexpectedFrame,
)
from hgwire_wsgi.framing import EXP_0002, CommandData, RunCommand
from hgwire_wsgi.http.v2.api import PlainRefusal
from hgwire_wsgi.http.v2.input import CommandBody, FrameInput, Spool

PUT = RunCommand(1, b"put", {}, has_data=True)


def reading(body: bytes, limits: Limits | None = None) -> FrameInput:
    return FrameInput(io.BytesIO(body), EXP_0002, limits or Limits())


def begun(body: bytes) -> FrameInput:
    """The frames after those of the first command."""
    frames = reading(body)
    assert frames.next() == PUT
    return frames


def test_commands_and_data_in_their_order() -> None:
    frames = reading(commands("heads", ("put", {}, b"data"), ("known", {b"nodes": b"", b"x": b"y"})))
    assert [frames.next() for _ in range(5)] == [
        RunCommand(1, b"heads", {}),
        RunCommand(3, b"put", {}, has_data=True),
        CommandData(3, b"data", True),
        RunCommand(5, b"known", {b"nodes": b"", b"x": b"y"}),
        None,
    ]
    assert frames.next() is None


def test_no_more_is_read_than_is_asked_for() -> None:
    body = io.BytesIO(command(1, "put", data=b"x" * 300_000))
    frames = FrameInput(body, EXP_0002, Limits())
    assert body.tell() == 0
    assert frames.next() == PUT
    assert body.tell() == 65536


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (frame("1 1 stream-begin command-data eos x"), UnexpectedFrame),
        (frame("1 1 stream-begin command-name have-data put"), TruncatedFrame),
        (b"\0", TruncatedFrame),
    ],
)
def test_an_error_is_final(body: bytes, error: type[HgWireError]) -> None:
    frames = reading(body)
    for _ in range(3):
        with pytest.raises(error):
            while frames.next() is not None:
                pass


def test_a_body_that_cannot_be_read() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise BodyTruncated("gone")

    frames = FrameInput(Broken(), EXP_0002, Limits())
    for _ in range(2):
        with pytest.raises(RequestError, match="gone"):
            frames.next()


def test_another_command_where_only_data_may_come() -> None:
    frames = begun(commands(("put", {}, b"data"), "heads"))
    assert frames.data() == CommandData(1, b"data", True)
    for _ in range(2):
        with pytest.raises(PlainRefusal, match="multiple commands"):
            frames.data()


def test_finish() -> None:
    frames = begun(command(1, "put", data=b""))
    assert CommandBody(frames).read(1) == b""
    frames.finish(0)
    assert CommandBody(frames).read(1) == b""


@pytest.mark.parametrize("limit", [10, 1_000_000])
def test_data_that_finish_dropped_are_missed(limit: int) -> None:
    frames = begun(command(1, "put", data=b"x" * 100_000))
    frames.finish(limit)
    with pytest.raises(BodyTruncated, match="the rest of the request body was dropped"):
        CommandBody(frames).read(1)


@pytest.mark.parametrize("size", [1, 7, 40_000, 200_000])
def test_a_command_body_in_any_pieces(size: int) -> None:
    data = bytes(range(256)) * 400
    body = CommandBody(begun(command(1, "put", data=data)))
    pieces = list(iter(lambda: body.read(size), b""))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= size
    assert body.read(0) == body.read(1) == b""


def test_reading_nothing() -> None:
    body = CommandBody(begun(command(1, "put", data=b"data")))
    assert [body.read(size) for size in (0, -1, 4)] == [b"", b"", b"data"]


@pytest.mark.parametrize("memory", [1, 1000])
def test_spool(memory: int) -> None:
    spool = Spool(Limits(spool=10, spool_memory=memory, spooled_commands=2))
    one, three = spool.open(1), spool.open(3)
    spool.write(1, b"on")
    spool.write(3, b"three")
    spool.write(5, b"of a command that does not read it")
    spool.write(1, b"e")
    spool.rewind()
    assert (one.read(), three.read()) == (b"one", b"three")
    with pytest.raises(LimitExceeded, match="more than 2 commands of one request have data"):
        spool.open(5)
    with pytest.raises(BodyTooLarge, match="exceed 10 bytes"):
        spool.write(1, b"xyz")
    spool.close()
    assert (one.closed, three.closed) == (True, True)
