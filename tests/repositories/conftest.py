"""Extensions that a test loads stay in the process; the other tests must not see those that prevent caching."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_unsafe_extensions() -> Iterator[None]:
    """Let Mercurial forget the extensions that were loaded during a test and are not known to be safe."""
    yield
    try:
        from mercurial import extensions

        from hgwire_wsgi.repositories.mercurial.sharing import SafeExtensions
    except ImportError:
        return
    for name in SafeExtensions().unsafe():
        extensions._order.remove(name.encode())
        extensions._extensions.pop(name.encode(), None)
