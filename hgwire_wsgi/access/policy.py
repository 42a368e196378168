"""Access policies: they decide whether a request may run.

A policy is a callable that takes an :class:`AccessRequest` and raises :class:`PermissionDenied`, or returns.  It is
asked for every request before anything runs, with the strictest permission that the command and all its sub-commands
need; in HTTP version 2 for what the URL permits, and for each command that needs something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..errors import PermissionDenied
from ..repositories.base import Repository

__all__ = ["AccessRequest", "Policy", "hgweb_policy", "is_hidden"]


@attrs.frozen(kw_only=True)
class AccessRequest:
    """A question to a policy: may this user run these commands?

    Attributes:
        permission: ``pull`` or ``push``.
        upload: true for the upload of a large file by ``PUT``, which names no command.
        user: the authenticated user; ``None`` if unauthenticated.
        name: the repository's name, empty for one served at ``/``.
        repository: the repository, leased for this request.
        commands: the command and its sub-commands; empty for large files.
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
    environ: Mapping[str, Any]
    upload: bool = False


Policy = Callable[[AccessRequest], None]

_PUSH = ("POST", "push requires POST request")
_UPLOAD = ("PUT", "upload requires PUT request")

_FLAGS = {
    **dict.fromkeys(("1", "yes", "true", "on", "always"), True),
    **dict.fromkeys(("0", "no", "false", "off", "never"), False),
}


def _flag(value: str | None, default: bool, strict: bool) -> bool:
    """Read a boolean setting.  Unrecognised values are treated as the stricter one."""
    return default if value is None else _FLAGS.get(value.strip().lower(), strict)


def is_hidden(repository: Repository) -> bool:
    """Whether a repository is left out of lists; it is served nevertheless (``web.hidden``)."""
    return _flag(repository.setting("web", "hidden"), False, True)


def hgweb_policy(request: AccessRequest) -> None:
    """Apply hgweb's own rules, in its order and with its messages (observed in 7.2).

    Settings of section ``web``: ``deny_read`` and ``allow_read``, ``allow-pull``, then for pushes the method,
    ``push_ssl`` (default: on), ``deny_push``, and ``allow-push`` (default: nobody).

    Raises:
        PermissionDenied: with 401, 403 or 405.
    """
    repository, user = request.repository, request.user

    def names(setting: str) -> bool | None:
        members = repository.settings("web", setting)
        return repository.is_member(user or "", members) if members else None

    def deny(message: str) -> PermissionDenied:
        return PermissionDenied(message, status=401)

    denied = names("deny_read")
    if denied is not None and (not user or denied):
        raise deny("read not authorized")
    if names("allow_read") is False:
        raise deny("read not authorized")
    if request.permission == "pull":
        if not _flag(repository.setting("web", "allow-pull"), True, False):
            raise deny("pull not authorized")
        return
    method, message = _UPLOAD if request.upload else _PUSH
    if request.method != method:
        raise PermissionDenied(message, status=405, headers=[("Allow", method)])
    if _flag(repository.setting("web", "push_ssl"), True, True) and request.scheme != "https":
        raise PermissionDenied("ssl required", status=403)
    denied = names("deny_push")
    if (denied is not None and (not user or denied)) or not names("allow-push"):
        raise deny("push not authorized")
