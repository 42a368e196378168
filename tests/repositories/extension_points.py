"""Finds out what each extension changes of the functions and tables that make replies.

Usage: extension_points.py REPOSITORY EXTENSION...; prints a JSON object.  Each extension is loaded in a child, because
it stays loaded in its process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from mercurial import (
    bookmarks,
    branchmap,
    bundle2,
    bundlecaches,
    changegroup,
    discovery,
    exchange,
    extensions,
    hook,
    localrepo,
    obsolete,
    phases,
    pushkey,
    repoview,
    streamclone,
    wireprotoserver,
    wireprototypes,
    wireprotov1server,
)
from mercurial import ui as uimod
from mercurial.hgweb import common

from hgwire_wsgi.repositories.mercurial.repository import open_repository

MODULES = [
    bookmarks,
    branchmap,
    bundle2,
    bundlecaches,
    changegroup,
    common,
    discovery,
    exchange,
    hook,
    localrepo,
    obsolete,
    phases,
    pushkey,
    repoview,
    streamclone,
    uimod,
    wireprotoserver,
    wireprototypes,
    wireprotov1server,
]
TABLES = {
    "commands": lambda: {name: entry[0] for name, entry in dict.items(wireprotov1server.commands)},
    "parts": lambda: exchange.getbundle2partsmapping,
    "namespaces": lambda: {name: entry[1] for name, entry in pushkey._namespaces.items()},
    "filters": lambda: repoview.filtertable,
    "permhooks": lambda: {hook.__name__.encode(): hook for hook in common.permhooks},
}


def owner(value: Any) -> str:
    """The name of the module that a function comes from, whatever wraps it."""
    inner = getattr(value, "_unboundwrapper", None) or getattr(value, "func", None) or getattr(value, "__func__", None)
    if inner is not None:
        return owner(inner)
    return str(getattr(value, "__globals__", {}).get("__name__", ""))


def is_foreign(value: Any) -> bool:
    return owner(value).startswith(("hgext.", "hgext3rd.", "hgext_"))


def changed(local: Any) -> Iterator[str]:
    for module in MODULES:
        for name, value in list(vars(module).items()):
            if is_foreign(value):
                yield f"{module.__name__}.{name}"
            elif isinstance(value, type) and value.__module__ == module.__name__:
                inner = [key for key, each in vars(value).items() if is_foreign(each)]
                yield from (f"{module.__name__}.{name}.{key}" for key in inner)
    for table, entries in TABLES.items():
        yield from (f"{table}: {name.decode()}" for name, value in entries().items() if is_foreign(value))
    for parent in type(local.unfiltered()).__mro__:
        if parent.__module__.startswith(("hgext.", "hgext3rd.", "hgext_")):
            yield from (f"repository.{name}" for name, value in vars(parent).items() if callable(value))


def examine(place: str, extension: str) -> list[str]:
    ui = uimod.ui.load()
    for section, name, value in [("extensions", extension, ""), ("fastannotate", "server", "true")]:
        ui.setconfig(section.encode(), name.encode(), value.encode(), b"test")
    extensions.loadall(ui)
    extensions.populateui(ui)
    local = open_repository(ui, place.encode())
    assert extensions.find(extension.encode()) is not None
    return sorted(set(changed(local)))


def main() -> None:
    place, *names = sys.argv[1:]
    found = {}
    for name in names:
        source, target = os.pipe()
        child = os.fork()
        if not child:
            os.close(source)
            with os.fdopen(target, "w") as file:
                json.dump(examine(place, name), file)
            os._exit(0)
        os.close(target)
        with os.fdopen(source) as file:
            text = file.read()
        os.waitpid(child, 0)
        found[name] = json.loads(text) if text else None
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
