"""What all tests share: an environment in which no configuration of the user counts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

# Before the conftest.py of the live tests imports them.
pytest.register_assert_rewrite("live_herd", "live_hg", "live_pair", "live_wait")

os.environ.update(HGRCPATH="", HGPLAIN="1", HGENCODING="UTF-8")


@pytest.fixture(scope="session", autouse=True)
def cache_folder() -> Iterator[str]:
    """A folder for caches that is nobody's; servers that tests start inherit it."""
    # A thread that makes a bundle may still put one there when all tests are over.
    with tempfile.TemporaryDirectory(prefix="hgwire-cache-", ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield folder
