from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hgwire_wsgi import CacheSettings, WireApp
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial import state as state_module
from hgwire_wsgi.repositories.mercurial.state import StateReader

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

EXTENSIONS = "[experimental]\nevolution=all\n"


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


STEP = 2_000_000_000


class SteppedClock:
    """A file system whose change times have steps of two seconds, and a clock that stands still unless it is set.

    Args:
        monkeypatch: replaces ``os.stat``, ``os.fstat`` and ``time.time_ns``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000 * STEP
        self._changed: dict[int, int] = {}
        self._last: dict[int, int] = {}
        monkeypatch.setattr(time, "time_ns", lambda: self.now)
        for name in ("stat", "fstat"):
            monkeypatch.setattr(state_module.os, name, partial(self._stat, getattr(os, name)))

    def _stat(self, stat: Callable[..., os.stat_result], *arguments: Any, **options: Any) -> Any:
        found = stat(*arguments, **options)
        if self._last.get(found.st_ino) != found.st_ctime_ns:
            self._last[found.st_ino] = found.st_ctime_ns
            self._changed[found.st_ino] = self.now // STEP * STEP
        values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**values, "st_ctime_ns": self._changed[found.st_ino]})

    def notice(self, root: Path) -> None:
        """Give the present time to everything that has changed."""
        for path in (root, *root.rglob("*")):
            os.stat(path)


@pytest.mark.parametrize("name", ["bookmarks", "hgrc", "store/phaseroots", "store/00changelog.i"])
@pytest.mark.parametrize("offset", [0, 1, STEP // 2])
@pytest.mark.parametrize("wait", [0, 1, STEP // 2, STEP - 1, STEP, STEP + 200_000_000, 10 * STEP])
def test_clocks_with_steps_of_two_seconds(
    path: Path, reader: StateReader, monkeypatch: pytest.MonkeyPatch, name: str, offset: int, wait: int
) -> None:
    """With a read between two changes of equal size, both of which get the same time stamp."""
    file = path / ".hg" / name
    for other in ("bookmarks", "hgrc", "store/phaseroots"):
        (path / ".hg" / other).write_bytes(b"1 old")
    clock = SteppedClock(monkeypatch)
    clock.notice(path / ".hg")
    clock.now += 100 * STEP + offset
    tokens = {reader.read().token}
    for number in range(3):
        with file.open("r+b") as opened:
            opened.write(b"1 %03d" % number)
        clock.notice(path / ".hg")
        tokens.add(reader.read().token)
        clock.now += STEP // 5
    assert len(tokens) == 4
    with file.open("r+b") as opened:
        opened.write(b"1 end")
    clock.notice(path / ".hg")
    clock.now += wait
    assert reader.read().token not in tokens


def test_what_was_read_too_early_is_read_once_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SteppedClock(monkeypatch)
    reader = StateReader(os.fsencode(path), b"salt")
    before = reader.read()
    clock.now += 10 * STEP
    again = reader.read()
    assert again == before and again is not before
    assert reader.read() is again


@pytest.mark.parametrize("name", ["hgrc", "included"])
def test_the_owner_of_settings_counts(
    path: Path, reader: StateReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Mercurial trusts settings depending on who owns the file."""
    hgrc = path / ".hg" / "hgrc"
    hgrc.write_text(f"%include {tmp_path}/included\n")
    (tmp_path / "included").write_text("[hooks]\n")
    owned = {"hgrc": hgrc, "included": tmp_path / "included"}[name]
    before = reader.read().token
    stat = os.fstat

    def other_owner(descriptor: int) -> Any:
        found = stat(descriptor)
        same = os.path.samestat(found, os.stat(owned))
        values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**values, "st_uid": found.st_uid + same})

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(os, "fstat", other_owner)
        assert StateReader(os.fsencode(path), b"salt").read().token != before
    if os.geteuid() == 0:
        os.chown(owned, 65534, -1)
        changed = reader.read().token
        assert changed != before
        os.chown(owned, 65534, 65534)
        assert reader.read().token not in (before, changed)
        os.chown(owned, 0, 0)
        assert reader.read().token == before


