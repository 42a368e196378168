"""Fixtures of the live tests: real servers, real clients, hgweb as the reference."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Under --import-mode=importlib the folder of a test is not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from live_hg import Scribe, environment
from live_pair import MakePair, Pair
from live_repos import Workshop
from live_servers import SERVER_HGRC, SIDES, Server, Site, StartServer, require


@pytest.fixture(scope="session")
def scribe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scribe]:
    """The command server that prepares and inspects repositories."""
    require("hg")
    folder = tmp_path_factory.mktemp("scribe")
    hgrc = "[ui]\nusername = Live Test <live@example.com>\n[devel]\ndefault-date = 0 0\n"
    made = Scribe(environment(folder / "home", hgrc), folder)
    yield made
    made.close()


@pytest.fixture(scope="session")
def workshop(scribe: Scribe, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The originals of all repositories."""
    return Workshop(tmp_path_factory.mktemp("originals"), scribe)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """A function that starts a server, which is stopped after all tests."""
    started: list[Server] = []

    def start(kind: str, site: Site, hgrc: str = SERVER_HGRC) -> Server:
        require("hg", kind)
        folder = tmp_path_factory.mktemp("server")
        server = Server(kind, site, folder, environment(folder / "home", hgrc))
        started.append(server)
        return server

    yield start
    for server in started:
        server.terminate()
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def make_pair(
    start_server: StartServer, workshop: Workshop, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., MakePair]:
    """A function that starts both servers, each with its own folder, and returns a function that makes pairs."""

    def start(kind: str = "gunicorn", hgrc: str = SERVER_HGRC, **settings: object) -> MakePair:
        sites = {side: tmp_path_factory.mktemp(f"site-{side}") for side in SIDES}
        servers = {
            # hgweb always runs under gunicorn: it is the reference for what a client sees, not for the server.
            side: start_server(
                kind if side == "ours" else "gunicorn", Site(side=side, root=str(path), **settings), hgrc
            )
            for side, path in sites.items()
        }

        def pair(request: pytest.FixtureRequest, folder: Path) -> Pair:
            return Pair(servers, sites, workshop, folder, re.sub(r"\W+", "-", request.node.name).strip("-"))

        return pair

    return start


@pytest.fixture(scope="session")
def gunicorn_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Both sides under gunicorn with the usual settings."""
    return make_pair()


@pytest.fixture
def pair(gunicorn_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    """Both sides, for this test."""
    return gunicorn_pair(request, tmp_path)
