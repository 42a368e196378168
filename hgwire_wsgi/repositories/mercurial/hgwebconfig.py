"""Serving the repositories that an ``hgweb.config`` names, as Mercurial's own hgwebdir serves them.

Mercurial parses the file.  :func:`_entries` reads its sections, :func:`_search` finds the repositories, and the result
is a :class:`Listing`: a value that all threads share until the next one replaces it.

What is always true: a request is answered from one listing.  One thread at a time makes a new one; while it does,
requests in other threads use the old one, unless ``refreshinterval`` says that each request reads the file again.  A
file that can no longer be read leaves the old listing in use.  A name from a request is only compared with the names of
the listing and never becomes part of a path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import attrs
from mercurial import error, extensions
from mercurial.hgweb import hgwebdir_mod

from ..finder import Found, Place, RepositoryFinder
from .errors import message_of
from .provider import MercurialProvider, hash_of, is_repository, load_ui, set_encoding
from .walk import walk

__all__ = ["ConfigFinder", "ConfigSource", "HgwebConfigProvider", "Listing", "web_settings"]

_log = logging.getLogger("hgwire_wsgi")

ConfigSource = Place | Mapping[str, Place] | Iterable[tuple[str, Place]]
"""What hgwebdir takes: the path of an ``hgweb.config``, or what its section ``paths`` would say."""

_REFRESH = 20
"""The default of ``web.refreshinterval`` in seconds."""

_Entry = tuple[bytes, bytes]


@attrs.frozen
class _Settings:
    """A configuration below those of the repositories.  Two are equal if all replies are."""

    ui: Any = attrs.field(eq=False)
    hash: bytes


@attrs.frozen
class _Configured(Found):
    """A repository, and the settings below its own."""

    settings: _Settings = attrs.field(kw_only=True)


@attrs.frozen(kw_only=True, eq=False)
class Listing:
    """What a configuration says, and the repositories that existed when it was read.

    Attributes:
        settings: the configuration of the server.
        repositories: by name, with latin-1 characters for bytes.  A repository that the configuration names itself may
            be missing.
        longest: length of the longest name.
        descend: ``web.descend``: whether names with a slash are listed.
        interval: seconds until the next reading; 0 if each request reads the configuration.
        begun, done: when the reading began and ended, on the clock of :func:`time.monotonic`.
    """

    settings: _Settings
    repositories: Mapping[str, Found]
    longest: int
    descend: bool
    interval: float
    begun: float
    done: float

    def serves(self, arrived: float) -> bool:
        """Whether it is new enough for a request that arrived at some time."""
        return arrived < self.done + self.interval if self.interval > 0 else self.begun > arrived


class ConfigFinder(RepositoryFinder):
    """Finds the repositories of an ``hgweb.config``.

    Args:
        source: the configuration.
        ui: the configuration of the machine, the user and the command line, to which the file's is added.

    Raises:
        ValueError: if the file cannot be read, or Mercurial refuses it.
    """

    def __init__(self, source: ConfigSource, ui: Any) -> None:
        self._entries = _reader(source)
        self._ui = ui
        self._changing = threading.Lock()
        self._problems: frozenset[str] = frozenset()
        with _as_value_error():
            self._listing = self._read(None)

    def current(self) -> Listing:
        """The listing for a request that arrives now."""
        listing, arrived = self._listing, time.monotonic()
        if listing.serves(arrived) or not self._changing.acquire(blocking=listing.interval <= 0):
            return listing
        try:
            if not self._listing.serves(arrived):
                self._listing = self._read_again(self._listing)
            return self._listing
        finally:
            self._changing.release()

    def locate(self, path: str) -> tuple[str, str] | None:
        listing = self.current()
        wanted = path.strip("/")
        for end in _ends(wanted, listing.longest):
            if wanted[:end] in listing.repositories:
                rest = wanted[end:].strip("/")
                return None if "\0" in rest or ".." in rest.split("/") else (wanted[:end], rest)
        return None

    def find(self, name: str) -> Found | None:
        found = self._listing.repositories.get(name)
        return found if found is not None and is_repository(found.root) else None

    def names(self, limit: int) -> list[str]:
        listing = self.current()
        names = (name for name in sorted(listing.repositories) if listing.descend or "/" not in name)
        return [name for name, _ in zip((name for name in names if self.find(name)), range(limit), strict=False)]

    def _read_again(self, old: Listing) -> Listing:
        begun = time.monotonic()
        try:
            return self._read(old)
        except (error.Abort, OSError) as failure:
            self._report({f"{_shown(failure)}; the repositories known so far are served"})
            return attrs.evolve(old, begun=begun, done=time.monotonic())

    def _read(self, old: Listing | None) -> Listing:
        begun, problems = time.monotonic(), set[str]()
        ui = self._ui.copy()
        entries = self._entries(ui)
        if old is None:
            # Once per process; the hash of the settings depends on the encoding.
            extensions.loadall(ui)
            set_encoding(ui)
        extensions.populateui(ui)
        found = dict(_search(entries, _collections(ui), problems.add))
        interval = _setting(lambda: ui.configint(b"web", b"refreshinterval"), _REFRESH, problems.add)
        descend = _setting(lambda: ui.configbool(b"web", b"descend"), True, problems.add)
        ui.setconfig(b"web", b"refreshinterval", b"%d" % interval, b"hgwire")
        settings = _Settings(ui, hash_of(ui))
        if old is not None and old.settings == settings:
            settings = old.settings
        self._report(problems)
        return Listing(
            settings=settings,
            repositories={
                name.decode("latin-1"): _Configured(os.fsdecode(path), settings=settings)
                for name, path in found.items()
            },
            longest=max(map(len, found), default=0),
            descend=descend,
            interval=max(interval, 0),
            begun=begun,
            done=time.monotonic(),
        )

    def _report(self, problems: Iterable[str]) -> None:
        """Log problems, each once until it is solved."""
        new = frozenset(problems)
        for problem in sorted(new - self._problems):
            _log.warning("%s", problem)
        self._problems = new


class HgwebConfigProvider(MercurialProvider):
    """Serves the repositories that an ``hgweb.config`` names, as hgwebdir does.

    The file is read again after ``web.refreshinterval`` seconds (default: 20).  Its settings are below those of the
    repositories' ``hgrc`` files, and above those of the machine and the user.  Of a new version of the file, everything
    applies to running servers except ``web.encoding``, ``experimental.httppostargs``, and commands of extensions that
    no repository had before.

    A plain path that is missing is logged; its name answers 404 until it exists.  (hgwebdir stops serving.)

    Args:
        source: the path of an ``hgweb.config``; or a mapping from names to paths, or pairs of them, which may end in
            ``/*`` or ``/**``.
        config: as for :class:`MercurialProvider`; overrides the file and the repositories.
        options: further arguments of :class:`MercurialProvider`.

    Raises:
        ValueError: if the file cannot be read, or Mercurial refuses it.
    """

    def __init__(self, source: ConfigSource, *, config: Iterable[str] = (), **options: Any) -> None:
        super().__init__(cast("Any", source), config=config, **options)

    def _set_up(self, source: Any, ui: Any) -> tuple[Any, RepositoryFinder]:
        finder = ConfigFinder(source, ui)
        return finder.current().settings.ui, finder

    def _below(self, found: Found) -> tuple[Any, bytes]:
        settings = cast("_Configured", found).settings
        return settings.ui, settings.hash


def web_settings(path: Place, names: Iterable[str], *, config: Iterable[str] = ()) -> dict[str, str]:
    """Read settings of the section ``web`` that concern the server itself, without looking for repositories.

    Args:
        path: of an ``hgweb.config``.
        names: of the settings.
        config: as for :class:`HgwebConfigProvider`.

    Returns:
        The values of those that are set.

    Raises:
        ValueError: if the file cannot be read, or Mercurial refuses it.
    """
    ui = load_ui(config)
    with _as_value_error():
        _reader(path)(ui)
    found = {name: name.encode("ascii") for name in names}
    return {name: os.fsdecode(ui.config(b"web", key)) for name, key in found.items() if ui.hasconfig(b"web", key)}


@contextlib.contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except (error.Abort, OSError) as failure:
        raise ValueError(_shown(failure)) from failure


def _ends(path: str, longest: int) -> Iterator[int]:
    """Where a name can end in a path, from the longest possible name to the empty one."""
    if len(path) <= longest:
        yield len(path)
    end = path.rfind("/", 0, longest + 1)
    while end > 0:
        yield end
        end = path.rfind("/", 0, end)
    if path:
        yield 0


def _reader(source: ConfigSource) -> Callable[[Any], list[_Entry]]:
    """A function that reads the configuration into Mercurial's object, and returns the entries of ``paths``."""
    if isinstance(source, str | os.PathLike):
        path = os.fsencode(os.path.abspath(source))

        def read(ui: Any) -> list[_Entry]:
            with open(path, "rb"):
                # Mercurial ignores a file that cannot be opened.
                ui.readconfig(path, remap={b"paths": b"hgweb-paths", b"collections": b"hgweb-collections"}, trust=True)
            names = [name for name, _ in ui.configitems(b"hgweb-paths")]
            return [(name, place) for name in names for place in ui.configlist(b"hgweb-paths", name)]

        return read
    pairs = source.items() if isinstance(source, Mapping) else source
    entries = [(os.fsencode(name), os.fsencode(place)) for name, place in pairs]
    return lambda ui: entries


def _collections(ui: Any) -> Iterable[_Entry]:
    return {**dict(ui.configitems(b"collections")), **dict(ui.configitems(b"hgweb-collections"))}.items()


def _search(
    entries: Iterable[_Entry], collections: Iterable[_Entry], report: Callable[[str], None]
) -> Iterator[_Entry]:
    """Find the repositories of a configuration: names and paths.  The last one of a name counts, as in hgwebdir."""
    for prefix, place in hgwebdir_mod.cleannames(entries):
        top, last = os.path.split(place)
        if last in (b"*", b"**"):
            top = os.path.abspath(top)
            yield from hgwebdir_mod.urlrepos(prefix, top, _walk(top, report, recurse=last == b"**"))
        else:
            path = os.path.abspath(place)
            if not is_repository(path):
                report(f"repository {_text(prefix) or '/'}: no repository at {_text(path)}")
            yield prefix, path
    for prefix, top in collections:
        for path in map(os.path.normpath, _walk(top, report, recurse=False)):
            yield path.removeprefix(prefix).lstrip(b"/"), os.path.abspath(path)


def _walk(top: bytes, report: Callable[[str], None], *, recurse: bool) -> Iterator[bytes]:
    try:
        yield from walk(top, recurse=recurse)
    except OSError as failure:
        report(f"no repositories are served from {_text(top)}: {failure.strerror}")


def _setting(read: Callable[[], Any], default: Any, report: Callable[[str], None]) -> Any:
    try:
        return read()
    except error.ConfigError as failure:
        report(f"{message_of(failure)}; the default is used")
        return default


def _shown(failure: Exception) -> str:
    return (
        f"{os.fsdecode(failure.filename)}: {failure.strerror}" if isinstance(failure, OSError) else message_of(failure)
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
