"""Mercurial's commands as ours: declarations, arguments, replies."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
from mercurial import extensions, wireprototypes, wireprotov1server

from ...commands.arguments import Argument
from ...commands.context import CommandContext
from ...commands.registry import Command, stricter
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
from ...errors import CommandFailed
from .checks import check, check_bundle
from .errors import translated_chunks, translated_request

__all__ = ["registered_commands"]

_STANDARD = {command.name: command for command in STANDARD_COMMANDS}
_TRANSPORT = b"http-v1"
_READ_SIZE = 32 * 1024


class _Protocol:
    """What Mercurial's commands ask of the transport."""

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
        ui, output = self._ui, io.BytesIO()
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


_CONVERTERS: dict[type, Callable[[Any], Response]] = {
    bytes: BytesResponse,
    wireprototypes.bytesresponse: lambda reply: BytesResponse(reply.data),
    wireprototypes.streamres: lambda reply: StreamResponse(
        translated_chunks(reply.gen), prefer_uncompressed=reply.prefer_uncompressed
    ),
    wireprototypes.streamreslegacy: lambda reply: LegacyStreamResponse(translated_chunks(reply.gen)),
    # A bundle2 push that asks for no bundle2 reply has no result of the old kind: it failed, or it did not.
    wireprototypes.pushres: lambda reply: PushResponse(1 if reply.res is None else int(reply.res), reply.output),
    wireprototypes.pusherr: lambda reply: PushError(reply.res, reply.output),
    wireprototypes.ooberror: lambda reply: OutOfBandError(reply.message),
}


class _Environ(Mapping[bytes, Any]):
    """The WSGI environ as in-process hooks find it in ``ui.environ``: with bytes for strings."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __getitem__(self, name: bytes) -> Any:
        value = self._environ[name.decode("latin-1")]
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value

    def __iter__(self) -> Iterator[bytes]:
        return (name.encode("latin-1") for name in self._environ)

    def __len__(self) -> int:
        return len(self._environ)


_KINDS = {b"nodes": "nodes", b"csv": "csv", b"scsv": "csv", b"boolean": "boolean"}

_SHORT_REPLIES = frozenset({"lheads", "statlfile", "x_rfl_getfile", "x_rfl_getflogheads"})
"""Commands of Mercurial's extensions that its clients put into batches; any other may answer with a stream."""


def _bridge(name: str) -> Callable[..., Response]:
    """A handler that runs Mercurial's own function for a command."""
    key = name.encode("latin-1")

    def run(context: CommandContext, **_: Any) -> Response:
        local = getattr(context.repository, "local", None)
        if local is None:
            raise CommandFailed(f"{name} needs a Mercurial repository")
        if name == "unbundle":
            context = attrs.evolve(context, body=check_bundle(context.body))
        arguments = dict(context.arguments)
        hidden = _shows_hidden(context, arguments.pop("access-hidden", b""))
        protocol = _Protocol(context, local.ui)
        local.ui.environ = _Environ(context.environ)
        with translated_request(name):
            repo = wireprotov1server.getdispatchrepo(local, protocol, key, hidden)
            function, spec = wireprotov1server.commands[key]
            check(name, repo, arguments)
            result = function(repo, protocol, *_positional(spec, arguments))
        return _CONVERTERS[type(result)](result)

    run.__name__ = name
    return run


def _shows_hidden(context: CommandContext, wanted: bytes) -> bool:
    """Whether a request asks to see hidden changesets, and its user is one that the configuration allows to."""
    if not wanted:
        return False
    allowed = context.repository.settings("experimental", "server.allow-hidden-access")
    return bool(allowed) and context.repository.is_member(context.user or "", allowed)


def _positional(spec: bytes, arguments: Mapping[str, bytes]) -> list[Any]:
    """The arguments of a command in the order of Mercurial's declaration, which is ours too."""
    names = [word.decode("latin-1") for word in spec.split()]
    rest = {key.encode("latin-1"): value for key, value in arguments.items() if key not in names}
    return [rest if word == "*" else arguments[word] for word in names]


def _declare(key: bytes, entry: Any) -> Command:
    """Mercurial's declaration of a command as ours; a standard command keeps what we know more of it."""
    name = key.decode("latin-1")
    permission = entry.permission.decode("ascii")
    handler = _bridge(name)
    if standard := _STANDARD.get(name):
        permission = stricter(permission, standard.permission)
        cacheable = standard.cacheable and permission == "pull"
        command = attrs.evolve(standard, handler=handler, permission=permission, cacheable=cacheable, overridable=False)
        if name != "getbundle":
            return command
        # Extensions add arguments; all others are dropped.
        kinds = {
            key.decode("ascii"): _KINDS.get(kind, "bytes") for key, kind in wireprototypes.GETBUNDLE_ARGUMENTS.items()
        }
        arguments = tuple(Argument(key, kind, required=False) for key, kind in kinds.items())
        return attrs.evolve(command, arguments=arguments, rest=False)
    words = entry.args.decode("latin-1").split()
    return Command(
        name=name,
        handler=handler,
        permission=permission,
        arguments=tuple(Argument(word) for word in words if word != "*"),
        rest="*" in words,
        reply="bytes" if name in _SHORT_REPLIES else "stream",
        body=permission == "push",
    )


def _extension_of(function: Any) -> bytes | None:
    """The loaded extension that a function belongs to."""
    owner = getattr(function, "__module__", None) or ""
    for name, module in extensions.extensions():
        if owner == module.__name__ or owner.startswith(module.__name__ + "."):
            return bytes(name)
    return None


def registered_commands(ui: Any) -> dict[str, Command]:
    """Every command that Mercurial and the extensions enabled in ``ui`` register, but ``batch``, which is ours."""
    enabled = {name for name, _ in extensions.extensions(ui)}
    commands = {}
    for key, entry in wireprotov1server.commands.items():
        if key == b"batch" or _TRANSPORT not in entry.transports:
            continue
        command = _declare(key, entry)
        owner = _extension_of(entry.func)
        if owner is None or owner in enabled or command.name in _STANDARD:
            commands[command.name] = command
    return commands
