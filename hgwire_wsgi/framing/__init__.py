"""The frame-based protocol without I/O: frames, streams, and a reactor for each side.

A server that receives a whole request before it answers::

    def serve(request_body, run, write):
        reactor = ServerReactor(EXP_0002, defer_output=True)
        stream = OutgoingStream(2)
        for action in reactor.receive_data(request_body):
            if isinstance(action, RunCommand):
                reactor.send_response(stream, action.request_id, run(action.name, action.arguments))
        action = reactor.receive_eof()
        if isinstance(action, Error):
            # The responses so far, then an error for whatever was incomplete.
            action = reactor.send_failure(stream)
        if isinstance(action, SendFrames):
            for chunk in iter_chunks(action.frames):
                write(chunk)

``docs/framing.rst`` shows more: clients, command data, worker threads, encoded streams.
"""

from .actions import (
    NOOP,
    WANT_FRAME,
    Action,
    CommandData,
    Error,
    ResponseData,
    ResponseError,
    RunCommand,
    SendFrames,
    Signal,
    TextOutput,
)
from .buffered import BufferedCommands
from .client import ClientReactor
from .data import Data, Objects
from .exp0002 import EXP_0002
from .frame import Frame, FrameBuffer, encode_frame, iter_chunks, read_frame
from .header import (
    HEADER_SIZE,
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    STREAM_FLAGS,
    Header,
    pack_header,
    parse_header,
)
from .human import explain, format_frame, parse_frame
from .revision import Request, Revision
from .server import ServerReactor
from .streams import IDENTITY, PROFILES, ZLIB, ZSTD_8MB, OutgoingStream, Profile
from .textoutput import Atom, decode_atoms, encode_atoms

REVISIONS = {revision.name: revision for revision in (EXP_0002,)}
"""Every revision by its name."""

__all__ = [
    "EXP_0002",
    "HEADER_SIZE",
    "IDENTITY",
    "NOOP",
    "PROFILES",
    "REVISIONS",
    "STREAM_BEGIN",
    "STREAM_ENCODED",
    "STREAM_END",
    "STREAM_FLAGS",
    "WANT_FRAME",
    "ZLIB",
    "ZSTD_8MB",
    "Action",
    "Atom",
    "BufferedCommands",
    "ClientReactor",
    "CommandData",
    "Data",
    "Error",
    "Frame",
    "FrameBuffer",
    "Header",
    "Objects",
    "OutgoingStream",
    "Profile",
    "Request",
    "ResponseData",
    "ResponseError",
    "Revision",
    "RunCommand",
    "SendFrames",
    "ServerReactor",
    "Signal",
    "TextOutput",
    "decode_atoms",
    "encode_atoms",
    "encode_frame",
    "explain",
    "format_frame",
    "iter_chunks",
    "pack_header",
    "parse_frame",
    "parse_header",
    "read_frame",
]
