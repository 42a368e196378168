"""Frames and reactors beside Mercurial's own and hyperframe, in one run.

    python benchmarks/framing.py [seconds per measurement]

Every measurement takes the best of several rounds; the ratios are what counts.  Peers that are not installed are left
out.  "Build" goes from fields to octets, "parse" from octets to frame objects, as a file or buffer holds them.
Mercurial's reactor speaks exp-framing-0006, whose commands are CBOR: ``command + argument`` is the same request in
either, and the second ratio leaves the CBOR out by counting one frame each.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

from hgwire_wsgi.framing import (
    EXP_0002,
    ClientReactor,
    Frame,
    FrameBuffer,
    OutgoingStream,
    SendFrames,
    ServerReactor,
    encode_frame,
    iter_chunks,
    read_frame,
)

try:
    import mercurial.wireprotoframing as hgframing
    from mercurial import ui as hgui
except ImportError:
    hgframing = None
try:
    import hyperframe.frame as hyperframe
except ImportError:
    hyperframe = None

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
SMALL = b"0123456789abcdef"
LARGE = b"x" * 32768


def rate(function: Callable[[], int]) -> float:
    """Units per second; ``function`` does a batch and says how many units it held."""
    best = 0.0
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        start = time.perf_counter()
        count = function()
        best = max(best, count / (time.perf_counter() - start))
    return best


def report(title: str, ours: float, **peers: float) -> None:
    """One line: our rate, and our multiple of each peer's."""
    ratios = "".join(f"   {name} {peer:>11,.0f}/s  x{ours / peer:5.2f}" for name, peer in peers.items())
    print(f"{title:<34} {ours:>11,.0f}/s{ratios}")


# Building.


def build(payload: bytes, count: int) -> Callable[[], int]:
    """Our frames: header and payload leave as chunks, the small ones joined."""

    def run() -> int:
        frames = (Frame(1, 2, 0, 4, 1, payload) for _ in range(count))
        for _chunk in iter_chunks(frames):
            pass
        return count

    return run


def build_joined(payload: bytes, count: int) -> Callable[[], int]:
    """Our frames, each in one piece: what a transport needs that cannot send two."""

    def run() -> int:
        for _ in range(count):
            encode_frame(Frame(1, 2, 0, 4, 1, payload))
        return count

    return run


def build_hg(payload: bytes, count: int) -> Callable[[], int]:
    """Mercurial's ``makeframe``."""

    def run() -> int:
        for _ in range(count):
            hgframing.makeframe(requestid=1, streamid=2, streamflags=0, typeid=4, flags=1, payload=payload)
        return count

    return run


def build_hyper(payload: bytes, count: int) -> Callable[[], int]:
    """An HTTP/2 DATA frame."""

    def run() -> int:
        for _ in range(count):
            hyperframe.DataFrame(1, payload).serialize()
        return count

    return run


# Parsing.


def parse(payload: bytes, count: int, piece: int = 262144) -> Callable[[], int]:
    """Our buffer, fed in pieces that end anywhere in a frame."""
    wire = encode_frame(Frame(1, 1, 0, 3, 1, payload)) * count
    chunks = [wire[start : start + piece] for start in range(0, len(wire), piece)]

    def run() -> int:
        buffer = FrameBuffer()
        seen = 0
        for chunk in chunks:
            buffer.feed(chunk)
            while buffer.next_frame() is not None:
                seen += 1
        return seen

    return run


def parse_64k(payload: bytes, count: int) -> Callable[[], int]:
    """The same in pieces so small that every other large frame lies across two of them."""
    return parse(payload, count, 65536)


def parse_file(payload: bytes, count: int) -> Callable[[], int]:
    """Our reader of files."""
    wire = encode_frame(Frame(1, 1, 0, 3, 1, payload)) * count

    def run() -> int:
        file = io.BytesIO(wire)
        seen = 0
        while read_frame(file) is not None:
            seen += 1
        return seen

    return run


def parse_hg(payload: bytes, count: int) -> Callable[[], int]:
    """Mercurial's ``readframe``."""
    wire = encode_frame(Frame(1, 1, 0, 3, 1, payload)) * count

    def run() -> int:
        file = io.BytesIO(wire)
        seen = 0
        while hgframing.readframe(file) is not None:
            seen += 1
        return seen

    return run


def parse_hyper(payload: bytes, count: int) -> Callable[[], int]:
    """hyperframe, driven as h2 drives it: a view on the buffer for each frame."""
    wire = hyperframe.DataFrame(1, payload).serialize() * count

    def run() -> int:
        view = memoryview(wire)
        offset = seen = 0
        while offset < len(wire):
            frame, length = hyperframe.Frame.parse_frame_header(view[offset : offset + 9])
            frame.parse_body(view[offset + 9 : offset + 9 + length])
            offset += 9 + length
            seen += 1
        return seen

    return run


