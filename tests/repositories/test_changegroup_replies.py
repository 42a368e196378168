"""Replies with changegroups are the same bytes with our generator and with Mercurial's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("mercurial", reason="the Mercurial backend needs the extra hgwire-wsgi[mercurial]")

from changegroup_formats import FORMATS, Workshop
from changegroup_histories import HISTORIES, open_repository

from hgwire_wsgi import ChangegroupMade, WireApp
from hgwire_wsgi.events import Event
from hgwire_wsgi.repositories.mercurial import MercurialProvider
from hgwire_wsgi.testing import WireTestApp

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = ("storage.all-slow-path=allow", "experimental.evolution=all", "server.bundle1=yes")
NULL = b"0" * 40


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


class Pair:
    """Two applications for one repository, without caches: one with each generator."""

    def __init__(self, path: Path) -> None:
        self.made: list[ChangegroupMade] = []
        self._ours, self._theirs = (
            WireTestApp(
                WireApp(MercurialProvider(path, config=(*CONFIG, f"hgwire.generator={name}")), observers=[self._note])
            )
            for name in ("hgwire", "mercurial")
        )

    def _note(self, event: Event) -> None:
        if isinstance(event, ChangegroupMade):
            self.made.append(event)

    def get(self, command: str, arguments: dict[str, bytes]) -> list[ChangegroupMade]:
        """Compare the replies and return how the changegroups were made, ours first."""
        self.made.clear()
        ours, theirs = (
            app.wire("/", command, arguments, protocol="0.2", compression=["none"])
            for app in (self._ours, self._theirs)
        )
        assert (ours.status, ours.data) == (theirs.status, theirs.data)
        assert [event.generator for event in self.made[1:]] == ["mercurial"] * len(self.made[1:])
        return list(self.made)


def requests(path: Path, chance: random.Random) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Requests of new and old clients: everything, and some part of it."""
    served = open_repository(path).filtered(b"served")
    nodes = [served[rev].hex() for rev in served] or [NULL]
    heads = b" ".join(served[node].hex() for node in served.heads())
    some = b" ".join(chance.sample(nodes, min(2, len(nodes))))
    for versions in ("01", "01,02", "01,02,03", "01,02,03,04"):
        caps = b"HG20,bundle2=" + quote(f"HG20\nchangegroup={versions}\nphases=heads").encode()
        yield "getbundle", {"bundlecaps": caps, "cg": b"1", "common": NULL, "heads": heads}
        yield "getbundle", {"bundlecaps": caps, "cg": b"1", "common": some, "heads": heads, "phases": b"1"}
    yield "getbundle", {"common": NULL, "heads": heads}
    yield "getbundle", {"common": some, "heads": chance.choice(nodes)}
    yield "changegroup", {"roots": NULL}
    yield "changegroup", {"roots": chance.choice(nodes)}
    yield "changegroupsubset", {"bases": NULL, "heads": chance.choice(nodes)}
    yield "changegroupsubset", {"bases": some, "heads": heads}


@pytest.mark.parametrize("history", HISTORIES)
def test_replies_for_a_history(workshop: Workshop, history: str) -> None:
    path = workshop.path(history)
    pair = Pair(path)
    by_version: dict[str, set[str]] = {}
    for command, arguments in requests(path, random.Random(history)):
        for event in pair.get(command, arguments)[:1]:
            by_version.setdefault(event.version, set()).add(event.generator)
            assert not event.aside
    assert by_version["02"] == by_version["03"] == {"hgwire"}


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.known])
def test_replies_for_a_format(workshop: Workshop, name: str) -> None:
    path = workshop.path("hidden", name)
    pair = Pair(path)
    reasons = set()
    for command, arguments in requests(path, random.Random(name)):
        for event in pair.get(command, arguments)[:1]:
            if event.version in ("02", "03"):
                reasons.add(event.reason)
                assert FORMATS[name].aside or not event.aside
    assert reasons == {FORMATS[name].reason}
