"""Finding repositories on disk by name, independent of the backend.

A finder maps names to paths, and asks a function of the backend whether a folder is a repository.  It owns no open
files and stores nothing about a repository, so repositories may be added and removed at any time.

What is always true: a name from a request reaches the file system only below the folder that is served, and without
``.``, ``..``, ``.hg`` or NUL in it.  The time to look up a path is proportional to its length: a folder is walked only
as deep as it exists, a mapping is compared only as deep as its deepest name, and a callable is called at most
:data:`MAX_CALLS` times.

Names are those of :class:`~hgwire_wsgi.repositories.base.RepositoryProvider`: bytes as latin-1 characters.
"""

from __future__ import annotations

import abc
import os
import weakref
from collections.abc import Callable, Container, Mapping
from contextvars import ContextVar

import attrs

from ..errors import HgWireError, RepositoryBusy, RepositoryMoved
from ..logcontext import CURRENT, LOGGER, Described, printable

__all__ = [
    "Found",
    "Moved",
    "Place",
    "RepositoryFinder",
    "Source",
    "find_longest",
    "make_finder",
    "split_path",
    "wsgi_name",
]

MAX_CALLS = 16
"""Maximum number of calls of a callable for one path, and therefore of the parts of a repository's name."""

_MAX_FOLDERS = 10_000
"""Maximum number of folders that are searched to list repositories."""

_MAX_DEPTH = 16
"""Maximum depth below the served folder that is searched to list repositories; links can form cycles."""

_MAX_WARNED = 1000
"""Maximum number of names remembered as already warned about."""

Place = str | os.PathLike[str]
IsRepository = Callable[[bytes], bool]


@attrs.frozen
class Found:
    """Where a repository is, and its own settings.

    Attributes:
        path: the repository's root.
        config: settings of this repository alone, each as ``section.name=value``; they override its ``hgrc`` and the
            settings of the server.
    """

    path: Place
    config: tuple[str, ...] = attrs.field(default=(), converter=tuple)

    @classmethod
    def of(cls, place: Place | Found) -> Found:
        """Convert a plain path to a repository without its own settings."""
        return place if isinstance(place, Found) else cls(place)

    @property
    def root(self) -> bytes:
        """The path as bytes."""
        return os.fsencode(self.path)


@attrs.frozen
class Moved:
    """The answer of a callable for a repository that has a new name: clients are redirected to it.

    Attributes:
        name: the new name, as text, relative to the place where the repositories are mounted.
    """

    name: str


Source = Place | Mapping[str, Place | Found] | Callable[[str], Place | Found | Moved | None]
"""Sources of finders: a path, a mapping, or a function from names (as text) to paths."""


def split_path(path: str) -> list[str] | None:
    """Split a URL path at slashes; ``None`` if a part could refer to another folder, or is not made of bytes."""
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts or "\0" in path or not (path.isascii() or max(path) <= "\xff"):
        return None
    return parts


def wsgi_name(name: str) -> str:
    """The name of a repository as WSGI writes it: UTF-8 bytes as latin-1 characters."""
    return name.strip("/").encode("utf-8", "surrogateescape").decode("latin-1")


def find_longest(path: str, names: Container[str], depth: int) -> tuple[str, str] | None:
    """Find the longest name that a path starts with.

    Args:
        path: a URL path.
        names: the existing names.
        depth: the maximum number of parts of a name.

    Returns:
        The name and the rest of the path; ``None`` if no name fits.
    """
    parts = split_path(path)
    if parts is None:
        return None
    for count in range(min(len(parts), depth), -1, -1):
        name = "/".join(parts[:count])
        if name in names:
            return name, "/".join(parts[count:])
    return None


