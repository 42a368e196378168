"""When Mercurial makes the whole changegroup, not this package's generator.

The generator gives Mercurial's bytes for ordinary repositories.  It must not run where it was not compared with
Mercurial, and it cannot run where an extension changes what Mercurial would send.  A missed case would be a wrong
bundle; a needless one only costs time.  So most rules name what is known, and everything else counts against the
generator: requirements, classes, and the home of each function.

An extension that replaces one of Mercurial's functions leaves a function of another module in its place.  That is
visible without knowing the extension: a function's ``__globals__`` are the names of the module that defines it.

All rules are asked for each changegroup, because an extension can be loaded, and a setting changed, at any time.  That
takes some 20 microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, ModuleType
from typing import Any

import attrs
from mercurial import (
    changegroup,
    changelog,
    discovery,
    filelog,
    localrepo,
    manifest,
    match,
    mdiff,
    requirements,
    revlog,
    store,
    txnutil,
    vfs,
)
from mercurial.interfaces import repository as interfaces
from mercurial.revlogutils import flagutil
from mercurial.utils import storageutil

from .. import garbage
from .deltas import FORMATS

__all__ = ["CONDITIONS", "Call", "Condition", "has_usual_history", "home_of", "reason_against"]


@attrs.frozen(eq=False)
class Call:
    """A call of Mercurial's generator.

    Attributes:
        packer: Mercurial's generator for one request.
        local: the repository object, unfiltered.
        changelog: whether the changelog is sent.
    """

    packer: Any
    local: Any
    changelog: bool


@attrs.frozen(eq=False)
class Condition:
    """A condition under which Mercurial makes the changegroup.

    Attributes:
        reason: what observers get.
        holds: tests it.
    """

    reason: str
    holds: Callable[[Call], bool]


def reason_against(packer: Any, changelog: bool) -> str:
    """Return why Mercurial must make a changegroup.

    Args:
        packer: Mercurial's generator, as ``mercurial.changegroup.getbundler`` returns it.
        changelog: whether the changelog is sent.

    Returns:
        The reason of the first condition in :data:`CONDITIONS` that holds; empty if none does.
    """
    call = Call(packer, packer._repo.unfiltered(), changelog)
    for condition in CONDITIONS:
        if condition.holds(call):
            return condition.reason
    return ""


def has_usual_history(local: Any) -> bool:
    """Whether nothing is known to change which changesets of a repository object are sent.

    Args:
        local: Mercurial's repository object, unfiltered.
    """
    call = Call(None, local, True)
    return not (_is_foreign_repository(call) or _has_foreign_functions(call) or _has_foreign_revlogs(call))


# The request


def _has_filter(call: Call) -> bool:
    packer = call.packer
    return type(packer._matcher) is not match.alwaysmatcher or type(packer._oldmatcher) is not match.nevermatcher


def _has_ellipses(call: Call) -> bool:
    return bool(call.packer._ellipses or call.packer._isshallow)


# The repository

_KNOWN_REQUIREMENTS = frozenset(
    {
        # The working copy, the phases and the caches.
        *(b"dirstate-tracked-key-v1", b"dirstate-v2", b"exp-archived-phase", b"exp-sparse", b"internal-phase"),
        *(b"internal-phase-2", b"largefiles", b"persistent-nodemap"),
        # Where the store is, and what its files are called.
        *(b"bookmarksinstore", b"dotencode", b"fileindex-v1", b"fncache", b"relshared", b"share-safe", b"shared"),
        *(b"exp-very-fragile-and-unsafe-plain-store-encoding", b"store"),
        # What is in a revlog.
        *(b"delta-info-revlog", b"generaldelta", b"revlog-compression-zstd", b"revlogv1", b"sparserevlog"),
        *(b"exp-compression-none", b"exp-compression-zlib", b"exp-compression-zstd"),
        # Pointers to large files have a flag, and a revlog with flags is left to Mercurial.
        b"lfs",
    }
)
"""Requirements with which the generator was compared, or that do not concern it."""


def _has_side_data(call: Call) -> bool:
    wanted = requirements.COPIESSDC_REQUIREMENT in call.local.requirements
    return wanted or interfaces.REPO_FEATURE_SIDE_DATA in call.local.features


def _is_foreign_repository(call: Call) -> bool:
    """Whether the object gets its revlogs from elsewhere, as that of a bundle file does, or those of extensions."""
    kind, usual = type(call.local), vars(localrepo.localrepository)
    inherited = all(_defined(kind, name) is usual[name] for name in ("changelog", "manifestlog"))
    # The class that has this method depends on the version.
    return not inherited or home_of(_defined(kind, "file")) is not vars(localrepo)


_PASSING_ON = (garbage.__name__, "hgext.largefiles.reposetup")
"""Modules whose classes only count, or only switch off a limit for what is added."""


def _defined(kind: type, name: str) -> object:
    """What a class or its first base class with that name defines, without those in :data:`_PASSING_ON`.

    Cached properties cannot be read from the class.
    """
    return next(
        (vars(each)[name] for each in kind.__mro__ if name in vars(each) and each.__module__ not in _PASSING_ON), None
    )


_STORES = (
    *(store.basicstore, store.encodedstore, store.fncachestore),
    # New in Mercurial 7.2.
    getattr(store, "FileIndexStore", store.fncachestore),
)
_FILES = (vfs.filtervfs, store._fncachevfs)


def _is_foreign_store(call: Call) -> bool:
    local = call.local
    files = local.svfs
    return type(local.store) not in _STORES or type(files) not in _FILES or type(files.vfs) is not vfs.vfs


def _has_foreign_revlogs(call: Call) -> bool:
    manifests = call.local.manifestlog
    return (
        type(call.local.changelog) is not changelog.changelog
        or type(manifests) is not manifest.manifestlog
        or type(manifests.getstorage(b"")) is not manifest.manifestrevlog
    )


def _has_transaction(call: Call) -> bool:
    """Whether some of the files have other names meanwhile; a hook sees the transaction of its parent process."""
    return call.local.currenttransaction() is not None or txnutil.mayhavepending(call.local.root)


# The configuration


def _is_verbose(call: Call) -> bool:
    return bool(call.local.ui.verbose or call.local.ui.debugflag)


# Extensions

_PACKERS = tuple(
    value for value in vars(changegroup).values() if isinstance(value, type) and issubclass(value, changegroup.cgpacker)
)
"""Until Mercurial 7.1 one class, since then also one for each version."""

_OWN_FLAGS = frozenset(flagutil.REVIDX_FLAGS_ORDER) - {flagutil.REVIDX_EXTSTORED, flagutil.REVIDX_ELLIPSIS}
"""Flags whose processors, if there are any, are Mercurial's own."""

