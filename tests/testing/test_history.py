"""The history in memory: hashes and links of what is received, and exchange with Mercurial itself."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.cli.demo import hg_command
from hgwire_wsgi.commands.objects import NULL
from hgwire_wsgi.commands.responses import PushResponse, StreamResponse
from hgwire_wsgi.errors import CommandFailed
from hgwire_wsgi.testing.changegroup import END, Chunk, encode_group, encode_path, full_delta
from hgwire_wsgi.testing.history import History, Push, unhex, unknown
from hgwire_wsgi.testing.memory import MemoryRepository

LIMIT = 1 << 20
UNKNOWN = b"\x11" * 20


def bundle(repository: MemoryRepository) -> bytes:
    response = repository.getbundle()
    assert isinstance(response, StreamResponse)
    return b"".join(response.chunks)


def encode(push: Push) -> bytes:
    pieces = [*encode_group(push.changesets), *encode_group(push.manifests)]
    for path, chunks in push.files:
        pieces += [encode_path(path), *encode_group(chunks)]
    return b"".join([*pieces, END])


def source() -> MemoryRepository:
    repository = MemoryRepository()
    repository.commit({"file": bytes(1000), "other": b"o"}, message="one")
    repository.commit({"file": bytes(1000) + b"x"}, message="two")
    return repository


def received(change: Callable[[Push], None], limit: int = LIMIT) -> bytes:
    """What comes of receiving the bundle of :func:`source` with a change."""
    push = Push.read(io.BytesIO(bundle(source())), LIMIT)
    change(push)
    return History().receive(push, limit)


def revised(chunks: list[Chunk], index: int, edit: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Edit the text of a chunk, with the right hash; return what puts its new node in the place of the old one."""
    chunk = chunks[index]
    text = edit(chunk.delta[12:])
    node = hashlib.sha1(min(chunk.p1, chunk.p2) + max(chunk.p1, chunk.p2) + text).digest()
    base = struct.unpack_from(">II", chunk.delta)[1]
    link = node if chunk.link == chunk.node else chunk.link
    chunks[index] = attrs.evolve(chunk, node=node, link=link, delta=full_delta(base, text))
    return lambda link: node if link == chunk.node else link


def relink(push: Push, renamed: Callable[[bytes], bytes]) -> None:
    for chunks in (push.manifests, *(chunks for _, chunks in push.files)):
        chunks[:] = [attrs.evolve(chunk, link=renamed(chunk.link)) for chunk in chunks]