def test_the_owner_of_history_does_not_count(path: Path, reader: StateReader) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    before = reader.read().token
    os.chown(path / ".hg" / "bookmarks", 65534, 65534)
    assert reader.read().token == before


def test_any_number_of_included_files_counts(path: Path, reader: StateReader, tmp_path: Path) -> None:
    (path / ".hg" / "hgrc").write_text(f"%include {tmp_path}/0\n")
    for number in range(50):
        (tmp_path / str(number)).write_text(f"%include {number + 1}\n%include 0\n%include {path}/.hg/hgrc\n")
    before = reader.read().token
    (tmp_path / "50").write_text("[ui]\n")
    after = reader.read().token
    assert after != before
    (tmp_path / "50").write_text("[up]\n")
    assert reader.read().token not in (before, after)


@pytest.mark.parametrize("name", ["bookmarks", "store/phaseroots", "localtags"])
def test_large_files_count_as_a_whole(path: Path, reader: StateReader, name: str) -> None:
    file = path / ".hg" / name
    file.write_bytes(b"1 one\n" * (1 << 19))
    before = reader.read().token
    with file.open("r+b") as opened:
        opened.write(b"1 two")
    assert reader.read().token != before


@pytest.mark.parametrize(
    ("start", "size"), [(b"dirstate-v2\n", 12 + 64), (b"\1" * 40, 40)], ids=["version 2", "version 1"]
)
def test_of_the_dirstate_only_the_parents_count(path: Path, reader: StateReader, start: bytes, size: int) -> None:
    dirstate = path / ".hg" / "dirstate"
    parents = start.ljust(size, b"\2")
    dirstate.write_bytes(parents + b"files")
    before = reader.read().token
    for rest in (b"other", b"more files"):
        dirstate.write_bytes(parents + rest)
        assert reader.read().token == before
    dirstate.write_bytes(parents[:-1] + b"\3" + b"files")
    assert reader.read().token != before


