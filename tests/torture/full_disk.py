#!/usr/bin/env python3
"""Pushes to a disk that is full.

Usage: full_disk.py [--pushes N] [--hgweb]

The repositories are on a tmpfs of 8 MiB, which only root can mount; without that, the script does nothing and says so.
Pushes that do not fit fail with a reason, and the server goes on.  When there is space again, a push succeeds (after
``hg recover``, where the server does not recover by itself), and the repository verifies.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from torture_support import Report, hg, make_repository, parser, scratch, server, tracebacks

DISK = 8 << 20
"""Bytes."""


def mount(folder: Path) -> str:
    """Mount a small file system; gives why that is not possible."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "torture", str(folder)], capture_output=True, text=True
    )
    return done.stderr.strip() if done.returncode else ""


def fill(path: Path, spare: int) -> None:
    """Write a file that leaves so many bytes."""
    free = os.statvfs(path.parent)
    path.write_bytes(bytes(max(free.f_bavail * free.f_frsize - spare, 0)))


def main() -> None:
    """Run the script."""
    options = parser(__doc__, pushes=12).parse_args()
    report = Report(f"{options.pushes} pushes to a full disk")
    with scratch() as folder:
        repos = folder / "repos"
        if problem := mount(repos):
            report.figure("skipped", problem)
            report.end()
        try:
            _run(report, folder, options.pushes, options.hgweb)
        finally:
            subprocess.run(["umount", "--lazy", str(repos)], check=True)
    report.end()


def _run(report: Report, folder: Path, pushes: int, hgweb: bool) -> None:
    repository = make_repository(folder / "repos" / "repo", size=100_000)
    work = folder / "work"
    hg("clone", "-q", repository, work)
    (work / "large").write_bytes(os.urandom(1 << 20))
    hg("-R", work, "commit", "-q", "-A", "-m", "large")
    before = hg("-R", repository, "log", "-T", "{node}\n")[1]
    ballast = folder / "repos" / "ballast"
    with server(folder, hgweb=hgweb) as served:
        url = f"{served.url}/repo"
        taken, silent, dead = 0, [], 0
        for number in range(pushes):
            ballast.unlink(missing_ok=True)
            fill(ballast, (1 << 20) * number // pushes)
            code, said = hg("-R", work, "push", url, code=None)
            taken += code == 0
            if code != 0 and "space" not in said.lower() and "recover" not in said.lower():
                silent.append(said)
            dead += not served.answers("/repo?cmd=heads") and served.process.poll() is not None
        report.check(not taken, "no push that does not fit is acknowledged", taken)
        report.check(not silent, "the client learns the reason", f"{len(silent)}, such as {silent[:1]}")
        report.check(not dead, "the server goes on", dead)
        report.check(not tracebacks(served.log()), "no traceback in the log", served.log()[-1500:])
        ballast.unlink()
        by_hand = (repository / ".hg" / "store" / "journal").exists()
        if by_hand:
            hg("-R", repository, "recover", "-q", code=None)
        report.figure("recovered by hand", "yes" if by_hand else "no")
        known = hg("-R", repository, "log", "-T", "{node}\n")[1]
        report.check(known == before, "nothing was stored", known)
        code, said = hg("-R", work, "push", url, code=None)
        report.check(code == 0, "with space, the push succeeds", said)
    code, said = hg("-R", repository, "verify", code=None)
    report.check(code == 0, "the repository verifies", said)


if __name__ == "__main__":
    main()