class TestReceiving:
    def test_as_it_is(self) -> None:
        assert received(lambda push: None) == b"added 2 changesets with 3 changes to 2 files\n"

    def test_what_is_known_already(self) -> None:
        push = Push.read(io.BytesIO(bundle(source())), LIMIT)
        history = History()
        history.receive(push, LIMIT)
        before = history.copy()
        assert history.receive(push, LIMIT) == b"added 0 changesets with 0 changes to 0 files\n"
        assert attrs.evolve(history, version=1) == before

    def test_real_deltas(self) -> None:
        def change(push: Push) -> None:
            path, chunks = push.files[0]
            assert path == b"file" and len(chunks) == 2
            chunks[1] = attrs.evolve(chunks[1], delta=struct.pack(">III", 1000, 1000, 1) + b"x")

        assert received(change).startswith(b"added 2 changesets")
        with pytest.raises(CommandFailed, match="the texts in the bundle exceed 1900 bytes"):
            received(change, 1900)

    def test_wrong_hash(self) -> None:
        for group in (lambda push: push.changesets, lambda push: push.manifests, lambda push: push.files[0][1]):

            def change(push: Push, group: Callable[[Push], list[Chunk]] = group) -> None:
                chunk = group(push)[0]
                group(push)[0] = attrs.evolve(chunk, delta=full_delta(0, chunk.delta[12:] + b"!"))

            with pytest.raises(CommandFailed, match=r"the hash of revision [0-9a-f]{40} is wrong"):
                received(change)

    @pytest.mark.parametrize("parent", ["p1", "p2"])
    def test_missing_parent(self, parent: str) -> None:
        def change(push: Push) -> None:
            push.manifests[1] = attrs.evolve(push.manifests[1], **{parent: UNKNOWN})

        with pytest.raises(CommandFailed, match="the parent of a revision is missing"):
            received(change)

    def test_order(self) -> None:
        with pytest.raises(CommandFailed, match="the parent of a revision is missing"):
            received(lambda push: push.changesets.reverse())

    def test_missing_link(self) -> None:
        with pytest.raises(CommandFailed, match="the changeset of a revision is missing"):
            received(lambda push: relink(push, lambda link: UNKNOWN))

    def test_foreign_link_of_a_changeset(self) -> None:
        def change(push: Push) -> None:
            push.changesets[1] = attrs.evolve(push.changesets[1], link=push.changesets[0].node)

        with pytest.raises(CommandFailed, match="belongs to another one"):
            received(change)

    def test_missing_manifest(self) -> None:
        with pytest.raises(CommandFailed, match=r"the manifest of changeset [0-9a-f]{40} is missing"):
            received(lambda push: push.manifests.pop())

    def test_missing_file(self) -> None:
        with pytest.raises(CommandFailed, match="a revision of a file is missing"):
            received(lambda push: push.files[0][1].pop())
        with pytest.raises(CommandFailed, match="a revision of a file is missing"):
            received(lambda push: push.files.clear())

    @pytest.mark.parametrize(
        "text",
        [b"", b"\n\n\n", b"zz\nuser\n0 0\n\n", b"11" * 20 + b"\nuser\n\nmessage", b"11" * 19 + b"\nuser\n0 0\n\n"],
    )
    def test_malformed_changeset(self, text: bytes) -> None:
        def change(push: Push) -> None:
            relink(push, revised(push.changesets, 1, lambda old: text))

        with pytest.raises(CommandFailed, match="a changeset in the bundle is malformed"):
            received(change)

    @pytest.mark.parametrize("edit", [lambda text: text + b"x", lambda text: b"x\n" + text, lambda text: text[:-1]])
    def test_malformed_manifest(self, edit: Callable[[bytes], bytes]) -> None:
        def change(push: Push) -> None:
            renamed = revised(push.manifests, 1, edit)
            old, new = (binary.hex().encode() for binary in (before, renamed(before)))
            relink(push, revised(push.changesets, 1, lambda text: text.replace(old, new)))

        before = Push.read(io.BytesIO(bundle(source())), LIMIT).manifests[1].node
        with pytest.raises(CommandFailed, match="a manifest in the bundle is malformed"):
            received(change)

    @given(data=st.data())
    def test_damaged_bundle_is_received_whole_or_refused(self, data: st.DataObject) -> None:
        whole = bytearray(bundle(source()))
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
        with pytest.raises(CommandFailed):
            History().receive(Push.read(io.BytesIO(bytes(whole)), LIMIT), LIMIT)


class TestTexts:
    def test_unhex(self) -> None:
        assert unhex(b"11" * 20) == UNKNOWN
        assert unhex(b"11" * 19) is unhex(b"zz" * 20) is unhex(b"1") is unhex(b"") is None

    def test_unknown_keeps_bytes(self) -> None:
        assert unknown(b"\xff").message.encode("utf-8", "surrogateescape") == b"unknown revision '\xff'"


FILE_NAMES = ("a", "b", "dir/c")
Step = tuple[dict[str, bytes | None], list[int], str | None, bool]
"""Files, parents by number, branch, whether to close it."""

STEPS = st.tuples(
    st.dictionaries(st.sampled_from(FILE_NAMES), st.one_of(st.none(), st.binary(max_size=8)), max_size=2),
    st.lists(st.integers(0, 8), max_size=2, unique=True),
    st.sampled_from([None, "default", "other"]),
    st.booleans(),
)


def grow(steps: list[Step]) -> MemoryRepository:
    """A history of any shape."""
    repository = MemoryRepository()
    nodes: list[bytes] = []
    for number, (files, parents, branch, close) in enumerate(steps):
        chosen = list(dict.fromkeys(nodes[each % len(nodes)] for each in parents)) if nodes else []
        node = repository.commit(
            files, message=f"step {number}", parents=chosen, branch=branch, date=number, close=close
        )
        nodes.append(node)
    return repository


@given(steps=st.lists(STEPS, max_size=9), cut=st.integers(0, 8))
def test_any_history_goes_over_the_wire_in_two_parts(steps: list[Step], cut: int) -> None:
    repository = grow(steps)
    nodes = [repository.lookup(b"%d" % number) for number in range(len(steps))]
    receiver = MemoryRepository()
    for arguments in ({"heads": nodes[cut : cut + 1] or [NULL]}, {"common": nodes[cut : cut + 1]}):
        response = repository.getbundle(**arguments)
        assert isinstance(response, StreamResponse)
        pushed = receiver.unbundle([b"force"], io.BytesIO(b"".join(response.chunks)), "")
        assert isinstance(pushed, PushResponse) and pushed.result, pushed
    assert sorted(receiver.heads()) == sorted(repository.heads())
    assert {name: sorted(heads) for name, heads in receiver.branchmap().items()} == {
        name: sorted(heads) for name, heads in repository.branchmap().items()
    }
    for node in nodes:
        assert receiver.files(node) == repository.files(node) and receiver.parents(node) == repository.parents(node)


