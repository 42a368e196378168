"""Replies byte for byte: the same handwritten request to our application and to hgweb."""

from __future__ import annotations

import zlib
from pathlib import Path

import attrs
import pytest
import zstandard
from live_repos import BRANCH, Workshop
from live_servers import OURS, SIDES, Server, Site, StartServer
from live_wire import Answer, Wire

NULL = "0" * 40
BUNDLE2 = "HG20%2Cbundle2%3DHG20%250Achangegroup%253D01%252C02%252C03"


@attrs.frozen(kw_only=True)
class Ask:
    """A command with its arguments; ``{tip}``, ``{first}`` and ``{stable}`` stand for nodes."""

    command: str
    arguments: str = ""
    proto: str = ""


ASKS = {
    "heads": Ask(command="heads"),
    "hello without its capabilities": Ask(command="protocaps", arguments="caps=partial-pull"),
    "branchmap": Ask(command="branchmap"),
    "namespaces": Ask(command="listkeys", arguments="namespace=namespaces"),
    "bookmarks": Ask(command="listkeys", arguments="namespace=bookmarks"),
    "phases": Ask(command="listkeys", arguments="namespace=phases"),
    "an unknown namespace": Ask(command="listkeys", arguments="namespace=nonsense"),
    "lookup of a tag": Ask(command="lookup", arguments="key=v1"),
    "lookup of a number": Ask(command="lookup", arguments="key=3"),
    "lookup of a prefix": Ask(command="lookup", arguments="key={prefix}"),
    "lookup of nothing": Ask(command="lookup", arguments="key=nothing"),
    "lookup of an unknown node": Ask(command="lookup", arguments="key=" + "f" * 40),
    "known": Ask(command="known", arguments="nodes={tip}+" + "f" * 40 + "+{first}"),
    "known of none": Ask(command="known", arguments="nodes="),
    "between": Ask(command="between", arguments="pairs={tip}-{first}+{stable}-" + NULL),
    "branches": Ask(command="branches", arguments="nodes={tip}+{stable}"),
    "batch": Ask(command="batch", arguments="cmds=heads+%3Bknown+nodes%3D{tip}%3Blookup+key%3Dv1%3Bbranchmap+"),
    "batch with escapes": Ask(command="batch", arguments="cmds=lookup+key%3Da%3Ac%3Ao%3As%3Ae"),
    "clone bundles": Ask(command="clonebundles"),
    "clone bundles manifest": Ask(command="clonebundles_manifest", arguments="store_fingerprint=1"),
    "inline bundle": Ask(command="get_cached_bundle_inline", arguments="path=it.hg", proto="0.1 0.2 comp=zstd"),
    "stream_out": Ask(command="stream_out"),
    "changegroup": Ask(command="changegroup", arguments="roots={first}"),
    "changegroupsubset": Ask(command="changegroupsubset", arguments="bases={first}&heads={stable}"),
    "getbundle": Ask(command="getbundle", arguments=f"common={NULL}"),
    "getbundle of a part": Ask(command="getbundle", arguments="common={first}&heads={stable}"),
    "getbundle of nothing": Ask(command="getbundle", arguments="common={tip}&heads={tip}"),
    "getbundle of bundle2": Ask(
        command="getbundle",
        arguments=f"common={NULL}&cg=1&bookmarks=1&phases=1&listkeys=phases%2Cbookmarks&bundlecaps={BUNDLE2}",
    ),
    "getbundle of no changegroup": Ask(
        command="getbundle", arguments=f"common={NULL}&cg=0&listkeys=bookmarks&bundlecaps={BUNDLE2}"
    ),
}
PROTOS = ["", "0.1 0.2 comp=zstd,zlib,none", "0.1 0.2 comp=zlib", "0.1 0.2 comp=none", "0.1 0.2", "0.2 comp=zlib"]
STREAMED = [name for name, ask in ASKS.items() if ask.command in ("getbundle", "changegroup", "changegroupsubset")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Path:
    folder = tmp_path_factory.mktemp("replies")
    repo = workshop.copy("history", folder / "repo", "[extensions]\nclonebundles =\n")
    bundle = repo / ".hg" / "bundle-cache" / "it.hg"
    bundle.parent.mkdir()
    workshop.hg("bundle", "-q", "--all", "-t", "zstd-v2", str(bundle), repo=repo)
    (repo / ".hg" / "clonebundles.manifest").write_text(
        "https://cdn.example/it.hg BUNDLESPEC=zstd-v2\npeer-bundle-cache://it.hg BUNDLESPEC=zstd-v2\n"
    )
    workshop.copy("empty", folder / "empty")
    return folder


@pytest.fixture(scope="module")
def servers(site: Path, start_server: StartServer) -> dict[str, Server]:
    return {side: start_server("gunicorn", Site(side=side, root=str(site))) for side in SIDES}


def both(servers: dict[str, Server], path: str, ask: Ask, nodes: dict[str, str]) -> tuple[Answer, Answer]:
    """Send a request to both sides."""
    arguments = ask.arguments
    for name, node in nodes.items():
        arguments = arguments.replace("{" + name + "}", node)
    headers = {"X-HgArg-1": arguments} if arguments else {}
    if ask.proto:
        headers["X-HgProto-1"] = ask.proto
    answers = []
    for side in SIDES:
        with Wire(servers[side].port, path) as wire:
            answers.append(wire.send(f"cmd={ask.command}", headers=headers))
    return answers[0], answers[1]


def inflated(answer: Answer) -> bytes:
    """Return the body decompressed: the extra ``fast`` compresses differently, and our zstd data carry a checksum."""
    front = 1 + answer.body[0] if answer.headers["content-type"] == "application/mercurial-0.2" else 0
    engine, data = answer.body[:front], answer.body[front:]
    if engine[1:] == b"zstd":
        return engine + zstandard.ZstdDecompressor().decompressobj().decompress(data)
    is_zlib = engine[1:] == b"zlib" if front else data.startswith(b"\x78")
    return engine + (zlib.decompress(data) if is_zlib else data)


def same(ours: Answer, reference: Answer) -> None:
    assert (ours.status, ours.reason) == (reference.status, reference.reason)
    assert ours.headers["content-type"] == reference.headers["content-type"]
    assert inflated(ours) == inflated(reference)


@pytest.fixture(scope="module")
def nodes(workshop: Workshop) -> dict[str, str]:
    repo = workshop.original("history")
    found = {
        name: workshop.hg("log", "-r", rev, "-T", "{node}", repo=repo)
        for name, rev in [("tip", "tip"), ("first", "0"), ("stable", "stable")]
    }
    return {**found, "prefix": found["tip"][:9]}


# The empty lines of the old manifest of clone bundles have a test of their own.
@pytest.mark.parametrize("name", [name for name in ASKS if name != "clone bundles"])
def test_replies(name: str, servers: dict[str, Server], nodes: dict[str, str]) -> None:
    same(*both(servers, "/repo", ASKS[name], nodes))


@pytest.mark.parametrize("name", [name for name in ASKS if "inline" not in name])
def test_replies_of_an_empty_repository(name: str, servers: dict[str, Server]) -> None:
    same(*both(servers, "/empty", ASKS[name], dict.fromkeys(("tip", "first", "stable", "prefix"), NULL)))


@pytest.mark.parametrize("proto", PROTOS)
@pytest.mark.parametrize("name", [*STREAMED, "heads", "lookup of nothing"])
def test_media_types_and_engines(name: str, proto: str, servers: dict[str, Server], nodes: dict[str, str]) -> None:
    ours, reference = both(servers, "/repo", attrs.evolve(ASKS[name], proto=proto), nodes)
    same(ours, reference)


@pytest.mark.parametrize("path", ["/repo", "/empty"])
@pytest.mark.parametrize("command", ["capabilities", "hello"])
def test_capabilities(command: str, path: str, servers: dict[str, Server]) -> None:
    """Equal to those of hgweb, except that ours also receives bodies of media type 0.2."""
    ours, reference = both(servers, path, Ask(command=command), {})
    assert ours.status == reference.status == 200
    mine, theirs = (set(answer.body.split()) for answer in (ours, reference))
    assert mine - theirs == {b"httpmediatype=0.1rx,0.1tx,0.2rx,0.2tx"}
    assert theirs - mine == {b"httpmediatype=0.1rx,0.1tx,0.2tx"}
    assert ours.headers["content-type"] == reference.headers["content-type"]


@pytest.mark.skipif(OURS != "ours", reason="hgweb has this fault: HGWIRE_LIVE_OURS is set")
def test_the_old_manifest_of_clone_bundles_has_no_empty_lines(
    servers: dict[str, Server], site: Path, workshop: Workshop
) -> None:
    """hgweb omits the lines that old clients do not understand, and puts an empty line between the others."""
    manifest = "https://cdn.example/1.hg BUNDLESPEC=zstd-v2\npeer-bundle-cache://it.hg BUNDLESPEC=zstd-v2\n"
    manifest += "https://cdn.example/2.hg BUNDLESPEC=gzip-v2 REQUIRESNI=true\nhttps://cdn.example/3.hg\n"
    repo = workshop.copy("public-only", site / "manifest", "[extensions]\nclonebundles =\n")
    (repo / ".hg" / "clonebundles.manifest").write_text(manifest)
    ours, reference = both(servers, "/manifest", Ask(command="clonebundles"), {})
    assert (ours.status, ours.headers["content-type"]) == (reference.status, reference.headers["content-type"])
    assert [line for line in reference.text.splitlines() if line] == ours.text.splitlines()
    assert [line.partition(" ")[0][-4] for line in ours.text.splitlines()] == ["1", "2", "3"]
    assert ours.text.endswith("\n")


def test_the_branchmap_is_quoted(servers: dict[str, Server]) -> None:
    """The comparison above would also accept two wrong answers; this is the right one."""
    ours, _ = both(servers, "/repo", Ask(command="branchmap"), {})
    assert "Stra%C3%9Fe " in ours.text and BRANCH not in ours.text


def test_pushes_by_hand(servers: dict[str, Server], site: Path, workshop: Workshop, tmp_path: Path) -> None:
    """The answers to a bundle1 push, the same push again, bookmarks, and a lost race."""
    target = site / "target"
    bundle = tmp_path / "it.hg"
    workshop.hg("bundle", "-q", "--all", "-t", "gzip-v1", str(bundle), repo=workshop.original("history"))
    node = workshop.hg("log", "-r", "tip", "-T", "{node}", repo=workshop.original("history"))
    first = workshop.hg("log", "-r", "0", "-T", "{node}", repo=workshop.original("history"))
    seen = {}
    for side in SIDES:
        workshop.copy("empty", target)
        with Wire(servers[side].port, "/target") as wire:
            body = bundle.read_bytes()
            answers = [
                wire.command("unbundle", "POST", body, heads="666f726365"),
                wire.command("unbundle", "POST", body, heads="686173686564 " + "00" * 20),
                wire.command("unbundle", "POST", body, heads=NULL),
                wire.command("pushkey", "POST", b"", namespace="bookmarks", key="mark", old="", new=node),
                wire.command("pushkey", "POST", b"", namespace="bookmarks", key="mark", old=NULL, new=first),
                wire.command("listkeys", namespace="bookmarks"),
                wire.command("heads"),
            ]
        seen[side] = [(answer.status, answer.reason, answer.headers["content-type"], answer.body) for answer in answers]
        target.rename(tmp_path / side)
    assert seen["ours"] == seen["hgweb"]
    # One new head.
    assert seen["ours"][0][3].startswith(b"2\nadding changesets\n")
    assert seen["ours"][3][3] == b"1\n" and seen["ours"][4][3] == b"0\n"
