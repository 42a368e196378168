"""Bundles of real repositories: what is kept, what is dropped, and that damage never reaches a client."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fakes import makers_are_done

from hgwire_wsgi import CacheSettings, WireApp
from hgwire_wsgi.cache.stores.folder import FolderStore
from hgwire_wsgi.events import Event, RequestClosed
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

NULL = b"0" * 40
CAPS = b"HG20,bundle2=" + quote("HG20\nbookmarks\nchangegroup=01,02\nobsmarkers=V1\nphases=heads").encode()
CLONE = {"bundlecaps": CAPS, "cg": b"1", "common": NULL}
BOOKMARKS = {**CLONE, "bookmarks": b"1"}
LISTED = {**CLONE, "listkeys": b"bookmarks,phases"}

HG = Callable[..., None]


def run_hg(*arguments: str | Path) -> None:
    command = [sys.executable, "-c", "from mercurial import dispatch; dispatch.run()", *map(str, arguments)]
    environment = {**os.environ, "HGRCPATH": "", "HGPLAIN": "1", "HGUSER": "test"}
    subprocess.run(command, env=environment, check=True, timeout=60)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "repo"
    run_hg("init", path)
    chance = random.Random(1)
    for number in range(6):
        (path / "file").write_bytes(chance.randbytes(40_000))
        run_hg("-R", path, "commit", "-q", "-A", "-m", str(number), "-d", f"{number} 0")
    return path


@pytest.fixture
def repo(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "repo")
    return tmp_path / "repo"


@pytest.fixture
def hg(repo: Path) -> HG:
    return partial(run_hg, "-R", repo)


class Server:
    """An application with a folder of its own, and what the requests did to its cache."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self.folder = folder
        self.caches: list[str] = []
        self.app = WireApp(MercurialProvider(repo), cache=CacheSettings(folder=folder), observers=[self._note])
        self.client = WireTestApp(self.app)

    def _note(self, event: Event) -> None:
        if isinstance(event, RequestClosed):
            self.caches.append(event.cache)

    def get(self, arguments: dict[str, bytes], command: str = "getbundle", **environ: str) -> Any:
        self.client.extra_environ = {"REMOTE_ADDR": "192.0.2.1", **environ}
        reply = self.client.wire("/", command, arguments, protocol="0.2", compression=["zstd"])
        assert reply.status == 200
        makers_are_done()
        return reply

    def ask(self, arguments: dict[str, bytes], command: str = "getbundle", **environ: str) -> str:
        """What the cache did for a request."""
        self.get(arguments, command, **environ)
        return self.caches[-1]

    def kept(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("??/" + "?" * 64) if Path(f"{path}.sum").exists())


@pytest.fixture
def server(repo: Path, hg: HG, tmp_path: Path) -> Iterator[Server]:
    server = Server(repo, tmp_path / "cache")
    yield server
    assert server.app.bundles is None or server.app.bundles.wait(30)


def test_an_update_throws_no_bundle_away(server: Server, hg: HG) -> None:
    for arguments in (CLONE, BOOKMARKS, LISTED):
        assert server.ask(arguments) == "miss"
    assert server.ask({"roots": NULL}, "changegroup") == "miss"
    hg("update", "-q", "0")
    hg("tag", "--local", "here")
    for arguments in (CLONE, BOOKMARKS, LISTED):
        assert server.ask(arguments) == "hit"
    assert server.ask({"roots": NULL}, "changegroup") == "hit"


def test_a_bookmark_throws_bundles_away_that_hold_it(server: Server, hg: HG) -> None:
    for revision in ("0", "1"):
        for arguments in (CLONE, BOOKMARKS, LISTED):
            server.get(arguments)
        assert [server.ask(arguments) for arguments in (CLONE, BOOKMARKS, LISTED)] == ["hit"] * 3
        hg("bookmark", "-f", "-r", revision, "mark")
        assert [server.ask(arguments) for arguments in (CLONE, BOOKMARKS, LISTED)] == ["hit", "miss", "miss"]
        assert server.ask(CLONE) == "hit"


