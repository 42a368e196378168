"""A bundle for one engine, made from the cached bundle for another.

The same bundle is cached once for each encoding.  If it is requested in an encoding that is missing, it need not be
generated again: another one is decoded and compressed anew.  Decoding a cached bundle takes a tenth of the time of
generating it.

Only payloads of 0.2 are decoded, because they start with the name of their engine.  A bundle that does not name the
engine of its key holds incompressible data, which every client gets uncompressed; it is not used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import attrs

from ...cache.stores.base import StoredFile, StoredUrl
from ...compression import NONE, DecodingReader, Engine
from ...errors import DecodeError
from ...limits import Limits
from ...negotiation import ClientProtocol, ServerCapabilities
from ...streams import iter_pieces, read_exactly
from .renderers import Encodings

__all__ = ["Source", "find_source", "sources"]

_log = logging.getLogger("hgwire_wsgi")


def sources(server: ServerCapabilities) -> tuple[Encodings, ...]:
    """The encodings from which others are made: one for each engine that the server offers for 0.2.

    They are those of a client that accepts only this engine, or prefers it: engine and server determine them.
    """
    if "0.2" not in server.send:
        return ()
    return tuple(
        Encodings.negotiate(server, ClientProtocol((), frozenset({"0.1", "0.2"}), (engine.name,)))
        for engine in server.engines
        if engine.name != NONE.name
    )


@attrs.frozen(eq=False)
class Source:
    """A cached bundle in another encoding.

    Attributes:
        file: open after the name of the engine; :meth:`close` closes it.
        chunks: its decoded content.
    """

    file: BinaryIO
    chunks: Iterator[bytes]

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def find_source(
    wanted: Encodings,
    candidates: Iterable[Encodings],
    open_bundle: Callable[[Encodings], StoredFile | StoredUrl | None],
) -> Source | None:
    """Find a cached bundle that can be decoded.

    Args:
        wanted: the encodings of the bundle that is missing.
        candidates: other encodings, as from :func:`sources`.
        open_bundle: opens the same bundle in other encodings, if it is cached.

    Returns:
        The bundle, which must be closed; None if there is none.
    """
    for encodings in candidates:
        engine = encodings.stream.engine
        if encodings == wanted or engine is None:
            continue
        stored = open_bundle(encodings)
        if isinstance(stored, StoredFile) and (source := _decode(stored, engine)) is not None:
            return source
    return None


def _decode(stored: StoredFile, engine: Engine) -> Source | None:
    """Start to decode a cached bundle; None if it is not encoded by this engine."""
    file = os.fdopen(stored.descriptor, "rb", buffering=0)
    try:
        if read_exactly(file, len(engine.prefix)) == engine.prefix:
            # An engine that requires a larger window than the default limit fails here, before anything is sent.
            pieces = iter_pieces(DecodingReader(file, engine, Limits()))
            return Source(file, _begun(next(pieces, b""), pieces))
    except DecodeError as error:
        _log.warning("a cached bundle of the engine %s is not used for others: %s", engine.name, error.message)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _begun(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
