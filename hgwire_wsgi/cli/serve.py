"""``hgwire serve``: repositories, or a demonstration repository, over HTTP with gunicorn.

Nothing here imports Mercurial.  The workers do, after the fork, and the process that starts them stays small.  What an
``hgweb.config`` says about the address is read by a short-lived process (:mod:`hgwire_wsgi.cli.webconf`).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs

from ..cache.settings import CacheSettings
from ..cache.stores.folder import FolderStore
from . import CommandLineError
from .address import check_address, read_address, shown_address
from .demo import hg_command, make_demonstration
from .operations import OperationPrinter
from .options import Served, add_options, read_options
from .webconf import Mounted, WebSettings, read_web

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["configure", "run"]

_EXTRAS = {"gunicorn": "serve", "mercurial": "mercurial"}
"""Modules that serving requires, and the extras of this distribution that install them."""

_DEFAULT_ADDRESS = "127.0.0.1:8000"

_DEMONSTRATION = "hgwire-demo"
"""Name of the demonstration repository."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire serve``."""
    parser.epilog = (
        "A single repository is served at /.  The repositories in a single folder are served at their paths below it; "
        "new ones are found while the server runs.  Several PATHs are served at /NAME each, with the folder's name in "
        "front of the repositories in a folder.  An hgweb.config is served as hg serve --web-conf serves it, at the "
        "address that it sets.  Without PATH, a demonstration repository is created, which accepts "
        "pushes from anyone and is removed when the server stops."
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="PATH", help="repository, folder of repositories, or hgweb.config")
    add(
        "--bind",
        metavar="ADDRESS",
        help="HOST:PORT, PORT, :PORT for all addresses of this machine, or unix:PATH (default: web.address and "
        f"web.port of an hgweb.config, otherwise {_DEFAULT_ADDRESS}); port 0 picks a free one",
    )
    add("--pages", action="store_true", help="show Mercurial's own pages to browsers, as hg serve does")
    add("--workers", type=_positive, metavar="N", help="number of processes (default: 2)")
    add("--threads", type=_positive, metavar="N", help="requests that each process serves at once (default: 128)")
    add_options(parser)
    add(
        "--recover",
        dest="config",
        action="append_const",
        const="hgwire.recover=yes",
        help="roll back the transaction of a push that was killed, before the next push; by default, an administrator "
        "must run hg recover",
    )
    add("--htpasswd", metavar="FILE", help="verify users and passwords with FILE, written by Apache's htpasswd")
    add("-q", "--quiet", action="store_true", help="do not print who cloned, pulled and pushed")
    add("--access-log", metavar="FILE", help="log every request to FILE; - for standard output")
    add("--error-log", metavar="FILE", help="log the server's messages to FILE (default: warnings to standard error)")
    add("--pid-file", metavar="FILE", help="write the server's process ID to FILE while it runs")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0 after a requested shutdown, otherwise gunicorn's exit code.

    Raises:
        CommandLineError: if something cannot be served, or a required distribution is not installed.
    """
    for module, extra in (_EXTRAS if args.htpasswd is None else {**_EXTRAS, "passlib": "htpasswd"}).items():
        if importlib.util.find_spec(module) is None:
            raise CommandLineError(f'{module} is not installed; run: pip install "hgwire-wsgi[{extra}]"', code=1)
    identity = _identity(args.htpasswd)
    args.allow_push |= not args.paths
    served = attrs.evolve(read_options(args, may_be_empty=True), pages=args.pages)
    web = read_web(served) if served.is_config_file else WebSettings()
    address = read_address(args.bind or web.bind or _DEFAULT_ADDRESS)
    check_address(address)
    settings = _gunicorn_settings(args, address, web)
    _stop_by_unwinding()
    if args.paths:
        return _serve(served, settings, _served_banner, quiet=args.quiet, prefix=web.prefix, **identity)
    with _temporary_folder() as folder:
        # Ignore the hgrc of this machine and of its user, here and in the workers.
        os.environ["HGRCPATH"] = ""
        demonstration = folder / _DEMONSTRATION
        make_demonstration(demonstration)
        # Its bundles are removed with it.
        cache = served.cache if args.cache_dir else attrs.evolve(served.cache, folder=folder / "cache")
        served = attrs.evolve(served, root=str(demonstration), cache=cache)
        return _serve(served, settings, _demonstration_banner, quiet=args.quiet, **identity)


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return int(text)


def _served_banner(url: str) -> str:
    return f"Serving {url}"


def _demonstration_banner(url: str) -> str:
    hg = "hg" if shutil.which("hg") else " ".join(hg_command())
    trial = "" if url.startswith("unix:") else f"  Try:\n\n    {hg} clone {url} {_DEMONSTRATION}\n"
    return (
        f"A demonstration repository is served at {url}\n"
        f"It accepts pushes from anyone, and is removed when this server stops.{trial}"
    )


def _gunicorn_settings(args: argparse.Namespace, address: str, web: WebSettings) -> dict[str, Any]:
    """The settings of gunicorn that the command line or an ``hgweb.config`` overrides."""
    error_log = args.error_log or web.error_log
    given = {
        "bind": address,
        "workers": args.workers,
        "threads": args.threads,
        "accesslog": args.access_log or web.access_log,
        "errorlog": error_log,
        "certfile": web.certificate,
        "pidfile": args.pid_file,
        # On a terminal, the banner replaces gunicorn's messages about its start.
        "loglevel": None if error_log else "warning",
    }
    return {name: value for name, value in given.items() if value is not None}


def _identity(path: str | None) -> dict[str, Any]:
    """The argument of the application that verifies passwords."""
    if path is None:
        return {}
    from ..access.htpasswd import HtpasswdFile
    from ..access.identity import basic

    try:
        return {"identify": basic(HtpasswdFile(path))}
    except OSError as error:
        raise CommandLineError(f"{path} cannot be read: {error.strerror}") from error


def _serve(
    served: Served,
    settings: Mapping[str, Any],
    banner: Callable[[str], str],
    *,
    quiet: bool,
    prefix: str = "",
    **identity: Any,
) -> int:
    from gunicorn.errors import HaltServer

    from .gunicorn_app import Server

    def ready(listener: object) -> None:
        shown = shown_address(listener)
        print(banner(shown + prefix.lstrip("/") if shown.endswith("/") else shown), flush=True)

    def app() -> WSGIApplication:
        made = served.wsgi(observers=observers, **identity)
        return Mounted(made, prefix) if prefix else made

    _check_cache(served.cache)
    observers = () if quiet else _printers(served)
    try:
        Server(app, settings, ready).run()
    except SystemExit as stop:
        # This is how gunicorn ends, in the server as well as in its workers.
        return stop.code if isinstance(stop.code, int) else 0
    except HaltServer as failure:
        # No worker could start, which is logged.  While gunicorn halts for the first one, the second one raises this.
        if "pidfile" in settings:
            Path(settings["pidfile"]).unlink(missing_ok=True)
        return int(failure.exit_status)
    return 0


def _check_cache(settings: CacheSettings) -> None:
    """Print a warning if bundles cannot be cached.  Each worker logs it, too, when it makes its first bundle."""
    if settings.disk and settings.folder is not None:
        try:
            FolderStore(settings.folder, settings.disk)
        except OSError as error:
            print(f"hgwire: bundles are not cached: {error.filename}: {error.strerror}", file=sys.stderr)


def _printers(served: Served) -> tuple[OperationPrinter, ...]:
    """The observer that prints operations, if there is a standard output."""
    if sys.stdout is None:
        return ()
    root = Path(served.root).resolve().name if isinstance(served.root, str) else ""
    return (OperationPrinter(sys.stdout.fileno(), sys.stdout.encoding, root),)


def _stop_by_unwinding() -> None:
    """Let SIGTERM and SIGINT unwind the stack until gunicorn handles them, so that temporary files are removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is removed by the process that made it, not by the workers, which unwind the same stack."""
    folder = Path(tempfile.mkdtemp(prefix="hgwire-"))
    owner = os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder)
