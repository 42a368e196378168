from __future__ import annotations

import enum
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.cache.keys import KeyValue, bundle_key, digest, index_key

FACTS: dict[str, Any] = {
    "version": "1.0",
    "repository": "project",
    "view": (),
    "token": b"state",
    "command": "getbundle",
    "handler": ("package.module", "getbundle"),
    "arguments": {"heads": (b"\1" * 20, b"\2" * 20), "bookmarks": True},
    "encoding": ("application/mercurial-0.2", "zstd", 3),
}
CHANGES: dict[str, Any] = {
    "version": "1.1",
    "repository": "Project",
    "view": ("alice",),
    "token": "state",
    "command": "changegroup",
    "handler": ("package.module", "lambda"),
    "arguments": {"heads": (b"\2" * 20, b"\1" * 20), "bookmarks": True},
    "encoding": ("application/mercurial-0.2", "zstd", None),
}


class Text(str):
    def __repr__(self) -> str:
        return f"<{id(self)}>"


class Data(bytes):
    def __repr__(self) -> str:
        return f"<{id(self)}>"


class Level(enum.IntEnum):
    LOW = 3


def key(value: Any) -> str:
    return digest(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def typed(value: Any) -> object:
    """A form in which equal means equal in type, too: for Python, 1 and True are equal."""
    if isinstance(value, tuple):
        return tuple(map(typed, value))
    if isinstance(value, Mapping):
        return "mapping", tuple(sorted((name, typed(each)) for name, each in value.items()))
    return type(value), value


@given(values, values)
def test_keys_are_equal_if_and_only_if_the_values_are(one: KeyValue, other: KeyValue) -> None:
    assert len(key(one)) == 64
    assert (key(one) == key(other)) == (repr(typed(one)) == repr(typed(other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", b"a"),
        (1, True),
        (1, "1"),
        (0, None),
        (("a", "b"), "ab"),
        (("ab", ""), ("a", "b")),
        ((("a",), "b"), ("a", ("b",))),
        ((), None),
        ((), {}),
        ({"a": 1}, (("a", 1),)),
        ("\ud83d\ude00", "\U0001f600"),
        ("é", "\udcc3\udca9"),
        (("a", "b"), ("b", "a")),
    ],
)
def test_values_that_look_alike(one: KeyValue, other: KeyValue) -> None:
    assert key(one) != key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": (2,)}, {"b": (2,), "a": 1}),
        ({"a": 1}, MappingProxyType({"a": 1})),
        (["a", [b"b"]], ("a", (b"b",))),
        (Text("a"), "a"),
        (Data(b"a"), b"a"),
        ((Text("a"), {Text("b"): Data(b"c")}), ("a", {"b": b"c"})),
        (Level.LOW, 3),
    ],
)
def test_only_the_content_counts(one: KeyValue, other: KeyValue) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize("value", [object(), 1.5, {1, 2}, bytearray(b"a"), len, iter(()), {1: 2, "a": 3}])
def test_what_has_no_content_is_no_part_of_a_key(value: Any) -> None:
    for each in (value, ("nested", [value]), {"nested": value}):
        with pytest.raises(TypeError):
            key(each)


@pytest.mark.parametrize("name", sorted(FACTS))
@pytest.mark.parametrize("make", [bundle_key, index_key])
def test_every_fact_makes_a_difference(make: Callable[..., str], name: str) -> None:
    assert make(**FACTS) == make(**FACTS)
    assert make(**FACTS) != make(**FACTS | {name: CHANGES[name]})


def test_keys_of_different_kinds_are_different() -> None:
    assert bundle_key(**FACTS) != index_key(**FACTS)
    assert digest("a", b"", ()) != digest("", b"a", ())


def test_keys_are_the_same_in_every_process() -> None:
    code = f"from hgwire_wsgi.cache.keys import bundle_key\nprint(bundle_key(**{FACTS!r}))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {bundle_key(**FACTS)}


def start(level: object, *, threads: int = 0) -> object:
    return level, threads


def wrapped(function: Callable[..., object]) -> Callable[..., object]:
    """A decorator, which makes functions that all have the name of another one."""
    return functools.wraps(function)(lambda: function)


class Starter:
    def start(self) -> object:
        return self
