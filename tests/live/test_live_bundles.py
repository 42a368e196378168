"""Clone bundles, pull bundles and posted arguments: our application against hgweb, with the same client."""

from __future__ import annotations

import functools
import http.server
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_pair import MakePair, Pair, Served, Side
from live_servers import OURS, SERVER_HGRC
from live_wait import PATIENCE

CLONE_BUNDLES = "[extensions]\nclonebundles =\n"


@pytest.fixture(scope="session")
def bundles_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Separate servers: once loaded, an extension affects every repository of its process."""
    return make_pair(hgrc=SERVER_HGRC)


@pytest.fixture
def pair(bundles_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return bundles_pair(request, tmp_path)


@pytest.fixture
def static(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A plain file server, like a CDN: its address, its folder, and the requested paths."""
    folder = tmp_path / "static"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    thread.join()
    server.server_close()


def bundle(side: Side, target: Path, *flags: str) -> Path:
    """Write a bundle of the common history, as an administrator would."""
    target.parent.mkdir(parents=True, exist_ok=True)
    side.scribe("bundle", "-q", *flags, str(target), repo=side.workshop.original("history"))
    return target


@pytest.mark.parametrize("spec", ["gzip-v2", "zstd-v2", "none-v2", "none-packed1"])
def test_a_clone_bundle_somewhere_else(pair: Pair, static: tuple[str, Path, list[str]], spec: str) -> None:
    address, folder, asked = static

    def scenario(side: Side) -> Any:
        if spec == "none-packed1":
            side.scribe("debugcreatestreamclonebundle", str(folder / "it.hg"), repo=side.workshop.original("history"))
        else:
            bundle(side, folder / "it.hg", "--all", "-t", spec)
        served = side.serve("ahead", hgrc=CLONE_BUNDLES)
        manifest = f"{address}/it.hg BUNDLESPEC={spec}\n" if spec != "none-packed1" else f"{address}/it.hg\n"
        (served.path / ".hg" / "clonebundles.manifest").write_text(manifest)
        return side.state(side.clone(served.url))

    # The requests to the other server depend only on the manifest.
    assert len(pair.same(scenario)["changesets"]) == 9
    assert asked == ["/it.hg"] * 2
    assert "applying clone bundle from" in pair.sides["ours"].transcript[0].out


def test_a_clone_bundle_that_is_gone(pair: Pair, static: tuple[str, Path, list[str]]) -> None:
    address, _, asked = static

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc=CLONE_BUNDLES)
        (served.path / ".hg" / "clonebundles.manifest").write_text(f"{address}/gone.hg BUNDLESPEC=none-v2\n")
        side.hg("clone", served.url, "failed", ok=(255, 100))
        return side.state(side.clone(served.url, config=["ui.clonebundlefallback=yes"]))

    assert len(pair.same(scenario)["changesets"]) == 7
    assert len(asked) >= 4


def inline(side: Side, served: Served, name: str = "it.hg") -> None:
    """Put a bundle into the folder of bundles that Mercurial sends itself, and list it in the manifest."""
    bundle(side, served.path / ".hg" / "bundle-cache" / name, "--all", "-t", "zstd-v2")
    (served.path / ".hg" / "clonebundles.manifest").write_text(f"peer-bundle-cache://{name} BUNDLESPEC=zstd-v2\n")


