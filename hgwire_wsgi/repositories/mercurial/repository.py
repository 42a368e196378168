"""A repository on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import attrs
from mercurial import encoding, scmutil, wireprotoserver
from mercurial.hgweb import common as hgwebcommon
from mercurial.hgweb import request as hgwebrequest

from ...commands.registry import Command
from ...compression import ENGINES
from ...errors import CommandFailed, LengthRequired, RepositoryNotFound
from ...negotiation import ServerCapabilities
from ..base import Authorize, Repository
from .commands import registered_commands
from .errors import text, translated, translated_request
from .state import State

try:
    import mercurial.initialization  # noqa: F401  # it registers the handlers of bundle2 parts, among others
    from mercurial.repo.factory import repository as open_repository
except ImportError:  # before 7.2, where each module registers its own
    from mercurial.hg import repository as open_repository

__all__ = ["SERVER_SETTINGS", "Facts", "MercurialRepository", "OpenRepository"]


SERVER_SETTINGS = (
    (b"ui", b"report_untrusted", b"off"),
    (b"ui", b"nontty", b"true"),
    # Signal handlers belong to the WSGI server, and can be set in a main thread only.
    (b"ui", b"signal-safe-lock", b"false"),
    (b"progress", b"disable", b"true"),
)


_BUNDLES = frozenset({"changegroup", "changegroupsubset", "getbundle", "stream_out"})
_HOOKED = {
    "outgoing": _BUNDLES,
    "preoutgoing": _BUNDLES,
    "listkeys": frozenset({"getbundle", "listkeys"}),
    "prelistkeys": frozenset({"getbundle", "listkeys"}),
}
"""The commands whose work must be done each time, because a hook wants to know, or may forbid it."""


def _unkept_commands(local: Any) -> frozenset[str]:
    """The commands whose replies must not be kept: those with hooks, and those that send files of the administrator."""
    unkept: set[str] = set()
    for name, command in local.ui.configitems(b"hooks"):
        if command:
            unkept |= _HOOKED.get(text(name).partition(".")[0], frozenset())
    if local.ui.has_section(b"narrowacl"):
        # What a bundle holds depends on who asks.
        unkept |= _BUNDLES
    if local.ui.configbool(b"server", b"pullbundle") and local.vfs.exists(b"pullbundles.manifest"):
        unkept.add("getbundle")
    return frozenset(unkept)


def _missing(local: Any, heads: Sequence[bytes]) -> tuple[int, int] | None:
    """How many changesets are not ancestors of some heads, and how many are; ``None`` if a head is not here."""
    changelog = local.changelog
    if not all(changelog.hasnode(head) for head in heads):
        return None
    revisions = [changelog.rev(head) for head in heads]
    absent = len(changelog.findmissingrevs(common=revisions, heads=changelog.headrevs()))
    return absent, len(local) - absent


class OpenRepository:
    """A repository object of Mercurial's, used by one request at a time.

    Attributes:
        local: the object, as Mercurial's server shows it (secret and hidden changesets left out).
        state: the state that it was opened in, and shows.
    """

    def __init__(self, ui: Any, path: bytes, state: State) -> None:
        self.state = state
        unfiltered = open_repository(ui, path).unfiltered()
        for section, name, value in (*SERVER_SETTINGS, (b"ui", b"forcecwd", unfiltered.root)):
            unfiltered.ui.setconfig(section, name, value, b"hgwire")
            unfiltered.baseui.setconfig(section, name, value, b"hgwire")
        self.local = unfiltered.filtered(b"served")


@attrs.define(eq=False)
class Facts:
    """What is known of a repository in one state, gathered as it is asked for; shared by all threads.

    It is not for another time that comes to an equal token: what was gathered may be from a moment after the state.
    """

    state: State | None = None
    settings: dict[tuple[str, str], Any] = attrs.Factory(dict)
    commands: Mapping[str, Command] | None = None
    unkept: frozenset[str] | None = None
    missing: tuple[tuple[bytes, ...], tuple[int, int] | None] | None = None
    offer: tuple[ServerCapabilities, ServerCapabilities] | None = None


class MercurialRepository(Repository):
    """A repository on disk, for one request.

    It is cheap: Mercurial's own object is taken from a pool when something needs it that is not known already.

    Args:
        state: the state it is in.
        facts: what is known of it in that state.
        acquire: takes an open repository from the pool; raises :class:`RepositoryBusy` or :class:`RepositoryNotFound`.
    """

    def __init__(self, state: State, facts: Facts, acquire: Callable[[], OpenRepository]) -> None:
        self._state = state
        self._facts = facts
        self._acquire = acquire
        self._open: OpenRepository | None = None

    @property
    def local(self) -> Any:
        """Mercurial's repository object, for this request alone."""
        if self._open is None:
            self._open = self._acquire()
        return self._open.local

    def take_open(self) -> OpenRepository | None:
        """End the use of Mercurial's object, and give it up if there is one."""
        opened, self._open = self._open, None
        return opened

    def content_token(self) -> bytes:
        return self._state.token

    def change_stamp(self) -> object:
        return self._state

    def metadata_token(self) -> bytes | None:
        # Censoring changes nothing that this could tell but files in the middle of the history.
        censor = self.setting("extensions", "censor") or self.setting("extensions", "hgext.censor")
        return self._state.rest if censor is None or censor.startswith("!") else None

    def missing(self, heads: Sequence[bytes], wanted: Sequence[bytes]) -> tuple[int, int] | None:
        key = tuple(heads)
        if self._facts.missing is None or self._facts.missing[0] != key:
            self._facts.missing = key, _missing(self.local, heads)
        return self._facts.missing[1] if set(wanted) == set(self.heads()) else None

    def setting(self, section: str, name: str) -> str | None:
        known = self._facts.settings
        key = (section, name)
        if key not in known:
            value = self.local.ui.config(section.encode(), name.encode(), untrusted=section == "web")
            known[key] = text(value) if isinstance(value, bytes) else None if value is None else str(value)
        setting: str | None = known[key]
        return setting

    def settings(self, section: str, name: str) -> Sequence[str]:
        known = self._facts.settings
        key = (section, name + "[]")
        if key not in known:
            values = self.local.ui.configlist(section.encode(), name.encode(), untrusted=section == "web")
            known[key] = [text(value) for value in values]
        settings: list[str] = known[key]
        return settings

    def is_member(self, user: str, members: Sequence[str]) -> bool:
        if list(members) == ["*"]:
            return True
        name = user.encode("utf-8", "surrogateescape")
        return bool(scmutil.ismember(self.local.ui, name, [m.encode("utf-8", "surrogateescape") for m in members]))

    def commands(self) -> Mapping[str, Command]:
        if self._facts.commands is None:
            self._facts.commands = registered_commands(self.local.ui)
        return self._facts.commands

    def may_cache(self, command: str) -> bool:
        if self._facts.unkept is None:
            self._facts.unkept = _unkept_commands(self.local)
        return command not in self._facts.unkept

    def adjust_capabilities(self, offer: ServerCapabilities) -> ServerCapabilities:
        known = self._facts.offer
        if known is None or known[0] is not offer:
            known = self._facts.offer = offer, self._adjust_offer(offer)
        return known[1]

    def _adjust_offer(self, offer: ServerCapabilities) -> ServerCapabilities:
        """Apply ``server.compressionengines``, ``server.<engine>level`` and ``server.maxhttpheaderlen``."""
        ui = self.local.ui
        levels = {"zstd": b"zstdlevel", "zlib": b"zliblevel", "bzip2": b"bz2level"}

        def at_level(engine: Any) -> Any:
            setting = levels.get(engine.name)
            if setting is None or not ui.hasconfig(b"server", setting):
                return engine
            return attrs.evolve(engine, level=ui.configint(b"server", setting))

        wire_names = {"bz2": "bzip2"}
        known = {**ENGINES, **{engine.name: engine for engine in offer.engines}}
        names = [wire_names.get(name, name) for name in self.settings("server", "compressionengines")]
        if unknown := set(names) - known.keys():
            raise CommandFailed(f"server.compressionengines names an unknown engine: {', '.join(sorted(unknown))}")
        engines = tuple(known[name] for name in names) or offer.engines
        length = offer.max_header_length
        if ui.hasconfig(b"server", b"maxhttpheaderlen"):
            length = ui.configint(b"server", b"maxhttpheaderlen")
        return attrs.evolve(
            offer,
            engines=tuple(map(at_level, engines)),
            legacy_engine=at_level(offer.legacy_engine),
            max_header_length=length,
        )

    def subresource(self, environ: dict[str, Any], start_response: Any, authorize: Authorize) -> Iterable[bytes] | None:
        """Serve what extensions add to Mercurial's own server, such as lfs objects."""
        if environ.get("REQUEST_METHOD") in ("POST", "PUT") and not environ.get("CONTENT_LENGTH"):
            raise LengthRequired("this URL takes no chunked request bodies; send Content-Length")

        def check(_context: Any, _request: Any, operation: bytes | None) -> None:
            authorize((operation or b"pull").decode("ascii"))

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, [header for header in headers if header[0].lower() != "connection"])

        local = self.local  # the first use of a repository loads the extensions it enables, which is what serves this
        with translated_request(environ.get("PATH_INFO", "")):
            try:
                request = hgwebrequest.parserequestfromenv(environ)
                response = hgwebrequest.wsgiresponse(request, start)
                if not wireprotoserver.handlewsgirequest(SimpleNamespace(repo=local), request, response, check):
                    return None
                chunks = response.sendresponse()
                return chain([next(chunks, b"")], chunks)
            except hgwebcommon.ErrorResponse as failure:
                raise CommandFailed(str(failure)) from failure
            except FileNotFoundError as failure:
                raise RepositoryNotFound("not found") from failure

    def heads(self) -> Sequence[bytes]:
        return list(self.local.heads())

    def parents(self, node: bytes) -> tuple[bytes, bytes]:
        with translated():
            first, second = self.local.changelog.parents(node)
        return first, second

    def known(self, nodes: Sequence[bytes]) -> Sequence[bool]:
        return list(self.local.known(nodes))

    def lookup(self, key: bytes) -> bytes:
        with translated():
            return bytes(self.local.lookup(encoding.tolocal(key)))

    def branchmap(self) -> Mapping[bytes, Sequence[bytes]]:
        branches = self.local.branchmap()
        return {encoding.fromlocal(branch): list(branches.branchheads(branch, closed=True)) for branch in branches}

    def listkeys(self, namespace: bytes) -> Mapping[bytes, bytes]:
        with translated():
            return dict(self.local.listkeys(encoding.tolocal(namespace)))
