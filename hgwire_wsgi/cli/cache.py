"""``hgwire cache check``: check the bundles that are cached, and remove those that are damaged."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..cache.settings import default_folder
from ..cache.stores.folder import FolderStore
from . import CommandLineError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire cache``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    text = "compare each bundle with its size and digest, and remove those that are damaged"
    check = actions.add_parser("check", help=text, description=f"{text[0].upper()}{text[1:]}.")
    check.add_argument("--cache-dir", type=Path, metavar="DIR", help="the cache (default: the user's cache folder)")


def run(args: argparse.Namespace) -> int:
    """Check the cache; a server may use it at the same time.

    Returns:
        0 if all entries are intact, 1 if some were damaged; there is a line for each of these.

    Raises:
        CommandLineError: if there is no cache, or a server would refuse it.
    """
    folder = args.cache_dir or default_folder()
    if folder is None:
        raise CommandLineError("this user has no cache folder; name one with --cache-dir")
    if not folder.is_dir():
        raise CommandLineError(f"{folder} is not a folder", code=1)
    try:
        store = FolderStore(folder, 0)
    except OSError as error:
        raise CommandLineError(f"{error.filename}: {error.strerror}", code=1) from error
    count = size = damaged = 0
    for entry in store.check():
        count, size = count + 1, size + entry.size
        if entry.problem:
            damaged += 1
            print(f"{store.path(entry.key)}: {entry.problem}; removed")
    print(f"{count} entries, {size / 2**20:.1f} MiB, {damaged} damaged")
    return 1 if damaged else 0