def test_an_inline_clone_bundle(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("ahead", hgrc=CLONE_BUNDLES)
        inline(side, served)
        return side.state(side.clone(served.url))

    assert len(pair.same(scenario)["changesets"]) == 9
    assert "applying clone bundle from peer-bundle-cache://it.hg" in pair.sides["ours"].transcript[0].out


def test_an_inline_clone_bundle_in_a_sub_folder_and_refused_by_the_client(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("ahead", hgrc=CLONE_BUNDLES)
        inline(side, served, "sub/it.hg")
        return (
            side.state(side.clone(served.url)),
            side.state(side.clone(served.url, "without", config=["ui.clonebundles=no"])),
        )

    first, second = pair.same(scenario)
    assert first == second


def test_an_inline_clone_bundle_outside_its_folder_is_not_sent(pair: Pair) -> None:
    """hgweb compares paths as prefixes: a sibling folder whose name starts the same is accepted there."""

    def scenario(side: Side) -> int:
        served = side.serve(hgrc=CLONE_BUNDLES)
        bundle(side, served.path / ".hg" / "bundle-cache-private" / "it.hg", "--all", "-t", "zstd-v2")
        (served.path / ".hg" / "bundle-cache").mkdir()
        manifest = "peer-bundle-cache://../bundle-cache-private/it.hg BUNDLESPEC=zstd-v2\n"
        (served.path / ".hg" / "clonebundles.manifest").write_text(manifest)
        return side.hg("clone", served.url, "clone", ok=(0, 255)).code

    if OURS == "ours":
        assert pair.alone(scenario) == 255
        assert not (pair.sides["ours"].folder / "clone" / ".hg" / "store" / "00changelog.i").exists()


def test_pull_bundles(pair: Pair) -> None:
    """The server answers with prepared files; the client asks again until it has everything."""

    def scenario(side: Side) -> Any:
        served = side.serve("ahead", hgrc="[server]\npullbundle = yes\n")
        low, high = (side.scribe("log", "-r", rev, "-T", "{node}", repo=served.path) for rev in "26")
        bundle(side, served.path / ".hg" / "low.hg", "--base", "null", "-r", "2", "-t", "gzip-v2")
        bundle(side, served.path / ".hg" / "high.hg", "--base", "2", "-r", "6", "-t", "zstd-v2")
        (served.path / ".hg" / "pullbundles.manifest").write_text(
            f"low.hg BUNDLESPEC=gzip-v2 heads={low}\nhigh.hg BUNDLESPEC=zstd-v2 heads={high} bases={low}\n"
        )
        clone = side.clone(served.url)
        side.hg("pull", cwd=clone)
        side.hg("pull", "-r", "2", served.url, cwd=side.checkout("empty", "part"))
        side.hg("pull", served.url, cwd=side.folder / "part", config=["experimental.clientcompressionengines=zlib"])
        return side.state(clone), side.state(side.folder / "part")

    whole, part = pair.same(scenario)
    assert len(whole["changesets"]) == len(part["changesets"]) == 9
    # Both bundles, then the changesets that are in neither.
    assert pair.sides["ours"].transcript[0].out.count("adding changesets") == 3


@pytest.fixture(scope="session")
def post_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers that offer posted arguments."""
    return make_pair(post_args=True)


def test_posted_arguments(post_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Clone, pull with many nodes, look up, and push, with arguments in front of the body of a POST."""
    pair = post_pair(request, tmp_path)

    def scenario(side: Side) -> Any:
        served = side.serve("heads")
        partial = side.clone(served.url, "partial", "-U", "-r", "1")
        side.hg("pull", cwd=partial)
        side.hg("identify", "-r", "tip", "-B", served.url)
        (partial / "file").write_text("new\n")
        side.hg("update", "-q", "1", cwd=partial)
        side.hg("commit", "-A", "-q", "-m", "one more", cwd=partial)
        side.hg("push", "-r", ".", served.url, cwd=partial)
        side.scribe("bookmark", "-r", "tip", "mark", repo=partial)
        side.hg("push", "-B", "mark", served.url, cwd=partial, ok=(1,))
        return side.state(served.path)["changesets"][-1], side.state(served.path)["bookmarks"]

    last, marks = pair.same(scenario)
    assert last.endswith("one more") and marks[0].startswith("mark ")


@pytest.mark.parametrize("offered", [True, False])
def test_arguments_are_posted_where_that_is_offered(
    post_pair: MakePair, bundles_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path, offered: bool
) -> None:
    pair = (post_pair if offered else bundles_pair)(request, tmp_path)

    def scenario(side: Side) -> bool:
        url = side.serve().url
        with urllib.request.urlopen(f"{url}?cmd=capabilities", timeout=PATIENCE) as answer:
            assert (b"httppostargs" in answer.read().split()) == offered
        said = side.hg("identify", "-r", "v1", "--debug", url, config=["devel.debug.peer-request=yes"])
        side.transcript.clear()
        assert side.scribe("log", "-r", "v1", "-T", "{node}", repo=side.site / side.name) in said.out
        return "POST" in said.err + said.out

    assert pair.same(scenario) == offered
