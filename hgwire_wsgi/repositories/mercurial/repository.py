"""A repository on disk.

Three objects represent a repository.  :class:`Facts` caches facts about it in one state; all threads share
it.  :class:`OpenRepository` is Mercurial's own object, which belongs to one request at a time.
:class:`MercurialRepository` serves one request: it answers from the facts where possible, and takes an open object from
the pool when it needs one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import attrs
from mercurial import encoding, error, extensions, scmutil, wireprotoserver
from mercurial.hgweb import common as hgwebcommon
from mercurial.hgweb import request as hgwebrequest

from ...commands.registry import Command
from ...commands.standard import is_clone
from ...errors import CommandFailed, LengthRequired, RepositoryNotFound, RepositoryUnusable
from ...negotiation import ServerCapabilities
from ..base import Authorize, Repository, SubresourceReply, SubresourceRequest
from ..finder import Found
from . import incremental
from .capabilities import adjust_capabilities
from .changegroups import seam
from .commands import registered_commands
from .errors import Report, message_of, text, translated, translated_request
from .files import files_of, read_bounded, uses_pull_bundles
from .garbage import count_files
from .hooks import PushLimits, limit_pushes
from .output import redirect_output
from .permissions import added_hooks, ask_hooks, check_commands
from .sharing import SafeExtensions
from .state import State
from .transactions import make_observable

try:
    import mercurial.initialization  # noqa: F401  # registers the handlers of bundle2 parts, among others
    from mercurial.repo.factory import repository as open_repository
except ImportError:  # before 7.2, where each module registers its own
    from mercurial.hg import repository as open_repository

__all__ = ["LFS_BATCH", "SERVER_SETTINGS", "Facts", "MercurialRepository", "OpenRepository", "is_bundle", "is_lfs_path"]

_log = logging.getLogger("hgwire_wsgi")

SERVER_SETTINGS = (
    (b"ui", b"report_untrusted", b"off"),
    (b"ui", b"nontty", b"true"),
    # Signal handlers belong to the WSGI server, and can be set only in the main thread.
    (b"ui", b"signal-safe-lock", b"false"),
    (b"progress", b"disable", b"true"),
)

_BOOLEANS = frozenset({("web", "allow-pull"), ("web", "push_ssl")})
"""The settings that policies read as booleans."""

_BUNDLES = frozenset({"changegroup", "changegroupsubset", "getbundle", "stream_out"})
_HOOKED = {
    "outgoing": _BUNDLES,
    "preoutgoing": _BUNDLES,
    "listkeys": frozenset({"getbundle", "listkeys"}),
    "prelistkeys": frozenset({"getbundle", "listkeys"}),
}
"""The commands whose replies are not cached because the hook must run for every request and may deny it."""


def _uncacheable_commands(local: Any, report: Report) -> frozenset[str]:
    """The commands whose replies must not be cached: those with hooks, and those that send the operator's files."""
    found: set[str] = set()
    for name, command in local.ui.configitems(b"hooks"):
        if command:
            found |= _HOOKED.get(text(name).partition(".")[0], frozenset())
    if local.ui.has_section(b"narrowacl"):
        # The content of a bundle depends on the user.
        found |= _BUNDLES
    if uses_pull_bundles(local.ui, report) and local.vfs.exists(b"pullbundles.manifest"):
        found.add("getbundle")
    return frozenset(found)


LFS_BATCH = ".git/info/lfs/objects/batch"
"""Where clients ask for the URLs of large files; ``POST`` needs ``pull``, also before an upload (observed in 7.2)."""


