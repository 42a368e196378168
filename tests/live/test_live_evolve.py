"""evolve and topic, on the server, on the client, or on both: our application against hgweb, with the same client.

With topic, ``hg`` asks for ``tns_heads`` instead of ``heads``: in a batch, before every clone, pull and push.  Local
operations run in a command server that has both extensions.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_hg import Scribe, environment
from live_pair import CLIENT_HGRC, MakePair, Pair, Served, Side
from live_servers import OURS, SERVER_HGRC, require
from live_wait import PATIENCE

ENABLED = "[extensions]\nevolve =\ntopic =\n"
EXTENSIONS = ("extensions.evolve=", "extensions.topic=")
EVOLUTION = ("experimental.evolution=all",)
DRAFTS = "[phases]\npublish = no\n[experimental]\nevolution = all\n"
TOPICS = "{rev} {fqbn} {topic} {phase} {desc|firstline}\\n"


@pytest.fixture(scope="session")
def evolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scribe]:
    """A command server with both extensions."""
    require("hg", "evolve")
    folder = tmp_path_factory.mktemp("evolver")
    made = Scribe(environment(folder / "home", CLIENT_HGRC + ENABLED), folder)
    yield made
    made.close()


@pytest.fixture(scope="session")
def evolve_pair(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers with both extensions, in processes of their own: extensions affect every repository of a process."""
    require("evolve")
    return make_pair(hgrc=SERVER_HGRC + ENABLED)


