"""Every kind of push: our application against hgweb, with the same client."""

from __future__ import annotations

from typing import Any

import pytest
from live_hg import file_contents
from live_pair import Pair, Side
from live_repos import BOOKMARK, BRANCH

BUNDLE1 = "devel.legacy.exchange=bundle1"

ECHO = "sh -c 'echo hook says $HG_SOURCE $HG_TXNNAME; echo to the error output >&2; env | grep ^HG_USERVAR_ || true'"


def names(state: dict[str, list[str]]) -> list[str]:
    """Return the names of the bookmarks in a state."""
    return [line.split()[0] for line in state["bookmarks"]]


@pytest.mark.parametrize("config", [(), (BUNDLE1,)], ids=["bundle2", "bundle1"])
def test_push_to_an_empty_repository(pair: Pair, config: tuple[str, ...]) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("empty")
        side.hg("push", "--new-branch", served.url, cwd=side.checkout("ahead"), config=config)
        return side.state(served.path), side.state(side.folder / "work")

    server, client = pair.same(scenario)
    assert len(server["changesets"]) == 9
    # The server publishes, and the client learns of it.
    assert all(" public " in line for line in server["changesets"] + client["changesets"])


@pytest.mark.parametrize("config", [(), (BUNDLE1,)], ids=["bundle2", "bundle1"])
def test_incremental_push_then_nothing_to_push(pair: Pair, config: tuple[str, ...]) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        work = side.checkout("ahead")
        side.hg("push", "-r", "7", served.url, cwd=work, config=config)
        side.hg("push", served.url, cwd=work, config=config)
        side.hg("push", served.url, cwd=work, config=config, ok=(1,))
        return side.state(served.path), side.state(work)

    server, client = pair.same(scenario)
    assert [line.split()[0] for line in server["changesets"]] == [line.split()[0] for line in client["changesets"]]
    assert len(server["changesets"]) == 9


@pytest.mark.parametrize("config", [(), (BUNDLE1,)], ids=["bundle2", "bundle1"])
def test_a_new_head_is_refused_and_then_forced(pair: Pair, config: tuple[str, ...]) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        work = side.checkout("second-head")
        before = file_contents(served.path)
        side.hg("push", served.url, cwd=work, config=config, ok=(255, 20))
        unchanged = file_contents(served.path) == before
        side.hg("push", "-f", served.url, cwd=work, config=config)
        return unchanged, side.state(served.path)

    unchanged, server = pair.same(scenario)
    assert unchanged
    assert server["changesets"][-1].endswith("a second head")
    assert "push creates new remote head" in pair.sides["ours"].transcript[0].err


