"""Options that ``hgwire serve`` and ``hgwire warm`` share: the repositories, their configuration, and the cache."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..cache.settings import CacheSettings
from . import CommandLineError

if TYPE_CHECKING:
    from ..http.app import WireApp

__all__ = ["ALLOW_PUSH", "Served", "add_options", "read_options"]

ALLOW_PUSH = ("web.allow-push=*", "web.push_ssl=no")
"""Settings that let anyone push, also without TLS."""

_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("", "K", "M", "G", "T"))}


@attrs.frozen(kw_only=True)
class Served:
    """What is served, and how.

    Attributes:
        root: one path, or paths by name, for a ``MercurialProvider``.
        config: Mercurial configuration, as ``section.name=value``.
        cache: the folder and the size of the bundle cache.
    """

    root: str | Mapping[str, str]
    config: Sequence[str]
    cache: CacheSettings

    @property
    def repositories(self) -> dict[str, Path]:
        """The repositories that exist now, by name."""
        if isinstance(self.root, Mapping):
            return {name: Path(path) for name, path in self.root.items()}
        top = Path(self.root)
        return {"" if path == top else path.relative_to(top).as_posix(): path for path in _repositories(top)}

    def app(self, **settings: Any) -> WireApp:
        """Make the application.  Each worker calls this, so that no repository is opened before the fork.

        Args:
            settings: further arguments of :class:`~hgwire_wsgi.WireApp`.

        Raises:
            CommandLineError: for configuration that Mercurial rejects.
        """
        from ..http.app import WireApp
        from ..repositories.mercurial import MercurialProvider

        try:
            return WireApp(MercurialProvider(self.root, config=self.config), cache=self.cache, **settings)
        except ValueError as error:
            raise CommandLineError(str(error), code=1) from error


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
    """Read the options of :func:`add_options`, and ``paths``: repositories, and folders of repositories.

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
    return Served(
        root=_root(args.paths, may_be_empty=may_be_empty),
        config=[*(ALLOW_PUSH if args.allow_push else ()), *args.config],
        cache=CacheSettings(**{name: value for name, value in given.items() if value is not None}),
    )


def _is_config(pair: str) -> bool:
    name, equals, _ = pair.partition("=")
    section, dot, key = name.strip().partition(".")
    return bool(equals and section and dot and key)


def _size(text: str) -> int:
    found = re.fullmatch(r"([0-9]+)([KMGT]?)", text.upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"not a size such as 500M or 2G: {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def _root(paths: Sequence[Path], *, may_be_empty: bool) -> str | dict[str, str]:
    """A single path as it is, several by name."""
    for path in paths:
        if not os.path.isdir(path):
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
    if os.path.isdir(path / ".hg"):
        yield path
        return
    for parent, folders, _ in os.walk(path):
        for name in sorted(folders):
            if os.path.isdir(Path(parent, name, ".hg")):
                folders.remove(name)
                yield Path(parent, name)