_PACKING = (
    *("__init__", "_builddeltaheader", "_generatechangelog", "_init", "_prunemanifests", "generatefiles"),
    "generatemanifests",
)
_READING = (
    *("__iter__", "__len__", "deltaparent", "emitrevisions", "flags", "iscensored", "linkrev", "node", "parentrevs"),
    *("rawdata", "rev", "revdiff"),
)
"""Methods of all classes of revlogs that the generator replaces, or calls where it computes a delta.  Not among them:
``filelog.has_meta``, which the extension lfs replaces, for revisions with flags only."""

_COMPUTING = (
    *("__init__", "_candelta", "_emit_revisions", "_loadindex", "_revisiondata", "ancestors", "candelta", "checkhash"),
    *("decompress", "issnapshot", "length", "parents", "raw_comp_chunk", "rawsize", "reachableroots", "snapshotdepth"),
    "start",
)
"""Methods of revlogs that those use."""

_OPENING = ("__call__", "join")
"""Methods that find and open the files of a store."""

_CHOOSING = ("findcommonmissing", "heads")
"""Methods of the changelog that ``seam.py`` replaces, or calls, to find out which changesets are sent."""

_FUNCTIONS: tuple[tuple[ModuleType, str, tuple[str, ...]], ...] = (
    (
        changegroup,
        "",
        ("_fileheader", "_revisiondeltatochunks", "chunkheader", "closechunk", "deltagroup", "getbundler"),
    ),
    *((changegroup, kind.__name__, _PACKING) for kind in _PACKERS),
    (revlog, "", ("parse_index_v1",)),
    (revlog, "revlog", (*_READING, *_COMPUTING, *_CHOOSING)),
    (revlog, "_InnerRevlog", ("_chunk", "_chunks", "decompress", "get_segment_for_revs", "raw_text", "rev_diff")),
    (filelog, "filelog", _READING),
    (manifest, "manifestrevlog", _READING),
    (manifest, "manifestlog", ("__getitem__", "get", "getstorage", "rev")),
    (manifest, "manifestctx", ("read", "read_delta_parents", "readdelta", "readfast")),
    (manifest, "manifestdict", ("__init__", "iterentries")),
    (changelog, "changelog", (*_READING, *_CHOOSING, "changelogrevision", "read")),
    (changelog, "changelogrevision", ("__new__", "files", "manifest")),
    (discovery, "outgoing", ("__init__", "_computecommonmissing", "common", "missing")),
    (localrepo, "localrepository", ("file", "narrowmatch")),
    (store, "basicstore", ("filelog_radix_for_reading",)),
    (store, "_fncachevfs", _OPENING),
    (vfs, "abstractvfs", ("read", "tryread")),
    (vfs, "filtervfs", _OPENING),
    (vfs, "vfs", _OPENING),
    (mdiff, "", ("patchtext", "replacediffheader", "trivialdiffheader")),
    (storageutil, "", ("deltaiscensored", "hashrevisionsha1", "iscensoredtext")),
)
"""Module, class (empty for the module itself), and functions that must be the module's own.  Each version of Mercurial
lacks some of them, and a class may inherit others, which are checked where they are defined."""


