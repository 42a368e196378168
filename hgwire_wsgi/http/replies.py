"""Bundles made once: which replies may be kept, under which key, and how they are found again.

A reply is a function of the repository's state, the command, its arguments, and how it is encoded.  All of that is in
the key, so nothing ever has to be invalidated.  Whether a user may have a reply was asked before it is looked up.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Generator

import attrs

from .._version import __version__
from ..cache.settings import CacheSettings
from ..cache.single_flight import Flight, StreamChanged, Whole
from ..cache.stores.folder import Store
from ..limits import Limits
from ..negotiation import ClientProtocol, Encoding, ServerCapabilities, choose_encoding, choose_plain_encoding
from ..repositories.base import IncrementalBundles, Lease, RepositoryProvider
from ..streams import coalesce
from .growth import Growth
from .render import RENDERERS, Rendered
from .service import Call

__all__ = ["Replies", "may_be_kept", "render"]

_log = logging.getLogger("hgwire_wsgi")

_ENCODINGS: dict[str, Callable[[ServerCapabilities, ClientProtocol], Encoding]] = {
    "legacy": choose_plain_encoding,
    "stream": choose_encoding,
}
"""How the long replies of each kind are encoded."""


class _NotKept(Exception):
    """The response is not what the command's declaration promises: an error, or another media type."""


def render(call: Call, offer: ServerCapabilities, client: ClientProtocol) -> Rendered:
    """Run a command and render its response."""
    response = call.run()
    return RENDERERS[type(response)](response, offer, client)


class Replies:
    """The bundle cache of an application.

    Args:
        provider: for the leases of whoever makes a bundle.
        settings: bounds and places.
        limits: ``chunk`` is the size of the chunks bundles are made in.
    """

    def __init__(self, provider: RepositoryProvider, settings: CacheSettings, limits: Limits) -> None:
        self._provider = provider
        self._settings = settings
        self._chunk = limits.chunk
        self._opened: tuple[int, Flight | None] = 0, None

    def get(self, call: Call, name: str, lease: Lease, offer: ServerCapabilities, client: ClientProtocol) -> Rendered:
        """The reply to a call that was authorized; a long one is made once for all who want it.

        Args:
            call: the command and all it needs.
            name: of the repository.
            lease: of the repository; a bundle that goes on being made takes it over.
            offer: what is offered.
            client: what the client takes.
        """
        choose = _ENCODINGS.get(call.command.reply)
        flight = self._open_flight() if choose is not None and may_be_kept(call) else None
        if choose is None or flight is None:
            return render(call, offer, client)
        encoding = choose(offer, client)
        key = _key(call, encoding, client)
        digest = _digest(call.state, key)
        growth = Growth.of(call, name, key)
        if growth is not None and (older := growth.older(flight.store, digest)) is not None:
            return Rendered(encoding.media_type, Whole(older, os.fstat(older).st_size))

        def is_valid() -> bool:
            valid = self.is_current(call, name)
            if valid and growth is not None:
                try:
                    growth.remember(flight.store, digest)
                except OSError as error:
                    flight.complain(error)
            return valid

        maker = _Maker(self._provider, call, name, lease, offer, client, encoding.media_type, self._chunk, growth)
        try:
            stream = flight.get(digest, maker, is_valid)
        except _NotKept:
            return render(call, offer, client)
        return Rendered(encoding.media_type, stream, None if isinstance(stream, bytes | Whole) else stream)

    def accelerated(self, key: Whole) -> tuple[str, str] | None:
        """The header that has the proxy in front send a bundle, if that is configured."""
        if self._settings.accel_header is None or self._settings.folder is None:
            return None
        try:
            path = os.readlink(f"/proc/self/fd/{key.descriptor}")
        except OSError:
            return None
        if path.endswith(".part") or not os.path.exists(path):
            # It is about to get its name; or it was removed to make room, after it had been opened.
            return None
        relative = os.path.relpath(path, os.path.realpath(self._settings.folder))
        return self._settings.accel_header, f"{self._settings.accel_prefix}{relative}"

    def is_current(self, call: Call, name: str) -> bool:
        """Whether the repository is still in the state that a reply was made from."""
        return not call.asked - {"pull"} and self._provider.change_stamp(name) == call.version

    def _open_flight(self) -> Flight | None:
        """The bundle cache of this process, ``None`` if it is off or its folder cannot be used."""
        pid, flight = self._opened
        if pid != os.getpid():
            # Two threads may both come here; two flights in a process get on as those of two processes do.
            flight = self._open_store()
            self._opened = os.getpid(), flight
        return flight

    def _open_store(self) -> Flight | None:
        if not self._settings.disk or self._settings.folder is None:
            return None
        try:
            return Flight(Store(self._settings.folder, self._settings.disk), self._chunk)
        except OSError as error:
            _log.warning("there is no bundle cache: %s", error)
            return None


