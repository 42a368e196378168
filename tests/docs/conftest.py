"""Fixtures: repositories for the documentation's examples, and the examples as modules."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Where the servers of the client's tests are, which serve here too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "client"))

from docs_support import blocks

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    # Pyramid 2.1 imports pkg_resources, which newer releases of setuptools warn about.
    warnings.simplefilter("ignore")
    importlib.import_module("pyramid.config")


@pytest.fixture
def srv(demonstration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples call /srv: ``hg/project`` is a demonstration repository."""
    monkeypatch.setenv("HGRCPATH", "")
    shutil.copytree(demonstration, tmp_path / "hg" / "project")
    return tmp_path


@pytest.fixture
def example(srv: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run a block of a document, with /srv replaced; gives its names, and can leave them behind as a module."""
    modules: list[str] = []

    def run(document: str, name: str, *, module: str = "", **names: Any) -> dict[str, Any]:
        (block,) = [block for block in blocks(document) if block.name == name]
        namespace: dict[str, Any] = {"__name__": module or name, **names}
        exec(compile(block.text.replace("/srv", str(srv)), f"{document}:{name}", "exec"), namespace)
        if module:
            sys.modules[module] = ModuleType(module)
            vars(sys.modules[module]).update(namespace)
            modules.append(module)
        return namespace

    yield run
    for module in modules:
        del sys.modules[module]
