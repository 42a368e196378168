"""The methods of a repository behind the standard commands.

A backend implements the ones it supports; see :mod:`hgwire_wsgi.repositories.base`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ..errors import CommandFailed, UnknownCommand
from ..streams import Readable
from .responses import Response

__all__ = ["NULL", "PushKeyResult", "RepositoryObjects"]

NULL = b"\0" * 20
"""The node that is the parent of roots."""


@attrs.frozen
class PushKeyResult:
    """The result of ``pushkey``.

    Attributes:
        success: whether the key has the new value.
        output: the output of hooks.
    """

    success: bool
    output: bytes = b""


class RepositoryObjects:
    """The objects behind the standard commands.

    Nodes are 20 bytes.  A command whose method is not implemented does not exist in this repository.
    """

    def capabilities(self) -> Iterable[bytes]:
        """Return the tokens of the ``capabilities`` reply, except those added by the transport."""
        return ()

    def heads(self) -> Sequence[bytes]:
        """Return the changesets without children, newest first; :data:`NULL` alone for an empty repository."""
        raise _missing("heads")

    def parents(self, node: bytes) -> tuple[bytes, bytes]:
        """Return the two parents of a changeset, :data:`NULL` for a missing one.

        Raises:
            CommandFailed: if there is no such changeset.
        """
        raise _missing("parents")

    def known(self, nodes: Sequence[bytes]) -> Sequence[bool]:
        """Return for each node whether the repository has that changeset."""
        raise _missing("known")

    def lookup(self, key: bytes) -> bytes:
        """Return the node of a hash or its prefix, a revision number, a tag, a bookmark or a branch.

        Raises:
            CommandFailed: if there is no such revision.
        """
        raise _missing("lookup")

    def branchmap(self) -> Mapping[bytes, Sequence[bytes]]:
        """Return the heads of each branch by its name in UTF-8, closed heads included, oldest first."""
        raise _missing("branchmap")

    def listkeys(self, namespace: bytes) -> Mapping[bytes, bytes]:
        """Return the keys of a namespace such as ``bookmarks``; nothing for an unknown one."""
        raise _missing("listkeys")

    def pushkey(self, namespace: bytes, key: bytes, old: bytes, new: bytes) -> PushKeyResult:
        """Set a key to ``new`` if its value is still ``old``."""
        raise _missing("pushkey")

    def changegroup(self, bases: Sequence[bytes], heads: Sequence[bytes] | None) -> Response:
        """Return a changegroup of version 01: the descendants of ``bases``, bases included, up to ``heads``."""
        raise _missing("changegroup")

    def getbundle(self, **arguments: Any) -> Response:
        """Return a bundle of the data that the client lacks; takes the declared arguments of ``getbundle``, decoded."""
        raise _missing("getbundle")

    def unbundle(self, heads: Sequence[bytes], body: Readable, client: str) -> Response:
        """Apply a bundle.

        Args:
            heads: the heads the client saw; or ``[b"force"]``; or ``[b"hashed", SHA-1 of the sorted heads]``.
            body: the bundle.
            client: the client's scheme, address and user, for logs and hooks.
        """
        raise _missing("unbundle")

    def stream_out(self) -> Response:
        """Return the files of the store unchanged."""
        raise _missing("stream_out")

    def clone_bundles(self, *, legacy: bool) -> bytes:
        """Return the manifest of clone bundles; a legacy one lists only those that every client understands."""
        return b""

    def cached_bundle(self, path: bytes) -> Response:
        """Return a bundle that the manifest of clone bundles lists for inline transfer.

        Raises:
            CommandFailed: if there is none at that path.
        """
        raise CommandFailed("no such bundle")


def _missing(command: str) -> UnknownCommand:
    return UnknownCommand(f"this repository does not offer {command}")
