"""``hgwire warm``: make the bundles of full clones before anyone asks for them.

What a client asks for depends on its version, its configuration, and what the server offers, and the smallest
difference makes another bundle.  So a real ``hg clone`` is started, and stopped when it asks for the bundle.  The same
request then goes to the application in this process, which caches the answer as it would in a server.
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

from ..cache.stores.base import StoredFile
from ..cache.stores.folder import FolderStore
from ..commands.classify import names_command
from ..commands.standard import STANDARD_COMMANDS
from ..compression import ENGINES
from ..http.app import WireApp
from ..http.headers import Headers
from ..negotiation import HG_ERROR, MEDIA_TYPE_01, MEDIA_TYPE_02, read_client_protocol
from ..streams import close_source
from . import CommandLineError
from .demo import clean_environment, hg_command
from .options import add_options, read_options

__all__ = ["configure", "run"]

_App = Callable[[dict[str, Any], Any], Iterable[bytes]]

_BUNDLES = {
    command.name for command in STANDARD_COMMANDS if command.reply in ("stream", "legacy") and command.cacheable
}
_MANIFESTS = {"clonebundles", "clonebundles_manifest"}
"""Answered with an empty reply; otherwise the client would fetch a bundle listed there instead."""

_PROTOCOLS = {"0.1": "", **{name: f"0.1 0.2 comp={name}" for name in ENGINES}}
"""Values of ``--engine``, and the ``X-HgProto`` of a client that supports only this engine."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire warm``."""
    parser.epilog = (
        "Run it as the same user as the server, and with the server's --config, --allow-push and --cache-dir: all of "
        "these affect the key of a bundle."
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="REPO", help="a repository, or a folder of repositories")
    add_options(parser)
    add(
        "--engine",
        action="append",
        choices=list(_PROTOCOLS),
        help="make bundles for clients that accept only this engine, 0.1 for clients before 4.1; repeatable "
        "(default: what the client prefers)",
    )
    add(
        "--hg",
        action="append",
        type=_words,
        metavar="COMMAND",
        help="the client to make bundles for; repeatable (default: the installed hg)",
    )


def run(args: argparse.Namespace) -> int:
    """Make the bundles, and print a line for each repository.

    Returns:
        0 if all bundles are cached now, 1 if not.

    Raises:
        CommandLineError: for what could not be served either.
    """
    if importlib.util.find_spec("mercurial") is None:
        raise CommandLineError('mercurial is not installed; run: pip install "hgwire-wsgi[mercurial]"', code=1)
    served = read_options(args)
    if not served.cache.disk:
        raise CommandLineError("nothing can be cached with --cache-size 0")
    if served.cache.folder is None:
        raise CommandLineError("this user has no cache folder; set one with --cache-dir")
    clients = args.hg or [hg_command()]
    protocols = [_PROTOCOLS[name] for name in args.engine or ()]
    try:
        store = _WatchedStore(served.cache.folder, served.cache.disk)
    except OSError as error:
        raise CommandLineError(
            f"bundles cannot be cached in {served.cache.folder}: {error.strerror}", code=1
        ) from error
    served = attrs.evolve(served, cache=attrs.evolve(served.cache, bundle_store=lambda: store))
    warmer = _Warmer(served.app(policy=lambda request: None), store)
    complete = True
    for name, path in served.repositories.items():
        try:
            bundles = [bundle for client in clients for bundle in warmer.warm(name, client, protocols)]
            report = "; ".join(dict.fromkeys(map(str, bundles))) or "nothing to clone"
            complete &= all(bundle.cached for bundle in bundles)
        except _Failure as failure:
            report, complete = str(failure), False
        print(f"{path}: {report}", flush=True)
    if evicted := warmer.count_evicted():
        count = "1 bundle was" if evicted == 1 else f"{evicted} bundles were"
        print(f"hgwire: {count} evicted; raise --cache-size", file=sys.stderr)
    return 0 if complete and not evicted else 1


def _words(text: str) -> list[str]:
    with contextlib.suppress(ValueError):
        if words := shlex.split(text):
            return words
    raise argparse.ArgumentTypeError(f"not a command: {text!r}")


class _Failure(Exception):
    """There is no bundle, for the reason that the text gives."""


