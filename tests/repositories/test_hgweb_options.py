"""The table of options in ``docs/hgweb-config.rst``: complete, and true beside hgweb."""

from __future__ import annotations

import io
import re
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

import mercurial
from mercurial import configitems, util
from mercurial import ui as uimod
from mercurial.hgweb import hgweb

from hgwire_wsgi import WireApp
from hgwire_wsgi.cli.demo import clean_environment, hg_command
from hgwire_wsgi.repositories.mercurial import MercurialProvider

# Mercurial leaves closing some pipes and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:invalid escape sequence"
)

ROOT = Path(__file__).resolve().parents[2]
VERDICTS = {"honoured", "serve", "pages", "not used"}

_ROW = re.compile(r"^   \* - ``((?:web|server|experimental)\.[^`]+)``\n     - ([a-z ]+)\n     -(.*)$", re.MULTILINE)
_READ = re.compile(r"""b["']experimental["'],\s*b["']([^"']+)["']""")

_SERVER = (
    *("bookmarks.py", "bundle2*.py", "bundlecaches.py", "changegroup.py", "discovery.py", "exchange.py"),
    *("exchanges/*.py", "hgweb/*.py", "obsolete.py", "pushkey.py", "repoview.py", "server.py", "streamclone.py"),
    "wireproto*.py",
)
"""The modules of Mercurial that run on a server."""


def table() -> dict[str, str]:
    rows = _ROW.findall((ROOT / "docs" / "hgweb-config.rst").read_text())
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: verdict for name, verdict, _ in rows}


def known(section: str) -> set[str]:
    return {f"{section}.{name.decode()}" for name in configitems.coreitems[section.encode()]}


