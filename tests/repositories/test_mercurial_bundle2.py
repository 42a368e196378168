"""Bundles that contain a failure: they are found in the stream, sent as hgweb sends them, and never cached."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from mercurial import bundle2, error, exchange
from mercurial import ui as uimod
from mercurial.hgweb import hgweb
from sharing_program import call

from hgwire_wsgi import CacheSettings, RequestClosed, WireApp
from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.repositories.mercurial.bundle2 import BundleFollower

GETBUNDLE = "cmd=getbundle&bundlecaps=HG20%2Cbundle2%3DHG20"


def failing() -> Iterator[bytes]:
    yield b"x" * 100_000
    raise error.Abort(b"no")


def bundle(*parts: tuple[bytes, Any], compression: bytes | None = None) -> bytes:
    bundler = bundle2.bundle20(uimod.ui())
    if compression:
        bundler.setcompression(compression)
    for kind, data in parts:
        bundler.newpart(kind, [(b"name", b"value")], data=data, mandatory=False)
    stream = b""
    try:
        for chunk in bundler.getchunks():
            stream += chunk
    except error.Abort:
        # A reader goes on after the part that interrupts; the rest of the bundle would come here.
        stream += struct.pack(">i", 0)
    return stream


def pieces(stream: bytes, *cuts: int) -> Iterator[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return (stream[start:end] for start, end in pairwise(places))


def may_cache(chunks: Iterator[bytes]) -> bool:
    follower = BundleFollower()
    seen = b"".join(follower.watch(list(chunks)))
    assert seen is not None
    return follower.may_be_cached()


GOOD = bundle((b"changegroup", iter([b"a" * 70_000, b"b"])), (b"listkeys", b""), (b"not-an-error:part", b"error:abort"))
ERRORS = {
    "alone": bundle((b"error:abort", b"")),
    "last": bundle((b"changegroup", b"a" * 70_000), (b"error:unsupportedcontent", b"")),
    "mandatory": GOOD[:-4] + bundle((b"ERROR:ABORT", b""))[8:],
    "interrupting": bundle((b"changegroup", failing())),
}
OTHERS = {
    "bundle1": b"HG10UN" + bytes(100),
    "changegroup": struct.pack(">i", 20) + b"x" * 16 + bytes(4),
    "manifest": b"https://example\n",
}
LOST = {
    "empty": b"",
    "cut": GOOD[:-4],
    "cut in the magic": b"HG2",
    "compressed": bundle((b"changegroup", b"x"), compression=b"GZ"),
    "negative": b"HG20" + struct.pack(">i", -5),
    "too long": b"HG20" + struct.pack(">ii", 0, 1 << 30),
    "negative payload": b"HG20" + struct.pack(">iiBi", 0, 1, 0, -2),
}


@given(st.lists(st.integers(0, 100_000), max_size=6))
def test_however_the_stream_is_cut(cuts: list[int]) -> None:
    assert may_cache(pieces(GOOD, *cuts))
    for stream in OTHERS.values():
        assert may_cache(pieces(stream, *cuts))
    for stream in (*ERRORS.values(), *LOST.values()):
        assert not may_cache(pieces(stream, *cuts))


def test_byte_by_byte() -> None:
    stream = bundle((b"bookmarks", b"abc"), (b"phase-heads", b""))
    assert may_cache(stream[place : place + 1] for place in range(len(stream)))
    assert not any(may_cache(iter([stream[:size]])) for size in range(len(stream)))


def test_an_interruption_without_a_part_and_one_inside_a_good_bundle() -> None:
    header = struct.pack(">iB1sIBB", 8, 1, b"x", 0, 0, 0)
    plain = struct.pack(">i", 0)
    empty = header + struct.pack(">ii", -1, 0) + plain
    output = header + struct.pack(">i", -1) + header + struct.pack(">i2s", 2, b"hi") + plain + plain
    assert may_cache(iter([b"HG20" + plain + empty + output + plain]))


class Sides:
    """Our application and hgweb before the same repository."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.folder = folder
        self.outcomes: list[str] = []
        self.ours = WireApp(MercurialProvider(place), cache=CacheSettings(folder=folder), observers=[self.observe])
        self.place = place

    def observe(self, event: object) -> None:
        if isinstance(event, RequestClosed):
            self.outcomes.append(event.cache)

    def ask(self, query: str = GETBUNDLE) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
        theirs = hgweb(str(self.place).encode())
        return call(self.ours, "/", query, "alice"), call(theirs, "/", query, "alice")

    def stored(self) -> list[str]:
        return [path.name for path in self.folder.rglob("*") if path.is_file() and len(path.name) >= 64]


@pytest.fixture
def sides(demonstration: Path, tmp_path: Path) -> Callable[[str], Sides]:
    def make(hgrc: str) -> Sides:
        place = tmp_path / "repo"
        shutil.copytree(demonstration, place)
        (place / ".hg" / "hgrc").write_text(f"[server]\ncompressionengines=none\n{hgrc}")
        return Sides(place, tmp_path / "cache")

    return make


def test_a_bundle_is_cached(sides: Callable[[str], Sides]) -> None:
    """So that the other tests can fail."""
    pair = sides("")
    for _ in range(2):
        ours, theirs = pair.ask()
        assert ours == theirs
    assert pair.outcomes == ["miss", "hit"] and pair.stored()


def test_a_refusal_by_mercurial_is_not_cached(sides: Callable[[str], Sides]) -> None:
    pair = sides("disablefullbundle=yes\n")
    heads = pair.ask("cmd=heads")[0][1].decode().split()
    for _ in range(2):
        ours, theirs = pair.ask(f"{GETBUNDLE}&heads={'+'.join(heads)}")
        assert ours == theirs and b"error:abort" in ours[1].lower()
    assert pair.outcomes == ["miss", "miss", "miss"] and not pair.stored()


def test_an_error_part_of_an_extension_is_not_cached(
    sides: Callable[[str], Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(bundler: Any, repo: Any, source: bytes, **_: Any) -> None:
        bundler.newpart(b"error:abort", [(b"message", b"not for you")])

    monkeypatch.setitem(exchange.getbundle2partsmapping, b"obsmarkers", add)
    pair = sides("")
    for _ in range(2):
        ours, theirs = pair.ask()
        assert ours == theirs and b"not for you" in ours[1]
    assert pair.outcomes == ["miss", "miss"] and not pair.stored()


def test_a_part_that_fails_while_it_is_made_cuts_the_bundle(
    sides: Callable[[str], Sides], monkeypatch: pytest.MonkeyPatch
) -> None:
    """hgweb sends the part that reports the failure, and then dies; so do we, and nothing is cached."""

    def add(bundler: Any, repo: Any, source: bytes, **_: Any) -> None:
        bundler.newpart(b"changes", data=failing(), mandatory=False)

    monkeypatch.setitem(exchange.getbundle2partsmapping, b"obsmarkers", add)
    pair = sides("")
    for _ in range(2):
        with pytest.raises(error.Abort):
            call(hgweb(str(pair.place).encode()), "/", GETBUNDLE, "alice")
        try:
            status, body = call(pair.ours, "/", GETBUNDLE, "alice")
        except Exception:
            continue
        assert not status.startswith("200") and b"no" in body
    assert not pair.stored()
