"""Mercurial's commands as ours: declarations, arguments, replies.

A command registered by an extension is declared with the reply ``any``: Mercurial does not declare what it returns, so
the type of its response decides whether it can be batched.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from mercurial import extensions, repoview, wireprotoserver, wireprototypes, wireprotov1server

from ...commands.arguments import Argument, ArgumentType
from ...commands.context import CommandContext
from ...commands.registry import Command, Permission, stricter
from ...commands.responses import (
    BytesResponse,
    LegacyStreamResponse,
    OutOfBandError,
    PushError,
    PushResponse,
    Response,
    StreamResponse,
)
from ...commands.standard import STANDARD_COMMANDS
from ...errors import CommandFailed, HgWireError, LocalProtocolError, RepositoryUnusable
from ..base import RepositorySettings
from .bundle2 import BundleFollower
from .changegroups.seam import reporting
from .checks import check, check_bundle
from .errors import Report, text, translated_chunks, translated_request
from .files import CHECKED_AFTER_FAILURE
from .garbage import collected
from .hooks import kept_output
from .transactions import has_journal, observed, roll_back_abandoned

__all__ = ["KNOWN_PERMISSIONS", "registered_commands"]

KNOWN_PERMISSIONS: Mapping[str, Permission] = {
    # evolve
    "evoext_obshashrange_v1": "pull",
    # fastannotate: declares no permission
    "getannotate": "push",
    # largefiles
    "getlfile": "pull",
    "lheads": "pull",
    "putlfile": "push",
    "statlfile": "pull",
    # narrow
    "narrow_widen": "pull",
    # remotefilelog: declares none for the second
    "x_rfl_getfile": "pull",
    "stream_out_shallow": "push",
    "x_rfl_getflogheads": "pull",
    # topic
    "_exttopics_heads": "pull",
    "branchmaptns": "pull",
    "tns_heads": "pull",
}
"""The commands of Mercurial's own extensions, and of evolve and topic, with the permissions that they declare.

Extensions are loaded when the first repository that enables them is opened; before that, only this table knows their
commands.  A command without a declared permission needs ``push``.  The tests compare the table with the extensions.
"""

_STANDARD = {command.name: command for command in STANDARD_COMMANDS}
_UNBOUNDED = {"between": wireprotov1server.between, "branches": wireprotov1server.branches}
"""Commands whose functions in Mercurial walk through the history without a limit: ours run, unless an extension has
replaced them."""

_KNOWN = wireprotov1server.known
"""Mercurial's own function for ``known``."""

_TRANSPORT = b"http-v1"
_READ_SIZE = 32 * 1024


class _Protocol:
    """The transport interface that Mercurial's commands use."""

    name = _TRANSPORT

    def __init__(self, context: CommandContext, ui: Any) -> None:
        self._context = context
        self._ui = ui

    def getprotocaps(self) -> list[bytes]:
        return [token.encode("latin-1") for token in self._context.protocol.tokens]

    def getpayload(self) -> Iterator[bytes]:
        while data := self._context.body.read(_READ_SIZE):
            yield data

    @contextlib.contextmanager
    def mayberedirectstdio(self) -> Iterator[io.BytesIO]:
        """Collect what Mercurial and its hooks print, for the reply."""
        ui, output = self._ui, kept_output(self._ui)
        saved = ui.fout, ui.ferr
        ui.fout = ui.ferr = output
        try:
            yield output
        finally:
            ui.fout, ui.ferr = saved

    def client(self) -> bytes:
        return self._context.client.encode("utf-8", "surrogateescape")

    def addcapabilities(self, repo: Any, caps: list[bytes]) -> list[bytes]:
        return [*caps, *self._context.capabilities]

    def checkperm(self, permission: bytes) -> None:
        self._context.authorize(permission.decode("ascii"))


def _convert(result: Any, repo: Any, report: Report) -> Response:
    """Convert a result from Mercurial's function, called with a repository object, to a response of this package."""
    if isinstance(result, bytes):
        return BytesResponse(result)
    if isinstance(result, wireprototypes.bytesresponse):
        return BytesResponse(result.data)
    if isinstance(result, wireprototypes.streamres):
        follower = BundleFollower()
        chunks = translated_chunks(follower.watch(collected(result.gen, repo)), report)
        return StreamResponse(chunks, result.prefer_uncompressed, follower.may_be_cached)
    if isinstance(result, wireprototypes.streamreslegacy):
        return LegacyStreamResponse(translated_chunks(collected(result.gen, repo), report))
    if isinstance(result, wireprototypes.pushres):
        # A bundle2 push that asks for no bundle2 reply has no result of the old kind: it failed, or it did not.
        return PushResponse(1 if result.res is None else int(result.res), result.output)
    if isinstance(result, wireprototypes.pusherr):
        return PushError(result.res, result.output)
    if isinstance(result, wireprototypes.ooberror):
        return OutOfBandError(result.message)
    raise LocalProtocolError(f"Mercurial returned {type(result).__name__}, which is not a response")


