"""Fuzz targets of the frame-based protocol, in the manner of atheris: a function of bytes each.

Each allows only the errors that are documented for what it calls; anything else is a finding.  ``test_fuzz_framing``
runs them briefly: with hypothesis, with the recorded vectors, and with ``corpus/``, which keeps every input that found
something.  For longer runs, without or with atheris::

    python tests/fuzz/fuzz_framing.py SECONDS [SEED]
    python -c 'import atheris, fuzz_framing; atheris.Setup([""], fuzz_framing.fuzz_server); atheris.Fuzz()'
"""

from __future__ import annotations

import io
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hgwire_wsgi.errors import FrameTooLarge, LocalProtocolError, RemoteProtocolError, TruncatedFrame
from hgwire_wsgi.framing import (
    EXP_0002,
    NOOP,
    PROFILES,
    WANT_FRAME,
    Action,
    Atom,
    BufferedCommands,
    ClientReactor,
    CommandData,
    Error,
    Frame,
    FrameBuffer,
    OutgoingStream,
    Request,
    ResponseData,
    ResponseError,
    RunCommand,
    SendFrames,
    ServerReactor,
    TextOutput,
    decode_atoms,
    encode_atoms,
    encode_frame,
    explain,
    format_frame,
    iter_chunks,
    pack_header,
    parse_frame,
    parse_header,
    read_frame,
)
from hgwire_wsgi.limits import Limits

CORPUS = Path(__file__).parent / "corpus"

# Small, so that random input meets them.
LIMITS = Limits(
    frame_payload=200,
    frame_decoded=2000,
    command_name=20,
    command_arguments=3,
    command_argument_bytes=300,
    open_requests=4,
    open_streams=3,
    encoded_streams=2,
    command_data=500,
)


def fuzz_header(data: bytes) -> None:
    """Header and explanation: any eight bytes are a header, fewer a ``ValueError``."""
    assert all(line.isprintable() for line in explain(data, EXP_0002).split("\n"))
    try:
        header = parse_header(data)
    except ValueError:
        assert len(data) < 8
        return
    assert 0 <= header.length < 1 << 24
    packed = pack_header(
        header.length, header.request_id, header.stream_id, header.stream_flags, header.type_id, header.flags
    )
    assert packed == data[:8]


def fuzz_human(data: bytes) -> None:
    """A line of the notation: a frame or a ``ValueError``, and frames come back."""
    try:
        frame = parse_frame(data, EXP_0002)
    except ValueError:
        return
    assert parse_frame(format_frame(frame, EXP_0002), EXP_0002) == frame
    encode_frame(frame, Limits(frame_payload=1 << 24))


def pieces_of(data: bytes) -> Iterator[bytes]:
    """The bytes after the first, in pieces whose size depends on that."""
    size = data[0] + 1 if data else 1
    for start in range(1, len(data), size):
        yield data[start : start + size]


def fuzz_frame_buffer(data: bytes) -> None:
    """Buffer and file reader agree, and give frames, ``FrameTooLarge`` or ``TruncatedFrame``."""
    buffer = FrameBuffer(LIMITS)
    pushed: list[object] = []
    try:
        for piece in pieces_of(data):
            buffer.feed(piece)
            pushed += buffer
        buffer.end()
    except (FrameTooLarge, TruncatedFrame) as error:
        pushed.append(type(error))
    file = io.BytesIO(data[1:])
    read: list[object] = []
    try:
        while (frame := read_frame(file, LIMITS)) is not None:
            read.append(frame)
    except (FrameTooLarge, TruncatedFrame) as error:
        read.append(type(error))
    assert pushed == read
    frames = [frame for frame in pushed if isinstance(frame, Frame)]
    assert b"".join(map(encode_frame, frames)) == data[1 : 1 + sum(8 + len(frame.payload) for frame in frames)]


def outcome(action: Action) -> object:
    """An action, comparable."""
    return action.message if isinstance(action, Error) else action


def fuzz_server(data: bytes) -> None:
    """A server's reactor: actions only, the same for any pieces; the terminal error stays, and can be sent."""
    defer = bool(data and data[0] & 1)
    whole = run_server(ServerReactor(EXP_0002, LIMITS, defer_output=defer), [data[1:]])
    assert run_server(ServerReactor(EXP_0002, LIMITS, defer_output=defer), pieces_of(data)) == whole
    buffered = BufferedCommands(ServerReactor(EXP_0002, LIMITS))
    for action in (*buffered.receive_data(data[1:]), buffered.receive_eof()):
        assert not isinstance(action, CommandData)
        assert not isinstance(action, RunCommand) or action.has_data == (action.data is not None)


