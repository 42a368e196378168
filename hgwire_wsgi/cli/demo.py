"""The demonstration repository of ``hgwire serve``: small, with one of everything that a clone transfers.

The installed ``hg`` makes it through its command server, one process for the whole history, because starting ``hg``
thirty times would take longer than everything else.  Users, dates and contents are fixed, so every demonstration has
the same changeset identifiers.  No configuration file is read, neither the system's nor the user's.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from . import CommandLineError

__all__ = ["clean_environment", "hg_command", "make_demonstration"]

_USER = "Demo <demo@example.com>"
_EPOCH = 1_500_000_000
"""Date of the first changeset, in seconds since 1970; each further one is an hour later."""


def _png() -> bytes:
    """A 16 by 16 image in two colours, uncompressed, because compressed data differs between releases of zlib."""
    rows = b"".join(b"\0" + bytes(255 if (row ^ column) & 4 else 64 for column in range(16)) for row in range(16))
    chunks = (
        (b"IHDR", struct.pack(">2I5B", 16, 16, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@attrs.frozen
class _Step:
    """Files to write, then commands to run.  ``commit`` and ``tag`` also get a user and a date."""

    commands: tuple[tuple[str, ...], ...]
    files: Mapping[str, bytes] = attrs.field(factory=dict)
    executable: tuple[str, ...] = ()


_HELLO = b'def hello(name):\n    return f"Hello, {name}!"\n'

_HISTORY = (
    _Step(
        (("commit", "-A", "-m", "A greeting"),),
        {"README.txt": b"A demonstration repository, served by hgwire.\n", "hello.py": _HELLO},
    ),
    _Step((("commit", "-A", "-m", "Add a logo, which is binary"),), {"logo.png": _png()}),
    _Step(
        (("commit", "-A", "-m", "Add a script, which is executable"),),
        {"greet.sh": b"#!/bin/sh\nexec python3 -c \"import hello; print(hello.hello('you'))\"\n"},
        ("greet.sh",),
    ),
    _Step((("tag", "1.0"), ("branch", "stable"), ("commit", "-m", "Open the stable branch"))),
    _Step(
        (("commit", "-m", "Fix: greet nobody politely"), ("tag", "1.0.1")),
        {"hello.py": _HELLO.replace(b"{name}", b"{name or 'you'}")},
    ),
    _Step((("update", "default"), ("rename", "hello.py", "greeting.py"), ("commit", "-m", "Rename hello.py"))),
    _Step(
        (("commit", "-A", "-m", "Say where the logo is from"),),
        {"README.txt": b"A demonstration repository, served by hgwire.\n\nThe logo was made by a program.\n"},
    ),
    _Step(
        (("branch", "farewell"), ("commit", "-A", "-m", "Start to say goodbye"), ("bookmark", "review")),
        {"farewell.py": b'def farewell(name):\n    return f"Goodbye, {name}!"\n'},
    ),
    _Step((("update", "default"), ("merge", "stable"), ("commit", "-m", "Merge stable"), ("bookmark", "-i", "next"))),
)
"""The whole history: three branches, a merge that carries a fix through a rename, two tags, two bookmarks."""


def clean_environment() -> dict[str, str]:
    """The environment for an ``hg`` that ignores the configuration of the machine and of its user."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HG")}
    return {**inherited, "HGRCPATH": "", "HGPLAIN": "1", "HGENCODING": "utf-8"}


def hg_command() -> list[str]:
    """The command that starts the Mercurial of this interpreter.

    Returns:
        The ``hg`` beside the interpreter.  If there is none (``pip install --user``), the interpreter itself with
        Mercurial's module.
    """
    script = Path(sys.executable).with_name("hg")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "mercurial"]


def make_demonstration(root: Path) -> None:
    """Make the demonstration repository.

    Args:
        root: the path of the repository; it must not exist yet, but its parent must.

    Raises:
        CommandLineError: if ``hg`` cannot be run or fails.
    """
    with _command_server(root.parent) as server:
        server.run("init", str(root))
        clock = _EPOCH
        for step in _HISTORY:
            for name, content in step.files.items():
                (root / name).write_bytes(content)
            for name in step.executable:
                (root / name).chmod(0o755)
            for command in step.commands:
                stamp: tuple[str, ...] = ()
                if command[0] in ("commit", "tag"):
                    stamp = ("-u", _USER, "-d", f"{clock} 0")
                    clock += 3600
                server.run("--cwd", str(root), *command, *stamp)
        # The files would become outdated: pushes do not update the working directory.
        server.run("--cwd", str(root), "update", "null")


@attrs.frozen
class _CommandServer:
    """Client of ``hg serve --cmdserver pipe``: see ``hg help scripting`` and the wiki page CommandServer.

    Both directions are length-prefixed: the server sends a channel (one byte) and a big-endian length, then the
    data.
    """

    requests: IO[bytes]
    replies: IO[bytes]

    def receive(self) -> tuple[bytes, bytes]:
        """Read the next message.

        Returns:
            Its channel and its data.

        Raises:
            CommandLineError: if the server ended.
        """
        head = self.replies.read(5)
        if len(head) < 5:
            raise CommandLineError("the installed hg did not start; try it with: hg version", code=1)
        channel, size = struct.unpack(">cI", head)
        return channel, self.replies.read(size)

    def run(self, *command: str) -> None:
        """Run one command and ignore its output.

        Raises:
            CommandLineError: if it fails; the message has its output.
        """
        payload = b"\0".join(os.fsencode(word) for word in command)
        self.requests.write(b"runcommand\n" + struct.pack(">I", len(payload)) + payload)
        self.requests.flush()
        printed = b""
        while True:
            channel, data = self.receive()
            if channel == b"r":
                break
            printed += data
        if data != struct.pack(">i", 0):
            reason = printed.decode("utf-8", "replace").strip().replace("\n", "; ")
            raise CommandLineError(f"hg {' '.join(command)} failed: {reason}", code=1)


@contextmanager
def _command_server(folder: Path) -> Iterator[_CommandServer]:
    command = [*hg_command(), "serve", "--cmdserver", "pipe", "--noninteractive"]
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    except OSError as error:
        raise CommandLineError(f"cannot run {command[0]}: {error.strerror}", code=1) from error
    with process:
        assert process.stdin is not None and process.stdout is not None
        server = _CommandServer(process.stdin, process.stdout)
        server.receive()  # The greeting, which lists what the server can do.
        yield server
        process.stdin.close()
