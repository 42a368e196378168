"""The standard commands of version 1: their declarations, and their replies on the wire.

Names, arguments and replies are those observed in Mercurial 7.2.  A handler turns arguments into a call of the
repository, and what that returns into bytes; repositories with their own commands (see
``Repository.commands``) replace the handlers and keep the declarations.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..errors import CommandFailed, InvalidArgument, RequestError
from ..streams import close_source
from .arguments import Argument, ArgumentType, encode_nodes
from .batch import escape
from .context import CommandContext, Runnable
from .objects import NULL
from .registry import Command, Handler, Permission
from .responses import BytesResponse, OutOfBandError, Response, short_reply

__all__ = ["STANDARD_COMMANDS", "is_clone"]


def batch(context: CommandContext, cmds: bytes, rest: dict[str, bytes]) -> Response:
    """Run the sub-commands in order.

    The dispatcher has checked all of them, so the only possible error here is a sub-command that fails.  The type of a
    reply decides whether it can be batched: streams cannot.  A refusal replaces the reply of the whole batch.

    A cacheable sub-command that is repeated runs once, unless one that may change the repository ran in between.
    """
    replies: list[bytes] = []
    known: dict[int, bytes] = {}
    size = 0
    for sub in context.batch:
        reply = known.get(id(sub))
        if reply is None:
            response = sub.run()
            if isinstance(response, OutOfBandError):
                return response
            reply = _batched(sub, response)
            if sub.command.cacheable:
                known[id(sub)] = reply
            elif sub.command.permission != "pull":
                known.clear()
        replies.append(reply)
        size += len(reply) + 1
        if size > context.limits.batch_reply:
            raise RequestError(f"batch: the replies exceed {context.limits.batch_reply} bytes")
    return BytesResponse(b";".join(replies))


def _batched(sub: Runnable, response: Response) -> bytes:
    """The reply of a sub-command, escaped."""
    reply = short_reply(response)
    if reply is None:
        close_source(getattr(response, "chunks", None))
        raise InvalidArgument(f"batch: {sub.command.name} cannot be batched: its reply is a stream")
    return escape(reply)


def between(context: CommandContext, pairs: list[tuple[bytes, bytes]]) -> bytes:
    """For each pair, the nodes at distances 1, 2, 4, … from the first on the way to the second."""
    return b"".join(encode_nodes(_between(context, top, bottom)) + b"\n" for top, bottom in pairs)


def _between(context: CommandContext, top: bytes, bottom: bytes) -> list[bytes]:
    found, node, distance, wanted = [], top, 0, 1
    while node not in (bottom, NULL):
        if distance == wanted:
            found.append(node)
            wanted *= 2
        context.allowance.take("between")
        node = context.repository.parents(node)[0]
        distance += 1
    return found


def branches(context: CommandContext, nodes: list[bytes]) -> bytes:
    """For each node, the linear run that contains it: the node, the start of the run, and the start's two parents."""
    lines = []
    for node in nodes or [context.repository.heads()[0]]:
        context.allowance.take("branches")
        start, parents = node, context.repository.parents(node)
        while parents[1] == NULL and parents[0] != NULL:
            context.allowance.take("branches")
            start, parents = parents[0], context.repository.parents(parents[0])
        lines.append(encode_nodes([node, start, *parents]) + b"\n")
    return b"".join(lines)


def branchmap(context: CommandContext) -> bytes:
    """A line for each branch: its name, quoted, and its heads."""
    return b"\n".join(
        quote(name).encode("ascii") + b" " + encode_nodes(list(heads))
        for name, heads in context.repository.branchmap().items()
    )


def capabilities(context: CommandContext) -> bytes:
    """The capabilities, sorted."""
    return b" ".join(sorted({*context.repository.capabilities(), *context.capabilities}))


def changegroup(context: CommandContext, roots: list[bytes]) -> Response:
    """The descendants of ``roots``, themselves included."""
    return context.repository.changegroup(roots, None)


def changegroupsubset(context: CommandContext, bases: list[bytes], heads: list[bytes]) -> Response:
    """The changesets between ``bases`` and ``heads``, both included."""
    return context.repository.changegroup(bases, heads)


def clonebundles(context: CommandContext) -> bytes:
    """The manifest of clone bundles that any client understands."""
    return context.repository.clone_bundles(legacy=True)


def clonebundles_manifest(context: CommandContext, rest: dict[str, bytes]) -> bytes:
    """The manifest of clone bundles."""
    return context.repository.clone_bundles(legacy=False)


def get_cached_bundle_inline(context: CommandContext, path: bytes) -> Response:
    """A clone bundle that the manifest listed with a ``peer-bundle-cache://`` URL."""
    return context.repository.cached_bundle(path)


