"""What a command knows about the request it serves, and how commands are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs

from ..errors import LocalProtocolError, UnknownCommand
from ..events import PushChanges
from ..limits import Limits
from ..negotiation import ClientProtocol, ServerCapabilities
from ..streams import Readable
from .batch import SubCommand
from .registry import Command, CommandRegistry
from .responses import RESPONSE_TYPES, BytesResponse, Response

if TYPE_CHECKING:
    from ..repositories.base import Repository

__all__ = ["CommandContext"]


@attrs.frozen(kw_only=True)
class CommandContext:
    """One request, as commands see it.  A command never asks which transport called it.

    Attributes:
        repository: leased for this request alone.
        commands: the registry of the application.
        arguments: the arguments as sent, bytes by name, undeclared ones included.
        user: who asks, as the WSGI server or the host found out; ``None`` if nobody did.
        protocol: what the client understands.
        server: what is negotiated for this repository.
        batch: the sub-commands, if the request is a ``batch``.
        body: what follows the arguments in the request; read once, in pieces.
        transport: which transport's commands can be resolved.
        limits: bounds on what a peer controls.
        environ: the WSGI environ, for backends that show it to hooks.
        authorize: raises :class:`PermissionDenied` unless the request has a permission; for commands that find out what
            they need while they run.
    """

    repository: Repository
    commands: CommandRegistry
    arguments: Mapping[str, bytes]
    user: str | None
    protocol: ClientProtocol
    server: ServerCapabilities
    body: Readable
    environ: Mapping[str, Any]
    authorize: Callable[[str], None]
    transport: str
    batch: tuple[SubCommand, ...] = ()
    report_changes: Callable[[PushChanges], None] | None = None
    limits: Limits = attrs.field(factory=Limits)

    @property
    def capabilities(self) -> list[bytes]:
        """The tokens that the transport adds to a ``capabilities`` reply."""
        tokens = self.server.capabilities()
        return [b"batch", *tokens] if "batch" in self.commands else tokens

    @property
    def client(self) -> str:
        """Who asks and from where, for logs and hooks: ``remote:<scheme>:<address>:<user>``."""
        scheme = self.environ.get("wsgi.url_scheme", "http")
        address = self.environ.get("REMOTE_HOST") or self.environ.get("REMOTE_ADDR") or ""
        return f"remote:{scheme}:{quote(address)}:{quote(self.user or '')}"

    def for_sub_command(self, sub: SubCommand) -> CommandContext:
        """The same request, as one of its sub-commands sees it."""
        arguments = dict(sub.arguments)
        if "access-hidden" in self.arguments:
            arguments.setdefault("access-hidden", self.arguments["access-hidden"])
        return attrs.evolve(self, arguments=arguments, batch=())

    def resolve(self, name: str) -> Command:
        """Find the command of that name for this repository.

        Raises:
            UnknownCommand: if there is none on this transport.
        """
        command = self.commands.resolve(name, self.repository.commands())
        if command is None or self.transport not in command.transports:
            raise UnknownCommand(f"unknown command: {_printable(name)}")
        return command

    def run(self, command: Command, bound: Mapping[str, Any] | None = None) -> Response:
        """Run a command with the arguments of this context.

        Args:
            command: the command.
            bound: what :meth:`Command.bind` made of the arguments, where that was done before.

        Raises:
            InvalidArgument: if its arguments do not fit its declaration.
            LocalProtocolError: if it returns what is no response.
        """
        result = command.handler(self, **(command.bind(self.arguments) if bound is None else bound))
        if isinstance(result, bytes):
            return BytesResponse(result)
        if type(result) not in RESPONSE_TYPES:
            raise LocalProtocolError(f"command {command.name} returned {type(result).__name__}, which is no response")
        response: Response = result
        return response


def _printable(name: str) -> str:
    return ascii(name[:64])[1:-1]
