"""The command ``hgwire``: a table of sub-commands, each in its own module.

A module is imported only when its sub-command is named, so that ``hgwire frames`` does not load gunicorn.  It defines
``configure(parser)``, which declares its arguments, and ``run(args)``, which returns the exit code.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

import attrs

from .._version import __version__
from ..errors import HgWireError

__all__ = ["SUBCOMMANDS", "CommandLineError", "Subcommand", "add_timeout", "main", "open_input"]


class CommandLineError(Exception):
    """The request on the command line cannot be carried out.

    Args:
        message: one line for the user: what is wrong and, where known, what to do about it.
        code: exit code of the process; 2, as from argparse, is for a wrong command line.
    """

    def __init__(self, message: str, *, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@attrs.frozen
class Subcommand:
    """One entry of :data:`SUBCOMMANDS`."""

    module: str
    """Name of the module, inside this package, that defines ``configure`` and ``run``."""

    summary: str
    """One line for ``hgwire --help``."""


SUBCOMMANDS = {
    "cache": Subcommand("cache", "check the cache of bundles"),
    "call": Subcommand("call", "run one command on a server"),
    "commands": Subcommand("commands", "print the table of wire protocol commands"),
    "frames": Subcommand("frames", "encode, decode and check the frames of HTTP version 2"),
    "probe": Subcommand("probe", "report what a server supports, and what is wrong with it"),
    "serve": Subcommand("serve", "serve repositories, or a demonstration repository, over HTTP"),
    "warm": Subcommand("warm", "build the bundles of full clones ahead of time"),
}


def add_timeout(parser: argparse.ArgumentParser, default: float) -> None:
    """Declare ``--timeout`` for a sub-command that is a client."""
    text = f"give up after this many seconds without data (default: {default:g})"
    parser.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=default, help=text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) <= threading.TIMEOUT_MAX:
            return seconds
    raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}")


def open_input(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a file for reading.  ``-`` is standard input, which is not closed afterwards."""
    return contextlib.nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        argv: arguments after the program's name (default: those of the process).

    Returns:
        The exit code: that of the sub-command, or of a :class:`CommandLineError`; 1 for an error of a server or in a
        file's contents, 2 if a file cannot be opened, read or written, 130 after SIGINT, 1 if the reader of the output
        went away.  The reason was printed to standard error.

    Raises:
        SystemExit: from argparse, for ``--help``, ``--version`` and a command line that it cannot parse.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="hgwire", description="Mercurial's HTTP wire protocol as a WSGI component.")
    parser.add_argument("--version", action="version", version=f"hgwire {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, subcommand in SUBCOMMANDS.items():
        description = subcommand.summary[0].upper() + subcommand.summary[1:] + "."
        chosen = choices.add_parser(name, help=subcommand.summary, description=description)
        if name in arguments:
            module = importlib.import_module("." + subcommand.module, __name__)
            module.configure(chosen)
            chosen.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # File names and replies of servers may contain characters that the terminal's encoding does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    problem = ""
    try:
        code: int = args.run(args)
        print(end="", flush=True)
    except CommandLineError as error:
        problem, code = str(error), error.code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output, such as ``head``, has seen enough.
        code = 1
    except HgWireError as error:
        problem, code = error.message, 1
    except OSError as error:
        problem, code = _plain(error), 2
    try:
        print(end="", flush=True)
    except OSError:
        # Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if problem:
        print(f"hgwire: {problem}", file=sys.stderr)
    return code


def _plain(error: OSError) -> str:
    """Say what the system refused, without the error's number."""
    if error.strerror is None:
        return str(error)
    names = filter(None, (error.filename, error.filename2))
    return ": ".join([*(os.fsdecode(name) for name in names if not isinstance(name, int)), error.strerror])
