"""Policies made of others, and small policies to combine with them."""

from __future__ import annotations

from ..errors import PermissionDenied, Unavailable
from .hgweb import hgweb_policy
from .request import AccessRequest, Policy, ask, is_repeatable, repeatable

__all__ = ["all_of", "default_policy", "maintenance", "read_only", "repository_read_only"]


def all_of(*policies: Policy) -> Policy:
    """Make a policy that allows what all of these allow.

    They are asked in order; the first refusal counts, and the rest are not asked.

    Raises:
        ValueError: without a policy; the result would allow everything.
    """
    if not policies:
        raise ValueError("all_of() requires at least one policy")

    def policy(request: AccessRequest) -> None:
        for each in policies:
            ask(each, request)

    return repeatable(policy) if all(map(is_repeatable, policies)) else policy


def _one_line(reason: str) -> str:
    """Make a reason fit into the status line, the only part of a refusal that Mercurial clients show."""
    line = " ".join(reason.split())
    if not line:
        raise ValueError("the reason must not be empty")
    return line


def read_only(reason: str = "this repository is read-only") -> Policy:
    """Make a policy that refuses all pushes and uploads with 403.

    Args:
        reason: for the client's user.

    Raises:
        ValueError: if the reason is empty.
    """
    line = _one_line(reason)

    def policy(request: AccessRequest) -> None:
        if request.permission != "pull":
            raise PermissionDenied(line)

    return repeatable(policy)


def maintenance(reason: str = "the server is under maintenance", retry_after: int = 600) -> Policy:
    """Make a policy that refuses everything with 503.

    Args:
        reason: for the client's user.
        retry_after: seconds until clients should try again.

    Raises:
        ValueError: if the reason is empty, or the time is negative.
    """
    line = _one_line(reason)
    if retry_after < 0:
        raise ValueError("retry_after must not be negative")

    def policy(request: AccessRequest) -> None:
        raise Unavailable(line, retry_after=retry_after)

    return policy


@repeatable
def repository_read_only(request: AccessRequest) -> None:
    """Refuse pushes and uploads to repositories that say that they are read-only.

    For a repository on disk, that is the file ``.hg/hgwire-readonly``.  Its text is the reason that the client's user
    reads.  It is read for every push, so it takes effect immediately.

    Raises:
        PermissionDenied: with 403.
    """
    if request.permission == "pull":
        return
    reason = request.repository.read_only_reason()
    if reason is not None:
        raise PermissionDenied(" ".join(reason.split()) or "this repository is read-only")


@repeatable
def default_policy(request: AccessRequest) -> None:
    """Apply :func:`hgweb_policy`, and then :func:`repository_read_only`.

    Raises:
        PermissionDenied: by one of them.
    """
    hgweb_policy(request)
    if request.permission != "pull":
        repository_read_only(request)
