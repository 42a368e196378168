"""``hgwire call``: run one command on a server."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Any, BinaryIO

from ..client import Client, V1Client, V2Client
from ..client.connection import printable
from ..framing import Atom
from . import CommandLineError, add_timeout, open_input

__all__ = ["configure", "run"]


class _IntermixedParser(argparse.ArgumentParser):
    """Accepts options between the positional arguments: ``URL COMMAND --v2 ARG=VALUE``.

    argparse offers that for a whole command line, but not for the one of a sub-command, which it parses with
    :meth:`parse_known_args`.
    """

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixed:
            # Python 3.11 and older come back here.
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire call``."""
    parser.__class__ = _IntermixedParser
    parser.add_argument("url", metavar="URL", help="URL of the repository; may include user and password")
    parser.add_argument("name", metavar="COMMAND", help="the command to run")
    parser.add_argument("arguments", metavar="ARG=VALUE", nargs="*", default=[], help="its arguments")
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--v1", dest="version", action="store_const", const=1, default=1, help="HTTP version 1")
    version.add_argument("--v2", dest="version", action="store_const", const=2, help="HTTP version 2, with frames")
    parser.add_argument("--data", metavar="FILE", help='request body that the command reads; "-" is standard input')
    parser.add_argument(
        "--push",
        action="store_true",
        help="declare that the command changes the repository; not needed for the standard commands",
    )
    parser.add_argument("--output", metavar="FILE", help="write the reply to this file (default: standard output)")
    add_timeout(parser, 60)


def run(args: argparse.Namespace) -> int:
    """Write the reply, and to standard error the text output of the server."""
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
        raise CommandLineError(f"an argument must be NAME=VALUE, not {text!r}")
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
