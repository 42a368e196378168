"""Clone, pull, incoming, outgoing and identify: our application against hgweb, with the same client."""

from __future__ import annotations

from typing import Any

import pytest
from live_pair import Pair, Side
from live_repos import BOOKMARK, BRANCH

BUNDLE1 = "devel.legacy.exchange=bundle1"


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--stream",),
        ("--uncompressed",),
        ("--pull",),
        ("-U",),
        ("-r", "stable"),
        ("-r", "v1"),
        ("-b", "stable"),
        ("--noupdate", "-r", "0", "-r", "4"),
        ("-u", "stable"),
    ],
    ids=" ".join,
)
def test_clone(pair: Pair, flags: tuple[str, ...]) -> None:
    def scenario(side: Side) -> dict[str, list[str]]:
        return side.state(side.clone(side.serve().url, "clone", *flags))

    state = pair.same(scenario)
    assert state["changesets"]
    assert all(" public " in line for line in state["changesets"])
    if "-r" not in flags and "-b" not in flags:
        assert len(state["changesets"]) == 7
        assert [line.split()[0] for line in state["bookmarks"]] == ["main", "old", BOOKMARK]


@pytest.mark.parametrize("flags", [("-r", BRANCH), ("-r", BOOKMARK), ("-b", BRANCH)], ids=" ".join)
def test_clone_of_a_revision_with_a_name_outside_ascii(pair: Pair, flags: tuple[str, ...]) -> None:
    """hgweb answers 500, because it parses argument values as ASCII; so a local clone is the reference."""

    def scenario(side: Side) -> dict[str, list[str]]:
        side.hg("clone", *flags, str(side.workshop.original("history")), "locally")
        side.hg("clone", *flags, side.serve().url, "wire")
        return {name: side.state(side.folder / name) for name in ("locally", "wire")}

    states = pair.alone(scenario)
    assert states["wire"] == states["locally"]
    assert len(states["wire"]["changesets"]) == 3


def test_clone_has_the_same_files(pair: Pair) -> None:
    def scenario(side: Side) -> dict[str, tuple[bytes, int]]:
        clone = side.clone(side.serve().url)
        return {
            path.name: (path.read_bytes(), path.stat().st_mode & 0o111) for path in clone.iterdir() if path.is_file()
        }

    files = pair.same(scenario)
    assert files["blob"][0] == bytes(range(256)) * 20
    assert files["b"][1] and not files["renamed"][1]


@pytest.mark.parametrize("flags", [("-U",), (), ("--stream",), ("--pull",)], ids=" ".join)
def test_clone_of_an_empty_repository(pair: Pair, flags: tuple[str, ...]) -> None:
    def scenario(side: Side) -> dict[str, list[str]]:
        return side.state(side.clone(side.serve("empty").url, "clone", *flags))

    assert pair.same(scenario)["changesets"] == []


def test_clone_of_an_unknown_revision(pair: Pair) -> None:
    def scenario(side: Side) -> None:
        side.hg("clone", "-r", "no-such-revision", side.serve().url, "clone", ok=(255, 10))

    pair.same(scenario)
    assert "unknown revision 'no-such-revision'" in pair.sides["ours"].transcript[0].err


def test_clone_of_a_repository_that_does_not_exist(pair: Pair) -> None:
    def scenario(side: Side) -> None:
        side.hg("clone", f"{side.server.base}/nothing-here", "clone", ok=(255, 100))

    # The wording of a 404 may differ.
    pair.same(scenario, output=False)
    assert "404" in pair.sides["ours"].transcript[0].err


