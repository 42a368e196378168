"""How many heaps the C library of a worker has."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hgwire_wsgi.hosts import allocator
from hgwire_wsgi.hosts.allocator import limit_heaps

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import ctypes, os, sys, threading
from hgwire_wsgi.hosts.allocator import limit_heaps

limited = limit_heaps()
barrier = threading.Barrier(9)

def allocate():
    held = [bytes(5000) for _ in range(100)]
    barrier.wait()
    barrier.wait()

for _ in range(8):
    threading.Thread(target=allocate).start()
barrier.wait()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, out)
library.fflush(out)
barrier.wait()
print("limited" if limited else "not limited")
"""


@pytest.fixture(autouse=True)
def _undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)


def _heaps(**settings: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return len(re.findall("<heap nr", done.stdout)), done.stdout.splitlines()[-1]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps per thread")
def test_eight_threads_share_two_heaps() -> None:
    assert _heaps() == (2, "limited")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps per thread")
@pytest.mark.parametrize(
    "settings", [{"MALLOC_ARENA_MAX": "5"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=5"}], ids=["variable", "tunable"]
)
def test_the_operator_decides(settings: dict[str, str]) -> None:
    assert _heaps(**settings) == (5, "not limited")


def test_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda *given: calls.append(given) or 1))
    assert limit_heaps()
    assert calls == [(-8, 2)]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not limit_heaps()
    assert len(calls) == 1


def _raise(error: Exception) -> Callable[[object], object]:
    def fail(name: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize(
    "library",
    [
        lambda name: SimpleNamespace(),
        lambda name: SimpleNamespace(mallopt=lambda *given: 0),
        _raise(OSError()),
        _raise(TypeError()),
    ],
    ids=["without the function", "refused", "no library", "no name"],
)
def test_other_libraries(library: Callable[[object], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", library)
    assert not limit_heaps()
