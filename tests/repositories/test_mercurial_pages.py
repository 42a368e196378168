"""hgweb behind a provider; ``test_hgweb_parity.py`` compares its pages with hgwebdir's own."""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi import WireApp, WireMiddleware
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from hgwire_wsgi.cli.demo import clean_environment, hg_command
from hgwire_wsgi.repositories.mercurial import HgwebConfigProvider, MercurialProvider, hgweb_pages, pages

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)


@pytest.fixture(autouse=True)
def no_collections() -> Iterator[None]:
    """Save time: hgwebdir collects garbage after each request.  Do it once, while Mercurial's warnings are ignored."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(gc, "collect", lambda *arguments, **options: 0)
        yield
    gc.collect()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repos" / "one"

    def hg(*words: str | Path) -> None:
        subprocess.run([*hg_command(), *map(str, words)], env=clean_environment(), check=True, capture_output=True)

    hg("init", path.parent)
    shutil.rmtree(path.parent / ".hg")
    hg("init", path)
    (path / "file").write_text("content\n")
    hg("-R", path, "commit", "-A", "-m", "first", "-d", "0 0", "-u", "test")
    hg("-R", path, "bundle", "--all", tmp_path / "x.hg")
    return path


def served(provider: MercurialProvider) -> WireTestApp:
    return WireTestApp(WireMiddleware(hgweb_pages(provider), wire=WireApp(provider)), lint=False)


def shows(app: WireTestApp, path: str) -> Any:
    return app.get(path, expect_errors=True).status_int


def test_a_single_repository(repo: Path) -> None:
    app = served(MercurialProvider(repo, config=["web.description=Some words"]))
    assert "Some words" in app.get("/summary?style=gitweb").text
    assert shows(app, "/file/tip/file?style=raw") == 200
    assert len(app.get("/?cmd=heads").body) == 41


def test_a_folder(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = served(MercurialProvider(repo.parent))
    assert 'href="/one/"' in app.get("/").text
    shutil.copytree(repo, repo.parent / "two")
    assert 'href="/two/"' not in app.get("/").text
    monkeypatch.setattr(pages, "_REFRESH", 0.0)
    assert 'href="/two/"' in app.get("/").text
    assert shows(app, "/two/file/tip/file") == 200


def test_names_from_a_mapping(repo: Path) -> None:
    """One of them at the root; hgweb shows it for every path that is not in another one."""
    app = served(MercurialProvider({"": repo, "below/it": repo}))
    assert shows(app, "/below/it/log") == 200
    assert shows(app, "/log") == 200


def test_bundle_files_have_no_pages(repo: Path) -> None:
    bundle = repo.parent.parent / "x.hg"
    app = served(MercurialProvider(bundle))
    assert "/file/tip" not in app.get("/").text
    app = served(MercurialProvider({"x": bundle, "one": repo}))
    assert shows(app, "/x/log") == 404
    assert len(app.get("/x?cmd=heads").body) == 41


def test_a_configuration_is_searched_once_for_both(repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "hgweb.config"
    text = f"[paths]\n/ = {repo.parent}/*\nmissing = {tmp_path}/missing\n[web]\nrefreshinterval = 0\nprefix = /hg/\n"
    file.write_text(text)
    provider = HgwebConfigProvider(file)
    app = served(provider)
    assert 'href="/one/"' in app.get("/").text
    before = provider.finder.current()  # type: ignore[attr-defined]
    assert shows(app, "/one/log") == 200
    assert provider.finder.current() is not before  # type: ignore[attr-defined]
    assert shows(app, "/missing/log") == 404
    file.write_text(text + "[paths]\nagain = " + str(repo) + "\n[web]\ndeny_read = *\n")
    assert shows(app, "/again/log") == 401
    file.unlink()
    assert shows(app, "/again/log") == 401
