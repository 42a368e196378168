"""The arrival of a request: who sends it, and from where, before anything else is asked.

The answers go into a copy of the environ, in the variables that CGI has for them: ``REMOTE_USER``, ``REMOTE_ADDR`` and
``wsgi.url_scheme``.  So the policy, hooks, logs, and large files, whose URLs contain the scheme, see the same.  The
credentials are removed from the copy.  An application without identities and proxies makes no copy.
"""

from __future__ import annotations

from typing import Any

import attrs

from ..access.identity import Identify, IdentityRequest, wsgi_text
from ..access.proxies import TrustedProxies
from ..errors import LocalProtocolError
from ..limits import Limits
from .headers import Headers
from .message import Request

__all__ = ["Arrivals"]

_AUTHORIZATION = "HTTP_AUTHORIZATION"


@attrs.frozen
class Arrivals:
    """Makes requests from environs.

    Attributes:
        identify: finds out who the user is; ``None`` to keep ``REMOTE_USER``.
        proxies: the trusted proxies; ``None`` to keep address and scheme.
    """

    identify: Identify | None
    proxies: TrustedProxies | None

    def __call__(self, environ: dict[str, Any], limits: Limits) -> Request:
        """Make a request.  If the identity refuses it, the error is in ``Request.refusal``."""
        shown = dict(environ)
        if self.proxies is not None:
            self._locate(self.proxies, shown)
        request = Request(shown, limits)
        if self.identify is not None:
            given = shown.pop(_AUTHORIZATION, None)
            request.credentials = {} if given is None else {_AUTHORIZATION: given}
            shown.pop("REMOTE_USER", None)
            try:
                user = self._user(self.identify, request, environ)
            except Exception as error:
                request.refusal = error
            else:
                if user:
                    shown["REMOTE_USER"] = wsgi_text(user)
        return request

    @staticmethod
    def _locate(proxies: TrustedProxies, shown: dict[str, Any]) -> None:
        peer, scheme = shown.get("REMOTE_ADDR") or "", shown.get("wsgi.url_scheme") or "http"
        address, shown["wsgi.url_scheme"] = proxies.client(peer, scheme, Headers(shown).get)
        if address != peer:
            shown["REMOTE_ADDR"] = address
            # These belong to the proxy.
            shown.pop("REMOTE_HOST", None)
            shown.pop("REMOTE_PORT", None)

    @staticmethod
    def _user(identify: Identify, request: Request, environ: dict[str, Any]) -> str | None:
        user = identify(
            IdentityRequest(
                header=Headers(environ).get,
                peer=environ.get("REMOTE_ADDR") or "",
                address=request.address,
                scheme=request.scheme,
                environ=environ,
            )
        )
        if user is not None and not isinstance(user, str):
            raise LocalProtocolError(f"an identity must return a user or None, not {type(user).__name__}")
        return user
