"""A real client verifies its clones of all histories, and pulls the rest after a part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from live_hg import environment, run_hg
from live_pair import CLIENT_HGRC
from live_servers import Server, Site, StartServer, require

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_formats import Workshop
from changegroup_histories import HISTORIES, open_repository

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

FORMATS = ("committed", "not general, native deltas")


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a folder of histories for each format."""
    workshop = Workshop(tmp_path_factory.mktemp("histories"))
    for name in FORMATS:
        for history in HISTORIES:
            workshop.path(history, name)
    return workshop.folder


@pytest.fixture(scope="module")
def server(start_server: StartServer, histories: Path) -> Server:
    return start_server("gunicorn", Site(side="ours", root=str(histories)))


@pytest.fixture
def hg(tmp_path: Path) -> Callable[..., str]:
    require("hg")
    environ = environment(tmp_path / "home", CLIENT_HGRC)

    def run(*arguments: str | Path) -> str:
        return run_hg([str(each) for each in arguments], environ=environ, cwd=tmp_path, code_ok=(0,)).out

    return run


@pytest.mark.parametrize("history", HISTORIES)
def test_clones_are_sound(server: Server, histories: Path, hg: Callable[..., str], history: str) -> None:
    """One clone of everything, and one in two parts from a repository in another format."""
    whole, part = (f"{server.base}/{quote(name)}/{history}" for name in FORMATS)
    served = open_repository(histories / FORMATS[0] / history).filtered(b"served")
    expected = {served[rev].hex().decode() for rev in served}
    hg("clone", "-q", "-U", "--pull", whole, "whole")
    hg("clone", "-q", "-U", "--pull", "-r", min(expected), part, "part")
    hg("-R", "part", "pull", "-q", part)
    for clone in ("whole", "part"):
        hg("-R", clone, "verify", "-q")
        assert set(hg("-R", clone, "log", "-T", "{node} ").split()) == expected
