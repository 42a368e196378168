"""hgweb's access rules as a client meets them: our application against hgweb, with the same client."""

from __future__ import annotations

from typing import Any

import pytest
from live_hg import file_contents
from live_pair import Pair, Side

USERS = ["", "alice:pw@", "bob:pw@", "alice:wrong@"]

#: Rules, and which of USERS may read.  None is not tested, to save time.
READ = {
    "allow_read = alice": [False, True, False, False],
    "allow_read = *": [True, True, None, None],
    "deny_read = bob": [False, True, False, None],
    "deny_read = *": [False, False, None, None],
    "allow_read = alice, bob\ndeny_read = bob": [False, True, False, None],
    "allow-pull = no": [False, False, None, None],
    "allow-pull = yes\nallow_read = alice bob": [False, None, True, None],
}

#: Rules of a repository on a server that lets everyone push, and which of USERS may.
PUSH = {
    "allow-push =": [False, False, None, None],
    "allow-push = alice": [False, True, False, False],
    "allow-push = *\ndeny_push = bob": [False, True, False, None],
    "deny_push = *": [False, False, None, None],
    "allow_push = alice": [False, True, None, None],
    "push_ssl = yes": [False, False, None, None],
    "push_ssl = yes\nallow-push =": [False, None, None, None],
    "allow_read = alice\nallow-push = bob": [None, False, False, None],
    "allow-pull = no": [None, False, None, None],
}


#: Rules that refuse every user, and what their refusals say.
HOPELESS = {
    "deny_read = *": "read not authorized",
    "allow-pull = no": "pull not authorized",
    "allow-push =": "push not authorized",
    "deny_push = *": "push not authorized",
    "push_ssl = yes": "ssl required",
    "push_ssl = yes\nallow-push =": "ssl required",
}


def check_refusals(pair: Pair, rule: str) -> None:
    """hgweb answers 401 to every refusal by name; we do only where a password could help."""
    for outcome in pair.sides["ours"].transcript:
        known = "@" in " ".join(outcome.args)
        asked = "authorization required" in outcome.err or "authorization failed" in outcome.err
        if outcome.code == 0 or "no changes found" in outcome.out:
            assert not asked
        elif rule in HOPELESS:
            assert outcome.err.endswith(f"abort: HTTP Error 403: {HOPELESS[rule]}\n"), outcome
        elif known and ":pw@" in " ".join(outcome.args):
            assert "abort: HTTP Error 403: " in outcome.err and " not authorized" in outcome.err, outcome
        else:
            assert asked, outcome


@pytest.mark.parametrize("rule", READ)
def test_who_may_read(pair: Pair, rule: str) -> None:
    """Unauthenticated, as two users, and with a wrong password."""

    def scenario(side: Side) -> list[bool | None]:
        url = side.serve("public-only", hgrc=f"[web]\n{rule}\n").url

        def may_read(user: str) -> bool:
            return side.hg("identify", url.replace("//", f"//{user}", 1), ok=(0, 20, 100, 255)).code == 0

        return [None if expected is None else may_read(user) for user, expected in zip(USERS, READ[rule], strict=True)]

    assert pair.same(scenario, output=False) == READ[rule]
    check_refusals(pair, rule)


@pytest.mark.parametrize("rule", PUSH)
def test_who_may_push(pair: Pair, rule: str) -> None:
    """With the same credentials; a refused push changes nothing."""

    def scenario(side: Side) -> list[bool | None]:
        allowed: list[bool | None] = []
        for number, (user, expected) in enumerate(zip(USERS, PUSH[rule], strict=True)):
            if expected is None:
                allowed.append(None)
                continue
            served = side.serve("public-only", hgrc=f"[web]\n{rule}\n", suffix=f"-{number}")
            before = file_contents(served.path)
            work = side.checkout("drafts", f"work{number}")
            url = served.url.replace("//", f"//{user}", 1)
            allowed.append(side.hg("push", url, cwd=work, ok=(0, 1, 20, 100, 255)).code == 0)
            assert (file_contents(served.path) != before) == allowed[-1]
        return allowed

    assert pair.same(scenario, output=False) == PUSH[rule]
    check_refusals(pair, rule)


def test_pushing_a_bookmark_needs_the_permission_to_push(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        served = side.serve(hgrc="[web]\nallow-push = alice\n")
        work = side.checkout("history")
        side.scribe("bookmark", "-f", "-r", "0", "old", repo=work)
        before = file_contents(served.path)
        for config in ((), ("devel.legacy.exchange=bundle1",)):
            side.hg("push", "-B", "old", served.url, cwd=work, config=config, ok=(1, 2, 255))
        assert file_contents(served.path) == before
        side.hg("push", "-B", "old", served.url.replace("//", "//alice:pw@", 1), cwd=work, ok=(0, 1))
        return side.state(served.path)["bookmarks"]

    assert any(line.startswith("old ") for line in pair.same(scenario))


def test_a_user_name_reaches_the_hooks(pair: Pair) -> None:
    def scenario(side: Side) -> Any:
        hook = "sh -c 'echo by $HG_URL $REMOTE_USER $HG_SOURCE'"
        served = side.serve(hgrc=f"[web]\nallow-push = alice\n[hooks]\npretxnchangegroup.who = {hook}\n")
        url = served.url.replace("//", "//alice:pw@", 1)
        side.hg("push", url, cwd=side.checkout("ahead"))

    pair.same(scenario)
    assert "remote: by remote:http:" in pair.sides["ours"].transcript[0].out


def test_a_file_makes_a_repository_read_only(pair: Pair) -> None:
    """Its text is what the client's user reads; it counts from the next push on."""

    def scenario(side: Side) -> None:
        served = side.serve("public-only", hgrc="[web]\nallow-push = *\npush_ssl = no\n")
        marker = served.path / ".hg" / "hgwire-readonly"
        work = side.checkout("drafts")
        side.scribe("bookmark", "-f", "-r", "0", "old", repo=work)
        before = file_contents(served.path)
        marker.write_text("This project has moved.\nPlease push to https://new.example/project\n")
        expected = "abort: HTTP Error 403: This project has moved. Please push to https://new.example/project\n"
        for config in ((), ("devel.legacy.exchange=bundle1",)):
            for command in (["push"], ["push", "-r", "0", "-B", "old"]):
                refused = side.hg(*command, served.url, cwd=work, ok=(255,), config=config)
                assert refused.err.endswith(expected), refused
        side.hg("identify", served.url)
        marker.write_text("")
        assert "403: this repository is read-only" in side.hg("push", served.url, cwd=work, ok=(255,)).err
        marker.unlink()
        assert file_contents(served.path) == before
        side.hg("push", served.url, cwd=work, ok=(0, 1))
        assert file_contents(served.path) != before

    pair.alone(scenario)


def test_a_share_is_as_read_only_as_its_source(pair: Pair) -> None:
    def scenario(side: Side) -> None:
        source = side.serve("public-only", hgrc="[web]\nallow-push = *\npush_ssl = no\n")
        share = source.path.with_name(source.path.name + "-share")
        side.hg("share", "-U", str(source.path), str(share), config=("extensions.share=",))
        (share / ".hg" / "hgrc").write_text("[web]\nallow-push = *\npush_ssl = no\n")
        work = side.checkout("drafts")
        url = source.url + "-share"
        for path in (source.path, share):
            (path / ".hg" / "hgwire-readonly").write_text("frozen")
            assert "403: frozen" in side.hg("push", url, cwd=work, ok=(255,)).err
            (path / ".hg" / "hgwire-readonly").unlink()
        side.hg("push", url, cwd=work, ok=(0, 1))

    pair.alone(scenario)
