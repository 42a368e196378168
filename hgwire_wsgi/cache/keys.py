"""Cache keys, made from values.

A key is the SHA-256 of everything a reply depends on.  So nothing is ever invalidated: when something changes, the key
changes.  For this to hold, equal values must give equal keys in every process, and different values different keys:

- values are written as literals, so their types and their borders are part of the key;
- only values whose content is their identity are accepted.  Anything else, such as an object whose ``repr`` contains an
  address, is a :class:`TypeError`;
- sequences keep their order.  The caller sorts those whose order means nothing.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence

__all__ = ["KeyValue", "bundle_key", "describe_callable", "index_key", "response_key"]

KeyValue = None | bool | int | str | bytes | Sequence["KeyValue"] | Mapping[str, "KeyValue"]
"""What a key can be made from; of sequences, tuples and lists only."""


def response_key(*, repository: str, token: bytes, request: KeyValue) -> str:
    """Make the key of a small reply.

    Args:
        repository: name of the repository.
        token: changes whenever any reply of the repository could change.
        request: everything in the request that the reply depends on.

    Returns:
        64 hexadecimal digits, as for every key.

    Raises:
        TypeError: for values that cannot be part of a key.
    """
    return _key("response", repository, token, request)


def bundle_key(
    *,
    version: str,
    repository: str,
    token: bytes,
    command: str,
    handler: KeyValue,
    arguments: Mapping[str, KeyValue],
    encoding: KeyValue,
) -> str:
    """Make the key of a bundle.

    Args:
        version: of the package; another version may encode otherwise.
        repository: name of the repository.
        token: changes whenever any reply of the repository could change.
        command: name of the command.
        handler: identifies the function that answers the command.
        arguments: decoded arguments of the command, by name.
        encoding: media type, engine and level; see :func:`describe_callable` for engines of the same name.

    Raises:
        TypeError: for values that cannot be part of a key.
    """
    return _key("bundle", version, repository, token, command, handler, arguments, encoding)


def index_key(
    *,
    version: str,
    repository: str,
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
        token: changes whenever anything but the history changes.
        command: name of the command.
        handler: identifies the function that answers the command.
        arguments: those that do not name heads.
        encoding: media type, engine and level.

    Raises:
        TypeError: for values that cannot be part of a key.
    """
    return _key("index", version, repository, token, command, handler, arguments, encoding)


def describe_callable(function: Callable[..., object]) -> KeyValue:
    """Identify a function by values, so that two functions never share a key.

    Args:
        function: anything that can be imported by its name, or a :func:`functools.partial` of it with values.

    Raises:
        TypeError: for a lambda, a local function, a method, or a callable object: no name tells it from others.
    """
    if isinstance(function, functools.partial):
        return ("partial", describe_callable(function.func), function.args, function.keywords)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    found: object = sys.modules.get(module or "")
    for part in (name or "").split("."):
        found = getattr(found, part, None)
    if module is None or name is None or found is not function:
        raise TypeError(f"no name tells {function!r} from other functions")
    return ("function", module, name)


def _key(*values: KeyValue) -> str:
    return hashlib.sha256(ascii(_plain(values)).encode("ascii")).hexdigest()


_ATOMS = frozenset({str, bytes, int, bool, type(None)})


def _plain(value: object) -> object:
    """Reduce a value to the built-in types that :func:`ascii` writes unambiguously, in the same way everywhere."""
    if type(value) in _ATOMS:
        return value
    if isinstance(value, (tuple, list)):
        # Keys of small replies are made for every request: the test here saves a call for each item.
        return tuple([item if type(item) in _ATOMS else _plain(item) for item in value])
    if isinstance(value, Mapping):
        return {_plain(name): _plain(value[name]) for name in sorted(value)}
    # A subclass may have a repr of its own.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return memoryview(value).tobytes()
    if isinstance(value, int):
        return int.__int__(value)
    raise TypeError(f"a cache key cannot contain a value of type {type(value).__name__}")
