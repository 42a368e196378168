"""Passwords in a file of Apache's ``htpasswd``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("passlib", reason="the file needs the extra hgwire-wsgi[htpasswd]")

from passlib import hash as hashes

from hgwire_wsgi.access import htpasswd
from hgwire_wsgi.access.htpasswd import HtpasswdFile

HASHES = {
    "bcrypt": hashes.bcrypt.using(rounds=4, ident="2y"),
    "sha512_crypt": hashes.sha512_crypt.using(rounds=1000),
    "sha256_crypt": hashes.sha256_crypt.using(rounds=1000),
    "apr_md5_crypt": hashes.apr_md5_crypt,
    "ldap_sha1": hashes.ldap_sha1,
}
"""As fast as they can be."""


def line(user: str, password: str, scheme: str = "bcrypt") -> str:
    return f"{user}:{HASHES[scheme].hash(password)}\n"


def old(path: Path) -> Path:
    """A file that was changed an hour ago."""
    then = time.time() - 3600
    os.utime(path, (then, then))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(line("alice", "pässword") + line("bob", "pw"), "utf-8")
    return old(path)


@pytest.mark.parametrize("scheme", HASHES)
def test_every_kind_of_hash(path: Path, scheme: str) -> None:
    path.write_text(line("alice", "pässword", scheme) + "# a comment\n\n" + line("ém", "pw", scheme), "utf-8")
    verify = HtpasswdFile(path)
    assert verify("alice", "pässword") is True
    assert verify("ém", "pw") is True
    for user, password in (
        ("alice", "pw"),
        ("alice", ""),
        ("ém", "pässword"),
        ("eve", "pässword"),
        ("", ""),
        ("# a", ""),
    ):
        assert verify(user, password) is False


def test_what_apache_has_written(path: Path) -> None:
    """The examples of Apache's documentation; the password is ``myPassword``."""
    path.write_text(
        "md5:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/\n"
        "sha1:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n"
        "bcrypt:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n"
    )
    verify = HtpasswdFile(path)
    assert [verify(user, "myPassword") for user in ("md5", "sha1", "bcrypt")] == [True] * 3
    assert [verify(user, "mypassword") for user in ("md5", "sha1", "bcrypt")] == [False] * 3


def test_a_file_in_latin_1(path: Path) -> None:
    path.write_text(line("ém", "pw"), "latin-1")
    assert HtpasswdFile(path)("ém", "pw") is True


def test_bcrypt_reads_72_bytes(path: Path) -> None:
    path.write_text(line("alice", "x" * 72))
    verify = HtpasswdFile(path)
    assert verify("alice", "x" * 80) is True
    assert verify("alice", "x" * 71) is False


@pytest.mark.parametrize("bad", ["alice:plain", "alice:$2y$05$short", "alice", "alice:", "alice:rl9jLT2tqOnG6"])
def test_other_lines_let_nobody_in(path: Path, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text(f"{bad}\n{line('bob', 'pw')}")
    verify = HtpasswdFile(path)
    assert verify("bob", "pw") is True
    assert verify("alice", "plain") is verify("alice", "") is False
    assert "plain" not in caplog.text


def test_a_line_that_is_skipped_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text("alice:plain\n")
    assert HtpasswdFile(path)("alice", "plain") is False
    assert caplog.messages == [f"{path}, line 1: no password hash of a known kind"]


def test_control_characters_and_surrogates_are_wrong_passwords(path: Path) -> None:
    verify = HtpasswdFile(path)
    assert verify("alice", "a\0b") is verify("alice", "\ud800") is False


def test_an_empty_file_lets_nobody_in(path: Path) -> None:
    path.write_text("")
    assert HtpasswdFile(path)("alice", "") is False


def test_a_change_counts_at_once(path: Path) -> None:
    verify = HtpasswdFile(path)
    assert verify("bob", "pw") is True
    content = path.read_text("utf-8")
    path.write_text(content.replace("bob:", "rob:"), "utf-8")
    assert (verify("bob", "pw"), verify("rob", "pw")) == (False, True)
    # A second change of equal size within the resolution of the time stamps.
    path.write_text(content, "utf-8")
    assert (verify("bob", "pw"), verify("rob", "pw")) == (True, False)


def test_an_old_file_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    read = htpasswd.HtpasswdFile._read
    monkeypatch.setattr(htpasswd.HtpasswdFile, "_read", lambda *last: reads.append(last) or read(*last))
    verify = HtpasswdFile(path)
    assert verify("bob", "pw") is verify("bob", "pw") is True
    assert len(reads) == 1


def test_a_missing_file_is_an_error(path: Path) -> None:
    verify = HtpasswdFile(path)
    path.unlink()
    for act in (lambda: verify("bob", "pw"), lambda: HtpasswdFile(path)):
        with pytest.raises(OSError, match="No such file"):
            act()


def test_an_unknown_user_takes_as_long_as_a_known_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hash function runs, once."""
    asked: list[str] = []

    real = htpasswd._HASHES

    class Witness:
        identify = real.identify

        @staticmethod
        def verify(secret: bytes, hashed: str) -> bool:
            asked.append(hashed[:7])
            return bool(real.verify(secret, hashed))

    monkeypatch.setattr(htpasswd, "_HASHES", Witness)
    verify = HtpasswdFile(path)
    assert verify("alice", "wrong") is verify("eve", "wrong") is verify("eve", "pässword") is False
    assert asked == ["$2y$04$"] * 3
