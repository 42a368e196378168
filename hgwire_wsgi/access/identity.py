"""Who sends a request.

An *identity* is a callable that takes an :class:`IdentityRequest` and returns the name of the user, or ``None`` for a
request without a user.  It runs once per request, before the policy, and knows nothing of commands and repositories.
To refuse a request, it raises :class:`PermissionDenied` with status 401.

The idea of this module: a password enters it in a header, and leaves it as the name of a user.  Only
:meth:`_Verified._user` has the password in a variable, only while the host's verifier runs, and nothing is raised from
there.  The tables of recent results have keyed digests instead of credentials.  All objects are shared by all threads.

Names of users are text.  WSGI passes them as the UTF-8 bytes of the text, each byte as a Latin-1 character (PEP 3333),
and some hosts pass the text itself; :func:`user_text` accepts both.
"""

from __future__ import annotations

import abc
import base64
import hmac
import re
import secrets
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..errors import HgWireError, LocalProtocolError, PermissionDenied, Unavailable
from ..logcontext import LOGGER
from ..stops import FAILURES, is_from_signal
from .proxies import TrustedProxies

__all__ = [
    "Identify",
    "IdentityRequest",
    "basic",
    "bearer",
    "first_of",
    "remote_user",
    "trusted_header",
    "user_text",
    "wsgi_text",
]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""``token68`` (RFC 9110, section 11.2)."""

_LONGEST = 8190
"""Maximum length of ``Authorization``: the default limit of common servers for one header."""

_PATIENCE = 2.0
"""Seconds that a request waits for its turn to have a password verified."""


def user_text(name: str) -> str:
    """Decode the name of a user as a WSGI server or a host passes it.

    Args:
        name: UTF-8 bytes as Latin-1 characters, or text.  If it can be either, it is decoded: the text ``Ã©`` becomes
            ``é``.  Bytes that are not UTF-8 are read as Latin-1.

    Returns:
        Text that can be encoded as UTF-8.
    """
    if name.isascii():
        return name
    try:
        return _decoded(name.encode("latin-1"))
    except UnicodeEncodeError:
        return wsgi_text(name).encode("latin-1").decode("utf-8")


def wsgi_text(text: str) -> str:
    """Convert text to the form in which WSGI passes it; :func:`user_text` converts it back.

    Lone surrogates, which are no text, are replaced by their escape sequences.
    """
    return text.encode("utf-8", "backslashreplace").decode("latin-1")


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


@attrs.frozen(kw_only=True)
class IdentityRequest:
    """The facts about a request that can show who sends it.

    Attributes:
        header: returns a request header by its HTTP name, ``None`` if there is none.
        peer: the address at the other end of the connection, which may be a proxy; empty for a Unix socket.
        address: the client's address according to the trusted proxies.
        scheme: ``http`` or ``https``, likewise.
        environ: the WSGI environ, for what else the host has put there.
    """

    header: Callable[[str], str | None] = attrs.field(repr=False)
    peer: str
    address: str
    scheme: str
    environ: Mapping[str, Any] = attrs.field(repr=False)


Identify = Callable[[IdentityRequest], str | None]
"""Returns the name of the user as text, or ``None``; raises :class:`PermissionDenied` for wrong credentials."""


def remote_user(request: IdentityRequest) -> str | None:
    """Return ``REMOTE_USER``, which the WSGI server or the host has set."""
    name = request.environ.get("REMOTE_USER")
    return user_text(name) if name else None


def first_of(*identities: Identify) -> Identify:
    """Return an identity that asks others in their order, until one returns a user or refuses the request."""

    def identify(request: IdentityRequest) -> str | None:
        return next((user for each in identities if (user := each(request)) is not None), None)

    return identify


def trusted_header(name: str, proxies: TrustedProxies) -> Identify:
    """Return an identity that reads a header which a trusted front end sets after it has authenticated the user.

    The front end must remove the header from what clients send.  From any other peer, the header is ignored, and a
    warning is logged for the 1st, 10th, 100th, ... request that has it.  The same happens if the header contains a
    comma: then it was sent more than once, by the client and by the front end.

    Args:
        name: the HTTP name, such as ``X-Forwarded-User``.
        proxies: the front ends; the address of the immediate peer counts.
    """
    strangers, lists = _Complaints(), _Complaints()

    def identify(request: IdentityRequest) -> str | None:
        value = (request.header(name) or "").strip()
        if not value:
            return None
        if not proxies.trusts(request.peer):
            strangers.add("%s is ignored: %s is not a trusted front end", name, request.peer or "a Unix socket")
        elif "," in value:
            lists.add("%s from %s is ignored: it names several users", name, request.peer or "a Unix socket")
        else:
            return user_text(value)
        return None

    return identify


class _Complaints:
    """Logs the 1st, 10th, 100th, ... of equal complaints, so that clients cannot flood the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, message: str, *arguments: object) -> None:
        with self._lock:
            self._count += 1
            count = self._count
        if count == 10 ** (len(str(count)) - 1):
            LOGGER.warning(f"{message} (%d so far)", *arguments, count)


