"""Compression of bundles: engines, levels, other zlib libraries, zstd threads; alone and in a first clone; decoding.

Usage: python benchmarks/engines.py [REPOSITORY...] [--changesets N] [--only TEXT...] [--decode]

It requires the extra ``mercurial``, except with ``--decode``; ``zlib-ng`` and ``isal`` are measured where they are
installed.  The repositories are only read.  The last one is a synthetic history of N changesets (50,000), made for the
run.

Columns: *alone* is the engine fed from memory with the chunks that Mercurial makes: seconds of CPU time, MB/s of
input, and compression ratio.  *clone* is ``getbundle`` of everything in process, without a cache: seconds of CPU time,
seconds to the first 64 KiB and to the last byte, and the maximum growth of the process in MiB.  Each run is a process
of its own, and each figure the best of ``--repeat`` runs.

Compression takes place in the thread that makes the data.  *zstd 3 in 2* is zstd's own two threads; *zstd, 2 threads*
makes the data in one thread and compresses them in another.

*again* is the bundle made from the one in zstd, as for a client that knows only this engine: seconds of CPU time.

Decoding is measured first, and alone with ``--decode``, with 16 MiB of incompressible data and with a bomb of 512 MiB
of zeros: MB/s of output, and the largest piece that ``read`` returned in bytes.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import os
import pickle
import queue
import random
import resource
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import zstandard
from common import Request, clone_request
from synthetic import history

from hgwire_wsgi import ServerCapabilities, WireApp
from hgwire_wsgi.cache.settings import CacheSettings
from hgwire_wsgi.compression import BZIP2, NONE, ZLIB, ZSTD, DecodingReader, Engine
from hgwire_wsgi.limits import Limits
from hgwire_wsgi.streams import coalesce, iter_pieces

CHUNK = 64 * 1024


@attrs.frozen
class Row:
    """One row of the table: an engine at a level."""

    label: str
    engine: Engine


class Beside(Engine):
    """An engine that compresses in the calling thread while the data are made in another one.

    Blocks of 256 KiB pass through a queue of four.  It is measured only; an early end leaves the thread waiting.
    """

    def compress(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        blocks: queue.Queue[bytes | None] = queue.Queue(4)

        def make() -> None:
            for block in coalesce(chunks, 4 * CHUNK):
                blocks.put(block)
            blocks.put(None)

        threading.Thread(target=make, daemon=True).start()
        return super().compress(iter(blocks.get, None))


def beside(engine: Engine) -> Engine:
    """The same engine beside the generator."""
    return Beside(name=engine.name, start=engine.start, start_decoder=engine.start_decoder, level=engine.level)


def rows() -> list[Row]:
    """The engines that are compared."""

    def zlib_of(module: Any, level: int) -> Engine:
        return attrs.evolve(ZLIB, start=lambda _: module.compressobj(level))

    def zstd_of(level: int, threads: int) -> Engine:
        return attrs.evolve(ZSTD, start=lambda _: zstandard.ZstdCompressor(level=level, threads=threads).compressobj())

    found = [Row("none", NONE)]
    found += [Row(f"zstd {level}", zstd_of(level, 0)) for level in (1, 2, 3, 4, 5, 7, 9, 15)]
    found += [Row(f"zstd {level} in {threads}", zstd_of(level, threads)) for level in (3, 9, 15) for threads in (1, 2)]
    found += [Row(f"zlib {level}", zlib_of(zlib, level)) for level in (1, 6, 9)]
    if importlib.util.find_spec("zlib_ng"):
        from zlib_ng import zlib_ng

        found += [Row(f"zlib-ng {level}", zlib_of(zlib_ng, level)) for level in (1, 6, 9)]
    if importlib.util.find_spec("isal"):
        from isal import isal_zlib

        found += [Row(f"isal {level}", zlib_of(isal_zlib, level)) for level in (0, 2, 3)]
    served = (ZSTD, ZLIB, BZIP2)
    found += [Row(f"{engine.name} as served", engine) for engine in served]
    return [*found, *(Row(f"{engine.name}, 2 threads", beside(engine)) for engine in served)]


def clone(repository: Path, request: Request, engine: Engine) -> Iterator[bytes]:
    """The reply to the ``getbundle`` of a full clone."""
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    app = WireApp(
        MercurialProvider(repository),
        capabilities=ServerCapabilities(engines=(engine,)),
        cache=CacheSettings(memory=0, disk=0),
    )
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": request.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        **{"HTTP_" + name.upper().replace("-", "_"): value for name, value in request.headers},
        "HTTP_X_HGPROTO_1": f"0.1 0.2 comp={engine.name}",
    }
    status: list[str] = []
    body: Any = app(environ, lambda line, headers, *_: status.append(line))
    yield from body
    body.close()
    assert status[0].startswith("200 "), status


def chunks_of(repository: Path, request: Request) -> list[bytes]:
    """The chunks of a clone as Mercurial makes them, before they are compressed and joined."""
    made: list[bytes] = []

    class Recorder:
        def compress(self, data: bytes) -> bytes:
            made.append(data)
            return data

        def flush(self) -> bytes:
            return b""

    for _ in clone(repository, request, attrs.evolve(NONE, start=lambda _: Recorder())):
        pass
    return made


@attrs.frozen
class Figures:
    """Measured values: seconds and bytes."""

    cpu: float
    first: float
    last: float
    size: int
    grown: int


def measure(chunks: Callable[[], Iterator[bytes]]) -> Figures:
    """Consume all chunks in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, pickle.dumps(_measured(chunks())))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            # In any case the child must not continue as a second benchmark.
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    if os.waitpid(child, 0)[1]:
        raise SystemExit("a measurement failed")
    figures: Figures = pickle.loads(answer)
    return figures


