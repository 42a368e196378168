"""Routing: find the part of an application that serves a request.

==============  ====================================================================
route           what it is
==============  ====================================================================
``command``     a wire command at a repository's own URL
``below``       a wire command below a repository's URL, where there are none
``api``         the frame-based API below a repository's URL
``resource``    resources of a backend other than commands, such as lfs objects
``greeting``    a repository's URL without a command, as sent by a browser
``index``       the root of an application whose repositories have names
``nothing``     not a repository
==============  ====================================================================
"""

from __future__ import annotations

import functools
from typing import Literal

import attrs

from ..commands.classify import names_command
from ..commands.registry import CommandRegistry
from ..errors import HgWireError
from ..repositories.base import RepositoryProvider
from .message import Request
from .v2.api import ApiSettings, is_api_path

__all__ = ["Route", "Router"]

RouteKind = Literal["command", "below", "api", "resource", "greeting", "index", "nothing"]


@attrs.frozen
class Route:
    """Where a request goes.

    Attributes:
        kind: see the table of this module.
        name: the repository's name.
        rest: the path below the repository.
    """

    kind: RouteKind
    name: str = ""
    rest: str = ""


_route = functools.lru_cache(maxsize=1024)(Route)
"""Makes routes, the usual ones once."""


@attrs.frozen
class Router:
    """The routes of an application."""

    provider: RepositoryProvider
    commands: CommandRegistry
    api: ApiSettings

    def route(self, request: Request) -> Route:
        """Find the route of a request.

        Raises:
            RequestError: for a malformed environ or query string.
        """
        if request.fault is not None:
            raise request.fault
        located = self.provider.locate(request.path)
        if located is None:
            root = not request.path.strip("/") and not names_command(request.query)
            return _route("index" if root else "nothing")
        name, rest = located
        if self.api.server and is_api_path(rest):
            return _route("api", name, rest)
        if names_command(request.query):
            return _route("below" if rest else "command", name, rest)
        return _route("resource" if rest else "greeting", name, rest)

    def handles(self, request: Request) -> bool:
        """Whether a request is for the application, and not for the pages behind a middleware.

        It is if it names a command, a resource such as a large file, or an API of one of its repositories.

        Raises:
            RequestError: for a malformed query string.
        """
        route = self.route(request)
        if route.kind == "resource":
            return self.provider.is_subresource(route.rest)
        if route.kind != "command":
            return route.kind == "api"
        named = names_command(request.query)
        if any(name in self.commands for name in named):
            return True
        # It may be one that only this repository's extensions bring.
        try:
            with self.provider.lease(route.name) as repository:
                from_repository = repository.commands()
        except HgWireError:
            return False
        return any(self.commands.resolve(name, from_repository) is not None for name in named)