def home_of(value: Any) -> object:
    """The names of the module that defines a function, a property, or a cached property."""
    value = getattr(value, "fget", None) or getattr(value, "func", value)
    return getattr(getattr(value, "__func__", value), "__globals__", None)


def _places() -> Iterator[tuple[Mapping[str, Any], str, ModuleType]]:
    """The namespaces and names of what must be Mercurial's own, each with the module that defines it."""
    for module, kind, names in _FUNCTIONS:
        owner = getattr(module, kind) if kind else module
        yield from ((vars(owner), name, module) for name in names)
        if kind:
            yield vars(module), kind, module


_PLACES = (
    *_places(),
    *((vars(mdiff), name, mdiff.bdiff) for name in ("manifest_diff", "storage_diff", "textdiff")),
    (vars(mdiff), "patches", mdiff.mpatch),
)


_proved: list[tuple[Any, ...]] = [()]
"""What was found in these places when all of it was Mercurial's own, so that it is examined only if it changes."""


def _has_foreign_functions(call: Call) -> bool:
    """Whether an extension has replaced a function or a class; ``seam.py`` itself checks ``cgpacker.generate``."""
    found = tuple([namespace.get(name) for namespace, name, _ in _PLACES])
    if found == _proved[0]:
        return False
    if not all(_is_own(value, module) for value, (_, _, module) in zip(found, _PLACES, strict=True)):
        return True
    _proved[0] = found
    return False


def _is_own(value: Any, module: ModuleType) -> bool:
    if isinstance(value, type):
        return value.__module__ == module.__name__
    return value is None or isinstance(value, BuiltinFunctionType) or home_of(value) is vars(module)


def _is_foreign_packer(call: Call) -> bool:
    packer = call.packer
    return type(packer) not in _PACKERS or home_of(packer._builddeltaheader) is not vars(changegroup)


CONDITIONS: tuple[Condition, ...] = (
    Condition("the changelog is not wanted", lambda call: not call.changelog),
    Condition("changegroup version", lambda call: call.packer.version not in FORMATS),
    Condition("narrow repository", lambda call: requirements.NARROW_REQUIREMENT in call.local.requirements),
    Condition("a choice of files", _has_filter),
    Condition("ellipses", _has_ellipses),
    Condition("tree manifests", lambda call: requirements.TREEMANIFEST_REQUIREMENT in call.local.requirements),
    Condition("side data", _has_side_data),
    Condition("unknown requirement", lambda call: not call.local.requirements <= _KNOWN_REQUIREMENTS),
    Condition("unknown kind of repository", _is_foreign_repository),
    Condition("unknown kind of store", _is_foreign_store),
    Condition("transaction", _has_transaction),
    Condition("setting in the section devel", lambda call: bool(call.local.ui.has_section(b"devel"))),
    Condition("setting in the section debug", lambda call: bool(call.local.ui.has_section(b"debug"))),
    Condition("verbose output", _is_verbose),
    Condition("replaced generator", _is_foreign_packer),
    Condition("replaced functions", _has_foreign_functions),
    Condition("replaced revlogs", _has_foreign_revlogs),
    Condition("flags of an extension", lambda call: not flagutil.flagprocessors.keys() <= _OWN_FLAGS),
)
"""Checked in this order.  The changelog of the repository is not read before its kind is known."""
