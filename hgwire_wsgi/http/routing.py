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
from ..commands.standard import STANDARD_COMMANDS
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


_STANDARD = frozenset(command.name for command in STANDARD_COMMANDS)

_PAGES = frozenset(
    {
        *("annotate", "archive", "bookmarks", "changelog", "changeset", "comparison", "diff", "file", "filediff"),
        *("filelog", "graph", "help", "log", "manifest", "rawfile", "rev", "shortlog", "static", "summary", "tags"),
    }
)
"""The pages that hgweb 7.2 has at ``?cmd=``, except ``branches``, which is a command, too, and goes first there."""

_LONGEST_CACHED = 200
"""Maximum length in characters of a name and the path below it for a route to be cached: clients choose them."""

_cached_route = functools.lru_cache(maxsize=1024)(Route)


def _route(kind: RouteKind, name: str = "", rest: str = "") -> Route:
    """Make a route, a usual one once."""
    return (_cached_route if len(name) + len(rest) <= _LONGEST_CACHED else Route)(kind, name, rest)


@attrs.frozen
class Router:
    """The routes of an application."""

    provider: RepositoryProvider
    commands: CommandRegistry
    api: ApiSettings

    def route(self, request: Request) -> Route:
        """Find the route of a request.

        Raises:
            RequestError: for a malformed query string.
        """
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

        The pages may be those of hgweb, which would run any command that it knows, in any repository that it serves.
        So no request that names a command reaches them: one that the application knows, has removed, or could learn
        from the repository, at any path.  Below a repository, where there may be others that only hgweb serves, every
        name but those of hgweb's pages counts as a command.

        Raises:
            RequestError: for a malformed query string.
        """
        route = self.route(request)
        if route.kind == "api":
            return True
        if names := _possible_commands(request.query):
            return self._takes(route, names)
        return route.kind == "resource" and self._serves(route)

    def _takes(self, route: Route, names: tuple[str, ...]) -> bool:
        """Whether one of the names is, or may be, that of a command."""
        if any(map(self._is_command, names)):
            return True
        if route.kind not in ("command", "below") or all(name.partition(";")[0] in _PAGES for name in names):
            return False
        if route.kind == "below":
            return True
        try:
            with self.provider.lease(route.name) as repository:
                own = repository.commands()
        except HgWireError:
            return True
        # The backend may know more commands now than before.
        return any(name in own or self._is_command(name) for name in names)

    def _is_command(self, name: str) -> bool:
        return name in _STANDARD or self.commands.is_known(name) or self.provider.is_command(name)

    def _serves(self, route: Route) -> bool:
        """Whether the repository serves resources such as large files at a path."""
        if not self.provider.is_subresource(route.rest):
            return False
        try:
            with self.provider.lease(route.name) as repository:
                return repository.has_subresource(route.rest)
        except HgWireError:
            return True


def _possible_commands(query: str) -> tuple[str, ...]:
    """Return the commands that any server could find in a query string: some separate parameters at semicolons, too."""
    names = names_command(query)
    return names + names_command(query.replace(";", "&")) if ";" in query else names
