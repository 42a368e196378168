"""Where repositories are served: below a mount point, in folders, from a mapping, and at the root."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_pair import MakePair, Pair, Side
from live_repos import Workshop
from live_servers import SIDES, Site, StartServer
from live_wire import Wire

NO_HGRC = "[ui]\ntimeout = 60\n"
OPEN = ("web.push_ssl=no", "web.allow-push=*")


@pytest.fixture(scope="session")
def mounted_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers with a mount point; their settings are passed to the application, not in a file."""
    return make_pair(hgrc=NO_HGRC, mount="/code/hg", config=OPEN)


def test_mounted_below_a_path(mounted_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pair = mounted_pair(request, tmp_path)

    def scenario(side: Side) -> Any:
        served = side.serve()
        clone = side.clone(served.url)
        (clone / "new").write_text("new\n")
        side.hg("commit", "-q", "-A", "-m", "new", cwd=clone)
        side.hg("push", cwd=clone)
        side.hg("identify", served.url.replace("/code/hg", ""), ok=(255, 100))
        return side.state(served.path)

    assert pair.same(scenario)["changesets"][-1].endswith("new")


def test_repositories_in_folders_of_folders(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        states = []
        for suffix in ("", "-dir/sub/deep", "-dir/other"):
            served = side.serve("history" if suffix else "public-only", suffix=suffix)
            states.append(side.state(side.clone(served.url, f"clone{len(states)}")))
            side.hg("identify", served.url + "/", config=["ui.verbose=yes"])
        side.hg("identify", f"{side.server.base}/{side.name}-dir", ok=(255, 100))
        side.hg("identify", f"{side.server.base}/{side.name}-dir/sub", ok=(255, 100))
        return states

    # The wording of a 404 may differ.
    one, deep, other = pair.same(scenario, output=False)
    assert len(one["changesets"]) == 1
    assert deep == other and len(deep["changesets"]) == 7


def test_a_folder_outside_the_root_is_not_served(pair: Pair, workshop: Workshop) -> None:
    side = pair.sides["ours"]
    side.serve()
    workshop.copy("history", side.site.parent / f"{side.site.name}-secret")
    for path in (f"../{side.site.name}-secret", f"{side.name}/../../{side.site.name}-secret"):
        for spelled in (path, path.replace("..", "%2e%2e"), path.replace("../", "..%2f")):
            assert side.hg("identify", f"{side.server.base}/{spelled}", ok=(255, 100)).code


def start_both(
    start_server: StartServer, workshop: Workshop, tmp_path: Path, root: Callable[[Path], Any]
) -> tuple[dict[str, Side], dict[str, Path]]:
    """Start both servers on what ``root`` makes in a folder."""
    sides, sites = {}, {}
    for name in SIDES:
        sites[name] = tmp_path / f"site-{name}"
        site = Site(side=name, root=root(sites[name]), config=OPEN)
        server = start_server("gunicorn", site, NO_HGRC)
        sides[name] = Side(server, workshop, tmp_path / name, sites[name], "")
    return sides, sites


def test_one_repository_at_the_root(start_server: StartServer, workshop: Workshop, tmp_path: Path) -> None:
    def root(path: Path) -> str:
        return str(workshop.copy("history", path))

    sides, sites = start_both(start_server, workshop, tmp_path, root)
    for name, side in sides.items():
        clone = side.clone(side.server.base + "/")
        (clone / "new").write_text("new\n")
        side.hg("commit", "-q", "-A", "-m", "new", cwd=clone)
        side.hg("push", cwd=clone)
        side.hg("pull", side.server.base, cwd=clone)
        assert side.state(sites[name])["changesets"][-1].endswith("new")
        assert side.server.stop() == 0
    assert sides["ours"].transcript == sides["hgweb"].transcript


def test_repositories_by_a_mapping(start_server: StartServer, workshop: Workshop, tmp_path: Path) -> None:
    def root(path: Path) -> dict[str, str]:
        path.mkdir()
        return {
            "group/one": str(workshop.copy("history", path / "x")),
            "two": str(workshop.copy("public-only", path / "y")),
        }

    sides, _ = start_both(start_server, workshop, tmp_path, root)
    states = {
        name: [
            side.state(side.clone(f"{side.server.base}/group/one", "one")),
            side.state(side.clone(f"{side.server.base}/two", "two")),
            side.hg("identify", f"{side.server.base}/x", ok=(255, 100)).code,
        ]
        for name, side in sides.items()
    }
    assert states["ours"] == states["hgweb"]
    assert [len(state["changesets"]) for state in states["ours"][:2]] == [7, 1]
    assert [run.code for run in sides["ours"].transcript] == [run.code for run in sides["hgweb"].transcript]


def test_hgweb_behind_the_middleware(start_server: StartServer, workshop: Workshop, tmp_path: Path) -> None:
    """We answer clients; hgweb answers everything else: its pages, and requests that are neither."""
    folder = tmp_path / "site"
    workshop.copy("history", folder / "repo")
    pages, both = (
        start_server("gunicorn", Site(side=side, root=str(folder), config=OPEN), NO_HGRC)
        for side in ("hgweb", "middleware")
    )
    side = Side(both, workshop, tmp_path / "client", folder, "repo")
    clone = side.clone(f"{both.base}/repo")
    (clone / "new").write_text("new\n")
    side.hg("commit", "-q", "-A", "-m", "new", cwd=clone)
    side.hg("push", cwd=clone)
    assert side.state(folder / "repo")["changesets"][-1].endswith("new")
    with Wire(pages.port, "/repo") as plain, Wire(both.port, "/repo") as wire:
        for query, path in [
            ("", "/"),
            ("", "/repo"),
            ("style=raw", "/repo/log"),
            ("cmd=changelog;style=raw", "/repo"),
            ("", "/repo/raw-file/tip/new"),
            ("", "/repo/no-such-page"),
            ("", "/no-such-repo"),
            ("cmd=no-such-command", "/repo"),
        ]:
            expected, seen = plain.send(query, path=path), wire.send(query, path=path)
            assert seen.status == expected.status, path
            assert seen.headers["content-type"] == expected.headers["content-type"]
            assert seen.body.replace(both.base.encode(), b"") == expected.body.replace(pages.base.encode(), b""), path
        # We answer commands: the header is one that hgweb does not send.
        assert "x-content-type-options" in wire.command("heads").headers
        assert "x-content-type-options" not in wire.send("", path="/repo/log").headers
    assert "Traceback" not in both.log()
