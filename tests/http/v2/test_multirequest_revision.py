"""A row of the table of APIS is all that another framing revision and its commands need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from other_revision import ERROR, OTHER, RESPONSE, SETTINGS
from v2_support import MEDIA_TYPE, make_app, registry, send

from hgwire_wsgi import ApiSettings, CommandContext, Limits, OutOfBandError, PushError
from hgwire_wsgi.commands.registry import Argument
from hgwire_wsgi.framing import (
    STREAM_BEGIN,
    STREAM_ENCODED,
    STREAM_END,
    WANT_FRAME,
    ZLIB,
    ClientReactor,
    Error,
    Frame,
    FrameBuffer,
    OutgoingStream,
    ResponseData,
    ResponseError,
    iter_chunks,
)
from hgwire_wsgi.http.v2.api import APIS, Api

TYPED: Any = {"bytes": str.encode, "boolean": bool, "csv": list}
"""How the values of JSON are converted."""


@pytest.fixture(autouse=True)
def another_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(APIS, "exp-other", Api("exp-other", OTHER, "v2", TYPED))
    yield


def ask(made: Any, *calls: tuple[bytes, dict[bytes, Any]], target: str = "multirequest", **options: Any) -> Any:
    """The answers of an exchange, and its frames."""
    client, stream = ClientReactor(OTHER), OutgoingStream(1)
    actions = [client.send_command(stream, name, arguments)[1] for name, arguments in calls]
    body = b"".join(chunk for action in actions for chunk in iter_chunks(action.frames))
    api = ApiSettings(
        server=True, http_v2=True, debugreflect=True, encodings=(ZLIB,), workers=options.pop("workers", 0)
    )
    exchange = send(
        make_app(made, api=api, **options),
        "ro/",
        body,
        PATH_INFO=f"/repo/api/exp-other/ro/{target}",
        HTTP_ACCEPT=OTHER.media_type,
        CONTENT_TYPE=OTHER.media_type,
        HTTP_X_HGPROTO_1="comp=zlib",
    )
    reply = exchange.read()
    if exchange.headers["Content-Type"] != OTHER.media_type:
        return exchange.status, reply
    buffer = FrameBuffer()
    buffer.feed(reply)
    frames = list(buffer)
    answers: dict[int, Any] = {}
    for frame in frames:
        action = client.receive_frame(frame)
        assert not isinstance(action, Error)
        if isinstance(action, ResponseData):
            answers[action.request_id] = answers.get(action.request_id, b"") + action.data
        elif isinstance(action, ResponseError):
            answers[action.request_id] = action.kind, action.message
        else:
            assert action is WANT_FRAME
    return answers, frames


def typed() -> Any:
    made = registry()

    @made.command("show", permission="pull", args=[Argument("deep", "boolean"), Argument("names", "csv")], version="v2")
    def show(context: CommandContext, deep: bool, names: list[str]) -> bytes:
        return repr((deep, names)).encode()

    @made.command("no", permission="pull", version="v2")
    def no(context: CommandContext) -> PushError:
        return PushError(b"refused", b"a hook said so\n")

    @made.command("oob", permission="pull", version="v2")
    def oob(context: CommandContext) -> OutOfBandError:
        return OutOfBandError(b"gone")

    @made.command("bug", permission="pull", version="v2")
    def bug(context: CommandContext) -> bytes:
        raise RuntimeError

    return made


SHOW = (b"show", {b"deep": True, b"names": ["a", "b"]})


def test_the_url_selects_revision_commands_and_codec() -> None:
    assert OTHER.media_type != MEDIA_TYPE
    answers, _ = ask(typed(), SHOW, target="show")
    assert json.loads(answers[1]) == "(True, ['a', 'b'])"


def test_one_encoder_serves_all_responses_of_an_exchange() -> None:
    answers, frames = ask(typed(), SHOW, (b"no", {}), SHOW, (b"oob", {}))
    assert json.loads(answers[1]) == json.loads(answers[5]) == "(True, ['a', 'b'])"
    assert answers[7] == ("application", b"gone")
    assert [each.type_id for each in frames].count(SETTINGS) == 1
    assert {each.stream_id for each in frames} == {2}
    assert any(each.stream_flags & STREAM_ENCODED for each in frames if each.request_id == 5)
    assert ends(frames) == ([0], [len(frames) - 1])


def ends(frames: list[Frame]) -> tuple[list[int], list[int]]:
    """The frames that begin a stream, and those that end one."""
    begun = [number for number, each in enumerate(frames) if each.stream_flags & STREAM_BEGIN]
    return begun, [number for number, each in enumerate(frames) if each.stream_flags & STREAM_END]


def test_text_follows_the_error_where_there_is_no_text_output() -> None:
    assert ask(typed(), (b"no", {}), target="no")[0] == {1: ("application", b"refused\na hook said so\n")}


def test_a_fault_of_the_server_has_another_form_than_an_error_of_a_command() -> None:
    answers, frames = ask(typed(), (b"oob", {}), (b"bug", {}))
    assert answers == {1: ("application", b"gone"), 3: ("server", b"internal server error")}
    types = {each.request_id: each.type_id for each in frames if each.type_id != SETTINGS}
    assert types == {1: RESPONSE, 3: ERROR}


def test_side_by_side() -> None:
    answers, frames = ask(typed(), SHOW, SHOW, workers=2)
    assert json.loads(answers[1]) == json.loads(answers[3])
    begun, ended = ends(frames)
    assert len(begun) == len(ended) == 2


def test_typed_arguments_are_bounded_by_their_frames() -> None:
    status, text = ask(typed(), (b"show", {b"deep": True, b"names": [1] * 100}), limits=Limits(argument_bytes=200))
    assert status == "400 Bad Request"
    assert text == b"command arguments of one request exceed 200 bytes\n"


def test_debugreflect_shows_typed_arguments() -> None:
    status, text = ask(typed(), SHOW, target="debugreflect")
    assert status == "200 OK"
    assert b'"args": {"deep": true, "names": ["a", "b"]}' in text
