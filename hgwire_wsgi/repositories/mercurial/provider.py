"""Finding repositories on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from mercurial import encoding, error, extensions, util
from mercurial import ui as uimod

from ...cache.stores.memory import ByteLRU
from ...commands.registry import Command
from ...errors import RepositoryNotFound
from ...negotiation import ServerCapabilities
from ..base import Lease, RepositoryProvider
from ..pool import Pool
from .commands import registered_commands
from .repository import SERVER_SETTINGS, Facts, MercurialRepository, OpenRepository
from .state import State, StateReader

__all__ = ["MercurialProvider"]

_KNOWN_REPOSITORIES = 4096 * 200
"""How much is remembered of repositories between requests: the last state of some four thousand."""


@attrs.define(eq=False)
class _Known:
    """What is remembered of a repository between requests; shared by all threads."""

    reader: StateReader
    facts: Facts = attrs.Factory(Facts)


class MercurialProvider(RepositoryProvider):
    """Finds Mercurial repositories on disk.

    Args:
        root: a repository, served at ``/``; a folder, whose repositories are served by their paths in it, as they come
            and go; or a mapping from such paths to repositories.
        config: settings as ``hg --config`` takes them, ``section.name=value``.
        leases: how many requests use one repository at a time at most.
        idle: how many unused repository objects are kept open.

    Raises:
        ValueError: for a setting that is none or that Mercurial refuses, and for a mapping to what is no repository.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
        *,
        config: Iterable[str] = (),
        leases: int = 64,
        idle: int = 64,
    ) -> None:
        try:
            self._ui = _load_ui(config)
            self._post_args = self._ui.configbool(b"experimental", b"httppostargs")
        except error.ConfigError as failure:
            raise ValueError(os.fsdecode(failure.format()).strip().removeprefix("config error: ")) from failure
        self._folder: bytes | None = None
        self._named: dict[str, bytes] = {}
        if isinstance(root, Mapping):
            for name, path in root.items():
                self._named[name.strip("/").encode("utf-8", "surrogateescape").decode("latin-1")] = _repository(path)
        elif _is_repository(os.fsencode(root)):
            self._named[""] = os.path.realpath(os.fsencode(root))
        elif os.path.isdir(root):
            self._folder = os.path.realpath(os.fsencode(root))
        else:
            raise ValueError(f"neither a repository nor a folder: {os.fspath(root)}")
        self._salt = _salt(self._ui)
        self._known: ByteLRU[_Known] = ByteLRU(_KNOWN_REPOSITORIES)
        self._pool = Pool(self._open, lambda opened, state: opened.state == state, leases=leases, idle=idle)

    def locate(self, path: str) -> tuple[str, str] | None:
        parts = [part for part in path.split("/") if part]
        if any(part in (".", "..") or "\0" in part for part in parts):
            return None
        for count in range(len(parts) + 1) if self._folder else range(len(parts), -1, -1):
            name = "/".join(parts[:count])
            if self._path_of(name) is not None:
                return name, "/".join(parts[count:])
        return None

    def _path_of(self, name: str) -> bytes | None:
        if self._folder is None:
            return self._named.get(name)
        parts = name.encode("latin-1").split(b"/")
        if not name or b".hg" in parts:
            return None
        path = os.path.join(self._folder, *parts)
        return path if _is_repository(path) else None

    def lease(self, name: str) -> Lease:
        known = self._remember(name)
        state, facts = known.reader.read(), known.facts
        if facts.state != state:
            facts = known.facts = Facts(state)
        repository = MercurialRepository(state, facts, lambda: self._pool.acquire(name, state))

        def release() -> None:
            if (opened := repository.take_open()) is not None:
                self._pool.release(name, opened)

        return Lease(repository, release)

    def change_stamp(self, name: str) -> object:
        return self._remember(name).reader.read()

    def _remember(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            path = self._path_of(name)
            if path is None:
                raise RepositoryNotFound("no such repository")
            known = _Known(StateReader(path, self._salt))
            self._known.put(name, known, 0)
        return known

    def is_subresource(self, rest: str) -> bool:
        return rest.startswith((".hg/", ".git/"))

    def commands(self) -> Mapping[str, Command]:
        return registered_commands(self._ui)

    def adjust_capabilities(self, offer: ServerCapabilities) -> ServerCapabilities:
        return attrs.evolve(offer, post_args=self._post_args)

    def _open(self, name: str, state: State) -> OpenRepository:
        path = self._path_of(name)
        if path is None:
            raise RepositoryNotFound("no such repository")
        try:
            return OpenRepository(self._ui.copy(), path, state)
        except error.RepoError as failure:
            raise RepositoryNotFound("the repository cannot be opened") from failure


def _salt(ui: Any) -> bytes:
    """What replies depend on besides the repository: Mercurial itself, and the server's configuration."""
    # These come from the environment of whoever started the process, and no reply depends on them.
    personal = {(b"ui", b"editor"), (b"pager", b"pager")}
    settings = sorted(item for item in ui.walkconfig() if item[:2] not in personal)
    everything = (util.version(), encoding.encoding.lower(), settings)
    return hashlib.sha256(repr(everything).encode("utf-8", "surrogateescape")).digest()


def _is_repository(path: bytes) -> bool:
    return os.path.isdir(path + b"/.hg")


def _repository(path: str | os.PathLike[str]) -> bytes:
    if not _is_repository(os.fsencode(path)):
        raise ValueError(f"not a repository: {os.fspath(path)}")
    return os.path.realpath(os.fsencode(path))


def _load_ui(config: Iterable[str]) -> Any:
    ui = uimod.ui.load()
    for section, name, value in SERVER_SETTINGS:
        ui.setconfig(section, name, value, b"hgwire")
    for item in config:
        key, equals, setting = item.partition("=")
        section_name, dot, item_name = key.strip().partition(".")
        if not (equals and dot and section_name and item_name):
            raise ValueError(f"not a setting of the form section.name=value: {item}")
        ui.setconfig(section_name.encode(), item_name.encode(), os.fsencode(setting.strip()), b"--config")
    extensions.loadall(ui)
    extensions.populateui(ui)
    if ui.hasconfig(b"web", b"encoding"):
        encoding.encoding = ui.config(b"web", b"encoding")
    elif not os.environ.get("HGENCODING"):
        encoding.encoding = b"UTF-8"
    return ui
