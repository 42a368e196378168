"""The exception tree: as its docstring prints it, and fit for the transports."""

from __future__ import annotations

import inspect
import re

import pytest

from hgwire_wsgi import errors

CLASSES = {name: getattr(errors, name) for name in errors.__all__}
ABSTRACT = {"ProtocolError", "NegotiationError", "BackendError"}
"""Bases that are never raised themselves; their subclasses say the status."""


def _printed_tree() -> dict[str, str]:
    """Base by class, from the drawing in the docstring."""
    bases = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([│ ]*(?:├── |└── )?)([A-Z]\w+)(?: {2,}.*)?", line)
        if match:
            depth = len(match[1]) // 4
            bases[match[2]] = path[depth - 1] if depth else "Exception"
            path[depth:] = [match[2]]
    return bases


def test_the_printed_tree_is_the_tree() -> None:
    assert _printed_tree() == {name: each.__base__.__name__ for name, each in CLASSES.items()}


def test_every_public_class_is_exported() -> None:
    defined = {
        name
        for name, each in inspect.getmembers(errors, inspect.isclass)
        if each.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_says_how_transports_answer(name: str) -> None:
    each = CLASSES[name]
    assert each.__doc__
    assert each.wire_kind == ("protocol" if issubclass(each, errors.ProtocolError) else "application")
    own = {"HgWireError", "LocalProtocolError", "RepositoryMoved", "RepositoryUnusable", "CommandCrashed"}
    if name not in ABSTRACT | own:
        assert 400 <= each.http_status < 600 and each.http_status != 500


def test_a_repository_that_moved_is_a_redirect() -> None:
    moved = errors.RepositoryMoved("new/name")
    assert (moved.http_status, moved.path) == (301, "new/name")


def test_only_faults_of_this_side_are_500() -> None:
    assert errors.HgWireError.http_status == errors.LocalProtocolError.http_status == 500
    assert errors.CommandCrashed("x").http_status == 500
    assert errors.RepositoryUnusable().http_status == 500 and "log of the server" in str(errors.RepositoryUnusable())


def test_message_and_headers() -> None:
    error = errors.RepositoryBusy("busy", headers=[("Retry-After", "1")])
    assert (str(error), error.message, error.headers) == ("busy", "busy", (("Retry-After", "1"),))
    assert errors.HgWireError("x").headers == ()


def test_permission_denied_has_the_status_it_is_given() -> None:
    assert errors.PermissionDenied("no").http_status == 403
    for status in (0, 101, 200, 204, 299, 600):
        with pytest.raises(ValueError, match=f"{status} is not the status of a refusal"):
            errors.PermissionDenied("no", status=status)
    error = errors.PermissionDenied("push requires POST request", status=405, headers=[("Allow", "POST")])
    assert (error.http_status, error.headers) == (405, (("Allow", "POST"),))
    assert errors.PermissionDenied.http_status == 403


def test_a_refused_command_says_what_the_server_said() -> None:
    error = errors.CommandRefused("no such node", status=400, kind="application")
    assert (str(error), error.http_status, error.status, error.kind) == ("no such node", 502, 400, "application")
    assert (errors.CommandRefused("x").status, errors.CommandRefused("x").kind) == (200, "")


def test_a_repository_that_is_not_there() -> None:
    assert (errors.RepositoryNotFound().message, errors.RepositoryNotFound("not found").message) == (
        "no such repository",
        "not found",
    )


def test_when_to_try_again() -> None:
    assert errors.Unavailable("later").headers == ()
    error = errors.Unavailable("later", retry_after=0, headers=[("X-Why", "y")])
    assert (error.http_status, error.headers) == (503, (("Retry-After", "0"), ("X-Why", "y")))