PARTS: dict[str, tuple[str, ...]] = {
    "dirstate": ("others",),
    "localtags": ("others",),
    "bookmarks": ("bookmarks",),
    "store/bookmarks": ("bookmarks",),
    "store/00changelog.i": ("history",),
    "store/phaseroots": ("shape",),
    "hgrc": ("shape",),
    "requires": ("shape",),
    "merge/state2": ("others",),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_file_belongs_to_one_part(path: Path, reader: StateReader, name: str) -> None:
    before = reader.read()
    (path / ".hg" / "merge").mkdir()
    (path / ".hg" / name).write_bytes(b"1 other")
    after = reader.read()
    assert after.token != before.token
    changed = [
        each for each in ("history", "shape", "bookmarks", "others") if getattr(after, each) != getattr(before, each)
    ]
    assert tuple(changed) == PARTS[name]
    assert (after.metadata == before.metadata) is (PARTS[name] == ("history",))


@pytest.mark.parametrize(
    ("name", "content", "hides"),
    [
        ("obsstore", b"", False),
        ("obsstore", b"\1", True),
        ("phaseroots", b"", False),
        ("phaseroots", b"\n1 " + b"0" * 40 + b"\n2 " + b"1" * 40 + b"\n", False),
        ("phaseroots", b"1 " + b"0" * 40 + b"\n32 " + b"1" * 40 + b"\n", True),
        ("phaseroots", b"96 " + b"0" * 40 + b"\n", True),
    ],
)
def test_whether_changesets_may_be_hidden(
    path: Path, reader: StateReader, name: str, content: bytes, hides: bool
) -> None:
    (path / ".hg" / "store" / name).write_bytes(content)
    assert reader.read().hides is hides


def test_a_transaction_that_rewrites_history_is_a_new_history(path: Path, reader: StateReader) -> None:
    store = path / ".hg" / "store"
    seen = set()
    for backups, rewrites in (
        (b"2\nplain\0bookmarks\0undo.bck\0000\n\n", False),
        (b"2\n\0phaseroots\0undo.bck\0000\n", False),
        (b"2\nstore\0data/f.i\0undo.bck\0000\n", True),
        (b"2\n\0dh/f.i\0undo.bck\0000\n", True),
    ):
        before = reader.read()
        (store / "undo").write_bytes(b"")
        (store / "undo.backupfiles").write_bytes(backups)
        after = reader.read()
        assert after.token != before.token and after.transaction != before.transaction
        assert (after.history != before.history) is rewrites
        seen.add(after.history)
    assert len(seen) == 3


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
    monkeypatch.setattr(os, "open", refuse)
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
    command = [sys.executable, "-c", "from mercurial import dispatch; dispatch.run()", "-R", str(repo)]
    # Without extensions in its configuration, an open repository is used in several states.
    command += ["--config", "extensions.strip=", *arguments]
    environment = {**os.environ, "HGRCPATH": "", "HGPLAIN": "1", "HGUSER": "test"}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


CAPS = b"HG20,bundle2=HG20%0Abookmarks%0Achangegroup%3D02%0Aobsmarkers%3DV1%0Aphases%3Dheads"
BUNDLES: tuple[dict[str, bytes], ...] = (
    {"phases": b"1"},
    {"bookmarks": b"1"},
    {"listkeys": b"bookmarks,phases"},
    {"obsmarkers": b"1"},
    {"cg": b"0", "listkeys": b"bookmarks"},
    {"cg": b"0", "listkeys": b"phases,namespaces,obsolete"},
)
QUERIES: list[tuple[str, dict[str, bytes]]] = [
    ("capabilities", {}),
    ("heads", {}),
    ("branchmap", {}),
    *(("listkeys", {"namespace": name}) for name in (b"bookmarks", b"phases", b"obsolete", b"namespaces")),
    *(("lookup", {"key": key}) for key in (b"tip", b"mark", b"v1", b"local", b"other", b"0")),
    ("clonebundles", {}),
    *(("getbundle", {"bundlecaps": CAPS, **arguments}) for arguments in BUNDLES),
    ("changegroup", {"roots": b"0" * 40}),
    ("stream_out", {}),
]


def answer(app: WireTestApp, name: str, arguments: dict[str, bytes]) -> tuple[int, bytes]:
    reply = app.wire("/", name, arguments)
    # The order of branches has no meaning; in Mercurial, it depends on its caches.
    return reply.status, b"\n".join(sorted(reply.data.split(b"\n"))) if name == "branchmap" else reply.data


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
        lambda: hg(repo, "update", "--hidden", f"{chance.randrange(20)}"),
        lambda: hg(repo, "update", "null"),
        lambda: hg(repo, "tag", "--hidden", "-l", "-f", "-r", f"{chance.randrange(20)}", "local"),
        lambda: hg(repo, "tag", "-l", "--remove", "local"),
        hgrc(""),
        hgrc("[server]\nuncompressed=no\n"),
        hgrc("[phases]\npublish=no\n"),
        lambda: (repo / ".hg" / "clonebundles.manifest").write_text("http://localhost/bundle"),
        lambda: (repo / ".hg" / "clonebundles.manifest").unlink(missing_ok=True),
        lambda: None,
    ]
    provider = MercurialProvider(repo)
    fresh = WireTestApp(WireApp(provider, cache=CacheSettings(memory=0, disk=0)))
    cached = WireTestApp(WireApp(provider, cache=CacheSettings(folder=tmp_path / "cache")))
    seen: dict[bytes, list[tuple[int, bytes]]] = {}
    repeated = 0
    for _ in range(int(os.environ.get("HGWIRE_STEPS", "25"))):
        chance.choice(changes)()
        with provider.lease("") as leased:
            token = leased.content_token()
        answers, others = ([answer(app, name, arguments) for name, arguments in QUERIES] for app in (fresh, cached))
        assert answers == others
        reopened = WireTestApp(WireApp(MercurialProvider(repo), cache=CacheSettings(memory=0, disk=0)))
        assert answers == [answer(reopened, name, arguments) for name, arguments in QUERIES]
        with provider.lease("") as leased:
            assert leased.content_token() == token
        repeated += token in seen
        assert seen.setdefault(token, answers) == answers
    assert len(seen) > 5
    assert repeated > 0
    shutil.rmtree(repo)