def getbundle(context: CommandContext, rest: dict[str, bytes], **arguments: Any) -> Response:
    """A bundle of the data that the client lacks."""
    return context.repository.getbundle(**arguments)


def heads(context: CommandContext) -> bytes:
    """The heads, newest first."""
    return encode_nodes(list(context.repository.heads())) + b"\n"


def hello(context: CommandContext) -> bytes:
    """The capabilities as a header line."""
    return b"capabilities: %s\n" % (short_reply(context.call("capabilities")) or b"")


def known(context: CommandContext, nodes: list[bytes], rest: dict[str, bytes]) -> bytes:
    """For each node, ``1`` if the repository has it, else ``0``."""
    return b"".join(b"1" if here else b"0" for here in context.repository.known(nodes))


def listkeys(context: CommandContext, namespace: bytes) -> bytes:
    """A line for each key of a namespace: the key, a tab, its value; sorted."""
    keys = context.repository.listkeys(namespace)
    return b"\n".join(b"%s\t%s" % (key, keys[key]) for key in sorted(keys))


def lookup(context: CommandContext, key: bytes) -> bytes:
    """``1`` and the node of a name, or ``0`` and the reason why there is none."""
    try:
        return b"1 %s\n" % binascii.hexlify(context.repository.lookup(key))
    except CommandFailed as error:
        return b"0 %s\n" % error.message.encode("utf-8", "surrogateescape")


def protocaps(context: CommandContext, caps: bytes) -> bytes:
    """Records the client's capabilities, on transports where requests do not carry them."""
    return b"OK"


def pushkey(context: CommandContext, namespace: bytes, key: bytes, old: bytes, new: bytes) -> bytes:
    """``1`` or ``0`` for whether the key was set, and the output of hooks."""
    result = context.repository.pushkey(namespace, key, old, new)
    return b"%d\n%s" % (result.success, result.output)


def stream_out(context: CommandContext) -> Response:
    """The store's files, unchanged."""
    return context.repository.stream_out()


def unbundle(context: CommandContext, heads: list[bytes]) -> Response:
    """Applies the bundle in the body."""
    return context.repository.unbundle(heads, context.body, context.client)


def _standard(
    handler: Handler,
    *arguments: Argument,
    permission: Permission = "pull",
    cacheable: bool = True,
    **declaration: Any,
) -> Command:
    return Command(
        name=handler.__name__,
        handler=handler,
        arguments=arguments,
        permission=permission,
        cacheable=cacheable and permission == "pull",
        overridable=True,
        version="v1",
        **declaration,
    )


def _optional(types: dict[str, ArgumentType]) -> Sequence[Argument]:
    return [Argument(name, each, required=False) for name, each in types.items()]


_GETBUNDLE_ARGUMENTS: dict[str, ArgumentType] = {
    "heads": "nodes",
    "bookmarks": "boolean",
    "common": "nodes",
    "obsmarkers": "boolean",
    "phases": "boolean",
    "bundlecaps": "csv",
    "listkeys": "csv",
    "cg": "boolean",
    "cbattempted": "boolean",
    "stream": "boolean",
    "includepats": "csv",
    "excludepats": "csv",
}

STANDARD_COMMANDS: tuple[Command, ...] = (
    _standard(batch, Argument("cmds"), rest=True),
    _standard(between, Argument("pairs", "pairs")),
    _standard(branches, Argument("nodes", "nodes")),
    _standard(branchmap),
    _standard(capabilities),
    _standard(changegroup, Argument("roots", "nodes"), reply="stream"),
    _standard(changegroupsubset, Argument("bases", "nodes"), Argument("heads", "nodes"), reply="stream"),
    _standard(clonebundles),
    _standard(clonebundles_manifest, rest=True),
    _standard(get_cached_bundle_inline, Argument("path"), reply="stream", cacheable=False),
    _standard(getbundle, *_optional(_GETBUNDLE_ARGUMENTS), rest=True, reply="stream"),
    _standard(heads),
    _standard(hello),
    _standard(known, Argument("nodes", "nodes"), rest=True),
    _standard(listkeys, Argument("namespace")),
    _standard(lookup, Argument("key")),
    _standard(protocaps, Argument("caps"), cacheable=False),
    _standard(pushkey, Argument("namespace"), Argument("key"), Argument("old"), Argument("new"), permission="push"),
    _standard(stream_out, reply="legacy"),
    _standard(unbundle, Argument("heads", "heads"), permission="push", reply="push", body=True),
)
"""The commands of ``CommandRegistry.standard()``."""


def is_clone(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a command asks for the whole history: the client names no changeset that it has.

    Args:
        name: of the command.
        arguments: its arguments, decoded.
    """
    if name == "getbundle":
        return not set(arguments.get("common", ())) - {NULL}
    return name == "stream_out" or (name == "changegroup" and set(arguments.get("roots", ())) == {NULL})
