"""Serving the repositories that a finder finds.

The provider owns one configuration, a pool of open repositories, and a bounded cache of facts about each repository
(:class:`Facts` and a reader of its state).  All threads share them.  When a repository or its settings change, its
facts are replaced, never modified.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs
from mercurial import encoding, error, extensions, util
from mercurial import ui as uimod

from ...cache.stores.memory import ENTRY_OVERHEAD, MemoryStore
from ...commands.registry import Command, Permission
from ...errors import RepositoryNotFound, RepositoryUnusable
from ...negotiation import ServerCapabilities
from ..base import Lease, RepositoryProvider
from ..finder import Found, RepositoryFinder, Source, make_finder
from ..pool import Pool
from .changegroups.seam import GENERATOR, setting_of
from .commands import KNOWN_PERMISSIONS, registered_commands
from .errors import message_of
from .hooks import PushLimits
from .loading import LOADING, load_extensions
from .permissions import is_command, is_unrestricted
from .repository import LFS_BATCH, SERVER_SETTINGS, Facts, MercurialRepository, OpenRepository, is_bundle, is_lfs_path
from .sharing import SafeExtensions
from .state import State, StateReader
from .transactions import RECOVER

__all__ = ["MercurialProvider", "hash_of", "is_repository", "load_ui", "set_encoding"]

_KNOWN_REPOSITORIES = 10_000
"""Maximum number of repositories whose facts are cached, about 10 KiB each.  If clients poll more than these, each
request opens a repository."""


@attrs.define(eq=False)
class _Known:
    """The cached facts of a repository between requests; shared by all threads."""

    found: Found
    reader: StateReader
    facts: Facts


class MercurialProvider(RepositoryProvider):
    """Serves Mercurial repositories on disk.

    Args:
        source: a repository or a bundle file, served at ``/``; a folder, whose repositories are served by their paths
            in it, including those added later; a mapping from names to paths; a function that returns the path of a
            name, or ``None``; or a custom finder.  Mappings and functions may give a :class:`Found` for a path, with
            settings for that repository alone.  A function is called once per request and name; it may also give
            :class:`Moved`.
        config: settings for all repositories as ``hg --config`` takes them, ``section.name=value``.
        leases: maximum number of requests that use one repository at a time.
        idle: maximum number of unused repository objects that are kept open.
        recover: roll back the transaction of a process that has died, before the next push or stream clone; by default,
            these are refused with 503.  Observers get a :class:`~hgwire_wsgi.events.RepositoryRecovered`.  The setting
            ``hgwire.recover`` does the same, also in the ``hgrc`` of a repository.
        generator: what makes bundles of changesets: ``hgwire``, the generator of this package, which leaves to
            Mercurial's what it was not compared with; or ``mercurial``, always Mercurial's.  They give the same bytes;
            observers get a :class:`~hgwire_wsgi.events.ChangegroupMade`.  The setting ``hgwire.generator`` does the
            same, also in the ``hgrc`` of a repository.
        safe_extensions: names of extensions that give all users the same replies.  Mercurial's own are known; while
            another one is loaded, this process caches nothing (see ``docs/caching.rst``).
        lock_timeout: seconds that a push waits for a lock of the repository; then it fails with 503.  Default:
            ``ui.timeout`` if it is set, otherwise 10.
        hook_timeout: seconds that one shell hook may run; then it is killed, and the push fails.  ``None`` for no
            limit.  Python hooks run inside the server and cannot be stopped.
        hook_output: bytes of the output of hooks that are kept for the client.
        open_timeout: seconds that a request waits for a repository to open.

    Raises:
        ValueError: for a malformed setting or one that Mercurial refuses, and for a path that is neither a repository
            nor a folder.  A path in a mapping may be missing: a warning is logged, and the name answers 404.
    """

    def __init__(
        self,
        source: Source | RepositoryFinder,
        *,
        config: Iterable[str] = (),
        leases: int = 64,
        idle: int = 64,
        recover: bool = False,
        generator: Literal["hgwire", "mercurial"] = "hgwire",
        safe_extensions: Iterable[str] = (),
        lock_timeout: int | None = None,
        hook_timeout: float | None = 300.0,
        hook_output: int = 1024 * 1024,
        open_timeout: float = 10.0,
    ) -> None:
        self._push_limits = PushLimits(lock_timeout=lock_timeout, hook_timeout=hook_timeout, hook_output=hook_output)
        try:
            base = load_ui(config)
            if recover:
                base.setconfig(*RECOVER, True, b"hgwire")
            if generator != "hgwire":
                base.setconfig(*GENERATOR, generator.encode(), b"hgwire")
            self._ui, self._finder = self._set_up(source, base)
            setting_of(self._ui)
            self._post_args = self._ui.configbool(b"experimental", b"httppostargs")
        except error.ConfigError as failure:
            raise ValueError(os.fsdecode(failure.format()).strip().removeprefix("config error: ")) from failure
        if isinstance(source, Mapping):
            for place in source.values():
                for item in Found.of(place).config:
                    _parse_setting(item)
        self._salt = hash_of(self._ui)
        self._safe = SafeExtensions(safe_extensions)
        self._known: MemoryStore[_Known] = MemoryStore(_KNOWN_REPOSITORIES * ENTRY_OVERHEAD)
        self._pool = Pool(self._open, _is_current, _empty, leases=leases, idle=idle, patience=open_timeout)

    def _set_up(self, source: Any, ui: Any) -> tuple[Any, RepositoryFinder]:
        """Make the finder.

        Args:
            source: as given to the constructor.
            ui: the configuration of the machine, the user and the constructor.

        Returns:
            The configuration of the server, and the finder.
        """
        return ui, make_finder(source, is_repository)

    def _below(self, found: Found) -> tuple[Any, bytes]:
        """The configuration below a repository's own, and a hash of it; copy it before use."""
        return self._ui, self._salt

    @property
    def finder(self) -> RepositoryFinder:
        """Finds the repositories."""
        return self._finder

    @property
    def ui(self) -> Any:
        """Mercurial's configuration object of the server; copy it before use."""
        return self._ui

    def locate(self, path: str) -> tuple[str, str] | None:
        return self._finder.locate(path)

    def names(self, limit: int) -> list[str]:
        return self._finder.names(limit)

    def lease(self, name: str) -> Lease:
        known = self._remember(name)
        state, facts = known.reader.read(), known.facts
        if facts.state is not state and facts.state != state:
            facts = known.facts = facts.in_state(state)
        wanted = facts
        repository = MercurialRepository(state, facts, lambda: self._pool.acquire(name, wanted))

        def release() -> None:
            if (opened := repository.take_open()) is not None:
                self._pool.release(name, opened)

        return Lease(repository, release)

    def change_stamp(self, name: str) -> object:
        return (self._known.get(name) or self._remember(name)).reader.read()

    def watch(self, name: str, stamp: object) -> Callable[[], bool] | None:
        known = self._known.get(name)
        if known is None or not isinstance(stamp, State) or not self._finder.keeps(name):
            return None
        is_current, unsafe = known.reader.is_current, self._safe.unsafe
        return lambda: is_current(stamp) and is_unrestricted() and not unsafe()

    def _remember(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is not None and self._finder.fixed:
            return known
        found = self._finder.find(name)
        if found is None:
            raise RepositoryNotFound("no such repository")
        if known is None or known.found != found:
            own = repr(found.config).encode("utf-8", "surrogateescape")
            salt = hashlib.sha256(self._below(found)[1] + own).digest()
            reader = StateReader(found.root, salt)
            known = _Known(found, reader, Facts(name, found, None, self._safe, reader.censored))
            self._known.put(name, known, 0)
        return known

    def is_subresource(self, rest: str) -> bool:
        return is_lfs_path(rest)

    def subresource_permission(self, rest: str, method: str) -> Literal["pull", "push", "upload"]:
        if rest == LFS_BATCH and method == "POST":
            return "pull"
        return super().subresource_permission(rest, method)

    def commands(self) -> Mapping[str, Command]:
        return registered_commands(self._ui)

    def is_command(self, name: str) -> bool:
        return is_command(name)

    def known_permissions(self) -> Mapping[str, Permission]:
        return KNOWN_PERMISSIONS

    def adjust_capabilities(self, server: ServerCapabilities) -> ServerCapabilities:
        return attrs.evolve(server, post_args=self._post_args)

    def _open(self, name: str, facts: Facts) -> OpenRepository:
        """Open a repository in the state of some facts."""
        found, state = facts.found, facts.state
        assert state is not None
        try:
            ui = self._below(found)[0].copy()
            if found.config:
                _configure(ui, found.config)
            try:
                return OpenRepository(ui, found, state, self._push_limits, facts.report)
            except RuntimeError:
                # An extension that another thread loads may change a set over which Mercurial iterates here.
                with LOADING:
                    return OpenRepository(ui, found, state, self._push_limits, facts.report)
        except (error.Abort, error.RepoError, OSError, ValueError) as failure:
            if not is_repository(found.root):
                raise RepositoryNotFound("no such repository") from failure
            facts.report(message_of(failure))
            raise RepositoryUnusable from failure


def _empty(opened: OpenRepository) -> None:
    opened.empty()


def _is_current(opened: OpenRepository, facts: Facts) -> bool:
    """Whether an open repository is in the state of some facts, or has been brought to it."""
    assert facts.state is not None
    return opened.found == facts.found and (opened.state == facts.state or opened.renew(facts.state))


_PLACES = frozenset({b"collections", b"hgweb-collections", b"hgweb-paths"})
"""Sections that say where repositories are."""


def hash_of(ui: Any) -> bytes:
    """Hash everything that replies depend on except the repository: Mercurial itself, and a configuration."""
    # These come from the environment of the process, and no reply depends on them.
    personal = {(b"ui", b"editor"), (b"pager", b"pager")}
    settings = sorted(item for item in ui.walkconfig() if item[0] not in _PLACES and item[:2] not in personal)
    everything = (util.version(), encoding.encoding.lower(), settings)
    return hashlib.sha256(repr(everything).encode("utf-8", "surrogateescape")).digest()


def is_repository(path: bytes) -> bool:
    """Whether there is a repository at a path: a folder with one, or a bundle file."""
    return os.path.isdir(path + b"/.hg") or is_bundle(path)


def load_ui(config: Iterable[str]) -> Any:
    """Load the configuration of the machine and the user, with further settings as ``section.name=value``.

    Raises:
        ValueError: for a malformed setting.
    """
    ui = uimod.ui.load()
    for section, name, value in SERVER_SETTINGS:
        ui.setconfig(section, name, value, b"hgwire")
    _configure(ui, config)
    set_encoding(ui)
    return ui


def set_encoding(ui: Any) -> None:
    """Set the character encoding of the process: ``web.encoding``, ``HGENCODING``, or UTF-8."""
    if ui.hasconfig(b"web", b"encoding"):
        encoding.encoding = ui.config(b"web", b"encoding")
    elif not os.environ.get("HGENCODING"):
        encoding.encoding = b"UTF-8"


def _configure(ui: Any, config: Iterable[str]) -> None:
    """Apply settings, and load the extensions that they enable."""
    for item in config:
        ui.setconfig(*_parse_setting(item), b"--config")
    load_extensions(ui)
    extensions.populateui(ui)


def _parse_setting(item: str) -> tuple[bytes, bytes, bytes]:
    key, equals, setting = item.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise ValueError(f"not a setting of the form section.name=value: {item}")
    return section.encode(), name.encode(), os.fsencode(setting.strip())