def test_what_is_hidden_may_be_shown_by_a_bookmark(server: Server, hg: HG, repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[experimental]\nevolution=all\n[phases]\npublish=no\n")
    hg("commit", "-q", "--amend", "-m", "amended", "-d", "9 0")
    hidden = server.get(CLONE).data
    assert server.ask(CLONE) == "hit"
    hg("update", "-q", "0")
    assert server.ask(CLONE) == "hit"
    hg("bookmark", "-f", "-r", "5", "mark", "--hidden")
    assert server.ask(CLONE) == "miss"
    assert len(server.get(CLONE).data) > len(hidden)
    hg("bookmark", "-d", "mark")
    assert server.ask(CLONE) == "hit"
    assert server.get(CLONE).data == hidden
    hg("update", "-q", "--hidden", "5")
    assert server.ask(CLONE) == "hit", "the same changesets are shown as with the bookmark"
    assert len(server.get(CLONE).data) > len(hidden)


@pytest.mark.parametrize("enabled", [True, False], ids=["by the server", "by nobody else"])
@pytest.mark.parametrize("noticed", [True, False])
def test_censoring_makes_new_bundles(server: Server, hg: HG, repo: Path, enabled: bool, noticed: bool) -> None:
    """Whether or not a request comes between censoring and the next transaction."""
    (repo / ".hg" / "hgrc").write_text("[censor]\npolicy=ignore\n" + "[extensions]\ncensor=\n" * enabled)
    before = server.get(CLONE).data
    assert server.ask(CLONE) == "hit"
    hg("--config", "extensions.censor=", "censor", "-q", "-r", "2", str(repo / "file"))
    if noticed:
        assert server.ask(CLONE) == "miss"
    hg("bookmark", "-f", "-r", "0", "mark")
    server.get(CLONE)
    assert server.ask(CLONE) == "hit"
    assert server.get(CLONE).data != before, "the next transaction must not lead back to the uncensored bundle"


def test_no_clone_starts_with_an_uncensored_bundle(server: Server, hg: HG, repo: Path) -> None:
    def ask() -> str:
        heads = server.client.wire("/", "heads").data.strip()
        reply = server.client.wire("/", "getbundle", {**CLONE, "heads": heads}, protocol="0.2 partial-pull")
        assert reply.status == 200
        makers_are_done()
        return server.caches[-1]

    assert ask() == "miss"
    (repo / "new").write_text("new")
    hg("commit", "-q", "-A", "-m", "new", "-d", "7 0")
    assert ask() == "hit", "the older bundle is the first part"
    hg("--config", "extensions.censor=", "censor", "-q", "-r", "2", str(repo / "file"))
    hg("bookmark", "-f", "-r", "0", "mark")
    assert ask() == "miss"


@pytest.mark.parametrize("place", [*(number / 24 for number in range(24)), "truncated", "longer"])
def test_damage_never_reaches_a_client(
    server: Server, repo: Path, place: float | str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = server.get(CLONE).data
    assert server.ask(CLONE) == "hit"
    (path,) = server.kept()
    path.chmod(0o600)
    size = path.stat().st_size
    if isinstance(place, str):
        os.truncate(path, size - 1 if place == "truncated" else size + 1)
    else:
        with path.open("r+b") as file:
            file.seek(int(place * size))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << int(place * 24) % 8]))
    path.chmod(0o400)
    again = Server(repo, server.folder)
    for each in (server, again):
        assert each.get(CLONE).data == expected
    assert server.caches[-1] == "miss" and again.caches[-1] == "hit"
    assert "getbundle of the repository at / was damaged in the cache, and has been removed" in caplog.text
    assert server.app.bundles is not None and server.app.bundles.damaged == 1


def test_a_damaged_digest_is_found_by_the_next_process(server: Server, repo: Path) -> None:
    expected = server.get(CLONE).data
    assert server.ask(CLONE) == "hit"
    (path,) = server.kept()
    Path(f"{path}.sum").chmod(0o600)
    Path(f"{path}.sum").write_bytes(b"blake2b ")
    again = Server(repo, server.folder)
    assert server.ask(CLONE) == "hit"
    assert again.get(CLONE).data == expected
    assert again.caches == ["miss"]
    assert again.app.bundles is not None and again.app.bundles.damaged == 1


def test_a_damaged_index_entry_is_not_used(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.get({**CLONE, "heads": server.client.wire("/", "heads").data.strip()})
    (index,) = [path for path in server.folder.glob("??/" + "?" * 64) if not Path(f"{path}.sum").exists()]
    for place in range(0, index.stat().st_size, 9):
        content = bytearray(index.read_bytes())
        content[place] ^= 1 << place % 8
        copy = FolderStore(server.folder.parent / f"copy{place}", 1 << 20)
        Path(copy.path(index.name)).parent.mkdir(parents=True)
        Path(copy.path(index.name)).write_bytes(content)
        os.chmod(copy.path(index.name), 0o400)
        cache = CacheSettings(bundle_store=lambda copy=copy: copy)  # type: ignore[misc]  # bound at once
        bundles = WireApp(server.app.provider, cache=cache).bundles
        assert bundles is not None
        assert bundles.read_index(index.name) is None
        assert bundles.damaged == 1


def test_unusual_words_of_one_client_are_not_kept(server: Server) -> None:
    for number in range(5):
        words = {**CLONE, "bundlecaps": CAPS + b",x%d" % number}
        assert server.ask(words) == "miss"
        assert server.ask(words) == "miss"
    assert server.kept() == []
    words = {**CLONE, "bundlecaps": CAPS + b",x1"}
    assert server.ask(words, REMOTE_ADDR="192.0.2.2") == "miss"
    assert len(server.kept()) == 1
    assert server.ask(words) == "hit"
    assert server.ask(CLONE) == "miss"
    assert server.ask(CLONE) == "hit"


def test_what_a_second_client_requests_is_protected(server: Server) -> None:
    for user in ("ada", "ada"):
        server.get(CLONE, REMOTE_USER=user)
        assert not server.kept()[0].stat().st_mode & 0o100
    server.get(CLONE, REMOTE_USER="bob")
    assert server.kept()[0].stat().st_mode & 0o100


def test_one_client_does_not_evict_the_bundle_of_others(repo: Path, hg: HG, tmp_path: Path) -> None:
    server = Server(repo, tmp_path / "cache")
    server.app = WireApp(
        MercurialProvider(repo),
        cache=CacheSettings(folder=server.folder, disk=1 << 20),
        observers=[server._note],
    )
    server.client = WireTestApp(server.app)
    for address in ("192.0.2.1", "192.0.2.2"):
        server.get(CLONE, REMOTE_ADDR=address)
    nodes = [server.client.wire("/", "lookup", {"key": b"%d" % number}).data.split()[1] for number in range(6)]
    chance = random.Random(0)
    for _ in range(int(os.environ.get("HGWIRE_REQUESTS", "200"))):
        common = b" ".join(sorted(chance.sample(nodes[:5], chance.randrange(1, 5))))
        heads = b" ".join(sorted(chance.sample(nodes, chance.randrange(1, 6))))
        words = {**CLONE, "common": common, "heads": heads, "listkeys": chance.choice([b"phases", b"bookmarks"])}
        server.get(words, REMOTE_ADDR="203.0.113.9")
    assert server.ask(CLONE) == "hit"
