"""Frames and reactors beside Mercurial's own and hyperframe, in one run.

    python benchmarks/framing.py [--only TEXT] [seconds per measurement]

The functions that a line compares take turns, and the best turn of each counts, so other load on the machine affects
all of them alike.  Turns are short, so that the slower functions also have undisturbed ones.  Look at the ratios.
Peers that are not installed are left out.

"Build" goes from fields to bytes, "parse" from bytes to frame objects.  Mercurial and hyperframe always have all bytes
at once; ours gets them in pieces of the stated size.  Mercurial's reactor speaks exp-framing-0006, where a command is
one frame of CBOR; in exp-framing-0002 each argument is one more frame.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from typing import TypeAlias

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

Batch: TypeAlias = Callable[[], int]
"""Does some work and returns the number of units."""

SMALL = b"0123456789abcdef"
LARGE = b"x" * 32768


class Table:
    """Measures and prints.

    Args:
        seconds: how long each function is measured.
        only: what a line's title must contain.
    """

    def __init__(self, seconds: float, only: str) -> None:
        self._seconds = seconds
        self._only = only

    def line(self, title: str, ours: Batch, unit: str = "", **peers: Batch) -> None:
        """Print our rate, those of the peers, and the ratios."""
        if self._only not in title:
            return
        rate, *others = self._rates(ours, *peers.values())
        ratios = "".join(
            f"   {name} {other:>11,.0f}/s  x{rate / other:5.2f}" for name, other in zip(peers, others, strict=True)
        )
        print(f"{title:<34} {rate:>11,.0f}{unit}/s{ratios}")

    def _rates(self, *batches: Batch) -> list[float]:
        best = [0.0] * len(batches)
        until = time.perf_counter() + self._seconds * len(batches)
        while time.perf_counter() < until:
            for number, batch in enumerate(batches):
                start = time.perf_counter()
                count = batch()
                best[number] = max(best[number], count / (time.perf_counter() - start))
        return best


# Building.


def build(payload: bytes, count: int) -> Batch:
    """Our frames: header and payload leave as chunks, the small ones joined."""

    def run() -> int:
        frames = (Frame(1, 2, 0, 4, 1, payload) for _ in range(count))
        for _chunk in iter_chunks(frames):
            pass
        return count

    return run


def build_joined(payload: bytes, count: int) -> Batch:
    """Our frames, each in one piece, for a transport that cannot send two."""

    def run() -> int:
        for _ in range(count):
            encode_frame(Frame(1, 2, 0, 4, 1, payload))
        return count

    return run


def build_hg(payload: bytes, count: int) -> Batch:
    """Mercurial's ``makeframe``."""

    def run() -> int:
        for _ in range(count):
            hgframing.makeframe(requestid=1, streamid=2, streamflags=0, typeid=4, flags=1, payload=payload)
        return count

    return run


def build_hyper(payload: bytes, count: int) -> Batch:
    """An HTTP/2 DATA frame."""

    def run() -> int:
        for _ in range(count):
            hyperframe.DataFrame(1, payload).serialize()
        return count

    return run


# Parsing.


def parse(payload: bytes, count: int, piece: int = 262144) -> Batch:
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


def parse_64k(payload: bytes, count: int) -> Batch:
    """The same in pieces so small that every other large frame crosses two of them."""
    return parse(payload, count, 65536)


def parse_file(payload: bytes, count: int) -> Batch:
    """Our reader of files."""
    wire = encode_frame(Frame(1, 1, 0, 3, 1, payload)) * count

    def run() -> int:
        file = io.BytesIO(wire)
        seen = 0
        while read_frame(file) is not None:
            seen += 1
        return seen

    return run


def parse_hg(payload: bytes, count: int) -> Batch:
    """Mercurial's ``readframe``."""
    wire = encode_frame(Frame(1, 1, 0, 3, 1, payload)) * count

    def run() -> int:
        file = io.BytesIO(wire)
        seen = 0
        while hgframing.readframe(file) is not None:
            seen += 1
        return seen

    return run


def parse_hyper(payload: bytes, count: int) -> Batch:
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


def commands(count: int, arguments: dict[bytes, bytes], *, respond: bool) -> Batch:
    """Our reactor: from the bytes of a command to its ``RunCommand``, and to the bytes of its response."""
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


def commands_hg(count: int, arguments: dict[bytes, bytes], *, respond: bool) -> Batch:
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


def upload(size: int, payload: bytes) -> Batch:
    """Bytes of command data through our reactor."""
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


def download(size: int, payload: bytes) -> Batch:
    """Bytes of a response through our reactor."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=0.3, help="for each measurement (default: 0.3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the lines whose titles contain this")
    options = parser.parse_args()
    table = Table(options.seconds, options.only)
    for title, payload, count in (("16 bytes", SMALL, 5000), ("32 KiB", LARGE, 500)):
        for verb, ours, hg, hyper in (
            ("build", build, build_hg, build_hyper),
            ("build, one piece,", build_joined, build_hg, build_hyper),
            ("parse, pushed 256 KiB,", parse, parse_hg, parse_hyper),
            ("parse, pushed 64 KiB,", parse_64k, parse_hg, parse_hyper),
            ("parse, file,", parse_file, parse_hg, None),
        ):
            peers = {}
            if hgframing:
                peers["mercurial"] = hg(payload, count)
            if hyperframe and hyper:
                peers["hyperframe"] = hyper(payload, count)
            table.line(f"{verb} {title}", ours(payload, count), **peers)
    for title, arguments in (("command", {}), ("command + argument", {b"namespace": b"bookmarks"})):
        for what, respond in (("received", False), ("and answered", True)):
            peers = {"mercurial": commands_hg(100, arguments, respond=respond)} if hgframing else {}
            table.line(f"{title} {what}", commands(100, arguments, respond=respond), **peers)
    size = 64 << 20
    table.line("upload through the reactor", upload(size, LARGE), " MiB")
    table.line("response through the reactor", download(size, LARGE), " MiB")


if __name__ == "__main__":
    main()
