"""Fixtures: a repository in memory, served in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Under --import-mode=importlib the folder of a test is not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from wire_servers import Recorder, serving

from hgwire_wsgi import WireApp
from hgwire_wsgi.testing.memory import MemoryProvider, MemoryRepository


@pytest.fixture(scope="session")
def repository() -> MemoryRepository:
    """A repository that no test changes."""
    made = MemoryRepository(settings={"web.allow-push": "*", "web.push_ssl": "no"})
    made.commit({"compressible": b"line\n" * 100_000}, message="first", branch="default")
    made.commit({"a=b;c:d,": b"escapes\n"}, message="second")
    return made


@pytest.fixture(scope="session")
def heads(repository: MemoryRepository) -> str:
    return repository.heads()[0].hex()


@pytest.fixture(scope="module")
def recorder(repository: MemoryRepository) -> Recorder:
    return Recorder(WireApp(MemoryProvider({"": repository})))


@pytest.fixture(scope="module")
def url(recorder: Recorder) -> Iterator[str]:
    with serving(recorder) as address:
        yield address
