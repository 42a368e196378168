"""Files on the server that are broken are not blamed on clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hgwire_wsgi import WireApp
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.files import files_of, read_bounded

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

UNUSABLE = (500, b"0\nthe repository cannot be served; the log of the server says why\n")
PARTIAL = {"X-HgProto-1": "0.1 partial-pull"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    program = "from mercurial import dispatch; dispatch.run()"
    environment = {**os.environ, "HGUSER": "test"}
    for arguments in (["init", str(path)], ["-R", str(path), "debugbuilddag", "+2"]):
        subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True, timeout=60)
    return path


def app(repo: Path) -> WireTestApp:
    return WireTestApp(WireApp(MercurialProvider(repo, config=["experimental.evolution=all"])))


def ask(served: WireTestApp, command: str, **headers: str) -> tuple[int, bytes]:
    reply = served.wire("/", command, headers=headers)
    return reply.status, reply.data


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("bundle BROKEN", "line 2: not enough values to unpack"),
        ("bundle heads=zz", "line 2: Non-hexadecimal digit found"),
        (f"bundle heads={'1' * 40}", "line 2: "),
        (f"bundle bases={'1' * 40}", "line 2: "),
    ],
)
def test_a_broken_manifest_of_pull_bundles(
    repo: Path, line: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    (repo / ".hg" / "hgrc").write_text("[server]\npullbundle=yes\n")
    manifest = repo / ".hg" / "pullbundles.manifest"
    manifest.write_text(f"\n{line}\n")
    served = app(repo)
    for _ in range(2):
        assert ask(served, "getbundle", **PARTIAL) == UNUSABLE
    assert caplog.text.count(f"repository / at {repo}: .hg/pullbundles.manifest cannot be read: {problem}") == 1
    assert ask(served, "getbundle")[0] == 200, "only some clients get bundles from the manifest"
    assert ask(served, "heads")[0] == 200
    manifest.write_text("")
    assert ask(served, "getbundle", **PARTIAL)[0] == 200


def test_a_good_manifest_of_pull_bundles(repo: Path) -> None:
    (repo / ".hg" / "hgrc").write_text("[server]\npullbundle=yes\n")
    served = app(repo)
    tip = served.wire("/", "heads").data.decode().strip()
    (repo / ".hg" / "pullbundles.manifest").write_text(f"bundle heads={tip} BUNDLESPEC=none-v2\n")
    (repo / ".hg" / "bundle").write_bytes(b"a bundle")
    reply = served.wire("/", "getbundle", {"heads": tip, "bundlecaps": "HG20"}, headers=PARTIAL)
    assert (reply.status, reply.data) == (200, b"a bundle")


def test_a_broken_manifest_of_clone_bundles(repo: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repo / ".hg" / "clonebundles.manifest").write_text("https://example.org/b\nhttps://example.org/c BROKEN\n")
    served = app(repo)
    assert ask(served, "clonebundles") == UNUSABLE
    assert ".hg/clonebundles.manifest cannot be read: line 2: not enough values" in caplog.text
    assert ask(served, "clonebundles_manifest")[0] == 200, "it is sent without being read"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("store/phaseroots", b"nonsense\n"),
        ("store/obsstore", b"\xff\xff\xff"),
        ("store/00changelog.i", b"\xff" * 64),
    ],
)
def test_a_broken_store(repo: Path, name: str, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (repo / ".hg" / name).write_bytes(content)
    served = app(repo)
    for command in ("heads", "known"):
        reply = served.wire("/", command, {"nodes": "1" * 40} if command == "known" else {})
        assert (reply.status, reply.data) == UNUSABLE
    assert caplog.text.count(f".hg/{name} cannot be read: ") == 1


def test_files_are_checked_once_in_a_state(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = app(repo)
    checked: list[object] = []
    monkeypatch.setattr(
        "hgwire_wsgi.repositories.mercurial.repository.files_of", lambda *_: {"store/phaseroots": checked.append}
    )
    for command in ("hello", "branchmap"):
        assert ask(served, command)[0] == 200
    assert not checked, "these did not fail"
    for _ in range(2):
        assert ask(served, "getbundle")[0] == 200
        assert ask(served, "clonebundles")[0] == 200
    assert len(checked) == 1
    (repo / ".hg" / "localtags").write_bytes(b"")
    assert ask(served, "clonebundles")[0] == 200
    assert len(checked) == 2


def test_which_files_a_command_reads() -> None:
    class Settings:
        def configbool(self, section: bytes, name: bytes) -> bool:
            assert (section, name) == (b"server", b"pullbundle")
            return True

    always = set(files_of("getbundle", Settings(), ()))
    assert set(files_of("getbundle", Settings(), ("partial-pull",))) - always == {"pullbundles.manifest"}
    assert set(files_of("clonebundles", Settings(), ())) - always == {"clonebundles.manifest"}
    assert set(files_of("lookup", Settings(), ())) == always


@pytest.mark.parametrize("hidden", [False, True])
def test_bookmarks_are_read_to_show_hidden_changesets(
    repo: Path, hidden: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What can be hidden is not, if a bookmark names it."""
    (repo / ".hg" / "bookmarks").mkdir()
    monkeypatch.setattr("mercurial.repoview.hideablerevs", lambda repo: frozenset({1} if hidden else ()))
    served = app(repo)
    assert ask(served, "heads")[0] == (500 if hidden else 200)
    assert (".hg/bookmarks cannot be read" in caplog.text) is hidden


def test_a_small_file_is_read_in_any_case(tmp_path: Path) -> None:
    file, folder, pipe = tmp_path / "file", tmp_path / "folder", tmp_path / "pipe"
    file.write_bytes(b"x" * 2000)
    folder.mkdir()
    os.mkfifo(pipe)
    (tmp_path / "loop").symlink_to("loop")
    assert read_bounded(os.fsencode(file), 1000) == b"x" * 1000
    for path in (tmp_path / "none", file / "below"):
        assert read_bounded(os.fsencode(path), 10) is None
    for path in (folder, pipe, tmp_path / "loop"):
        assert read_bounded(os.fsencode(path), 10) == b"", "what cannot be read is there"


def test_why_a_repository_is_read_only(repo: Path) -> None:
    provider = MercurialProvider(repo)
    marker = repo / ".hg" / "hgwire-readonly"

    def reason() -> str | None:
        with provider.lease("") as repository:
            return repository.read_only_reason()

    assert reason() is None
    marker.write_bytes("gesperrt für \xff".encode() + b"\xff" + b"x" * 5000)
    assert (reason() or "").startswith("gesperrt für \xff\ufffdx")
    assert len(reason() or "") < 1000
    marker.unlink()
    marker.mkdir()
    assert reason() == ""