def basic(
    verify: Callable[[str, str], bool],
    *,
    realm: str = "Mercurial",
    cache: float = 60.0,
    failed: float = 5.0,
    entries: int = 1024,
    at_once: int = 2,
) -> Identify:
    """Return an identity that verifies the user and password of HTTP Basic authentication (RFC 7617).

    Args:
        verify: takes user and password as text, and returns ``True`` if they belong together.  Called by several
            threads.  It should take as long for an unknown user as for a wrong password.
        realm: for the challenge.
        cache: seconds during which a correct password is not verified again.  A removed user can log in until then.
        failed: seconds during which the same wrong password is refused without being verified.
        entries: maximum number of results in each of the two caches.
        at_once: maximum number of calls of ``verify`` at the same time in this process.  As many requests wait, for up
            to 2 seconds; any other gets 503, so that wrong passwords cannot occupy all threads.
    """
    return _Basic(f'Basic realm="{_quoted(realm)}", charset="UTF-8"', cache, failed, entries, at_once, verify)


def bearer(
    verify: Callable[[str], str | None],
    *,
    realm: str = "Mercurial",
    cache: float = 60.0,
    failed: float = 5.0,
    entries: int = 1024,
    at_once: int = 2,
) -> Identify:
    """Return an identity that verifies the token of Bearer authentication (RFC 6750).

    Args:
        verify: takes the token and returns the name of its user, or ``None``.  It should compare digests, or use
            :func:`hmac.compare_digest`.
        realm, cache, failed, entries, at_once: as for :func:`basic`.
    """
    challenge = f'Bearer realm="{_quoted(realm)}", error="invalid_token"'
    return _Bearer(challenge, cache, failed, entries, at_once, verify)


def _quoted(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"the realm must be printable ASCII, not {text!r}")
    return text.replace("\\", "\\\\").replace('"', '\\"')


@attrs.define(eq=False)
class _Recent:
    """A bounded table of results that expire; the oldest one makes room."""

    seconds: float
    entries: int
    _known: OrderedDict[bytes, tuple[float, str]] = attrs.field(factory=OrderedDict, repr=False)

    def get(self, key: bytes) -> str | None:
        expires, user = self._known.get(key, (0.0, ""))
        return user if expires > time.monotonic() else None

    def put(self, key: bytes, user: str) -> None:
        if self.seconds <= 0:
            return
        self._known[key] = time.monotonic() + self.seconds, user
        self._known.move_to_end(key)
        while len(self._known) > self.entries:
            self._known.popitem(last=False)


