"""Loading extensions, and repositories that are slow to open."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi import WireApp
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import extensions
from mercurial import ui as uimod

from hgwire_wsgi.repositories.mercurial import MercurialProvider, loading, provider

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def configured(**enabled: str) -> Any:
    ui = uimod.ui.load()
    for name, path in enabled.items():
        ui.setconfig(b"extensions", name.encode(), path.encode(), b"test")
    return ui


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of Mercurial's own function."""
    calls: list[Any] = []
    monkeypatch.setattr(loading, "_load", lambda ui, whitelist=None: calls.append(whitelist))
    monkeypatch.setattr(loading, "_loaded", set())
    return calls


def test_mercurial_itself_loads_through_it() -> None:
    assert extensions.loadall is loading.load_extensions


def test_only_what_is_not_loaded_yet_is_loaded(loaded: list[Any]) -> None:
    loading.load_extensions(configured())
    assert loaded == []
    for _ in range(2):
        loading.load_extensions(configured(one="", two="/two.py", off="!"))
        assert loaded == [None]
    loading.load_extensions(configured(three="", four=""), [b"four"])
    loading.load_extensions(configured(three="", four=""), [b"four"])
    assert loaded == [None, [b"four"]]
    loading.load_extensions(configured(three=""))
    assert len(loaded) == 3


def test_what_failed_is_tried_again(loaded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ui: Any, whitelist: Any) -> None:
        loaded.append(whitelist)
        raise RuntimeError("required, but missing")

    monkeypatch.setattr(loading, "_load", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            loading.load_extensions(configured(one=""))
    assert len(loaded) == 2


def test_only_those_that_load_wait(loaded: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loading.load_extensions(configured(quick=""))
    go, begun = threading.Event(), threading.Event()

    def load(ui: Any, whitelist: Any) -> None:
        begun.set()
        go.wait(30)

    monkeypatch.setattr(loading, "_load", load)
    thread = threading.Thread(target=loading.load_extensions, args=(configured(slow=""),))
    thread.start()
    assert begun.wait(30)
    loading.load_extensions(configured(quick=""))
    assert b"slow" not in loading._loaded, "half an extension is none"
    go.set()
    thread.join(30)
    assert b"slow" in loading._loaded


# Repositories


def make_repository(path: Path, hgrc: str = "") -> Path:
    (path / ".hg" / "store").mkdir(parents=True)
    (path / ".hg" / "requires").write_text("dotencode\nfncache\ngeneraldelta\nrevlogv1\nsparserevlog\nstore\n")
    (path / ".hg" / "hgrc").write_text(hgrc)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe without a writer, which blocks whoever opens it; it has one at the end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    while True:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            break
        time.sleep(0.01)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.monotonic()
    found = call()
    return time.monotonic() - started, found


@pytest.mark.parametrize("kind", ["include", "extension"])
def test_a_repository_that_does_not_open_disturbs_no_other(kind: str, tmp_path: Path, pipe: Path) -> None:
    (tmp_path / "slow.py").write_text(f"open({str(pipe)!r}).read()\n")
    hgrc = f"%include {pipe}\n" if kind == "include" else f"[extensions]\nslow{kind} = {tmp_path}/slow.py\n"
    make_repository(tmp_path / "repos" / "slow", hgrc)
    for name in ("one", "two"):
        make_repository(tmp_path / "repos" / name)
    app = WireTestApp(WireApp(MercurialProvider(tmp_path / "repos", open_timeout=0.3)))
    assert app.wire("/one", "heads").status == 200
    taken, reply = timed(lambda: app.wire("/slow", "heads"))
    assert reply.status == 503 and 0.2 < taken < 5
    taken, _ = timed(lambda: [app.wire("/slow", "heads") for _ in range(10)])
    assert taken < 2, "only the first one waits"
    for name in ("one", "two"):
        taken, reply = timed(lambda name=name: app.wire(f"/{name}", "heads"))
        assert reply.status == 200 and taken < 1


def test_a_set_that_changes_meanwhile_is_iterated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path / "repo")
    tried: list[object] = []
    open_repository = provider.OpenRepository

    def once(*arguments: Any) -> Any:
        tried.append(arguments)
        if len(tried) == 1:
            raise RuntimeError("Set changed size during iteration")
        return open_repository(*arguments)

    monkeypatch.setattr(provider, "OpenRepository", once)
    assert WireTestApp(WireApp(MercurialProvider(tmp_path / "repo"))).wire("/", "heads").status == 200
    assert len(tried) == 2


def test_pipes_are_no_part_of_the_state(tmp_path: Path, pipe: Path) -> None:
    """A request reads the state itself, so it must not block there."""
    repo = make_repository(tmp_path / "repo", f"%include {pipe}\n")
    (repo / ".hg" / "bookmarks").symlink_to(pipe)
    taken, _ = timed(lambda: MercurialProvider(repo).lease("").repository.content_token())
    assert taken < 1
