"""Bounds: each one named, documented where it stands, and at least 1."""

from __future__ import annotations

import ast
import inspect

import attrs
import pytest

from hgwire_wsgi import limits
from hgwire_wsgi.limits import Limits

NAMES = [field.name for field in attrs.fields(Limits)]


def test_every_bound_has_its_reason_beside_it() -> None:
    body = ast.parse(inspect.getsource(limits)).body
    declared = next(each for each in body if isinstance(each, ast.ClassDef)).body
    for statement, after in zip(declared, [*declared[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(statement)


@pytest.mark.parametrize("name", NAMES)
def test_bound_must_be_positive(name: str) -> None:
    assert getattr(Limits(**{name: 1}), name) == 1
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not {wrong}"):
            Limits(**{name: wrong})


def test_frozen_and_by_keyword() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().body = 1  # type: ignore[misc]  # that it refuses is what is tested
    with pytest.raises(TypeError):
        Limits(1)  # type: ignore[call-arg]  # as above
