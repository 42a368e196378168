"""The v2 transport beside a plain copy through the same WSGI server: throughput, growth of memory, parallel streams.

Usage: python benchmarks/transport.py [--mib 512] [--repeat 3]

In process, the "server" is a loop that consumes the chunks of the response, or feeds the request, as a WSGI server
does; a plain copy costs one memory copy per chunk.  Under gunicorn (gthread, one worker, loopback; skipped if it is not
installed) both ends are real.  ``ratio`` is our time divided by that of the plain copy: 1.5 is the aim.  Memory
is the growth of the server's peak resident size during the transfer, 8 MiB the aim.  ``parallel`` is the time of four
compressible responses one after the other divided by their time with two workers: at least 1.6 is the aim on two
cores; the same work in two processes, printed beside it, shows what the machine can do at that moment.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import importlib.util
import io
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from common import ROOT, free_port

from hgwire_wsgi import ApiSettings, CommandContext, CommandRegistry, LegacyStreamResponse, StreamResponse, WireApp
from hgwire_wsgi.framing import (
    EXP_0002,
    STREAM_BEGIN,
    ZLIB,
    ZSTD_8MB,
    ClientReactor,
    Frame,
    OutgoingStream,
    Profile,
    encode_frame,
    iter_chunks,
)
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository

MIB = 1 << 20
CHUNK = os.urandom(64 * 1024)
SIZE = int(os.environ.get("HGWIRE_BENCH_MIB", "512")) * MIB
BASE = "/repo/api/exp-http-v2-0001/"
COMPRESSIBLE_MIB = 24


def pieces() -> Iterator[bytes]:
    """``SIZE`` bytes that do not compress."""
    for _ in range(SIZE // len(CHUNK)):
        yield CHUNK


def compressible_pieces() -> Iterator[bytes]:
    """Text with a vocabulary of 2,000 words; it compresses about as well as source code."""
    random_ = random.Random(0)
    words = [bytes(random_.choices(range(97, 123), k=random_.randint(2, 10))) for _ in range(2000)]
    for _ in range(COMPRESSIBLE_MIB * 16):
        yield b" ".join(random_.choices(words, k=12_000))[:65536]


_TEXT: list[bytes] = []


def commands() -> CommandRegistry:
    registry = CommandRegistry()

    @registry.command("down", permission="pull")
    def down(context: CommandContext) -> LegacyStreamResponse:
        return LegacyStreamResponse(pieces())

    @registry.command("up", permission="pull", body=True)
    def up(context: CommandContext) -> bytes:
        total = 0
        while piece := context.body.read(65536):
            total += len(piece)
        return b"%d" % total

    @registry.command("text", permission="pull")
    def text(context: CommandContext) -> StreamResponse:
        return StreamResponse(iter(_TEXT))

    return registry


def plain(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The plain copy: only bytes out, or bytes in."""
    if environ["PATH_INFO"].endswith("/down"):
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return pieces()
    total = 0
    while piece := environ["wsgi.input"].read(65536):
        total += len(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % total]


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def make_app(*, workers: int = 0, encodings: tuple[Profile, ...] = ()) -> WireApp:
    api = ApiSettings(server=True, http_v2=True, workers=workers, encodings=encodings)
    provider = MemoryProvider({"repo": MemoryRepository()})
    return WireApp(provider, commands=commands(), api=api)


