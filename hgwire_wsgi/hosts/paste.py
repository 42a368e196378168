"""Factories for PasteDeploy, the ``.ini`` format of Pyramid's ``pserve`` and other loaders.

::

    [app:hg]
    use = call:hgwire_wsgi.hosts.paste:app_factory
    root = /srv/hg
    config =
        web.allow-push = alice, bob

Settings of both factories:

``root``
    a repository, served at ``/``, or a folder of repositories, each served at its path below it; or
``repositories``
    lines of ``name = path``, for repositories in different places;
``config``
    lines of ``section.name = value``: Mercurial configuration for all repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .. import WireApp, WireMiddleware
from ..repositories.mercurial import MercurialProvider

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["app_factory", "filter_factory"]


def app_factory(global_conf: Mapping[str, str], **settings: str) -> WireApp:
    """Make an application that answers wire requests only (``paste.app_factory``).

    Args:
        global_conf: the ``[DEFAULT]`` section; not used.
        **settings: see the module.

    Raises:
        ValueError: for an unknown setting, a malformed line, or unless exactly one of ``root`` and ``repositories`` is
            given.
    """
    root = settings.pop("root", None)
    repositories = dict(_pair(line) for line in _lines(settings.pop("repositories", "")))
    config = ["=".join(_pair(line)) for line in _lines(settings.pop("config", ""))]
    if settings:
        raise ValueError(f"unknown settings: {', '.join(sorted(settings))}")
    if (root is None) == (not repositories):
        raise ValueError("set exactly one of root and repositories")
    return WireApp(MercurialProvider(repositories if root is None else root, config=config))


def filter_factory(global_conf: Mapping[str, str], **settings: str) -> Callable[[WSGIApplication], WireMiddleware]:
    """Make a filter that answers wire requests and passes all others on (``paste.filter_factory``).

    Args:
        global_conf: the ``[DEFAULT]`` section; not used.
        **settings: see the module.

    Raises:
        ValueError: as for :func:`app_factory`.
    """
    wire = app_factory(global_conf, **settings)
    return lambda pages: WireMiddleware(pages, wire=wire)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pair(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"not of the form name = value: {line!r}")
    return name.strip(), value.strip()
