from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hgwire_wsgi import WireApp
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.state import StateReader

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

EXTENSIONS = "[extensions]\nstrip=\n[experimental]\nevolution=all\n"


def make_repository(path: Path) -> None:
    (path / ".hg" / "store").mkdir(parents=True)
    (path / ".hg" / "requires").write_text("store\n")
    (path / ".hg" / "store" / "00changelog.i").write_bytes(b"changelog")
    (path / ".hg" / "bookmarks").write_bytes(b"one")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_repository(tmp_path / "repo")
    return tmp_path / "repo"


@pytest.fixture
def reader(path: Path) -> StateReader:
    return StateReader(os.fsencode(path), b"salt")


CHANGES: dict[str, Callable[[Path], object]] = {
    "written in place": lambda hg: (hg / "bookmarks").write_bytes(b"two"),
    "replaced": lambda hg: ((hg / "new").write_bytes(b"two"), (hg / "new").rename(hg / "bookmarks")),
    "removed": lambda hg: (hg / "bookmarks").unlink(),
    "new": lambda hg: (hg / "hgrc").write_bytes(b""),
    "new in the store": lambda hg: (hg / "store" / "obsstore").write_bytes(b"markers"),
    "appended": lambda hg: (hg / "store" / "00changelog.i").open("ab").write(b"more"),
    "truncated": lambda hg: os.truncate(hg / "store" / "00changelog.i", 4),
    "phases": lambda hg: (hg / "store" / "phaseroots").write_bytes(b"1 x"),
    "manifest": lambda hg: (hg / "clonebundles.manifest").write_bytes(b"url"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_changes_the_token_at_once(path: Path, reader: StateReader, change: str) -> None:
    before = reader.read().token
    assert reader.read().token == before
    CHANGES[change](path / ".hg")
    assert reader.read().token != before


def test_changes_within_one_tick_of_the_clock(path: Path, reader: StateReader) -> None:
    tokens = []
    for number in range(200):
        (path / ".hg" / "bookmarks").write_bytes(b"%03d" % number)
        tokens.append(reader.read().token)
    assert len(set(tokens)) == 200


def test_changes_that_pretend_to_be_old(path: Path, reader: StateReader, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10_000_000_000)
    before = reader.read().token
    assert reader.read().token == before
    for name in ("store/00changelog.i", "bookmarks"):
        (path / ".hg" / "new").write_bytes(b"CHANGELOG")
        os.utime(path / ".hg" / "new", (0, 0))
        (path / ".hg" / "new").rename(path / ".hg" / name)
        after = reader.read().token
        assert after != before
        before = after


def test_what_is_settled_is_not_read_again(path: Path, reader: StateReader, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 10_000_000_000)
    before = reader.read().token

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", refuse)
    assert reader.read().token == before


def test_a_change_that_is_undone_is_the_same_state_again(path: Path, reader: StateReader) -> None:
    before = reader.read().token
    (path / ".hg" / "bookmarks").write_bytes(b"two")
    assert reader.read().token != before
    (path / ".hg" / "bookmarks").write_bytes(b"one")
    assert reader.read().token == before


def test_the_rest_of_the_state_is_all_but_the_history(path: Path, reader: StateReader) -> None:
    before = reader.read()
    with (path / ".hg" / "store" / "00changelog.i").open("ab") as changelog:
        changelog.write(b"more")
    grown = reader.read()
    assert grown.token != before.token
    assert grown.metadata == before.metadata
    (path / ".hg" / "bookmarks").write_bytes(b"two")
    assert reader.read().metadata != before.metadata


def test_every_process_has_the_same_token(path: Path, reader: StateReader) -> None:
    assert StateReader(os.fsencode(path), b"salt").read().token == reader.read().token
    assert StateReader(os.fsencode(path), b"other").read().token != reader.read().token


def test_a_large_file_is_known_by_its_end_and_size(path: Path, reader: StateReader) -> None:
    large = path / ".hg" / "store" / "00changelog.i"
    large.write_bytes(b"x" * (3 << 20))
    before = reader.read().token
    with large.open("ab") as file:
        file.write(b"x")
    longer = reader.read().token
    os.truncate(large, 3 << 20)
    assert reader.read().token == before
    with large.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"y")
    assert len({before, longer, reader.read().token}) == 3


def test_a_share_depends_on_its_source(path: Path, tmp_path: Path) -> None:
    share = tmp_path / "share" / ".hg"
    share.mkdir(parents=True)
    (share / "sharedpath").write_bytes(os.fsencode(path / ".hg"))
    reader = StateReader(os.fsencode(tmp_path / "share"), b"")
    before = reader.read().token
    (path / ".hg" / "store" / "phaseroots").write_bytes(b"1 x")
    after = reader.read().token
    assert after != before
    (share / "hgrc").write_bytes(b"[web]")
    assert reader.read().token not in (before, after)


def hg(repo: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", "from mercurial import dispatch; dispatch.run()", "-R", str(repo), *arguments]
    environment = {**os.environ, "HGRCPATH": "", "HGPLAIN": "1", "HGUSER": "test"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


QUERIES: list[tuple[str, dict[str, bytes]]] = [
    ("capabilities", {}),
    ("heads", {}),
    ("branchmap", {}),
    *(("listkeys", {"namespace": name}) for name in (b"bookmarks", b"phases", b"obsolete", b"namespaces")),
    *(("lookup", {"key": key}) for key in (b"tip", b"mark", b"v1", b"local", b"other", b"0")),
    ("clonebundles", {}),
    ("getbundle", {"bundlecaps": b"HG20,bundle2=HG20%0Achangegroup%3D02%0Aphases%3Dheads", "phases": b"1"}),
    ("stream_out", {}),
]


def test_equal_tokens_mean_equal_replies(tmp_path: Path) -> None:
    """Random changes with a real ``hg``; some are undone, so that tokens come again."""
    repo = tmp_path / "repo"
    chance = random.Random(int(os.environ.get("HGWIRE_SEED", "1")))
    hg(tmp_path, "init", str(repo))
    (repo / ".hg" / "hgrc").write_text(EXTENSIONS)
    number = 0

    def commit(*options: str) -> None:
        nonlocal number
        number += 1
        (repo / f"file{number % 3}").write_text(str(number))
        hg(repo, "commit", "-A", "-m", str(number), "-d", f"{number} 0", *options)

    def hgrc(text: str) -> Callable[[], object]:
        return lambda: (repo / ".hg" / "hgrc").write_text(EXTENSIONS + text)

    changes: list[Callable[[], object]] = [
        commit,
        commit,
        lambda: (hg(repo, "update", "0"), commit()),
        lambda: (hg(repo, "branch", "-f", "other"), commit()),
        lambda: hg(repo, "bookmark", "-f", "-r", "0", "mark"),
        lambda: hg(repo, "bookmark", "-f", "-r", "tip", "mark"),
        lambda: hg(repo, "bookmark", "-d", "mark"),
        lambda: hg(repo, "phase", "-p", "0"),
        lambda: hg(repo, "phase", "-f", "-s", "tip"),
        lambda: hg(repo, "phase", "-f", "-d", "0:tip"),
        lambda: hg(repo, "tag", "-f", "v1"),
        lambda: hg(repo, "tag", "-l", "-f", "local"),
        lambda: hg(repo, "strip", "--no-backup", "tip"),
        lambda: hg(repo, "commit", "--amend", "-m", "amended"),
        hgrc(""),
        hgrc("[server]\nuncompressed=no\n"),
        hgrc("[phases]\npublish=no\n"),
        lambda: (repo / ".hg" / "clonebundles.manifest").write_text("http://localhost/bundle"),
        lambda: (repo / ".hg" / "clonebundles.manifest").unlink(missing_ok=True),
        lambda: None,
    ]
    provider = MercurialProvider(repo)
    app = WireTestApp(WireApp(provider))
    seen: dict[bytes, list[tuple[int, bytes]]] = {}
    repeated = 0
    for _ in range(int(os.environ.get("HGWIRE_STEPS", "25"))):
        chance.choice(changes)()
        with provider.lease("") as leased:
            token = leased.content_token()
        replies = [app.wire("/", command, arguments) for command, arguments in QUERIES]
        answers = [(reply.status, reply.data) for reply in replies]
        with provider.lease("") as leased:
            assert leased.content_token() == token
        repeated += token in seen
        assert seen.setdefault(token, answers) == answers
    assert len(seen) > 5
    assert repeated > 0
    shutil.rmtree(repo)