class RepositoryFinder(abc.ABC):
    """Finds repositories by name.

    Attributes:
        fixed: whether a name always refers to the same path once found, so that the result can be reused.
    """

    fixed = False

    def keeps(self, name: str) -> bool:
        """Whether the paths of a repository lead to it for as long as its ``.hg`` exists."""
        return False

    @abc.abstractmethod
    def locate(self, path: str) -> tuple[str, str] | None:
        """Find the name of the repository that a URL path is in, and the rest of the path."""

    @abc.abstractmethod
    def find(self, name: str) -> Found | None:
        """Return the location of a repository by name; ``None`` if it does not exist now."""

    @abc.abstractmethod
    def names(self, limit: int) -> list[str]:
        """Return up to ``limit`` names, sorted."""


class _Single(RepositoryFinder):
    """One repository, served at ``/``."""

    fixed = True

    def __init__(self, root: bytes, is_repository: IsRepository) -> None:
        self._found = Found(os.fsdecode(os.path.realpath(root)))
        self._is_repository = is_repository

    def keeps(self, name: str) -> bool:
        return True

    def locate(self, path: str) -> tuple[str, str] | None:
        if path in ("", "/"):
            return "", ""
        parts = split_path(path)
        return None if parts is None else ("", "/".join(parts))

    def find(self, name: str) -> Found | None:
        return self._found if name == "" and self._is_repository(self._found.root) else None

    def names(self, limit: int) -> list[str]:
        return [""][:limit] if self.find("") else []


class _Folder(RepositoryFinder):
    """The repositories in a folder, by their paths in it.  Folders inside a repository are part of it."""

    fixed = True

    def __init__(self, root: bytes, is_repository: IsRepository) -> None:
        self._root = os.path.realpath(root)
        self._is_repository = is_repository

    def keeps(self, name: str) -> bool:
        # A folder above it may become a repository.
        return "/" not in name

    def locate(self, path: str) -> tuple[str, str] | None:
        folder, parts = self._root, split_path(path) or []
        for count, part in enumerate(parts, 1):
            folder = os.path.join(folder, part.encode("latin-1"))
            if part == ".hg" or not os.path.isdir(folder):
                break
            if self._is_repository(folder):
                return "/".join(parts[:count]), "/".join(parts[count:])
        return None

    def find(self, name: str) -> Found | None:
        parts = name.encode("latin-1").split(b"/")
        if not name or b".hg" in parts:
            return None
        path = os.path.join(self._root, *parts)
        return Found(os.fsdecode(path)) if self._is_repository(path) else None

    def names(self, limit: int) -> list[str]:
        found: list[str] = []
        waiting: list[tuple[bytes, ...]] = [()]
        for _ in range(_MAX_FOLDERS):
            if not waiting or len(found) >= limit:
                break
            parts = waiting.pop()
            folder = os.path.join(self._root, *parts)
            if parts and self._is_repository(folder):
                found.append(b"/".join(parts).decode("latin-1"))
            elif len(parts) < _MAX_DEPTH:
                # The last one comes next, so that the list is sorted.
                waiting += [(*parts, name) for name in sorted(_folders(folder), reverse=True)]
        return sorted(found)


def _folders(path: bytes) -> list[bytes]:
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return [name for name in names if not name.startswith(b".") and os.path.isdir(os.path.join(path, name))]


class _Named(RepositoryFinder):
    """Base of finders from mappings and callables: a path may be missing, which is logged once for each name."""

    def __init__(self, is_repository: IsRepository) -> None:
        self._is_repository = is_repository
        self._warned: set[str] = set()

    def _check(self, name: str, found: Found) -> Found | None:
        if self._is_repository(found.root):
            self._warned.discard(name)
            return found
        if name not in self._warned and len(self._warned) < _MAX_WARNED:
            self._warned.add(name)
            LOGGER.warning("repository %s: no repository at %s", name or "/", os.fspath(found.path))
        return None


