"""The frame-based API: what a host switches on, and the URLs below a repository."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from ..errors import HgWireError
from ..framing import Profile

__all__ = ["HTTP_V2", "ApiSettings", "PlainAnswer", "Target", "is_api_path", "route"]

HTTP_V2 = "exp-http-v2-0001"
"""The name of version 2 among the APIs."""

_PERMISSIONS = {"ro": "pull", "rw": "push"}
_LIST = "APIs can be accessed at /api/<name>, where <name> can be one of the following:\n\n"


def _profiles(given: Iterable[Profile]) -> tuple[Profile, ...]:
    # A function of its own: what mypy makes of ``tuple`` as a converter would refuse every caller.
    return tuple(given)


@attrs.frozen(kw_only=True)
class ApiSettings:
    """What is served below ``<repository>/api``; nothing unless switched on.

    Attributes:
        server: whether ``/api`` exists at all (Mercurial's ``web.apiserver``).
        http_v2: whether version 2 is among the APIs (``web.api.http-v2``).
        debugreflect: whether ``debugreflect``, which tells what was understood of the frames sent to it, answers
            (``web.api.debugreflect``).
        encodings: content encodings of response streams, best first, for clients that name one of them in
            ``X-HgProto`` as ``comp=<profile>,<profile>``.  All others get frames as they are.
        workers: threads of this application that run independent commands of one ``multirequest`` side by side, each
            in a stream of its own; 0 runs one after the other.  Threads exist while they have work.
    """

    server: bool = False
    http_v2: bool = False
    debugreflect: bool = False
    encodings: tuple[Profile, ...] = attrs.field(default=(), converter=_profiles)
    workers: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    @property
    def names(self) -> list[str]:
        """The APIs that are available."""
        return [HTTP_V2] if self.http_v2 else []


class PlainAnswer(HgWireError):
    """An answer that is a status and some text instead of frames, in the words of the recorded exchanges.

    Args:
        status: of HTTP; 200 for what the reference finds wrong after it began to look at frames.
        text: the whole body; bytes as latin-1 characters, as everything in a WSGI environ.
        headers: further ones.
    """

    def __init__(self, status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text, headers=headers)
        self.http_status = status


def is_api_path(rest: str) -> bool:
    """Whether a path below a repository belongs to the API server."""
    return rest == "api" or rest.startswith("api/")


@attrs.frozen
class Target:
    """What the URL of a command says.

    Attributes:
        access: ``pull`` for ``ro``, ``push`` for ``rw``: what the policy is asked before anything is read.
        command: a command, ``multirequest`` or ``debugreflect``.
    """

    access: str
    command: str


def route(rest: str, environ: dict[str, Any], api: ApiSettings) -> Target:
    """Find out what a URL asks for.

    Args:
        rest: the path below the repository.
        environ: the WSGI environ.
        api: what is switched on.

    Raises:
        PlainAnswer: for every URL that is no command, among them those that are answered with 200 and a text.
    """
    path = rest.strip("/")
    name, _, below = path.removeprefix("api").lstrip("/").partition("/")
    if not name:
        listed = "\n".join(api.names) or "(no available APIs)\n"
        raise PlainAnswer(200, _LIST + listed)
    if name != HTTP_V2:
        raise PlainAnswer(404, f"Unknown API: {name}\nKnown APIs: {', '.join(api.names)}")
    if not api.http_v2:
        raise PlainAnswer(404, f"API {name} not enabled\n")
    if not below:
        raise PlainAnswer(200, "HTTP version 2 API handler")
    permission, slash, command = below.partition("/")
    if not slash or "/" in command:
        raise PlainAnswer(404, f"do not know how to process {path}\n")
    if permission not in _PERMISSIONS:
        raise PlainAnswer(404, f"unknown permission: {permission}")
    if environ.get("REQUEST_METHOD") != "POST":
        raise PlainAnswer(405, "commands require POST requests", headers=(("Allow", "POST"),))
    return Target(_PERMISSIONS[permission], command)
