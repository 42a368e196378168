"""Serves bundles of a repository by this package's generator and by Mercurial's, and compares them.

Usage: changegroup_program.py REPOSITORY JSON.  The second argument is an object with the arguments of :func:`compare`;
its field ``first`` names an extension file that is loaded before anything of this package.  The result is printed as a
JSON list.  Extensions stay in their process, so a test that loads some starts this program.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote


def capabilities(versions: str) -> str:
    """The ``bundlecaps`` of a client that accepts some versions of the changegroup; none for an old client."""
    blob = quote(f"HG20\nchangegroup={versions}\nphases=heads", safe="")
    return f"HG20,bundle2={blob}" if versions else ""


def replies(path: Path, requests: Iterable[Mapping[str, str]], **options: Any) -> tuple[list[bytes], list[Any]]:
    """Serve ``getbundle``.

    Args:
        path: of the repository.
        requests: the arguments of each request, without ``common`` where the client has nothing.
        options: of the provider.

    Returns:
        The replies, and what the observers got.
    """
    from hgwire_wsgi import CacheSettings, ChangegroupMade, WireApp
    from hgwire_wsgi.repositories.mercurial import MercurialProvider
    from hgwire_wsgi.testing import WireTestApp

    events: list[Any] = []
    wire = WireApp(MercurialProvider(path, **options), cache=CacheSettings(disk=0, memory=0), observers=[events.append])
    app = WireTestApp(wire)
    heads = " ".join(app.wire("/", "heads").data.decode().split())
    found = []
    for request in requests:
        reply = app.wire("/", "getbundle", {"common": "00" * 20, "heads": heads, **request})
        assert reply.status == 200, reply.data
        assert b"error:" not in reply.data[:200], reply.data[:300]
        found.append(reply.data)
    return found, [event for event in events if isinstance(event, ChangegroupMade)]


def compare(
    path: Path,
    versions: str = "01,02,03",
    config: Sequence[str] = (),
    requests: Sequence[Mapping[str, str]] = ({},),
    **options: Any,
) -> list[tuple[str, str, dict[str, int]]]:
    """Serve the same requests with both generators.

    Args:
        path: of the repository.
        versions: of the changegroup that the client accepts, with commas; empty for a client without bundle2.
        config: settings of the server.
        requests: the arguments of each.
        options: further ones of the provider.

    Returns:
        For each request: the generator, why it was Mercurial's, and what was left to Mercurial's.

    Raises:
        AssertionError: if a bundle differs, or the event of one is missing.
    """
    asked = [{"bundlecaps": capabilities(versions), **request} for request in requests]
    if not versions:
        asked = [{name: value for name, value in request.items() if value} for request in asked]
    own, events = replies(path, asked, config=config, **options)
    theirs, others = replies(path, asked, config=config, generator="mercurial")
    assert own == theirs
    assert all(len(reply) > 100 for reply in own)
    assert [event.reason for event in others] == ["switched off"] * len(asked)
    assert [(event.version, event.changesets) for event in events] == [
        (event.version, event.changesets) for event in others
    ]
    return [(event.generator, event.reason, dict(event.aside)) for event in events]


def main() -> None:
    path, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
    if first := arguments.pop("first", None):
        spec = importlib.util.spec_from_file_location("hgext_first", first)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.extsetup(None)
    print(json.dumps(compare(path, **arguments)))


if __name__ == "__main__":
    main()
