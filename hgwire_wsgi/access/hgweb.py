"""hgweb's own access rules, as a policy.

The rules, their order and their messages are those of Mercurial 7.2 (observed).  The status differs in one case: hgweb
answers every refusal with 401.  Here a 401 says that credentials are missing and could help (RFC 9110, section
15.5.2); a user who is known, or a rule that refuses every user, gets 403.
"""

from __future__ import annotations

from ..errors import PermissionDenied
from ..repositories.base import Repository
from .request import AccessRequest, repeatable

__all__ = ["hgweb_policy", "is_hidden"]

_PUSH = ("POST", "push requires POST request")
_UPLOAD = ("PUT", "upload requires PUT request")

_READ_DENIED = "read not authorized"
_PULL_DENIED = "pull not authorized"
_PUSH_DENIED = "push not authorized"

_FLAGS = {
    **dict.fromkeys(("1", "yes", "true", "on", "always"), True),
    **dict.fromkeys(("0", "no", "false", "off", "never"), False),
}


def _flag(value: str | None, default: bool, strict: bool) -> bool:
    """Read a boolean setting.  Unrecognised values are treated as the stricter one."""
    return default if value is None else _FLAGS.get(value.strip().lower(), strict)


def _is_unclear(value: str | None) -> bool:
    return value is not None and value.strip().lower() not in _FLAGS


def _includes(repository: Repository, setting: str, user: str | None) -> bool | None:
    """Whether a setting's list includes a user; ``None`` if the list is empty."""
    members = repository.settings("web", setting)
    return repository.is_member(user or "", members) if members else None


def _is_denied(repository: Repository, setting: str, user: str | None) -> bool:
    """Whether a list of denied users excludes a user.  It always excludes unauthenticated ones."""
    denied = _includes(repository, setting, user)
    return denied is not None and (not user or denied)


def _may_pull(repository: Repository) -> bool:
    return _flag(repository.setting("web", "allow-pull"), True, False)


def is_hidden(repository: Repository) -> bool:
    """Whether a repository is left out of lists; it is served nevertheless (``web.hidden``)."""
    return _flag(repository.setting("web", "hidden"), False, True)


def _hopeless(request: AccessRequest) -> str | None:
    """The refusal that no user can avoid; ``None`` if there may be a user who is allowed."""
    settings = request.repository.settings
    if list(settings("web", "deny_read")) == ["*"]:
        return _READ_DENIED
    if request.permission == "pull":
        return None if _may_pull(request.repository) else _PULL_DENIED
    everybody_denied = list(settings("web", "deny_push")) == ["*"]
    return _PUSH_DENIED if everybody_denied or not settings("web", "allow-push") else None


def _denial(request: AccessRequest, message: str) -> PermissionDenied:
    if request.user:
        return PermissionDenied(message, status=403)
    hopeless = _hopeless(request)
    return PermissionDenied(message, status=401) if hopeless is None else PermissionDenied(hopeless, status=403)


@repeatable
def hgweb_policy(request: AccessRequest) -> None:
    """Apply hgweb's own rules, in its order and with its messages (observed in 7.2).

    Settings of section ``web``: ``deny_read`` and ``allow_read``, ``allow-pull``, then for pushes the method,
    ``push_ssl`` (default: on), ``deny_push``, and ``allow-push`` (default: nobody).  If ``allow-pull`` is no boolean,
    pushes are refused, too.

    Raises:
        PermissionDenied: with 401 if the user is unknown and some user may be allowed; with 405 for a wrong method;
            else with 403.
    """
    repository, user = request.repository, request.user
    denied, allowed = repository.settings("web", "deny_read"), repository.settings("web", "allow_read")
    if (denied and (not user or repository.is_member(user, denied))) or (
        allowed and not repository.is_member(user or "", allowed)
    ):
        raise _denial(request, _READ_DENIED)
    if request.permission == "pull":
        if not _may_pull(repository):
            raise _denial(request, _PULL_DENIED)
        return
    if _is_unclear(repository.setting("web", "allow-pull")):
        # hgweb answers nothing at all then.
        raise PermissionDenied(_PUSH_DENIED, status=403)
    method, message = _UPLOAD if request.upload else _PUSH
    if request.method != method:
        raise PermissionDenied(message, status=405, headers=[("Allow", method)])
    if _flag(repository.setting("web", "push_ssl"), True, True) and request.scheme != "https":
        raise PermissionDenied("ssl required", status=403)
    if _is_denied(repository, "deny_push", user) or not _includes(repository, "allow-push", user):
        raise _denial(request, _PUSH_DENIED)
