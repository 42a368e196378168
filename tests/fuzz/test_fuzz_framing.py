"""The fuzz targets, briefly, and over every input that ever found something."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from framing_support import load, raw_bytes
from fuzz_framing import CORPUS, TARGETS, some_input
from hypothesis import example, given
from hypothesis import strategies as st

from hgwire_wsgi.framing import EXP_0002, ClientReactor, OutgoingStream, ServerReactor


@pytest.mark.parametrize("target", TARGETS)
@given(st.binary(max_size=100))
@example(b"")
def test_noise(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@given(st.integers(0, 1 << 32))
def test_likely_input(target: str, seed: int) -> None:
    TARGETS[target](some_input(random.Random(seed), target))


def test_likely_input_gets_somewhere() -> None:
    """Most of it is frames that parse, or the targets would test little."""
    lengths = {"server": 0, "client": 0}
    for target in lengths:
        for seed in range(200):
            data = some_input(random.Random(seed), target)[1:]
            if target == "server":
                reactor = ServerReactor(EXP_0002)
                lengths[target] += len(list(reactor.receive_data(data)))
            else:
                client = ClientReactor(EXP_0002)
                for _ in range(4):
                    client.send_command(OutgoingStream(1), b"c")
                lengths[target] += len(list(client.receive_data(data)))
    assert min(lengths.values()) > 300


def recorded() -> Iterator[bytes]:
    """The frames of every recorded scenario."""
    for name in ("reactor.json", "reactor_random.json"):
        for case in load(name):
            yield b"".join(raw_bytes(step["wire_hex"]) for step in case["steps"] if "wire_hex" in step)


@pytest.mark.parametrize("target", ["header", "frame_buffer", "server", "client"])
def test_recorded_frames(target: str) -> None:
    for data in recorded():
        TARGETS[target](data if target == "header" else b"\x06" + data)


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_what_was_found_before(path: Path) -> None:
    TARGETS[path.name.rsplit("-", 2)[0]](path.read_bytes())