def test_a_new_branch_is_refused_and_then_allowed(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        work = side.checkout("history")
        side.hg("branch", "-q", "Öst", cwd=work)
        side.hg("commit", "-q", "-m", "eastern", cwd=work)
        side.hg("push", served.url, cwd=work, ok=(255, 20))
        side.hg("push", "--new-branch", served.url, cwd=work)
        return side.state(served.path)

    assert "branch=Öst " in pair.same(scenario)["changesets"][-1]
    assert BRANCH in "".join(pair.sides["ours"].state(pair.sides["ours"].site / pair.sides["ours"].name)["changesets"])


def test_bookmarks(pair: Pair) -> None:
    """Pushed with changesets, alone, moved, moved backwards, deleted."""

    def scenario(side: Side) -> Any:
        served = side.serve()
        work = side.checkout("ahead")
        steps = []

        def step(*flags: str, ok: tuple[int, ...] = (0,)) -> None:
            side.hg("push", *flags, served.url, cwd=work, ok=ok)
            steps.append(side.state(served.path)["bookmarks"])

        side.scribe("bookmark", "-r", "7", "new", repo=work)
        step("-r", "7", "-B", "new")
        side.scribe("bookmark", "-f", "-r", "8", "main", repo=work)
        step("-B", "main")
        side.scribe("bookmark", "-r", "0", BOOKMARK + "2", repo=work)
        step("-B", BOOKMARK + "2", ok=(1,))
        side.scribe("bookmark", "-f", "-r", "0", "new", repo=work)
        step(ok=(1,))
        step("-B", "new", ok=(0, 1))
        side.scribe("bookmark", "-d", "new", repo=work)
        step("-B", "new", ok=(1,))
        step("-B", "never-seen", ok=(2, 255))
        return steps

    steps = pair.same(scenario)
    assert [line.split()[0] for line in steps[2]] == ["main", "new", "old", BOOKMARK, BOOKMARK + "2"]
    assert [line.split()[0] for line in steps[-1]] == ["main", "old", BOOKMARK, BOOKMARK + "2"]


def test_bookmarks_with_bundle1(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve()
        work = side.checkout("ahead")
        side.scribe("bookmark", "-r", "7", "new", repo=work)
        side.hg("push", "-B", "new", served.url, cwd=work, config=[BUNDLE1])
        side.scribe("bookmark", "-d", "new", repo=work)
        side.hg("push", "-B", "new", served.url, cwd=work, config=[BUNDLE1], ok=(0, 1))
        return side.state(served.path)

    assert names(pair.same(scenario)) == ["main", "old", BOOKMARK]


@pytest.mark.parametrize("config", [(), (BUNDLE1,)], ids=["bundle2", "bundle1"])
@pytest.mark.parametrize("publish", ["yes", "no"])
def test_phases(pair: Pair, publish: str, config: tuple[str, ...]) -> None:
    """Drafts become public if the server publishes; a secret changeset is never sent."""

    def scenario(side: Side) -> Any:
        served = side.serve("public-only", hgrc=f"[phases]\npublish = {publish}\n")
        work = side.checkout("drafts")
        side.hg("push", served.url, cwd=work, config=config)
        pushed = side.state(served.path), side.state(work)
        # A change of phase is pushed too, without changesets.
        side.scribe("phase", "-p", "-r", "1", repo=work)
        side.hg("push", served.url, cwd=work, config=config, ok=(1,))
        return *pushed, side.state(served.path)

    server, client, after = pair.same(scenario)
    draft = "public" if publish == "yes" else "draft"
    assert [line.split()[2] for line in server["changesets"]] == ["public", draft]
    assert [line.split()[2] for line in client["changesets"]] == ["public", draft, "secret"]
    assert [line.split()[2] for line in after["changesets"]] == ["public", "public"]


def test_publish_on_push(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("public-only", hgrc="[phases]\npublish = no\n")
        work = side.checkout("drafts")
        side.hg("push", "--publish", "-r", "1", served.url, cwd=work)
        return side.state(served.path), side.state(work)

    server, _ = pair.same(scenario)
    assert [line.split()[2] for line in server["changesets"]] == ["public", "public"]


@pytest.mark.parametrize("served_vars", ["yes", "no"])
@pytest.mark.parametrize("config", [(), (BUNDLE1,)], ids=["bundle2", "bundle1"])
def test_pushvars_and_the_output_of_hooks(pair: Pair, served_vars: str, config: tuple[str, ...]) -> None:
    hgrc = f"[push]\npushvars.server = {served_vars}\n[hooks]\npretxnclose.echo = {ECHO}\nchangegroup.echo = {ECHO}\n"

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc=hgrc)
        work = side.checkout("ahead")
        side.hg("push", "--pushvars", "TICKET=17", "--pushvars", "EMPTY=", served.url, cwd=work, config=config)
        return side.state(served.path)

    pair.same(scenario)
    said = pair.sides["ours"].transcript[0].out + pair.sides["ours"].transcript[0].err
    assert "remote: hook says push" in said or "remote: hook says serve" in said
    assert ("remote: HG_USERVAR_TICKET=17" in said) == (served_vars == "yes" and not config)


@pytest.mark.parametrize("hook", ["pretxnchangegroup", "prechangegroup", "pretxnclose", "pretxnopen"])
@pytest.mark.parametrize("config", [(), (BUNDLE1,)], ids=["bundle2", "bundle1"])
def test_a_failing_hook_leaves_the_repository_unchanged(pair: Pair, hook: str, config: tuple[str, ...]) -> None:
    hgrc = f"[hooks]\n{hook}.no = sh -c 'echo not today; echo really not >&2; exit 1'\n"

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc=hgrc)
        work = side.checkout("ahead")
        before = file_contents(served.path), side.state(served.path)
        side.hg("push", served.url, cwd=work, config=config, ok=(1, 255))
        assert side.state(served.path) == before[1]
        assert file_contents(served.path) == before[0]
        side.hg("push", "-r", "0", served.url, cwd=work, config=config, ok=(1,))
        return side.state(work)

    pair.same(scenario)
    refused = pair.sides["ours"].transcript[0]
    if hook != "pretxnopen":
        # When the transaction opens there is no bundle2 reply yet: the client of hgweb sees only the status.
        assert "remote: not today" in refused.out + refused.err
        assert "remote: really not" in refused.out + refused.err


def test_a_failing_python_hook(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        hook = side.site / f"{side.name}_hook.py"
        hook.write_text(
            "def refuse(ui, repo, node, **more):\n"
            "    ui.write(b'written by a hook\\n')\n"
            "    ui.warn(b'warned by a hook\\n')\n"
            "    ui.status(b'%d changesets seen\\n' % len(repo))\n"
            "    return True\n"
        )
        served = side.serve(hgrc=f"[hooks]\npretxnchangegroup.py = python:{hook}:refuse\n")
        before = file_contents(served.path)
        side.hg("push", served.url, cwd=side.checkout("ahead"), ok=(255,))
        return file_contents(served.path) == before

    assert pair.same(scenario)
    refused = pair.sides["ours"].transcript[0]
    for text in ("written by a hook", "warned by a hook", "9 changesets seen"):
        assert f"remote: {text}" in refused.out + refused.err


def test_a_failing_bookmark_hook(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve(hgrc="[hooks]\npretxnclose-bookmark.no = sh -c 'echo keep $HG_BOOKMARK; exit 1'\n")
        work = side.checkout("ahead")
        side.scribe("bookmark", "-f", "-r", "8", "main", repo=work)
        before = file_contents(served.path)
        side.hg("push", "-B", "main", served.url, cwd=work, ok=(1, 255))
        return file_contents(served.path) == before

    assert pair.same(scenario)


@pytest.mark.parametrize("setting", ["bundle1 = no", "bundle1.push = no"])
def test_bundle1_push_refused_by_the_server(pair: Pair, setting: str) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve(hgrc=f"[server]\n{setting}\n")
        before = file_contents(served.path)
        side.hg("push", served.url, cwd=side.checkout("ahead"), config=[BUNDLE1], ok=(1, 255))
        return file_contents(served.path) == before

    assert pair.same(scenario)


def test_the_servers_other_refusals(pair: Pair) -> None:
    """Failed validation and a refused second head are reported to the client as errors of the push."""

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc="[server]\nvalidate = yes\n[experimental]\nsingle-head-per-branch = yes\n")
        before = file_contents(served.path)
        side.hg("push", "-f", served.url, cwd=side.checkout("second-head"), ok=(1, 255))
        return file_contents(served.path) == before

    assert pair.same(scenario)
    refused = pair.sides["ours"].transcript[0]
    assert "rejecting multiple heads on branch" in refused.out + refused.err


def test_a_push_bigger_than_the_pipes(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve("empty")
        side.hg("push", served.url, cwd=side.checkout("large-push"))
        clone = side.clone(served.url)
        return side.state(served.path), (clone / "large").read_bytes()

    server, large = pair.same(scenario)
    assert len(server["changesets"]) == 1
    assert len(large) == 3 * 1024 * 1024


def test_push_while_the_repository_is_locked(pair: Pair) -> None:
    """hgweb fails without an answer; ours says what is wrong, and changes nothing."""

    def scenario(side: Side) -> Any:
        served = side.serve(hgrc="[ui]\ntimeout = 0\n")
        # A lock taken on another host is never broken.
        lock = served.path / ".hg" / "store" / "lock"
        lock.symlink_to("another-host:1")
        before = file_contents(served.path)
        refused = side.hg("push", served.url, cwd=side.checkout("ahead"), ok=(1, 255))
        unchanged = file_contents(served.path) == before
        lock.unlink()
        side.hg("push", served.url, cwd=side.folder / "work")
        return unchanged, refused.err, side.state(served.path)

    unchanged, said, server = pair.alone(scenario)
    assert unchanged and len(server["changesets"]) == 9
    assert "locked" in said