@pytest.mark.parametrize(
    ("hgrc", "flags"),
    [
        ("[server]\nuncompressed = no\n", ("--stream",)),
        ("[server]\npreferuncompressed = yes\n", ()),
        ("[server]\nzliblevel = 9\ncompressionengines = zlib\n", ()),
        ("[server]\nuncompressedallowsecret = yes\n", ("--stream",)),
        ("[server]\nbundle1 = no\n", ()),
        ("[experimental]\nstream-v3 = yes\n", ("--stream",)),
        ("[format]\nusegeneraldelta = no\n", ()),
    ],
    ids=lambda value: " ".join(value.split("\n")[1:]).strip() if isinstance(value, str) else " ".join(value),
)
def test_server_settings_of_a_clone(pair: Pair, hgrc: str, flags: tuple[str, ...]) -> None:
    def scenario(side: Side) -> dict[str, list[str]]:
        return side.state(side.clone(side.serve(hgrc=hgrc).url, "clone", *flags))

    assert len(pair.same(scenario)["changesets"]) == 7


@pytest.mark.parametrize("engines", ["zstd", "zlib", "none", "bzip2", "bzip2,none", "none,zlib"])
def test_engines_the_client_offers(pair: Pair, engines: str) -> None:
    def scenario(side: Side) -> dict[str, list[str]]:
        url = side.serve().url
        return side.state(side.clone(url, config=[f"experimental.clientcompressionengines={engines}"]))

    assert len(pair.same(scenario)["changesets"]) == 7


