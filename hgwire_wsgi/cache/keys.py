"""Cache keys, made from values.

A key is the SHA-256 of everything a reply depends on.  So nothing is ever invalidated: when something changes, the key
changes.  This requires that equal values give equal keys in every process, and different values different keys:

- values are written as literals, so their types and boundaries are part of the key;
- only values whose content is their identity are accepted.  Anything else, such as an object whose ``repr`` contains an
  address, is a :class:`TypeError`;
- sequences keep their order.  The caller sorts those whose order is irrelevant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

__all__ = ["KeyValue", "ResponseKey", "bundle_key", "digest", "index_key"]

KeyValue = None | bool | int | str | bytes | Sequence["KeyValue"] | Mapping[str, "KeyValue"]
"""Values that a key can be made from; sequences must be tuples or lists."""

ResponseKey = tuple[str, bytes, tuple[tuple[str, ...], ...]]
"""The key of a small reply: the repository's name, its content token, and everything in the request that the reply
depends on.

It is a tuple, because it is looked up for every request, and a digest would take longer than the rest of the answer.
A store outside of the process can convert it to a string with ``digest(*key)``."""


def bundle_key(
    *,
    version: str,
    repository: str,
    view: KeyValue,
    token: bytes,
    command: str,
    handler: KeyValue,
    arguments: Mapping[str, KeyValue],
    encoding: KeyValue,
) -> str:
    """Make the key of a bundle.

    Args:
        version: of the package; another version may encode replies differently.
        repository: name of the repository.
        view: identifies the users who get the same reply.
        token: changes whenever any reply of the repository could change.
        command: name of the command.
        handler: identifies the function that implements the command.
        arguments: decoded arguments of the command, by name.
        encoding: media types and identities of engines.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: for values that cannot be part of a key.
    """
    return digest("bundle", version, repository, view, token, command, handler, arguments, encoding)


def index_key(
    *,
    version: str,
    repository: str,
    view: KeyValue,
    token: bytes,
    command: str,
    handler: KeyValue,
    arguments: Mapping[str, KeyValue],
    encoding: KeyValue,
) -> str:
    """Make the key of the index entry that names the newest full-clone bundle.

    Args:
        version: of the package.
        repository: name of the repository.
        view: identifies the users who get the same reply.
        token: changes whenever anything but the history changes.
        command: name of the command.
        handler: identifies the function that implements the command.
        arguments: those that do not name heads.
        encoding: media type, engine and level.

    Raises:
        TypeError: for values that cannot be part of a key.
    """
    return digest("index", version, repository, view, token, command, handler, arguments, encoding)


def digest(*values: KeyValue) -> str:
    """Make a key of values.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: for values that cannot be part of a key.
    """
    return hashlib.sha256(ascii(_plain(values)).encode("ascii")).hexdigest()


_ATOMS = frozenset({str, bytes, int, bool, type(None)})


def _plain(value: object) -> object:
    """Reduce a value to the built-in types that :func:`ascii` writes unambiguously, in the same way everywhere."""
    if type(value) in _ATOMS:
        return value
    if isinstance(value, (tuple, list)):
        # Most items are atoms: the test here saves a call for each of them.
        return tuple([item if type(item) in _ATOMS else _plain(item) for item in value])
    if isinstance(value, Mapping):
        return {_plain(name): _plain(value[name]) for name in sorted(value)}
    # A subclass may have its own repr.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return memoryview(value).tobytes()
    if isinstance(value, int):
        return int.__int__(value)
    raise TypeError(f"a cache key cannot contain a value of type {type(value).__name__}")