def run_server(reactor: ServerReactor, pieces: Iterator[bytes] | list[bytes]) -> list[object]:
    """Feed a reactor, answer every command at once, and check what it keeps."""
    outcomes: list[object] = []
    stream = OutgoingStream(2)
    for piece in pieces:
        for action in reactor.receive_data(piece):
            if reactor.failure is not None and outcomes and isinstance(outcomes[-1], str):
                assert action is reactor.failure
                continue
            outcomes.append(outcome(action))
            assert action is WANT_FRAME or isinstance(action, RunCommand | CommandData | Error)
            if isinstance(action, RunCommand) and len(action.name) % 2:
                answer = reactor.send_response(
                    stream, action.request_id, action.name, end_stream=len(action.name) % 4 == 3
                )
                if isinstance(answer, SendFrames):
                    outcomes += answer.frames
            assert len(reactor.requests) <= LIMITS.open_requests
            assert len(reactor.incoming.open) <= LIMITS.open_streams
            assert sum(request.held for request in reactor.requests.values() if not request.running) <= 300 + 200
    end = reactor.receive_eof()
    outcomes.append(list(end.frames) if isinstance(end, SendFrames) else outcome(end))
    if reactor.failure is not None:
        assert reactor.receive_eof() is reactor.failure
        outcomes.append(check_failure(reactor, stream))
    return outcomes


def check_failure(reactor: ServerReactor, stream: OutgoingStream) -> list[Frame]:
    """Send the terminal error, and read it: what waits for an answer and gets none is complete and runs."""
    failure = reactor.send_failure(stream, end_stream=True)
    frames = list(failure.frames) if isinstance(failure, SendFrames) else []
    assert all((request.running and request.complete) or request.answered for request in reactor.requests.values())
    assert all(len(frame.payload) <= stream.frame_size for frame in frames)
    assert reactor.send_failure(stream) is NOOP
    client = ClientReactor(EXP_0002)
    client.incoming.accept(Frame(1, 2, 1, 4, 1, b""))
    for frame in frames:
        client.requests.setdefault(frame.request_id, Request(frame.request_id, EXP_0002.client_waiting, sent=True))
        assert isinstance(client.receive_frame(frame), ResponseData | ResponseError)
    return frames


def fuzz_client(data: bytes) -> None:
    """A client's reactor that waits for two responses, likewise."""

    def run(pieces: Iterator[bytes] | list[bytes]) -> list[object]:
        reactor = ClientReactor(EXP_0002, LIMITS)
        stream = OutgoingStream(1)
        for number in range(2):
            for _frame in reactor.send_command(stream, b"c", end_stream=number == 1)[1].frames:
                pass
        outcomes: list[object] = []
        for piece in pieces:
            if reactor.failure is not None:
                assert list(reactor.receive_data(piece)) == [reactor.failure]
                continue
            for action in reactor.receive_data(piece):
                assert action is WANT_FRAME or isinstance(action, ResponseData | ResponseError | TextOutput | Error)
                outcomes.append(outcome(action))
        outcomes.append(outcome(reactor.receive_eof()))
        return outcomes

    assert run(pieces_of(data)) == run([data[1:]])


def fuzz_exchange(data: bytes) -> None:
    """Both reactors: what one sends, the other receives, in streams that end with their last frame."""
    profile = [None, *PROFILES.values()][data[0] % 4] if data else None
    pieces = list(pieces_of(data[1:]))
    client, server = ClientReactor(EXP_0002), ServerReactor(EXP_0002)
    size = data[1] % 40 + 100 if len(data) > 1 else 1
    upstream = OutgoingStream(1, profile, frame_size=size)
    downstream = OutgoingStream(2, profile, frame_size=size)
    calls = [client.send_command(upstream, b"c", {}, iter(pieces), end_stream=last) for last in (False, True)]
    received: dict[int, bytes] = {}
    for request_id, command in calls:
        for frame in command.frames:
            action = server.receive_frame(frame)
            assert not isinstance(action, Error)
            if isinstance(action, CommandData):
                received[request_id] = received.get(request_id, b"") + action.data
    assert not server.incoming.open
    for request_id, _ in calls:
        response = server.send_response(downstream, request_id, iter(pieces), end_stream=request_id == calls[-1][0])
        assert isinstance(response, SendFrames)
        for frame in response.frames:
            action = client.receive_frame(frame)
            assert not isinstance(action, Error)
            if isinstance(action, ResponseData):
                received[request_id] += action.data
    assert not client.incoming.open
    assert client.receive_eof() is server.receive_eof() is NOOP
    assert set(received.values()) == {b"".join(pieces) * 2}


