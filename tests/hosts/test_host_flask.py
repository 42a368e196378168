from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flask")

import flask

from hgwire_wsgi.hosts.flask import mount


@pytest.fixture
def site(witness: Any) -> Any:
    site = flask.Flask(__name__)
    site.config["MAX_CONTENT_LENGTH"] = 10

    @site.before_request
    def nobody_comes_here() -> None:
        if flask.request.path.startswith("/hg/"):
            raise AssertionError("a wire request became a Flask request")

    @site.get("/")
    def index() -> str:
        return "pages"

    mount(site, witness, prefix="/hg")
    return site


@pytest.mark.parametrize(
    ("path", "path_info"), [("/hg", ""), ("/hg/", "/"), ("/hg/repo", "/repo"), ("/hg/a//b/", "/a//b/")]
)
def test_the_prefix_moves_to_script_name(site: Any, witness: Any, path: str, path_info: str) -> None:
    response = site.test_client().get(path + "?cmd=heads", environ_overrides={"SCRIPT_NAME": "/site"})
    assert response.status == "200 Script output follows"
    assert response.data == b"onetwo"
    (environ,) = witness.environs
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/site/hg", path_info)


@pytest.mark.parametrize("path", ["/", "/hgweb"])
def test_other_paths_stay_with_flask(site: Any, witness: Any, path: str) -> None:
    assert site.test_client().get(path).status_code == (200 if path == "/" else 404)
    assert not witness.environs


def test_a_push_streams_past_flask(site: Any, check_streaming: Any) -> None:
    check_streaming(site)


def test_what_is_no_prefix_is_refused(witness: Any) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        mount(flask.Flask(__name__), witness, prefix="/")