def is_bundle(path: bytes) -> bool:
    """Whether there is a bundle file at a path; Mercurial opens one as a repository that cannot be written."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"HG10", b"HG20")
    except OSError:
        return False


def _has_inner_hooks(ui: Any) -> bool:
    """Whether a hook runs in this process, where it gets the repository object."""
    return any(callable(hook) or (hook or b"").startswith(b"python:") for _, hook in ui.configitems(b"hooks"))


def is_lfs_path(path: str) -> bool:
    """Whether the extension lfs has a resource at a path below a repository (observed in 7.2)."""
    return path == LFS_BATCH or path.startswith(".hg/lfs/objects")


def _names(value: bytes, *, both: bool) -> list[str]:
    """Decode an item of a list of users.

    Mercurial compares bytes.  Users are text here, so an item that is not UTF-8 is read in the encoding that
    ``web.encoding`` or ``HGENCODING`` declares, otherwise as Latin-1.

    Args:
        value: the item.
        both: return it in both encodings if they differ.  A user whose name came in the same bytes was read as Latin-1;
            he must not be missed by a list of those who are denied.
    """
    latin = value.decode("latin-1")
    for name in ("utf-8", text(encoding.encoding)):
        try:
            decoded = value.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
        return [decoded, latin] if both and name != "utf-8" and decoded != latin else [decoded]
    return [latin]


class OpenRepository:
    """Mercurial's repository object, used by one request at a time.

    Args:
        ui: the configuration, which the object keeps and changes.
        found: where the repository is.
        state: the state that it is opened in.
        limits: on pushes.
        report: is called with a problem of the configuration.

    Attributes:
        local: the object, as Mercurial's server shows it (secret and hidden changesets left out).
        found, state: as given.
    """

    def __init__(self, ui: Any, found: Found, state: State, limits: PushLimits, report: Report) -> None:
        self.found = found
        self.state = state
        self._reads_again = False
        if is_bundle(found.root):
            # Without a base that does not exist, Mercurial uses the repository that the server was started in.
            nowhere = os.path.join(os.path.dirname(found.root), b".hgwire-no-base")
            ui.setconfig(b"bundle", b"mainreporoot", nowhere, b"hgwire")
            # It cannot be written, which Mercurial would notice too late.
            ui.setconfig(b"web", b"deny_push", b"*", b"hgwire")
        unfiltered = open_repository(ui, found.root).unfiltered()
        if is_bundle(found.root):
            # It has temporary files.
            weakref.finalize(self, unfiltered.close)
        for section, name, value in (*SERVER_SETTINGS, (b"ui", b"forcecwd", unfiltered.root)):
            unfiltered.ui.setconfig(section, name, value, b"hgwire")
            unfiltered.baseui.setconfig(section, name, value, b"hgwire")
        redirect_output(unfiltered)
        count_files(unfiltered)
        limit_pushes(unfiltered, limits)
        make_observable(unfiltered)
        seam.enable(unfiltered, report)
        self.local = unfiltered.filtered(b"served")
        self._reads_again = not (
            is_bundle(found.root) or any(extensions.extensions(unfiltered.ui)) or _has_inner_hooks(unfiltered.ui)
        )

    def renew(self, state: State) -> bool:
        """Bring the object to another state of the repository, which is cheaper than to open it.

        Mercurial's command server does the same between two commands.  Extensions may have caches of their own, hooks
        in Python may have changed the object, and settings are read only when a repository is opened; then it must be
        opened again.

        Args:
            state: the state.

        Returns:
            Whether it was done.
        """
        if not self._reads_again or state.configuration != self.state.configuration or not self.empty():
            return False
        self.state = state
        return True

    def empty(self) -> bool:
        """Free the memory of what Mercurial has read.

        The object is part of reference cycles and may live on for a while, and a hook may have kept it: it then reads
        again what it needs.

        Returns:
            Whether nothing is left.
        """
        unfiltered = self.local.unfiltered()
        try:
            # Without the argument, it would read only files again whose stamps have changed, which is not enough.
            unfiltered.invalidate(clearfilecache=True)
            # For the dirstate, that would be done only if its stamps have changed, in whole seconds.
            unfiltered.dirstate.invalidate()
        except Exception:
            # Extensions extend it.  The request that drops the object has nothing to do with them.
            _log.debug("the caches of a repository could not be emptied", exc_info=True)
            return False
        # A view has its own cache of tags, which Mercurial does not empty.
        self.local = unfiltered.filtered(b"served")
        return True


@attrs.define(eq=False)
class Facts:
    """Facts about a repository in one state, computed on demand; shared by all threads.

    Facts are dropped when the change stamp changes, even if the same content token returns, because they may have been
    computed after the state had changed.

    Attributes:
        name: of the repository.
        found: its location.
        state: the state.
        safe: the extensions that give all users the same replies.
        read_censored: reads which file revisions are censored; see :meth:`StateReader.censored`.
        loaded: the extensions that were loaded when the facts began to be computed.
    """

    name: str
    found: Found
    state: State | None = None
    safe: SafeExtensions = attrs.Factory(SafeExtensions)
    read_censored: Callable[[bool], bytes] = lambda clone: b""
    settings: dict[tuple[str, str], Any] = attrs.Factory(dict)
    commands: Mapping[str, Command] | None = None
    uncacheable: frozenset[str] | None = None
    censored: dict[bool, bytes] = attrs.Factory(dict)
    heads: frozenset[bytes] | None = None
    missing: tuple[tuple[bytes, ...], tuple[int, int] | None] | None = None
    server: tuple[ServerCapabilities, ServerCapabilities] | None = None
    serves_lfs: bool | None = None
    good_files: set[Callable[[Any], object]] = attrs.Factory(set)
    loaded: tuple[bytes, ...] = attrs.Factory(SafeExtensions.loaded)
    reported: set[str] = attrs.Factory(set)

    def in_state(self, state: State) -> Facts:
        """Return the facts in another state; those that only the configuration decides are kept if it is the same."""
        facts = Facts(self.name, self.found, state, self.safe, self.read_censored)
        if self.state is not None and self.state.configuration == state.configuration and facts.loaded == self.loaded:
            facts.settings, facts.commands, facts.uncacheable = self.settings, self.commands, self.uncacheable
            facts.server, facts.serves_lfs = self.server, self.serves_lfs
        return facts

    def report(self, message: str) -> None:
        """Log a problem with the repository, unless it was already logged in this state."""
        if message not in self.reported and len(self.reported) < _MAX_REPORTED:
            self.reported.add(message)
            _log.error("repository %s at %s: %s", self.name or "/", os.fspath(self.found.path), message)


_MAX_REPORTED = 100
"""Maximum number of different messages about one repository in one state."""


_READ_ONLY_LENGTH = 1000
"""Bytes of ``.hg/hgwire-readonly`` that are read; clients show the first 160 characters."""


class MercurialRepository(Repository):
    """A repository on disk, for one request.

    It is opened only for data that the facts do not have yet.

    Args:
        state: the state it is in.
        facts: of that state.
        acquire: takes an open repository from the pool; raises :class:`BackendError`.
    """

    def __init__(self, state: State, facts: Facts, acquire: Callable[[], OpenRepository]) -> None:
        self._state = state
        self._facts = facts
        self._acquire = acquire
        self._open: OpenRepository | None = None
        self._parents: Callable[[bytes], tuple[bytes, bytes]] | None = None
        self.report = facts.report

    @property
    def local(self) -> Any:
        """Mercurial's repository object, for this request only."""
        if self._open is None:
            self._open = self._acquire()
        return self._open.local

    def take_open(self) -> OpenRepository | None:
        """End the use of Mercurial's object, and return it if there is one."""
        opened, self._open, self._parents = self._open, None, None
        return opened

    def check_files(self, command: str, tokens: tuple[str, ...]) -> None:
        """Check the files on the server that a command reads, each once in a state.

        Args:
            command: its name.
            tokens: the client's protocol tokens.

        Raises:
            RepositoryUnusable: if one is broken; the log has its name.
        """
        for name, check in files_of(command, self.local.ui, tokens).items():
            if check not in self._facts.good_files:
                try:
                    check(self.local)
                except Exception as failure:
                    self.report(f".hg/{name} cannot be read: {message_of(failure)}")
                    raise RepositoryUnusable from failure
                self._facts.good_files.add(check)

    # State

    def content_token(self) -> bytes:
        return self._state.token

    def bundle_token(self, command: str, arguments: Mapping[str, Any]) -> bytes:
        state, shape = self._state, incremental.shape_of(self._state, command, arguments)
        if shape is None:
            return state.token
        parts = [state.history, shape, self._censored(is_clone(command, arguments))]
        if state.hides:
            # What is hidden may depend on bookmarks and on the working directory; the heads of the rest show it.
            parts += sorted(self._heads())
        return hashlib.sha256(repr(parts).encode("ascii")).digest()

    def change_stamp(self) -> object:
        return self._state

    # Settings

    def setting(self, section: str, name: str) -> str | None:
        known = self._facts.settings
        key = (section, name)
        if key not in known:
            value = self.local.ui.config(section.encode(), name.encode(), untrusted=section == "web")
            # A setting that is not set may have a default that is not text, such as an empty list.
            known[key] = text(value) if isinstance(value, bytes) else None if value in (None, []) else str(value)
            if key in _BOOLEANS:
                self._report_unless_boolean(key)
        setting: str | None = known[key]
        return setting

    def _report_unless_boolean(self, key: tuple[str, str]) -> None:
        section, name = key
        try:
            self.local.ui.configbool(section.encode(), name.encode(), untrusted=True)
        except error.ConfigError as failure:
            self.report(f"{message_of(failure)}; requests that depend on it are refused")

    def settings(self, section: str, name: str) -> Sequence[str]:
        known = self._facts.settings
        key = (section, name + "[]")
        if key not in known:
            values = self.local.ui.configlist(section.encode(), name.encode(), untrusted=section == "web")
            wide = name.startswith("deny")
            known[key] = [member for value in values for member in _names(value, both=wide)]
        settings: list[str] = known[key]
        return settings

    def is_member(self, user: str, members: Sequence[str]) -> bool:
        if list(members) == ["*"]:
            return True
        name = user.encode("utf-8", "surrogateescape")
        return bool(scmutil.ismember(self.local.ui, name, [m.encode("utf-8", "surrogateescape") for m in members]))

    def read_only_reason(self) -> str | None:
        # A share is as read-only as the repository that has its store.
        roots = dict.fromkeys((self.local.path.rstrip(b"/"), self.local.sharedpath))
        reasons = (read_bounded(root + b"/hgwire-readonly", _READ_ONLY_LENGTH) for root in roots)
        return next((reason.decode("utf-8", "replace") for reason in reasons if reason is not None), None)

    # Commands

    def commands(self) -> Mapping[str, Command]:
        if self._facts.commands is None:
            self._facts.commands = registered_commands(self.local.ui)
        return self._facts.commands

    def knows_commands(self) -> bool:
        return self._facts.commands is not None

    def may_cache(self, command: str) -> bool:
        if self._facts.uncacheable is None:
            with translated(self.report):
                self._facts.uncacheable = _uncacheable_commands(self.local, self.report)
        return command not in self._facts.uncacheable

    def check_access(
        self, permission: str, commands: tuple[str, ...], user: str | None, environ: Mapping[str, Any]
    ) -> None:
        check_commands(commands)
        if hooks := added_hooks():
            ask_hooks(hooks, self.local, self._facts.name, permission, commands, user, environ)

    def is_same_for_all(self) -> bool:
        if self._facts.commands is None:
            # Opening the repository loads the extensions that it enables.
            self.commands()
        return not self._facts.safe.unsafe()

    def adjust_capabilities(self, server: ServerCapabilities) -> ServerCapabilities:
        known = self._facts.server
        if known is None or known[0] is not server:
            known = self._facts.server = server, adjust_capabilities(self.local.ui, server, self.report)
        return known[1]

    # IncrementalBundles

    def metadata_token(self) -> bytes | None:
        return self._state.metadata + self._censored(True)

    def clone_family(self, command: str, arguments: Mapping[str, Any]) -> tuple[object, ...] | None:
        family = incremental.clone_family(self._state, command, arguments)
        return None if family is None else (*family, self._censored(True))

    def is_full_clone(self, heads: Sequence[bytes]) -> bool:
        return frozenset(heads) == self._heads()

    def _heads(self) -> frozenset[bytes]:
        if self._facts.heads is None:
            self._facts.heads = frozenset(self.heads())
        return self._facts.heads

    def _censored(self, clone: bool) -> bytes:
        known = self._facts.censored
        if clone not in known:
            known[clone] = self._facts.read_censored(clone)
        return known[clone]

    def count_missing(self, have: Sequence[bytes]) -> tuple[int, int] | None:
        key, known = tuple(have), self._facts.missing
        if known is None or known[0] != key:
            known = self._facts.missing = key, incremental.count_missing(self.local, have)
        return known[1]

    def is_worth_sending(self, have: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
        return self.is_full_clone(wanted) and incremental.is_worth_sending(self.count_missing(have))

    # Subresources

    def has_subresource(self, path: str) -> bool:
        if self._facts.serves_lfs is None:
            svfs, ui = self.local.svfs, self.local.ui
            with translated(self.report):
                serves = hasattr(svfs, "lfslocalblobstore") and ui.configbool(b"experimental", b"lfs.serve")
            self._facts.serves_lfs = bool(serves)
        return self._facts.serves_lfs and is_lfs_path(path)

    def subresource(self, request: SubresourceRequest, authorize: Authorize) -> SubresourceReply | None:
        """Serve resources that extensions add to Mercurial's own server, such as lfs objects."""
        environ = {**request.environ, "PATH_INFO": f"/{request.path}", "wsgi.input": request.body}
        if environ.get("REQUEST_METHOD") in ("POST", "PUT") and not environ.get("CONTENT_LENGTH"):
            raise LengthRequired("this URL does not accept chunked request bodies; send Content-Length")

        def check(_context: Any, _request: Any, operation: bytes | None) -> None:
            authorize((operation or b"pull").decode("ascii"))

        started: list[tuple[str, tuple[tuple[str, str], ...]]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            started.append((status, tuple(header for header in headers if header[0].lower() != "connection")))

        local = self.local  # opening a repository loads the extensions it enables, one of which serves this
        with translated_request(request.path, self.report):
            try:
                parsed = hgwebrequest.parserequestfromenv(environ)
                response = hgwebrequest.wsgiresponse(parsed, start)
                if not wireprotoserver.handlewsgirequest(SimpleNamespace(repo=local), parsed, response, check):
                    return None
                chunks = response.sendresponse()
                # Mercurial sets the status when the first chunk is taken.
                first = next(chunks, b"")
                return SubresourceReply(*started[0], chain([first], chunks))
            except hgwebcommon.ErrorResponse as failure:
                raise CommandFailed(str(failure)) from failure
            except FileNotFoundError as failure:
                raise RepositoryNotFound("not found") from failure

    # Objects

    def heads(self) -> Sequence[bytes]:
        return list(self.local.heads())

    def parents(self, node: bytes) -> tuple[bytes, bytes]:
        if self._parents is None:
            self._parents = self.local.changelog.parents
        try:
            parents: tuple[bytes, bytes] = self._parents(node)
        except ValueError as failure:
            # A node of another hash function.
            raise CommandFailed(f"unknown revision '{node.hex()}'") from failure
        except Exception:
            with translated(self.report):
                raise
        return parents

    def known(self, nodes: Sequence[bytes]) -> Sequence[bool]:
        return list(self.local.known(nodes))

    def lookup(self, key: bytes) -> bytes:
        with translated(self.report):
            return bytes(self.local.lookup(encoding.tolocal(key)))

    def branchmap(self) -> Mapping[bytes, Sequence[bytes]]:
        branches = self.local.branchmap()
        return {encoding.fromlocal(branch): list(branches.branchheads(branch, closed=True)) for branch in branches}

    def listkeys(self, namespace: bytes) -> Mapping[bytes, bytes]:
        with translated(self.report):
            return dict(self.local.listkeys(encoding.tolocal(namespace)))
