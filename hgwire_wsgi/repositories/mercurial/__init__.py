"""The Mercurial backend: repositories on disk, through Mercurial in this process.

The only package that imports ``mercurial``.  Commands are Mercurial's own functions, so a reply is that of
Mercurial's server, including changes by extensions.  This package adds checks of arguments, errors and leases.

Mercurial has some process-wide state.  Two parts of it matter to a host: the character encoding (set here
to ``web.encoding``, or UTF-8), and extensions (once any repository enables one, it stays loaded; its commands are
offered only for repositories that enable it).
"""

from __future__ import annotations

from .hgwebconfig import HgwebConfigProvider
from .pages import hgweb_pages
from .provider import MercurialProvider
from .repository import MercurialRepository

__all__ = ["HgwebConfigProvider", "MercurialProvider", "MercurialRepository", "hgweb_pages"]
