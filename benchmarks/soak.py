"""Many concurrent operations by real clients against several workers with a small cache, and the same with hgweb.

Usage: python benchmarks/soak.py [--operations 1000] [--clients 8] [--workers 4] [--cache MIB] [--seed N]

Clone, pull, push, bookmark and phase, each in an ``hg`` process of its own.  What was confirmed to one client must be
visible to all later requests.  At the end all repositories are verified and compared with those of clients that did the
same operations one by one with hgweb.  It uses the clients of the live tests, and needs what these need.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import attrs
from common import ROOT, busy, cpu_seconds, memory_mib

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "live"))

from live_herd import Herd, SharedScribe, View, at_once, build_base, in_scribe, one_by_one, plan, processes
from live_hg import Scribe, environment
from live_servers import Server, Site

CLIENT_HGRC = "[ui]\nusername = Soak <soak@example.com>\ninteractive = no\ntimeout = 60\n[devel]\ndefault-date = 0 0\n"
SERVER_HGRC = "[web]\npush_ssl = no\nallow-push = *\n[ui]\ntimeout = 60\n"
MIB = 1 << 20


@attrs.frozen
class End:
    """Result of a run."""

    served: View
    views: list[View]
    seconds: float


def run(side: str, options: argparse.Namespace, scribe: Scribe, base: Path, folder: Path) -> End:
    """Run all operations against one server."""
    plans = plan(options.seed, options.clients, options.operations)
    shared = SharedScribe(scribe)
    folder.mkdir()
    served = folder / "served"
    scribe("clone", "-q", "-U", str(base), str(served))
    (served / ".hg" / "hgrc").write_text((base / ".hg" / "hgrc").read_text())
    ours = side == "ours"
    cache = {"folder": str(folder / "cache"), "disk": int(options.cache * MIB), "memory": 100_000}
    site = Site(side=side, root=str(served), workers=options.workers if ours else 1, cache=cache)
    environ = environment(folder / "home", CLIENT_HGRC)
    server = Server("gunicorn", site, folder, environment(folder / "server-home", SERVER_HGRC))
    try:
        workers = server.workers()
        start = time.monotonic()
        if ours:
            herd = Herd(server.base, shared, processes(environ), folder)
            views = at_once(herd, base, plans)
        else:
            herd = Herd(server.base, shared, in_scribe(shared, folder), folder)
            views = one_by_one(herd, base, plans)
        seconds = time.monotonic() - start
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(herd.counts.items()))
        cpu = sum(cpu_seconds(worker) for worker in workers)
        peaks = ", ".join(f"{memory_mib(worker, 'VmHWM'):.0f}" for worker in workers)
        print(f"{side}: {done}; {seconds:.0f} s, server CPU {cpu:.1f} s, peak MiB of workers {peaks} ({busy()})")
    finally:
        server.stop()
    if ours:
        kept = [path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file()]
        print(f"ours: {len(kept)} files in the cache, {sum(kept) / MIB:.2f} MiB")
        # A worker checks the folder's size only after it has added an eighth of the limit.
        if sum(kept) > options.cache * MIB * (1 + options.workers / 8):
            raise SystemExit("the cache is larger than it may be")
    if "Traceback" in server.log():
        raise SystemExit(server.log())
    scribe("verify", "-q", repo=served)
    return End(View.read(shared, served), views, seconds)


def main() -> None:
    """Run both sides and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--cache", type=float, default=4, help="MiB (default: 4)")
    parser.add_argument("--noise", type=int, default=700_000, help="minimum size of a clone in bytes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = Path(temporary)
        scribe = Scribe(environment(folder / "home", CLIENT_HGRC), folder)
        try:
            base = folder / "base"
            build_base(scribe, base, options.noise)
            ends = {side: run(side, options, scribe, base, folder / side) for side in ("ours", "hgweb")}
        finally:
            scribe.close()
    for side, end in ends.items():
        wrong = [view for view in end.views if view != end.served.lasting()]
        if wrong:
            raise SystemExit(f"{side}: {len(wrong)} of {len(end.views)} repositories differ from the server's")
    ours, reference = ends["ours"], ends["hgweb"]
    if ours.served != reference.served:
        raise SystemExit(f"they differ: {ours.served.changesets ^ reference.served.changesets}")
    print(
        f"{len(ours.views)} repositories with {len(ours.served.changesets)} changesets and"
        f" {len(ours.served.bookmarks)} bookmarks verified, all equal, and equal to those that used hgweb"
    )


if __name__ == "__main__":
    main()
