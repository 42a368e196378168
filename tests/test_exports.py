"""Public names: each one resolves, is declared where it is defined, and comes from where the package says."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hgwire_wsgi

ROOT = Path(hgwire_wsgi.__file__).parent
NAMES = sorted(
    ".".join(["hgwire_wsgi", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.name != "__main__.py"
)
NEEDED = {"repositories.mercurial": "mercurial", "hosts.flask": "flask", "hosts.pyramid": "pyramid", "cli": "gunicorn"}
NEEDED["access.htpasswd"] = "passlib"


def load(name: str) -> ModuleType:
    for part, package in {**NEEDED, "testing": "webtest"}.items():
        if name.startswith(f"hgwire_wsgi.{part}"):
            pytest.importorskip(package)
    return importlib.import_module(name)


def typed_exports() -> dict[str, str]:
    """Module by name, from the imports that type checkers read."""
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: statement.module or ""
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


@pytest.mark.parametrize("name", [each for each in hgwire_wsgi.__all__ if each != "__version__"])
def test_package_exports(name: str) -> None:
    module = importlib.import_module(f"hgwire_wsgi.{typed_exports()[name]}")
    assert getattr(hgwire_wsgi, name) is getattr(module, name)
    assert name in module.__all__


def test_package_tables_agree() -> None:
    assert list(hgwire_wsgi.__all__) == sorted(set(hgwire_wsgi.__all__), key=lambda name: (not name.isupper(), name))
    assert {*typed_exports(), "__version__"} == set(hgwire_wsgi.__all__)
    assert typed_exports() == hgwire_wsgi._MODULE_OF
    assert dir(hgwire_wsgi) == sorted(hgwire_wsgi.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
        hgwire_wsgi.nosuch  # noqa: B018  # that it refuses is what is tested


def test_importing_the_package_imports_nothing_else() -> None:
    """A command line tool or a classifier in a proxy should not pay for what it does not use."""
    code = "import sys, hgwire_wsgi; print(*sorted(name for name in sys.modules if name.startswith('hgwire_wsgi')))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, check=True, text=True)
    assert printed.stdout.split() == ["hgwire_wsgi", "hgwire_wsgi._version"]


@pytest.mark.parametrize("name", NAMES)
def test_every_declared_name_exists_and_every_module_declares(name: str) -> None:
    module = load(name)
    source = Path(module.__file__ or "").read_text("utf-8")
    defines = any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.parse(source).body)
    if not defines:
        return
    declared = module.__all__
    assert len(declared) == len(set(declared)) and all(hasattr(module, each) for each in declared)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cross_a_border_are_declared(name: str) -> None:
    """What another part of the package imports is declared by its module."""
    part = name.split(".")[:2]
    module = load(name)
    tree = ast.parse(Path(module.__file__ or "").read_text("utf-8"))
    package = module.__package__ or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                crosses = target.split(".")[:2] != part and f"{target}.{alias.name}" not in NAMES
                if crosses and not alias.name.startswith("__"):
                    assert alias.name in load(target).__all__, f"{target} does not declare {alias.name}"