MOUNTS = """\
22 27 0:21 / /proc rw - proc proc rw
23 27 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
24 27 254:0 /x /bound rw - ext4 /dev/vda rw
25 27 8:1 / /cluster rw - ocfs2 /dev/sda1 rw
26 27 0:50 / /nfs rw - nfs4 server:/ rw
"""


@pytest.mark.parametrize(
    ("major", "minor", "fine"), [(254, 0, True), (8, 1, False), (0, 50, False), (0, 21, False), (8, 99, False)]
)
def test_which_file_systems_have_fine_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, major: int, minor: int, fine: bool
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(state_module, "_MOUNTS", str(mounts))
    state_module._is_fine.cache_clear()
    try:
        assert state_module._is_fine(os.makedev(major, minor)) is fine
        state_module._is_fine.cache_clear()
        mounts.unlink()
        assert not state_module._is_fine(os.makedev(major, minor))
    finally:
        state_module._is_fine.cache_clear()


@pytest.mark.parametrize(
    ("age", "part", "fine", "settled"),
    [
        (40, 1, True, False),
        (60, 1, True, True),
        (60, 1, False, False),
        (60, 0, True, False),
        (3000, 0, False, True),
    ],
    ids=["young", "old enough", "on another file system", "in whole milliseconds", "old enough anywhere"],
)
def test_when_a_stamp_is_settled(
    monkeypatch: pytest.MonkeyPatch, age: int, part: int, fine: bool, settled: bool
) -> None:
    monkeypatch.setattr(state_module, "_is_fine", lambda device: fine)
    now = 10**18
    found = SimpleNamespace(st_ctime_ns=now - age * 10**6 + part, st_dev=1)
    assert state_module._is_settled(found, now) is settled


def test_pipes_are_not_opened(path: Path, reader: StateReader, monkeypatch: pytest.MonkeyPatch) -> None:
    before = reader.read().token
    os.mkfifo(path / ".hg" / "localtags")
    assert reader.read().token == before
    (path / ".hg" / "localtags").unlink()
    # One that appears between the two looks at it.
    (path / ".hg" / "localtags").write_bytes(b"")
    stat = os.fstat

    def a_pipe(descriptor: int) -> Any:
        found = stat(descriptor)
        is_it = os.path.samestat(found, os.stat(path / ".hg" / "localtags"))
        values = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**values, "st_mode": 0o010600 if is_it else found.st_mode})

    monkeypatch.setattr(os, "fstat", a_pipe)
    assert reader.read().token == before


def test_the_configuration_is_another_part(path: Path, reader: StateReader) -> None:
    before = reader.read().configuration
    for name in ("bookmarks", "store/00changelog.i", "store/phaseroots", "store/obsstore", "localtags"):
        (path / ".hg" / name).write_bytes(b"1 other")
        assert reader.read().configuration == before
    hgrc = path / ".hg" / "hgrc"
    hgrc.write_bytes(b"[web]\n")
    first = reader.read().configuration
    hgrc.unlink()
    (path / ".hg" / "new").write_bytes(b"[web]\n")
    (path / ".hg" / "new").rename(hgrc)
    second = reader.read().configuration
    (path / ".hg" / "requires").write_text("store\nother\n")
    assert len({before, first, second, reader.read().configuration}) == 4, "also a change that is undone"
