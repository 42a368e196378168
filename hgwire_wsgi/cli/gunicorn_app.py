"""gunicorn run inside this process, with the settings of :mod:`hgwire_wsgi.cli.gunicorn_settings`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from . import CommandLineError, gunicorn_settings
from .gunicorn_hooks import stop_quietly

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["Server"]

_PATIENCE = 1.0
"""Seconds from Ctrl-C until a person wants to know what the server is waiting for."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn is not typed.
    """A server that is configured by its caller alone: not by a command line, the environment or files.

    Ctrl-C lets transfers in progress continue for ``graceful_timeout``; a second one ends them.

    Args:
        make_app: called in every worker.
        settings: gunicorn settings that differ from the defaults.
        ready: called with gunicorn's listening socket when the server listens.
    """

    def __init__(
        self,
        make_app: Callable[[], WSGIApplication],
        settings: Mapping[str, Any],
        ready: Callable[[object], None] = lambda listener: None,
    ) -> None:
        self._make_app = make_app
        self._settings = settings
        self._ready = ready
        super().__init__()

    def load_config(self) -> None:
        """Pass the settings to gunicorn; called by it, and again after SIGHUP."""
        hooks = {"when_ready": self._listening, "post_worker_init": stop_quietly}
        for name, value in {**vars(gunicorn_settings), **hooks, **self._settings}.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        """Make the application; called by gunicorn in each worker.

        Raises:
            SystemExit: if that fails.  The reason is printed here, because gunicorn would print a traceback.
        """
        try:
            return self._make_app()
        except CommandLineError as error:
            print(f"hgwire: {error}", file=sys.stderr)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _listening(self, arbiter: Any) -> None:
        """Take over SIGINT in gunicorn's master, which does not pass on a second one.

        It may come before the master has passed on the first one, so it is passed on as SIGALRM.
        """
        begin: Any = signal.getsignal(signal.SIGINT)
        stopping = False

        def interrupted(number: int, frame: FrameType | None) -> None:
            nonlocal stopping
            if stopping:
                arbiter.kill_workers(signal.SIGALRM)
                return
            stopping = True
            notice = threading.Timer(_PATIENCE, _say_what_keeps_it, [arbiter.cfg.graceful_timeout])
            notice.daemon = True
            notice.start()
            begin(number, frame)

        signal.signal(signal.SIGINT, interrupted)
        self._ready(arbiter.LISTENERS[0])


def _say_what_keeps_it(seconds: int) -> None:
    print(f"Waiting up to {seconds} seconds for transfers to end; press Ctrl-C again to stop them", flush=True)
