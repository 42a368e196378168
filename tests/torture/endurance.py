#!/usr/bin/env python3
"""Many requests, clones and pushes on one worker, whose memory must not grow.

Usage: endurance.py [--requests N] [--transfers N] [--hgweb]

The first 2,000 of 20,000 requests warm the worker up, and so do the first tenth of the clones and pushes.  By then
every thread has served requests, opened a repository and made a bundle, and the heaps of the C library have the size
that this takes.  The rest may let the worker grow by less than 5 MiB.

It grows by about 3 MiB, mostly the response cache, which holds 16 MiB and is not full by the end: each push gives a new
state, and one request in seven is new.  What remains is enough to find a leak of 150 bytes per request or 10 KiB per
transfer at full size; fewer requests find larger leaks only.
"""

from __future__ import annotations

import contextlib
import http.client
import os

from torture_support import Report, Server, hg, make_repository, parser, scratch, server, tracebacks
from transfers import Clone, clone_request

GROWTH = 5.0
"""MiB."""

NODE = "0" * 40


def ask(served: Server, count: int, tip: str) -> int:
    """Send small requests over connections that stay open; gives how many failed."""
    queries = (
        *("cmd=capabilities", "cmd=heads", "cmd=branchmap", "cmd=listkeys&namespace=bookmarks"),
        *(f"cmd=known&nodes={tip}+{NODE}", f"cmd=lookup&key={tip}", "cmd=batch&cmds=heads+%3Bknown+nodes%3D"),
        *("cmd=lookup&key=nosuch", "cmd=between&pairs=" + f"{tip}-{NODE}", "cmd=listkeys&namespace=phases"),
    )
    failed = 0
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
        for number in range(count):
            # Some are new each time, and cannot come from a cache.
            query = queries[number % len(queries)] if number % 7 else f"cmd=known&nodes={number:040x}"
            connection.request("GET", f"/repo?{query}")
            reply = connection.getresponse()
            reply.read()
            failed += reply.status >= 500
    return failed


def main() -> None:
    """Run the script."""
    options = parser(__doc__, requests=20_000, transfers=300).parse_args()
    report = Report(f"{options.requests} requests, {options.transfers} clones and pushes on one worker")
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo", size=1_000_000)
        tip = hg("-R", repository, "log", "-r", "tip", "-T", "{node}")[1]
        pushes = options.transfers // 2
        work = folder / "work"
        hg("clone", "-q", repository, work)
        (work / "log").write_text("")
        hg("-R", work, "add", work / "log")
        for number in range(pushes):
            with open(work / "log", "a") as file:
                file.write(os.urandom(50).hex() + "\n")
            hg("-R", work, "commit", "-q", "-m", f"push {number}")
        with server(folder, hgweb=options.hgweb) as served:

            def transfer(first: int, count: int) -> int:
                failed = 0
                for number in range(first, first + count):
                    revision = f"{tip}:: and not {tip}"
                    node = hg("-R", work, "log", "-r", f"limit({revision}, 1, {number})", "-T", "{node}")[1]
                    failed += hg("-R", work, "push", "-q", "-r", node, f"{served.url}/repo", code=None)[0] != 0
                    clone = Clone(served.port, clone_request("/repo"))
                    clone.run()
                    failed += not clone.complete
                return failed

            blocks = 10
            warm = max(min(5, pushes), pushes // blocks)
            failed, before, pushed = 0, 0.0, 0
            for block in range(blocks):
                failed += ask(served, options.requests // blocks, tip)
                end = warm + (pushes - warm) * block // (blocks - 1)
                failed += transfer(pushed, end - pushed)
                before, pushed = before or served.memory(), end
            grown = served.memory() - before
            report.figure(
                "memory", f"{before:.1f} MiB after {options.requests // blocks} requests, {grown:+.1f} MiB at the end"
            )
            report.check(not failed, "all succeed", failed)
            report.check(grown < GROWTH, f"memory grows by less than {GROWTH:.0f} MiB", f"{grown:.1f}")
            report.check(not tracebacks(served.log()), "no traceback in the log", served.log()[-1500:])
    report.end()


if __name__ == "__main__":
    main()
