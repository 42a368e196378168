"""Extensions whose replies depend on the user: no user gets the reply to another, as with hgweb.

An extension stays loaded in its process, so each test runs ``sharing_program.py`` in a process of its own.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import extensions

from hgwire_wsgi.repositories.mercurial.sharing import KNOWN_SAFE, SafeExtensions

PROGRAM = Path(__file__).parent / "sharing_program.py"

COMMON = """
from mercurial import (
    bookmarks, bundle2, exchange, extensions, localrepo, pushkey, repoview, wireprototypes, wireprotov1server
)
def user(repo):
    return (getattr(repo.ui, 'environ', None) or {}).get(b'REMOTE_USER') or b'nobody'
"""

GETBUNDLE = "cmd=getbundle&bundlecaps=HG20%2Cbundle2%3DHG20"

POINTS: dict[str, tuple[str, str]] = {
    "a command's function": (
        "cmd=heads",
        """
def uisetup(ui):
    def heads(orig, repo, proto):
        return wireprototypes.bytesresponse(b'heads of ' + user(repo))
    extensions.wrapfunction(wireprotov1server.commands[b'heads'], 'func', heads)
""",
    ),
    "a command registered anew": (
        "cmd=heads",
        """
def uisetup(ui):
    wireprotov1server.commands.pop(b'heads')
    @wireprotov1server.wireprotocommand(b'heads', permission=b'pull')
    def heads(repo, proto):
        return wireprototypes.bytesresponse(b'heads of ' + user(repo))
""",
    ),
    "getbundlechunks": (
        GETBUNDLE,
        """
def uisetup(ui):
    def getbundlechunks(orig, repo, *args, **kwargs):
        if user(repo) == b'bob':
            kwargs['common'] = repo.heads()
        return orig(repo, *args, **kwargs)
    extensions.wrapfunction(exchange, 'getbundlechunks', getbundlechunks)
""",
    ),
    "a part of getbundle": (
        GETBUNDLE,
        """
@exchange.getbundle2partsgenerator(b'whoami')
def whoami(bundler, repo, source, **kwargs):
    bundler.newpart(b'whoami', data=user(repo), mandatory=False)
""",
    ),
    "bundle2": (
        GETBUNDLE,
        """
def extsetup(ui):
    def addpart(orig, self, part):
        if user(self) != b'bob' or part.type != b'changegroup':
            orig(self, part)
    extensions.wrapfunction(bundle2.bundle20, 'addpart', addpart)
""",
    ),
    "a namespace of pushkey": (
        "cmd=listkeys&namespace=whoami",
        """
def uisetup(ui):
    pushkey.register(b'whoami', lambda *args: False, lambda repo: {b'user': user(repo)})
""",
    ),
    "listkeys of bookmarks": (
        "cmd=listkeys&namespace=bookmarks",
        """
def listkeys(repo):
    return {b'user': user(repo)}
def uisetup(ui):
    pushkey._namespaces[b'bookmarks'] = pushkey._namespaces[b'bookmarks'][0], listkeys
""",
    ),
    "capabilities": (
        "cmd=capabilities",
        """
def uisetup(ui):
    def capabilities(orig, repo, proto):
        return [*orig(repo, proto), b'user=' + user(repo)]
    extensions.wrapfunction(wireprotov1server, '_capabilities', capabilities)
""",
    ),
    "URLs of clone bundles": (
        "cmd=clonebundles",
        """
def uisetup(ui):
    try:
        from mercurial.exchanges import bundle_cache as module
    except ImportError:
        from mercurial import bundlecaches as module
    extensions.wrapfunction(module, 'alter_bundle_url', lambda orig, repo, url: url + b'?' + user(repo))
""",
    ),
    "the class of the repository": (
        "cmd=heads",
        """
def reposetup(ui, repo):
    class Private(repo.__class__):
        def heads(self, *args, **kwargs):
            return [self.nullid] if user(self) == b'bob' else super().heads(*args, **kwargs)
    repo.__class__ = Private
""",
    ),
    "the visible changesets": (
        "cmd=branchmap",
        """
