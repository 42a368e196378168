"""Obsolescence markers, largefiles and lfs: our application against hgweb, with the same client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_pair import MakePair, Pair, Side
from live_servers import SERVER_HGRC

EVOLUTION = "[experimental]\nevolution = all\n"
NO_PUBLISHING = "[phases]\npublish = no\n"
LARGE = "x" * 5000 + "\n"


@pytest.mark.parametrize("publish", [NO_PUBLISHING, ""], ids=["non-publishing", "publishing"])
def test_markers_travel_both_ways(pair: Pair, publish: str) -> None:
    def scenario(side: Side) -> Any:
        side.config = ("experimental.evolution=all",)
        served = side.serve("empty", hgrc=EVOLUTION + publish)
        work = side.checkout("obsolete", hgrc=EVOLUTION)
        side.hg("push", "-f", served.url, cwd=work)
        side.hg("push", served.url, cwd=work, ok=(1,))
        clone = side.clone(served.url)
        (clone / ".hg" / "hgrc").write_text(EVOLUTION)
        side.hg("pull", served.url, cwd=clone)
        return side.state(served.path), side.state(clone)

    server, clone = pair.same(scenario)
    assert server["markers"] and clone["markers"]


def test_a_rewritten_changeset_is_pulled_as_obsolete(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        side.config = ("experimental.evolution=all",)
        served = side.serve("obsolete", hgrc=EVOLUTION + NO_PUBLISHING)
        clone = side.checkout("obsolete", hgrc=EVOLUTION)
        (clone / ".hg" / "store" / "obsstore").unlink()
        side.hg("pull", served.url, cwd=clone)
        side.hg("incoming", served.url, cwd=clone, ok=(1,))
        return side.state(clone)

    assert sum(" obsolete " in line for line in pair.same(scenario)["changesets"]) >= 1


def test_markers_are_not_exchanged_without_evolution(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("empty", hgrc=NO_PUBLISHING)
        work = side.checkout("obsolete", hgrc=EVOLUTION)
        side.hg("push", "-f", served.url, cwd=work)
        return side.state(served.path)

    state = pair.same(scenario)
    assert state["markers"] == [] and len(state["changesets"]) == 2


def test_hidden_changesets_are_not_served(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("obsolete", hgrc=EVOLUTION + NO_PUBLISHING)
        hidden = side.scribe("log", "--hidden", "-r", "1", "-T", "{node}", repo=served.path)
        side.hg("identify", "-r", hidden, served.url, ok=(10, 255))
        side.hg("clone", "-r", hidden, served.url, "refused", ok=(10, 255))
        return side.state(side.clone(served.url))

    assert len(pair.same(scenario)["changesets"]) == 2


def test_markers_with_bundle1(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        side.config = ("experimental.evolution=all", "devel.legacy.exchange=bundle1")
        served = side.serve("empty", hgrc=EVOLUTION + NO_PUBLISHING)
        work = side.checkout("obsolete", hgrc=EVOLUTION)
        side.hg("push", "-f", served.url, cwd=work, ok=(0, 1))
        clone = side.clone(served.url)
        return side.state(served.path), side.state(clone)

    server, _ = pair.same(scenario)
    assert server["markers"]


@pytest.mark.parametrize(
    ("allowed", "users", "expected"),
    [("*", [""], [True]), ("alice", ["bob:pw@", "alice:pw@"], [False, True]), ("", [""], [False])],
    ids=["everybody", "alice", "nobody"],
)
def test_pull_of_hidden_changesets(pair: Pair, allowed: str, users: list[str], expected: list[bool]) -> None:
    """``--remote-hidden`` asks for them in the URL of each request; in the URL of a batch, for all its commands."""

    def scenario(side: Side) -> Any:
        side.config = ("experimental.evolution=all",)
        # hg sends credentials only when challenged.
        access = "[web]\nallow_read = alice, bob\n" if allowed == "alice" else ""
        hgrc = f"{EVOLUTION}server.allow-hidden-access = {allowed}\n{NO_PUBLISHING}{access}"
        served = side.serve("obsolete", hgrc=hgrc)
        hidden = side.scribe("log", "--hidden", "-r", "1", "-T", "{node}", repo=served.path)
        named, whole = [], []
        for number, user in enumerate(users):
            url = served.url.replace("//", f"//{user}", 1)
            for name, flags in (("named", ["-r", hidden]), ("whole", [])):
                work = side.checkout("empty", f"{name}{number}", EVOLUTION)
                code = side.hg("pull", "--remote-hidden", *flags, url, cwd=work, ok=(0, 10, 255)).code
                (named if flags else whole).append((code == 0, side.state(work)["changesets"]))
        return named, whole

    named, whole = pair.same(scenario)
    assert [done for done, _ in named] == expected
    assert all(done for done, _ in whole)
    for results in (named, whole):
        assert [any(line.endswith("before") for line in lines) for _, lines in results] == expected


@pytest.fixture(scope="session")
def largefiles_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers with largefiles, in processes of their own: the extension affects every repository of a process."""
    return make_pair(hgrc=SERVER_HGRC + "[extensions]\nlargefiles =\n")


