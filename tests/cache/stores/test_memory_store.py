from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.cache.stores.memory import ByteLRU


def test_the_least_recently_used_goes_first() -> None:
    lru: ByteLRU[str] = ByteLRU(3 * 300)
    for key in "abc":
        lru.put(key, key, 100)
    assert lru.get("a") == "a"
    lru.put("d", "d", 100)
    assert [lru.get(key) for key in "abcd"] == ["a", None, "c", "d"]


def test_a_value_that_does_not_fit_drops_nothing_else() -> None:
    lru: ByteLRU[str] = ByteLRU(1000)
    lru.put("a", "old", 100)
    lru.put("b", "b", 5000)
    assert (lru.get("a"), lru.get("b")) == ("old", None)
    lru.put("a", "too large now", 5000)
    assert lru.get("a") is None


def test_nothing_is_kept_without_capacity() -> None:
    lru: ByteLRU[str] = ByteLRU(0)
    lru.put("a", "a", 0)
    assert lru.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 700))))
def test_it_never_holds_more_than_its_capacity(puts: list[tuple[int, int]]) -> None:
    lru: ByteLRU[int] = ByteLRU(2000)
    last: dict[int, int] = {}
    for key, size in puts:
        lru.put(key, size, size)
        last[key] = size
        held = {key: value for key in last if (value := lru.get(key)) is not None}
        assert sum(value + 200 for value in held.values()) <= 2000
        assert all(last[key] == value for key, value in held.items())
