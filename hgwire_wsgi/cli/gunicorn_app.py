"""gunicorn run from inside this process, with the settings of :mod:`hgwire_wsgi.cli.gunicorn_settings`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from . import CommandLineError, gunicorn_settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["Server"]


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn is not typed.
    """A server whose configuration comes from the caller alone: neither command line, nor environment, nor files.

    Args:
        make_app: called in every worker.
        settings: what differs from the defaults.
    """

    def __init__(self, make_app: Callable[[], WSGIApplication], settings: Mapping[str, Any]) -> None:
        self._make_app = make_app
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Hand the settings to gunicorn; called by it, and again after SIGHUP."""
        for name, value in {**vars(gunicorn_settings), **self._settings}.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        """Make the application; called by gunicorn in each worker.

        Raises:
            SystemExit: if it cannot be made, which is said here, because gunicorn would print a traceback.
        """
        try:
            return self._make_app()
        except CommandLineError as error:
            print(f"hgwire: {error}", file=sys.stderr)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
