"""Passwords in a file of Apache's ``htpasswd``.

The file is read when it has changed.  All threads share the result, which is replaced, never modified.  Requires the
extra ``hgwire-wsgi[htpasswd]``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
from passlib.context import CryptContext

from ..logcontext import LOGGER

__all__ = ["HtpasswdFile"]

_HASHES = CryptContext(["bcrypt", "sha512_crypt", "sha256_crypt", "apr_md5_crypt", "ldap_sha1"])
"""What ``htpasswd`` writes, except for plain text and ``crypt``, which cuts passwords to 8 characters."""

_BCRYPT_BYTES = 72
"""bcrypt ignores the rest of a password; its Python library refuses longer ones since version 5."""

_FRESH = 2.0
"""Seconds after a change in which the file may change again without another time stamp."""


@attrs.frozen
class _Content:
    data: bytes = attrs.field(repr=False)
    users: Mapping[str, str] = attrs.field(repr=False)
    stamp: object


class HtpasswdFile:
    """A verifier for :func:`hgwire_wsgi.basic`.

    An unknown user takes as long as a wrong password for the first user in the file.

    Args:
        path: the file.  Lines are ``user:hash``; hashes may be bcrypt, SHA-512, SHA-256, Apache's MD5, or SHA-1.

    Raises:
        OSError: if the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._content = self._read(None)

    def __call__(self, user: str, password: str) -> bool:
        """Whether the password is that of the user.

        Raises:
            OSError: if the file has changed and cannot be read.
        """
        if self._content.stamp != self._stamp():
            self._content = self._read(self._content)
        users = self._content.users
        known = users.get(user)
        hashed = known or next(iter(users.values()), "")
        secret = password.encode("utf-8", "backslashreplace")
        try:
            correct = bool(_HASHES.verify(secret[:_BCRYPT_BYTES] if hashed.startswith("$2") else secret, hashed))
        except ValueError:  # a malformed hash, or an empty file
            return False
        return correct and known is not None

    def _stamp(self) -> object:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self, last: _Content | None) -> _Content:
        stamp, changed = self._stamp(), self._path.stat().st_mtime
        data = self._path.read_bytes()
        users = self._parse(data) if last is None or data != last.data else last.users
        return _Content(data, users, None if abs(time.time() - changed) < _FRESH else stamp)

    def _parse(self, data: bytes) -> dict[str, str]:
        users: dict[str, str] = {}
        for number, line in enumerate(_text(data).splitlines(), 1):
            user, colon, hashed = line.strip().partition(":")
            if not user or user.startswith("#"):
                continue
            if not colon or _HASHES.identify(hashed) is None:
                LOGGER.warning("%s, line %d: no password hash of a known kind", self._path, number)
                continue
            users[user] = hashed
        return users


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
