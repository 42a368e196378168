"""Every limit on what a peer controls, as a named field with its reason."""

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
    """Limits of one application, in bytes unless the documentation of a field says otherwise."""

    argument_bytes: int = _bound(16 * 1024 * 1024)
    """Encoded arguments of one v1 request (query string, headers or posted).

    A ``known`` with 100,000 nodes takes 4.1 MB.  Servers limit headers to far less, so this limits posted arguments.
    """

    command_arguments: int = _bound(256)
    """Number of arguments of one command.

    Mercurial's commands have fewer than fifteen.  A parsed argument takes many times its encoded size.
    """

    batch_commands: int = _bound(50_000)
    """Number of commands in one ``batch``.  largefiles sends one ``statlfile`` per file, thousands at a time."""

    batch_reply: int = _bound(256 * 1024 * 1024)
    """All replies of one ``batch`` together, which are in memory until the last one is complete.

    50,000 lookups take 2 MB; one ``heads`` of a repository with 100,000 heads takes 4 MB, and may be repeated.
    """

    body: int = _bound(1 << 40)
    """One request body as sent.  The default of 1 TiB only refuses wrong lengths; a host can lower it."""

    body_decoded: int = _bound(1 << 40)
    """One request body after decompression."""

    decode_window: int = _bound(128 * 1024 * 1024)
    """Window of a zstd decoder, which is its memory.  Level 22 requires 128 MiB, the default limit of zstd."""

    drain: int | None = attrs.field(default=None, validator=attrs.validators.optional(_positive))
    """Unread rest of a refused request that is read and discarded; then the connection is closed.

    The default is 4 MiB where the server gives the connection to the application (gunicorn), and the whole body
    elsewhere.  gunicorn closes a connection in such a way that Mercurial's client still finds the answer.  From other
    servers it would get a reset, and a push without a password would fail instead of being repeated with one.
    """

    chunk: int = _bound(64 * 1024)
    """Response chunks are joined to about this size: fewer system calls, with one chunk in memory."""

    # Frames.

    frame_payload: int = _bound(65535)
    """Payload of one frame as sent, in both directions.

    The specification forbids more "unless given permission by the server"; a host that raises this gives permission.
    """

    frame_decoded: int = _bound(16 * 1024 * 1024)
    """Payload of one frame after decoding.  65,535 bytes of deflate can decode to 64 MiB, of zstd to far more."""

    command_name: int = _bound(255)
    """Name of a framed command.  The longest in Mercurial has 19 characters."""

    command_argument_bytes: int = _bound(4 * 1024 * 1024)
    """Names and values of arguments, for all framed commands of an exchange that are not received completely."""

    open_requests: int = _bound(1000)
    """Number of requests of one exchange that are being received or not answered yet."""

    open_streams: int = _bound(128)
    """Number of streams open in one direction: all odd (or even) stream IDs.  One without encoding takes 200 bytes."""

    encoded_streams: int = _bound(8)
    """Number of open streams with a content encoding, each of which may take ``stream_window`` bytes of memory."""

    stream_window: int = _bound(8 * 1024 * 1024)
    """Window of the decoder of one stream: the one in the name of the profile ``zstd-8mb``."""

    command_data: int = _bound(64 * 1024 * 1024)
    """Data that :class:`~hgwire_wsgi.framing.BufferedCommands` holds for all incomplete commands of one exchange."""

    reflected: int = _bound(1024 * 1024)
    """Response of ``debugreflect``, which is built in memory.

    A few bytes of an encoded frame can become megabytes, and each megabyte takes 0.1 s to write as JSON.
    """

    spool: int = _bound(1024 * 1024 * 1024)
    """Data of all commands of one ``multirequest``, which wait in files until the request is read to its end.

    A large push is sent to the URL of its command, where the data are read as they arrive and nothing is stored.
    """

    spool_memory: int = _bound(1024 * 1024)
    """Data of one such command that wait in memory before they move to a file."""

    spooled_commands: int = _bound(16)
    """Number of commands of one ``multirequest`` with data: each may take a file, and ``spool_memory``."""

    response_backlog: int = _bound(1024 * 1024)
    """Frames that the workers of one ``multirequest`` have finished and the server has not sent yet.

    It lets one worker compress while the frames of another are sent.  With a slow client, workers wait at this limit.
    """