def test_largefiles(largefiles_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pair = largefiles_pair(request, tmp_path)

    def scenario(side: Side) -> Any:
        side.config = ("extensions.largefiles=",)
        served = side.serve("empty")
        work = side.clone(served.url, "work")
        (work / "small").write_text("small\n")
        side.hg("add", "-q", "small", cwd=work)
        for number in range(3):
            (work / f"big{number}").write_text(f"{number}{LARGE}")
            side.hg("add", "-q", "--large", f"big{number}", cwd=work)
        side.hg("commit", "-q", "-m", "large", cwd=work)
        side.hg("outgoing", "--large", served.url, cwd=work)
        side.hg("push", served.url, cwd=work)
        # A cached copy of the user must not hide that the server lacks the file.
        fresh = (f"largefiles.usercache={side.folder / 'cache'}",)
        clone = side.clone(served.url, "clone", config=fresh)
        side.hg("clone", "-U", "--all-largefiles", served.url, "all", config=fresh)
        side.hg("verify", "-q", "--large", "--lfa", cwd=clone, config=fresh)
        large = sorted(path.name for path in (served.path / ".hg" / "largefiles").iterdir() if path.is_file())
        requires = (served.path / ".hg" / "store" / "requires").read_text().split()
        side.hg("clone", served.url, "plain", config=["extensions.largefiles=!"], ok=(0, 255, 100))
        return (clone / "big2").read_text() == f"2{LARGE}", len(large), large, "largefiles" in requires

    same, count, _, required = pair.same(scenario)
    assert same and count == 3 and required


def test_a_largefile_that_the_server_lost(
    largefiles_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pair = largefiles_pair(request, tmp_path)

    def scenario(side: Side) -> Any:
        side.config = ("extensions.largefiles=",)
        served = side.serve("empty")
        work = side.clone(served.url, "work")
        (work / "big").write_text(LARGE)
        side.hg("add", "-q", "--large", "big", cwd=work)
        side.hg("commit", "-q", "-m", "large", cwd=work)
        side.hg("push", "-q", served.url, cwd=work)
        for folder in (served.path / ".hg" / "largefiles", side.server.log_path.parent / "home"):
            for path in folder.rglob("*"):
                if path.is_file() and len(path.name) == 40:
                    path.unlink()
        fresh = (f"largefiles.usercache={side.folder / 'cache'}",)
        side.hg("clone", served.url, "clone", config=fresh, ok=(0, 1, 255))
        return (side.folder / "clone" / "big").exists()

    assert pair.same(scenario) is False


@pytest.fixture(scope="session")
def lfs_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers with lfs, in processes of their own: the extension affects every repository of a process."""
    return make_pair(hgrc=SERVER_HGRC + "[extensions]\nlfs =\n")


def test_lfs(lfs_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Blobs have URLs of their own below that of the repository."""
    pair = lfs_pair(request, tmp_path)

    def scenario(side: Side) -> Any:
        side.config = ("extensions.lfs=", "lfs.track=size('>1KB')")
        served = side.serve("empty")
        work = side.clone(served.url, "work")
        (work / "small").write_text("small\n")
        (work / "big").write_text(LARGE)
        side.hg("commit", "-q", "-A", "-m", "large", cwd=work)
        side.hg("push", served.url, cwd=work)
        fresh = (f"lfs.usercache={side.folder / 'cache'}",)
        clone = side.clone(served.url, "clone", config=fresh)
        requires = (served.path / ".hg" / "store" / "requires").read_text().split()
        blobs = sorted(path.name for path in (served.path / ".hg" / "store" / "lfs").rglob("*") if path.is_file())
        side.hg("clone", served.url, "plain", config=["extensions.lfs=!"], ok=(0, 255, 100))
        return (clone / "big").read_text() == LARGE, "lfs" in requires, blobs

    same, required, blobs = pair.same(scenario)
    assert same and required and len(blobs) == 1
