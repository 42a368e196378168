"""The Mercurial backend: repositories on disk, through Mercurial in this process.

The only package that imports ``mercurial``.  Commands are Mercurial's own functions, so a reply is what Mercurial's
server would give, whatever extensions changed it; around them are our checks of arguments, errors and leases.

Mercurial keeps some state for a whole process, of which two pieces matter to a host: the character encoding (set here
to ``web.encoding``, or UTF-8), and extensions (one that any repository enables stays loaded; its commands are still
offered only for repositories that enable it).
"""

from __future__ import annotations

from .provider import MercurialProvider
from .repository import MercurialRepository

__all__ = ["MercurialProvider", "MercurialRepository"]