# Reactors.


def commands(count: int, arguments: dict[bytes, bytes], *, respond: bool) -> Callable[[], int]:
    """Our reactor: from the octets of a command to its ``RunCommand``, and to the octets of its response."""
    client = ClientReactor(EXP_0002)
    _, action = client.send_command(OutgoingStream(1), b"listkeys", arguments)
    first = b"".join(iter_chunks(action.frames))
    rest = first[:6] + b"\0" + first[7:]

    def run() -> int:
        reactor = ServerReactor(EXP_0002)
        output = OutgoingStream(2)
        for wire in [first] + [rest] * (count - 1):
            for _action in reactor.receive_data(wire):
                pass
            if not respond:
                reactor.requests.clear()
                continue
            answer = reactor.send_response(output, 1, SMALL)
            assert isinstance(answer, SendFrames)
            for _chunk in iter_chunks(answer.frames):
                pass
        return count

    return run


def commands_hg(count: int, arguments: dict[bytes, bytes], *, respond: bool) -> Callable[[], int]:
    """Mercurial's reactor, the same way."""
    stream = hgframing.stream(1)
    frames = list(hgframing.createcommandframes(stream, 1, b"listkeys", arguments))
    first = b"".join(bytes(frame) for frame in frames)
    rest = first[:6] + b"\0" + first[7:]
    ui = hgui.ui()

    def run() -> int:
        reactor = hgframing.serverreactor(ui)
        output = reactor.makeoutputstream()
        for wire in [first] + [rest] * (count - 1):
            file = io.BytesIO(wire)
            while (frame := hgframing.readframe(file)) is not None:
                _kind, meta = reactor.onframerecv(frame)
            if not respond:
                reactor._activecommands.clear()
                continue
            _kind, meta = reactor.oncommandresponsereadyobjects(output, 1, iter([SMALL]))
            for _chunk in meta[b"framegen"]:
                pass
        return count

    return run


def upload(size: int, payload: bytes) -> Callable[[], int]:
    """Octets of command data through our reactor."""
    client = ClientReactor(EXP_0002)
    data = (payload for _ in range(size // len(payload)))
    _, action = client.send_command(OutgoingStream(1), b"unbundle", {}, data)
    wire = b"".join(iter_chunks(action.frames))
    chunks = [wire[start : start + 65536] for start in range(0, len(wire), 65536)]

    def run() -> int:
        reactor = ServerReactor(EXP_0002)
        for chunk in chunks:
            for _action in reactor.receive_data(chunk):
                pass
        return size >> 20

    return run


def download(size: int, payload: bytes) -> Callable[[], int]:
    """Octets of a response through our reactor."""
    client = ClientReactor(EXP_0002)
    _, action = client.send_command(OutgoingStream(1), b"getbundle", {})
    wire = b"".join(iter_chunks(action.frames))

    def run() -> int:
        reactor = ServerReactor(EXP_0002)
        list(reactor.receive_data(wire))
        answer = reactor.send_response(OutgoingStream(2), 1, (payload for _ in range(size // len(payload))))
        assert isinstance(answer, SendFrames)
        for _chunk in iter_chunks(answer.frames):
            pass
        return size >> 20

    return run


def main() -> None:
    """Print the table."""
    for title, payload, count in (("16 octets", SMALL, 5000), ("32 KiB", LARGE, 500)):
        for verb, ours, hg, hyper in (
            ("build", build, build_hg, build_hyper),
            ("build, one piece,", build_joined, build_hg, build_hyper),
            ("parse, pushed 256 KiB,", parse, parse_hg, parse_hyper),
            ("parse, pushed 64 KiB,", parse_64k, parse_hg, parse_hyper),
            ("parse, file,", parse_file, parse_hg, None),
        ):
            peers = {}
            if hgframing:
                peers["mercurial"] = rate(hg(payload, count))
            if hyperframe and hyper:
                peers["hyperframe"] = rate(hyper(payload, count))
            report(f"{verb} {title}", rate(ours(payload, count)), **peers)
    for title, arguments in (("command", {}), ("command + argument", {b"namespace": b"bookmarks"})):
        for what, respond in (("received", False), ("and answered", True)):
            peers = {"mercurial": rate(commands_hg(1000, arguments, respond=respond))} if hgframing else {}
            report(f"{title} {what}", rate(commands(1000, arguments, respond=respond)), **peers)
    mib = 64 << 20
    print(f"{'upload through the reactor':<34} {rate(upload(mib, LARGE)):>11,.0f} MiB/s")
    print(f"{'response through the reactor':<34} {rate(download(mib, LARGE)):>11,.0f} MiB/s")


if __name__ == "__main__":
    main()