def fuzz_text_output(data: bytes) -> None:
    """Text output: atoms or ``RemoteProtocolError``, and atoms that encode come back."""
    try:
        atoms = decode_atoms(data)
    except RemoteProtocolError:
        return
    for atom in atoms:
        atom.render()
    try:
        again = encode_atoms(atoms, len(data))
    except LocalProtocolError:
        # What a peer sends need not be UTF-8 and ASCII, and grows when it is replaced.
        assert not all(well_formed(atom) for atom in atoms)
        return
    assert again == data or not all(well_formed(atom) for atom in atoms)


def fuzz_error_message(data: bytes) -> None:
    """The message of an error, at a frame size that the first byte gives: its beginning, no character cut in two."""
    size, message = data[0] % 16 + 1 if data else 1, data[1:]
    stream, request = OutgoingStream(2, frame_size=size), Request(1, "running")
    (frame,) = EXP_0002.encode_error(stream, request, message, "application", True)
    cut = frame.payload
    assert message.startswith(cut)
    assert len(cut) <= size
    assert len(message) <= size or len(cut) >= size - 3


def well_formed(atom: Atom) -> bool:
    """Whether all is text as the specification wants it."""
    try:
        for text in (atom.formatting, *atom.arguments):
            text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(label.isascii() for label in atom.labels)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": fuzz_header,
    "human": fuzz_human,
    "frame_buffer": fuzz_frame_buffer,
    "server": fuzz_server,
    "client": fuzz_client,
    "exchange": fuzz_exchange,
    "text_output": fuzz_text_output,
    "error_message": fuzz_error_message,
}


# Input that gets further than noise does.


def some_frames(rng: random.Random, *, server: bool) -> bytes:
    """Frames that are often right, with faults in them."""
    parity = int(not server)
    streams = {
        number: OutgoingStream(number, rng.choice([None, *PROFILES.values()])) for number in (parity + 2, 4 - parity)
    }
    payloads = (
        b"",
        b"c",
        b"name",
        b"\1\0\1\0kv",
        b"\1\0\4\0kv",
        b"\3\0\2\0keyvv",
        b"\3\0\0\0txt",
        b"\1\0\1\1\1\1\0fla",
    )
    frames = []
    for _ in range(rng.randrange(1, 12)):
        stream = rng.choice(list(streams.values()))
        request_id = rng.choice((1, 1, 1, 3, 3, 5, 7, 9, 2))
        if stream.must_announce and stream.profile and rng.random() < 0.9:
            name = stream.profile.name.encode()
            frames.append(stream.make_frame(request_id, 8, 0, bytes([len(name)]) + name))
        payload = rng.choice(payloads) if rng.random() < 0.9 else rng.randbytes(rng.randrange(220))
        frame = stream.make_frame(
            request_id,
            rng.choice((1, 1, 2, 2, 3, 3) if parity else (4, 4, 4, 5, 6)),
            rng.choice((1, 2, 2, 4, 6, rng.randrange(16))),
            payload,
            encode=stream.is_open and stream.profile is not None and rng.random() < 0.5,
            end=rng.random() < 0.1,
        )
        if rng.random() < 0.05:
            frame.stream_flags ^= 1 << rng.randrange(8)
        if rng.random() < 0.05:
            frame.type_id = rng.randrange(16)
        frames.append(frame)
    return b"".join(iter_chunks(frames))


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, dropped or put in."""
    raw_bytes = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        place = rng.randrange(len(raw_bytes) + 1)
        raw_bytes[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(raw_bytes)


def some_input(rng: random.Random, target: str) -> bytes:
    """One input for a target."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(120))
    if target == "human":
        frame = Frame(
            rng.getrandbits(16), rng.getrandbits(8), rng.getrandbits(8), rng.getrandbits(4), 0, rng.randbytes(9)
        )
        return mutated(rng, format_frame(frame, EXP_0002).encode())
    if target == "text_output":
        count = rng.randrange(4)
        return mutated(
            rng, encode_atoms([Atom(b"f%s", [b"x" * rng.randrange(9)] * count, [b"l"] * count)] * count, 999)
        )
    if target == "error_message":
        text = "".join(rng.choice("a\u00e9\u20ac\U0001f40d") for _ in range(rng.randrange(9)))
        return mutated(rng, rng.randbytes(1) + text.encode())
    return mutated(rng, rng.randbytes(1) + some_frames(rng, server=target == "client"))


def main() -> None:
    """Fuzz all targets in turn; a finding is written to the corpus, and raised."""
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().getrandbits(64)
    rng = random.Random(seed)
    until = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < until:
        for target, function in TARGETS.items():
            for _ in range(50):
                data = some_input(rng, target)
                try:
                    function(data)
                except BaseException:
                    CORPUS.mkdir(exist_ok=True)
                    (CORPUS / f"{target}-{seed}-{runs}").write_bytes(data)
                    print(f"{target}: {data!r}")
                    raise
                runs += 1
    print(f"seed {seed}: {runs} inputs, nothing found")


if __name__ == "__main__":
    main()
