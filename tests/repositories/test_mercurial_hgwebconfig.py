"""Reading an ``hgweb.config``: what a listing has, when it is replaced, and what does not stop the server."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi import WireApp
from hgwire_wsgi.testing import WireTestApp

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import encoding
from mercurial import ui as uimod

from hgwire_wsgi.cli.demo import clean_environment, hg_command
from hgwire_wsgi.errors import RepositoryNotFound
from hgwire_wsgi.repositories.mercurial import HgwebConfigProvider, hgwebconfig
from hgwire_wsgi.repositories.mercurial.hgwebconfig import ConfigFinder, web_settings

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)


def hg(*words: str | Path) -> str:
    result = subprocess.run([*hg_command(), *map(str, words)], env=clean_environment(), check=True, capture_output=True)
    return result.stdout.decode()


@pytest.fixture(autouse=True)
def leaks() -> Iterator[None]:
    """Collect what Mercurial leaves to the garbage collector while its warnings are ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "repo"
    hg("init", path)
    (path / "file").write_text("content\n")
    hg("-R", path, "commit", "-A", "-m", "first", "-d", "0 0", "-u", "test")
    return path


class Clock:
    """Time that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hgwebconfig, "time", clock)
    return clock


@pytest.fixture
def config(tmp_path: Path, original: Path) -> Callable[..., Path]:
    shutil.copytree(original, tmp_path / "repos" / "one")

    def write(text: str = "[paths]\n/ = {repos}/*\n", **more: str) -> Path:
        file = tmp_path / "hgweb.config"
        file.write_text(text.format(repos=tmp_path / "repos", **more))
        return file

    return write


def add(tmp_path: Path, name: str) -> None:
    shutil.copytree(tmp_path / "repos" / "one", tmp_path / "repos" / name)


def finder_of(source: Any) -> ConfigFinder:
    return ConfigFinder(source, uimod.ui.load())


def heads(provider: HgwebConfigProvider, path: str) -> int:
    return int(WireTestApp(WireApp(provider)).get(f"{path}?cmd=heads", expect_errors=True).status_int)


def setting(provider: HgwebConfigProvider, name: str, section: str, key: str) -> str | None:
    with provider.lease(name) as repository:
        return repository.setting(section, key)


# What is found


def test_repositories_appear_and_vanish_after_the_interval(
    config: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    finder = finder_of(config())
    assert finder.names(10) == ["one"]
    add(tmp_path, "two")
    clock.now += 19.9
    assert finder.locate("/two") is None
    clock.now += 0.2
    assert finder.locate("/two") == ("two", "")
    shutil.rmtree(tmp_path / "repos" / "two")
    assert finder.locate("/two") == ("two", "")
    assert finder.find("two") is None
    clock.now += 21
    assert finder.locate("/two") is None


def test_each_request_reads_the_file_if_the_interval_is_0(
    config: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    finder = finder_of(config("[paths]\n/ = {repos}/*\n[web]\nrefreshinterval = 0\n"))
    add(tmp_path, "two")
    assert finder.locate("/two/x") == ("two", "x")


def test_paths_from_a_mapping_and_from_pairs(config: Callable[..., Path], tmp_path: Path) -> None:
    repos = config().parent / "repos"
    assert finder_of({"a": str(repos / "one"), "b": f"{repos}/*"}).names(10) == ["a", "b/one"]
    assert finder_of([("x", repos / "one"), ("x", repos / "missing")]).find("x") is None


def test_a_relative_path_is_below_the_current_folder(
    config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config("[paths]\na = repos/one\n/ = repos/*\n").parent)
    finder = finder_of("hgweb.config")
    monkeypatch.chdir("/")
    assert finder.names(10) == ["a", "one"]


def test_names_that_are_listed(config: Callable[..., Path], tmp_path: Path) -> None:
    text = "[paths]\n/ = {repos}/*\ndeep = {repos}/*\nmissing = {repos}/x\n[web]\ndescend = %s\n"
    assert finder_of(config(text % "yes")).names(10) == ["deep/one", "one"]
    assert finder_of(config(text % "yes")).names(1) == ["deep/one"]
    assert finder_of(config(text % "no")).names(10) == ["one"]


def test_paths_of_requests(config: Callable[..., Path]) -> None:
    finder = finder_of(config("[paths]\na/b = {repos}/one\na = {repos}/one\nc/d/e = {repos}/one\n"))
    assert finder.locate("/a/b/c//d/") == ("a/b", "c//d")
    assert finder.locate("/a/bc") == ("a", "bc")
    assert finder.locate("//a//") == ("a", "")
    assert finder.locate("/a/" + "x/" * 5000) == ("a", ("x/" * 5000)[:-1])
    for path in ("", "/", "/c/d", "/c/d/f", "/ab", "/a/..", "/a/x/../b", "/a/\0"):
        assert finder.locate(path) is None, path
    root = finder_of({"": config().parent / "repos" / "one"})
    assert root.locate("/") == root.locate("") == ("", "")
    assert root.locate("/x/y") == ("", "x/y")


# Settings


def test_settings_of_the_file_are_below_those_of_repositories(config: Callable[..., Path], tmp_path: Path) -> None:
    file = config("[paths]\n/ = {repos}/*\n[web]\nallow_read = a\ndeny_read = b\n[server]\nzstdlevel = 5\n")
    (tmp_path / "repos" / "one" / ".hg" / "hgrc").write_text("[web]\nallow_read = c\n")
    provider = HgwebConfigProvider(file, config=["web.deny_push=d"])
    found = {key: setting(provider, "one", "web", key) for key in ("allow_read", "deny_read", "deny_push")}
    assert found == {"allow_read": "c", "deny_read": "b", "deny_push": "d"}
    assert setting(provider, "one", "server", "zstdlevel") == "5"


def test_a_change_of_settings_reaches_open_repositories(
    config: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    provider = HgwebConfigProvider(config())
    assert heads(provider, "/one") == 200
    before = provider.change_stamp("one")
    config("[paths]\n/ = {repos}/*\n[web]\ndeny_read = *\n")
    assert heads(provider, "/one") == 200
    clock.now += 21
    assert heads(provider, "/one") == 403
    config()
    clock.now += 21
    assert heads(provider, "/one") == 200
    assert provider.change_stamp("one") == before


def test_a_new_repository_leaves_the_others_as_they_are(
    config: Callable[..., Path], tmp_path: Path, clock: Clock
) -> None:
    """What is cached for a repository stays valid if the file names another one."""
    provider = HgwebConfigProvider(config())
    with provider.lease("one") as repository:
        token = repository.content_token()
    add(tmp_path, "two")
    config("[paths]\n/ = {repos}/*\nagain = {repos}/one\n[collections]\n{repos} = {repos}\n")
    clock.now += 21
    assert heads(provider, "/again") == 200
    with provider.lease("one") as repository:
        assert repository.content_token() == token


def test_extensions_and_posted_arguments_of_the_file(config: Callable[..., Path]) -> None:
    text = "[paths]\n/ = {repos}/*\n[extensions]\nlargefiles =\n[experimental]\nhttppostargs = yes\n"
    app = WireApp(HgwebConfigProvider(config(text)))
    assert app.capabilities.post_args
    assert "getlfile" in app.commands


def test_the_encoding_of_the_file(config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(encoding, "encoding", encoding.encoding)
    finder = finder_of(config("[paths]\n/ = {repos}/*\n[web]\nencoding = latin-1\n"))
    assert encoding.encoding == b"latin-1"
    settings = finder.current().settings
    clock.now += 21
    assert finder.current().settings is settings


def test_hidden_repositories_are_served_but_not_listed(config: Callable[..., Path], tmp_path: Path) -> None:
    add(tmp_path, "two")
    (tmp_path / "repos" / "one" / ".hg" / "hgrc").write_text("[web]\nhidden = yes\n")
    provider = HgwebConfigProvider(config())
    assert WireTestApp(WireApp(provider)).get("/").text == "http://localhost/two\n"
    assert heads(provider, "/one") == 200


# Problems


def test_a_file_that_cannot_be_read(config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: No such file or directory"):
        HgwebConfigProvider(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"hgweb\.config:1: unexpected leading whitespace|hgweb\.config:1"):
        HgwebConfigProvider(config(" nonsense\n"))
    with pytest.raises(ValueError, match="not a setting of the form"):
        HgwebConfigProvider(config(), config=["nonsense"])


def test_a_file_that_breaks_later(
    config: Callable[..., Path], tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    finder = finder_of(config())
    add(tmp_path, "two")
    config(" nonsense\n")
    for _ in range(3):
        clock.now += 21
        assert finder.names(10) == ["one"]
    assert len(caplog.records) == 1
    assert caplog.messages[0].endswith("; the repositories known so far are served")
    config()
    clock.now += 21
    assert finder.names(10) == ["one", "two"]
    os.unlink(tmp_path / "hgweb.config")
    clock.now += 21
    assert finder.names(10) == ["one", "two"]
    assert "No such file or directory" in caplog.messages[1]


def test_wrong_settings_of_the_file(config: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    finder = finder_of(config("[paths]\n/ = {repos}/*\n[web]\nrefreshinterval = soon\ndescend = perhaps\n"))
    assert finder.names(10) == ["one"]
    assert finder.current().interval == 20
    assert caplog.messages == [
        "web.descend is not a boolean ('perhaps'); the default is used",
        "web.refreshinterval is not a valid integer ('soon'); the default is used",
    ]


def test_paths_that_are_missing(
    config: Callable[..., Path], tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    text = "[paths]\n/ = {repos}/*\ntwo = {repos}/two\nx = {repos}/x/**\n[collections]\ny = {repos}/y\n"
    provider = HgwebConfigProvider(config(text))
    expected = [
        f"no repositories are served from {tmp_path}/repos/x: No such file or directory",
        f"no repositories are served from {tmp_path}/repos/y: No such file or directory",
        f"repository two: no repository at {tmp_path}/repos/two",
    ]
    assert caplog.messages == expected
    assert (heads(provider, "/one"), heads(provider, "/two")) == (200, 404)
    clock.now += 21
    assert heads(provider, "/two") == 404
    assert [message for message in caplog.messages if message in expected] == expected
    add(tmp_path, "two")
    assert heads(provider, "/two") == 200


def test_a_damaged_repository_disturbs_no_other(config: Callable[..., Path], tmp_path: Path) -> None:
    add(tmp_path, "two")
    (tmp_path / "repos" / "two" / ".hg" / "requires").write_text("nonsense\n")
    provider = HgwebConfigProvider(config())
    assert (heads(provider, "/one"), heads(provider, "/two")) == (200, 500)
    assert WireTestApp(WireApp(provider)).get("/").text == "http://localhost/one\n"


# Threads


def test_one_thread_reads_while_others_use_the_old_listing(
    config: Callable[..., Path], tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = finder_of(config())
    add(tmp_path, "two")
    begun, go_on = threading.Event(), threading.Event()
    search = hgwebconfig._search
    walks = []

    def slow(*arguments: Any) -> Iterator[Any]:
        walks.append(arguments)
        begun.set()
        assert go_on.wait(30)
        yield from search(*arguments)

    monkeypatch.setattr(hgwebconfig, "_search", slow)
    clock.now += 21
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(finder.locate("/two")))
    reader.start()
    assert begun.wait(30)
    assert finder.locate("/two") is None
    assert finder.locate("/one") == ("one", "")
    go_on.set()
    reader.join(30)
    assert found == [("two", "")]
    assert finder.locate("/two") == ("two", "")
    assert len(walks) == 1


def test_a_listing_begun_after_a_request_arrived_is_new_enough(config: Callable[..., Path], clock: Clock) -> None:
    """With ``refreshinterval = 0``, requests that wait for the same reading share the next one."""
    finder = finder_of(config("[paths]\n/ = {repos}/*\n[web]\nrefreshinterval = 0\n"))
    finder._changing.acquire()
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(finder.current()))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    clock.now += 1
    newer = finder._listing = finder._read(finder._listing)
    finder._changing.release()
    waiting.join(30)
    assert found == [newer]


def test_five_thousand_names(tmp_path: Path, clock: Clock) -> None:
    for number in range(5000):
        os.makedirs(tmp_path / f"r{number:04}" / ".hg")
    finder = finder_of({"": f"{tmp_path}/**"})
    assert len(finder.names(10_000)) == 5000
    first = finder.current()
    clock.now += 21
    second = finder.current()
    assert second is not first
    assert second.settings is first.settings
    assert finder.locate("/r4321/x") == ("r4321", "x")


# The server's own settings


def test_settings_for_the_server(config: Callable[..., Path]) -> None:
    file = config("[paths]\n/ = {repos}/missing/*\n[web]\nport = 1\nprefix =\n")
    names = ("address", "port", "prefix")
    assert web_settings(file, names) == {"port": "1", "prefix": ""}
    assert web_settings(file, names, config=["web.port=2"])["port"] == "2"
    with pytest.raises(ValueError, match="No such file"):
        web_settings("/nowhere/at/all", names)


# Bundle files


def test_a_bundle_file_is_a_repository(original: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.hg"
    hg("-R", original, "bundle", "--all", file)
    provider = HgwebConfigProvider({"x": file})
    with provider.lease("x") as repository:
        first = repository.content_token()
        assert [node.hex() for node in repository.heads()] == [hg("-R", original, "id", "-i", "--debug").strip()]
        folder = repository.local.root  # type: ignore[attr-defined]
        assert os.path.isdir(folder)
    provider._pool._idle.clear()
    assert not os.path.exists(folder)
    second = tmp_path / "second"
    shutil.copytree(original, second)
    (second / "file").write_text("changed\n")
    hg("-R", second, "commit", "-m", "second", "-d", "0 0", "-u", "test")
    hg("-R", second, "bundle", "--all", file)
    with provider.lease("x") as repository:
        assert repository.content_token() != first
        assert [node.hex() for node in repository.heads()] == [hg("-R", second, "id", "-i", "--debug").strip()]
    file.unlink()
    with pytest.raises(RepositoryNotFound):
        provider.lease("x")
