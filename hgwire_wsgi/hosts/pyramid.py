"""Mount wire applications inside a Pyramid application.

::

    config.include("hgwire_wsgi.hosts.pyramid")
    config.add_hg_wire(app, prefix="/hg")

The router's execution policy intercepts wire requests: no tween, view, CSRF check or session sees
them, no Pyramid request is made, and only the wire application reads the body.  ``pyramid.wsgi.wsgiapp2`` is not used
because it copies the request, and with it the whole body, into memory.  Pyramid's security policy does not apply; the
wire application's policy decides who may pull and push.  To have routes and views, let a view return
``wire.respond(request)`` instead; see ``docs/embedding.rst``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from pyramid.config import PHASE3_CONFIG, Configurator
from pyramid.interfaces import IExecutionPolicy
from pyramid.router import Router, default_execution_policy

from . import mount_point

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["add_hg_wire", "includeme"]


@attrs.frozen
class _Mounted:
    """A wire application at its prefix, called in place of the response that Pyramid would have made."""

    app: WSGIApplication
    prefix: str

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        shifted = dict(environ)
        shifted["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + self.prefix
        shifted["PATH_INFO"] = environ["PATH_INFO"][len(self.prefix) :]
        return self.app(shifted, start_response)


@attrs.frozen
class _ExecutionPolicy:
    """Pyramid's outermost hook: wire requests go to ``mounted``, all others to the previous policy."""

    mounted: _Mounted
    inner: Any

    def __call__(self, environ: WSGIEnvironment, router: Router) -> Any:
        path = environ.get("PATH_INFO", "")
        if path == self.mounted.prefix or path.startswith(self.mounted.prefix + "/"):
            return self.mounted
        return self.inner(environ, router)


def add_hg_wire(config: Configurator, app: WSGIApplication | str, prefix: str = "/hg") -> None:
    """Serve ``app`` under a prefix of the Pyramid application; a directive of the configurator.

    Args:
        config: the configurator.
        app: a ``WireApp``, possibly wrapped in your own middleware, or its dotted name.
        prefix: the path below which ``app`` answers; it is moved from ``PATH_INFO`` to ``SCRIPT_NAME``.  The route
            prefix of an ``include`` is not added.  Two mounts at one prefix are a configuration conflict.

    Raises:
        ValueError: if ``prefix`` is not a prefix.
    """
    mounted = _Mounted(config.maybe_dotted(app), mount_point(prefix))

    def register() -> None:
        registry = config.registry
        inner = registry.queryUtility(IExecutionPolicy, default=default_execution_policy)
        registry.registerUtility(_ExecutionPolicy(mounted, inner), IExecutionPolicy)

    # After every set_execution_policy(): its policy, such as that of pyramid_retry, must remain the inner one.
    config.action(("hgwire_wsgi", mounted.prefix), register, order=PHASE3_CONFIG + 1)


def includeme(config: Configurator) -> None:
    """Add the directive ``config.add_hg_wire``; called by ``config.include("hgwire_wsgi.hosts.pyramid")``."""
    config.add_directive("add_hg_wire", add_hg_wire)
