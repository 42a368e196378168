"""The page about frames: every program on it runs, and does what the text says."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docs_support import Page, blocks

PAGE = "docs/framing.rst"

Pages = Callable[[str], Page]


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    """No repository is needed here."""
    return tmp_path


@pytest.fixture
def names(page: Pages) -> dict[str, Any]:
    """What the first two blocks define, which all others use."""
    return page(PAGE)("client")


def test_blocks_assert_what_the_text_says(page: Pages) -> None:
    page(PAGE)()
    assert len([block for block in blocks(PAGE) if "assert " in block.text]) == 7


def test_the_server_tells_a_client_of_its_error(names: dict[str, Any]) -> None:
    """Over the sockets too: the response first, then the error, then the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handlers = {b"heads": lambda arguments: b"0000\n"}
        thread = threading.Thread(target=names["serve"], args=(theirs, handlers))
        thread.start()
        ours.sendall(b"\x05\0\0\1\0\1\1\x11heads" + b"\1\0\0\3\0\1\0\x31x")
        ours.shutdown(socket.SHUT_WR)
        received = b""
        while data := ours.recv(65536):
            received += data
        thread.join(10)
    message = b"expected command frame; got 3"
    assert received == b"\5\0\0\1\0\2\1\x420000\n" + bytes([len(message), 0, 0, 3, 0, 2, 0, 0x51]) + message


def test_a_client_notices_that_a_reply_is_missing(names: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(Exception, match="before the end of the response: request 1"):
            names["ask"](ours, (b"heads",))


def test_uploads_take_constant_memory(page: Pages) -> None:
    names = page(PAGE)("upload")

    def data() -> Any:
        for _ in range(1000):
            yield bytes(65536)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=names["receive_uploads"], args=(theirs,))
        tracemalloc.start()
        try:
            thread.start()
            (digest,) = names["ask"](ours, (b"unbundle", {}, data()))
            thread.join(10)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert len(digest) == 64
    assert peak < 4 << 20
