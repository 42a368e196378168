"""Mistakes of an administrator: the client is not blamed, and the log names the repository and the setting or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from live_pair import Pair, Served, Side
from live_repos import Workshop
from live_servers import OURS, Server, Site, StartServer
from live_wire import Answer, Wire

NULL = "0" * 40
BUNDLE2 = "HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02%252C03"

ours_only = pytest.mark.skipif(OURS != "ours", reason="hgweb fails these: HGWIRE_LIVE_OURS is set")


def test_an_engine_that_is_named_twice(pair: Pair) -> None:
    """Mercurial uses the first."""

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc="[server]\ncompressionengines = zstd, zstd\n")
        return side.state(side.clone(served.url))

    assert len(pair.same(scenario)["changesets"]) == 7


@ours_only
@pytest.mark.parametrize(
    "setting",
    ["compressionengines = zstd, brotli", "compressionengines = brotli", "zstdlevel = abc", "zliblevel = abc"],
)
def test_a_setting_that_cannot_be_used(pair: Pair, setting: str) -> None:
    """A clone works nevertheless, and the log says once which setting of which repository is wrong."""

    def scenario(side: Side) -> tuple[dict[str, list[str]], list[str]]:
        start = side.server.logged
        served = side.serve(hgrc=f"[server]\n{setting}\n")
        clone = side.clone(served.url)
        lines = side.server.log(start).splitlines()
        return side.state(clone), [line for line in lines if f"server.{setting.split()[0]}" in line]

    state, lines = pair.alone(scenario)
    assert len(state["changesets"]) == 7
    assert len(lines) == 1 and pair.sides["ours"].name in lines[0], lines
    assert setting.split()[-1] in lines[0]


def pull_by_hand(side: Side, served: Served) -> Answer:
    """Request everything, as a client that accepts pull bundles."""
    with Wire(side.server.port, f"/{served.path.name}") as wire:
        headers = {
            "X-HgArg-1": f"common={NULL}&heads={tip(side, served)}&cg=1&bundlecaps={BUNDLE2}",
            "X-HgProto-1": "0.1 0.2 comp=zstd,zlib,none partial-pull",
        }
        return wire.send("cmd=getbundle", headers=headers)


def tip(side: Side, served: Served) -> str:
    """The newest changeset of a repository."""
    return side.scribe("log", "-r", "tip", "-T", "{node}", repo=served.path)


@pytest.mark.parametrize(
    "line",
    ["it.hg BUNDLESPEC", "it.hg BUNDLESPEC=gzip-v2 heads=xyz", f"it.hg BUNDLESPEC=gzip-v2 heads={'f' * 40}"],
    ids=["no value", "no node", "an unknown node"],
)
def test_a_broken_manifest_of_pull_bundles(pair: Pair, line: str) -> None:
    """A failure of the server, not of the client; the log names the file.  hgweb logs a traceback."""

    def scenario(side: Side) -> int:
        served = side.serve(hgrc="[server]\npullbundle = yes\n")
        manifest = served.path / ".hg" / "pullbundles.manifest"
        manifest.write_text(line + "\n")
        start = side.server.logged
        answer = pull_by_hand(side, served)
        if OURS == "ours" and side.server.site.side == "ours":
            log = side.server.log(start)
            assert side.name in log and "pullbundles.manifest" in log, log
            assert "Traceback" not in log, log
            assert str(side.site) not in answer.text
        manifest.unlink()
        assert pull_by_hand(side, served).status == 200
        return answer.status

    assert pair.same(scenario) == 500


def test_a_pull_bundle_that_is_gone(pair: Pair) -> None:
    """Mercurial makes a bundle instead."""

    def scenario(side: Side) -> int:
        served = side.serve(hgrc="[server]\npullbundle = yes\n")
        line = f"gone.hg BUNDLESPEC=gzip-v2 heads={tip(side, served)}\n"
        (served.path / ".hg" / "pullbundles.manifest").write_text(line)
        return pull_by_hand(side, served).status

    assert pair.same(scenario) == 200


def unknown_requirement(repo: Path, number: int) -> Path:
    """Make a repository require a feature that does not exist."""
    path = repo / ".hg" / "store" / "requires"
    path.write_text(f"{path.read_text()}exp-unheard-of-{number}\n")
    return path


def broken_hgrc(repo: Path, number: int) -> Path:
    """Make the configuration of a repository unreadable."""
    path = repo / ".hg" / "hgrc"
    path.write_text("[web\n" * number)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def server(site: Path, start_server: StartServer) -> Server:
    return start_server("gunicorn", Site(side="ours", root=str(site)))


@ours_only
@pytest.mark.parametrize("spoil", [unknown_requirement, broken_hgrc])
def test_a_repository_that_cannot_be_opened(spoil: Any, server: Server, site: Path, workshop: Workshop) -> None:
    """Each request gets a 500, the log has one line for each state, and a repaired repository works again."""
    repo = workshop.copy("history", site / spoil.__name__)
    neighbour = workshop.copy("public-only", site / f"beside-{spoil.__name__}")
    with Wire(server.port, f"/{repo.name}") as wire:
        assert wire.command("heads").status == 200
        original: bytes | None = None
        for number in (1, 2):
            path = repo / ".hg" / ("hgrc" if spoil is broken_hgrc else "store/requires")
            original = path.read_bytes() if original is None else original
            spoiled = spoil(repo, number)
            start = server.logged
            for command in ("heads", "capabilities", "heads"):
                answer = wire.command(command)
                assert answer.status == 500, answer
                assert str(site) not in answer.text
            named = str(spoiled) if spoil is broken_hgrc else f"exp-unheard-of-{number}"
            lines = [line for line in server.log(start).splitlines() if named in line]
            assert len(lines) == 1 and str(repo) in lines[0], server.log(start)
        assert original is not None
        spoiled.write_bytes(original)
        assert wire.command("heads").status == 200
        assert wire.send("cmd=heads", path=f"/{neighbour.name}").status == 200
    assert "Traceback" not in server.log(), server.log()