class _Verified(abc.ABC):
    """An identity whose credentials are verified by the host; the results are cached for a short time."""

    scheme: str
    wrong: str

    def __init__(self, challenge: str, cache: float, failed: float, entries: int, at_once: int, verify: Any) -> None:
        self._refusal = (("WWW-Authenticate", challenge),)
        self._verify = verify
        # Both sides of a lookup are digests with this key, so the time that it takes reveals nothing.
        self._key = secrets.token_bytes(32)
        self._good = _Recent(cache, entries)
        # Wrong passwords have their own table, so that they cannot push out the correct ones.
        self._bad = _Recent(failed, entries)
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(at_once)
        # Those who verify, and those who wait.
        self._places = threading.BoundedSemaphore(2 * at_once)

    def __call__(self, request: IdentityRequest) -> str | None:
        # No variable of this frame holds the credentials, because exceptions are raised from here.
        if (request.header("Authorization") or "").partition(" ")[0].lower() != self.scheme:
            return None
        user = self._user(request)
        if isinstance(user, Exception):
            raise user
        return user

    def _user(self, request: IdentityRequest) -> str | HgWireError:
        """The user of the credentials, or the error to raise."""
        header = request.header("Authorization") or ""
        if len(header) > _LONGEST:
            return self._denied("malformed credentials")
        given = header[len(self.scheme) + 1 :].strip(" ")
        key = hmac.digest(self._key, given.encode("utf-8", "surrogatepass"), "sha256")
        known = self._recent(key)
        if known is not None:
            return known
        parsed = self._parse(given)
        if parsed is None:
            return self._denied("malformed credentials")
        if not self._places.acquire(blocking=False):
            return self._busy()
        try:
            return self._wait_and_ask(key, parsed)
        finally:
            self._places.release()

    def _wait_and_ask(self, key: bytes, parsed: tuple[str, ...]) -> str | HgWireError:
        if not self._turns.acquire(timeout=_PATIENCE):
            return self._busy()
        try:
            # Another request may have had the same credentials verified in the meantime.
            known = self._recent(key)
            return self._ask(key, parsed) if known is None else known
        finally:
            self._turns.release()

    @staticmethod
    def _busy() -> Unavailable:
        return Unavailable("too many logins at once; try again", retry_after=2)

    def _recent(self, key: bytes) -> str | HgWireError | None:
        with self._lock:
            user, is_wrong = self._good.get(key), self._bad.get(key) is not None
        return self._denied(self.wrong) if is_wrong and user is None else user

    def _ask(self, key: bytes, parsed: tuple[str, ...]) -> str | HgWireError:
        try:
            user = self._user_of(parsed, self._verify(*parsed))
        except HgWireError as error:
            return error
        except FAILURES as error:
            if is_from_signal(error):
                raise
            # Its message, and the variables in its frames, may contain the password.
            places = "".join(traceback.format_tb(error.__traceback__))
            LOGGER.error("a verifier of passwords failed with %s\n%s", type(error).__name__, places)
            return Unavailable("logins cannot be verified now; try again later", retry_after=60)
        with self._lock:
            (self._bad if user is None else self._good).put(key, user or "")
        return self._denied(self.wrong) if user is None else user

    def _denied(self, reason: str) -> PermissionDenied:
        return PermissionDenied(reason, status=401, headers=self._refusal)

    @abc.abstractmethod
    def _parse(self, given: str) -> tuple[str, ...] | None:
        """Return the arguments of the verifier; ``None`` if the credentials are malformed."""

    @abc.abstractmethod
    def _user_of(self, parsed: tuple[str, ...], verdict: object) -> str | None:
        """Return the user according to the verifier."""


class _Basic(_Verified):
    scheme = "basic"
    wrong = "wrong user name or password"

    def _parse(self, given: str) -> tuple[str, ...] | None:
        try:
            user, colon, password = _decoded(base64.b64decode(given, validate=True)).partition(":")
        except ValueError:
            return None
        # RFC 7617, section 2: "The user-id and password MUST NOT contain any control characters".
        return (user, password) if user and colon and not _CONTROL.search(user + password) else None

    def _user_of(self, parsed: tuple[str, ...], verdict: object) -> str | None:
        if not isinstance(verdict, bool):
            raise LocalProtocolError(f"a verifier must return True or False, not {type(verdict).__name__}")
        return parsed[0] if verdict else None


class _Bearer(_Verified):
    scheme = "bearer"
    wrong = "the token is not valid"

    def _parse(self, given: str) -> tuple[str, ...] | None:
        return (given,) if _TOKEN.fullmatch(given) else None

    def _user_of(self, parsed: tuple[str, ...], verdict: object) -> str | None:
        if verdict is not None and not (isinstance(verdict, str) and verdict):
            raise LocalProtocolError(f"a verifier must return a user or None, not {type(verdict).__name__}")
        return verdict


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
