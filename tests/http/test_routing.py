"""Which part of an application a request is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fakes import FakeProvider, FakeRepository

from hgwire_wsgi import ApiSettings, Command, CommandRegistry, Lease, Limits
from hgwire_wsgi.errors import RepositoryBusy, RequestError
from hgwire_wsgi.http.message import Request
from hgwire_wsgi.http.routing import Route, Router

API = ApiSettings(server=True, http_v2=True)


class Provider(FakeProvider):
    def __init__(self, *own: str) -> None:
        super().__init__()
        self.repository = _Extended(own)
        self.busy = False

    def is_command(self, name: str) -> bool:
        return name == "loaded" and self.leased > 0

    def is_subresource(self, rest: str) -> bool:
        return rest.startswith("files/")

    def lease(self, name: str) -> Lease:
        if self.busy:
            raise RepositoryBusy("busy")
        return super().lease(name)


class _Extended(FakeRepository):
    def __init__(self, own: tuple[str, ...]) -> None:
        super().__init__()
        self.own = own

    def has_subresource(self, path: str) -> bool:
        return path != "files/hidden"

    def commands(self) -> Mapping[str, Command]:
        return {name: Command(name=name, handler=lambda context: b"", permission="pull") for name in self.own}


def request(url: str) -> Request:
    path, _, query = url.partition("?")
    return Request({"PATH_INFO": path, "QUERY_STRING": query}, Limits())


def router(provider: Any = None, commands: CommandRegistry | None = None, api: ApiSettings = API) -> Router:
    return Router(provider or Provider(), commands or CommandRegistry.standard(), api)


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("/repo?cmd=heads", Route("command", "repo", "")),
        ("/repo/?x=1&cmd=nosuch", Route("command", "repo", "")),
        ("/repo/below?cmd=heads", Route("below", "repo", "below")),
        ("/repo/api?cmd=heads", Route("api", "repo", "api")),
        ("/repo/api/exp", Route("api", "repo", "api/exp")),
        ("/repo/apiary", Route("resource", "repo", "apiary")),
        ("/repo/files/x", Route("resource", "repo", "files/x")),
        ("/repo", Route("greeting", "repo", "")),
        ("/repo?cmd=", Route("greeting", "repo", "")),
        ("/", Route("index")),
        ("", Route("index")),
        ("//", Route("index")),
        ("/?cmd=heads", Route("nothing")),
        ("/other", Route("nothing")),
        ("/other?cmd=heads", Route("nothing")),
    ],
)
def test_routes(url: str, route: Route) -> None:
    assert router().route(request(url)) == route


def test_without_the_api_its_paths_are_like_others() -> None:
    off = router(api=ApiSettings())
    assert off.route(request("/repo/api")) == Route("resource", "repo", "api")
    assert off.route(request("/repo/api?cmd=heads")) == Route("below", "repo", "api")


def test_a_malformed_query_is_an_error_of_the_request() -> None:
    for url in ("/repo?cmd=\u20ac&x", "/?cmd=\u20ac&x"):
        with pytest.raises(RequestError):
            router().route(request(url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/repo?cmd=heads", True),
        ("/repo?cmd=changelog", False),
        ("/repo?cmd=changelog&cmd=heads", True),
        ("/repo?cmd=own", True),
        ("/repo?cmd=nosuch", False),
        ("/repo?cmd=HEADS", False),
        ("/repo?cmd=heads&cmd=changelog", True),
        ("/repo?cmd=&cmd=heads", True),
        ("/repo?%63m%64=h%65ads", True),
        ("/repo?x=1;cmd=heads", True),
        ("/repo?cmd=manifest;node=1;path=/", False),
        ("/repo?cmd=manifest;cmd=heads", True),
        ("/repo?cmd=branches", True),
        ("/repo?cmd=known-elsewhere", True),
        ("/repo?cmd=loaded", True),
        ("/repo/below?cmd=heads", True),
        ("/repo/below?cmd=nosuch", True),
        ("/repo/below?cmd=changelog", False),
        ("/repo/below?x=1", False),
        ("/repo", False),
        ("/repo/files/x", True),
        ("/repo/files/hidden", False),
        ("/repo/file/x", False),
        ("/repo/api/x", True),
        ("/other?cmd=heads", True),
        ("/other?cmd=known-elsewhere", True),
        ("/other?cmd=nosuch", False),
        ("/?cmd=unbundle", True),
        ("/?cmd=nosuch", False),
        ("/", False),
    ],
)
def test_what_a_middleware_takes(url: str, expected: bool) -> None:
    provider = Provider("own")
    commands = CommandRegistry.standard()
    commands.add_backend_commands({}, {"known-elsewhere": "pull"})
    assert router(provider, commands).handles(request(url)) is expected
    assert provider.held == 0


def test_a_middleware_keeps_what_may_be_a_command_of_an_unusable_repository() -> None:
    provider = Provider("own")
    provider.busy = True
    for url in ("/repo?cmd=own", "/repo?cmd=nosuch", "/repo?cmd=heads", "/repo/files/x"):
        assert router(provider).handles(request(url))
    assert not router(provider).handles(request("/repo?cmd=changelog"))


@pytest.mark.parametrize("path", ["/repo", "/repo/below", "/other", "/", "//repo", "/repo/../other", "/REPO"])
def test_no_command_reaches_the_pages_that_was_removed_or_never_registered(path: str) -> None:
    commands = CommandRegistry.standard()
    commands.remove("own", "pushkey")
    for registry in (commands, CommandRegistry()):
        for name in ("pushkey", "unbundle", "batch"):
            assert router(Provider("own"), registry).handles(request(f"{path}?cmd={name}"))
    assert router(Provider("own"), commands).handles(request(f"{path}?cmd=own"))
