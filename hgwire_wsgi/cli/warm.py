"""``hgwire warm``: make the bundles of full clones before anybody asks for them.

What a client asks for depends on its version, its configuration, and what the server offers, and the smallest
difference makes another bundle.  So a real ``hg clone`` is begun, and broken off when it asks for the bundle; what it
asked is then asked of the application in this process, which keeps the answer as it would in a server.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, make_server

import attrs

from ..commands.classify import names_command
from ..commands.standard import STANDARD_COMMANDS
from ..compression import ENGINES
from ..negotiation import HG_ERROR, MEDIA_TYPE_01, MEDIA_TYPE_02, read_client_protocol
from . import CommandLineError
from .demo import clean_environment, hg_command
from .options import add_options, read_options

__all__ = ["configure", "run"]

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]

_BUNDLES = {
    command.name for command in STANDARD_COMMANDS if command.reply in ("stream", "legacy") and command.cacheable
}
_MANIFESTS = {"clonebundles", "clonebundles_manifest"}
"""Answered with nothing: a client that finds a bundle in there would fetch it from wherever that is."""

_PROTOCOLS = {"0.1": "", **{name: f"0.1 0.2 comp={name}" for name in ENGINES}}
"""What ``--engine`` takes, and the ``X-HgProto`` of a client that has nothing else."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire warm``."""
    parser.epilog = (
        "Run it as the user that the server runs as, and with the server's --config, --allow-push and --cache-dir: all "
        "of them decide what is kept, and under which key."
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="REPO", help="a repository, or a folder of repositories")
    add_options(parser)
    add(
        "--engine",
        action="append",
        choices=list(_PROTOCOLS),
        help="make bundles for clients that take this engine alone, 0.1 for those older than 4.1; repeatable; by "
        "default for what the client prefers",
    )
    add(
        "--hg",
        action="append",
        type=_words,
        metavar="COMMAND",
        help="the client to make bundles for; repeatable; the installed hg by default",
    )


def run(args: argparse.Namespace) -> int:
    """Make the bundles, and print a line for each repository.

    Returns:
        0 if all bundles are there now, 1 if not.

    Raises:
        CommandLineError: for what could not be served either.
    """
    if importlib.util.find_spec("mercurial") is None:
        raise CommandLineError('mercurial is not installed; run: pip install "hgwire-wsgi[mercurial]"', code=1)
    served = read_options(args)
    if not served.cache.disk:
        raise CommandLineError("nothing can be kept with --cache-size 0")
    if served.cache.folder is None:
        raise CommandLineError("this user has no folder for caches; name one with --cache-dir")
    clients = args.hg or [hg_command()]
    protocols = [_PROTOCOLS[name] for name in args.engine or ()]
    warmer = _Warmer(served.app(policy=lambda request: None), Path(served.cache.folder))
    complete = True
    for name, path in served.repositories.items():
        try:
            kept = [bundle for client in clients for bundle in warmer.warm(name, client, protocols)]
            told = "; ".join(dict.fromkeys(map(str, kept))) or "nothing to clone"
            complete &= all(bundle.entry is not None for bundle in kept)
        except _Failure as failure:
            told, complete = str(failure), False
        print(f"{path}: {told}", flush=True)
    if lost := [entry for entry in warmer.made if not entry.exists()]:
        print(f"hgwire: bundles that were dropped for others: {len(lost)}; see --cache-size", file=sys.stderr)
    return 0 if complete and not lost else 1


def _words(text: str) -> list[str]:
    with contextlib.suppress(ValueError):
        if words := shlex.split(text):
            return words
    raise argparse.ArgumentTypeError(f"not a command: {text!r}")


class _Failure(Exception):
    """There is no bundle, for the reason that the text gives."""


@attrs.frozen
class _Question:
    """A request for a bundle, as a client sent it."""

    environ: Mapping[str, Any]
    body: bytes


@attrs.frozen
class _Bundle:
    """What became of a question; ``entry`` is the file in the cache, if there is one."""

    engine: str
    size: int
    entry: Path | None
    made: bool

    def __str__(self) -> str:
        fate = "made" if self.made else "already there" if self.entry else "not kept, by a hook's will or for its size"
        return f"{self.engine}, {self.size / 2**20:.1f} MiB, {fate}"


