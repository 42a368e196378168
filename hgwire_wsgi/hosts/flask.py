"""Mount a wire application inside a Flask application.

Wire requests never become Flask requests: ``before_request`` functions, sessions, ``MAX_CONTENT_LENGTH`` and form
parsing do not apply to them, so a push of any size streams.  Flask's authentication does not apply either; the wire
application's policy decides who may pull and push.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.middleware.dispatcher import DispatcherMiddleware

from . import mount_point

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from flask import Flask

__all__ = ["mount"]


def mount(flask_app: Flask, wire: WSGIApplication, prefix: str = "/hg") -> None:
    """Serve ``wire`` under a prefix of a Flask application.

    Args:
        flask_app: its ``wsgi_app`` is replaced, as Flask documents for middleware; ``flask_app`` itself remains usable.
        wire: a ``WireApp``, possibly wrapped in your own middleware.
        prefix: the path below which ``wire`` answers; it is moved from ``PATH_INFO`` to ``SCRIPT_NAME``.

    Raises:
        ValueError: if ``prefix`` is not a prefix.
    """
    dispatcher = DispatcherMiddleware(flask_app.wsgi_app, {mount_point(prefix): wire})
    flask_app.wsgi_app = dispatcher  # type: ignore[method-assign]  # As Flask documents it.
