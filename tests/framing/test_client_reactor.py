"""The client's reactor: commands, request IDs, responses and the end."""

from __future__ import annotations

from typing import Any

import pytest
from framing_support import Source, frame, wire

from hgwire_wsgi.errors import BadStream, LocalProtocolError, RemoteProtocolError, TruncatedFrame
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    STREAM_END,
    WANT_FRAME,
    ZLIB,
    Atom,
    ClientReactor,
    Error,
    OutgoingStream,
    ResponseData,
    ResponseError,
    TextOutput,
)


def asking(count: int = 1) -> ClientReactor:
    """A client that has sent some commands."""
    reactor = ClientReactor(EXP_0002)
    stream = OutgoingStream(1)
    for number in range(count):
        request_id, action = reactor.send_command(stream, b"c")
        assert request_id == 2 * number + 1
        assert len(list(action.frames)) == 1
    return reactor


class TestCommands:
    def test_frames(self) -> None:
        reactor = ClientReactor(EXP_0002)
        stream = OutgoingStream(1, ZLIB)
        first, action = reactor.send_command(stream, b"a", {b"k": b"v"})
        second, other = reactor.send_command(stream, b"b", end_stream=True)
        assert (first, second) == (1, 3)
        assert [*action.frames, *other.frames] == [
            frame("1 1 stream-begin stream-settings 0 \\x04zlib"),
            frame("1 1 0 command-name have-args a"),
            frame("1 1 0 command-argument eoa \\x01\\x00\\x01\\x00kv"),
            frame("3 1 stream-end command-name eos b"),
        ]

    @pytest.mark.parametrize("stream_id", [0, 2, 254])
    def test_streams_of_servers(self, stream_id: int) -> None:
        message = f"client should only write to odd numbered streams; {stream_id} is not odd"
        with pytest.raises(LocalProtocolError, match=message):
            ClientReactor(EXP_0002).send_command(OutgoingStream(stream_id), b"c")

    @pytest.mark.parametrize("data", ["text", 5, object()])
    def test_data_that_are_not_bytes(self, data: Any) -> None:
        reactor, stream = ClientReactor(EXP_0002), OutgoingStream(1)
        with pytest.raises(LocalProtocolError, match="the data of a command must be bytes"):
            reactor.send_command(stream, b"c", {}, data)
        assert not reactor.requests
        assert not stream.is_open

    @pytest.mark.parametrize("data", [bytearray(b"ab"), memoryview(b"ab"), [memoryview(b"a"), bytearray(b"b")]])
    def test_any_buffer_is_data(self, data: Any) -> None:
        _, action = ClientReactor(EXP_0002).send_command(OutgoingStream(1), bytearray(b"c"), {}, data)
        assert list(action.frames) == [
            frame("1 1 stream-begin command-name have-data c"),
            frame("1 1 0 command-data eos ab"),
        ]

    def test_pieces_are_only_known_when_the_frames_are_taken(self) -> None:
        source = Source(b"x", "y")  # type: ignore[arg-type]  # that it refuses is what is tested
        _, action = ClientReactor(EXP_0002).send_command(OutgoingStream(1), b"c", {}, source)
        assert next(action.frames).type_id == 1
        with pytest.raises(LocalProtocolError, match="a piece of data must be bytes, not str"):
            next(action.frames)
        assert source.closed

    def test_the_last_frame_ends_the_stream(self) -> None:
        for data in (None, b"", b"x" * 70000, [b"x" * 32768] * 2):
            for profile in (None, ZLIB):
                stream = OutgoingStream(1, profile)
                _, action = ClientReactor(EXP_0002).send_command(stream, b"c", {b"k": b"v"}, data, end_stream=True)
                ends = [bool(item.stream_flags & STREAM_END) for item in action.frames]
                assert ends == [False] * (len(ends) - 1) + [True]

    def test_sources_are_closed(self) -> None:
        reactor = ClientReactor(EXP_0002)
        taken, dropped = (Source(b"x" * 40000, b"y") for _ in range(2))
        _, action = reactor.send_command(OutgoingStream(1), b"a", {}, taken)
        assert [len(item.payload) for item in action.frames] == [1, 32768, 7233]
        assert taken.closed == 1
        _, action = reactor.send_command(OutgoingStream(1), b"a", {}, dropped)
        action.close()
        assert list(action.frames) == []
        assert dropped.closed == 1

    def test_ids_wrap_around_and_skip_those_in_use(self) -> None:
        reactor = ClientReactor(EXP_0002)
        stream = OutgoingStream(1)
        busy, _ = reactor.send_command(stream, b"busy")
        seen = {busy}
        for _ in range(32767):
            request_id, action = reactor.send_command(stream, b"c")
            seen.add(request_id)
            list(action.frames)
        assert seen == set(range(1, 65536, 2))
        with pytest.raises(LocalProtocolError, match="no request ID is free"):
            reactor.send_command(stream, b"c")
        reactor.receive_frame(frame("7 2 stream-begin bytes-response eos x"))
        reactor.receive_frame(frame("3 2 0 bytes-response eos x"))
        assert [reactor.send_command(stream, b"c")[0] for _ in range(2)] == [3, 7]

    def test_id_stays_taken_while_we_send(self) -> None:
        reactor = ClientReactor(EXP_0002)
        _, action = reactor.send_command(OutgoingStream(1), b"c", {}, b"data")
        next(action.frames)
        assert reactor.receive_frame(frame("1 2 1 error-response application no")) == ResponseError(
            1, b"no", "application"
        )
        assert 1 in reactor.requests
        # The server reads on to the end, so we send it.
        assert len(list(action.frames)) == 1
        assert not reactor.requests


