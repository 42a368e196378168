"""Settings that are wrong: each hits the requests that use it, as with hgweb, and is named in the log once."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial.hgweb import hgweb
from test_mercurial_middleware import ask

from hgwire_wsgi import CacheSettings, WireApp, WireMiddleware
from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.repositories.mercurial import MercurialProvider

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

GETBUNDLE = "/?cmd=getbundle&bundlecaps=HG20%2Cbundle2%3DHG20"
POST = {"method": "POST", "CONTENT_TYPE": "application/mercurial-0.1"}
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "capabilities": ("/?cmd=capabilities", {}),
    "heads": ("/?cmd=heads", {}),
    "batch": ("/?cmd=batch&cmds=heads+%3Bknown+nodes%3D", {}),
    "listkeys": ("/?cmd=listkeys&namespace=bookmarks", {}),
    "bundle 0.1": (GETBUNDLE, {}),
    "bundle zlib": (GETBUNDLE, {"HTTP_X_HGPROTO_1": "0.1 0.2 comp=zlib"}),
    "bundle zstd": (GETBUNDLE, {"HTTP_X_HGPROTO_1": "0.1 0.2 comp=zstd"}),
    "partial pull": (GETBUNDLE, {"HTTP_X_HGPROTO_1": "0.1 0.2 comp=zstd partial-pull"}),
    "stream_out": ("/?cmd=stream_out", {}),
    "unbundle": ("/?cmd=unbundle&heads=666f726365", POST),
    "pushkey": ("/?cmd=pushkey&namespace=bookmarks&key=a&old=&new=", POST),
}
EVERYTHING = set(REQUESTS)
BUNDLES = {"bundle 0.1", "bundle zlib", "bundle zstd", "partial pull"}
VIEWED = {"heads", "batch", "listkeys", "unbundle"} | BUNDLES

WRONG: dict[str, tuple[set[str], set[str], str]] = {
    "": (set(), set(), ""),
    "[server]\nzliblevel=x": ({"bundle 0.1", "bundle zlib"}, set(), "server.zliblevel is not a valid integer"),
    "[server]\nzstdlevel=99": ({"bundle zstd", "partial pull"}, set(), "server.zstdlevel is out of range (99)"),
    "[server]\ncompressionengines=foo": (
        {"capabilities", "bundle zlib", "bundle zstd", "partial pull"},
        set(),
        "server.compressionengines names unknown engines, which are ignored: foo",
    ),
    "[server]\nmaxhttpheaderlen=x": ({"capabilities"}, set(), "server.maxhttpheaderlen is not a valid integer"),
    "[server]\nview=nosuch": (VIEWED, VIEWED, "server.view names no view that Mercurial has: nosuch"),
    "[server]\nuncompressed=x": ({"capabilities", "stream_out"},) * 2 + ("server.uncompressed is not a boolean",),
    "[server]\nbundle1=x": (BUNDLES, BUNDLES, "server.bundle1 is not a boolean"),
    "[server]\npullbundle=x": (set(), set(), "server.pullbundle is not a boolean"),
    "[experimental]\nlfs.serve=x": (set(), set(), ""),
    "allow-pull=perhaps": (EVERYTHING, EVERYTHING, "web.allow-pull is not a boolean"),
    "push_ssl=perhaps": ({"unbundle", "pushkey"}, {"unbundle", "pushkey"}, "web.push_ssl is not a boolean"),
    "maxchanges=x": (EVERYTHING, set(), ""),
}
"""Below ``[web]``: what fails with hgweb, what fails here, and what the log says.  Here, compression and the length of
headers fall back to their defaults, and settings of pages have no effect."""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Mercurial's objects keep files open until they are collected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def pushed(demonstration: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bundle with the whole history."""
    path = tmp_path_factory.mktemp("bundle") / "all.hg"
    command = [*hg_command(), "-R", str(demonstration), "bundle", "-q", "-a", "-t", "none-v1", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.read_bytes()


def failing(app: Any, pushed: bytes) -> set[str]:
    """The requests that fail, with an exception or a status."""
    failed = set()
    for name, (url, options) in REQUESTS.items():
        try:
            status, _ = ask(app, url, body=pushed if name == "unbundle" else b"", **options)
        except Exception:
            status = 500
        if status != 200:
            failed.add(name)
    return failed


@pytest.mark.parametrize("setting", WRONG, ids=lambda setting: setting.partition("\n")[2] or setting or "none")
def test_what_fails(
    setting: str, demonstration: Path, tmp_path: Path, pushed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, ours, logged = WRONG[setting]
    for side in ("hgweb", "ours"):
        shutil.copytree(demonstration, tmp_path / side)
        (tmp_path / side / ".hg" / "hgrc").write_text(f"[web]\nallow-push=*\npush_ssl=no\n{setting}\n")
    assert failing(hgweb(os.fsencode(tmp_path / "hgweb")), pushed) == theirs
    caplog.clear()
    app = WireApp(MercurialProvider(tmp_path / "ours"), cache=CacheSettings(disk=0))
    assert failing(app, pushed) == ours
    assert failing(app, pushed) == ours
    complaints = [record.getMessage() for record in caplog.records if record.name == "hgwire_wsgi"]
    if logged:
        # Each state of the repository is checked anew, and the pushes make more.
        assert 1 <= len(complaints) <= 6 and len({text.partition(" [")[0] for text in complaints}) == 1
        assert logged in complaints[0]
    else:
        assert complaints == []
    assert "Traceback" not in caplog.text


def test_a_wrong_setting_of_lfs_is_reported_where_lfs_is_asked(
    demonstration: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(demonstration, tmp_path / "repo")
    (tmp_path / "repo" / ".hg" / "hgrc").write_text("[extensions]\nlfs=\n[experimental]\nlfs.serve=x\n")
    site = WireMiddleware(lambda environ, start: [b"page"], wire=WireApp(MercurialProvider(tmp_path / "repo")))
    assert ask(site, "/?cmd=heads")[0] == 200
    assert ask(site, "/.hg/lfs/objects/" + "a" * 64)[0] == 500
    assert "experimental.lfs.serve is not a boolean" in caplog.text


@pytest.mark.parametrize("media_type", ["application/octet-stream", "Application/Octet-Stream;x=y"])
def test_pushes_of_any_bytes_are_taken(media_type: str, demonstration: Path, tmp_path: Path, pushed: bytes) -> None:
    """With the arguments in the query string, and posted in front of the body; as hgweb does."""
    lines = "[web]\nallow-push=*\npush_ssl=no\n[experimental]\nhttppostargs=yes\n"
    for number, (query, before) in enumerate((("&heads=666f726365", b""), ("", b"heads=666f726365"))):
        for side in ("hgweb", "ours"):
            place = tmp_path / f"{side}{number}"
            subprocess.run([*hg_command(), "init", str(place)], check=True, timeout=60)
            (place / ".hg" / "hgrc").write_text(lines)
            config = ["experimental.httppostargs=yes"]
            app = hgweb(os.fsencode(place)) if side == "hgweb" else WireApp(MercurialProvider(place, config=config))
            posted = {"HTTP_X_HGARGS_POST": str(len(before))} if before else {}
            body = before + pushed
            options = {"method": "POST", "CONTENT_TYPE": media_type, **posted}
            status, reply = ask(app, f"/?cmd=unbundle{query}", body=body, **options)
            assert status == 200 and int(reply.splitlines()[0]) > 0, side
            heads = ask(app, "/?cmd=heads")[1]
            assert heads == ask(hgweb(os.fsencode(demonstration)), "/?cmd=heads")[1]
        # A page can send this one.
        assert ask(app, REQUESTS["pushkey"][0], method="POST", CONTENT_TYPE="text/plain")[0] == 415
