"""The registry: commands, their arguments, permissions and kinds of reply, as data.

A registry belongs to one application.  Every command declares its permission; an unknown name counts as needing
``push``.

A command is registered for one protocol version or, without one, for all of them.  ``("v1", "heads")`` and
``("v2", "heads")`` may differ in arguments and reply; a lookup prefers the version it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args

import attrs

from ..errors import InvalidArgument
from .arguments import TEXT, Argument, Codec, one_of

__all__ = ["Command", "CommandRegistry", "Handler", "Permission", "ProtocolVersion", "ReplyKind", "stricter"]

Handler = Callable[..., Any]
"""Called with a context and the arguments by name; returns a response, or ``bytes``."""

Permission = Literal["pull", "push"]
"""What a command may do: read the repository, or change it.  The stricter one is last."""

ReplyKind = Literal["bytes", "stream", "legacy", "push", "any"]
"""The kind of a command's reply: a short one, a long one, a long one that is never compressed, the reply to a push; or,
for ``any``, the type of the response value."""

ProtocolVersion = Literal["v1", "v2"]

_PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
_VERSIONS: tuple[ProtocolVersion, ...] = get_args(ProtocolVersion)
_BATCHED: tuple[ReplyKind, ...] = ("bytes", "any")


def stricter(*permissions: Permission) -> Permission:
    """Return the strictest of several permissions; of none, the strictest one."""
    return max(permissions, key=_PERMISSIONS.index, default=_PERMISSIONS[-1])


@attrs.frozen(kw_only=True)
class Command:
    """The declaration of a command.

    Attributes:
        name: its name on the wire.
        handler: the function that runs it.
        permission: what it may do.
        arguments: the declared ones, in order.
        rest: whether undeclared arguments reach the handler, as the mapping ``rest``.
        reply: the kind of its reply.
        body: whether it reads a request body in addition to its arguments.
        version: the protocol version it belongs to; ``None`` for all.
        cacheable: whether its reply depends on repository state and arguments alone.  Applications that share a
            store share the replies of handlers that have the same module and qualified name.
        overridable: whether a repository's own command of this name replaces it; true for the standard commands, false
            for one that a host registers.

    Raises:
        ValueError: for a malformed declaration; the message names the command.
    """

    name: str
    handler: Handler
    permission: Permission = attrs.field(validator=one_of(Permission))
    arguments: tuple[Argument, ...] = ()
    rest: bool = False
    reply: ReplyKind = attrs.field(default="bytes", validator=one_of(ReplyKind))
    body: bool = False
    version: ProtocolVersion | None = attrs.field(
        default=None, validator=attrs.validators.optional(one_of(ProtocolVersion))
    )
    cacheable: bool = False
    overridable: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.name or set(self.name) & set(" ;,=&?#"):
            raise ValueError(f"not a valid command name: {self.name!r}")
        if self.cacheable and self.permission == "push":
            raise ValueError(f"{self.name}: the reply of a command that changes the repository is never cached")
        if self.cacheable and not self.handler_name[1]:
            raise ValueError(f"{self.name}: the handler of a cacheable command needs a name; wrap it in a function")

    @property
    def batchable(self) -> bool:
        """Whether it may be part of a ``batch``; true for ``reply="any"``, where the response decides."""
        return self.reply in _BATCHED and not self.body and self.name != "batch"

    @property
    def handler_name(self) -> tuple[str, str]:
        """Module and qualified name of the handler, for cache keys."""
        return getattr(self.handler, "__module__", ""), getattr(self.handler, "__qualname__", "")

    def decode(self, arguments: Mapping[str, Any], codec: Codec = TEXT) -> dict[str, Any]:
        """Check the arguments of a request and decode them.

        Args:
            arguments: encoded values by name.  Undeclared ones are dropped, or collected for ``rest``.
            codec: how they are encoded.

        Returns:
            The handler's keyword arguments; an optional argument that was not sent is left out.

        Raises:
            InvalidArgument: if one is missing or malformed.
        """
        decoded: dict[str, Any] = {}
        for argument in self.arguments:
            value = arguments.get(argument.name)
            if value is not None:
                decoded[argument.name] = argument.decode(self.name, value, codec)
            elif argument.required:
                raise InvalidArgument(f"{self.name}: missing argument {argument.name}")
        if self.rest:
            declared = {argument.name for argument in self.arguments}
            decoded["rest"] = {name: value for name, value in arguments.items() if name not in declared}
        return decoded

    def describe(self) -> dict[str, Any]:
        """The declaration as plain data, for JSON."""
        return {
            "name": self.name,
            "arguments": [attrs.asdict(argument) for argument in self.arguments],
            "rest": self.rest,
            "permission": self.permission,
            "reply": self.reply,
            "body": self.body,
            "batchable": self.batchable,
            "version": self.version,
            "cacheable": self.cacheable,
        }


def _arguments(args: Iterable[str | Argument], optional: Iterable[str | Argument]) -> tuple[tuple[Argument, ...], bool]:
    declared = [argument if isinstance(argument, Argument) else Argument(argument) for argument in args]
    declared += [
        attrs.evolve(argument, required=False) if isinstance(argument, Argument) else Argument(argument, required=False)
        for argument in optional
    ]
    named = tuple(argument for argument in declared if argument.name != "*")
    return named, len(named) < len(declared)


_Key = tuple[ProtocolVersion | None, str]


class CommandRegistry(Mapping[str, Command]):
    """Commands by protocol version and name.

    As a mapping by name, it shows one command per name: the one for all versions, or else that of the oldest
    version.

    A registry also remembers removed commands, so that a repository cannot restore a command that its host
    removed.
    """

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self._commands: dict[_Key, Command] = {(command.version, command.name): command for command in commands}
        self._known: dict[str, Permission] = {}
        self._removed: set[str] = set()
        self._frozen = False

    @classmethod
    def standard(cls) -> CommandRegistry:
        """A new registry with every standard command."""
        from .standard import STANDARD_COMMANDS

        return cls(STANDARD_COMMANDS)

    def __getitem__(self, name: str) -> Command:
        for version in (None, *_VERSIONS):
            if (command := self._commands.get((version, name))) is not None:
                return command
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name for _, name in self._commands))

    def __len__(self) -> int:
        return len({name for _, name in self._commands})

    def find(self, name: str, version: ProtocolVersion) -> Command | None:
        """The command of a protocol version; ``None`` if there is none."""
        return self._commands.get((version, name)) or self._commands.get((None, name))

    def command(
        self,
        name: str,
        *,
        permission: Permission,
        args: Iterable[str | Argument] = (),
        optional: Iterable[str | Argument] = (),
        reply: ReplyKind = "bytes",
        body: bool = False,
        version: ProtocolVersion | None = None,
        cacheable: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declare the decorated function as a command; see :meth:`register` and :class:`Command`.

        Args:
            name: the name on the wire.
            permission: ``pull`` or ``push``.  There is no default.
            args: required arguments, by name or as :class:`Argument`; ``"*"`` stands for all others.
            optional: optional ones.
            reply: the kind of its reply.
            body: whether it reads a request body.
            version: the protocol version it belongs to (default: all).
            cacheable: whether its reply depends on repository state and arguments alone.

        Raises:
            ValueError: for a malformed declaration.
        """
        arguments, rest = _arguments(args, optional)

        def decorate(handler: Handler) -> Handler:
            self.register(
                Command(
                    name=name,
                    handler=handler,
                    permission=permission,
                    arguments=arguments,
                    rest=rest,
                    reply=reply,
                    body=body,
                    version=version,
                    cacheable=cacheable,
                )
            )
            return handler

        return decorate

    def register(self, command: Command) -> None:
        """Add a command.

        It replaces the command of that name and version; a command without a version replaces those of all versions.
        """
        self._check_mutable()
        if command.version is None:
            self._drop(command.name)
        self._commands[command.version, command.name] = command
        self._removed.discard(command.name)

    def override(self, name: str, handler: Handler, *, cacheable: bool = False) -> Handler:
        """Replace the handler of a command and keep the rest of its declaration.

        Args:
            name: the command.
            handler: the new handler.
            cacheable: whether the reply still depends on repository state and arguments alone.

        Returns:
            The handler that was replaced, for the new one to call.

        Raises:
            KeyError: if there is no such command.
        """
        command = self[name]
        self.register(attrs.evolve(command, handler=handler, overridable=False, cacheable=cacheable))
        return command.handler

    def remove(self, *names: str) -> None:
        """Remove commands of all versions, including those that a repository would provide.

        Unregistered names are allowed, because a repository's extensions register their commands later.
        """
        self._check_mutable()
        for name in names:
            self._drop(name)
            self._removed.add(name)

    def merge(self, other: CommandRegistry) -> None:
        """Apply all commands and all removals of another registry."""
        self._check_mutable()
        for command in other._commands.values():
            self.register(command)
        self._known.update(other._known)
        self.remove(*other._removed)

    def add_backend_commands(self, commands: Mapping[str, Command], known: Mapping[str, Permission]) -> None:
        """Add commands that repositories may provide, unless their names were registered or removed.

        Args:
            commands: commands by name.
            known: permissions of commands that are known only by name; these are classified but not offered.
        """
        self._check_mutable()
        for name, command in commands.items():
            if name not in self and name not in self._removed:
                self._commands[command.version, name] = attrs.evolve(command, overridable=True)
        self._known.update(known)

    def copy(self) -> CommandRegistry:
        """An independent, mutable copy."""
        copy = CommandRegistry(self._commands.values())
        copy._known |= self._known
        copy._removed |= self._removed
        return copy

    def freeze(self) -> CommandRegistry:
        """An independent copy that refuses changes; an application works on such a copy."""
        copy = self.copy()
        copy._frozen = True
        return copy

    def resolve(
        self, name: str, from_repository: Mapping[str, Command], version: ProtocolVersion = "v1"
    ) -> Command | None:
        """Find a command for a repository that has its own commands.

        A host's command takes precedence over the repository's, and that over a standard one.  Where both declare a
        command, the stricter permission holds.
        """
        if name in self._removed:
            return None
        own, theirs = self.find(name, version), from_repository.get(name)
        if theirs is not None and theirs.version not in (None, version):
            theirs = None
        if own is None:
            return theirs
        if theirs is None or not own.overridable:
            return own
        if theirs.permission == own.permission:
            return theirs
        return attrs.evolve(theirs, permission=stricter(own.permission, theirs.permission), cacheable=False)

    def is_known(self, name: str) -> bool:
        """Whether a name is that of a command: registered, removed, or provided by some repositories."""
        return name in self or name in self._removed or name in self._known

    def permission_of(self, name: str, version: ProtocolVersion = "v1") -> Permission:
        """The permission that a command needs; ``push`` for an unknown name."""
        command = self.find(name, version)
        if command is not None:
            return command.permission
        return _PERMISSIONS[-1] if name in self._removed else self._known.get(name, _PERMISSIONS[-1])

    def describe(self) -> list[dict[str, Any]]:
        """All declarations as plain data, sorted by name."""
        order = sorted(self._commands, key=lambda key: (key[1], key[0] or ""))
        return [self._commands[key].describe() for key in order]

    def _drop(self, name: str) -> None:
        for version in (None, *_VERSIONS):
            self._commands.pop((version, name), None)

    def _check_mutable(self) -> None:
        if self._frozen:
            raise TypeError("the registry of a running application cannot change; change a copy and make a new one")
