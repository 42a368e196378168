from __future__ import annotations

import gc
import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.cache.stores.memory import ENTRY_OVERHEAD, MemoryStore


def test_the_least_recently_used_goes_first() -> None:
    store: MemoryStore[str] = MemoryStore(3 * (ENTRY_OVERHEAD + 100))
    for key in "abc":
        store.put(key, key, 100)
    assert store.get("a") == "a"
    store.put("d", "d", 100)
    assert [store.get(key) for key in "abcd"] == ["a", None, "c", "d"]


def test_a_value_that_does_not_fit_drops_nothing_else() -> None:
    store: MemoryStore[str] = MemoryStore(1000)
    store.put("a", "old", 100)
    store.put("b", "b", 5000)
    assert (store.get("a"), store.get("b")) == ("old", None)
    store.put("a", "too large now", 5000)
    assert store.get("a") is None


def test_a_value_is_replaced_and_counted_once() -> None:
    store: MemoryStore[int] = MemoryStore(ENTRY_OVERHEAD + 100)
    for number in range(3):
        store.put("a", number, 100)
        assert store.get("a") == number


def test_nothing_is_kept_without_capacity() -> None:
    store: MemoryStore[str] = MemoryStore(0)
    store.put("a", "a", 0)
    assert store.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 700))))
def test_it_never_holds_more_than_its_capacity(puts: list[tuple[int, int]]) -> None:
    store: MemoryStore[int] = MemoryStore(2000)
    last: dict[str, int] = {}
    for number, size in puts:
        key = str(number)
        store.put(key, size, size)
        last[key] = size
        held = {key: value for key in last if (value := store.get(key)) is not None}
        assert sum(value + ENTRY_OVERHEAD for value in held.values()) <= 2000
        assert all(last[key] == value for key, value in held.items())


@pytest.mark.parametrize("count", [1000, 5000])
def test_the_overhead_is_what_the_dictionary_costs(count: int) -> None:
    """It depends on how full the dictionary is: values without any size of their own are within a factor of two."""
    keys = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(2 * count)]
    store: MemoryStore[None] = MemoryStore(count * (ENTRY_OVERHEAD + 1000))
    # Empties the free lists: what comes from there is not traced.
    gc.collect()
    tracemalloc.start()
    try:
        for key in keys:
            store.put(key, None, 1000)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 < used / count / ENTRY_OVERHEAD < 1.5
