"""``debugreflect``: reports how the server parses the frames of a request, for authors of clients."""

from __future__ import annotations

import json
from typing import Any

import attrs

from ...errors import BodyTooLarge
from ...framing import Action, BufferedCommands, Error, Revision, RunCommand, ServerReactor, read_frame
from ...limits import Limits
from ...streams import Readable

__all__ = ["reflect"]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _json(value: object) -> str:
    # Argument values are bytes, or of the revision's own types.
    return json.dumps(value, sort_keys=True, default=_text)


def _describe(action: Action, state: str) -> tuple[str, dict[str, Any]]:
    if isinstance(action, RunCommand):
        return "runcommand", {
            "args": {_text(name): value for name, value in action.arguments.items()},
            "command": _text(action.name),
            "data": action.data,
            "requestid": action.request_id,
        }
    if isinstance(action, Error):
        return "error", {"message": action.message}
    return "wantframe", {"state": state}


def reflect(body: Readable, revision: Revision, limits: Limits) -> bytes:
    """Feed frames to a reactor, and list each frame with the resulting action, as the reference does.

    Each frame gives two lines: its type, flags, request ID and payload; and the action as JSON.

    Args:
        body: the request body.
        revision: the framing revision.
        limits: ``reflected`` is the maximum size of the text, in bytes.

    Raises:
        RemoteProtocolError: if the body is not made of frames.  Other errors in frames are part of the text.
        RequestError: if the body cannot be read.
        BodyTooLarge: if the text is too long.
    """
    # A command is listed before its size can be checked.
    most = limits.reflected
    limits = attrs.evolve(
        limits,
        command_data=min(limits.command_data, most),
        command_argument_bytes=min(limits.command_argument_bytes, most),
    )
    reactor = ServerReactor(revision, limits)
    commands = BufferedCommands(reactor)
    lines: list[bytes] = []
    while (frame := read_frame(body, limits)) is not None:
        action = commands.receive_frame(frame)
        state = "command-receiving" if reactor.receiving else "idle"
        received = b"received: %d %d %d %s" % (frame.type_id, frame.flags, frame.request_id, frame.payload)
        done = _json(_describe(action, state)).encode("ascii")
        most -= len(received) + len(done)
        if most < 0:
            raise BodyTooLarge(f"the output of debugreflect exceeds {limits.reflected} bytes")
        lines += received, done
    end = commands.receive_eof()
    last = {"action": "error", "message": end.message} if isinstance(end, Error) else {"action": "noop"}
    return b"\n".join([*lines, b"received: <no frame>", _json(last).encode("ascii")])