@pytest.mark.parametrize(("type_id", "flags"), [(5, 2), (6, 0)])
def test_messages_are_no_longer_than_a_frame(type_id: int, flags: int) -> None:
    for size, good in ((65535, True), (65536, False)):
        reactor, stream = asking(1), OutgoingStream(2, ZLIB)
        assert reactor.receive_frame(EXP_0002.encode_settings(stream, 1)) is WANT_FRAME
        payload = bytes([size - 4 & 0xFF, size - 4 >> 8 & 0xFF, 0, 0]).ljust(size, b"x") if good else bytes(size)
        action = reactor.receive_frame(stream.make_frame(1, type_id, flags, payload, encode=True))
        assert isinstance(action, Error) is not good
        if isinstance(action, Error):
            assert action.message == "a message decodes to more than 65535 bytes"


class TestResponses:
    def test_kinds(self) -> None:
        reactor = asking(3)
        data = wire(
            "1 2 stream-begin text-output 0 \\x02\\x00\\x00\\x01\\x01\\x00%sx",
            "3 2 0 bytes-response continuation ab",
            "1 4 stream-begin|stream-end bytes-response eos ",
            "5 2 0 error-response protocol bad",
            "3 2 stream-end bytes-response eos c",
        )
        assert list(reactor.receive_data(data)) == [
            TextOutput(1, (Atom(b"%s", [b"x"]),)),
            ResponseData(3, b"ab", False),
            ResponseData(1, b"", True),
            ResponseError(5, b"bad", "protocol"),
            ResponseData(3, b"c", True),
        ]
        assert not reactor.requests
        assert reactor.receive_eof() is NOOP

    @pytest.mark.parametrize(
        ("flags", "kind"),
        [("0", ""), ("application", "application"), ("protocol|application|8", "protocol|application")],
    )
    def test_kinds_of_errors(self, flags: str, kind: str) -> None:
        action = asking().receive_frame(frame(f"1 2 1 error-response {flags} m"))
        assert action == ResponseError(1, b"m", kind)

    def test_malformed_text(self) -> None:
        action = asking().receive_frame(frame("1 2 1 text-output 0 \\x02\\x00\\x00\\x00x"))
        assert isinstance(action, Error)
        assert action.message == "malformed text output: partial string"

    def test_streams_of_clients(self) -> None:
        action = asking().receive_frame(frame("1 1 1 bytes-response eos x"))
        assert isinstance(action, Error)
        assert isinstance(action.error, BadStream)
        assert action.message == "received frame with odd numbered stream ID: 1"

    def test_settings_may_come_with_any_request(self) -> None:
        assert asking().receive_frame(frame("0 2 1 stream-settings 0 \\x04zlib")) is WANT_FRAME


class TestEnd:
    def test_missing_responses(self) -> None:
        reactor = asking(3)
        reactor.receive_frame(frame("1 2 1 bytes-response eos x"))
        reactor.receive_frame(frame("3 2 0 bytes-response continuation x"))
        action = reactor.receive_eof()
        assert isinstance(action, Error)
        assert isinstance(action.error, TruncatedFrame)
        assert action.message == "received end of input before the end of the response: request 3"
        assert reactor.receive_eof() is action

    def test_inside_a_frame(self) -> None:
        reactor = asking()
        assert not list(reactor.receive_data(wire("1 2 1 bytes-response eos xyz")[:-1]))
        action = reactor.receive_eof()
        assert isinstance(action, Error)
        assert action.message == "frame length error: expected 3; got 2"

    def test_nothing_follows(self) -> None:
        reactor = asking(0)
        assert reactor.receive_eof() is NOOP
        assert reactor.receive_eof() is NOOP
        with pytest.raises(LocalProtocolError):
            reactor.receive_data(b"x")

    def test_after_an_error(self) -> None:
        reactor = asking()
        action = reactor.fail(RemoteProtocolError("enough"))
        assert list(reactor.receive_data(b"x")) == [action]
        assert reactor.receive_eof() is action
