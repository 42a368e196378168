"""``hgwire frames``: convert frames between bytes and text, and run recorded exchanges through a reactor."""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ..framing import (
    REVISIONS,
    Action,
    ClientReactor,
    CommandData,
    Error,
    Frame,
    Request,
    ResponseData,
    ResponseError,
    Revision,
    RunCommand,
    SendFrames,
    ServerReactor,
    Signal,
    TextOutput,
    encode_frame,
    explain,
    format_frame,
    parse_frame,
    read_frame,
)
from ..limits import Limits
from ..streams import Readable
from . import CommandLineError, open_input

__all__ = ["configure", "run"]

_PIECE = 64 * 1024
# Frames that no server accepts should be visible too; only the header bounds them.
_ANY_SIZE = Limits(frame_payload=(1 << 24) - 1)
_EPILOG = """\
A line of text is a frame:

    <request-id> <stream-id> <stream-flags> <type> <flags> <payload>

separated by single spaces.  IDs are numbers; types and flags are names or numbers; several flags are joined by "|";
the payload has the escapes of a Python bytes literal.  Empty lines and lines that begin with "#" are skipped.

    1 1 stream-begin command-name have-args listkeys
    1 1 0 command-argument eoa \\x09\\x00\\x09\\x00namespacebookmarks
"""

_XXD = re.compile(r"[0-9A-Fa-f]+: ")
_HEXDUMP = re.compile(r"[0-9A-Fa-f]{7,8}  ")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire frames``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "--revision",
        choices=sorted(REVISIONS),
        default=next(iter(REVISIONS)),
        help="framing revision (default: %(default)s)",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    encode = actions.add_parser("encode", help="convert lines of text to bytes")
    encode.add_argument("file", nargs="?", default="-", help="lines of text (default: standard input)")
    encode.set_defaults(do=_encode)

    decode = actions.add_parser("decode", help="convert bytes to lines of text")
    decode.add_argument("file", nargs="?", default="-", help="bytes (default: standard input)")
    decode.add_argument("--hex", action="store_true", help="read hexadecimal digits, or output of xxd or hexdump -C")
    decode.add_argument("--explain", action="store_true", help="explain every field")
    decode.set_defaults(do=_decode)

    check = actions.add_parser("check", help="run recorded frames through a reactor and print its actions")
    check.add_argument("requests", metavar="REQUESTS", help="the bytes that the client sent")
    check.add_argument("responses", metavar="RESPONSES", nargs="?", help="the bytes that the server sent")
    check.add_argument(
        "--format", choices=sorted(_READERS), default="raw", help="format of both files (default: raw bytes)"
    )
    check.set_defaults(do=_check)


def run(args: argparse.Namespace) -> int:
    """Run one of the three actions.  The exit code is 1 if frames break the protocol."""
    do: Callable[[argparse.Namespace, Revision], int] = args.do
    return do(args, REVISIONS[args.revision])


def _lines(file: BinaryIO, revision: Revision) -> Iterator[Frame]:
    """Parse lines of text as frames."""
    for number, line in enumerate(file, start=1):
        text = line.rstrip(b"\r\n")
        if text.strip() and not text.startswith(b"#"):
            try:
                yield parse_frame(text, revision)
            except ValueError as error:
                raise CommandLineError(f"line {number}: {error}") from error


class _Pieces:
    """A file made of an iterator of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""

    def read(self, size: int, /) -> bytes:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = piece
        data, self._piece = self._piece[:size], self._piece[size:]
        return data


def _undump(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a hexadecimal dump, a line at a time."""
    hexdump = False
    for number, line in enumerate(io.TextIOWrapper(file, encoding="latin-1"), start=1):
        text = line.strip()
        if offset := _XXD.match(text):
            text = text[offset.end() :].partition("  ")[0]
        elif offset := _HEXDUMP.match(text):
            hexdump = True
            text = text[offset.end() :].partition("|")[0]
        elif hexdump:
            # The last line is only an offset.  "*" stands for lines left out, and is an error.
            text = "" if len(text) in (7, 8) else text
        try:
            yield bytes.fromhex(text)
        except ValueError as error:
            raise CommandLineError(f"line {number} is not a hexadecimal dump") from error


_READERS: dict[str, Callable[[BinaryIO, Revision], Readable]] = {
    "raw": lambda file, revision: file,
    "hex": lambda file, revision: _Pieces(_undump(file)),
    "text": lambda file, revision: _Pieces(encode_frame(frame, _ANY_SIZE) for frame in _lines(file, revision)),
}


def _encode(args: argparse.Namespace, revision: Revision) -> int:
    with open_input(args.file) as file:
        for frame in _lines(file, revision):
            sys.stdout.buffer.write(encode_frame(frame, _ANY_SIZE))
    sys.stdout.buffer.flush()
    return 0


def _decode(args: argparse.Namespace, revision: Revision) -> int:
    with open_input(args.file) as file:
        source = _READERS["hex" if args.hex else "raw"](file, revision)
        while (frame := read_frame(source, _ANY_SIZE)) is not None:
            print(format_frame(frame, revision))
            if args.explain:
                print(explain(encode_frame(frame, _ANY_SIZE), revision), end="\n\n")
    return 0


def _check(args: argparse.Namespace, revision: Revision) -> int:
    server = ServerReactor(revision)
    client = ClientReactor(revision)
    print("server receives")
    code = 0
    for action in _feed(server, args.requests, args.format):
        code |= _show(action)
        if isinstance(action, RunCommand):
            # The client expects an answer, as if it had sent the command itself.
            request = Request(action.request_id, revision.client_waiting, name=action.name, sent=True)
            client.requests[action.request_id] = request
    if args.responses is not None:
        print("client receives")
        for action in _feed(client, args.responses, args.format):
            code |= _show(action)
    return code


def _feed(reactor: ServerReactor | ClientReactor, name: str, form: str) -> Iterator[Action]:
    with open_input(name) as file:
        source = _READERS[form](file, reactor.revision)
        while data := source.read(_PIECE):
            yield from reactor.receive_data(data)
            if reactor.failure is not None:
                return
    yield reactor.receive_eof()


def _bytes(data: bytes) -> str:
    return repr(data)[1:]


def _value(value: object) -> str:
    """An argument: bytes, or a value that has a type in the revision."""
    return _bytes(value) if isinstance(value, bytes) else repr(value)


def _run_command(action: RunCommand) -> str:
    arguments = "".join(f" {_bytes(name)}={_value(value)}" for name, value in sorted(action.arguments.items()))
    return f"request {action.request_id}: {_bytes(action.name)}{arguments}{' with data' * action.has_data}"


def _data(action: CommandData | ResponseData) -> str:
    return f"request {action.request_id}: {len(action.data)} bytes{' (final)' * action.final} {_bytes(action.data)}"


def _text(action: TextOutput) -> str:
    return f"request {action.request_id}: {_bytes(b''.join(atom.render() for atom in action.atoms))}"


_SHOWN: dict[type, Callable[..., str]] = {
    RunCommand: _run_command,
    CommandData: _data,
    ResponseData: _data,
    ResponseError: lambda action: f"request {action.request_id}: {action.kind or 'error'} {_bytes(action.message)}",
    TextOutput: _text,
    Error: lambda action: action.message,
    Signal: lambda action: "",
    SendFrames: lambda action: "",
}


def _show(action: Action) -> int:
    """Print an action, and return the exit code that it causes."""
    name = repr(action) if isinstance(action, Signal) else type(action).__name__
    print(f"  {name:14} {_SHOWN[type(action)](action)}".rstrip())
    return int(isinstance(action, Error))
