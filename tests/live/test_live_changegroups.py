"""A real client verifies its clones of all histories, and pulls the rest after a part."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events") / "events"


@pytest.fixture(scope="module")
def server(start_server: StartServer, histories: Path, events: Path) -> Server:
    return start_server("gunicorn", Site(side="ours", root=str(histories), observed=str(events)))


@pytest.fixture
def made(events: Path) -> Callable[[], list[tuple[str, str]]]:
    """Who made the changegroups of this test, and why."""
    before = len(events.read_text()) if events.exists() else 0

    def read() -> list[tuple[str, str]]:
        found = map(json.loads, events.read_text()[before:].splitlines())
        return [(each["generator"], each["reason"]) for each in found if each["event"] == "ChangegroupMade"]

    return read


@pytest.fixture
def hg(tmp_path: Path) -> Callable[..., str]:
    require("hg")
    environ = environment(tmp_path / "home", CLIENT_HGRC)

    def run(*arguments: str | Path) -> str:
        return run_hg([str(each) for each in arguments], environ=environ, cwd=tmp_path, code_ok=(0,)).out

    return run


@pytest.mark.parametrize("history", HISTORIES)
def test_clones_are_sound(
    server: Server, histories: Path, hg: Callable[..., str], made: Callable[[], list[tuple[str, str]]], history: str
) -> None:
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
    assert made() and set(made()) == {("hgwire", "")}


def test_kinds_of_pulls_are_sound(
    server: Server, histories: Path, hg: Callable[..., str], made: Callable[[], list[tuple[str, str]]], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(histories / FORMATS[0] / "random", histories / "pulls"))
    url = f"{server.base}/pulls"
    served = open_repository(path).filtered(b"served")
    heads = [served[node].hex().decode() for node in served.heads()]
    middle = served[len(served) // 2].hex().decode()
    hg("-R", path, "bookmark", "-r", heads[0], "marked")
    clones = {
        "one": ("-U", "--pull", "-r", heads[-1]),
        "first": ("-U", "-r", "0"),
        "updated": ("--pull", "-u", middle),
        "stream": ("-U", "--stream"),
    }
    for name, flags in clones.items():
        hg("clone", "-q", *flags, url, name)
    hg("-R", "first", "incoming", "-q", "--bundle", tmp_path / "incoming.hg", url)
    hg("-R", "first", "pull", "-q", "-r", middle, url)
    hg("-R", "first", "pull", "-q", "-B", "marked", url)
    hg("-R", "one", "pull", "-q", *(word for head in heads[:2] for word in ("-r", head)), url)
    hg("init", "bundled")
    hg("-R", "bundled", "pull", "-q", "-r", "0", url)
    hg("-R", "bundled", "unbundle", "-q", tmp_path / "incoming.hg")
    for name in (*clones, "bundled"):
        hg("-R", name, "verify", "-q")
        hg("-R", name, "pull", "-q", url)
        hg("-R", name, "verify", "-q")
        assert len(hg("-R", name, "log", "-T", "x")) == len(served)
    assert len(made()) > 5 and set(made()) == {("hgwire", "")}


def test_phases_and_markers(
    server: Server, histories: Path, hg: Callable[..., str], made: Callable[[], list[tuple[str, str]]]
) -> None:
    """Secret and obsolete changesets stay; drafts of a server that does not publish come as drafts, with markers."""
    path = Path(shutil.copytree(histories / FORMATS[0] / "amended", histories / "drafts"))
    (path / ".hg" / "hgrc").write_text("[phases]\npublish=no\n[experimental]\nevolution=all\n")
    url = f"{server.base}/drafts"
    hg("-R", path, "phase", "--force", "--secret", "-r", "tip")
    served = open_repository(path).filtered(b"served")
    expected = {f"{served[rev].hex().decode()} {served[rev].phasestr().decode()}" for rev in served}
    assert any("draft" in line for line in expected)
    evolution = ("--config", "experimental.evolution=all")
    hg("clone", "-q", "-U", "--pull", *evolution, url, "clone")
    hg("-R", "clone", "verify", "-q", *evolution)
    assert set(hg("-R", "clone", "log", "-T", "{node} {phase}\n", *evolution).splitlines()) == expected
    assert hg("-R", "clone", "debugobsolete", *evolution)
    assert set(made()) == {("hgwire", "")}


def test_pushes_while_others_clone(
    server: Server, histories: Path, hg: Callable[..., str], made: Callable[[], list[tuple[str, str]]], tmp_path: Path
) -> None:
    """Each clone is complete, also where a push splits the revlogs that it reads."""
    path = Path(shutil.copytree(histories / FORMATS[0] / "straight", histories / "pushed"))
    (path / ".hg" / "hgrc").write_text("[web]\nallow-push=*\npush_ssl=no\n")
    url = f"{server.base}/pushed"
    hg("clone", "-q", "--pull", url, "work")
    stop = threading.Event()

    def clone(name: str) -> int:
        count = 0
        while not stop.is_set():
            target = f"{name}{count}"
            hg("clone", "-q", "-U", "--pull", url, target)
            hg("-R", target, "verify", "-q")
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        clones = [pool.submit(clone, name) for name in ("a", "b")]
        try:
            for number in range(6):
                (tmp_path / "work" / "folder" / "file1").write_bytes(random.Random(number).randbytes(60_000))
                hg("-R", "work", "commit", "-q", "-m", f"push {number}")
                hg("-R", "work", "push", "-q", url)
        finally:
            stop.set()
        assert sum(each.result(60) for each in clones) > 2
    assert set(made()) == {("hgwire", "")}
