"""The middleware before hgweb: no command that the application refuses or has removed reaches hgweb, at any URL."""

from __future__ import annotations

import gc
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial.hgweb import hgweb

from hgwire_wsgi import CommandRegistry, WireApp, WireMiddleware
from hgwire_wsgi.repositories.mercurial import MercurialProvider

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

HGRC = "[web]\nallow-push=*\npush_ssl=no\n[extensions]\nlargefiles=\n"


class Pages:
    """hgweb, with a memory of what it was asked."""

    def __init__(self, source: Any) -> None:
        self.app = hgweb(source)
        self.asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.asked.append(f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        found: Iterable[bytes] = self.app(environ, start_response)
        return found


def ask(app: Any, url: str, *, method: str = "GET", body: bytes = b"", **more: str) -> tuple[int, bytes]:
    path, _, query = url.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, **more}
    environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    setup_testing_defaults(environ)
    started: list[str] = []
    reply = app(environ, lambda status, headers, exc_info=None: started.append(status))
    content = b"".join(reply)
    getattr(reply, "close", lambda: None)()
    return int(started[0][:3]), content


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """hgweb leaves its templates open."""
    yield
    gc.collect()


@pytest.fixture
def site(tmp_path: Path, demonstration: Path) -> Path:
    """``main``, which we serve; ``main/sub`` and ``other``, which only hgweb serves."""
    for name in ("main", "main/sub", "other"):
        shutil.copytree(demonstration, tmp_path / name)
        (tmp_path / name / ".hg" / "hgrc").write_text(HGRC)
    return tmp_path


@pytest.fixture
def pages(site: Path) -> Pages:
    return Pages({name.encode(): os.fsencode(site / name) for name in ("main", "main/sub", "other")})


def ours(site: Path, commands: CommandRegistry | None = None) -> WireApp:
    return WireApp(MercurialProvider({"main": site / "main"}), commands=commands)


def bookmarks(site: Path, name: str) -> bytes:
    place = site / name / ".hg" / "bookmarks"
    return place.read_bytes() if place.exists() else b""


def test_hgweb_alone_runs_them_all(site: Path, pages: Pages) -> None:
    """So that the other tests can fail."""
    node = ask(pages, "/main?cmd=heads")[1][:40].decode()
    for name in ("main", "main/sub", "other"):
        for number, cmd in enumerate(("cmd=pushkey", "%63md=push%6bey", "cmd=&cmd=pushkey", "cmd=heads&cmd=pushkey")):
            url = f"/{name}?{cmd}&namespace=bookmarks&key=mark{number}&old=&new={node}"
            assert ask(pages, url, method="POST") == (200, b"1\n")
        assert bookmarks(site, name).count(b"mark") == 4


PATHS = ["/main", "/main/", "/main/sub", "/main/sub/", "/other", "//other", "/other/"]
SPELLINGS = ["cmd=pushkey", "%63md=push%6bey", "cmd=&cmd=pushkey", "cmd=heads&cmd=pushkey", "cmd=changelog&cmd=pushkey"]
SPELLINGS += ["x&cmd=pushkey", "x;cmd=pushkey", "rev/tip&cmd=pushkey", "cmd=unbundle&heads=666f726365", "cmd=putlfile"]


def test_what_was_removed_or_refused_never_reaches_hgweb(site: Path, pages: Pages) -> None:
    commands = CommandRegistry.standard()
    commands.remove("pushkey", "unbundle", "putlfile")
    removed, plain = (WireMiddleware(pages, wire=ours(site, each)) for each in (commands, None))
    node = ask(pages, "/main?cmd=heads")[1][:40].decode()
    pages.asked.clear()
    for path in PATHS:
        for cmd in SPELLINGS:
            url = f"{path}?{cmd}&namespace=bookmarks&key=stolen&old=&new={node}&sha=0"
            assert 400 <= ask(removed, url, method="POST")[0] < 500, url
            if not path.startswith("/main") or "sub" in path:
                assert 400 <= ask(plain, url, method="POST")[0] < 500, url
    assert pages.asked == []
    assert not any(b"stolen" in bookmarks(site, name) for name in ("main", "main/sub", "other"))


URLS = ["/main?cmd=changelog", "/main?cmd=manifest;node=tip;path=/", "/main/sub?cmd=tags", "/main/sub/rev/tip", "/"]
URLS += ["/main", "/main?rev/tip", "/main?cmd=nosuch", "/other/file/tip", "/other?cmd=nosuch", "/main?style=raw"]
URLS += ["/main?cmd=HEADS", "/main/.hg/x", "/main/.git/config", "/main/.git/info/lfs/objects/batch"]
URLS += ["/main/.hg/lfs/objects/aa", "/static/style.css", "/main?cmd=branches&x=1"]


