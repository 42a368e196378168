"""What hgweb asks before each request, in addition to the rules of the policy.

Extensions add functions to ``mercurial.hgweb.common.permhooks``, and wrap ``wireprotoserver.iscmd`` to withdraw
commands from HTTP.  hgweb asks both for each request, so this package does too, also for cached replies.

The first function in the list is hgweb's own rules.  It is not called here, because the policy of the application takes
its place.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from mercurial import wireprotoserver, wireprotov1server
from mercurial.hgweb import common as hgwebcommon
from mercurial.hgweb import hgweb_mod
from mercurial.hgweb import request as hgwebrequest

from ...errors import PermissionDenied, UnknownCommand

__all__ = ["ask_hooks", "check_commands", "is_command"]

_OWN_RULES = hgwebcommon.checkauthz


def is_command(name: str) -> bool:
    """Whether Mercurial, or any extension in this process, has a command of this name."""
    return name.encode("latin-1", "replace") in wireprotov1server.commands


def check_commands(commands: tuple[str, ...]) -> None:
    """Ask whether commands of Mercurial are available over HTTP.

    Raises:
        UnknownCommand: for one that is not.
    """
    for name in commands:
        if is_command(name) and not wireprotoserver.iscmd(name.encode("latin-1")):
            raise UnknownCommand(f"unknown command: {name}")


def ask_hooks(
    open_local: Callable[[], Any],
    name: str,
    permission: str,
    commands: tuple[str, ...],
    environ: Mapping[str, Any],
) -> None:
    """Ask the functions that extensions have added, as hgweb does.

    Args:
        open_local: returns Mercurial's repository object; called only if there is a function to ask.
        name: of the repository.
        permission: ``pull``, ``push`` or ``upload``.
        commands: the command and its sub-commands.
        environ: the WSGI environ.  The functions see it without the request body.

    Raises:
        PermissionDenied: with the status, message and headers of a function that refuses.
    """
    hooks = [hook for hook in hgwebcommon.permhooks if hook is not _OWN_RULES]
    if not hooks:
        return
    local = open_local()
    prefix = name.encode("latin-1")
    shown = {**environ, "PATH_INFO": environ.get("PATH_INFO") or "/", "wsgi.input": io.BytesIO()}
    request = hgwebrequest.parserequestfromenv(shown, reponame=prefix or None)
    local.ui.environ = request.rawenv
    response = hgwebrequest.wsgiresponse(request, lambda *_: None)
    context = hgweb_mod.requestcontext(SimpleNamespace(reponame=prefix, websubtable=[]), local, request, response)
    # hgweb asks for a batch, which needs pull, and then for each of its commands.
    operations = ("pull", permission) if commands[:1] == ("batch",) else (permission,)
    for operation in dict.fromkeys(operations):
        for hook in hooks:
            try:
                hook(context, request, operation.encode("ascii"))
            except hgwebcommon.ErrorResponse as refusal:
                headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in refusal.headers]
                raise PermissionDenied(str(refusal), status=refusal.code, headers=headers) from None
