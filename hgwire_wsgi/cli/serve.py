"""``hgwire serve``: repositories, or a demonstration repository, over HTTP with gunicorn.

Nothing here imports Mercurial: the workers do, after the fork, and the process that starts them stays small.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from . import CommandLineError
from .demo import hg_command, make_demonstration
from .options import Served, add_options, read_options

__all__ = ["configure", "run"]

_EXTRAS = {"gunicorn": "serve", "mercurial": "mercurial"}
"""Modules that serving needs, and the extras of this distribution that bring them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``hgwire serve``."""
    parser.epilog = (
        "One repository is served at /, those in one folder at their path below it, also when they come later, and "
        "several at /NAME, with a folder's name in front of those in it.  "
        "Without PATH a demonstration repository is made, which takes pushes from anyone and is removed at the end."
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="PATH", help="a repository, or a folder of repositories")
    add("--bind", default="127.0.0.1:8000", metavar="HOST:PORT", help="where to listen; port 0 takes a free one")
    add("--workers", type=_positive, metavar="N", help="processes")
    add("--threads", type=_positive, metavar="N", help="requests that each process runs at once")
    add_options(parser)
    add("--access-log", metavar="FILE", help="log of requests; - for standard output")
    add("--error-log", metavar="FILE", help="log of the server; - for standard error, where warnings go by default")
    add("--pid-file", metavar="FILE", help="holds the server's process number while it runs")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0 after a shutdown that was asked for; gunicorn's exit code otherwise.

    Raises:
        CommandLineError: for what cannot be served, or a distribution that is not installed.
    """
    for module, extra in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            raise CommandLineError(f'{module} is not installed; run: pip install "hgwire-wsgi[{extra}]"', code=1)
    settings = _gunicorn_settings(args)
    args.allow_push |= not args.paths
    served = read_options(args)
    _stop_by_unwinding()
    if args.paths:
        return _serve(served, settings, "Serving {url}")
    with _temporary_folder() as folder:
        # Neither the hgrc of this machine nor that of its user, here and in the workers.
        os.environ["HGRCPATH"] = ""
        demonstration = folder / "hgwire-demo"
        make_demonstration(demonstration)
        # Its bundles go with it.
        cache = served.cache if args.cache_dir else attrs.evolve(served.cache, folder=folder / "cache")
        return _serve(attrs.evolve(served, root=str(demonstration), cache=cache), settings, _demonstration_banner())


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"not a number from 1: {text!r}")
    return int(text)


def _demonstration_banner() -> str:
    hg = "hg" if shutil.which("hg") else " ".join(hg_command())
    return (
        "A demonstration repository is served at {url}\n"
        "It takes pushes from anyone, and is removed when this server stops.  Try:\n"
        f"\n    {hg} clone {{url}} hgwire-demo\n"
    )


def _gunicorn_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of gunicorn that the command line overrides.

    Raises:
        CommandLineError: for an address that cannot be listened at.  gunicorn itself would try for five seconds.
    """
    host, colon, port = args.bind.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
        raise CommandLineError(f"--bind takes HOST:PORT, not {args.bind!r}")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise CommandLineError(f"cannot listen at {args.bind}: {error}", code=1) from error
    given = {
        "bind": args.bind,
        "workers": args.workers,
        "threads": args.threads,
        "accesslog": args.access_log,
        "errorlog": args.error_log,
        "pidfile": args.pid_file,
        # On a terminal the banner says what there is to say.
        "loglevel": None if args.error_log else "warning",
    }
    return {name: value for name, value in given.items() if value is not None}


def _serve(served: Served, settings: Mapping[str, Any], banner: str) -> int:
    from gunicorn.errors import HaltServer

    from .gunicorn_app import Server

    def ready(arbiter: Any) -> None:
        print(banner.format(url=f"{arbiter.LISTENERS[0]}/"), flush=True)

    try:
        Server(served.app, {**settings, "when_ready": ready}).run()
    except SystemExit as stop:
        # gunicorn leaves in this way, in the server and, at their end, in its workers.
        return stop.code if isinstance(stop.code, int) else 0
    except HaltServer as failure:
        # No worker could start, which is logged.  gunicorn stumbles over the second one while it halts for the first.
        if "pidfile" in settings:
            Path(settings["pidfile"]).unlink(missing_ok=True)
        return int(failure.exit_status)
    return 0


def _stop_by_unwinding() -> None:
    """Let SIGTERM and SIGINT unwind the stack until gunicorn handles them, so that what was made is removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that the process which made it removes; the workers, which end by unwinding the same stack, do not."""
    folder = Path(tempfile.mkdtemp(prefix="hgwire-"))
    owner = os.getpid()
    try:
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder)