def test_pages_reach_hgweb(site: Path, pages: Pages) -> None:
    app = WireMiddleware(pages, wire=ours(site))
    for url in URLS[:-1]:
        pages.asked.clear()
        assert ask(app, url) == ask(pages.app, url)
        assert len(pages.asked) == 1, url
    pages.asked.clear()
    assert ask(app, URLS[-1])[0] == 400 and not pages.asked


def test_lfs_paths_are_ours_where_lfs_serves(site: Path) -> None:
    for setting, expected in (("", True), ("[experimental]\nlfs.serve=no\n", False)):
        (site / "main" / ".hg" / "hgrc").write_text(f"{HGRC}lfs=\n{setting}")
        wire = ours(site)
        for path in ("/main/.git/info/lfs/objects/batch", "/main/.hg/lfs/objects/" + "a" * 64):
            assert wire.handles({"PATH_INFO": path, "QUERY_STRING": ""}) is expected
        for path in ("/main/.git/info/lfs/locks", "/main/.hg/store", "/main/.hg/lfs", "/other/.hg/lfs/objects/a"):
            assert not wire.handles({"PATH_INFO": path, "QUERY_STRING": ""})


UNKNOWN = """
from mercurial import wireprototypes, wireprotov1server
@wireprotov1server.wireprotocommand(b'secretcmd', permission=b'pull')
def secretcmd(repo, proto):
    return wireprototypes.bytesresponse(b'secret')
"""
WITHDRAWN = """
from mercurial import extensions, wireprotoserver
def uisetup(ui):
    def iscmd(orig, name):
        return name != b'known' and orig(name)
    extensions.wrapfunction(wireprotoserver, 'iscmd', iscmd)
"""
PROGRAM = """
import sys
from pathlib import Path
from hgwire_wsgi import CommandRegistry
from test_mercurial_middleware import Pages, WireMiddleware, ask, ours
site = Path(sys.argv[1])
commands = CommandRegistry.standard()
commands.remove(*sys.argv[3:])
pages = Pages({name: bytes(site / name.decode()) for name in (b"main", b"main/sub", b"other")})
app = WireMiddleware(pages, wire=ours(site, commands))
for url in sys.argv[2].split():
    status, body = ask(app, url)
    print(url, status, body[:20], len(pages.asked))
"""


def run(site: Path, urls: list[str], *removed: str) -> list[str]:
    folders = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(site), " ".join(urls), *removed],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": folders},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("removed", [(), ("secretcmd",)])
def test_a_command_that_only_an_unknown_extension_has(site: Path, removed: tuple[str, ...]) -> None:
    """The first request of the process: the extension is not loaded yet."""
    extension = site / "secret.py"
    extension.write_text(UNKNOWN)
    for name in ("main", "main/sub"):
        with (site / name / ".hg" / "hgrc").open("a") as file:
            file.write(f"secret={extension}\n")
    below, main, other = run(site, ["/main/sub?cmd=secretcmd", "/main?cmd=secretcmd", "/other?cmd=secretcmd"], *removed)
    assert below == "/main/sub?cmd=secretcmd 404 b'0\\nNot Found\\n' 0"
    assert main == ("/main?cmd=secretcmd " + ("400 b'0\\nunknown command: s' 0" if removed else "200 b'secret' 0"))
    assert other.startswith("/other?cmd=secretcmd 404") and other.endswith(" 0")


def test_a_command_that_an_extension_has_withdrawn(site: Path) -> None:
    """hgweb takes it for a page, and has none; we answer the same with a text for clients, also from the cache."""
    extension = site / "withdraw.py"
    extension.write_text(WITHDRAWN)
    with (site / "other" / ".hg" / "hgrc").open("a") as file:
        file.write(f"withdraw={extension}\n")
    node = "0" * 40
    urls = [f"/main?cmd=known&nodes={node}", f"/main?cmd=known&nodes={node}", "/other", f"/main?cmd=known&nodes={node}"]
    first, second, other, last = run(site, urls)
    assert first.endswith(" 200 b'1' 0") and second.endswith(" 200 b'1' 0")
    assert other.split()[1] == "200"
    assert last.endswith(" 400 b'0\\nunknown command: k' 1")
