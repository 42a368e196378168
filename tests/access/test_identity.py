"""Identities: who sends a request, and where passwords do not go."""

from __future__ import annotations

import base64
import logging
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi import (
    IdentityRequest,
    PermissionDenied,
    TrustedProxies,
    basic,
    bearer,
    first_of,
    remote_user,
    trusted_header,
)
from hgwire_wsgi.access import identity
from hgwire_wsgi.access.identity import user_text, wsgi_text
from hgwire_wsgi.errors import HgWireError, LocalProtocolError, Unavailable

SECRET = "s3cret:ü"


def request(authorization: str | None = None, peer: str = "192.0.2.1", user: str | None = None, **headers: str) -> Any:
    given = {"Authorization": authorization, **{name.replace("_", "-"): value for name, value in headers.items()}}
    environ = {} if user is None else {"REMOTE_USER": user}
    return IdentityRequest(header=given.get, peer=peer, address=peer, scheme="http", environ=environ)


def credentials(user: str = "alice", password: str = SECRET, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()


class Verifier:
    """Knows one password, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(self, user: str, password: str) -> bool:
        self.calls.append((user, password))
        return password == SECRET


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("alice", "alice"),
        ("Ã©m", "ém"),
        ("ém", "ém"),
        ("Ð\x96", "Ж"),
        ("Ж", "Ж"),
        ("Жé", "Жé"),
        ("\xff\xfe", "ÿþ"),
        ("Ж\udce9", "Ж\\udce9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_names_in_both_forms_are_one_text(name: str, text: str) -> None:
    assert user_text(name) == text
    assert user_text(wsgi_text(text)) == text


@given(st.text())
def test_every_name_becomes_text_that_survives(name: str) -> None:
    text = user_text(name)
    text.encode("utf-8")
    assert user_text(wsgi_text(text)) == text


def test_a_request_does_not_show_its_headers() -> None:
    assert "s3cret" not in repr(
        IdentityRequest(header={"a": SECRET}.get, peer="", address="", scheme="", environ={"x": SECRET})
    )


def test_remote_user() -> None:
    assert remote_user(request(user="Ã©m")) == "ém"
    assert remote_user(request(user="")) is None
    assert remote_user(request()) is None


def test_the_first_identity_with_a_user_wins() -> None:
    both = first_of(remote_user, basic(Verifier()))
    assert both(request(credentials(), user="bob")) == "bob"
    assert both(request(credentials())) == "alice"
    assert both(request()) is None


class TestTrustedHeader:
    identify = staticmethod(trusted_header("X-Forwarded-User", TrustedProxies(["10.0.0.0/8", "unix"])))

    @pytest.mark.parametrize(("peer", "user"), [("10.0.0.1", "ém"), ("", "ém"), ("192.0.2.1", None), ("::1", None)])
    def test_it_counts_only_from_a_trusted_peer(self, peer: str, user: str | None) -> None:
        assert self.identify(request(peer=peer, X_Forwarded_User=" Ã©m ")) == user

    def test_without_it_there_is_no_user(self, caplog: pytest.LogCaptureFixture) -> None:
        assert self.identify(request(peer="10.0.0.1")) is None
        assert self.identify(request(peer="10.0.0.1", X_Forwarded_User=" ")) is None
        assert self.identify(request(peer="192.0.2.1")) is None
        assert caplog.messages == []

    def test_two_users_are_none(self, caplog: pytest.LogCaptureFixture) -> None:
        assert self.identify(request(peer="", X_Forwarded_User="mallory,alice")) is None
        assert "several users" in caplog.text and "a Unix socket" in caplog.text and "mallory" not in caplog.text

    def test_equal_complaints_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        identify = trusted_header("X-User", TrustedProxies(["10.0.0.1"]))
        for _ in range(120):
            assert identify(request(X_User="eve")) is None
        assert [message.partition("trusted front end ")[2] for message in caplog.messages] == [
            "(1 so far)",
            "(10 so far)",
            "(100 so far)",
        ]


class TestBasic:
    def test_a_user_with_the_right_password(self) -> None:
        verifier = Verifier()
        assert basic(verifier)(request(credentials())) == "alice"
        assert verifier.calls == [("alice", SECRET)]

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_names_and_passwords_are_text(self, encoding: str) -> None:
        verifier = Verifier()
        assert basic(verifier)(request(credentials("ém", encoding=encoding).replace("Basic", "bASIC"))) == "ém"

    @pytest.mark.parametrize("header", [None, "", "Digest x", "Basically x", "Bearer abc", "Negotiate"])
    def test_other_schemes_are_not_its_business(self, header: str | None) -> None:
        assert basic(Verifier())(request(header)) is None

    @pytest.mark.parametrize(
        "header",
        [
            "Basic",
            "Basic ",
            "Basic !!!",
            "Basic ü",
            "Basic YWxpY2U=",  # no colon
            "Basic YWxpY2U",  # no padding
            "Basic OnB3",  # no user
            "Basic a b",
            credentials("a\nb"),
            credentials(password="a\0b"),
            credentials(password="x" * 9000),
        ],
    )
    def test_malformed_credentials_are_refused_unseen(self, header: str) -> None:
        verifier = Verifier()
        with pytest.raises(PermissionDenied, match="malformed credentials") as caught:
            basic(verifier)(request(header))
        assert caught.value.http_status == 401
        assert caught.value.headers == (("WWW-Authenticate", 'Basic realm="Mercurial", charset="UTF-8"'),)
        assert verifier.calls == []

    def test_a_wrong_password_is_refused_with_a_challenge(self) -> None:
        with pytest.raises(PermissionDenied, match="wrong user name or password") as caught:
            basic(Verifier(), realm='a "b"\\')(request(credentials(password="wrong")))
        assert caught.value.http_status == 401
        assert caught.value.headers == (("WWW-Authenticate", 'Basic realm="a \\"b\\"\\\\", charset="UTF-8"'),)

    @pytest.mark.parametrize("realm", ["é", "a\r\nSet-Cookie: b"])
    def test_a_realm_is_printable(self, realm: str) -> None:
        with pytest.raises(ValueError, match="printable ASCII"):
            basic(Verifier(), realm=realm)

    @pytest.mark.parametrize("verdict", [None, 1, "yes", object()])
    def test_only_true_is_true(self, verdict: Any) -> None:
        """A coroutine or another object must not let everybody in."""
        identify = basic(lambda user, password: verdict)
        for _ in range(2):
            with pytest.raises(LocalProtocolError, match="must return True or False"):
                identify(request(credentials()))

    def test_results_are_cached_for_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr(identity.time, "monotonic", lambda: now[0])
        verifier = Verifier()
        identify = basic(verifier, cache=60, failed=5)
        wrong = request(credentials(password="wrong"))
        for _ in range(3):
            assert identify(request(credentials())) == "alice"
            with pytest.raises(PermissionDenied):
                identify(wrong)
        assert len(verifier.calls) == 2
        now[0] += 6
        assert identify(request(credentials())) == "alice"
        with pytest.raises(PermissionDenied):
            identify(wrong)
        assert len(verifier.calls) == 3
        now[0] += 60
        assert identify(request(credentials())) == "alice"
        assert len(verifier.calls) == 4

    def test_the_cache_can_be_off(self) -> None:
        verifier = Verifier()
        identify = basic(verifier, cache=0)
        assert identify(request(credentials())) == identify(request(credentials())) == "alice"
        assert len(verifier.calls) == 2

    def test_wrong_passwords_do_not_push_out_correct_ones(self) -> None:
        verifier = Verifier()
        identify = basic(verifier, entries=2)
        identify(request(credentials()))
        for number in range(10):
            with pytest.raises(PermissionDenied):
                identify(request(credentials(password=f"wrong{number}")))
        assert identify(request(credentials())) == "alice"
        assert len(verifier.calls) == 11
        for user in ("bob", "carol", "alice"):
            assert identify(request(credentials(user))) == user
        assert len(verifier.calls) == 14

    def test_two_applications_have_different_keys(self) -> None:
        assert vars(basic(Verifier()))["_key"] != vars(basic(Verifier()))["_key"]

    def test_the_caches_have_no_passwords(self) -> None:
        identify = basic(Verifier())
        identify(request(credentials()))
        seen = repr([*vars(identify)["_good"]._known.items()])
        assert "alice" in seen and SECRET not in seen and credentials()[6:] not in seen

    def test_an_error_of_the_verifier_is_passed_on(self) -> None:
        def locked(user: str, password: str) -> bool:
            raise PermissionDenied("the account is locked", status=403)

        with pytest.raises(PermissionDenied, match="locked"):
            basic(locked)(request(credentials()))

    @pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt])
    def test_a_verifier_that_fails_says_nothing_of_the_password(
        self, kind: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(user: str, password: str) -> bool:
            raise kind(f"cannot bind as {user} with {password}")

        with pytest.raises(Unavailable) as caught:
            basic(fail)(request(credentials()))
        assert caught.value.http_status == 503 and dict(caught.value.headers)["Retry-After"]
        assert kind.__name__ in caplog.text and "in fail" in caplog.text
        assert SECRET not in caplog.text and SECRET not in str(caught.value)
        assert caught.value.__cause__ is caught.value.__context__ is None

    def test_a_signal_during_a_verification_ends_the_server(self) -> None:
        def stop(user: str, password: str) -> bool:
            signal.raise_signal(signal.SIGINT)
            return True

        with pytest.raises(KeyboardInterrupt):
            basic(stop)(request(credentials()))

    @pytest.mark.parametrize("verify", [lambda user, password: False, lambda user, password: 1 // 0])
    def test_no_frame_of_a_traceback_has_the_password(self, verify: Callable[[str, str], bool]) -> None:
        """Some services that collect errors collect the variables of all frames too."""
        identify = basic(verify)
        asked = request(credentials())
        with pytest.raises(HgWireError) as caught:
            identify(asked)
        trace: TracebackType | None = caught.value.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == identity.__file__:
                seen = repr(trace.tb_frame.f_locals)
                assert SECRET not in seen and credentials()[6:] not in seen
            trace = trace.tb_next

    def test_equal_requests_at_once_are_verified_once(self) -> None:
        verifier = Verifier()

        def slow(user: str, password: str) -> bool:
            time.sleep(0.2)
            return verifier(user, password)

        identify = basic(slow, at_once=1)
        found: list[str | None] = []
        threads = [threading.Thread(target=lambda: found.append(identify(request(credentials())))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["alice", "alice"]
        assert len(verifier.calls) == 1

    def test_verifications_at_once_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(identity, "_PATIENCE", 0.05)
        go, entered = threading.Event(), threading.Event()

        def block(user: str, password: str) -> bool:
            entered.set()
            return go.wait(10)

        identify = basic(block, at_once=1)
        identify_later = threading.Thread(target=identify, args=[request(credentials())])
        identify_later.start()
        assert entered.wait(10)
        with pytest.raises(Unavailable, match="too many logins") as caught:
            identify(request(credentials("bob")))
        assert dict(caught.value.headers) == {"Retry-After": "2"}
        go.set()
        identify_later.join()
        assert identify(request(credentials("bob"))) == "bob"

    def test_waiting_is_bounded(self) -> None:
        """Otherwise wrong passwords could occupy all threads of a server."""
        go = threading.Event()
        identify = basic(lambda user, password: go.wait(10), at_once=2)
        outcomes: list[str] = []

        def ask(number: int) -> None:
            try:
                outcomes.append(str(identify(request(credentials(f"user{number}")))))
            except Unavailable:
                outcomes.append("busy")
                if outcomes.count("busy") == 6:
                    go.set()

        threads = [threading.Thread(target=ask, args=[number]) for number in range(10)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes[:6] == ["busy"] * 6 and "busy" not in outcomes[6:]
        assert time.monotonic() - start < identity._PATIENCE


class TestBearer:
    @staticmethod
    def verify(token: str) -> str | None:
        return {"abc.DEF-1~/+==": "ci"}.get(token)

    def test_a_token(self) -> None:
        identify = bearer(self.verify)
        assert identify(request("bearer abc.DEF-1~/+==")) == "ci"
        assert identify(request(credentials())) is None
        assert identify(request()) is None

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("Bearer wrong", "not valid"),
            ("Bearer", "malformed"),
            ("Bearer a b", "malformed"),
            ("Bearer é", "malformed"),
        ],
    )
    def test_any_other_is_refused(self, header: str, reason: str) -> None:
        with pytest.raises(PermissionDenied, match=reason) as caught:
            bearer(self.verify)(request(header))
        assert caught.value.http_status == 401
        assert caught.value.headers == (("WWW-Authenticate", 'Bearer realm="Mercurial", error="invalid_token"'),)

    @pytest.mark.parametrize("user", [True, "", 1])
    def test_a_user_is_a_name(self, user: Any) -> None:
        with pytest.raises(LocalProtocolError, match="must return a user or None"):
            bearer(lambda token: user)(request("Bearer abc"))

    def test_with_basic(self) -> None:
        identify = first_of(basic(Verifier()), bearer(self.verify))
        assert identify(request(credentials())) == "alice"
        assert identify(request("Bearer abc.DEF-1~/+==")) == "ci"
        with pytest.raises(PermissionDenied):
            identify(request("Bearer wrong"))


@given(st.text(max_size=60), st.sampled_from(["Basic ", "Bearer ", ""]))
def test_no_header_causes_another_error(text: str, scheme: str) -> None:
    logging.disable(logging.CRITICAL)
    identify = first_of(basic(lambda user, password: False), bearer(lambda token: None))
    try:
        assert identify(request(scheme + text)) is None
    except PermissionDenied as denied:
        assert denied.http_status == 401
    finally:
        logging.disable(logging.NOTSET)