def uisetup(ui):
    def branchmap(orig, self):
        return type(orig(self))(self) if user(self) == b'bob' else orig(self)
    extensions.wrapfunction(localrepo.localrepository, 'branchmap', branchmap)
""",
    ),
    "the permission hooks": (
        "cmd=heads",
        """
from mercurial.hgweb import common
def uisetup(ui):
    def ask(hgweb, request, operation):
        if request.remoteuser == b'bob':
            raise common.ErrorResponse(401, b'not you')
    common.permhooks.append(ask)
""",
    ),
}
"""What an extension changes: the question that shows it, and the extension."""

ALSO_ELSEWHERE = POINTS.keys() - {"the class of the repository"}
"""Changes of the process: they affect repositories that do not enable the extension."""

USERS = ["alice", "bob", "alice", "bob"]


def ask(served: dict[str, Path], asked: list[Any], *, safe: Sequence[str] = (), viewed: bool = False) -> list[Any]:
    given = {
        "served": {name: str(path) for name, path in served.items()},
        "safe": list(safe),
        "viewed": viewed,
        "asked": asked,
    }
    done = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    rows: list[Any] = json.loads(done.stdout)
    return [*rows, done.stderr]


@pytest.fixture
def pair(tmp_path: Path, demonstration: Path) -> dict[str, Path]:
    """Two copies of a repository with clone bundles; the first will enable the extension ``perms``."""
    places = {}
    for name in ("one", "two"):
        places[name] = tmp_path / name
        shutil.copytree(demonstration, places[name])
        (places[name] / ".hg" / "clonebundles.manifest").write_text("https://cdn.example/full.hg BUNDLESPEC=gzip-v2\n")
        (places[name] / ".hg" / "hgrc").write_text("[server]\ncompressionengines=none\n[extensions]\nclonebundles=\n")
    return places


def enable(place: Path, code: str) -> None:
    path = place.parent / "perms.py"
    path.write_text(COMMON + code)
    with (place / ".hg" / "hgrc").open("a") as hgrc:
        hgrc.write(f"perms={path}\n")


@pytest.mark.parametrize("point", POINTS)
def test_no_user_gets_the_reply_to_another(pair: dict[str, Path], point: str) -> None:
    query, code = POINTS[point]
    enable(pair["one"], code)
    asked = [["one", query, USERS], ["two", query, USERS], ["one", query, USERS]]
    *rows, log = ask(pair, asked)
    assert log.count("extension perms may give users different replies") == 1
    for status, body, outcome, other_status, other in rows:
        assert (status.split()[0], outcome) == (other_status.split()[0], "")
        if status.startswith("200"):
            assert body == other
    for number in range(3):
        mine = [(row[0], row[1]) for row in rows[4 * number : 4 * number + 4]]
        assert mine[:2] == mine[2:]
        assert (mine[0] != mine[1]) == (number != 1 or point in ALSO_ELSEWHERE)


@pytest.mark.parametrize("point", [point for point in POINTS if point != "the permission hooks"])
def test_a_named_view_has_its_own_replies(pair: dict[str, Path], point: str) -> None:
    query, code = POINTS[point]
    enable(pair["one"], code)
    *rows, _log = ask(pair, [["one", query, USERS]], viewed=True)
    assert [row[2] for row in rows] == ["miss", "miss", "hit", "hit"]
    assert [row[1] for row in rows] == [row[4] for row in rows]
    assert rows[0][1] != rows[1][1]


@pytest.mark.parametrize("point", ["a command's function", "getbundlechunks"])
def test_the_host_may_declare_an_extension_safe(pair: dict[str, Path], point: str) -> None:
    """It is wrong here, and the second user gets the reply to the first: the other tests could fail."""
    query, code = POINTS[point]
    enable(pair["one"], code)
    *rows, log = ask(pair, [["one", query, ["alice", "bob"]]], safe=["perms"])
    assert [row[2] for row in rows] == ["miss", "hit"]
    assert rows[0][1] == rows[1][1] != rows[1][4]
    assert "perms" not in log


def test_a_reply_made_before_another_repository_loads_the_extension_is_not_given_again(pair: dict[str, Path]) -> None:
    query, code = POINTS["a command's function"]
    enable(pair["one"], code)
    *rows, _log = ask(pair, [["two", query, ["alice", "alice"]], ["one", query, USERS], ["two", query, USERS]])
    assert [row[2] for row in rows] == ["miss", "hit"] + 8 * [""]
    assert rows[6][1] == rows[8][1] != rows[7][1] == rows[9][1]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    order: list[bytes] = []
    monkeypatch.setattr(extensions, "_order", order)
    monkeypatch.setattr(extensions, "_extensions", {})
    return order


def load(order: list[bytes], name: str, module: str | None) -> None:
    extensions._extensions[name.encode()] = types.ModuleType(module) if module else None
    order.append(name.encode())


def test_safe_extensions(loaded: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    """A safe name does not make another module of that name safe, nor one whose setup failed."""
    caplog.set_level(logging.WARNING)
    safe = SafeExtensions(["mine", "company.perms"])
    assert safe.unsafe() == ()
    for name, module in [("lfs", "hgext.lfs"), ("hgext3rd.topic", "hgext3rd.topic"), ("mine", "hgext_mine")]:
        load(loaded, name, module)
    load(loaded, "perms", "company.perms")
    assert safe.unsafe() == () and not caplog.records
    load(loaded, "topic", "hgext_topic")
    load(loaded, "largefiles", None)
    assert safe.unsafe() == ("topic", "largefiles") == safe.unsafe()
    before = safe.loaded()
    load(loaded, "other", "other")
    assert safe.loaded() == (*before, b"other")
    assert safe.unsafe() == ("topic", "largefiles", "other")
    assert [record.getMessage().split()[1] for record in caplog.records] == ["topic", "largefiles", "other"]
    assert SafeExtensions(["topic", "largefiles", "other", "mine", "perms"]).unsafe() == ()


CAPABILITIES = "mercurial.wireprotov1server._capabilities"
CHANGES = {
    "clonebundles": {CAPABILITIES},
    "evolve": {CAPABILITIES, "commands: evoext_obshashrange_v1", "namespaces: obsolete", "parts: obsmarkers"},
    "fastannotate": {CAPABILITIES, "commands: getannotate"},
    "largefiles": {CAPABILITIES, *(f"commands: {name}" for name in ("getlfile", "heads", "putlfile", "statlfile"))},
    "lfs": {CAPABILITIES, "mercurial.wireprotoserver.handlewsgirequest"},
    "narrow": {"commands: narrow_widen", "parts: changegroup"},
    "pullbundle": {"parts: changegroup"},
    "topic": {
        CAPABILITIES,
        *(f"commands: {name}" for name in ("_exttopics_heads", "branchmap", "branchmaptns", "heads", "tns_heads")),
        *(f"filters: {name}-topic" for name in ("served", "served-no", "served.hidden", "unfiltered", "visible")),
        "filters: visible-hidden-topic",
        "mercurial.wireprotov1server.branchmap",
        "mercurial.wireprotov1server.heads",
    },
}
"""What the extensions that are known to be safe change of what makes replies; each was read.  All others: nothing."""

_REPLIES = ("commands:", "parts:", "namespaces:", "filters:", "permhooks:", "mercurial.wireproto", "mercurial.hook")


def test_the_extensions_known_to_be_safe_change_what_was_read(demonstration: Path) -> None:
    """A new version of Mercurial or evolve that changes something else has to be read again."""
    names = [name.rpartition(".")[2] for name in KNOWN_SAFE]
    done = subprocess.run(
        [sys.executable, str(PROGRAM.with_name("extension_points.py")), str(demonstration), *names],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str] | None] = json.loads(done.stdout)
    changed = {
        name: replies
        for name, points in found.items()
        if (replies := {point for point in points or () if point.startswith(_REPLIES)})
    }
    present = {name for name, points in found.items() if points is not None}
    assert present >= {"clonebundles", "largefiles", "lfs", "narrow", "share"}
    assert changed == {name: points for name, points in CHANGES.items() if name in present}
