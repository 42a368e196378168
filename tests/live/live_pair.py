"""One scenario, run against our application and against hgweb, must have the same result for the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from live_hg import Outcome, environment, normalise, run_hg
from live_repos import Workshop
from live_servers import OURS, SIDES, Server

CLIENT_HGRC = """\
[ui]
username = Live Test <live@example.com>
interactive = no
timeout = 60
[devel]
default-date = 0 0
"""


@attrs.frozen
class Served:
    """A repository on the server."""

    path: Path
    url: str


class Side:
    """One server, and the clients that talk to it in one scenario."""

    def __init__(self, server: Server, workshop: Workshop, folder: Path, site: Path, name: str) -> None:
        self.server = server
        self.workshop = workshop
        self.scribe = workshop.hg
        self.folder = folder
        self.site = site
        self.name = name
        self.transcript: list[Outcome] = []
        self.config: tuple[str, ...] = ()
        """``--config`` items of every client of this scenario."""
        folder.mkdir(parents=True)
        self.environ = environment(folder / "home", CLIENT_HGRC)
        self._names = {server.base: "URL", f"127.0.0.1:{server.port}": "HOST", str(folder): "WORK", str(site): "SITE"}

    def serve(self, original: str = "history", *, hgrc: str = "", suffix: str = "") -> Served:
        """Put a copy of an original on the server."""
        name = self.name + suffix
        return Served(self.workshop.copy(original, self.site / name, hgrc), f"{self.server.base}/{name}")

    def checkout(self, original: str, name: str = "work", hgrc: str = "") -> Path:
        """Give the client a repository: a copy of an original."""
        return self.workshop.copy(original, self.folder / name, hgrc)

    def hg(self, *args: str, cwd: Path | None = None, ok: Sequence[int] = (0,), config: Sequence[str] = ()) -> Outcome:
        """Run a client and record the result in the transcript.

        Args:
            args: the command line.
            cwd: the repository to run in.
            ok: exit codes this scenario expects.
            config: further ``--config`` items.
        """
        flags = [word for item in (*self.config, *config) for word in ("--config", item)]
        outcome = run_hg([*args, *flags], environ=self.environ, cwd=cwd or self.folder)
        plain = attrs.evolve(
            outcome,
            args=tuple(self.plain(word) for word in outcome.args),
            out=self.plain(outcome.out),
            err=self.plain(outcome.err),
        )
        self.transcript.append(plain)
        assert plain.code in ok, f"{self.server.site.side}: {plain}\n{self.server.log()[-3000:]}"
        return plain

    def clone(self, url: str, name: str = "clone", *flags: str, config: Sequence[str] = ()) -> Path:
        """Clone, and return the path of the clone."""
        self.hg("clone", *flags, url, str(self.folder / name), config=config)
        return self.folder / name

    def state(self, repo: Path) -> dict[str, list[str]]:
        """Return what a repository holds; see :meth:`Scribe.state`."""
        return self.scribe.state(repo)

    def plain(self, text: str) -> str:
        """Replace in a text what necessarily differs between the sides."""
        return normalise(text, self._names)


class Pair:
    """Our server and the reference, for one test.

    Args:
        servers: one for each side.
        sites: the folder each of them serves.
        folder: the folder of this test.
        name: the name of this test, unique in the site.
    """

    def __init__(
        self, servers: dict[str, Server], sites: dict[str, Path], workshop: Workshop, folder: Path, name: str
    ) -> None:
        self.sides = {
            side: Side(servers[side], workshop, folder / side, sites[side], name) for side in SIDES if side in servers
        }

    def same(self, scenario: Callable[[Side], Any], *, output: bool = True) -> Any:
        """Run the scenario on both sides and compare its results, and the exit codes and output of all clients.

        Args:
            scenario: takes a side and returns what to compare.
            output: compare standard output and error too, not only the exit codes.

        Returns:
            The result of the scenario on our side.
        """
        seen: dict[str, tuple[Any, list[Any]]] = {}
        for name, side in self.sides.items():
            value = self.alone(scenario) if name == "ours" else scenario(side)
            runs = [(run.args, run.code, *((run.out, run.err) if output else ())) for run in side.transcript]
            seen[name] = value, runs
        ours, reference = (seen[name] for name in SIDES)
        for mine, theirs in zip(ours[1], reference[1], strict=True):
            assert mine == theirs
        assert ours[0] == reference[0]
        return ours[0]

    def alone(self, scenario: Callable[[Side], Any]) -> Any:
        """Run the scenario on our side only, for what hgweb cannot do.  The server must not log a traceback."""
        side = self.sides["ours"]
        start = side.server.logged
        value = scenario(side)
        log = side.server.log(start)
        assert OURS != "ours" or "Traceback" not in log, log
        return value


MakePair = Callable[..., Pair]
"""Makes a pair of repositories for a test."""
