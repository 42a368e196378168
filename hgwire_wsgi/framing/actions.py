"""Actions: the results of a reactor, which its owner must carry out.

One is made per frame, so they are mutable, slotted and unvalidated.  Their names are those of Mercurial's reactors.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from ..errors import RemoteProtocolError
from ..streams import close_source
from .frame import Frame
from .textoutput import Atom

__all__ = [
    "NOOP",
    "WANT_FRAME",
    "Action",
    "CommandData",
    "Error",
    "ResponseData",
    "ResponseError",
    "RunCommand",
    "SendFrames",
    "Signal",
    "TextOutput",
]


class Signal(enum.Enum):
    """The actions that carry nothing."""

    WANT_FRAME = "want-frame"
    """Something is incomplete: feed the next frame."""
    NOOP = "noop"
    """Nothing to do."""

    def __repr__(self) -> str:
        return self.name


WANT_FRAME: Final = Signal.WANT_FRAME
NOOP: Final = Signal.NOOP


@attrs.define
class RunCommand:
    """A command whose arguments are complete: run it."""

    request_id: int
    name: bytes
    """As sent: it may be empty or unknown."""
    arguments: Mapping[bytes, Any]
    """Values by name: bytes, or what the types of the revision are."""
    has_data: bool = False
    """Data follow as :class:`CommandData`, the last of them ``final``."""
    data: bytes | None = None
    """All the data if :class:`~hgwire_wsgi.framing.BufferedCommands` collected them, else ``None``."""
    redirect: Any = None
    """What the client said about the redirects it follows, in a revision that has them."""


@attrs.define
class CommandData:
    """Some data of a running command."""

    request_id: int
    data: bytes
    final: bool


@attrs.define
class SendFrames:
    """Frames to send, in this order.

    Each frame is made when it is taken, so a response may be larger than memory.  The request ID becomes free once
    the last frame was taken.  Call :meth:`close` if you stop before that.
    """

    frames: Iterator[Frame]
    _sources: Sequence[object] = attrs.field(default=(), repr=False)

    def close(self) -> None:
        """Drop the frames that were not taken, and close the iterables they would have come from."""
        close_source(self.frames)
        # A generator that never started does not close what it would have read from.
        for source in self._sources:
            close_source(source)


@attrs.define
class Error:
    """The peer broke the protocol.  Terminal: every further event is answered with this same action."""

    error: RemoteProtocolError

    @property
    def message(self) -> str:
        """One line for the peer."""
        return self.error.message


@attrs.define
class ResponseData:
    """Some bytes of the response to a request."""

    request_id: int
    data: bytes
    final: bool


@attrs.define
class ResponseError:
    """A request failed at the server; nothing follows for it."""

    request_id: int
    message: bytes
    """As sent; UTF-8 by the specification."""
    kind: str = ""
    """The cause, if the server said: ``protocol`` (what we sent), ``application``, or both joined by ``|``."""


@attrs.define
class TextOutput:
    """Text for the user."""

    request_id: int
    atoms: tuple[Atom, ...]


Action: TypeAlias = RunCommand | CommandData | SendFrames | ResponseData | ResponseError | TextOutput | Error | Signal
