"""``debugreflect``: what a server understands of the frames sent to it, for whoever writes a client."""

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


def _describe(action: Action, state: str) -> tuple[str, dict[str, Any]]:
    if isinstance(action, RunCommand):
        return "runcommand", {
            "args": {_text(name): _text(value) for name, value in action.arguments.items()},
            "command": _text(action.name),
            "data": None if action.data is None else _text(action.data),
            "requestid": action.request_id,
        }
    if isinstance(action, Error):
        return "error", {"message": action.message}
    return "wantframe", {"state": state}


def reflect(body: Readable, revision: Revision, limits: Limits) -> bytes:
    """Feed frames to a reactor and write down each of them and what came of it, as the reference does.

    Every frame is a line of its type, flags, request ID and payload, and a line of JSON.

    Raises:
        RemoteProtocolError: where the bytes are no frames; commands that are wrong are told in the text.
        RequestError: if the body cannot be read.
        BodyTooLarge: if there is more to tell than ``limits.reflected``.
    """
    # What one command brings is written down before it can be measured.
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
        done = json.dumps(_describe(action, state), sort_keys=True).encode("ascii")
        most -= len(received) + len(done)
        if most < 0:
            raise BodyTooLarge(f"debugreflect tells no more than {limits.reflected} bytes")
        lines += received, done
    end = commands.receive_eof()
    told = {"action": "error", "message": end.message} if isinstance(end, Error) else {"action": "noop"}
    return b"\n".join([*lines, b"received: <no frame>", json.dumps(told, sort_keys=True).encode("ascii")])