class _Mapping(_Named):
    """Repositories by name; a copy of the mapping is used."""

    fixed = True

    def __init__(self, places: Mapping[str, Place | Found], is_repository: IsRepository) -> None:
        super().__init__(is_repository)
        self._places = {wsgi_name(name): Found.of(place) for name, place in places.items()}
        self._depth = max((name.count("/") + 1 for name in self._places), default=0)
        for name in self._places:
            self.find(name)

    def keeps(self, name: str) -> bool:
        return True

    def locate(self, path: str) -> tuple[str, str] | None:
        return find_longest(path, self._places, self._depth)

    def find(self, name: str) -> Found | None:
        found = self._places.get(name)
        return None if found is None else self._check(name, found)

    def names(self, limit: int) -> list[str]:
        return [name for name in sorted(self._places) if self.find(name) is not None][:limit]


class _Callable(_Named):
    """Repositories found by a function of the host, which is called once per name and request."""

    def __init__(self, find: Callable[[str], Place | Found | Moved | None], is_repository: IsRepository) -> None:
        super().__init__(is_repository)
        self._find = find

    def locate(self, path: str) -> tuple[str, str] | None:
        parts = split_path(path)
        if parts is None:
            return None
        for count in range(min(len(parts), MAX_CALLS - 1), -1, -1):
            name, rest = "/".join(parts[:count]), "/".join(parts[count:])
            place = self._ask(name)
            if isinstance(place, Moved):
                raise RepositoryMoved("/".join(filter(None, (wsgi_name(place.name), rest))))
            if place is not None:
                return name, rest
        return None

    def find(self, name: str) -> Found | None:
        place = self._ask(name)
        return None if place is None or isinstance(place, Moved) else self._check(name, Found.of(place))

    def names(self, limit: int) -> list[str]:
        return []

    def _ask(self, name: str) -> Place | Found | Moved | None:
        """Call the function, unless it was already called for the request that this thread serves."""
        request, answers = CURRENT.get(), _answers.get()
        if request is None:
            return self._call(name)
        if answers is None or answers[0]() is not request:
            answers = weakref.ref(request), {}
            _answers.set(answers)
        key = self, name
        if key not in answers[1]:
            answers[1][key] = self._call(name)
        return answers[1][key]

    def _call(self, name: str) -> Place | Found | Moved | None:
        try:
            return self._find(_text(name))
        except HgWireError:
            raise
        except Exception as failure:
            LOGGER.error("finding repository %s failed: %s: %s", printable(name), type(failure).__name__, failure)
            raise RepositoryBusy(
                "the repository cannot be found at the moment; try again later", headers=[("Retry-After", "5")]
            ) from failure


_Answers = tuple["weakref.ref[Described]", dict[tuple[_Callable, str], Place | Found | Moved | None]]

_answers: ContextVar[_Answers | None] = ContextVar("hgwire_wsgi.found", default=None)
"""The answers of callables for one request."""


def _text(name: str) -> str:
    return name.encode("latin-1").decode("utf-8", "surrogateescape")


def make_finder(source: Source | RepositoryFinder, is_repository: IsRepository) -> RepositoryFinder:
    """Make a finder.

    Args:
        source: a repository, served at ``/``; a folder, whose repositories are served by their paths in it; a mapping
            from names to paths; a function that returns the path of a name or ``None``; or a finder.  Mappings and
            functions may give :class:`Found` for a path, functions also :class:`Moved`.
        is_repository: returns whether there is a repository at a path.

    Raises:
        ValueError: for a path that is neither a repository nor a folder.
    """
    if isinstance(source, RepositoryFinder):
        return source
    if isinstance(source, Mapping):
        return _Mapping(source, is_repository)
    if not isinstance(source, str | os.PathLike):
        return _Callable(source, is_repository)
    root = os.fsencode(source)
    if is_repository(root):
        return _Single(root, is_repository)
    if os.path.isdir(root):
        return _Folder(root, is_repository)
    raise ValueError(f"neither a repository nor a folder: {os.fspath(source)}")
