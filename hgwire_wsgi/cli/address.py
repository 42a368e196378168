"""Where ``hgwire serve`` listens: reading ``--bind``, checking that the address is free, and naming it for a person."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat

from . import CommandLineError

__all__ = ["check_address", "read_address", "shown_address"]

_TCP = re.compile(r"(?:(?P<host>\[[^\[\]]+\]|[^\[\]:]*):)?(?P<port>[0-9]{1,5})")
_UNIX = re.compile(r"unix:(?://)?(?P<path>.+)")

_UNRESOLVED = "the host name cannot be resolved"

_REASONS = {
    errno.EADDRINUSE: "the address is in use",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EAFNOSUPPORT: "this machine does not support that kind of address",
    errno.EEXIST: "there is a file that is not a socket",
}


def read_address(text: str) -> str:
    """Read the value of ``--bind``.

    Args:
        text: ``PORT`` for 127.0.0.1, ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT`` for all IPv4 addresses of the machine,
            or ``unix:PATH``.

    Returns:
        The address as gunicorn's ``bind`` setting takes it; the path of a socket is absolute.

    Raises:
        CommandLineError: for anything else.
    """
    if found := _UNIX.fullmatch(text):
        return "unix:" + os.path.abspath(found["path"])
    found = _TCP.fullmatch(text)
    if found is None or int(found["port"]) >= 1 << 16:
        raise CommandLineError(f"--bind takes PORT, HOST:PORT, [IPV6]:PORT or unix:PATH, not {text!r}")
    return text if ":" in text else f"127.0.0.1:{text}"


def check_address(address: str) -> None:
    """Check that the server will be able to listen at an address; gunicorn itself would try for five seconds.

    A socket file that no server listens at any more is removed.

    Args:
        address: from :func:`read_address`.

    Raises:
        CommandLineError: says why in plain words.
    """
    try:
        if address.startswith("unix:"):
            _try_path(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition(":")
            # Otherwise bind() fails with a TypeError.
            host.encode("idna")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except (OSError, UnicodeError) as error:
        raise CommandLineError(f"cannot listen at {address}: {_reason(error, address)}", code=1) from error


def shown_address(listener: object) -> str:
    """Name the address of a listening socket so that a person can use it.

    Args:
        listener: gunicorn's socket, whose text is ``http://HOST:PORT`` or ``unix:PATH``.

    Returns:
        The URL, with the loopback address in place of "all addresses"; a socket's path as it is.
    """
    text = str(listener)
    if text.startswith("unix:"):
        return text
    return text.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:") + "/"


def _try_path(path: str) -> None:
    """Bind a socket file and remove it again.

    Raises:
        OSError: if that fails.
    """
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX) as trial:
        trial.bind(path)
    os.unlink(path)


def _remove_stale(path: str) -> None:
    """Remove a socket file that a killed server left behind.  gunicorn would even remove one that is in use.

    Raises:
        OSError: if a server listens there, or if the file is not a socket.
    """
    if not os.path.exists(path):
        return
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.setblocking(False)
        try:
            visitor.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            # A server is there; its queue is full.
            pass


def _reason(error: Exception, address: str) -> str:
    """Say in plain words why an address cannot be had."""
    if not isinstance(error, OSError):
        # Python could not even ask for the name.
        return _UNRESOLVED
    if error.errno is None:
        # Python checks this itself.
        return "the path is too long for a socket; the limit is about 100 bytes"
    if error.errno < 0:
        # An error of getaddrinfo().
        return _UNRESOLVED
    folder = os.path.dirname(address.removeprefix("unix:"))
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{folder} is not a folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        if address.startswith("unix:"):
            return f"no permission to create a file in {folder}"
        return "no permission; ports below 1024 are usually reserved for the administrator"
    return _REASONS.get(error.errno, os.strerror(error.errno))
