"""Fixtures: repositories for the documentation's examples, and pages that run."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The servers of the client's tests are there; they serve here too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from docs_support import Page

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    # Pyramid 2.1 imports pkg_resources, which newer releases of setuptools warn about.
    warnings.simplefilter("ignore")
    importlib.import_module("pyramid.config")


@pytest.fixture
def srv(demonstration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples call /srv, and the working directory: ``hg/project`` is a demonstration repository."""
    monkeypatch.setenv("HGRCPATH", "")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(demonstration, tmp_path / "hg" / "project")
    (tmp_path / "hgweb.conf").write_text(f"[paths]\n/ = {tmp_path}/hg/**\n")
    return tmp_path


@pytest.fixture
def page(srv: Path) -> Iterator[Callable[[str], Page]]:
    """A function that opens a page, once; the modules that its blocks define are forgotten afterwards."""
    pages: dict[str, Page] = {}

    def open_page(document: str) -> Page:
        if document not in pages:
            pages[document] = Page(document, srv)
        return pages[document]

    yield open_page
    for opened in pages.values():
        opened.forget()
