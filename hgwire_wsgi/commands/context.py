"""The context in which a command runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from ..events import PushChanges
from ..limits import Limits
from ..negotiation import ClientProtocol, ServerCapabilities
from ..streams import Readable
from .objects import RepositoryObjects
from .registry import Command
from .responses import Response

__all__ = ["CommandContext", "Runnable"]


class Runnable(Protocol):
    """A command that is ready to run: resolved, authorized, its arguments decoded."""

    @property
    def command(self) -> Command: ...

    def run(self) -> Response: ...


@attrs.frozen(kw_only=True)
class CommandContext:
    """One request, as a command sees it.  It does not reveal which transport called.

    Attributes:
        repository: leased for this request only.
        arguments: the arguments as sent, by name, undeclared ones included; bytes, or values of a typed encoding.
        user: the authenticated user; ``None`` if unauthenticated.
        protocol: the client's capabilities.
        server: what is negotiated for this repository.
        body: the data after the arguments in the request; read once, in chunks.
        client: the client's scheme, address and user, for logs and hooks: ``remote:<scheme>:<address>:<user>``.
        environ: the WSGI environ as a value, for backends that pass it to hooks.
        authorize: raises :class:`PermissionDenied` unless the request has a permission; for commands that
            determine what they need while they run.
        runner: see :meth:`call`.
        batch: the commands of a ``batch``, ready to run.
        offers_batch: whether the application has ``batch``.
        limits: limits on what a peer controls.
        report_changes: for backends: called after each transaction with its changes; ``None`` without observers.
    """

    repository: RepositoryObjects
    arguments: Mapping[str, Any]
    user: str | None
    protocol: ClientProtocol
    server: ServerCapabilities
    body: Readable
    client: str
    environ: Mapping[str, Any] = attrs.field(repr=False)
    authorize: Callable[[str], None]
    runner: Callable[[CommandContext, str], Response]
    batch: tuple[Runnable, ...] = ()
    offers_batch: bool = True
    limits: Limits = attrs.field(factory=Limits)
    report_changes: Callable[[PushChanges], None] | None = None

    def call(self, name: str) -> Response:
        """Run another command of this repository, without arguments."""
        return self.runner(self, name)

    @property
    def capabilities(self) -> list[bytes]:
        """The tokens that the transport adds to a ``capabilities`` reply."""
        tokens = self.server.capabilities()
        return [b"batch", *tokens] if self.offers_batch else tokens
