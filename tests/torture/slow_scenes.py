#!/usr/bin/env python3
"""The scenes of ``slow_clients.py`` against a server of their own.

Usage: slow_scenes.py [--seconds N] [--hgweb]

Two hundred clones that read nothing, sixteen bodies that never come, and twenty-four pushes against a repository that
is locked.  ``capabilities`` answers within a second throughout, and everything recovers when the clients leave.
``slow_clients.py`` runs the same against any server.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from torture_support import Report, make_repository, parser, scratch, server

CLIENTS = Path(__file__).with_name("slow_clients.py")

POSTED = "experimental.httppostargs=yes"
"""Otherwise the scene of posted arguments would be one of small commands."""


def main() -> None:
    """Run the script."""
    options = parser(__doc__, seconds=10).parse_args()
    report = Report("slow clients")
    with scratch() as folder:
        repository = make_repository(folder / "repos" / "repo", size=8_000_000)
        with server(folder, hgweb=options.hgweb, workers=1, threads=16, config=[POSTED]) as served:
            command = [sys.executable, str(CLIENTS), "--seconds", str(options.seconds), "--lock", str(repository)]
            done = subprocess.run([*command, f"{served.url}/repo"], timeout=900)
            report.check(done.returncode == 0, "an answer within a second throughout", f"exit code {done.returncode}")
            report.check(served.answers("/repo?cmd=heads", 10), "the server recovers")
    report.end()


if __name__ == "__main__":
    main()
