from __future__ import annotations

import gc
import tracemalloc

from hgwire_wsgi.cache.admission import Demand


def test_a_second_client_makes_a_demand() -> None:
    demand = Demand()
    assert not demand.is_shared("a")
    assert not demand.note("a", "one")
    assert not demand.note("a", "one")
    assert not demand.is_shared("a")
    assert not demand.note("b", "two")
    assert demand.note("a", "two")
    assert demand.note("a", "one")
    assert demand.is_shared("a") and not demand.is_shared("b")


def test_memory_is_bounded() -> None:
    demand = Demand()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(30_000):
            demand.note(f"{number:064x}", f"client {number}")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 4 << 20
    assert not demand.is_shared(f"{29_999:064x}")
