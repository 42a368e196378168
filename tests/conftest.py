"""What all tests share: an environment in which no configuration of the user counts."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from hgwire_wsgi.cli.demo import make_demonstration

# Under --import-mode=importlib the folder of a test is not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

# Before the conftest.py of the live tests imports them.
pytest.register_assert_rewrite("live_herd", "live_hg", "live_pair", "live_wait")

MARKS = {
    "live": ("cli", "conf", "docs/test_documentation.py", "live", "testing/test_memory_live.py"),
    "slow": ("fuzz", "repositories", "testing/test_history.py"),
}
"""Marker: the tests below these paths have it.

``live`` tests start servers or clients as processes; ``slow`` ones run Mercurial in the process, or fuzz.
"""

os.environ.update(HGRCPATH="", HGPLAIN="1", HGENCODING="UTF-8")


_MISSING = re.compile(
    r"(could not import|not installed|needs the extra)"
    r".*\b(hg|mercurial|gunicorn|uwsgi|waitress|flask|pyramid|webtest|django|hgext3rd|passlib)\b",
    re.IGNORECASE,
)
"""Why a test is skipped if something is missing that the extras install."""


def _fail_if_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With HGWIRE_REQUIRE_LIVE=1 nothing is skipped because of a missing program or package."""
    required = os.environ.get("HGWIRE_REQUIRE_LIVE") == "1"
    if required and report.skipped and isinstance(report.longrepr, tuple) and _MISSING.search(report.longrepr[2]):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr[2]} (HGWIRE_REQUIRE_LIVE=1)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """See :func:`_fail_if_required`."""
    report = yield
    _fail_if_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """See :func:`_fail_if_required`."""
    report = yield
    _fail_if_required(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their paths."""
    here = Path(__file__).resolve().parent
    for item in items:
        places = {item.path, *item.path.parents}
        for marker, paths in MARKS.items():
            if any(here / path in places for path in paths):
                item.add_marker(marker)


@pytest.fixture(scope="session", autouse=True)
def cache_folder() -> Iterator[str]:
    """A folder for caches that is nobody's; servers that tests start inherit it."""
    # A thread that makes a bundle may still put one there when all tests are over.
    with tempfile.TemporaryDirectory(prefix="hgwire-cache-", ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield folder


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demonstration repository that no test changes."""
    pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")
    root = tmp_path_factory.mktemp("demonstration") / "demo"
    make_demonstration(root)
    return root