_wire = make_app()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The application under gunicorn: both, and the memory peak of the process."""
    path = environ["PATH_INFO"]
    if path == "/peak":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % peak_kib()]
    return (_wire if path.startswith("/repo") else plain)(environ, start_response)


def request_frames(*names: str) -> bytes:
    """The body of a request for several commands."""
    reactor, stream = ClientReactor(EXP_0002), OutgoingStream(1)
    actions = [reactor.send_command(stream, name.encode())[1] for name in names]
    return b"".join(chunk for action in actions for chunk in iter_chunks(action.frames))


def upload_frames() -> list[bytes]:
    """The body of a request with ``SIZE`` bytes of data, prepared so that the client's work does not count."""
    two = encode_frame(Frame(1, 1, 0, 3, 1, CHUNK[:32768])) + encode_frame(Frame(1, 1, 0, 3, 1, CHUNK[32768:]))
    begin = encode_frame(Frame(1, 1, STREAM_BEGIN, 1, 4, b"up"))
    return [begin, *[two * 4] * (SIZE // len(CHUNK) // 4), encode_frame(Frame(1, 1, 0, 3, 2, b""))]


def upload_plain() -> list[bytes]:
    return [CHUNK * 4] * (SIZE // len(CHUNK) // 4)


# In process.


class Feed(io.RawIOBase):
    """A ``wsgi.input`` that makes its bytes while it is read, and copies them once, like a socket."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def call(app: Any, path: str, body: Iterable[bytes], *, asks: str = "") -> tuple[int, float]:
    """Run a request; returns the bytes of the response and the seconds."""
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "HTTP_ACCEPT": EXP_0002.media_type,
        "CONTENT_TYPE": EXP_0002.media_type,
        "HTTP_X_HGPROTO_1": asks,
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BufferedReader(Feed(body), 65536),
        "wsgi.input_terminated": True,
    }
    start = time.perf_counter()
    response = app(environ, lambda status, headers: None)
    total, sink = 0, bytearray(1 << 18)
    try:
        for chunk in response:
            sink[: len(chunk)] = chunk
            total += len(chunk)
    finally:
        getattr(response, "close", lambda: None)()
    return total, time.perf_counter() - start


def seconds_of(app: Any, path: str, body: Callable[[], Iterable[bytes]]) -> float:
    return call(app, path, body())[1]


def best(repeat: int, run: Callable[[], float]) -> float:
    return min(run() for _ in range(repeat))


def report(title: str, ours: float, theirs: float, growth: int) -> None:
    print(
        f"{title:<22} {SIZE / MIB / ours:>8,.0f} MiB/s   plain copy {SIZE / MIB / theirs:>8,.0f} MiB/s"
        f"   ratio {ours / theirs:5.2f}   growth {growth / 1024:5.1f} MiB"
    )


def in_process(repeat: int) -> None:
    cases: dict[str, tuple[str, Callable[[], Iterable[bytes]], Callable[[], Iterable[bytes]]]] = {
        "download, in process": ("down", lambda: [request_frames("down")], list),
        "upload, in process": ("up", upload_frames, upload_plain),
    }
    for title, (name, ours, theirs) in cases.items():
        plain_time = best(repeat, functools.partial(seconds_of, plain, f"/{name}", theirs))
        before = peak_kib()
        wire_time = best(repeat, functools.partial(seconds_of, _wire, f"{BASE}ro/{name}", ours))
        report(title, wire_time, plain_time, peak_kib() - before)


# Under gunicorn.


def fetch(port: int, path: str, body: Iterable[bytes] = ()) -> tuple[bytes, int, float]:
    """Run one exchange; returns the beginning of the response, its length, and the seconds."""
    length = sum(map(len, body))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Accept": EXP_0002.media_type, "Content-Type": EXP_0002.media_type, "Content-Length": str(length)}
    start = time.perf_counter()
    connection.request("POST", path, body=body, headers=headers)
    response = connection.getresponse()
    buffer, total, first = bytearray(1 << 18), 0, b""
    while size := response.readinto(buffer):
        first = first or bytes(buffer[: min(size, 100)])
        total += size
    elapsed = time.perf_counter() - start
    connection.close()
    return first, total, elapsed


def under_gunicorn(repeat: int) -> None:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "-w", "1", "--threads", "2"]
    command += ["-b", f"127.0.0.1:{port}", "--log-level", "warning"]
    command += ["--pythonpath", str(ROOT / "benchmarks"), "transport:application"]
    environ = {**os.environ, "HGWIRE_BENCH_MIB": str(SIZE // MIB), "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, env=environ)
    try:
        wait_for(port, server)
        for title, name in (("download, gunicorn", "down"), ("upload, gunicorn", "up")):
            up = name == "up"

            def run(path: str, chunks: Callable[[], Iterable[bytes]], up: bool = up) -> float:
                first, total, seconds = fetch(port, path, chunks())
                assert total >= SIZE or (up and first.endswith(b"%d" % SIZE)), (first, total)
                return seconds

            plain_body = upload_plain if up else lambda: [b"x"]
            wire_body = upload_frames if up else lambda: [request_frames("down")]
            plain_time = best(repeat, functools.partial(run, f"/{name}", plain_body))
            before = int(fetch(port, "/peak")[0])
            wire_time = best(repeat, functools.partial(run, f"{BASE}ro/{name}", wire_body))
            report(title, wire_time, plain_time, int(fetch(port, "/peak")[0]) - before)
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and server.poll() is None:
        try:
            fetch(port, "/peak")
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("gunicorn does not answer")


# Parallel streams.


def encode_two(profile: Profile) -> None:
    """Half the compression work of four responses."""
    for _ in range(2):
        encoder = profile.start_encoder(profile.level)
        for piece in _TEXT:
            for start in range(0, len(piece), 32704):
                encoder.encode(piece[start : start + 32704])


def machine(profile: Profile) -> float:
    """How much faster two processes compress than one: the upper bound."""
    start = time.perf_counter()
    encode_two(profile)
    encode_two(profile)
    alone = time.perf_counter() - start
    context = multiprocessing.get_context("fork")
    helpers = [context.Process(target=encode_two, args=(profile,)) for _ in range(2)]
    start = time.perf_counter()
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    return alone / (time.perf_counter() - start)


def parallel(repeat: int) -> None:
    _TEXT.extend(compressible_pieces())
    print(f"four responses of {COMPRESSIBLE_MIB} MiB of text in one multirequest")
    for profile in (ZLIB, ZSTD_8MB):
        apps = {workers: make_app(workers=workers, encodings=(profile,)) for workers in (0, 2)}
        times = dict.fromkeys(apps, 1e9)
        possible = 0.0
        body = request_frames("text", "text", "text", "text")
        total = 0
        for _ in range(repeat):
            for workers, app in apps.items():
                total, seconds = call(app, f"{BASE}ro/multirequest", [body], asks=f"comp={profile.name}")
                times[workers] = min(times[workers], seconds)
            possible = max(possible, machine(profile))
        size = 4 * COMPRESSIBLE_MIB
        print(
            f"  {profile.name:<10} one after the other {size / times[0]:>7,.0f} MiB/s   two workers"
            f" {size / times[2]:>7,.0f} MiB/s   parallel {times[0] / times[2]:4.2f}"
            f"   two processes {possible:4.2f}   (to {100 * total / size / MIB:.0f} %)"
        )


def main() -> None:
    global SIZE
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("copy", "gunicorn", "parallel"))
    arguments = parser.parse_args()
    SIZE = arguments.mib * MIB
    only = arguments.only
    if only in (None, "copy"):
        in_process(arguments.repeat)
    if only in (None, "gunicorn"):
        if importlib.util.find_spec("gunicorn") is None:
            print("gunicorn is not installed: left out")
        else:
            under_gunicorn(arguments.repeat)
    if only in (None, "parallel"):
        parallel(arguments.repeat)


if __name__ == "__main__":
    main()
