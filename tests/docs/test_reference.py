"""The API reference lists every public name, and nothing that does not exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import hgwire_wsgi

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "api").glob("*.rst"))

_DIRECTIVE = re.compile(r"^\.\. (currentmodule|auto\w+):: (\S+)$", re.MULTILINE)


def documented(page: Path) -> dict[str, Any]:
    """The names that a page documents, and what they are."""
    found: dict[str, Any] = {}
    current = ""
    for directive, name in _DIRECTIVE.findall(page.read_text()):
        if directive == "currentmodule":
            current = name
        elif directive == "automodule":
            module = importlib.import_module(name)
            found.update({f"{name}.{each}": getattr(module, each) for each in module.__all__})
        else:
            found[f"{current}.{name}"] = getattr(importlib.import_module(current), name)
    return found


def test_every_public_name_is_documented() -> None:
    pytest.importorskip("mercurial")
    pytest.importorskip("webtest")
    everything = {name: value for page in PAGES for name, value in documented(page).items()}
    for name in hgwire_wsgi.__all__:
        if name != "__version__":
            places = {each for each in everything if each.rpartition(".")[2] == name}
            assert any(everything[place] is getattr(hgwire_wsgi, name) for place in places), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_name_is_documented_twice(page: Path) -> None:
    pytest.importorskip("mercurial")
    pytest.importorskip("webtest")
    values = [value for value in documented(page).values() if callable(value)]
    assert len({id(value) for value in values}) == len(values)
