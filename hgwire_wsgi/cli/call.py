"""``hgwire call``: run one command on a server."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import BinaryIO

from ..client import Client, V1Client, V2Client
from ..client.connection import printable
from ..framing import Atom
from . import CommandLineError, add_timeout, open_input

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire call``."""
    parser.add_argument("url", metavar="URL", help="of the repository; user and password may stand in it")
    parser.add_argument("name", metavar="COMMAND", help="the command to run")
    parser.add_argument("arguments", metavar="ARG=VALUE", nargs="*", help="its arguments")
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--v1", dest="version", action="store_const", const=1, default=1, help="HTTP version 1")
    version.add_argument("--v2", dest="version", action="store_const", const=2, help="HTTP version 2, with frames")
    parser.add_argument("--data", metavar="FILE", help='what the command reads besides; "-" is standard input')
    parser.add_argument(
        "--push", action="store_true", help="version 2: call it as a command that changes the repository"
    )
    parser.add_argument("--output", metavar="FILE", help="where the reply goes; standard output unless given")
    add_timeout(parser, 60)


def run(args: argparse.Namespace) -> int:
    """Write the reply, and to standard error what the server has to say.  The exit code is 1 for an error."""
    arguments = dict(_argument(text) for text in args.arguments)
    permission = "push" if args.push else None
    with (
        _client(args) as client,
        _data(args.data) as data,
        client.call(args.name, arguments, data=data, permission=permission) as reply,
        _out(args.output) as out,
    ):
        for piece in reply:
            out.write(piece)
            out.flush()
    return 0


def _argument(text: str) -> tuple[str, bytes]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CommandLineError(f"an argument is NAME=VALUE, not {text!r}")
    return name, os.fsencode(value)


def _client(args: argparse.Namespace) -> Client:
    if args.version == 1:
        return V1Client(args.url, timeout=args.timeout)
    return V2Client(args.url, timeout=args.timeout, on_text=_say)


def _say(atom: Atom) -> None:
    sys.stderr.write(printable(atom.render()))


def _data(name: str | None) -> contextlib.AbstractContextManager[BinaryIO | None]:
    return contextlib.nullcontext() if name is None else open_input(name)


def _out(name: str | None) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdout.buffer) if name is None else open(name, "wb")