@pytest.fixture
def topic_pair(evolve_pair: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    """Both servers with the extensions, for this test."""
    return evolve_pair(request, tmp_path)


def commit(evolver: Scribe, repo: Path, name: str, *flags: str) -> None:
    """Write a file and commit it, or amend the parent with it."""
    with open(repo / name, "a") as file:
        file.write(f"{name}\n")
    evolver("commit", "-q", "-A", "-m", f"{name} {' '.join(flags)}".strip(), *flags, repo=repo)


def capabilities(served: Served) -> set[str]:
    """Return the capabilities that come from these extensions."""
    with urllib.request.urlopen(f"{served.url}?cmd=capabilities", timeout=PATIENCE) as answer:
        return {word for word in answer.read().decode().split() if "topic" in word or "evoext" in word}


@pytest.mark.parametrize("where", [("server", "client"), ("server",), ("client",)], ids=" and ".join)
def test_drafts_are_rewritten_and_exchanged(
    where: tuple[str, ...], evolver: Scribe, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Clone, push, amend in one repository, pull into another."""
    maker: MakePair = request.getfixturevalue("evolve_pair" if "server" in where else "gunicorn_pair")
    pair = maker(request, tmp_path)

    def scenario(side: Side) -> Any:
        side.config = EXTENSIONS if "client" in where else EVOLUTION
        served = side.serve("history", hgrc=DRAFTS)
        first = side.clone(served.url, "first")
        second = side.checkout("history", "second")
        if "client" in where:
            evolver("topics", "work", repo=first)
        commit(evolver, first, "one")
        side.hg("push", "--new-branch", cwd=first)
        side.hg("pull", served.url, cwd=second)
        commit(evolver, first, "one", "--amend")
        side.hg("push", "-f", cwd=first)
        side.hg("pull", served.url, cwd=second)
        side.hg("incoming", served.url, cwd=second, ok=(1,))
        return side.state(served.path), side.state(second), capabilities(served)

    server, client, said = pair.same(scenario)
    assert server["changesets"] == client["changesets"]
    assert len(server["markers"]) == 1
    assert server["changesets"][-1].endswith("one --amend")
    assert bool(said) == ("server" in where)


def test_topics_and_their_namespaces(topic_pair: Pair, evolver: Scribe) -> None:
    """A clone brings them, also of one topic or as a stream; a client can leave out the namespaces of others."""

    def scenario(side: Side) -> Any:
        side.config = EXTENSIONS
        served = side.serve("history", hgrc=DRAFTS)
        work = side.checkout("history")
        for topic, namespace in [("one", ""), ("two", "team")]:
            evolver("update", "-q", "default", repo=work)
            evolver("debug-topic-namespace", *([namespace] if namespace else ["--clear"]), repo=work)
            evolver("topics", topic, repo=work)
            commit(evolver, work, f"in {topic}")
            side.hg("push", "-r", ".", served.url, cwd=work)
        drafts = {}
        for name, flags, config in [
            ("whole", [], []),
            ("named", ["-r", "one"], []),
            ("streamed", ["--stream"], []),
            ("namespace", [], ["experimental.tns-default-pull-namespaces=others"]),
        ]:
            clone = side.clone(served.url, name, "-U", *flags, config=config)
            drafts[name] = evolver("log", "-r", "draft()", "-T", TOPICS, repo=clone).splitlines()
        return drafts, capabilities(served)

    drafts, said = topic_pair.same(scenario)
    one, two = "7 default//one one draft in one", "8 default//team/two two draft in two"
    assert drafts == {"whole": [one, two], "named": [one.replace("7", "6")], "streamed": [one, two], "namespace": [one]}
    assert {"_exttopics_heads", "topics"} <= {word.partition("=")[0] for word in said}


def test_the_servers_rules_for_topics(topic_pair: Pair, evolver: Scribe) -> None:
    """Changesets without a topic are published; a second head of a topic and a namespace are refused."""

    def scenario(side: Side) -> Any:
        side.config = EXTENSIONS
        served = side.serve("history", hgrc=DRAFTS + "topic.publish-bare-branch = yes\ntns-reject-push = yes\n")
        work = side.checkout("history")
        for name, topic, namespace in [("bare", "", ""), ("head", "t", ""), ("second", "t", ""), ("closed", "n", "n")]:
            evolver("update", "-q", "-r", "2", repo=work)
            if namespace:
                evolver("debug-topic-namespace", namespace, repo=work)
            if topic:
                evolver("topics", topic, repo=work)
            commit(evolver, work, name)
            flags = ["-f"] if name in ("bare", "closed") else []
            side.hg("push", "-r", ".", *flags, served.url, cwd=work, ok=(0, 20, 255))
        return side.state(served.path)

    lines = topic_pair.same(scenario)["changesets"]
    assert [line.split()[-1] for line in lines[7:]] == ["bare", "head"]
    assert [line.split()[2] for line in lines[7:]] == ["public", "draft"]


def test_markers_are_found_by_ranges(topic_pair: Pair, evolver: Scribe) -> None:
    """A client that has some of the markers asks with ``evoext_obshashrange_v1`` which ranges differ."""

    def scenario(side: Side) -> Any:
        ranges = "experimental.obshashrange=yes"
        side.config = (*EXTENSIONS, "experimental.verbose-obsolescence-exchange=yes", ranges)
        served = side.serve("empty", hgrc=DRAFTS + "obshashrange = yes\nobshashrange.warm-cache = yes\n")
        work = side.checkout("empty")
        for number in range(3):
            commit(evolver, work, f"file{number}")
        side.hg("push", served.url, cwd=work)
        clone = side.clone(served.url, "clone")
        for repo, marked in ((work, "tip"), (clone, "1")):
            evolver("update", "-q", marked, repo=repo)
            commit(evolver, repo, "more", "--amend")
            side.hg("push", "-f", served.url, cwd=repo)
        said = side.hg("pull", "--debug", served.url, cwd=work)
        # Its output includes headers and sizes, which differ.
        side.transcript.pop()
        side.hg("pull", cwd=clone)
        markers = [side.state(repo)["markers"] for repo in (served.path, work, clone)]
        return markers, "sending evoext_obshashrange_v1 command" in said.out

    markers, asked = topic_pair.same(scenario)
    assert asked
    assert len(markers[0]) == 2
    assert sorted(markers[0]) == sorted(markers[1]) == sorted(markers[2])


@pytest.fixture(scope="session")
def plain_servers(make_pair: Callable[..., MakePair]) -> MakePair:
    """Servers without extensions, in processes of their own: those of one repository stay loaded."""
    return make_pair(hgrc=SERVER_HGRC)


def test_topics_of_one_repository(plain_servers: MakePair, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The extensions are enabled in its own configuration; other repositories do not announce them."""
    pair = plain_servers(request, tmp_path)

    def scenario(side: Side) -> Any:
        side.config = EXTENSIONS
        served = side.serve("ahead", hgrc=DRAFTS + ENABLED)
        clone = side.clone(served.url)
        side.hg("pull", cwd=clone)
        return side.state(clone), capabilities(served)

    state, said = pair.same(scenario)
    assert len(state["changesets"]) == 9 and said
    if OURS == "ours":
        ours = pair.sides["ours"]
        assert capabilities(ours.serve("history", suffix="-plain")) == set()
