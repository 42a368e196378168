from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("pyramid")

from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from pyramid.response import Response

from hgwire_wsgi.hosts.pyramid import add_hg_wire

seen_by_tween: list[str] = []


def tween_factory(handler: Any, registry: Any) -> Any:
    def tween(request: Any) -> Any:
        seen_by_tween.append(request.path)
        return handler(request)

    return tween


def index(request: Any) -> Response:
    return Response("pages")


def make_site(witness: Any, *prefixes: str) -> Any:
    seen_by_tween.clear()
    with Configurator() as config:
        config.add_route("index", "/")
        config.add_view(index, route_name="index")
        config.include("hgwire_wsgi.hosts.pyramid")
        config.set_default_csrf_options(require_csrf=True)
        for prefix in prefixes:
            config.add_hg_wire(witness, prefix=prefix)
        config.add_tween(f"{__name__}.tween_factory")
        return config.make_wsgi_app()


@pytest.mark.parametrize(
    ("path", "path_info"), [("/hg", ""), ("/hg/", "/"), ("/hg/repo", "/repo"), ("/hg/a//../b/", "/a//../b/")]
)
def test_the_prefix_moves_to_script_name(
    witness: Any, push_environ: dict[str, Any], call: Any, path: str, path_info: str
) -> None:
    environ = {**push_environ, "SCRIPT_NAME": "/site", "PATH_INFO": path}
    status, headers, body = call(make_site(witness, "/hg"), environ)
    assert status == "200 Script output follows"
    assert headers == [("Content-Type", "application/mercurial-0.1")]
    assert b"".join(body) == b"onetwo"
    (seen,) = witness.environs
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/site/hg", path_info)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/site", path), "the host's environ stays as it is"


@pytest.mark.parametrize("path", ["/", "/hgweb"])
def test_other_paths_stay_with_pyramid(witness: Any, push_environ: dict[str, Any], call: Any, path: str) -> None:
    environ = {**push_environ, "PATH_INFO": path, "REQUEST_METHOD": "GET", "CONTENT_LENGTH": ""}
    status, _, _ = call(make_site(witness, "/hg"), environ)
    assert status == ("200 OK" if path == "/" else "404 Not Found")
    assert seen_by_tween == [path]
    assert not witness.environs


def test_a_push_streams_past_tweens_csrf_checks_and_requests(witness: Any, check_streaming: Any) -> None:
    check_streaming(make_site(witness, "/hg"))
    assert not seen_by_tween


def test_several_prefixes(witness: Any, push_environ: dict[str, Any], call: Any) -> None:
    site = make_site(witness, "/hg", "/hg-old", "/dépôts")
    for path in ("/hg-old/x", "/hg/x", "/d\xc3\xa9p\xc3\xb4ts/x"):
        call(site, {**push_environ, "PATH_INFO": path})
    assert [environ["SCRIPT_NAME"] for environ in witness.environs] == ["/hg-old", "/hg", "/d\xc3\xa9p\xc3\xb4ts"]
    assert {environ["PATH_INFO"] for environ in witness.environs} == {"/x"}


def test_one_prefix_twice_is_a_conflict(witness: Any) -> None:
    with pytest.raises(ConfigurationConflictError):
        make_site(witness, "/hg", "/hg/")


def test_another_execution_policy_stays_in_charge_of_the_rest(
    witness: Any, push_environ: dict[str, Any], call: Any
) -> None:
    def policy(environ: Any, router: Any) -> Any:
        return Response("from the other policy")

    with Configurator() as config:
        add_hg_wire(config, witness, prefix="/hg")
        config.set_execution_policy(policy)
        site = config.make_wsgi_app()
    assert b"".join(call(site, push_environ)[2]) == b"from the other policy"
    assert b"".join(call(site, {**push_environ, "PATH_INFO": "/hg"})[2]) == b"onetwo"


def wire(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"found by name"]


def test_the_application_may_be_named(push_environ: dict[str, Any], call: Any) -> None:
    with Configurator() as config:
        add_hg_wire(config, f"{__name__}:wire", prefix="/hg")
        site = config.make_wsgi_app()
    assert call(site, {**push_environ, "PATH_INFO": "/hg"})[2] == [b"found by name"]


def test_what_is_no_prefix_is_refused(witness: Any) -> None:
    with Configurator() as config, pytest.raises(ValueError, match="not a prefix"):
        add_hg_wire(config, witness, prefix="hg")
