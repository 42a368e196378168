"""What hgweb asks before each request, in addition to the rules of the policy.

Extensions add functions to ``mercurial.hgweb.common.permhooks``, and wrap ``wireprotoserver.iscmd`` to withdraw
commands from HTTP.  hgweb asks both for each request, so this package does too, also for cached replies.

The first function in the list is hgweb's own rules.  It is not called here, because the policy of the application takes
its place.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from mercurial import scmutil, wireprotoserver, wireprotov1server
from mercurial.hgweb import common as hgwebcommon
from mercurial.hgweb import hgweb_mod
from mercurial.hgweb import request as hgwebrequest

from ...errors import PermissionDenied, UnknownCommand

__all__ = ["added_hooks", "ask_hooks", "check_commands", "is_command", "is_unrestricted"]

Hook = Callable[[Any, Any, bytes], object]
"""Is called with hgweb's context of the request, the request, and ``pull``, ``push`` or ``upload``."""

_OWN_RULES = hgwebcommon.checkauthz
_USUAL = [_OWN_RULES]
_GLOBALS = vars(wireprotoserver)
_MEMBERS = vars(scmutil)


def is_command(name: str) -> bool:
    """Whether Mercurial, or any extension in this process, has a command of this name."""
    return name.encode("latin-1", "replace") in wireprotov1server.commands


def check_commands(commands: tuple[str, ...]) -> None:
    """Ask whether commands of Mercurial are available over HTTP.

    Raises:
        UnknownCommand: for one that is not.
    """
    if getattr(wireprotoserver.iscmd, "__globals__", None) is _GLOBALS:
        # It is Mercurial's own function, which withdraws nothing.
        return
    for name in commands:
        if is_command(name) and not wireprotoserver.iscmd(name.encode("latin-1")):
            raise UnknownCommand(f"unknown command: {name}")


def is_unrestricted() -> bool:
    """Whether :func:`check_commands` and the functions of :func:`added_hooks` refuse nothing.

    An extension may also decide who is in the lists of the settings, and ask a directory of users for that.
    """
    return (
        hgwebcommon.permhooks == _USUAL
        and getattr(wireprotoserver.iscmd, "__globals__", None) is _GLOBALS
        and getattr(scmutil.ismember, "__globals__", None) is _MEMBERS
    )


def added_hooks() -> list[Hook]:
    """Return the functions that extensions have added."""
    added = hgwebcommon.permhooks
    return [] if added == _USUAL else [hook for hook in added if hook is not _OWN_RULES]


def ask_hooks(
    hooks: Iterable[Hook],
    local: Any,
    name: str,
    permission: str,
    commands: tuple[str, ...],
    user: str | None,
    environ: Mapping[str, Any],
) -> None:
    """Ask functions as hgweb does.

    Args:
        hooks: the functions.
        local: Mercurial's repository object.
        name: of the repository.
        permission: ``pull``, ``push`` or ``upload``.
        commands: the command and its sub-commands.
        user: the authenticated user; ``None`` if unauthenticated.
        environ: the WSGI environ.  The functions see it without the request body.

    Raises:
        PermissionDenied: with the status, message and headers of a function that refuses.
        Exception: any exception of a function.
    """
    shown = {_bytes(key): _bytes(value) for key, value in environ.items()}
    path = name.encode("latin-1")
    url_path = shown.get(b"PATH_INFO") or b"/"
    if not (url_path + b"/").startswith(b"/%s/" % path if path else b"/"):
        # The provider reads paths in its own way, for example with several slashes.
        url_path = b"/" + path
    shown |= {b"wsgi.input": io.BytesIO(), b"PATH_INFO": url_path}
    shown.pop(b"REMOTE_USER", None)
    if user is not None:
        shown[b"REMOTE_USER"] = user.encode("utf-8", "surrogateescape")
    request = hgwebrequest.parserequestfromenv(shown, reponame=path or None)
    response = hgwebrequest.wsgiresponse(request, lambda *_: None)
    context = hgweb_mod.requestcontext(SimpleNamespace(reponame=None, websubtable=[]), local, request, response)
    # hgweb asks for a batch, which needs pull, and then for each of its commands.
    operations = ("pull", permission) if commands[:1] == ("batch",) else (permission,)
    before, local.ui.environ = local.ui.environ, request.rawenv
    try:
        for operation in dict.fromkeys(operations):
            for hook in hooks:
                hook(context, request, operation.encode("ascii"))
    except hgwebcommon.ErrorResponse as refusal:
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in refusal.headers]
        raise PermissionDenied(str(refusal), status=refusal.code, headers=headers) from None
    finally:
        local.ui.environ = before


def _bytes(value: Any) -> Any:
    """Text as hgweb shows it to hooks; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace")