def _known(repo: Any, nodes: list[bytes]) -> Response:
    """The reply to ``known``; Mercurial's function would decode the nodes once more."""
    return BytesResponse(b"".join([b"1" if here else b"0" for here in repo.known(nodes)]))


def _without_blank_lines(response: Response) -> Response:
    """Remove the empty lines that Mercurial 7.2 puts after each line of the manifest for old clients."""
    if not isinstance(response, BytesResponse):
        return response
    return BytesResponse(b"".join(line + b"\n" for line in response.data.split(b"\n") if line))


_SECRETS = frozenset({"HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_COOKIE"})
"""Credentials, which hooks might print."""


class _Environ(Mapping[bytes, Any]):
    """The WSGI environ as in-process hooks see it in ``ui.environ``: bytes instead of strings, and no credentials."""

    def __init__(self, environ: Mapping[str, Any], user: str | None) -> None:
        self._given = environ
        self._user = user

    @functools.cached_property
    def _environ(self) -> dict[str, Any]:
        # Made when a hook asks for it, which is rare.
        environ = {name: value for name, value in self._given.items() if name not in _SECRETS}
        return environ if self._user is None else {**environ, "REMOTE_USER": self._user.encode("utf-8")}

    def __getitem__(self, name: bytes) -> Any:
        value = self._environ[name.decode("latin-1")]
        if not isinstance(value, str):
            return value
        try:
            return value.encode("latin-1")
        except UnicodeEncodeError:
            return value.encode("utf-8", "backslashreplace")

    def __iter__(self) -> Iterator[bytes]:
        return (name.encode("latin-1") for name in self._environ)

    def __len__(self) -> int:
        return len(self._environ)


_TYPES: Mapping[bytes, ArgumentType] = {b"nodes": "nodes", b"csv": "csv", b"scsv": "csv", b"boolean": "boolean"}


def _streams(name: str, arguments: Mapping[str, bytes]) -> bool:
    """Whether a command sends the files of the store as they are."""
    return name == "stream_out" or (name == "getbundle" and arguments.get("stream", b"0") not in (b"", b"0"))


def _recover(local: Any, protocol: _Protocol, context: CommandContext, report: Report) -> None:
    with protocol.mayberedirectstdio():
        if not roll_back_abandoned(local):
            return
    report("an abandoned transaction was found and rolled back")
    if context.report_recovery is not None:
        context.report_recovery()


def _handler(name: str, *, writes: bool) -> Callable[..., Response]:
    """Make a handler that runs Mercurial's own function for a command.

    Args:
        name: of the command.
        writes: whether it may change the repository.
    """
    key = name.encode("latin-1")

    def run(context: CommandContext, **decoded: Any) -> Response:
        repository = context.repository
        local = getattr(repository, "local", None)
        if local is None:
            raise CommandFailed(f"{name} needs a Mercurial repository")
        report: Report = repository.report  # type: ignore[attr-defined]  # it has both, or neither
        arguments = dict(context.arguments)
        check_files = functools.partial(
            repository.check_files,  # type: ignore[attr-defined]  # likewise
            name,
            context.protocol.tokens,
        )
        if name not in CHECKED_AFTER_FAILURE:
            check_files()
        if name == "unbundle":
            context = attrs.evolve(context, body=check_bundle(context.body))
        hidden = _shows_hidden(context, arguments.pop("access-hidden", b""))
        protocol = _Protocol(context, local.ui)
        local.ui.environ = _Environ(context.environ, context.user)
        with (
            translated_request(name, report, has_arguments=bool(arguments)),
            observed(local, context.report_changes),
            reporting(local, context.report_changegroup),
        ):
            repo = wireprotov1server.getdispatchrepo(local, protocol, key, hidden)
            function, spec = wireprotov1server.commands[key]
            if (writes or _streams(name, arguments)) and has_journal(local):
                _recover(local, protocol, context, report)
            try:
                check(name, repo, arguments)
                if function is _KNOWN:
                    response: Response = _known(repo, decoded["nodes"])
                else:
                    response = _convert(function(repo, protocol, *_positional(spec, arguments)), repo, report)
            except HgWireError:
                raise
            except Exception as failure:
                check_files()
                _report_unknown_view(failure, repo, report)
                raise
        return _without_blank_lines(response) if name == "clonebundles" else response

    run.__name__ = name
    run.__qualname__ = f"mercurial.{name}"
    return run