def _measured(chunks: Iterator[bytes]) -> Figures:
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    size, first = 0, 0.0
    for chunk in chunks:
        size += len(chunk)
        if not first and size >= CHUNK:
            first = time.perf_counter() - start
    last = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figures(cpu, first, last, size, (after.ru_maxrss - before.ru_maxrss) * 1024)


def best(chunks: Callable[[], Iterator[bytes]], repeat: int) -> Figures:
    """The best of several runs, each figure by itself."""
    runs = [measure(chunks) for _ in range(repeat)]
    return Figures(*(min(getattr(run, field.name) for run in runs) for field in attrs.fields(Figures)))


def recompressed(engine: Engine, kept: bytes) -> Iterator[bytes]:
    """A bundle in zstd for another engine."""
    return engine.compress(iter_pieces(DecodingReader(io.BytesIO(kept), ZSTD, Limits())))


def report(title: str, repository: Path, repeat: int, only: Sequence[str]) -> None:
    """Measure with the bundle of one repository."""
    request = clone_request(repository)
    chunks = chunks_of(repository, request)
    total = sum(map(len, chunks))
    print(f"\n{title}: {total:,} bytes in {len(chunks):,} chunks")
    print(
        f"{'':18}{'alone':>8}{'MB/s':>8}{'ratio':>7}{'size':>12}{'again':>8}   "
        f"{'clone':>6}{'first':>7}{'last':>7}{'MiB':>6}"
    )
    kept = b"".join(ZSTD.compress(chunks))
    for row in rows():
        if only and not any(name in row.label for name in only):
            continue
        alone = best(functools.partial(row.engine.compress, chunks), repeat)
        again = best(functools.partial(recompressed, row.engine, kept), repeat)
        whole = best(functools.partial(clone, repository, request, row.engine), repeat)
        print(
            f"{row.label:18}{alone.cpu:8.3f}{total / max(alone.cpu, 1e-3) / 1e6:8.0f}{total / alone.size:7.3f}"
            f"{alone.size:12,}{again.cpu:8.3f}   "
            f"{whole.cpu:6.2f}{whole.first:7.2f}{whole.last:7.2f}{whole.grown / 2**20:6.0f}",
            flush=True,
        )


def report_decoding(repeat: int) -> None:
    """Measure decoding: its speed, and what a bomb costs."""
    noise = random.Random(1).randbytes(16 << 20)
    sources = {
        "incompressible": lambda: (noise[start : start + CHUNK] for start in range(0, len(noise), CHUNK)),
        "bomb": lambda: (bytes(CHUNK) for _ in range(8192)),
    }
    print(f"{'decoding':18}" + "".join(f"{name:>16} MB/s{'largest piece':>15}" for name in sources))
    for engine in (ZSTD, ZLIB, BZIP2, NONE):
        print(f"{engine.name:18}", end="")
        for source in sources.values():
            encoded = b"".join(engine.compress(source()))
            speed, largest = max(decoded(engine, encoded) for _ in range(repeat))
            print(f"{speed:21,.0f}{largest:15,}", end="", flush=True)
        print()


def decoded(engine: Engine, encoded: bytes) -> tuple[float, int]:
    """Decode all of it; MB/s of output, and the size of the largest piece."""
    reader = DecodingReader(io.BytesIO(encoded), engine, Limits())
    size = largest = 0
    start = time.perf_counter()
    # A read returns at most one piece of the decoder, so this size shows how large they are.
    while piece := reader.read(1 << 30):
        size += len(piece)
        largest = max(largest, len(piece))
    return size / (time.perf_counter() - start) / 1e6, largest


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repositories", nargs="*", type=Path, metavar="REPOSITORY")
    parser.add_argument("--changesets", type=int, default=50_000, metavar="N", help="of the synthetic history; 0: none")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--only", nargs="+", default=(), metavar="TEXT", help="measure rows whose names contain it")
    parser.add_argument("--decode", action="store_true", help="measure decoding only")
    args = parser.parse_args()
    report_decoding(args.repeat)
    if args.decode:
        return
    for repository in args.repositories:
        report(repository.name, repository, args.repeat, args.only)
    if args.changesets:
        with tempfile.TemporaryDirectory() as folder:
            report(
                f"{args.changesets:,} synthetic changesets",
                history(args.changesets, Path(folder)),
                args.repeat,
                args.only,
            )


if __name__ == "__main__":
    main()
