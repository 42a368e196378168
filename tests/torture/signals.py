#!/usr/bin/env python3
"""SIGHUP and SIGTERM amid clones and pushes.

Usage: signals.py [--clones N] [--pushes N] [--hgweb]

No transfer that has begun breaks, neither when the server reloads nor when it stops.  Under uWSGI,
``tests/conf/test_conf_reload.py`` shows the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from torture_support import (
    PATIENCE,
    Report,
    clean_environment,
    hg,
    hg_command,
    make_repository,
    parser,
    scratch,
    server,
    settles,
    tracebacks,
)
from transfers import clone_request, start_clones

SIZE = 8_000_000
SECONDS = 8


def begin_push(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start ``hg push`` of a changeset of its own."""
    (folder / folder.name).write_bytes(os.urandom(100_000))
    hg("-R", folder, "commit", "-q", "-A", "-m", folder.name, "-u", "torture")
    command = [*hg_command(), "-R", str(folder), "push", "-f", url]
    return subprocess.Popen(
        command, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def main() -> None:
    """Run the script."""
    options = parser(__doc__, clones=8, pushes=3).parse_args()
    report = Report(f"signals amid {options.clones} clones and {options.pushes} pushes")
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo", size=SIZE)
        hook = "hooks.pretxnchangegroup.slow=sleep 2"
        with server(folder, hgweb=options.hgweb, workers=2, threads=32, config=[hook]) as served:
            works = [folder / f"work{number}" for number in range(2 * options.pushes)]
            for work in works:
                hg("clone", "-q", repository, work)
            for number, name in enumerate(("SIGHUP", "SIGTERM")):
                before = served.workers()
                clones = start_clones(options.clones, served.port, clone_request("/repo"), rate=SIZE / SECONDS)
                settles(lambda clones=clones: all(clone.received for clone in clones))
                url = f"{served.url}/repo"
                pushes = [begin_push(url, work) for work in works[number::2]]
                lock = repository / ".hg" / "store" / "lock"
                settles(lambda lock=lock: os.path.lexists(lock), 20)
                # By then the others wait for the lock, and their bodies have arrived.
                time.sleep(3)
                os.kill(served.process.pid, signal.Signals[name])
                for clone in clones:
                    clone.join()
                said = [push.communicate(timeout=PATIENCE)[0].decode(errors="replace") for push in pushes]
                broken = [clone for clone in clones if not clone.complete or clone.digest != clones[0].digest]
                # Afterwards the client may ask for bookmarks and phases, over a connection that the server has closed.
                failed = [
                    text
                    for push, text in zip(pushes, said, strict=True)
                    if push.returncode and not (name == "SIGTERM" and "added 1 changesets" in text)
                ]
                report.check(not broken, f"{name}: no clone breaks", broken)
                report.check(not failed, f"{name}: no push breaks", failed)
                if name == "SIGHUP":
                    replaced = settles(lambda before=before: served.workers() and not {*before} & {*served.workers()})
                    report.check(replaced, f"{name}: new workers serve, the old ones leave", served.workers())
                    report.check(served.answers("/repo?cmd=heads"), f"{name}: the server answers")
                else:
                    ended = settles(lambda: served.process.poll() is not None)
                    report.check(ended and served.process.returncode == 0, f"{name}: the server ends with 0")
            report.check(not tracebacks(served.log()), "no traceback in the log", served.log()[-1500:])
        code, said_verify = hg("-R", repository, "verify", code=None)
        report.check(code == 0, "the repository verifies", said_verify)
    report.end()


if __name__ == "__main__":
    main()
