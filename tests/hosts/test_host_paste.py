from __future__ import annotations

from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

pytest.importorskip("mercurial")

from hgwire_wsgi import WireApp, WireMiddleware
from hgwire_wsgi.hosts.paste import app_factory, filter_factory


def request(path: str, query: str) -> dict[str, Any]:
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    return environ


def fetch(call: Any, app: Any, path: str, query: str = "cmd=heads") -> tuple[str, bytes]:
    status, _, body = call(app, request(path, query))
    try:
        return status, b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def test_a_root_that_is_a_repository(call: Any, demonstration: Path) -> None:
    app = app_factory({"here": "/"}, root=str(demonstration))
    assert isinstance(app, WireApp)
    assert fetch(call, app, "/")[0] == "200 Script output follows"


def test_a_root_that_is_a_folder(call: Any, demonstration: Path) -> None:
    app = app_factory({}, root=str(demonstration.parent))
    assert fetch(call, app, "/demo")[0].startswith("200")
    assert fetch(call, app, "/")[0].startswith("404")


def test_repositories_by_name(call: Any, demonstration: Path) -> None:
    app = app_factory({}, repositories=f"\n  one = {demonstration}\n\n  deep/two={demonstration}  \n")
    for path in ("/one", "/deep/two"):
        assert fetch(call, app, path)[0].startswith("200")
    assert fetch(call, app, "/demo")[0].startswith("404")


def test_configuration_may_hold_equals_signs(call: Any, demonstration: Path) -> None:
    config = "web.allow-pull = no\nhooks.changegroup = test a = b\n experimental.httppostargs=true"
    app = app_factory({}, root=str(demonstration), config=config)
    assert fetch(call, app, "/")[0].startswith("403")
    assert app.capabilities.post_args
    with app.provider.lease("") as repository:
        assert repository.setting("hooks", "changegroup") == "test a = b"


def test_the_filter_hands_on_what_is_no_wire_request(call: Any, demonstration: Path, witness: Any) -> None:
    app = filter_factory({}, root=str(demonstration))(witness)
    assert isinstance(app, WireMiddleware)
    assert len(fetch(call, app, "/")[1].split()) == 2
    assert not witness.environs
    assert fetch(call, app, "/page", "")[1] == b"onetwo"
    assert fetch(call, app, "/", "cmd=unknown")[1] == b"onetwo"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "set exactly one of root and repositories"),
        ({"root": "/x", "repositories": "a = /y"}, "set exactly one of root and repositories"),
        ({"root": "/x", "rot": "1", "prefix": "/hg"}, "unknown settings: prefix, rot"),
        ({"root": "/x", "config": "web.push_ssl"}, "not of the form name = value: 'web.push_ssl'"),
        ({"repositories": "= /x"}, "not of the form name = value: '= /x'"),
        ({"root": "/nonexistent"}, "neither a repository nor a folder"),
    ],
)
@pytest.mark.parametrize("factory", [app_factory, filter_factory])
def test_settings_that_are_wrong(factory: Any, settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory({}, **settings)
