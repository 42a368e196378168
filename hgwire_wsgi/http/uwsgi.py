"""What only uWSGI itself knows: the number of its threads, and chunked request bodies.

uWSGI 2.1 has ``wsgi-manage-chunked-input`` for the latter, and needs none of this.  Observed in 2.0.31: with
``http-chunked-input`` the router passes chunks on, ``wsgi.input`` is empty, and ``uwsgi.chunked_read()`` returns a
chunk, or ``b""`` at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["chunked_input", "disconnect", "thread_count"]


def _uwsgi() -> Any:
    """The module that exists only inside uWSGI; ``None`` elsewhere."""
    try:
        import uwsgi
    except ImportError:
        return None
    # A folder of this name on the path, such as nginx's for temporary files, can be imported, too.
    return None if hasattr(uwsgi, "__path__") else uwsgi


def thread_count() -> int | None:
    """Return the number of threads of each uWSGI process; ``None`` elsewhere."""
    uwsgi = _uwsgi()
    if uwsgi is None:
        return None
    count = uwsgi.opt.get("threads", b"1")
    return int(count) if isinstance(count, bytes) and count.isdigit() else 1


def disconnect() -> bool:
    """Close the connection of the present request without an error in uWSGI's log; False elsewhere."""
    uwsgi = _uwsgi()
    if uwsgi is None:
        return False
    uwsgi.disconnect()
    return True


def chunked_input(environ: Mapping[str, Any]) -> ChunkedInput | None:
    """Return the body of a chunked request under uWSGI; ``None`` elsewhere."""
    uwsgi = _uwsgi() if "uwsgi.version" in environ else None
    return None if uwsgi is None else ChunkedInput(uwsgi.chunked_read)


class ChunkedInput:
    """Reads chunks as a file.

    Args:
        read_chunk: returns the next chunk, or ``b""`` at the end; raises ``OSError`` for a lost client.
    """

    def __init__(self, read_chunk: Callable[[], bytes]) -> None:
        self._read_chunk = read_chunk
        self._chunk = memoryview(b"")
        self._at_end = False

    def read(self, size: int, /) -> bytes:
        """Read up to ``size`` bytes: fewer at the end of a chunk, none at the end of the body."""
        if not self._chunk and not self._at_end:
            self._chunk = memoryview(self._read_chunk())
            self._at_end = not self._chunk
        data, self._chunk = bytes(self._chunk[:size]), self._chunk[size:]
        return data
