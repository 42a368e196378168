"""Mercurial's HTTP wire protocol as a WSGI component.

The public names are here; each is imported from its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .access.admission import Admission
    from .access.combine import all_of, default_policy, maintenance, read_only, repository_read_only
    from .access.hgweb import hgweb_policy
    from .access.identity import Identify, IdentityRequest, basic, bearer, first_of, remote_user, trusted_header
    from .access.login import login_first
    from .access.proxies import TrustedProxies
    from .access.request import AccessRequest, CommandCall, Policy, View, repeatable
    from .cache.settings import CacheSettings
    from .commands.arguments import Argument
    from .commands.classify import WireRequest
    from .commands.context import CommandContext
    from .commands.registry import Command, CommandRegistry
    from .commands.responses import (
        BytesResponse,
        LegacyStreamResponse,
        OutOfBandError,
        PushError,
        PushResponse,
        StreamResponse,
    )
    from .compression import BZIP2, NONE, ZLIB, ZSTD, Engine
    from .errors import HgWireError, PermissionDenied, RepositoryNotFound, Unavailable
    from .events import (
        Changegroup,
        ChangegroupMade,
        CommandReport,
        PushChanges,
        RepositoryRecovered,
        RequestClosed,
        RequestStarted,
    )
    from .http.app import WireApp, WireMiddleware
    from .http.authorize import AuthorizeApp
    from .http.deadlines import Deadlines
    from .http.v1.input import classify
    from .http.v2.api import ApiSettings
    from .limits import Limits
    from .negotiation import ServerCapabilities
    from .observers import log_requests
    from .repositories.base import Lease, Repository, RepositoryProvider

__all__ = [
    "BZIP2",
    "NONE",
    "ZLIB",
    "ZSTD",
    "AccessRequest",
    "Admission",
    "ApiSettings",
    "Argument",
    "AuthorizeApp",
    "BytesResponse",
    "CacheSettings",
    "Changegroup",
    "ChangegroupMade",
    "Command",
    "CommandCall",
    "CommandContext",
    "CommandRegistry",
    "CommandReport",
    "Deadlines",
    "Engine",
    "HgWireError",
    "Identify",
    "IdentityRequest",
    "Lease",
    "LegacyStreamResponse",
    "Limits",
    "OutOfBandError",
    "PermissionDenied",
    "Policy",
    "PushChanges",
    "PushError",
    "PushResponse",
    "Repository",
    "RepositoryNotFound",
    "RepositoryProvider",
    "RepositoryRecovered",
    "RequestClosed",
    "RequestStarted",
    "ServerCapabilities",
    "StreamResponse",
    "TrustedProxies",
    "Unavailable",
    "View",
    "WireApp",
    "WireMiddleware",
    "WireRequest",
    "__version__",
    "all_of",
    "basic",
    "bearer",
    "classify",
    "default_policy",
    "first_of",
    "hgweb_policy",
    "log_requests",
    "login_first",
    "maintenance",
    "read_only",
    "remote_user",
    "repeatable",
    "repository_read_only",
    "trusted_header",
]

_MODULES = {
    "access.admission": ("Admission",),
    "access.combine": (
        "all_of",
        "default_policy",
        "maintenance",
        "read_only",
        "repository_read_only",
    ),
    "access.hgweb": ("hgweb_policy",),
    "access.identity": (
        "Identify",
        "IdentityRequest",
        "basic",
        "bearer",
        "first_of",
        "remote_user",
        "trusted_header",
    ),
    "access.login": ("login_first",),
    "access.proxies": ("TrustedProxies",),
    "access.request": (
        "AccessRequest",
        "CommandCall",
        "Policy",
        "View",
        "repeatable",
    ),
    "cache.settings": ("CacheSettings",),
    "commands.arguments": ("Argument",),
    "commands.classify": ("WireRequest",),
    "commands.context": ("CommandContext",),
    "commands.registry": (
        "Command",
        "CommandRegistry",
    ),
    "commands.responses": (
        "BytesResponse",
        "LegacyStreamResponse",
        "OutOfBandError",
        "PushError",
        "PushResponse",
        "StreamResponse",
    ),
    "compression": (
        "BZIP2",
        "NONE",
        "ZLIB",
        "ZSTD",
        "Engine",
    ),
    "errors": (
        "HgWireError",
        "PermissionDenied",
        "RepositoryNotFound",
        "Unavailable",
    ),
    "events": (
        "Changegroup",
        "ChangegroupMade",
        "CommandReport",
        "PushChanges",
        "RepositoryRecovered",
        "RequestClosed",
        "RequestStarted",
    ),
    "http.app": (
        "WireApp",
        "WireMiddleware",
    ),
    "http.authorize": ("AuthorizeApp",),
    "http.deadlines": ("Deadlines",),
    "http.v1.input": ("classify",),
    "http.v2.api": ("ApiSettings",),
    "limits": ("Limits",),
    "negotiation": ("ServerCapabilities",),
    "observers": ("log_requests",),
    "repositories.base": (
        "Lease",
        "Repository",
        "RepositoryProvider",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