def test_every_option_of_mercurial_is_in_the_table() -> None:
    """A release with a new option fails here: decide what it means, and add it."""
    folder = Path(mercurial.__file__).parent
    read = {
        f"experimental.{name}"
        for pattern in _SERVER
        for path in folder.glob(pattern)
        for name in _READ.findall(path.read_text("utf-8"))
    }
    wanted = known("web") | known("server") | read
    documented = table()
    assert set(documented.values()) <= VERDICTS
    assert wanted - set(documented) == set()
    if util.version().startswith(b"7.2"):
        assert set(documented) - wanted == set()


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public, draft, secret and obsolete changesets, and a bookmark."""
    path = tmp_path_factory.mktemp("options") / "repo"

    def hg(*words: str | Path) -> None:
        command = [*hg_command(), "-R", path, *words, "--config", "experimental.evolution=all"]
        subprocess.run([*map(str, command)], env=clean_environment(), check=True, capture_output=True)

    subprocess.run([*hg_command(), "init", path], env=clean_environment(), check=True)
    for name in ("public", "draft", "secret"):
        (path / name).write_text(name * 200)
        hg("commit", "-A", "-m", name, "-d", "0 0", "-u", "test")
    hg("phase", "--public", "0")
    hg("phase", "--force", "--secret", "2")
    hg("bookmark", "-r", "1", "mark")
    hg("update", "0")
    (path / "obsolete").write_text("x")
    hg("commit", "-A", "-m", "obsolete", "-d", "0 0", "-u", "test")
    hg("update", "0")
    node = subprocess.run(
        [*hg_command(), "-R", str(path), "id", "-r", "3", "--debug", "-i"],
        env=clean_environment(),
        check=True,
        capture_output=True,
    )
    hg("debugobsolete", node.stdout.decode().strip())
    hg("bundle", "--base", "null", "-r", "0", "--type", "none-v1", path / "pushed.hg")
    for folder in ("bundle-cache", "elsewhere"):
        (path / ".hg" / folder).mkdir(exist_ok=True)
        (path / ".hg" / folder / "x").write_text(folder)
    return path


HG2 = "HG20,bundle2=HG20%0Achangegroup%3D01%2C02%0Alistkeys%0Aphases%3Dheads%0Abookmarks%0Astream%3Dv2"


def requests(repo: Path) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """What is asked under each setting: command, arguments and body."""
    yield "capabilities", {}, b""
    yield "heads", {}, b""
    yield "lookup", {"key": "3"}, b""
    yield "getbundle", {}, b""
    yield "getbundle", {"bundlecaps": HG2, "cg": "1"}, b""
    yield "stream_out", {}, b""
    yield "get_cached_bundle_inline", {"path": "x"}, b""
    yield "unbundle", {"heads": b"force".hex()}, (repo / "pushed.hg").read_bytes()


def ask(app: Any, command: str, arguments: dict[str, str], body: bytes) -> tuple[str, bytes]:
    started: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST" if body else "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": urlencode({"cmd": command, **arguments}),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "127.0.0.1",
        "REMOTE_USER": "alice",
        "CONTENT_TYPE": "application/mercurial-0.1",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_X_HGPROTO_1": "0.1 0.2 comp=zlib,none" if command == "getbundle" and not arguments else "0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
    }
    chunks = app(environ, lambda status, headers, exc_info=None: started.append(status))
    data = b"".join(chunks)
    getattr(chunks, "close", lambda: None)()
    if command == "capabilities":
        data = b" ".join(sorted(word for word in data.split() if not word.startswith(b"httpmediatype=")))
    if command == "getbundle":
        data = unpacked(data)
    if command == "unbundle":
        # The paths and the progress that the client prints.
        data = data.partition(b"\n")[0]
    return started[0][:3], data


def unpacked(data: bytes) -> bytes:
    """A reply without its compression; the name of the engine and the header of zlib, which tells the level, stay.

    The compressed bytes depend on the sizes of the chunks that are compressed.
    """
    name, data = (data[:5], data[5:]) if data[:1] == b"\x04" else (b"", data)
    return name + data[:2] + zlib.decompress(data) if data[:1] == b"x" else name + data


def answers(app: Any, repo: Path) -> list[tuple[str, bytes]]:
    return [ask(app, *request) for request in requests(repo)]


COMMON = ("web.allow-push=*", "web.push_ssl=no")

#: Setting: whether it changes one of hgweb's answers to these requests.
SETTINGS = {
    "web.allow-pull=no": True,
    "web.allow-push=": True,
    "web.allow_read=bob": True,
    "web.deny_push=alice": True,
    "web.deny_read=alice": True,
    "web.push_ssl=yes": True,
    "web.hidden=yes": False,
    "web.view=all": False,
    "server.bookmarks-pushkey-compat=no": False,
    "server.bundle1=no": True,
    "server.bundle1.pull=no": True,
    "server.bundle1.push=no": True,
    "server.bundle1gd=no": True,
    "server.bundle1gd.pull=no": True,
    "server.bundle1gd.push=no": True,
    "server.bundle2.stream=no": True,
    "server.compressionengines=none,zlib": True,
    "server.concurrent-push-mode=strict": True,
    "server.disablefullbundle=yes": False,
    "server.maxhttpheaderlen=2048": True,
    "server.peer-bundle-cache-root=elsewhere": True,
    "server.preferuncompressed=yes": False,
    "server.pullbundle=no": False,
    "server.streamunbundle=yes": False,
    "server.uncompressed=no": True,
    "server.uncompressedallowsecret=yes": True,
    "server.validate=yes": False,
    "server.view=visible": True,
    "server.zliblevel=0": True,
    "server.zstdlevel=1": False,
    "experimental.bundle2-advertise=no": True,
    "experimental.bundle2-output-capture=yes": False,
    "experimental.bundle2.pushback=yes": False,
    "experimental.bundle2lazylocking=yes": False,
    "experimental.changegroup4=yes": True,
    "experimental.changegroup5=yes": True,
    "experimental.evolution=all": True,
    "experimental.evolution.createmarkers=yes": False,
    "experimental.extra-filter-revs=1": True,
    "experimental.httppostargs=yes": True,
    "experimental.narrow=yes": True,
    "experimental.narrowservebrokenellipses=yes": False,
    "experimental.obsmarkers-exchange-debug=yes": False,
    "experimental.server.allow-hidden-access=alice": False,
    "experimental.server.stream-narrow-clones=yes": False,
    "experimental.stream-v3=yes": True,
}


def sides(repo: Path, *config: str) -> tuple[list[tuple[str, bytes]], list[tuple[str, bytes]]]:
    ui = uimod.ui.load()
    for item in config:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        ui.setconfig(section.encode(), key.encode(), value.encode(), b"test")
    ours = WireApp(MercurialProvider(repo, config=config))
    return answers(ours, repo), answers(hgweb(str(repo).encode(), baseui=ui), repo)


@pytest.fixture(scope="module")
def usual(repo: Path) -> list[tuple[str, bytes]]:
    """hgweb's answers without further settings."""
    return sides(repo, *COMMON)[1]


def kinds(found: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Without the difference between 401 and 403, which is the access policy's, and without the texts of refusals."""
    return [("refused", b"") if status in ("401", "403") else (status, data) for status, data in found]


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_has_hgwebs_meaning(setting: str, repo: Path, usual: list[tuple[str, bytes]]) -> None:
    ours, theirs = sides(repo, *COMMON, setting)
    for request, our, their in zip(requests(repo), kinds(ours), kinds(theirs), strict=True):
        assert our == their, request[:2]
    assert (theirs != usual) == SETTINGS[setting]


def test_every_honoured_option_is_tested() -> None:
    """Here, or beside hgwebdir, or where the list of repositories is made."""
    elsewhere = {"web.descend", "web.encoding", "web.refreshinterval"}
    honoured = {name for name, verdict in table().items() if verdict == "honoured"}
    assert honoured - elsewhere == {setting.partition("=")[0] for setting in SETTINGS} - {"web.view"}
