"""Dispatch: turns a request for a command into a command that is ready to run, once for all transports.

The order is the same everywhere:

1. *find*: look the command up in the registry and the repository, which gives its permission;
2. *authorize*: ask the policy.  Nothing has been parsed so far but the name; the policy may read the arguments;
3. *resolve*: read the arguments, and find the sub-commands of a ``batch``;
4. *authorize* again, but only if there is more to ask: the strictest permission that any sub-command needs;
5. *decode*: turn the arguments into Python values, unless the policy has had them decoded;
6. *run*: call the handler, and check what it returns.

Nothing runs before steps 1 to 5 have succeeded for every sub-command.  Under any policy, a command that needs
``push`` runs by ``POST`` only, and an upload by ``PUT`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import attrs

from .access.request import AccessRequest, CommandCall, Policy, View, ask
from .commands.arguments import TEXT, Codec
from .commands.classify import WireRequest
from .commands.context import Allowance, CommandContext
from .commands.registry import Command, CommandRegistry, Permission, ProtocolVersion, stricter
from .commands.responses import RESPONSE_TYPES, BytesResponse, Response
from .commands.standard import is_clone
from .errors import (
    HgWireError,
    InvalidArgument,
    LocalProtocolError,
    PermissionDenied,
    RepositoryNotFound,
    StreamChanged,
    UnknownCommand,
)
from .events import Changegroup, PushChanges
from .limits import Limits
from .logcontext import LOGGER
from .negotiation import ClientProtocol, ServerCapabilities
from .repositories.base import Repository
from .stops import FAILURES, is_from_signal
from .streams import Readable

__all__ = ["BoundCommand", "Caller", "Dispatcher", "Resolved"]

_SHARED_WITH_BATCH = ("access-hidden",)
"""Arguments of a ``batch`` that apply to each of its sub-commands (seen in hg 6.9 and later)."""

_METHODS = {"push": ("POST", "push requires POST request"), "upload": ("PUT", "upload requires PUT request")}
"""The only method by which something that needs a permission runs, with hgweb's message."""

_REPORTED = 100
_REPORTED_LENGTH = 200
"""How many different failures of a policy are logged with a traceback, and the length by which they differ."""


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

    @property
    def report_changegroup(self) -> Callable[[Changegroup], None] | None: ...


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
        view: as :meth:`Dispatcher.view_of` returned it.
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
    view: tuple[str, ...] | None = ()
    batch: tuple[BoundCommand, ...] = ()

    @property
    def cacheable(self) -> bool:
        """Whether the reply depends only on the repository's state, the view, the command and its arguments.

        With ``access-hidden``, it also depends on the user.
        """
        may_cache = self.repository.may_cache
        return (
            self.permission == "pull"
            and not self.granted - {"pull"}
            and self.is_shared
            and all(
                each.command.cacheable
                and "access-hidden" not in each.context.arguments
                and may_cache(each.command.name)
                for each in (self, *self.batch)
            )
        )

    @property
    def is_shared(self) -> bool:
        """Whether others get the same reply: those of the same view, or all users if the host names no views."""
        return bool(self.view) or (self.view is not None and self.repository.is_same_for_all())

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


def _access_request(
    caller: Caller,
    name: str,
    repository: Repository,
    commands: tuple[str, ...],
    permission: str,
    calls: Callable[[], tuple[CommandCall, ...]],
) -> AccessRequest:
    return AccessRequest(
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
        read_calls=calls,
    )


def _check_method(caller: Caller, permission: str) -> None:
    method, message = _METHODS[permission]
    if caller.method != method:
        raise PermissionDenied(message, status=405, headers=[("Allow", method)])


_Prepared = tuple[Command, Mapping[str, Any], CommandCall]
"""A command, its arguments as sent, and decoded."""