@attrs.frozen
class _Warmer:
    """Asks an application for bundles, and looks into its cache for what became of them."""

    app: _App
    folder: Path
    made: list[Path] = attrs.Factory(list)

    def warm(self, name: str, client: Sequence[str], protocols: Sequence[str]) -> Iterator[_Bundle]:
        """Make the bundles of one repository.

        Args:
            name: the repository's.
            client: how to start ``hg``.
            protocols: values of ``X-HgProto``; what the client sends if there is none.

        Raises:
            _Failure: if the client does not come so far as to ask, or gets an error.
        """
        question = _overhear(self.app, name, client)
        if question is None:
            return
        # Else a client that knows it gets the bundle of an older state, if there is one.
        tokens = read_client_protocol(question.environ).tokens
        own = " ".join(token for token in tokens if token != "partial-pull")
        for protocol in dict.fromkeys(protocols or [own]):
            before = self._entries()
            engine, size = _ask(self.app, question, protocol)
            after = self._entries()
            changed = [path for path, stamp in after.items() if stamp[0] == size and before.get(path) != stamp]
            entry = changed[0] if changed else None
            made = entry is not None and entry not in before
            if made:
                self.made.extend(changed)
            yield _Bundle(engine, size, entry, made)

    def _entries(self) -> dict[Path, tuple[int, int]]:
        """The complete entries, with size and time of use."""
        found = {}
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            # A server that uses the folder may drop one at any moment.
            with contextlib.suppress(FileNotFoundError):
                if ".part" not in path.name:
                    status = path.stat()
                    found[path] = status.st_size, status.st_mtime_ns
        return found


def _overhear(app: _App, name: str, client: Sequence[str]) -> _Question | None:
    """What a client asks for that clones a repository; ``None`` if there is nothing to clone."""
    questions: list[_Question] = []

    def listen(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        commands = set(names_command(environ))
        # Only servers that send files themselves have it.
        environ.pop("wsgi.file_wrapper", None)
        if commands & _BUNDLES:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            questions.append(_Question(environ, body))
            start_response("503 Service Unavailable", [("Content-Type", HG_ERROR), ("Content-Length", "0")])
            return [b""]
        if commands & _MANIFESTS:
            start_response("200 OK", [("Content-Type", MEDIA_TYPE_01), ("Content-Length", "0")])
            return [b""]
        return app(environ, start_response)

    with _listening(listen) as url, tempfile.TemporaryDirectory(prefix="hgwire-") as folder:
        command = [*client, "clone", "--noupdate", url + quote(os.fsencode(name)), f"{folder}/clone"]
        try:
            done = subprocess.run(command, env=clean_environment(), capture_output=True)
        except OSError as error:
            raise CommandLineError(f"cannot run {client[0]}: {error.strerror}", code=1) from error
    if not questions and done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _Failure(f"hg cannot clone it: {said[-1] if said else f'exit code {done.returncode}'}")
    return questions[0] if questions else None


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _listening(app: Any) -> Iterator[str]:
    """A server for this machine alone; gives its URL."""
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _ask(app: _App, question: _Question, protocol: str) -> tuple[str, int]:
    """Take the reply to a question, until it is known to be complete.

    Args:
        app: the application.
        question: what to ask.
        protocol: for ``X-HgProto-1``.

    Returns:
        The name of its engine (``0.1`` where none is told), and its size.

    Raises:
        _Failure: if the reply is an error.
    """
    environ = {key: value for key, value in question.environ.items() if not key.startswith("HTTP_X_HGPROTO_")}
    environ |= {"wsgi.input": io.BytesIO(question.body), "HTTP_X_HGPROTO_1": protocol}
    status, headers = "", dict[str, str]()

    def start_response(line: str, given: list[tuple[str, str]], exc_info: object = None) -> None:
        nonlocal status
        status = line
        headers.update(given)

    chunks: Any = app(environ, start_response)
    first, size = b"", 0
    try:
        for chunk in chunks:
            first = first or chunk
            size += len(chunk)
            if "Content-Length" in headers:
                size = int(headers["Content-Length"])
                break
    finally:
        getattr(chunks, "close", lambda: None)()
    if not status.startswith("200 ") or headers["Content-Type"] == HG_ERROR:
        raise _Failure(f"the server refuses: {first.decode('utf-8', 'replace').strip().removeprefix('0').strip()}")
    # A bundle gets its name after its last byte was sent.
    for thread in threading.enumerate():
        if thread.name == "hgwire-maker":
            thread.join()
    told = headers["Content-Type"] == MEDIA_TYPE_02
    return first[1 : 1 + first[0]].decode("ascii") if told else "0.1", size
