"""Every bound on what a peer controls, as a named field with its reason."""

from __future__ import annotations

import attrs

__all__ = ["Limits"]


def _positive(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


def _bound(default: int) -> int:
    return attrs.field(default=default, validator=_positive)


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one application.  Sizes are bytes unless a name says otherwise."""

    argument_bytes: int = _bound(16 * 1024 * 1024)
    """Encoded arguments of one v1 request (query string, headers or posted).

    A ``known`` with 100,000 nodes takes 4.1 MB; servers bound headers far below, so this guards posted arguments.
    """

    command_arguments: int = _bound(256)
    """Arguments of one command.  No command of Mercurial has fifteen; each costs many times its bytes here."""

    batch_commands: int = _bound(50_000)
    """Sub-commands of one ``batch``.  largefiles asks for one ``statlfile`` per file, thousands at a time."""

    batch_reply: int = _bound(256 * 1024 * 1024)
    """The replies of one ``batch`` together, which are held until the last is there.

    50,000 lookups take 2 MB; one ``heads`` of a repository with 100,000 heads takes 4 MB, and may be asked repeatedly.
    """

    body: int = _bound(1 << 40)
    """One request body as sent: 1 TiB, so that only a misdeclared length is refused.  A host lowers it."""

    body_decoded: int = _bound(1 << 40)
    """One request body after decompression, whatever its ratio."""

    decode_window: int = _bound(128 * 1024 * 1024)
    """Window of a zstd decoder: its memory.  128 MiB is what level 22 needs, and zstd's own default ceiling."""

    drain: int = _bound(1 << 40)
    """How much unread request body is read and dropped before an answer.

    Mercurial's client reads no answer before it has sent its whole request, so an early answer is lost unless the
    body is read.  Past this bound the connection is cut instead.
    """

    chunk: int = _bound(64 * 1024)
    """Response chunks are joined to about this size: fewer system calls, and one chunk is all that is held."""

    # Frames (exp-framing-0002 and its relatives).

    frame_payload: int = _bound(65535)
    """Payload of one frame as sent, both ways.

    The specification forbids more "unless given permission by the server"; a host that raises it gives permission.
    """

    frame_decoded: int = _bound(16 * 1024 * 1024)
    """Payload of one frame after decoding.  65,535 bytes of deflate can make 64 MiB, of zstd far more."""

    command_name: int = _bound(255)
    """Name of a framed command.  The longest that Mercurial knows has 19 characters."""

    command_argument_bytes: int = _bound(4 * 1024 * 1024)
    """Argument names and values of all framed commands of an exchange that are still being received."""

    open_requests: int = _bound(1000)
    """Requests of one exchange that are being received or not yet answered."""

    open_streams: int = _bound(128)
    """Streams open in one direction: every odd (or even) stream ID.  One without an encoding costs 200 bytes."""

    encoded_streams: int = _bound(8)
    """Open streams with a content encoding, each of which may hold ``stream_window`` bytes of history."""

    stream_window: int = _bound(8 * 1024 * 1024)
    """Window of the decoder of one stream: what the name of the profile ``zstd-8mb`` promises."""

    command_data: int = _bound(64 * 1024 * 1024)
    """What :class:`~hgwire_wsgi.framing.BufferedCommands` holds for all commands of one exchange that lack data."""

    reflected: int = _bound(1024 * 1024)
    """Answer of ``debugreflect``, which is made in memory.

    A few bytes of an encoded frame can make megabytes of it, and each megabyte takes 0.1 s to write as JSON.
    """

    spool: int = _bound(1024 * 1024 * 1024)
    """Command data that all commands of one ``multirequest`` bring: they wait in files until it was read to its end.

    A large push has a URL of its own, where its data are read as they come and nothing is kept.
    """

    spool_memory: int = _bound(1024 * 1024)
    """How much of the data of one such command waits in memory before it goes to a file."""

    spooled_commands: int = _bound(16)
    """Commands of one ``multirequest`` whose data are kept: each may need a file, and ``spool_memory``."""

    response_backlog: int = _bound(1024 * 1024)
    """Frames that the workers of one ``multirequest`` have made and the server has not yet taken.

    It lets a worker compress while another one's frames are sent; a slow client makes them wait beyond it.
    """
