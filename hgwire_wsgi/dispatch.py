"""Dispatch: turns a request for a command into a command that is ready to run, once for all transports.

The order is the same everywhere, and each step happens once:

1. *resolve*: find the command, and for a ``batch`` its sub-commands, in the registry and the repository;
2. *authorize*: ask the policy for the strictest permission that any of them needs;
3. *decode*: turn the arguments into Python values;
4. *run*: call the handler, and check what it returns.

Nothing runs before steps 1 to 3 have succeeded for every sub-command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import attrs

from .access.policy import AccessRequest, Policy
from .commands.arguments import TEXT, Codec
from .commands.classify import WireRequest
from .commands.context import Allowance, CommandContext
from .commands.registry import Command, CommandRegistry, Permission, ProtocolVersion, stricter
from .commands.responses import RESPONSE_TYPES, BytesResponse, Response
from .commands.standard import is_clone
from .errors import InvalidArgument, LocalProtocolError, StreamChanged, UnknownCommand
from .events import PushChanges
from .limits import Limits
from .negotiation import ClientProtocol, ServerCapabilities
from .repositories.base import Repository
from .streams import Readable

__all__ = ["BoundCommand", "Caller", "Dispatcher", "Resolved"]

_SHARED_WITH_BATCH = ("access-hidden",)
"""Arguments of a ``batch`` that apply to each of its sub-commands (seen in hg 6.9 and later)."""


class Caller(Protocol):
    """The caller: facts about the request that carries a command."""

    @property
    def environ(self) -> Mapping[str, Any]: ...

    @property
    def method(self) -> str: ...

    @property
    def scheme(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def client(self) -> str: ...

    @property
    def user(self) -> str | None: ...

    @property
    def allowance(self) -> Allowance: ...

    @property
    def report_changes(self) -> Callable[[PushChanges], None] | None: ...

    @property
    def report_recovery(self) -> Callable[[], None] | None: ...


@attrs.frozen(kw_only=True)
class BoundCommand:
    """A command that is ready to run.

    Attributes:
        command: the declaration.
        repository: leased for it.
        context: the context for its handler.
        arguments: the handler's keyword arguments.
        permission: the strictest one that it and its sub-commands need.
        token: content token of the repository before the command runs.
        stamp: change stamp of the repository before the command runs.
        granted: the permissions that the policy granted so far; a command may ask for more while it runs.
        authorizer: makes ``context.authorize`` for a lease of the repository.
        batch: its sub-commands.
    """

    command: Command
    repository: Repository
    context: CommandContext
    arguments: Mapping[str, Any]
    permission: Permission
    token: bytes
    stamp: object
    granted: set[str]
    authorizer: Callable[[Repository], Callable[[str], None]]
    batch: tuple[BoundCommand, ...] = ()

    @property
    def cacheable(self) -> bool:
        """Whether the reply depends only on the repository's state, the command and its arguments.

        With ``access-hidden``, it also depends on the user.
        """
        may_cache = self.repository.may_cache
        return (
            self.permission == "pull"
            and not self.granted - {"pull"}
            and all(
                each.command.cacheable
                and "access-hidden" not in each.context.arguments
                and may_cache(each.command.name)
                for each in (self, *self.batch)
            )
        )

    @property
    def is_clone(self) -> bool:
        """Whether the client asks for the whole history, in this command or in a sub-command."""
        return any(is_clone(each.command.name, each.arguments) for each in (self, *self.batch))

    def run(self) -> Response:
        """Run the command.

        Raises:
            LocalProtocolError: if it returns something other than a response.
        """
        return _run(self.command, self.context, self.arguments)

    def require_unchanged(self, repository: Repository) -> None:
        """Check that another lease of the repository is in the same state.

        Raises:
            StreamChanged: if it is not in the state that this command was bound in.
        """
        if repository.change_stamp() != self.stamp:
            raise StreamChanged("the repository has changed")

    def reading(self, body: Readable) -> BoundCommand:
        """The same command with another request body."""
        return attrs.evolve(self, context=attrs.evolve(self.context, body=body))

    def on(self, repository: Repository) -> BoundCommand:
        """The same command on another lease of its repository."""
        moved = {id(each): each for each in self.batch}
        moved = {key: each.on(repository) for key, each in moved.items()}
        batch = tuple([moved[id(each)] for each in self.batch])
        authorize = self.authorizer(repository)
        context = attrs.evolve(self.context, repository=repository, authorize=authorize, batch=batch)
        return attrs.evolve(self, repository=repository, context=context, batch=batch)


def _run(command: Command, context: CommandContext, arguments: Mapping[str, Any]) -> Response:
    """Call a handler and check what it returns."""
    result = command.handler(context, **arguments)
    if isinstance(result, bytes):
        return BytesResponse(result)
    if type(result) not in RESPONSE_TYPES:
        raise LocalProtocolError(f"command {command.name} returned {type(result).__name__}, not a response")
    response: Response = result
    return response


@attrs.frozen(kw_only=True)
class Resolved:
    """A request whose commands were found, but not authorized or decoded yet.

    Attributes:
        request: the request.
        command: the command.
        batch: the sub-commands of a ``batch``.
        permission: the strictest one that any of them needs.
    """

    request: WireRequest
    command: Command
    batch: tuple[Command, ...]
    permission: Permission


@attrs.frozen(kw_only=True)
class Dispatcher:
    """Prepares commands for all transports of an application.

    Attributes:
        commands: the registry of the application.
        policy: asked before anything runs.
        server: the offered capabilities, before a repository adjusts them.
        limits: limits on what a peer controls.
    """

    commands: CommandRegistry
    policy: Policy
    server: ServerCapabilities
    limits: Limits

    def authorize(
        self, caller: Caller, name: str, repository: Repository, commands: tuple[str, ...], permission: str
    ) -> None:
        """Ask the policy.

        Args:
            caller: the caller.
            name: the repository's name.
            repository: leased for the request.
            commands: the commands to be run.
            permission: ``pull``, ``push``, or ``upload`` for the contents of a large file.

        Raises:
            PermissionDenied: by the policy.
        """
        self.policy(
            AccessRequest(
                permission="pull" if permission == "pull" else "push",
                upload=permission == "upload",
                user=caller.user,
                name=name,
                repository=repository,
                commands=commands,
                method=caller.method,
                scheme=caller.scheme,
                address=caller.address,
                environ=caller.environ,
            )
        )

    def find(self, name: str, repository: Repository, version: ProtocolVersion) -> Command | None:
        """Return the command of a repository by name; ``None`` if there is none."""
        return self.commands.resolve(name, repository.commands(), version)

    def resolve(self, request: WireRequest, repository: Repository, version: ProtocolVersion) -> Resolved:
        """Find the commands of a request.

        Raises:
            UnknownCommand: if one of them does not exist for this repository and version.
        """
        found = {name: self._required(name, repository, version) for name in dict.fromkeys(request.names)}
        return Resolved(
            request=request,
            command=found[request.command],
            batch=tuple(found[sub.name] for sub in request.batch),
            permission=stricter(*{command.permission for command in found.values()}),
        )

    def _required(self, name: str, repository: Repository, version: ProtocolVersion) -> Command:
        command = self.find(name, repository, version)
        if command is None:
            raise UnknownCommand(f"unknown command: {ascii(name[:64])[1:-1]}")
        return command

    def bind(
        self,
        resolved: Resolved,
        caller: Caller,
        name: str,
        repository: Repository,
        *,
        server: ServerCapabilities,
        client: ClientProtocol,
        body: Readable,
        version: ProtocolVersion,
        codec: Codec = TEXT,
        authorized: bool = False,
    ) -> BoundCommand:
        """Authorize a request, and decode its arguments.

        Args:
            resolved: what :meth:`resolve` found.
            caller: the caller.
            name: the repository's name.
            repository: leased for the request.
            server: what is negotiated for this repository.
            client: the client's capabilities.
            body: the body that the command may read.
            version: the protocol version.
            codec: how arguments are encoded.
            authorized: whether the policy has already been asked the same question.

        Raises:
            PermissionDenied: by the policy.
            InvalidArgument: if arguments are missing or malformed, or a sub-command cannot be batched.
        """
        request = resolved.request
        granted: set[str] = set()

        def authorizer(repository: Repository) -> Callable[[str], None]:
            def authorize(permission: str) -> None:
                self.authorize(caller, name, repository, request.names, permission)
                granted.add(permission)

            return authorize

        authorize = authorizer(repository)
        if authorized:
            granted.add(resolved.permission)
        else:
            authorize(resolved.permission)
        token, stamp = repository.content_token(), repository.change_stamp()

        def bound(command: Command, arguments: Mapping[str, Any], batch: tuple[BoundCommand, ...]) -> BoundCommand:
            context = CommandContext(
                repository=repository,
                arguments=arguments,
                user=caller.user,
                protocol=client,
                server=server,
                body=body,
                client=caller.client,
                environ=caller.environ,
                authorize=authorize,
                runner=runner,
                batch=batch,
                offers_batch="batch" in self.commands,
                limits=self.limits,
                allowance=caller.allowance,
                report_changes=caller.report_changes,
                report_recovery=caller.report_recovery,
            )
            return BoundCommand(
                command=command,
                repository=repository,
                context=context,
                arguments=command.decode(arguments, codec),
                permission=resolved.permission,
                token=token,
                stamp=stamp,
                granted=granted,
                authorizer=authorizer,
                batch=batch,
            )

        def runner(context: CommandContext, other: str) -> Response:
            # A context is only ever made with the repository of its lease, here and in BoundCommand.on().
            command = self._required(other, cast("Repository", context.repository), version)
            return _run(command, attrs.evolve(context, arguments={}, batch=()), command.decode({}, codec))

        shared = {key: request.arguments[key] for key in _SHARED_WITH_BATCH if key in request.arguments}
        for command in resolved.batch:
            if not command.batchable:
                raise InvalidArgument(f"batch: {command.name} cannot be batched")
        # Equal sub-commands are one object here, too.
        known: dict[int, BoundCommand] = {}
        for command, sub in zip(resolved.batch, request.batch, strict=True):
            if id(sub) not in known:
                known[id(sub)] = bound(command, {**sub.arguments, **shared}, ())
        batch = tuple([known[id(sub)] for sub in request.batch])
        return bound(resolved.command, request.arguments, batch)
