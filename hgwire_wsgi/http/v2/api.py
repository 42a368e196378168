"""The frame-based APIs: their settings, and the URLs below a repository."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ...commands.arguments import TEXT, Codec
from ...commands.registry import Permission, ProtocolVersion
from ...errors import HgWireError
from ...framing import EXP_0002, Profile, Revision
from ..message import NO_STORE, NOSNIFF, Request, Response

__all__ = ["APIS", "Api", "ApiSettings", "PlainRefusal", "Target", "is_api_path", "plain", "route", "url_access"]


@attrs.frozen
class Api:
    """An API, selected by its name in a URL.

    Attributes:
        name: the name.
        revision: the framing revision of requests and responses.
        version: the protocol version whose commands it runs.
        codec: how arguments are encoded.
    """

    name: str
    revision: Revision
    version: ProtocolVersion
    codec: Codec


APIS = {api.name: api for api in (Api("exp-http-v2-0001", EXP_0002, "v1", TEXT),)}
"""All APIs by name.  No other module of the server names a framing revision."""

_PERMISSIONS: dict[str, Permission] = {"ro": "pull", "rw": "push"}
_LIST = "APIs can be accessed at /api/<name>, where <name> can be one of the following:\n\n"


def _profiles(given: Iterable[Profile]) -> tuple[Profile, ...]:
    # A separate function: with ``tuple`` as the converter, mypy would reject every caller.
    return tuple(given)


@attrs.frozen(kw_only=True)
class ApiSettings:
    """Settings of ``<repository>/api``.  Everything is off by default.

    Attributes:
        server: whether ``/api`` exists (Mercurial's ``web.apiserver``).
        http_v2: whether version 2 is one of the APIs (``web.api.http-v2``).
        debugreflect: whether the command ``debugreflect`` exists, which reports how the server parsed the frames
            of the request (``web.api.debugreflect``).
        encodings: content encodings of response streams, best first, for clients that name one of them in
            ``X-HgProto`` as ``comp=<profile>,<profile>``.  All others get frames without an encoding.
        workers: maximum number of threads of this application that run independent commands of a ``multirequest``
            in parallel, each in its own stream; 0 runs one after the other.  Idle threads end.
    """

    server: bool = False
    http_v2: bool = False
    debugreflect: bool = False
    encodings: tuple[Profile, ...] = attrs.field(default=(), converter=_profiles)
    workers: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    @property
    def available(self) -> list[str]:
        """The names of the enabled APIs."""
        return list(APIS) if self.http_v2 else []


class PlainRefusal(HgWireError):
    """A refusal as a status and text instead of frames, worded as in the recorded exchanges.

    Args:
        status: the HTTP status.  The reference answers 200 to errors found after it has begun to read frames.
        text: the whole body; bytes as latin-1 characters, as in a WSGI environ.
        headers: more response headers.
    """

    def __init__(self, status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text, headers=headers)
        self.http_status = status


def plain(text: str) -> Response:
    """Make a successful answer in plain text, with exactly the media type of the recorded exchanges."""
    return Response("200 OK", [("Content-Type", "text/plain"), NO_STORE, NOSNIFF], text.encode("latin-1", "replace"))


def url_access(rest: str) -> tuple[Permission, str]:
    """The permission and the command that a URL below a repository names, whether or not it exists.

    Returns:
        ``push`` for everything but ``ro``; the command may be empty.
    """
    parts = rest.strip("/").split("/")
    access = parts[2] if len(parts) > 2 else "ro"
    return _PERMISSIONS.get(access, "push"), parts[3] if len(parts) > 3 else ""


def is_api_path(rest: str) -> bool:
    """Whether a path below a repository belongs to the API server."""
    return rest == "api" or rest.startswith("api/")


@attrs.frozen
class Target:
    """The target that the URL of a command selects.

    Attributes:
        api: the API.
        access: the permission that the policy is asked for before anything is read: ``pull`` for ``ro``, ``push`` for
            ``rw``.
        command: a command, ``multirequest`` or ``debugreflect``.
    """

    api: Api
    access: Permission
    command: str


def route(request: Request, rest: str, settings: ApiSettings) -> Target | Response:
    """Find the target of a URL.

    Args:
        request: the request.
        rest: the path below the repository.
        settings: the enabled APIs.

    Returns:
        The target of a command, or the answer to a URL that only provides information.

    Raises:
        PlainRefusal: for any other URL.
    """
    path = rest.strip("/")
    name, _, below = path.removeprefix("api").lstrip("/").partition("/")
    if not name:
        return plain(_LIST + ("\n".join(settings.available) or "(no available APIs)\n"))
    if name not in APIS:
        raise PlainRefusal(404, f"Unknown API: {name}\nKnown APIs: {', '.join(settings.available)}")
    if name not in settings.available:
        raise PlainRefusal(404, f"API {name} not enabled\n")
    if not below:
        return plain("HTTP version 2 API handler")
    permission, slash, command = below.partition("/")
    if not slash or "/" in command:
        raise PlainRefusal(404, f"do not know how to process {path}\n")
    if permission not in _PERMISSIONS:
        raise PlainRefusal(404, f"unknown permission: {permission}")
    if request.method != "POST":
        raise PlainRefusal(405, "commands require POST requests", headers=(("Allow", "POST"),))
    return Target(APIS[name], _PERMISSIONS[permission], command)
