"""remotefilelog and narrow, where clients have only some files: our application against hgweb, with the same client."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_hg import file_contents
from live_pair import MakePair, Pair, Side
from live_servers import SERVER_HGRC

REMOTEFILELOG = "[extensions]\nremotefilelog =\n[remotefilelog]\nserver = yes\n"
NARROW = "[extensions]\nnarrow =\n"
ELLIPSES = "[experimental]\nnarrowservebrokenellipses = yes\n"


@pytest.fixture(scope="session")
def shallow_servers(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers with remotefilelog, in processes of their own: it affects every repository of a process."""
    return make_pair(hgrc=SERVER_HGRC + REMOTEFILELOG)


@pytest.fixture
def shallow_pair(shallow_servers: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    """Both of them, for this test."""
    return shallow_servers(request, tmp_path)


@pytest.fixture(scope="session")
def narrow_servers(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers with narrow, in processes of their own: it affects every repository of a process."""
    return make_pair(hgrc=SERVER_HGRC + NARROW)


@pytest.fixture
def narrow_pair(narrow_servers: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    """Both of them, for this test."""
    return narrow_servers(request, tmp_path)


@pytest.mark.parametrize("flags", [(), ("--stream",)], ids=["pull", "stream"])
def test_a_shallow_client(shallow_pair: Pair, flags: tuple[str, ...]) -> None:
    """It requests the files that it needs, many in one batch, and can push a commit."""

    def scenario(side: Side) -> Any:
        cache = side.folder / "cache"
        side.config = (
            "extensions.remotefilelog=",
            f"remotefilelog.cachepath={cache}",
            "remotefilelog.reponame=it",
        )
        served = side.serve()
        clone = side.clone(served.url, "clone", "--shallow", "--noupdate", *flags)
        # Over HTTP a clone brings all files.  Without them the client behaves as after a clone over SSH.
        shutil.rmtree(clone / ".hg" / "store" / "data")
        side.hg("update", "stable", cwd=clone)
        fetched = len([path for path in cache.rglob("*") if len(path.name) == 40])
        side.hg("cat", "-r", "1", "a", cwd=clone)
        (clone / "new").write_text("new\n")
        side.hg("commit", "-q", "-A", "-m", "new", cwd=clone)
        side.hg("push", cwd=clone)
        return side.state(served.path), sorted(file_contents(clone)), fetched

    server, _, fetched = shallow_pair.same(scenario)
    assert server["changesets"][-1].endswith("new")
    assert fetched == 3


def test_a_whole_clone_of_a_shallow_server(shallow_pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        return side.state(side.clone(served.url)), side.state(side.clone(served.url, "streamed", "--stream"))

    pulled, streamed = shallow_pair.same(scenario)
    assert len(pulled["changesets"]) == len(streamed["changesets"]) == 7


def contents(repo: Path) -> list[str]:
    """Return the names of the files in the store of a repository and in its working copy."""
    found = [str(path.relative_to(repo)) for path in repo.rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.startswith(".hg/") or name.startswith(".hg/store/data/"))


@pytest.mark.parametrize("hgrc", ["", ELLIPSES], ids=["whole", "ellipses"])
def test_a_narrow_client(narrow_pair: Pair, hgrc: str) -> None:
    """It clones one folder, adds another, and pushes.  Without ellipses, ``narrow_widen`` sends the other folder."""

    def scenario(side: Side) -> Any:
        side.config = ("extensions.narrow=",)
        served = side.serve("folders", hgrc=hgrc)
        depth = ["--depth", "1"] if hgrc else []
        clone = side.clone(served.url, "clone", "--narrow", "--include", "one", *depth)
        seen = [contents(clone)]
        side.hg("tracked", "--addinclude", "two", cwd=clone)
        seen.append(contents(clone))
        (clone / "two" / "new").write_text("new\n")
        side.hg("commit", "-q", "-A", "-m", "new", cwd=clone)
        side.hg("push", cwd=clone)
        return seen, side.state(served.path)

    (narrow, wide), server = narrow_pair.same(scenario)
    for names, folders in ((narrow, {"one"}), (wide, {"one", "two"})):
        assert {name.partition("/")[0] for name in names} == {".hg", *folders}
        assert {name.split("/")[3] for name in names if name.startswith(".hg")} == folders
    assert server["changesets"][-1].endswith("new")


@pytest.mark.parametrize("allowed", ["no", "yes"])
def test_a_narrow_clone_as_a_stream(narrow_pair: Pair, allowed: str) -> None:
    def scenario(side: Side) -> Any:
        side.config = ("extensions.narrow=",)
        served = side.serve("folders", hgrc=f"[experimental]\nserver.stream-narrow-clones = {allowed}\n")
        code = side.hg("clone", "--narrow", "--stream", "--include", "one", served.url, "clone", ok=(0, 255)).code
        return code, [] if code else contents(side.folder / "clone")

    code, names = narrow_pair.same(scenario)
    assert bool(code) == (allowed == "no")
    assert not any("two" in name for name in names)
