#!/usr/bin/env python3
"""Kept bundles with flipped bits, and truncated ones.

Usage: flipped_bits.py [--flips N] [--truncations N] [--seed N]

While no worker runs, one bit of a kept bundle changes, or its end is cut off.  Then a new worker serves a clone.  A
client may get the right bytes (the bundle was made again) or a failure that it notices, and never other bytes in a
complete reply.  hgweb keeps no bundles.
"""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from pathlib import Path

from torture_support import Report, Server, hg, make_repository, parser, scratch, server, settles, wait_for
from transfers import CLONE, Clone

ENGINES = ("zlib", "zstd")


def request(engine: str) -> bytes:
    """A clone whose reply is compressed by an engine."""
    return (
        "GET /repo?cmd=getbundle HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"X-HgProto-1: 0.1 0.2 comp={engine}\r\nX-HgArg-1: {CLONE}\r\n\r\n"
    ).encode()


def clone(served: Server, engine: str) -> Clone:
    """Clone, and wait for the end."""
    made = Clone(served.port, request(engine))
    made.run()
    return made


def kept(served: Server) -> list[Path]:
    """The kept bundles, which have their names."""
    return [path for path in served.cache.rglob("*") if path.is_file() and path.stat().st_size > 10_000]


def kept_again(served: Server, engine: str, path: Path) -> bool:
    """Whether another clone has kept a bundle that was dropped."""
    return path.exists() or not clone(served, engine).complete


def replace_worker(served: Server) -> None:
    """Let a new process serve, which has never opened the bundle."""
    (old,) = served.workers()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: old not in served.workers() and served.workers(), "there is a new worker", served.log)
    wait_for(lambda: served.answers("/repo?cmd=capabilities"), "the new worker answers", served.log)


def same_history(served: Server, repository: Path, folder: Path, number: int) -> bool:
    """Whether ``hg`` clones the right history; a bundle that was made again may have other bytes."""
    target = folder / f"clone{number}"
    if hg("clone", "-q", "-U", f"{served.url}/repo", target, code=None)[0]:
        return False
    logs = [hg("-R", path, "log", "-T", "{node}\n")[1] for path in (repository, target)]
    return logs[0] == logs[1] and hg("-R", target, "verify", "-q", code=None)[0] == 0


def main() -> None:
    """Run the script."""
    options = parser(__doc__, flips=96, truncations=8).parse_args()
    report = Report(f"{options.flips} flipped bits and {options.truncations} truncations")
    if options.hgweb:
        report.figure("skipped", "hgweb keeps no bundles")
        report.end()
    numbers = random.Random(options.seed)
    counts = {"right bytes": 0, "failures": 0, "other bytes": 0}
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo", size=600_000)
        with server(folder) as served:
            right: dict[str, str] = {}
            for engine in ENGINES:
                right[engine] = clone(served, engine).digest
                wait_for(lambda engine=engine: kept(served) and clone(served, engine).complete, "a bundle is kept")
            wait_for(lambda: len(kept(served)) >= len(ENGINES), "all bundles are kept", served.log)
            for number in range(options.flips + options.truncations):
                engine = ENGINES[number % len(ENGINES)]
                good = {path: path.read_bytes() for path in kept(served)}
                for path, content in good.items():
                    damaged = bytearray(content)
                    if number < options.flips:
                        damaged[numbers.randrange(len(damaged))] ^= 1 << numbers.randrange(8)
                    else:
                        del damaged[numbers.randrange(len(damaged)) :]
                    path.write_bytes(damaged)
                replace_worker(served)
                got = clone(served, engine)
                if got.complete and got.digest == right[engine]:
                    counts["right bytes"] += 1
                elif not got.complete:
                    counts["failures"] += 1
                elif same_history(served, repository, folder, number):
                    counts["right bytes"] += 1
                else:
                    counts["other bytes"] += 1
                for path, content in good.items():
                    if path.exists():
                        path.write_bytes(content)
                    else:
                        # It was dropped; another clone keeps it again.
                        settles(partial(kept_again, served, engine, path), 5)
            for name, count in counts.items():
                report.figure(name, count)
            report.check(not counts["other bytes"], "no complete reply with other bytes", counts["other bytes"])
            report.check(clone(served, "zlib").complete, "the server is alive")
    report.end()


if __name__ == "__main__":
    main()
