"""Names to paths, whatever is in them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hgwire_wsgi.errors import RepositoryBusy, RepositoryMoved, RepositoryUnusable
from hgwire_wsgi.logcontext import CURRENT
from hgwire_wsgi.repositories import finder
from hgwire_wsgi.repositories.finder import Found, Moved, RepositoryFinder, make_finder


def is_repository(path: bytes) -> bool:
    return os.path.isdir(path + b"/.hg")


def make(source: Any) -> RepositoryFinder:
    return make_finder(source, is_repository)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "deep/er/b", "a/inside", ".hidden/c", "ünï"):
        (tmp_path / name / ".hg").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_repository_is_served_at_the_top(root: Path) -> None:
    found = make(root / "a")
    assert found.locate("/") == ("", "") and found.locate("/x//y/") == ("", "x/y")
    assert found.find("") == Found(str(root / "a")) and found.find("x") is None
    assert found.names(5) == [""] and found.names(0) == []
    (root / "a" / ".hg").rmdir()
    assert found.find("") is None and found.names(5) == []


FOLDER = [
    ("/a", ("a", "")),
    ("//a//x/", ("a", "x")),
    ("/a/.hg", ("a", ".hg")),
    ("/a/inside", ("a", "inside")),
    ("/deep/er/b/x", ("deep/er/b", "x")),
    ("/.hidden/c", (".hidden/c", "")),
    ("/\xc3\xbcn\xc3\xaf", ("\xc3\xbcn\xc3\xaf", "")),
    ("/", None),
    ("", None),
    ("/deep/er", None),
    ("/empty/a", None),
    ("/none/a", None),
    ("/" + "n" * 5000, None),
]


@pytest.mark.parametrize(("path", "located"), FOLDER)
def test_a_folder(root: Path, path: str, located: tuple[str, str] | None) -> None:
    found = make(root)
    assert found.locate(path) == located
    if located is not None:
        place = found.find(located[0])
        assert place is not None and place.root.startswith(os.fsencode(root)) and is_repository(place.root)


def everything(name: str) -> Path:
    return Path("/")


HOSTILE = ["/../a", "/a/../a", "/./a", "/a/.", "/a\0", "/\u20ac", "/deep/../../x"]


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize("source", ["", "a", {"": "a", "a": "a"}, everything])
def test_no_path_leads_out(root: Path, source: Any, path: str) -> None:
    found = make(root / source if isinstance(source, str) else source)
    assert found.locate(path) is None


def test_the_folder_of_a_repository_is_none(root: Path) -> None:
    (root / ".hg" / "store" / ".hg").mkdir(parents=True)
    folder = finder._Folder(os.fsencode(root), is_repository)
    assert folder.locate("/.hg/store") is None and folder.find(".hg/store") is None
    assert folder.find("") is None and folder.find("none") is None


def test_a_folder_lists_its_repositories(root: Path) -> None:
    found = make(root)
    assert found.names(10) == ["a", "deep/er/b", "\xc3\xbcn\xc3\xaf"]
    assert found.names(2) == ["a", "deep/er/b"] and found.names(0) == []


def test_links_in_circles_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (root / "empty" / name).symlink_to(root / "empty")
    (root / "empty" / "loop").symlink_to(root / "empty" / "loop")
    monkeypatch.setattr(finder, "_MAX_FOLDERS", 50)
    assert make(root).names(10) == ["a", "deep/er/b"], "the search ends before it comes to the last one"
    monkeypatch.setattr(finder, "_MAX_DEPTH", 3)
    monkeypatch.setattr(finder, "_MAX_FOLDERS", 10_000)
    assert len(make(root).names(10)) == 3


def test_a_folder_that_cannot_be_read_has_none(root: Path) -> None:
    assert finder._folders(os.fsencode(root / "nosuch")) == []


def test_a_mapping(root: Path) -> None:
    found = make({"/one/": root / "a", "one/two": Found(root / "deep/er/b", ["a.b=c"]), "ü": str(root / "a")})
    assert found.locate("/one") == ("one", "") and found.locate("/one/two/x") == ("one/two", "x")
    assert found.locate("/one/three") == ("one", "three")
    assert found.locate("/\xc3\xbc") == ("\xc3\xbc", "") and found.locate("/none") is None and found.locate("/") is None
    assert found.find("one/two") == Found(root / "deep/er/b", ("a.b=c",)) and found.find("none") is None
    assert found.names(2) == ["one", "one/two"]
    assert make({}).locate("/") is None and make({"": root / "a"}).locate("/x") == ("", "x")


def test_what_is_missing_is_logged_once_until_it_returns(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = make({"": root / "a", "gone": root / "empty"})
    assert found.find("gone") is None and found.names(5) == [""]
    assert caplog.messages == [f"repository gone: no repository at {root / 'empty'}"]
    (root / "empty" / ".hg").mkdir()
    assert found.find("gone") is not None
    (root / "empty" / ".hg").rmdir()
    assert found.find("gone") is None and len(caplog.messages) == 2
    assert found.locate("/gone/x") == ("gone", "x"), "names come from the mapping, not from the disk"


def test_warnings_are_bounded(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = make(lambda name: root / "empty")
    assert isinstance(found, finder._Callable)
    for number in range(finder._MAX_WARNED + 10):
        assert found.find(str(number)) is None
    # The log itself limits equal lines, too.
    assert len(found._warned) == finder._MAX_WARNED >= len(caplog.messages) > 0


def test_a_function(root: Path) -> None:
    asked: list[str] = []

    def find(name: str) -> Found | None:
        asked.append(name)
        return Found(root / "a") if name == "ü/a" else None

    found = make(find)
    assert found.locate("/\xc3\xbc/a/x/y") == ("\xc3\xbc/a", "x/y")
    assert asked == ["ü/a/x/y", "ü/a/x", "ü/a"], "names are text"
    assert found.find("\xc3\xbc/a") == Found(root / "a") and found.find("x") is None and found.names(5) == []
    assert not found.fixed and make(root).fixed


def test_a_function_redirects(root: Path) -> None:
    found = make(lambda name: {"old": Moved("ü/new"), "a": root / "a"}.get(name))
    assert found.locate("/a/x") == ("a", "x")
    with pytest.raises(RepositoryMoved) as moved:
        found.locate("/old/x/y")
    assert moved.value.path == "\xc3\xbc/new/x/y"
    with pytest.raises(RepositoryMoved) as moved:
        found.locate("/old")
    assert moved.value.path == "\xc3\xbc/new"
    assert found.find("old") is None


class Served:
    def describe(self) -> str:
        return ""


def test_a_function_is_called_once_per_request(root: Path) -> None:
    asked: list[str] = []

    def find(name: str) -> Path | None:
        asked.append(name)
        return root / "a" if name == "a" else None

    found, other = make(find), make(find)
    for _ in range(2):
        request = Served()
        token = CURRENT.set(request)
        for _ in range(3):
            assert found.locate("/a/x") == ("a", "x") and found.find("a") is not None
        CURRENT.reset(token)
        assert asked == ["a/x", "a"]
        asked.clear()
    CURRENT.set(request)
    assert other.find("a") is not None and asked == ["a"], "each finder asks its own function"
    CURRENT.set(None)


def test_a_function_that_fails_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def find(name: str) -> None:
        raise KeyError("no connection")

    for call in (lambda: make(find).locate("/a\nb"), lambda: make(find).find("a")):
        caplog.clear()
        with pytest.raises(RepositoryBusy) as refused:
            call()
        assert dict(refused.value.headers) == {"Retry-After": "5"} and "no connection" not in str(refused.value)
        assert len(caplog.records) == 1 and caplog.records[0].exc_info is None
        assert "KeyError" in caplog.text and "\n" not in caplog.messages[0]


def test_a_function_may_refuse_by_itself() -> None:
    def find(name: str) -> None:
        raise RepositoryUnusable("closed on Sundays")

    with pytest.raises(RepositoryUnusable):
        make(find).locate("/a")


@pytest.mark.parametrize("source", ["folder", "mapping", "function"])
def test_a_long_path_costs_little(root: Path, source: str) -> None:
    calls: list[str] = []

    def find(name: str) -> None:
        calls.append(name)

    sources: dict[str, Any] = {"folder": root, "mapping": {"a/b/c": root / "a"}, "function": find}
    found = make(sources[source])
    started = time.process_time()
    for path in ("/x" * 500_000, "/a" * 500_000, "/deep/er" * 100_000):
        found.locate(path)
    assert time.process_time() - started < 2
    assert len(calls) <= 3 * finder.MAX_CALLS


def test_a_finder_of_the_hosts_own(root: Path) -> None:
    own = make(root)
    assert make(own) is own


def test_what_is_nothing(root: Path) -> None:
    with pytest.raises(ValueError, match="neither a repository nor a folder"):
        make(root / "nosuch")


def test_found() -> None:
    assert Found.of("x") == Found("x") and Found.of(Found("x", ["a.b=c"])).config == ("a.b=c",)
    assert Found(Path("x")).root == b"x"


def test_paths_that_keep_leading_to_their_repository(root: Path) -> None:
    assert make(root / "a").keeps("") and make({"x/y": root / "a"}).keeps("x/y")
    assert make(root).keeps("a") and not make(root).keeps("deep/er/b")
    assert not make(lambda name: root / "a").keeps("a")
