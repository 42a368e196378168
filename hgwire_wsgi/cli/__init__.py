"""The command line ``hgwire``: one table of sub-commands, each in a module of its own.

A module is imported only when its sub-command is named, so that ``hgwire frames`` does not pay for gunicorn.  It
offers ``configure(parser)``, which declares its arguments, and ``run(args)``, which returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import attrs

from .._version import __version__

__all__ = ["SUBCOMMANDS", "CommandLineError", "Subcommand", "main"]


class CommandLineError(Exception):
    """What the user asked for cannot be done.  The text is one line for that user.

    Args:
        message: what is wrong and, where known, what to do about it.
        code: exit code of the process; 2 is what argparse uses for a wrong command line.
    """

    def __init__(self, message: str, *, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


@attrs.frozen
class Subcommand:
    """One entry of :data:`SUBCOMMANDS`."""

    module: str
    """Name of the module, inside this package, that holds ``configure`` and ``run``."""

    summary: str
    """One line for ``hgwire --help``."""


SUBCOMMANDS = {
    "call": Subcommand("call", "run one command on a server"),
    "commands": Subcommand("commands", "print the table of wire protocol commands"),
    "frames": Subcommand("frames", "encode, decode and check the frames of HTTP version 2"),
    "probe": Subcommand("probe", "tell what a server speaks, and what is wrong with it"),
    "serve": Subcommand("serve", "serve repositories, or a demonstration repository, over HTTP"),
    "warm": Subcommand("warm", "make the bundles of full clones ahead of time"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, or that of a :class:`CommandLineError` after its text was printed to standard error.

    Raises:
        SystemExit: from argparse, for ``--help``, ``--version`` and a command line it cannot parse.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="hgwire", description="Mercurial's HTTP wire protocol as a WSGI component.")
    parser.add_argument("--version", action="version", version=f"hgwire {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, subcommand in SUBCOMMANDS.items():
        chosen = choices.add_parser(name, help=subcommand.summary, description=subcommand.summary + ".")
        if name in arguments:
            module = importlib.import_module("." + subcommand.module, __name__)
            module.configure(chosen)
            chosen.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except CommandLineError as error:
        print(f"hgwire: {error}", file=sys.stderr)
        return error.code
    except BrokenPipeError:
        # Whoever read our output has seen enough.  Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