class _WatchedStore(FolderStore):
    """The bundle cache of the server, which remembers the key of the bundle that was requested.

    That is the first one it is asked for after ``key`` was reset; others may follow, to make this one from.
    """

    key = ""
    was_stored = False

    def open(self, key: str, *, shared: bool = False) -> StoredFile | None:
        stored = super().open(key, shared=shared)
        if self.key in ("", key):
            self.key, self.was_stored = key, stored is not None
        return stored


@attrs.frozen
class _Question:
    """A request for a bundle, as a client sent it."""

    environ: Mapping[str, Any]
    body: bytes

    def with_protocol(self, protocol: str) -> _Question:
        """The same request with another ``X-HgProto``."""
        environ = {key: value for key, value in self.environ.items() if not key.startswith("HTTP_X_HGPROTO_")}
        return _Question({**environ, "HTTP_X_HGPROTO_1": protocol}, self.body)


@attrs.frozen
class _Bundle:
    """The result of a question."""

    engine: str
    size: int
    cached: bool
    made: bool

    def __str__(self) -> str:
        result = "made" if self.made else "already cached"
        if not self.cached:
            result = "not cached (hook configured, or too large)"
        return f"{self.engine}, {self.size / 2**20:.1f} MiB, {result}"


@attrs.frozen
class _Warmer:
    """Asks an application for bundles, and looks into its store for what became of them."""

    app: WireApp
    store: _WatchedStore
    made: list[str] = attrs.Factory(list)

    def warm(self, name: str, client: Sequence[str], protocols: Sequence[str]) -> Iterator[_Bundle]:
        """Make the bundles of one repository.

        Args:
            name: the repository's.
            client: how to start ``hg``.
            protocols: values of ``X-HgProto`` (default: what the client sends).

        Raises:
            _Failure: if the client does not get as far as asking, or gets an error.
        """
        question = _overhear(self.app, name, client)
        if question is None:
            return
        # Otherwise a client that knows it would get the bundle of an older state, if there is one.
        tokens = read_client_protocol(Headers(question.environ)).tokens
        own = " ".join(token for token in tokens if token != "partial-pull")
        for protocol in dict.fromkeys(protocols or [own]):
            self.store.key, self.store.was_stored = "", False
            engine, size = self._ask(question.with_protocol(protocol))
            key = self.store.key
            cached = key != "" and self._is_stored(key)
            made = cached and not self.store.was_stored
            if made:
                self.made.append(key)
            yield _Bundle(engine, size, cached, made)

    def count_evicted(self) -> int:
        """The number of bundles that were made and are gone already."""
        return sum(not self._is_stored(key) for key in self.made)

    def _is_stored(self, key: str) -> bool:
        return os.path.exists(self.store.path(key))

    def _ask(self, question: _Question) -> tuple[str, int]:
        """Read the reply to a question as far as needed, and wait until its bundle is complete.

        Returns:
            The name of its engine (``0.1`` if it is not named), and its size in bytes.

        Raises:
            _Failure: if the reply is an error.
        """
        status, headers = "", dict[str, str]()

        def start_response(line: str, given: list[tuple[str, str]], exc_info: object = None) -> None:
            nonlocal status
            status = line
            headers.update(given)

        chunks: Any = self.app({**question.environ, "wsgi.input": io.BytesIO(question.body)}, start_response)
        first, size = b"", 0
        try:
            for chunk in chunks:
                first = first or chunk
                size += len(chunk)
                if "Content-Length" in headers:
                    size = int(headers["Content-Length"])
                    break
        finally:
            close_source(chunks)
        if not status.startswith("200 ") or headers["Content-Type"] == HG_ERROR:
            raise _Failure(f"the server refuses: {first.decode('utf-8', 'replace').strip().removeprefix('0').strip()}")
        if self.app.bundles is not None:
            self.app.bundles.wait()
        named = headers["Content-Type"] == MEDIA_TYPE_02
        return first[1 : 1 + first[0]].decode("ascii") if named else "0.1", size


def _overhear(app: _App, name: str, client: Sequence[str]) -> _Question | None:
    """Record the bundle request of a client that clones a repository; ``None`` if there is nothing to clone."""
    questions: list[_Question] = []

    def listen(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        commands = set(names_command(environ.get("QUERY_STRING", "")))
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