@attrs.define(kw_only=True, eq=False)
class Resolved:
    """A request whose commands were found.  Its arguments are decoded once, when they are first needed.

    Attributes:
        request: the request.
        command: the command.
        batch: the sub-commands of a ``batch``.
        permission: the strictest one that any of them needs.
        codec: how arguments are encoded.
    """

    request: WireRequest
    command: Command
    batch: tuple[Command, ...]
    permission: Permission
    codec: Codec = TEXT
    _prepared: tuple[_Prepared, ...] | None = attrs.field(default=None, init=False)

    def prepared(self) -> tuple[_Prepared, ...]:
        """The command and its sub-commands, each with its arguments as sent and decoded.

        Raises:
            InvalidArgument: if arguments are missing or malformed, or a sub-command cannot be batched.
        """
        if self._prepared is None:
            for command in self.batch:
                if not command.batchable:
                    raise InvalidArgument(f"batch: {command.name} cannot be batched")
            own = self.request.arguments
            shared = {key: own[key] for key in _SHARED_WITH_BATCH if key in own}
            # Equal sub-commands are one object, here and in what follows.
            known: dict[int, _Prepared] = {}
            for command, sub in zip(self.batch, self.request.batch, strict=True):
                if id(sub) not in known:
                    known[id(sub)] = self._prepare(command, {**sub.arguments, **shared})
            self._prepared = (self._prepare(self.command, own), *[known[id(sub)] for sub in self.request.batch])
        return self._prepared

    def _prepare(self, command: Command, arguments: Mapping[str, Any]) -> _Prepared:
        return command, arguments, CommandCall(command.name, command.decode(arguments, self.codec))

    def calls(self) -> tuple[CommandCall, ...]:
        """The command and its sub-commands with their decoded arguments, for policies.

        Raises:
            InvalidArgument: as :meth:`prepared`.
        """
        return tuple(call for _, _, call in self.prepared())


