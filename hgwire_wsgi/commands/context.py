"""The context in which a command runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from ..errors import RequestError
from ..events import Changegroup, PushChanges
from ..limits import Limits
from ..negotiation import ClientProtocol, ServerCapabilities
from ..streams import Readable
from .objects import RepositoryObjects
from .registry import Command
from .responses import Response

__all__ = ["Allowance", "CommandContext", "Runnable"]


class Runnable(Protocol):
    """A command that is ready to run: resolved, authorized, its arguments decoded."""

    @property
    def command(self) -> Command: ...

    def run(self) -> Response: ...


@attrs.define
class Allowance:
    """How many changesets all commands of one request may still visit in walks through the history.

    Attributes:
        total: ``Limits.walk``.
    """

    total: int
    _left: int = attrs.field(init=False)

    @_left.default
    def _(self) -> int:
        return self.total

    def take(self, command: str) -> None:
        """Count one visit.

        Args:
            command: the command that visits, for the error.

        Raises:
            RequestError: if there were too many.
        """
        self._left -= 1
        if self._left < 0:
            raise RequestError(
                f"{command}: more than {self.total} changesets to visit; ask for less at a time, "
                "or use Mercurial 1.9 or newer, which does not need to ask"
            )


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
        allowance: the walks that the request may still make.
        report_changes: for backends: called after each transaction with its changes; ``None`` without observers.
        report_recovery: for backends: called after an abandoned transaction was rolled back; ``None`` without
            observers.
        report_changegroup: for backends: called when a changegroup is complete, in the thread that makes it, which may
            be after the request; ``None`` without observers.
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
    allowance: Allowance = attrs.field(factory=lambda: Allowance(Limits().walk))
    report_changes: Callable[[PushChanges], None] | None = None
    report_recovery: Callable[[], None] | None = None
    report_changegroup: Callable[[Changegroup], None] | None = None

    def call(self, name: str) -> Response:
        """Run another command of this repository, without arguments."""
        return self.runner(self, name)

    @property
    def capabilities(self) -> list[bytes]:
        """The tokens that the transport adds to a ``capabilities`` reply."""
        tokens = self.server.capabilities()
        return [b"batch", *tokens] if self.offers_batch else tokens
