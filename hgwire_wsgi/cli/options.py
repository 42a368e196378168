"""Options that ``hgwire serve`` and ``hgwire warm`` share: the repositories, their configuration, and the cache.

Nothing here imports Mercurial before something is served.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from ..cache.settings import CacheSettings
from . import CommandLineError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from ..http.app import WireApp
    from ..repositories.mercurial import MercurialProvider

__all__ = ["ALLOW_PUSH", "Served", "add_options", "read_options"]

ALLOW_PUSH = ("web.allow-push=*", "web.push_ssl=no")
"""Settings that let anyone push, also without TLS."""

_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("", "K", "M", "G", "T"))}


@attrs.frozen(kw_only=True)
class Served:
    """What is served, and how.

    Attributes:
        root: one path, or paths by name, for a ``MercurialProvider``; or the path of an ``hgweb.config``.
        config: Mercurial configuration, as ``section.name=value``.
        cache: the folder and the size of the bundle cache.
        is_config_file: whether ``root`` is an ``hgweb.config``.
        pages: whether browsers get Mercurial's own pages.
    """

    root: str | Mapping[str, str]
    config: Sequence[str]
    cache: CacheSettings
    is_config_file: bool = False
    pages: bool = False

    @property
    def repositories(self) -> dict[str, Path]:
        """The repositories that exist now, by name.

        Raises:
            CommandLineError: for configuration that Mercurial rejects.
        """
        if self.is_config_file:
            finder = self.provider().finder
            found = {name: finder.find(name) for name in finder.names(sys.maxsize)}
            return {_text(name): Path(place.path) for name, place in found.items() if place is not None}
        if isinstance(self.root, Mapping):
            return {name: Path(path) for name, path in self.root.items()}
        top = Path(self.root)
        return {"" if path == top else path.relative_to(top).as_posix(): path for path in _repositories(top)}

    def provider(self) -> MercurialProvider:
        """Make the provider.

        Raises:
            CommandLineError: for configuration that Mercurial rejects.
        """
        from ..repositories.mercurial import HgwebConfigProvider, MercurialProvider

        make = HgwebConfigProvider if self.is_config_file else MercurialProvider
        try:
            return make(self.root, config=self.config)
        except ValueError as error:
            raise CommandLineError(str(error), code=1) from error

    def app(self, **settings: Any) -> WireApp:
        """Make the application.  Each worker calls this, so that no repository is opened before the fork.

        Args:
            settings: further arguments of :class:`~hgwire_wsgi.WireApp`.

        Raises:
            CommandLineError: for configuration that Mercurial rejects.
        """
        from ..http.app import WireApp

        return WireApp(self.provider(), cache=self.cache, **settings)

    def wsgi(self, **settings: Any) -> WSGIApplication:
        """Make the application, with Mercurial's pages behind it if they are wanted.

        Args:
            settings: as for :meth:`app`.

        Raises:
            CommandLineError: for configuration that Mercurial rejects.
        """
        from ..http.app import WireMiddleware
        from ..repositories.mercurial import hgweb_pages

        wire = self.app(**settings)
        if not self.pages:
            return wire
        return WireMiddleware(hgweb_pages(cast("MercurialProvider", wire.provider)), wire=wire)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that decide which bundles are made, and where they are cached."""
    add = parser.add_argument
    add("--allow-push", action="store_true", help="let anyone push, even without TLS")
    add(
        "--config",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="set a Mercurial configuration option (repeatable)",
    )
    add("--cache-dir", type=Path, metavar="DIR", help="cache bundles in DIR (default: the user's cache folder)")
    add(
        "--cache-size",
        type=_size,
        metavar="SIZE",
        help="maximum size of the bundle cache, such as 500M (default: 1G); 0 disables it",
    )


def read_options(args: argparse.Namespace, *, may_be_empty: bool = False) -> Served:
    """Read the options of :func:`add_options`, and ``paths``.

    These are repositories, bundle files and folders of repositories, or one ``hgweb.config``.

    Args:
        args: the parsed command line.
        may_be_empty: accept a single folder that has no repositories yet.

    Raises:
        CommandLineError: for a malformed setting, a path that has no repository, and two repositories of one name.
    """
    for pair in args.config:
        if not _is_config(pair):
            raise CommandLineError(f"--config takes SECTION.NAME=VALUE, not {pair!r}")
    given = {"folder": args.cache_dir, "disk": args.cache_size}
    is_config_file = len(args.paths) == 1 and _is_config_file(args.paths[0])
    return Served(
        root=str(args.paths[0]) if is_config_file else _root(args.paths, may_be_empty=may_be_empty),
        is_config_file=is_config_file,
        config=[*(ALLOW_PUSH if args.allow_push else ()), *args.config],
        cache=CacheSettings(**{name: value for name, value in given.items() if value is not None}),
    )


def _is_config(pair: str) -> bool:
    name, equals, _ = pair.partition("=")
    section, dot, key = name.strip().partition(".")
    return bool(equals and section and dot and key)


def _is_config_file(path: Path) -> bool:
    return os.path.isfile(path) and not _is_bundle(path)


def _is_bundle(path: Path) -> bool:
    """Whether a file begins like a bundle that Mercurial can open as a repository."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(4) in (b"HG10", b"HG20")


def _text(name: str) -> str:
    """The name of a repository as text, from bytes as latin-1 characters."""
    return name.encode("latin-1").decode("utf-8", "surrogateescape")


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"not a size such as 500M or 2G: {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def _root(paths: Sequence[Path], *, may_be_empty: bool) -> str | dict[str, str]:
    """A single path as it is, several by name."""
    for path in paths:
        if _is_config_file(path):
            raise CommandLineError(f"{path}: an hgweb.config is served alone")
        if not (os.path.isdir(path) or _is_bundle(path)):
            raise CommandLineError(f"{path} is not a folder")
        if next(_repositories(path), None) is None and not (may_be_empty and len(paths) == 1):
            alone = "; only a folder that is served alone may be empty" if may_be_empty else ""
            raise CommandLineError(f"{path} contains no repository{alone}")
    if len(paths) == 1:
        return str(paths[0])
    served: dict[str, str] = {}
    for path in paths:
        top = path.resolve()
        for repository in _repositories(top):
            name = repository.relative_to(top.parent).as_posix()
            if name in served:
                raise CommandLineError(f"{served[name]} and {repository} would both be served at /{name}")
            served[name] = str(repository)
    return served


def _repositories(path: Path) -> Iterator[Path]:
    """The path itself if it is a repository, otherwise the repositories below it, except those inside another."""
    # os.path.isdir() is false where Path.is_dir() raises: for a forbidden folder, and for a name that is too long.
    if os.path.isdir(path / ".hg") or _is_bundle(path):
        yield path
        return
    for parent, folders, _ in os.walk(path):
        for name in sorted(folders):
            if os.path.isdir(Path(parent, name, ".hg")):
                folders.remove(name)
                yield Path(parent, name)