def test_bundle1_clone_and_pull(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        side.config = (BUNDLE1,)
        served = side.serve()
        clone = side.clone(served.url, "clone", "-r", "0")
        side.hg("incoming", cwd=clone)
        side.hg("pull", cwd=clone)
        return side.state(clone), side.state(side.clone(served.url, "streamed", "--stream"))

    pulled, streamed = pair.same(scenario)
    assert len(pulled["changesets"]) == len(streamed["changesets"]) == 7


def test_bundle1_refused_by_the_server(pair: Pair) -> None:
    def scenario(side: Side) -> None:
        side.config = (BUNDLE1,)
        side.hg("clone", side.serve(hgrc="[server]\nbundle1.pull = no\n").url, "clone", ok=(255, 100))

    pair.same(scenario)
    assert "incompatible Mercurial client; bundle2 required" in pair.sides["ours"].transcript[0].err


def test_pull_then_pull_of_nothing(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        url = side.serve("ahead").url
        clone = side.checkout("history")
        side.hg("pull", url, cwd=clone)
        side.hg("pull", url, cwd=clone)
        return side.state(clone)

    assert len(pair.same(scenario)["changesets"]) == 9
    assert "no changes found" in pair.sides["ours"].transcript[-1].out


def test_pull_of_a_revision_and_with_update(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        url = side.serve("ahead").url
        clone = side.checkout("empty")
        side.hg("pull", "-r", "stable", url, cwd=clone)
        side.hg("pull", "-u", "--rebase", url, cwd=clone, config=["extensions.rebase="])
        return side.state(clone)

    assert len(pair.same(scenario)["changesets"]) == 9


def test_pull_of_a_bookmark(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        url = side.serve().url
        clone = side.checkout("empty")
        side.hg("pull", "-B", "old", url, cwd=clone)
        middle = side.state(clone)
        side.hg("pull", "-B", "missing", url, cwd=clone, ok=(255, 10))
        side.hg("pull", url, cwd=clone)
        return middle, side.state(clone)

    middle, end = pair.same(scenario)
    assert [line.split()[0] for line in middle["bookmarks"]] == ["old"]
    assert len(end["bookmarks"]) == 3


def test_pull_of_a_bookmark_with_a_name_outside_ascii(pair: Pair) -> None:
    def scenario(side: Side) -> dict[str, list[str]]:
        clone = side.checkout("empty")
        side.hg("pull", "-B", BOOKMARK, side.serve().url, cwd=clone)
        return side.state(clone)

    state = pair.alone(scenario)
    assert [line.split()[0] for line in state["bookmarks"]] == ["old", BOOKMARK]
    assert len(state["changesets"]) == 3


def test_incoming(pair: Pair) -> None:
    def scenario(side: Side) -> None:
        url = side.serve("ahead").url
        clone = side.checkout("history")
        side.hg("incoming", "-p", url, cwd=clone)
        side.hg("incoming", "-B", url, cwd=clone, ok=(1,))
        side.hg("incoming", "--bundle", "saved.hg", url, cwd=clone)
        side.hg("incoming", "-B", url, cwd=side.checkout("empty", "empty"), ok=(0, 1))
        side.hg("pull", "-q", "saved.hg", cwd=clone)
        side.hg("incoming", url, cwd=clone, ok=(1,))

    pair.same(scenario)
    assert "+four" in pair.sides["ours"].transcript[0].out


def test_outgoing(pair: Pair) -> None:
    def scenario(side: Side) -> None:
        url = side.serve().url
        side.hg("outgoing", url, cwd=side.checkout("ahead"))
        side.hg("outgoing", "-B", url, cwd=side.checkout("history", "same"), ok=(0, 1))
        side.hg("outgoing", url, cwd=side.folder / "same", ok=(1,))

    pair.same(scenario)
    assert "summary:     fourth" in pair.sides["ours"].transcript[0].out


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--debug",),
        ("-r", "stable"),
        ("-r", "v1"),
        ("-r", "-1"),
        ("-B",),
        ("-B", "-t"),
        ("-r", "nothing"),
    ],
    ids=" ".join,
)
def test_identify(pair: Pair, flags: tuple[str, ...]) -> None:
    def scenario(side: Side) -> None:
        side.hg("identify", *flags, side.serve().url, ok=(0, 10, 255))

    # --debug prints the headers too, which differ.
    pair.same(scenario, output="--debug" not in flags)
    assert bool(pair.sides["ours"].transcript[0].code) == ("nothing" in flags or "-t" in flags)


@pytest.mark.parametrize("name", [BRANCH, BOOKMARK])
def test_identify_of_a_name_outside_ascii(pair: Pair, name: str) -> None:
    def scenario(side: Side) -> tuple[str, str]:
        wire = side.hg("identify", "--id", "-r", name, side.serve().url)
        local = side.hg("identify", "--id", "-r", name, str(side.workshop.original("history")))
        return wire.out, local.out

    wire, local = pair.alone(scenario)
    assert wire == local != ""


def test_secret_changesets_are_not_served(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("drafts")
        return (
            side.state(side.clone(served.url)),
            side.state(side.clone(served.url, "streamed", "--stream")),
            side.hg("clone", "-r", "2", served.url, "refused", ok=(255, 10)).code,
        )

    pulled, streamed, _ = pair.same(scenario)
    for state in (pulled, streamed):
        assert [line.split()[-1] for line in state["changesets"]] == ["public", "draft"]
        assert all(" public " in line for line in state["changesets"])


def test_phases_of_a_server_that_does_not_publish(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        return side.state(side.clone(side.serve("drafts", hgrc="[phases]\npublish = no\n").url))

    lines = pair.same(scenario)["changesets"]
    assert [" public " in lines[0], " draft " in lines[1]] == [True, True]


def test_a_repository_with_two_thousand_heads(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("heads")
        clone = side.clone(served.url, "clone", "-U")
        side.hg("pull", cwd=clone)
        (clone / "file").write_text("new\n")
        side.hg("commit", "-A", "-q", "-m", "one more", cwd=clone)
        side.hg("push", "-f", cwd=clone)
        # A client without the other 1,999 heads has to name all of them in one request.
        partial = side.clone(served.url, "partial", "-U", "-r", "1")
        side.hg("pull", cwd=partial)
        return len(side.state(partial)["changesets"]), side.state(served.path)["changesets"][-1]

    count, last = pair.same(scenario)
    assert count == 2002
    assert last.endswith("one more")


def test_a_commit_on_the_servers_disk_is_seen(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("public-only")
        first = side.hg("identify", "--id", served.url).out
        side.workshop.commit(served.path, "by hand", a="by hand\n")
        second = side.hg("identify", "--id", served.url).out
        side.scribe("bookmark", "made-by-hand", repo=served.path)
        side.scribe("phase", "-s", "-f", "tip", repo=served.path)
        third = side.hg("identify", "--id", served.url).out
        return first, second, third, side.state(side.clone(served.url))

    first, second, third, _ = pair.same(scenario)
    assert first == third != second
