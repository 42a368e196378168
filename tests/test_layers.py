"""The direction of knowledge: which part of the package may import which, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import pytest

import hgwire_wsgi

PACKAGE = "hgwire_wsgi"
ROOT = Path(hgwire_wsgi.__file__).parent


@attrs.frozen
class Import:
    """One import statement's target.

    Attributes:
        importer: the module it stands in.
        target: the module it names.
        when: ``module`` for what happens when the importer is loaded, ``call`` inside functions, ``typing`` under
            ``TYPE_CHECKING``.
    """

    importer: str
    target: str
    when: str


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _targets(node: ast.AST, importer: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = importer.split(".") if MODULES[importer].name == "__init__.py" else importer.split(".")[:-1]
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if full in MODULES else base


def _walk(nodes: Iterable[ast.AST], importer: str, when: str) -> Iterator[Import]:
    for node in nodes:
        inner = when
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            inner = "typing"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            inner = "call"
        for target in _targets(node, importer):
            yield Import(importer, target, inner)
        otherwise = node.orelse if isinstance(node, ast.If) else []
        yield from _walk((each for each in ast.iter_child_nodes(node) if each not in otherwise), importer, inner)
        yield from _walk(otherwise, importer, when)


IMPORTS = [
    each for name, path in MODULES.items() for each in _walk(ast.parse(path.read_text("utf-8")).body, name, "module")
]


def _within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def _own(*parts: str) -> tuple[str, ...]:
    return tuple(f"{PACKAGE}.{part}" for part in parts)


ONLY_IMPORTED_BY: dict[str, tuple[str, ...]] = {
    "uwsgi": _own("http.uwsgi", "hosts.uwsgi"),
    "webob": _own("http", "hosts", "testing"),
    "webtest": _own("testing"),
    "mercurial": _own("repositories.mercurial"),
    "hgext": _own("repositories.mercurial"),
    "gunicorn": _own("cli"),
    "passlib": _own("access.htpasswd"),
    "flask": _own("hosts.flask"),
    "pyramid": _own("hosts.pyramid"),
    f"{PACKAGE}.repositories.mercurial": _own("repositories.mercurial", "cli", "hosts"),
    f"{PACKAGE}.http": _own("http", "cli", "hosts", "testing"),
    f"{PACKAGE}.hosts": _own("hosts", "cli"),
    f"{PACKAGE}.testing": _own("testing"),
    f"{PACKAGE}.cli": _own("cli", "__main__"),
}
"""What only these may know: frameworks at the rim, Mercurial in one place, and nobody the parts above himself."""

ONLY_IMPORTS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "limits": (),
    "logcontext": (),
    "stops": (),
    "events": (),
    "observers": _own("events", "logcontext"),
    "streams": _own("errors", "limits"),
    "compression": _own("streams", "errors", "limits"),
    "negotiation": _own("compression", "streams", "errors", "limits"),
    "framing": _own("framing", "compression", "streams", "errors", "limits"),
    "commands": _own("commands", "compression", "negotiation", "streams", "errors", "events", "limits"),
    "cache": _own("cache", "streams", "errors", "limits"),
    "repositories": _own(
        *("repositories", "cache.stores.memory", "commands", "compression", "negotiation"),
        *("streams", "errors", "events", "limits", "logcontext"),
    ),
    "access": _own("access", "commands", "repositories.base", "errors", "events", "limits", "logcontext", "stops"),
    "dispatch": _own(
        *("access", "commands", "repositories.base", "negotiation", "stops", "streams"),
        *("errors", "events", "limits"),
        "logcontext",
    ),
}
"""Which parts of the package these may know."""

IMPURE = {
    "asyncio",
    "http",
    "logging",
    "multiprocessing",
    "os",
    "queue",
    "select",
    "socket",
    "ssl",
    "threading",
    "time",
}
"""Modules that framing, which does no I/O, has no use for."""


@pytest.mark.parametrize("target", sorted(ONLY_IMPORTED_BY))
def test_who_may_import(target: str) -> None:
    importers = {each.importer for each in IMPORTS if _within(each.target, (target,))}
    if target == f"{PACKAGE}.http":
        importers -= {PACKAGE}  # whose names are lazy
    assert {each for each in importers if not _within(each, ONLY_IMPORTED_BY[target])} == set()


@pytest.mark.parametrize("part", sorted(ONLY_IMPORTS))
def test_what_may_be_imported(part: str) -> None:
    own = [each for each in IMPORTS if _within(each.importer, _own(part)) and _within(each.target, (PACKAGE,))]
    assert [each for each in own if not _within(each.target, ONLY_IMPORTS[part])] == []


def test_framing_does_no_input_or_output() -> None:
    framing = [each for each in IMPORTS if _within(each.importer, _own("framing"))]
    assert framing
    assert [each for each in framing if each.target.partition(".")[0] in IMPURE] == []


def test_core_needs_no_extra() -> None:
    """What is installed without extras imports the standard library and three packages when it is loaded."""
    core = {"attrs", "webob", "zstandard", PACKAGE, *sys.stdlib_module_names}
    extras = ("access.htpasswd", "cli", "hosts", "testing", "repositories.mercurial")
    found = [each for each in IMPORTS if each.when == "module" and not _within(each.importer, _own(*extras))]
    assert [each for each in found if each.target.partition(".")[0] not in core] == []


def test_no_cycles() -> None:
    """Loading a module never needs one that needs it: neither at the top nor through packages."""
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in IMPORTS:
        if each.when == "module" and each.target in MODULES:
            edges[each.importer].add(each.target)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(edges[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())


def test_the_reader_of_imports_sees_them() -> None:
    """A check that finds nothing would pass for ever."""
    source = """
import os, json.decoder
from ..errors import HgWireError
from .. import limits
if TYPE_CHECKING:
    from webob import Request
else:
    import socket
match os.name:
    case "posix":
        import fcntl
try:
    import ssl
except ImportError:
    import dummy
finally:
    import last
class Some:
    import inside
    def method(self):
        with self:
            from . import frame
"""
    importer = f"{PACKAGE}.framing.actions"
    assert {(each.target, each.when) for each in _walk(ast.parse(source).body, importer, "module")} == {
        ("os", "module"),
        ("json.decoder", "module"),
        (f"{PACKAGE}.errors", "module"),
        (f"{PACKAGE}.limits", "module"),
        ("webob", "typing"),
        ("socket", "module"),
        ("fcntl", "module"),
        ("ssl", "module"),
        ("dummy", "module"),
        ("last", "module"),
        ("inside", "module"),
        (f"{PACKAGE}.framing.frame", "call"),
    }
    assert len({each.importer for each in IMPORTS}) > len(MODULES) * 0.7
    assert any(each.target.startswith("mercurial") for each in IMPORTS)
