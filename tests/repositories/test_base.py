"""The interface: what a backend gets for nothing."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from hgwire_wsgi.commands.objects import NULL, PushKeyResult
from hgwire_wsgi.errors import CommandFailed, UnknownCommand
from hgwire_wsgi.negotiation import ServerCapabilities
from hgwire_wsgi.repositories.base import (
    IncrementalBundles,
    Lease,
    Repository,
    RepositoryProvider,
    Subresources,
)


class Least(Repository):
    def __init__(self, **web: str) -> None:
        self.web = web

    def content_token(self) -> bytes:
        return b""

    def setting(self, section: str, name: str) -> str | None:
        return self.web.get(name) if section == "web" else super().setting(section, name)


class LeastProvider(RepositoryProvider):
    released = 0

    def locate(self, path: str) -> tuple[str, str] | None:
        return None

    def lease(self, name: str) -> Lease:
        def release() -> None:
            self.released += 1

        return Lease(Least(), release)


@pytest.mark.parametrize(
    ("value", "names"), [(None, []), ("", []), ("a", ["a"]), ("a, b", ["a", "b"]), (" a,b  c,", ["a", "b", "c"])]
)
def test_lists(value: str | None, names: list[str]) -> None:
    repository = Least() if value is None else Least(names=value)
    assert repository.settings("web", "names") == names
    assert repository.settings("other", "names") == []


def test_members() -> None:
    repository = Least()
    assert repository.is_member("ann", ["*"]) and repository.is_member("ann", ["bob", "ann"])
    assert not repository.is_member("ann", []) and not repository.is_member("ann", ["*", "bob"])


def test_defaults_of_a_repository() -> None:
    repository, offer = Least(), ServerCapabilities()
    assert repository.commands() == {} and repository.capabilities() == ()
    assert repository.adjust_capabilities(offer) is offer and repository.may_cache("heads")
    assert not isinstance(repository, IncrementalBundles) and not isinstance(repository, Subresources)
    assert repository.clone_bundles(legacy=True) == b""
    with pytest.raises(CommandFailed):
        repository.cached_bundle(b"path")


@pytest.mark.parametrize(
    ("command", "call"),
    [
        ("heads", lambda repository: repository.heads()),
        ("parents", lambda repository: repository.parents(NULL)),
        ("known", lambda repository: repository.known([])),
        ("lookup", lambda repository: repository.lookup(b"tip")),
        ("branchmap", lambda repository: repository.branchmap()),
        ("listkeys", lambda repository: repository.listkeys(b"phases")),
        ("pushkey", lambda repository: repository.pushkey(b"phases", b"", b"1", b"0")),
        ("changegroup", lambda repository: repository.changegroup([], None)),
        ("getbundle", lambda repository: repository.getbundle(heads=[])),
        ("unbundle", lambda repository: repository.unbundle([], io.BytesIO(), "remote:")),
        ("stream_out", lambda repository: repository.stream_out()),
    ],
)
def test_a_command_whose_method_is_missing_is_unknown(command: str, call: Callable[[Repository], object]) -> None:
    with pytest.raises(UnknownCommand, match=f"this repository does not offer {command}$"):
        call(Least())


def test_defaults_of_a_provider() -> None:
    provider, offer = LeastProvider(), ServerCapabilities()
    assert provider.commands() == {} and not provider.is_subresource(".hg/x")
    assert provider.adjust_capabilities(offer) is offer
    assert provider.known_permissions() == {} and provider.names(10) == []
    assert provider.change_stamp("any") == b""
    needed = [provider.subresource_permission(".hg/x", method) for method in ("GET", "HEAD", "PUT", "POST", "PATCH")]
    assert needed == ["pull", "pull", "upload", "push", "push"]
    assert provider.released == 1, "asking for the state leases, and gives back"


def test_state_is_all_a_backend_must_have() -> None:
    with pytest.raises(TypeError, match="content_token"):
        Repository()  # type: ignore[abstract]  # that it refuses is what is tested


def test_lease_is_released_once() -> None:
    released: list[int] = []
    repository = Least()
    lease = Lease(repository, lambda: released.append(1))
    assert lease.repository is repository
    lease.release()
    lease.release()
    assert released == [1]


def test_lease_ends_with_its_block() -> None:
    released: list[int] = []
    repository = Least()
    with pytest.raises(ZeroDivisionError), Lease(repository, lambda: released.append(1)) as leased:
        assert leased is repository and not released
        raise ZeroDivisionError
    assert released == [1]


def test_lease_can_be_handed_over() -> None:
    released: list[int] = []
    first = Lease(Least(), lambda: released.append(1))
    second = first.transfer()
    third = first.transfer()
    first.release()
    third.release()
    assert second.repository is first.repository and not released
    second.release()
    assert released == [1]


def test_a_lease_may_have_nothing_to_release() -> None:
    lease = Lease(Least())
    lease.transfer().release()
    lease.release()


def test_pushkey_result() -> None:
    assert PushKeyResult(True) == PushKeyResult(True, b"")


def test_commands_are_known_unless_a_repository_says_otherwise() -> None:
    assert Least().knows_commands()


def test_repositories_accept_pushes_unless_they_say_otherwise() -> None:
    assert Least().read_only_reason() is None


def test_a_repository_without_resources_is_not_asked_for_them() -> None:
    assert not Least().has_subresource("anything")