def _report_unknown_view(failure: Exception, repo: Any, report: Report) -> None:
    """Report a view of ``server.view`` that does not exist, if that is the failure of a command.

    Raises:
        RepositoryUnusable: if it is.
    """
    known = repo.filtername in repoview.filtertable
    if not known and isinstance(failure, KeyError) and failure.args == (repo.filtername,):
        report(f"server.view names no view that Mercurial has: {text(repo.filtername)}")
        raise RepositoryUnusable from failure


def _shows_hidden(context: CommandContext, wanted: bytes) -> bool:
    """Whether a request asks for hidden changesets, and the configuration allows that for its user."""
    repository = context.repository
    if not wanted or not isinstance(repository, RepositorySettings):
        return False
    allowed = repository.settings("experimental", "server.allow-hidden-access")
    return bool(allowed) and repository.is_member(context.user or "", allowed)


def _positional(spec: bytes, arguments: Mapping[str, bytes]) -> list[Any]:
    """The arguments of a command in the order of Mercurial's declaration."""
    names = [word.decode("latin-1") for word in spec.split()]
    rest = {key.encode("latin-1"): value for key, value in arguments.items() if key not in names}
    return [rest if word == "*" else arguments[word] for word in names]


def _declare(key: bytes, entry: Any) -> Command:
    """Convert Mercurial's declaration of a command; for a standard command, extend our own declaration."""
    known = tuple(wireprototypes.GETBUNDLE_ARGUMENTS.items()) if key == b"getbundle" else ()
    unbounded = entry.func is _UNBOUNDED.get(key.decode("latin-1"))
    return _declaration(key, entry.permission, entry.args, known, unbounded)


@functools.lru_cache(maxsize=1024)
def _declaration(
    key: bytes, asked: bytes, spec: bytes, known: tuple[tuple[bytes, bytes], ...], unbounded: bool
) -> Command:
    """Make a declaration that all repositories share.

    Args:
        key: the name of the command.
        asked: the permission that Mercurial asks for.
        spec: its arguments, separated by spaces.
        known: those of ``getbundle``, with their types.
        unbounded: whether it is Mercurial's own function for a command whose cost it does not bound.
    """
    name = key.decode("latin-1")
    # Mercurial allows only two, and refuses unknown ones.
    permission: Permission = "pull" if asked == b"pull" else "push"
    handler = _handler(name, writes=permission == "push")
    if standard := _STANDARD.get(name):
        if unbounded:
            return attrs.evolve(standard, permission=stricter(permission, standard.permission))
        permission = stricter(permission, standard.permission)
        cacheable = standard.cacheable and permission == "pull"
        command = attrs.evolve(
            standard, handler=handler, version="v1", permission=permission, cacheable=cacheable, overridable=False
        )
        if name != "getbundle":
            return command
        # Extensions may add arguments; all others are dropped.
        arguments = tuple(
            Argument(key.decode("ascii"), _TYPES.get(kind, "bytes"), required=False) for key, kind in known
        )
        return attrs.evolve(command, arguments=arguments, rest=False)
    words = spec.decode("latin-1").split()
    return Command(
        name=name,
        handler=handler,
        permission=permission,
        arguments=tuple(Argument(word) for word in words if word != "*"),
        rest="*" in words,
        version="v1",
        reply="any",
        body=permission == "push",
    )


def _extension_of(function: Any) -> bytes | None:
    """Return the loaded extension that a function belongs to."""
    owner = getattr(function, "__module__", None) or ""
    for name, module in extensions.extensions():
        if owner == module.__name__ or owner.startswith(module.__name__ + "."):
            return bytes(name)
    return None


def registered_commands(ui: Any) -> dict[str, Command]:
    """All commands registered by Mercurial and the extensions enabled in ``ui``, except ``batch``, which is ours.

    An extension's command is omitted if Mercurial's own HTTP server does not serve it.
    """
    enabled = {name for name, _ in extensions.extensions(ui)}
    commands = {}
    # Another thread may load an extension in the meantime.
    for key, entry in dict(wireprotov1server.commands).items():
        if key == b"batch" or _TRANSPORT not in entry.transports or not wireprotoserver.iscmd(key):
            continue
        owner = _extension_of(entry.func)
        if owner is None or owner in enabled or key.decode("latin-1") in _STANDARD:
            command = _declare(key, entry)
            commands[command.name] = command
    return commands