def may_be_kept(call: Call) -> bool:
    """Whether the reply depends on nothing but the state, the command, its arguments, and how it is encoded."""
    context = call.context
    if call.permission != "pull" or call.asked - {"pull"}:
        return False
    if any(
        "access-hidden" in arguments for arguments in (context.arguments, *(sub.arguments for sub in context.batch))
    ):
        return False
    commands = [call.command, *(context.resolve(sub.name) for sub in context.batch)]
    return all(command.cacheable and context.repository.may_cache(command.name) for command in commands)


def _key(call: Call, encoding: Encoding, client: ClientProtocol) -> tuple[object, ...]:
    """All that a long reply depends on, besides the state.  The arguments come last."""
    command, arguments = call.command, call.context.arguments
    kinds = {argument.name: argument.type for argument in command.arguments}
    names = sorted(arguments) if command.rest else [name for name in kinds if name in arguments]
    given = {name: _sorted(kinds.get(name, "bytes"), arguments[name]) for name in names}
    engine = encoding.engine
    # What is better not compressed goes out as 0.2 to whoever takes that, even where nothing else would.
    how = (encoding.media_type, engine and engine.name, engine and engine.level, "0.2" in client.media_types)
    handler = command.handler
    maker = (getattr(handler, "__module__", None), getattr(handler, "__qualname__", None))
    return (__version__, maker, command.name, how, given)


_SEPARATORS = {"nodes": b" ", "csv": b","}


def _sorted(kind: str, value: bytes) -> bytes:
    """The value of an argument, whose order means nothing if it is a list: clients send sets in any order."""
    separator = _SEPARATORS.get(kind)
    return value if separator is None else separator.join(sorted(value.split(separator)))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()


@attrs.define(eq=False)
class _Maker:
    """Makes a bundle: at first with the lease of the request that wants it, later with one of its own."""

    provider: RepositoryProvider
    call: Call
    name: str
    lease: Lease | None
    offer: ServerCapabilities
    client: ClientProtocol
    media_type: str
    chunk: int
    growth: Growth | None

    def __call__(self) -> Generator[bytes, None, None]:
        given, self.lease = self.lease, None
        lease, call = given or self.provider.lease(self.name), self.call
        try:
            if given is None:
                if lease.repository.change_stamp() != call.version:
                    raise StreamChanged("the repository has changed")
                call = attrs.evolve(call, context=attrs.evolve(call.context, repository=lease.repository))
            rendered = render(call, self.offer, self.client)
            if isinstance(rendered.body, bytes | Whole) or rendered.content_type != self.media_type:
                raise _NotKept
            if self.growth is not None:
                wanted = self.growth.wanted
                self.growth.is_whole = isinstance(
                    lease.repository, IncrementalBundles
                ) and lease.repository.is_full_clone(wanted)
            lease = lease.transfer()
            try:
                yield from coalesce(rendered.body, self.chunk)
            finally:
                # They use the repository until they are closed.
                for item in (rendered.body, rendered.source):
                    getattr(item, "close", lambda: None)()
        finally:
            if given is not lease:
                lease.release()
