"""The example in the docstring of the package, as it stands there."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from framing_support import frame, wire

from hgwire_wsgi import framing
from hgwire_wsgi.framing import FrameBuffer


@pytest.fixture
def serve() -> Any:
    documentation = framing.__doc__ or ""
    code = documentation[documentation.index("    def serve") : documentation.index("``docs/framing.rst``")]
    names: dict[str, Any] = {name: getattr(framing, name) for name in framing.__all__}
    exec(compile(textwrap.dedent(code), "framing/__init__.py", "exec"), names)
    return names["serve"]


@pytest.mark.parametrize(
    ("request_body", "response"),
    [
        (wire("1 1 1 command-name eos a", "3 1 2 command-name eos b"), ["1 2 1 4 2 A", "3 2 0 4 2 B"]),
        (wire("1 1 1 command-name eos a", "3 1 0 9 0 b"), ["1 2 1 4 2 A", "3 2 0 5 1 expected command frame; got 9"]),
        (
            wire("1 1 1 command-name eos a", "3 1 0 command-name have-args b"),
            ["1 2 1 4 2 A", "3 2 0 5 1 received end of input inside a command: request 3"],
        ),
        (wire("1 1 1 command-name eos a") + b"\1", ["1 2 1 4 2 A"]),
        (b"", []),
    ],
)
def test_errors_lose_no_responses(serve: Any, request_body: bytes, response: list[str]) -> None:
    buffer = FrameBuffer()
    serve(request_body, lambda name, arguments: name.upper(), buffer.feed)
    assert list(buffer) == [frame(text) for text in response]
