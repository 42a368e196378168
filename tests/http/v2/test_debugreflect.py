"""``debugreflect``."""

from __future__ import annotations

from v2_support import ask, command, frame, make_app

from hgwire_wsgi import (
    ApiSettings,
    Limits,
)
from hgwire_wsgi.framing import (
    EXP_0002,
    ZLIB,
    OutgoingStream,
    encode_frame,
)


def test_debugreflect_tells_what_is_wrong() -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, debugreflect=True))
    text = ask(app, "ro/debugreflect", frame("1 1 stream-begin command-name have-args \\xff")).body
    assert text == (
        b'received: 1 2 1 \xff\n["wantframe", {"state": "command-receiving"}]\n'
        b'received: <no frame>\n{"action": "error", "message": '
        b'"received end of input inside a command: request 1"}'
    )
    body = frame("1 1 stream-begin stream-settings 0 \\x04zlib") + frame("1 1 0 command-name eos \\xff")
    assert ask(app, "ro/debugreflect", body).body == (
        b'received: 8 0 1 \x04zlib\n["wantframe", {"state": "idle"}]\n'
        b'received: 1 1 1 \xff\n["runcommand", {"args": {}, "command": "\\\\xff", "data": null, "requestid": 1}]\n'
        b'received: <no frame>\n{"action": "noop"}'
    )
    assert ask(app, "ro/debugreflect", b"\0").text == (
        400,
        "received incomplete frame: got 1 of 8 bytes of its header\n",
    )


def test_debugreflect_is_bounded() -> None:
    app = make_app(api=ApiSettings(server=True, http_v2=True, debugreflect=True), limits=Limits(reflected=1000))
    assert ask(app, "ro/debugreflect", command(1, "x", data=b"x" * 50)).text[0] == 200
    assert ask(app, "ro/debugreflect", command(1, "x", data=b"x" * 700)).text == (
        413,
        "the output of debugreflect exceeds 1000 bytes\n",
    )
    # Of a few bytes, whatever they decode to.
    stream = OutgoingStream(1, ZLIB)
    settings = EXP_0002.encode_settings(stream, 1)
    name = stream.make_frame(1, 1, 2, b"x")
    value = stream.make_frame(1, 2, 1, b"\x01\x00\xff\xffk" + bytes(60_000), encode=True)
    reply = ask(app, "ro/debugreflect", b"".join(map(encode_frame, (settings, name, value))))
    assert reply.status == "200 OK"
    assert b'"message": "command arguments exceed 1000 bytes"' in reply.body
