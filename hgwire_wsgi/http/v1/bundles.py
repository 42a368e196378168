"""Long replies, each made once for all clients that request it.

The bundle cache is independent of commands.  This module connects the two: it decides which replies may be cached,
makes their keys, produces bundles, and sends stored ones.

*A clone after a push.*  Clients that announce ``partial-pull`` request the rest if a bundle is incomplete, as they do
with the pull bundles that an administrator makes.  So an older bundle of the whole repository can be the first part of
a clone, if the backend confirms that only the history has changed since, and that the bundle holds enough of it
(:class:`~hgwire_wsgi.repositories.base.IncrementalBundles`).  The newest such bundle is found through an index entry,
whose key covers everything except the history.

*The same request again.*  The key of a bundle depends only on the request and on the state of the repository.  So each
process remembers the keys of requests that got stored bundles (:class:`KnownBundle`), and does not parse the request
again until the state changes.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import attrs

from ..._version import __version__
from ...access.admission import Slot
from ...cache.bundles import BundleCache, IndexEntry, Uncacheable
from ...cache.keys import KeyValue, bundle_key, digest, index_key
from ...cache.settings import CacheSettings
from ...cache.stores.base import StoredFile, StoredUrl
from ...cache.stores.memory import MemoryStore
from ...dispatch import BoundCommand
from ...negotiation import ClientProtocol
from ...repositories.base import IncrementalBundles, Lease, RepositoryProvider
from ...streams import close_source
from ..message import FileBody, FrontEndBody, Request
from .recoding import Source, find_source
from .renderers import RENDERERS, Encodings, Rendered, encode
from .usual import client_of, is_usual

__all__ = ["LONG", "KnownBundle", "LongReplies", "Question", "render"]

Question = tuple[tuple[str, ...], ...]
"""Everything in a request that a reply can depend on."""

_REMEMBERED = 1 << 20
"""Bytes of questions whose bundles are remembered, about a thousand."""

LONG = ("stream", "legacy")
"""Kinds of replies that are bundles, or as long."""

_UNORDERED = ("nodes", "csv")
"""Types of arguments that represent sets, so clients send their items in any order."""


def render(bound: BoundCommand, encodings: Encodings) -> Rendered:
    """Run a command and render its response."""
    response = bound.run()
    return RENDERERS[type(response)](response, encodings)


@attrs.frozen(eq=False)
class _Held:
    """The source of a reply that is made while it is sent, with the slot for making it."""

    source: object
    slot: Slot

    def close(self) -> None:
        close_source(self.source)
        self.slot.release()


@attrs.frozen(eq=False)
class KnownBundle:
    """How a request was answered that got a stored bundle.

    Attributes:
        stamp: the change stamp of the repository.
        keys: of the bundle, and of an older one that can take its place.
        commands: the command, for the policy.
        headers: names and values, as sent.
        clone: whether it is the whole history, for observers.
    """

    stamp: object
    keys: tuple[str, ...]
    commands: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    clone: bool


@attrs.define(eq=False)
class _Producer:
    """Produces the chunks of a bundle.

    The first production takes over the lease of its request, because production continues after that request has ended.
    If the producer dies, the next production leases the repository again, and gives up if the repository has changed.
    The first production needs a slot, which it keeps until the bundle is complete.
    """

    provider: RepositoryProvider
    name: str
    bound: BoundCommand
    encodings: Encodings
    lease: Lease | None
    enter: Callable[[], Slot | None]
    find_source: Callable[[], Source | None]
    family: str | None = None
    may_be_cached: Callable[[], bool] = bool

    def index(self, key: str) -> IndexEntry | None:
        """Return the index entry for the bundle, if it is one of the whole repository."""
        if self.family is None:
            return None
        return IndexEntry(index_key=self.family, bundle_key=key, heads=tuple(self.bound.arguments["heads"]))

    def __call__(self) -> Generator[bytes, None, None]:
        given, self.lease = self.lease, None
        slot = None if given is None else self.enter()
        try:
            yield from self._make(given)
        finally:
            if slot is not None:
                slot.release()

    def _make(self, given: Lease | None) -> Generator[bytes, None, None]:
        lease, bound = given or self.provider.lease(self.name), self.bound
        try:
            if given is None:
                bound.require_unchanged(lease.repository)
                bound = bound.on(lease.repository)
            if (source := self.find_source()) is not None:
                self._note_family(bound)
                self.may_be_cached = lambda: True
                with contextlib.closing(source):
                    yield from encode(self.encodings.stream, source.chunks)
                return
            rendered = render(bound, self.encodings)
            body, self.may_be_cached = rendered.body, rendered.may_be_cached
            expected = self.encodings.media_type_of(bound.command.reply)
            if isinstance(body, (bytes, FileBody, FrontEndBody)) or rendered.media_type != expected:
                raise Uncacheable(rendered)
            self._note_family(bound)
            lease = lease.transfer()
            try:
                yield from body
            finally:
                rendered.close()
        finally:
            if given is not lease:
                lease.release()

    def _note_family(self, bound: BoundCommand) -> None:
        """Find out what the index entry needs while the repository is leased; the bundle may be complete only later."""
        repository, heads = bound.repository, bound.arguments.get("heads")
        if heads and isinstance(repository, IncrementalBundles) and repository.is_full_clone(heads):
            self.family = _family(repository, bound, self.name, self.encodings)


@attrs.frozen(kw_only=True)
class LongReplies:
    """The long replies of an application.

    Attributes:
        provider: leases repositories when a bundle must be made again.
        settings: where bundles are stored, and whether a front end sends them.
        bundles: returns the bundle cache of this process, ``None`` if there is none.
        sources: encodings from which others are made.
    """

    provider: RepositoryProvider
    settings: CacheSettings
    bundles: Callable[[], BundleCache | None]
    sources: tuple[Encodings, ...] = ()
    _known: MemoryStore[KnownBundle] = attrs.field(init=False, factory=lambda: MemoryStore(_REMEMBERED))

    def find(self, name: str, question: Question, stamp: object) -> KnownBundle | None:
        """Return how the same request was answered in the same state; the bundle may be gone.

        Args:
            name: of the repository.
            question: the request.
            stamp: the change stamp of the repository.
        """
        known = self._known.get((name, question))
        return known if known is not None and (known.stamp is stamp or known.stamp == stamp) else None

    def remember(self, name: str, question: Question, known: KnownBundle) -> None:
        """Record how a request was answered."""
        size = sum(len(text) for part in question for text in part)
        self._known.put((name, question), known, size + len(repr(known.headers)) + sum(map(len, known.keys)))

    def open(self, request: Request, known: KnownBundle) -> FileBody | FrontEndBody | None:
        """Open the bundle that a request got before; ``None`` if it is gone."""
        bundles = self.bundles()
        if bundles is None:
            return None
        client, label = client_of(request.user, request.address), _label(known.commands[0], request.repository)
        for key in known.keys:
            stored = bundles.open(key, client=client, label=label)
            if stored is not None:
                return self._stored(stored)
        return None

    def get(
        self,
        request: Request,
        bound: BoundCommand,
        name: str,
        lease: Lease,
        encodings: Encodings,
        client: ClientProtocol,
    ) -> Rendered:
        """Return the reply to a command, from the cache if possible.

        Args:
            request: takes the slots, and records the cache outcome.
            bound: the command, authorized.
            name: of the repository.
            lease: of the repository; a bundle that is still being made takes it over.
            encodings: how the reply is encoded.
            client: the client's capabilities.
        """
        bundles = self.bundles() if bound.command.reply in LONG and bound.cacheable else None
        if bundles is None:
            return self._make_alone(request, bound, encodings)
        media_type = encodings.media_type_of(bound.command.reply)
        token = bound.repository.bundle_token(bound.command.name, bound.arguments)
        key_of = partial(_key, token, bound, name)
        key = key_of(encodings)
        label = _label(bound.command.name, name)
        open_bundle = partial(bundles.open, client=client_of(request.user, request.address), label=label)
        keys: tuple[str, ...] = (key,)
        stored = open_bundle(key)
        if stored is None and (older := self._older_key(bundles, bound, name, encodings, client)) is not None:
            keys = (key, older)
            stored = open_bundle(older)
        if stored is not None:
            request.cache = "hit"
            return Rendered(media_type, self._stored(stored), stored_as=keys)

        sources = self.sources if bound.command.reply == "stream" else ()
        find = partial(find_source, encodings, sources, lambda other: open_bundle(key_of(other)))
        producer = _Producer(self.provider, name, bound, encodings, lease, request.enter_making, find)
        try:
            bundle = bundles.join_or_make(
                key,
                producer,
                partial(self._is_current, producer),
                index=partial(producer.index, key),
                label=label,
                usual=is_usual(bound.command.name, bound.arguments),
            )
        except Uncacheable as error:
            rendered: Rendered = error.result
            return rendered
        if bundle.outcome != "uncached":
            request.cache = bundle.outcome
        body = bundle.body
        if isinstance(body, (StoredFile, StoredUrl)):
            return Rendered(media_type, self._stored(body))
        return Rendered(media_type, body, may_be_cached=producer.may_be_cached)

    def _is_current(self, producer: _Producer) -> bool:
        """Whether a complete bundle may be cached.

        The repository must be in the same state as before, its replies must still be the same for all users, only
        ``pull`` may have been granted, and the bundle must not contain a failure.
        """
        bound = producer.bound
        return (
            not bound.granted - {"pull"}
            and bound.is_shared
            and producer.may_be_cached()
            and self.provider.change_stamp(producer.name) == bound.stamp
        )

    def _make_alone(self, request: Request, bound: BoundCommand, encodings: Encodings) -> Rendered:
        """Make a reply that is not cached."""
        slot = request.enter_making() if bound.command.reply in LONG and bound.permission == "pull" else None
        if slot is None:
            return render(bound, encodings)
        try:
            rendered = render(bound, encodings)
        except BaseException:
            slot.release()
            raise
        if isinstance(rendered.body, (bytes, FileBody, FrontEndBody)):
            slot.release()
        else:
            rendered = attrs.evolve(rendered, source=_Held(rendered.source, slot))
        return rendered

    def _older_key(
        self, bundles: BundleCache, bound: BoundCommand, name: str, encodings: Encodings, client: ClientProtocol
    ) -> str | None:
        """Return the key of an older bundle that is worth sending, if the client can request the rest."""
        repository = bound.repository
        if "partial-pull" not in client.tokens or not isinstance(repository, IncrementalBundles):
            return None
        family = _family(repository, bound, name, encodings)
        entry = None if family is None else bundles.read_index(family)
        if entry is None or not repository.is_worth_sending(entry.heads, bound.arguments.get("heads", ())):
            return None
        return entry.bundle_key

    def _stored(self, stored: StoredFile | StoredUrl) -> FileBody | FrontEndBody:
        header = self.settings.accel_header
        if isinstance(stored, StoredUrl):
            return FrontEndBody((header or "X-Accel-Redirect", stored.url), stored.size)
        if header is None or stored.name is None:
            return FileBody(os.fdopen(stored.descriptor, "rb", buffering=0), stored.size)
        stored.close()
        return FrontEndBody((header, self.settings.accel_prefix + stored.name), stored.size)


def _label(command: str, name: str) -> str:
    """The name of a bundle in log lines."""
    return f"{command} of {name or 'the repository at /'}"


@functools.lru_cache(maxsize=256)
def _encoding_key(identity: tuple[KeyValue, ...]) -> str:
    """A digest of the part of a key that is the same for most requests."""
    return digest(identity)


def _key(token: bytes, bound: BoundCommand, name: str, encodings: Encodings) -> str:
    return bundle_key(token=token, **_identity(bound, name, encodings))


def _identity(bound: BoundCommand, name: str, encodings: Encodings) -> dict[str, Any]:
    """Everything that a bundle depends on, except the state of its repository."""
    command = bound.command
    types = {argument.name: argument.type for argument in command.arguments}
    return {
        "version": __version__,
        "repository": name,
        "view": bound.view,
        "command": command.name,
        "handler": command.handler_name,
        "arguments": {
            key: sorted(value) if types.get(key) in _UNORDERED else value for key, value in bound.arguments.items()
        },
        "encoding": _encoding_key(encodings.identity),
    }


def _family(repository: IncrementalBundles, bound: BoundCommand, name: str, encodings: Encodings) -> str | None:
    """The key of the index entry of a full clone: everything that its bundle depends on, except the history."""
    rest = repository.clone_family(bound.command.name, bound.arguments)
    if rest is None:
        return None
    identity = _identity(bound, name, encodings)
    identity["arguments"] = {key: value for key, value in identity["arguments"].items() if key != "heads"}
    return index_key(token=repr(rest).encode(), **identity)
