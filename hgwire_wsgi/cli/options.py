"""What ``hgwire serve`` and ``hgwire warm`` have in common: which repositories, their settings, and the cache."""

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
    """What is served, and how; small enough to be handed to every worker.

    Attributes:
        root: what a provider is made of: one path, or paths by name.
        config: settings of Mercurial.
        cache: where bundles are kept, and how many bytes of them.
    """

    root: str | Mapping[str, str]
    config: Sequence[str]
    cache: CacheSettings

    @property
    def repositories(self) -> dict[str, Path]:
        """The repositories by name."""
        if isinstance(self.root, Mapping):
            return {name: Path(path) for name, path in self.root.items()}
        top = Path(self.root)
        return {"" if path == top else path.relative_to(top).as_posix(): path for path in _repositories(top)}

    def app(self, **settings: Any) -> WireApp:
        """Make the application.  The workers do, so that no repository is opened before they are forked.

        Args:
            settings: of :class:`~hgwire_wsgi.WireApp`.

        Raises:
            CommandLineError: for configuration that Mercurial refuses.
        """
        from ..http.app import WireApp
        from ..repositories.mercurial import MercurialProvider

        try:
            return WireApp(MercurialProvider(self.root, config=self.config), cache=self.cache, **settings)
        except ValueError as error:
            raise CommandLineError(str(error), code=1) from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that decide what is kept, and under which keys."""
    add = parser.add_argument
    add("--allow-push", action="store_true", help="anyone may push, also without TLS")
    add(
        "--config",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="Mercurial configuration; repeatable",
    )
    add("--cache-dir", type=Path, metavar="DIR", help="where bundles are kept; in the user's cache folder by default")
    add(
        "--cache-size",
        type=_size,
        metavar="SIZE",
        help="most that is kept, such as 500M; 1G by default, 0 keeps nothing",
    )


def read_options(args: argparse.Namespace) -> Served:
    """Read what :func:`add_options` declared, and ``paths``: repositories, and folders of repositories.

    Raises:
        CommandLineError: for a setting that is none, a path that is no repository and no folder with repositories, and
            a name that two have.
    """
    for pair in args.config:
        if not _is_config(pair):
            raise CommandLineError(f"--config takes SECTION.NAME=VALUE, not {pair!r}")
    given = {"folder": args.cache_dir, "disk": args.cache_size}
    return Served(
        root=_root(args.paths),
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


def _root(paths: Sequence[Path]) -> str | dict[str, str]:
    """One path as it is, several by name."""
    for path in paths:
        if next(_repositories(path), None) is None:
            found = "neither a repository nor a folder with repositories" if os.path.isdir(path) else "not a folder"
            raise CommandLineError(f"{path} is {found}")
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
    """The path itself if it is a repository, else the repositories below it, but none inside another."""
    # os.path.isdir() says no where Path.is_dir() raises: for what may not be looked into, and for a name too long.
    if os.path.isdir(path / ".hg"):
        yield path
        return
    for parent, folders, _ in os.walk(path):
        for name in sorted(folders):
            if os.path.isdir(Path(parent, name, ".hg")):
                folders.remove(name)
                yield Path(parent, name)
