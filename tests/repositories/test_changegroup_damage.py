"""A damaged repository gives what Mercurial's generator gives: the same error, after the same bytes.

Mercurial examines the parents of all revisions of a revlog before it sends the first.  Ours examines each when it is
sent, so some more bytes of that revlog may precede the error.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_equality import COMPRESSED
from changegroup_formats import Workshop
from changegroup_histories import open_repository
from mercurial import changegroup, discovery

from hgwire_wsgi.repositories.mercurial.changegroups.deltas import FORMATS
from hgwire_wsgi.repositories.mercurial.changegroups.generator import generate

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

LOGS = {"changelog": "00changelog", "manifest": "00manifest", "file": "data/folder/file1"}

FIELDS = {"offset": (0, 6), "flags": (6, 2), "length": (8, 4), "base": (16, 4), "p1": (24, 4), "p2": (28, 4)}
"""Place and size in bytes, in an index entry."""

VALUES = (
    *(("offset", value) for value in (0, 2**40)),
    *(("flags", value) for value in (1 << 15, 1 << 13, 1 << 2)),
    *(("length", value) for value in (-7, 0, 10, 2**31 - 1)),
    *((field, value) for field in ("base", "p1", "p2") for value in (-(2**31), -7, -2, 10, 11, 1000, 2**31 - 2)),
)
"""Fields and values for the entry of revision 10."""


DETAILED = tuple((b"04", capabilities) for capabilities in ((), COMPRESSED) if b"04" in FORMATS)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def damaged(workshop: Workshop, tmp_path: Path) -> Path:
    """A repository to damage; its revlogs are split."""
    return Path(shutil.copytree(workshop.path("straight", "all split"), tmp_path / "repository"))


def outcome(chunks: Iterator[bytes]) -> tuple[bytes, str]:
    """The bytes before an error, and the error; empty if there is none."""
    found = bytearray()
    try:
        for chunk in chunks:
            found += chunk
    except Exception as raised:
        # A function in C that fails and goes on; where that is noticed depends on what came before.
        failure = raised.__cause__ if isinstance(raised, SystemError) else raised
        # Some name the address of an object.
        return bytes(found), re.sub("0x[0-9a-f]+", "", f"{type(failure).__name__}: {failure}")
    return bytes(found), ""


def arguments(
    path: Path, newest: int, *, all_heads: bool, version: bytes = b"03", capabilities: tuple[bytes, ...] = ()
) -> tuple[Any, ...]:
    """What Mercurial passes to its generator.

    Args:
        path: of the repository.
        newest: how many changesets are wanted; 0 for all.
        all_heads: whether the last one is.
        version: of the changegroup.
        capabilities: of the client.
    """
    repo = open_repository(path)
    last = len(repo) - 1
    common = [repo.changelog.node(last - newest)] if newest else [repo.nullid]
    heads = [repo.changelog.node(last if all_heads else last - 1)]
    outgoing = discovery.outgoing(repo, common, heads)
    with mock.patch.object(changegroup.cgpacker, "generate", lambda *given: given):
        given: tuple[Any, ...] = changegroup.makestream(repo, outgoing, version, b"serve", False, set(capabilities))
    return given


def compare(path: Path, newest: int = 0, **options: Any) -> str:
    """Compare both generators; returns the error.  The arguments are those of :func:`arguments`."""
    options.setdefault("all_heads", True)
    size, error = outcome(changegroup.cgpacker.generate(*arguments(path, newest, **options)))
    packer, common, nodes, by_linkrev, source = arguments(path, newest, **options)
    ours, our_error = outcome(generate(packer, common, nodes, by_linkrev, source, lambda reason: None))
    assert our_error == error
    assert ours.startswith(size) if error else ours == size
    return error


def compare_all(path: Path) -> set[str]:
    """Compare full clones and pulls; returns the errors, without those before the generator is called."""
    errors = set()
    for version, capabilities in ((b"01", ()), (b"03", ()), *DETAILED):
        for newest, all_heads in ((0, True), (5, True), (55, False)):
            try:
                arguments(path, newest, all_heads=all_heads)
            except Exception:
                continue
            errors.add(compare(path, newest, all_heads=all_heads, version=version, capabilities=capabilities))
    return errors


@pytest.mark.parametrize(("field", "value"), VALUES)
@pytest.mark.parametrize("log", LOGS)
def test_a_number_in_an_index(damaged: Path, log: str, field: str, value: int) -> None:
    path = damaged / ".hg/store" / f"{LOGS[log]}.i"
    data = bytearray(path.read_bytes())
    at, size = FIELDS[field]
    data[640 + at : 640 + at + size] = (value % (1 << 8 * size)).to_bytes(size, "big")
    path.write_bytes(data)
    compare_all(damaged)


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".i", ".d"])
@pytest.mark.parametrize("log", LOGS)
def test_a_file_is_cut_off(damaged: Path, log: str, suffix: str, place: float) -> None:
    path = damaged / ".hg/store" / f"{LOGS[log]}{suffix}"
    os.truncate(path, int(path.stat().st_size * place))
    compare_all(damaged)


@pytest.mark.parametrize("suffix", [".i", ".d"])
@pytest.mark.parametrize("log", LOGS)
def test_a_file_is_missing(damaged: Path, log: str, suffix: str) -> None:
    (damaged / ".hg/store" / f"{LOGS[log]}{suffix}").unlink()
    errors = compare_all(damaged)
    assert "" not in errors or (log, suffix) == ("changelog", ".i")


@pytest.mark.parametrize("log", LOGS)
def test_every_16th_byte_of_the_data(damaged: Path, log: str) -> None:
    path = damaged / ".hg/store" / f"{LOGS[log]}.d"
    sound = path.read_bytes()
    found = set()
    for place in range(0, len(sound), max(16, len(sound) // 40)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        found.add(compare(damaged))
    assert any("integrity check failed" in error for error in found)


def test_inline_revlogs(workshop: Workshop, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(workshop.path("straight", "all inline"), tmp_path / "repository"))
    for log in LOGS.values():
        path = damaged / ".hg/store" / f"{log}.i"
        sound = path.read_bytes()
        for place in range(4, len(sound), len(sound) // 25):
            path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
            compare_all(damaged)
        path.write_bytes(sound)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(b"\n", b" "), id="one line"),
        pytest.param(lambda text: text.replace(b"\n\n", b"\n"), id="no empty line"),
        pytest.param(lambda text: b"x" + text[1:], id="no node"),
        pytest.param(lambda text: text[1:], id="half a digit"),
        pytest.param(lambda text: b"", id="empty"),
        pytest.param(lambda text: text[:42] + text[text.index(b"\n", 41) :], id="no user"),
        pytest.param(lambda text: text[:40] + b"\nuser\n0 0\n\ntext", id="no files"),
    ],
)
def test_the_text_of_a_changeset(damaged: Path, change: Callable[[bytes], bytes]) -> None:
    """With a right hash: such a text came with a push, or from a converter."""
    log = open_repository(damaged).changelog
    rev = len(log) - 1
    text = change(bytes(log.rawdata(rev)))
    path = damaged / ".hg/store/00changelog.i"
    index = bytearray(path.read_bytes())
    stored = b"u" + text
    struct.pack_into(">ii", index, rev * 64 + 8, len(stored), len(text))
    parents = sorted(log.node(parent) for parent in log.parentrevs(rev))
    index[rev * 64 + 32 : rev * 64 + 52] = hashlib.sha1(b"".join(parents) + text).digest()
    path.write_bytes(index)
    data = path.with_suffix(".d")
    data.write_bytes(data.read_bytes()[: log.start(rev)] + stored)
    compare_all(damaged)


def test_a_huge_length_reads_nothing(damaged: Path) -> None:
    path = damaged / ".hg/store/data/folder/file1.i"
    data = bytearray(path.read_bytes())
    struct.pack_into(">i", data, 640 + 8, 2**31 - 1)
    path.write_bytes(data)
    given = arguments(damaged, 0, all_heads=True)
    reasons: list[str] = []
    outcome(generate(*given[:5], reasons.append))
    assert reasons == ["flags or damage"]