class TestMercurial:
    """Mercurial's own opinion, through its command line."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("mercurial")

    @pytest.fixture
    def hg(self, tmp_path: Path) -> Callable[..., str]:
        root = tmp_path / "repo"

        def run(*arguments: str) -> str:
            command = [*hg_command(), *arguments]
            done = subprocess.run(
                command, cwd=root if root.exists() else tmp_path, capture_output=True, encoding="utf-8", check=False
            )
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
            return done.stdout

        run("init", str(root))
        return run

    @pytest.mark.parametrize("seed", range(5))
    def test_accepts_any_history_of_ours(self, tmp_path: Path, hg: Callable[..., str], seed: int) -> None:
        choose = random.Random(seed)
        steps: list[Step] = [
            (
                {
                    choose.choice(FILE_NAMES): choose.choice([None, choose.randbytes(6)])
                    for _ in range(choose.randrange(3))
                },
                [choose.randrange(12) for _ in range(choose.randrange(3))],
                choose.choice([None, "default", "other"]),
                choose.random() < 0.2,
            )
            for _ in range(12)
        ]
        repository = grow(steps)
        (tmp_path / "bundle").write_bytes(b"HG10UN" + bundle(repository))
        hg("unbundle", str(tmp_path / "bundle"))
        hg("verify")
        nodes = [repository.lookup(b"%d" % number).hex() for number in range(len(steps))]
        assert hg("log", "-r", "all()", "-T", "{node}\n").split() == nodes
        heads = hg("heads", "-c", "-T", "{branch} {node}\n").splitlines()
        branches = repository.branchmap()
        assert sorted(heads) == sorted(f"{name.decode()} {node.hex()}" for name in branches for node in branches[name])

    def build(self, hg: Callable[..., str], root: Path) -> None:
        """Everything that changes how a revision is written."""

        def commit(message: str, *more: str) -> None:
            hg("commit", "-A", "-m", message, "-u", "Ann <ann@example.com>", "-d", "1000 -7200", *more)

        (root / "big").write_bytes(b"".join(b"line %d\n" % number for number in range(2000)))
        (root / "run.sh").write_bytes(b"#!/bin/sh\n")
        (root / "run.sh").chmod(0o755)
        os.symlink("big", root / "link")
        (root / "marked").write_bytes(b"\1\nmarked\n")
        commit("first")
        (root / "big").write_bytes((root / "big").read_bytes().replace(b"line 1000\n", b"changed\n"))
        hg("rename", "marked", "renamed")
        commit("second\n\nwith paragraphs")
        hg("branch", "täst \\x")
        commit("a branch, and no files")
        commit("closed", "--close-branch")
        hg("update", "0")
        (root / "side").write_bytes(b"side")
        commit("side")
        hg("merge", "1")
        commit("merge")
        hg("tag", "-u", "Ann", "-d", "2000 0", "-r", "1", "v1")

    def test_history_of_its_own_is_read(self, hg: Callable[..., str], tmp_path: Path) -> None:
        self.build(hg, tmp_path / "repo")
        histories = []
        for kind in ("none-v1", "gzip-v1", "bzip2-v1"):
            hg("bundle", "--all", "-t", kind, str(tmp_path / kind))
            histories.append(MemoryRepository.from_bundle(io.BytesIO((tmp_path / kind).read_bytes())))
        repository = histories[0]
        assert {bundle(each) for each in histories} == {bundle(repository)}
        listed = [line.split(" ", 1) for line in hg("log", "-r", "all()", "-T", "{node} {files('**')}\n").splitlines()]
        nodes = [node for node, _ in listed]
        for number, (node, names) in enumerate(listed):
            assert repository.lookup(b"%d" % number).hex() == node
            assert list(repository.files(bytes.fromhex(node))) == names.split()
        assert repository.files(repository.lookup(b"tip"))["renamed"] == b"\1\nmarked\n"
        assert repository.files(repository.lookup(b"tip"))["link"] == b"big"
        named = {"v1": 1, "default": -1, "täst \\x": 3, "-2": -2, nodes[4][:9]: 4}
        for key, number in named.items():
            assert repository.lookup(key.encode()).hex() == nodes[number], key
        assert len(repository.branchmap()) == 2

        (tmp_path / "again").write_bytes(b"HG10UN" + bundle(repository))
        hg("init", str(tmp_path / "copy"))
        hg("-R", str(tmp_path / "copy"), "unbundle", str(tmp_path / "again"))
        hg("-R", str(tmp_path / "copy"), "verify")
        assert hg("-R", str(tmp_path / "copy"), "log", "-r", "all()", "-T", "{node}\n").split() == nodes
