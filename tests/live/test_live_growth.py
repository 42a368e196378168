"""After a push, a clone gets the older bundle and then the missing part; the result equals a full clone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from live_hg import Scribe, environment, run_hg
from live_servers import require
from live_wait import wait_for

from hgwire_wsgi import CacheSettings, WireApp

sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from wire_servers import serving

SERVER_HGRC = "[web]\npush_ssl = no\nallow-push = *\n[experimental]\nevolution = all\n"
HGRC = "[ui]\nusername = Live Test <live@example.com>\n[devel]\ndefault-date = 0 0\n[experimental]\nevolution = all\n"
EVOLUTION = ("--config", "experimental.evolution=all")
STATE = "{node} {phase} {bookmarks} {obsolete}\\n"


# Mercurial runs in this process here, and does not close the files that a push has written.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedRandom name=b:ResourceWarning")


@attrs.define
class Forge:
    """A server in this process, and the sizes of the bundles that it has sent."""

    folder: Path
    url: str
    bundles: list[int | None]
    environ: dict[str, str]
    scribe: Scribe
    commits: int = 0
    clones: int = 0

    def hg(self, *args: str) -> str:
        return run_hg(args, environ=self.environ, cwd=self.folder, code_ok=[0]).out

    def commit(self, count: int = 1) -> None:
        for _ in range(count):
            self.commits += 1
            name = f"file{self.commits}"
            (self.folder / "work" / name).write_text(name * 2000)
            self.scribe("commit", "-A", "-q", "-m", name, *EVOLUTION, repo=self.folder / "work")

    def state(self, repository: str) -> str:
        return self.scribe("log", "-r", "sort(all(), node)", "-T", STATE, *EVOLUTION, repo=self.folder / repository)

    def clone(self) -> list[int | None]:
        """Clone, compare with the server, and return the sizes of the bundles; ``None`` for one that is being made."""
        self.bundles.clear()
        self.clones += 1
        self.hg("clone", "-q", "-U", self.url, self.newest)
        assert self.state(self.newest) == self.state("served")
        self.scribe("verify", "-q", repo=self.folder / self.newest)
        self.settle()
        return list(self.bundles)

    def settle(self) -> None:
        """Wait until the bundle has its final name: the client gets the last byte a little earlier."""
        wait_for(lambda: not list((self.folder / "cache").glob("*/*.part")), "the bundle has its name")

    @property
    def newest(self) -> str:
        """The name of the last clone."""
        return f"clone{self.clones}"


@pytest.fixture
def forge(tmp_path: Path, scribe: Scribe) -> Iterator[Forge]:
    """A repository that was cloned once."""
    require("hg")
    from hgwire_wsgi.repositories.mercurial import MercurialProvider

    environ = environment(tmp_path / "home", HGRC)
    run_hg(["init", "served"], environ=environ, cwd=tmp_path, code_ok=(0,))
    (tmp_path / "served" / ".hg" / "hgrc").write_text(SERVER_HGRC)
    app = WireApp(MercurialProvider(tmp_path / "served"), cache=CacheSettings(folder=tmp_path / "cache"))
    bundles: list[int | None] = []

    def watched(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if environ["QUERY_STRING"] == "cmd=getbundle":
                length = dict(headers).get("Content-Length")
                bundles.append(None if length is None else int(length))
            return start_response(status, headers, exc_info)

        return app(environ, start)

    with serving(watched) as url:
        forge = Forge(tmp_path, f"{url}/", bundles, environ, scribe)
        forge.hg("clone", "-q", forge.url, "work")
        forge.commit(20)
        forge.hg("-R", "work", "push", "-q")
        # Incompressible content, so that the bundle is not one of the short ones.
        (tmp_path / "work" / "noise").write_bytes(random.Random(0).randbytes(300_000))
        forge.hg("-R", "work", "commit", "-A", "-m", "noise")
        forge.hg("-R", "work", "push", "-q")
        forge.clone()
        yield forge


def test_a_clone_after_a_push_gets_the_older_bundle_and_the_rest(forge: Forge) -> None:
    (whole,) = forge.clone()
    assert whole is not None and whole > 300_000
    forge.commit()
    forge.hg("-R", "work", "push", "-q")
    first, rest = forge.clone()
    assert first == whole
    assert rest is not None and rest < 10_000
    assert forge.clone() == [first, rest]
    forge.hg("-R", "work", "update", "-q", "0")
    forge.commit()
    forge.hg("-R", "work", "push", "-q", "-f")
    assert forge.clone()[0] == whole, "two heads now"


def test_when_much_is_new_a_bundle_is_made(forge: Forge) -> None:
    (whole,) = forge.clone()
    forge.commit(8)
    forge.hg("-R", "work", "push", "-q")
    assert len(forge.clone()) == 1
    (larger,) = forge.clone()
    assert whole is not None and larger is not None and larger > whole
    forge.commit()
    forge.hg("-R", "work", "push", "-q")
    assert forge.clone()[0] == larger


@pytest.mark.parametrize(
    "change",
    [
        ("bookmark", "-R", "served", "-r", "0", "mark"),
        ("phase", "-R", "served", "--force", "--draft", "tip"),
        ("phase", "-R", "served", "--force", "--secret", "tip"),
        ("--config", "extensions.strip=", "strip", "-R", "served", "--no-backup", "tip"),
    ],
    ids=["bookmark", "draft", "secret", "strip"],
)
def test_what_else_has_changed_is_in_the_clone(forge: Forge, change: tuple[str, ...]) -> None:
    forge.commit()
    forge.hg("-R", "work", "push", "-q")
    forge.hg(*change)
    forge.bundles.clear()
    forge.hg("clone", "-q", "-U", forge.url, "compared")
    visible = forge.hg("-R", "served", "log", "-r", "sort(all() - secret(), node)", "-T", "{node} {bookmarks}\\n")
    assert forge.hg("-R", "compared", "log", "-r", "sort(all(), node)", "-T", "{node} {bookmarks}\\n") == visible
    forge.hg("-R", "compared", "verify", "-q")


def test_obsolescence_markers_come_with_the_clone(forge: Forge) -> None:
    (forge.folder / "served" / ".hg" / "hgrc").write_text(SERVER_HGRC + "[phases]\npublish = no\n")
    forge.clone()
    forge.commit()
    forge.hg("-R", "work", "push", "-q")
    forge.hg("-R", "work", "commit", "--amend", "-m", "amended")
    forge.hg("-R", "work", "push", "-q", "-f")
    forge.clone()
    markers = forge.hg("-R", "served", "debugobsolete")
    assert markers
    assert forge.hg("-R", forge.newest, "debugobsolete") == markers


def test_only_clients_that_ask_again_get_a_part(forge: Forge) -> None:
    forge.commit()
    forge.hg("-R", "work", "push", "-q")
    forge.bundles.clear()
    forge.hg("clone", "-q", "-U", "--config", "devel.legacy.exchange=bundle1", forge.url, "old")
    assert len(forge.bundles) == 1
    assert forge.state("old") == forge.state("served")
    tip = forge.hg("-R", "served", "log", "-r", "tip", "-T", "{node}")
    forge.bundles.clear()
    forge.hg("clone", "-q", "-U", "-r", tip, forge.url, "revision")
    assert forge.state("revision") == forge.state("served")


def test_a_streamed_clone_is_made_once(forge: Forge) -> None:
    """Making one takes the lock of the repository, which must not count as a change."""
    sizes = []
    for name in ("first", "second"):
        forge.bundles.clear()
        forge.hg("clone", "-q", "-U", "--stream", forge.url, name)
        forge.settle()
        sizes += forge.bundles
    assert sizes[0] is None
    assert sizes[1] is not None
    assert forge.state("second") == forge.state("served")


def test_a_clone_of_a_part_is_no_base_for_whole_ones(forge: Forge) -> None:
    (whole,) = forge.clone()
    forge.hg("clone", "-q", "-U", "-r", "10", forge.url, "part")
    forge.commit()
    forge.hg("-R", "work", "push", "-q")
    assert forge.clone()[0] == whole
