"""Whether the replies of this process are the same for all users.

Mercurial's own replies are, except where ``_uncacheable_commands`` says otherwise.  An extension can change that, and
there is no way to find out what it changes: it can wrap any function, add to any table, and put its own class under a
repository object.  So the rule does not look at what an extension does, but at which ones there are:

- An extension is *safe* if it is in :data:`KNOWN_SAFE`, or if the host says so.
- Mercurial loads an extension into the process.  Its functions then run for every repository, including those that do
  not enable it.  So while an extension that is not safe is loaded, nothing is cached for any repository of the process.

An extension that was loaded once stays loaded, so the answer changes at most once: from yes to no.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from mercurial import extensions

from .errors import text

__all__ = ["KNOWN_SAFE", "SafeExtensions"]

_log = logging.getLogger("hgwire_wsgi")

_PUSH = "hooks of transactions and pushes only"
_CLIENT = "commands of clients only"
_FILES = "the working copy only"
_PAGES = "the pages of hgweb only"

KNOWN_SAFE: Mapping[str, str] = {
    "hgext.absorb": _CLIENT,
    "hgext.acl": _PUSH,
    "hgext.amend": _CLIENT,
    "hgext.automv": _CLIENT,
    "hgext.beautifygraph": _CLIENT,
    "hgext.blackbox": "writes a log",
    "hgext.bookflow": _CLIENT,
    "hgext.bugzilla": _PUSH,
    "hgext.censor": "replies depend on the store; bundles depend on which file revisions are censored",
    "hgext.children": _CLIENT,
    "hgext.churn": _CLIENT,
    "hgext.clonebundles": "adds capabilities if the manifest exists, which is part of the state",
    "hgext.closehead": _CLIENT,
    "hgext.commitextras": _CLIENT,
    "hgext.convert": _CLIENT,
    "hgext.eol": _FILES,
    "hgext.extdiff": _CLIENT,
    "hgext.factotum": _CLIENT,
    "hgext.fastannotate": "adds a capability by configuration, and a command that is not cached",
    "hgext.fastexport": _CLIENT,
    "hgext.fetch": _CLIENT,
    "hgext.fix": _CLIENT,
    "hgext.fsmonitor": _FILES,
    "hgext.githelp": _CLIENT,
    "hgext.gpg": _CLIENT,
    "hgext.graphlog": _CLIENT,
    "hgext.hgk": _CLIENT,
    "hgext.highlight": _PAGES,
    "hgext.histedit": _CLIENT,
    "hgext.keyword": _FILES,
    "hgext.largefiles": "``heads`` and capabilities depend on whether the store has large files",
    "hgext.lfs": "capabilities depend on the requirements; contents are not cached",
    "hgext.logtoprocess": "writes a log",
    "hgext.narrow": "bundles depend on the arguments; on the user only with ``narrowacl``, and then are not cached",
    "hgext.notify": _PUSH,
    "hgext.pager": _CLIENT,
    "hgext.patchbomb": _CLIENT,
    "hgext.purge": _CLIENT,
    "hgext.rebase": _CLIENT,
    "hgext.record": _CLIENT,
    "hgext.releasenotes": _CLIENT,
    "hgext.relink": _CLIENT,
    "hgext.schemes": _CLIENT,
    "hgext.share": _CLIENT,
    "hgext.show": _CLIENT,
    "hgext.sparse": _FILES,
    "hgext.split": _CLIENT,
    "hgext.strip": _CLIENT,
    "hgext.transplant": _CLIENT,
    "hgext.uncommit": _CLIENT,
    "hgext.win32text": _PUSH,
    "hgext3rd.evolve": "capabilities and obsolescence markers depend on the repository and the arguments",
    "hgext3rd.pullbundle": "bundles are made of stored parts that have the same content for all",
    "hgext3rd.topic": "``heads``, ``branchmap`` and capabilities depend on the repository and its configuration",
}
"""Modules of extensions whose replies are the same for all users in one state of a repository, each with the reason.

Left out on purpose: ``git``, ``mq`` and ``remotenames`` answer from files that the state does not cover;
``remotefilelog`` sets variables of the process while it makes a stream; ``phabricator``, ``win32mbcs`` and
``zeroconf`` change Mercurial's configuration or encoding at run time.
"""


class SafeExtensions:
    """Which loaded extensions are safe.  All threads share it.

    Args:
        declared: further safe ones, by their names in the section ``extensions`` or by the names of their modules.
    """

    def __init__(self, declared: Iterable[str] = ()) -> None:
        self._declared = frozenset(declared)
        self._known: tuple[list[bytes], tuple[str, ...]] = ([], ())

    @staticmethod
    def loaded() -> tuple[bytes, ...]:
        """Return the names of all loaded extensions; it changes when another one is loaded."""
        return tuple(extensions._order)

    def unsafe(self) -> tuple[str, ...]:
        """Return the names of the loaded extensions that are not safe; each is logged once."""
        # Mercurial adds a name before it calls the extension; another thread may do that at any moment.
        loaded = extensions._order[:]
        order, before = self._known
        if loaded == order:
            return before
        found = tuple(text(name) for name in loaded if not self._is_safe(name))
        self._known = loaded, found
        for name in found:
            if name not in before:
                _log.warning(
                    "extension %s may give users different replies, so this process caches no reply; "
                    "if it gives all users the same, name it in safe_extensions of MercurialProvider",
                    name,
                )
        return found

    def _is_safe(self, name: bytes) -> bool:
        # An extension whose setup has failed has no module, but may have changed something before.
        module = getattr(extensions._extensions.get(name), "__name__", None)
        return module in KNOWN_SAFE or bool(self._declared & {text(name), module})
