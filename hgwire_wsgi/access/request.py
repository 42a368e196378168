"""The question to an access policy, and how an answer is taken.

A policy is a callable that takes an :class:`AccessRequest` and raises an :class:`~hgwire_wsgi.errors.HgWireError`, or
returns ``None``.  Nothing else allows a request: a policy that raises any other exception, or returns anything other
than ``None``, refuses it.

The arguments of commands are read and decoded when a policy first asks for them.  So a policy that does not use them
decides before the application parses arguments or reads the body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..repositories.base import Repository

__all__ = ["AccessRequest", "CommandCall", "Policy", "View", "ask", "is_repeatable", "repeatable"]


@attrs.frozen
class CommandCall:
    """A command and its arguments.

    Attributes:
        command: the name.
        arguments: the decoded arguments by name, as the handler of the command gets them.  Optional arguments that were
            not sent are left out.  The mapping ``rest`` holds undeclared ones, if the command takes any.
    """

    command: str
    arguments: Mapping[str, Any]


def _no_calls() -> tuple[CommandCall, ...]:
    return ()


@attrs.frozen(kw_only=True)
class AccessRequest:
    """A question to a policy: may this user run these commands?

    Attributes:
        permission: ``pull`` or ``push``.
        upload: true for the upload of a large file by ``PUT``, which names no command.
        user: the authenticated user; ``None`` if unauthenticated.
        name: the repository's name, empty for one served at ``/``.
        repository: the repository, leased for this request.
        commands: the command and its sub-commands.  Empty for large files, for pages, and for the URL of a request in
            frames: the policy is asked again for each command in the frames.
        method: the HTTP method.
        scheme: ``http`` or ``https``.
        address: the client's address.
        environ: the WSGI environ, for policies that need more.
    """

    permission: str
    user: str | None
    name: str
    repository: Repository
    commands: tuple[str, ...]
    method: str
    scheme: str
    address: str
    environ: Mapping[str, Any] = attrs.field(repr=False)
    upload: bool = False
    _read_calls: Callable[[], tuple[CommandCall, ...]] = attrs.field(default=_no_calls, eq=False, repr=False)

    @property
    def calls(self) -> tuple[CommandCall, ...]:
        """A call for each of :attr:`commands`, with its arguments.

        Raises:
            HgWireError: if the arguments are malformed, or exceed ``Limits``.
        """
        return self._read_calls()

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments of the first of :attr:`commands`; :attr:`calls` also has those of sub-commands.

        Raises:
            HgWireError: as for :attr:`calls`.
        """
        calls = self._read_calls()
        return calls[0].arguments if calls else {}


Policy = Callable[[AccessRequest], None]

View = Callable[[AccessRequest], str | None]
"""Names a user's view of a repository: two users with the same one get the same replies.  ``None`` if the replies to
this user must not be cached.  The question names no commands, because it is asked before their arguments are read."""


_REPEATABLE = "hgwire_repeatable"


def repeatable(policy: Policy) -> Policy:
    """Declare that a policy gives equal requests to pull the same answer for as long as the repository is unchanged.

    It may read the user, the name of the repository, its settings, and the command with its arguments, but nothing else
    and no state of its own.  Then it need not be asked again about a request that is repeated word for word.
    """
    # functools.wraps() copies attributes to functions that may ask more: the value says whose it is.
    setattr(policy, _REPEATABLE, policy)
    return policy


def is_repeatable(policy: Policy) -> bool:
    """Whether a policy was declared :func:`repeatable`."""
    return getattr(policy, _REPEATABLE, None) is policy


def ask(policy: Policy, request: AccessRequest) -> None:
    """Ask a policy.

    Raises:
        TypeError: if it returns anything other than ``None``.
        Exception: any exception of the policy.
    """
    answer: object = policy(request)  # type: ignore[func-returns-value]  # a policy that returns something is a bug
    if answer is not None:
        raise TypeError(f"an access policy must raise an exception or return None, not {type(answer).__name__}")