@attrs.frozen(kw_only=True)
class Dispatcher:
    """Prepares commands for all transports of an application.

    Attributes:
        commands: the registry of the application.
        policy: asked before anything runs.
        view: names the view of a user; ``None`` if the host names none.
        server: the offered capabilities, before a repository adjusts them.
        limits: limits on what a peer controls.
    """

    commands: CommandRegistry
    policy: Policy
    server: ServerCapabilities
    limits: Limits
    view: View | None = None
    _reported: set[str] = attrs.field(factory=set, init=False, eq=False, repr=False)

    def authorize(
        self,
        caller: Caller,
        name: str,
        repository: Repository,
        commands: tuple[str, ...],
        permission: str,
        calls: Callable[[], tuple[CommandCall, ...]] = tuple,
    ) -> None:
        """Ask the policy, check the method, and ask the repository.

        Args:
            caller: the caller.
            name: the repository's name.
            repository: leased for the request.
            commands: the commands to be run.
            permission: ``pull``, ``push``, or ``upload`` for the contents of a large file.
            calls: reads the arguments of ``commands``, if the policy wants them.

        Raises:
            RepositoryNotFound: if the policy hides the repository; it is the error for one that does not exist.
            HgWireError: by the policy, most often :class:`PermissionDenied`, or by the repository.
        """
        try:
            access = _access_request(caller, name, repository, commands, permission, calls)
            ask(self.policy, access)
            if permission != "pull":
                _check_method(caller, permission)
            repository.check_access(permission, commands, access.user, access.environ)
        except RepositoryNotFound:
            raise RepositoryNotFound from None
        except HgWireError:
            raise
        except BaseException as error:
            # A policy that waits for other code may raise what ends a task there, such as asyncio's CancelledError.
            if is_from_signal(error):
                raise
            self._report(error)
            raise PermissionDenied("refused by the access policy") from None

    def view_of(self, caller: Caller, name: str, repository: Repository) -> tuple[str, ...] | None:
        """Return what identifies the user's view of a repository, as a part of cache keys.

        Returns:
            An empty tuple if the host names no views; ``None`` if the replies to this user are never cached.

        Raises:
            RepositoryNotFound: if the host's function fails, and the policy hides the repository.
            LocalProtocolError: if the function returns anything but text or ``None``.
            Exception: any exception of the function.
        """
        if self.view is None:
            return ()
        try:
            named = self.view(_access_request(caller, name, repository, (), "pull", tuple))
        except FAILURES:
            self.require_visible(caller, name, repository)
            raise
        if named is None:
            return None
        if not isinstance(named, str):
            raise LocalProtocolError(f"view returned {type(named).__name__}, not text or None")
        return (named,)

    def _report(self, error: BaseException) -> None:
        """Log a failure of the policy; the traceback only the first time, since anyone may be able to repeat it."""
        known = repr(error)[:_REPORTED_LENGTH]
        first = known not in self._reported and len(self._reported) < _REPORTED
        if first:
            self._reported.add(known)
        LOGGER.error(
            "the access policy failed, so the request was refused: %s", known, exc_info=error if first else None
        )

    def require_visible(self, caller: Caller, name: str, repository: Repository) -> None:
        """Ask the policy whether a client may know that a repository exists, before a refusal shows that it does.

        Raises:
            RepositoryNotFound: if the policy hides the repository.
        """
        try:
            self.authorize(caller, name, repository, (), "pull")
        except RepositoryNotFound:
            raise
        except HgWireError:
            # The client knows already, or the refusal that it will get says no more than this one.
            return

    def find(self, name: str, repository: Repository, version: ProtocolVersion) -> Command | None:
        """Return the command of a repository by name; ``None`` if there is none."""
        return self.commands.resolve(name, repository.commands(), version)

    def require(self, caller: Caller, command: str, name: str, repository: Repository) -> Command:
        """Find a command of version 1 by name.

        Args:
            caller: the caller.
            command: the command's name.
            name: the repository's name.
            repository: leased for the request.

        Raises:
            UnknownCommand: if there is none.
            RepositoryNotFound: if it cannot be found for any reason, and the policy hides the repository.
            HgWireError: if the repository is broken or busy.
        """
        if not repository.knows_commands():
            # It is opened for its commands, and for its own checks, which takes time.
            try:
                ask(self.policy, _access_request(caller, name, repository, (), "pull", tuple))
            except RepositoryNotFound:
                raise RepositoryNotFound from None
            except BaseException as error:
                # The policy is asked again about the command.
                if is_from_signal(error):
                    raise
        try:
            return self._required(command, repository, "v1")
        except FAILURES:
            self.require_visible(caller, name, repository)
            raise

    def resolve(
        self, request: WireRequest, repository: Repository, version: ProtocolVersion, codec: Codec = TEXT
    ) -> Resolved:
        """Find the commands of a request.

        Args:
            request: the request.
            repository: leased for it.
            version: the protocol version.
            codec: how arguments are encoded.

        Raises:
            UnknownCommand: if one of them does not exist for this repository and version.
        """
        found = {name: self._required(name, repository, version) for name in dict.fromkeys(request.names)}
        return Resolved(
            request=request,
            command=found[request.command],
            batch=tuple(found[sub.name] for sub in request.batch),
            permission=stricter(*{command.permission for command in found.values()}),
            codec=codec,
        )

    def _required(self, name: str, repository: Repository, version: ProtocolVersion) -> Command:
        command = self.find(name, repository, version)
        if command is None:
            raise _unknown(name)
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
            authorized: whether the policy has already been asked the same question.

        Raises:
            HgWireError: by the policy.
            InvalidArgument: if arguments are missing or malformed, or a sub-command cannot be batched.
        """
        request = resolved.request
        granted: set[str] = set()

        def authorizer(repository: Repository) -> Callable[[str], None]:
            def authorize(permission: str) -> None:
                self.authorize(caller, name, repository, request.names, permission, resolved.calls)
                granted.add(permission)

            return authorize

        authorize = authorizer(repository)
        if authorized:
            granted.add(resolved.permission)
        else:
            authorize(resolved.permission)
        shareable = version == "v1" and resolved.permission == "pull"
        view = self.view_of(caller, name, repository) if shareable else None
        token, stamp = repository.content_token(), repository.change_stamp()

        def bound(
            command: Command, encoded: Mapping[str, Any], call: CommandCall, batch: tuple[BoundCommand, ...] = ()
        ) -> BoundCommand:
            context = CommandContext(
                repository=repository,
                arguments=encoded,
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
                report_changegroup=caller.report_changegroup,
            )
            return BoundCommand(
                command=command,
                repository=repository,
                context=context,
                arguments=call.arguments,
                permission=resolved.permission,
                token=token,
                stamp=stamp,
                granted=granted,
                authorizer=authorizer,
                view=view,
                batch=batch,
            )

        def runner(context: CommandContext, other: str) -> Response:
            # A context is only ever made with the repository of its lease, here and in BoundCommand.on().
            command = self._required(other, cast("Repository", context.repository), version)
            return _run(command, attrs.evolve(context, arguments={}, batch=()), command.decode({}, resolved.codec))

        own, *subs = resolved.prepared()
        known: dict[int, BoundCommand] = {}
        for sub in subs:
            if id(sub) not in known:
                known[id(sub)] = bound(*sub)
        return bound(*own, tuple([known[id(sub)] for sub in subs]))


def _unknown(name: str) -> UnknownCommand:
    return UnknownCommand(f"unknown command: {ascii(name[:64])[1:-1]}")
