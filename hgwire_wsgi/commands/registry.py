"""The registry: commands, their arguments, permissions and kinds of reply, as data.

A registry belongs to one application.  A command without a declared permission cannot be made, and a name that no
registry knows counts as needing ``push``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import attrs

from ..errors import InvalidArgument
from .arguments import Argument

__all__ = ["PERMISSIONS", "Command", "CommandRegistry", "Handler", "Permission", "stricter"]

Handler = Callable[..., Any]
"""Called with a context and the arguments by name; returns a response, or ``bytes``."""

Permission = Literal["pull", "push"]

PERMISSIONS: tuple[Permission, ...] = ("pull", "push")
"""What a command may do, the stricter last: read the repository, or change it."""

REPLIES = ("bytes", "stream", "legacy", "push", "any")
"""Kinds of reply: short, long, long but never compressed, and that to a push.  Only ``bytes`` fits into a ``batch``."""

TRANSPORTS = frozenset({"http-v1", "http-v2"})


def stricter(*permissions: Permission) -> Permission:
    """The strictest of several permissions; without any, the strictest there is."""
    return max(permissions, key=PERMISSIONS.index, default=PERMISSIONS[-1])


@attrs.frozen(kw_only=True)
class Command:
    """The declaration of a command.

    Attributes:
        name: its name on the wire.
        handler: does the work.
        permission: ``pull`` or ``push``.
        arguments: the declared ones, in order.
        rest: whether undeclared arguments reach the handler, as the mapping ``rest``.
        reply: one of :data:`REPLIES`.
        body: whether the command reads a request body besides its arguments.
        transports: where it may be called.
        cacheable: whether its reply depends on repository state and arguments alone.  Applications with a common cache
            folder share bundles of handlers that have the same module and qualified name.
        overridable: whether a repository that brings a command of this name replaces it; so the standard commands are
            declared, and so a command that a host registers is not.
    """

    name: str
    handler: Handler
    permission: Permission = attrs.field(validator=attrs.validators.in_(PERMISSIONS))
    arguments: tuple[Argument, ...] = ()
    rest: bool = False
    reply: str = attrs.field(default="bytes", validator=attrs.validators.in_(REPLIES))
    body: bool = False
    transports: frozenset[str] = attrs.field(default=TRANSPORTS, converter=frozenset)
    version: str | None = None
    cacheable: bool = False
    overridable: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.name or set(self.name) & set(" ;,=&?#"):
            raise ValueError(f"not a name for a command: {self.name!r}")
        if not self.transports <= TRANSPORTS:
            raise ValueError(f"transports are some of {', '.join(sorted(TRANSPORTS))}")
        if self.cacheable and self.permission == "push":
            raise ValueError(f"{self.name}: the reply of a command that changes the repository is never cached")

    @property
    def batchable(self) -> bool:
        """Whether it may be a sub-command of ``batch``."""
        return self.reply in ("bytes", "any") and not self.body and self.name != "batch"

    def bind(self, arguments: Mapping[str, bytes]) -> dict[str, Any]:
        """Check the arguments of a request and decode them.

        Args:
            arguments: bytes by name.  Undeclared ones are dropped, or collected where the declaration asks.

        Returns:
            What to call the handler with; an optional argument that was not sent is left out.

        Raises:
            InvalidArgument: if one is missing or malformed.
        """
        bound: dict[str, Any] = {}
        for argument in self.arguments:
            value = arguments.get(argument.name)
            if value is not None:
                bound[argument.name] = argument.decode(self.name, value)
            elif argument.required:
                raise InvalidArgument(f"{self.name}: missing argument {argument.name}")
        if self.rest:
            declared = {argument.name for argument in self.arguments}
            bound["rest"] = {name: value for name, value in arguments.items() if name not in declared}
        return bound

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
            "transports": sorted(self.transports),
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


class CommandRegistry(Mapping[str, Command]):
    """Commands by name.

    A registry is a mapping that also remembers what was removed from it, so that a repository cannot bring a command
    back that its host took out.
    """

    def __init__(self, commands: Iterable[Command] = ()) -> None:
        self._commands = {command.name: command for command in commands}
        self._removed: set[str] = set()
        self._frozen = False

    @classmethod
    def standard(cls) -> CommandRegistry:
        """A new registry with every standard command of version 1."""
        from .standard import STANDARD_COMMANDS

        return cls(STANDARD_COMMANDS)

    def __getitem__(self, name: str) -> Command:
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)

    def command(
        self,
        name: str,
        *,
        permission: Permission,
        args: Iterable[str | Argument] = (),
        optional: Iterable[str | Argument] = (),
        **declaration: Any,
    ) -> Callable[[Handler], Handler]:
        """Declare the decorated function as a command; one of the same name is replaced.

        Args:
            name: the name on the wire.
            permission: ``pull`` or ``push``.  There is no default.
            args: required arguments, by name or as :class:`Argument`; ``"*"`` stands for all others.
            optional: optional ones.
            **declaration: further attributes of :class:`Command`.
        """
        arguments, rest = _arguments(args, optional)

        def decorate(handler: Handler) -> Handler:
            self.register(
                Command(
                    name=name, handler=handler, permission=permission, arguments=arguments, rest=rest, **declaration
                )
            )
            return handler

        return decorate

    def register(self, command: Command) -> None:
        """Add a command, or replace the one of that name."""
        self._check_mutable()
        self._commands[command.name] = command
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
        """Take commands out, also those that a repository would bring.

        A name that is not registered may be given: extensions of a repository register theirs later.
        """
        self._check_mutable()
        for name in names:
            self._commands.pop(name, None)
            self._removed.add(name)

    def merge(self, other: CommandRegistry) -> None:
        """Take over everything another registry has and everything it removed."""
        self._check_mutable()
        self._commands.update(other._commands)
        self._removed -= other._commands.keys()
        self.remove(*other._removed)

    def add_backend_commands(self, commands: Mapping[str, Command]) -> None:
        """Take note of commands that repositories may bring, where none of that name was registered or removed."""
        self._check_mutable()
        for name, command in commands.items():
            if name not in self._commands and name not in self._removed:
                self._commands[name] = attrs.evolve(command, overridable=True)

    def copy(self) -> CommandRegistry:
        """An independent, mutable copy."""
        copy = CommandRegistry(self._commands.values())
        copy._removed |= self._removed
        return copy

    def freeze(self) -> CommandRegistry:
        """An independent copy that refuses changes; an application works on such a one."""
        copy = self.copy()
        copy._frozen = True
        return copy

    def resolve(self, name: str, from_repository: Mapping[str, Command]) -> Command | None:
        """Find a command for a repository that brings commands of its own.

        A host's command goes before the repository's, the repository's before a standard one.  Where both declare a
        command, the stricter permission holds.
        """
        if name in self._removed:
            return None
        own, theirs = self._commands.get(name), from_repository.get(name)
        if own is None:
            return theirs
        if theirs is None or not own.overridable:
            return own
        if theirs.permission == own.permission:
            return theirs
        return attrs.evolve(theirs, permission=stricter(own.permission, theirs.permission), cacheable=False)

    def permission_of(self, name: str) -> Permission:
        """The permission a name needs: ``push`` if it is unknown."""
        command = self._commands.get(name)
        return PERMISSIONS[-1] if command is None else command.permission

    def describe(self) -> list[dict[str, Any]]:
        """All declarations as plain data, sorted by name."""
        return [self._commands[name].describe() for name in sorted(self._commands)]

    def _check_mutable(self) -> None:
        if self._frozen:
            raise TypeError("the registry of a running application does not change; change a copy and make a new one")
