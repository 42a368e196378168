"""Whatever is sent as frames, the answer has a documented status and form."""

from __future__ import annotations

import io
import threading
from typing import Any

from fakes import FakeProvider
from hypothesis import given, settings
from hypothesis import strategies as st
from v2_support import MEDIA_TYPE, OPEN, Answer, make_app, send

from hgwire_wsgi import ApiSettings, Limits
from hgwire_wsgi.framing import EXP_0002, ZLIB, Frame, encode_frame

STATUSES = {"200", "400", "403", "413"}
TARGETS = ["ro/heads", "ro/multirequest", "rw/multirequest", "rw/put", "ro/put", "ro/batch", "ro/debugreflect"]
API = ApiSettings(server=True, http_v2=True, debugreflect=True, encodings=(ZLIB,), workers=2)
LIMITS = Limits(
    frame_payload=300,
    frame_decoded=1000,
    argument_bytes=60,
    command_argument_bytes=100,
    command_arguments=3,
    open_requests=4,
    open_streams=2,
    spool=100,
    spool_memory=10,
    spooled_commands=2,
    command_data=150,
    body_decoded=200,
    drain=250,
)

NAMES = st.sampled_from([b"heads", b"put", b"echo", b"batch", b"known", b"nope", b"multirequest", b"\xff\n"])
ARGUMENTS = st.sampled_from(
    [
        b"\4\0\3\0textabc",
        b"\5\0\0\0nodes",
        b"\4\0\6\0cmdsheads ",
        b"\4\0\5\0cmdsput x",
        b"\4\0\1\0size3",
        b"\4\0\x09\0text",
        b"\0\0\0\0",
        b"\1",
    ]
)
PAYLOADS = st.one_of(NAMES, ARGUMENTS, st.binary(max_size=40), st.just(b"\4zlib"), st.just(b"\x08zstd-8mb"))


def likely(draw: Any, usual: Any, others: Any) -> Any:
    return draw(usual) if draw(st.integers(0, 9)) else draw(others)


@st.composite
def frames(draw: Any) -> bytes:
    """A frame that is often, but not always, one that a client could send."""
    type_id = likely(draw, st.sampled_from([1, 1, 1, 2, 3]), st.integers(0, 15))
    payload = {1: NAMES, 2: ARGUMENTS, 3: st.binary(max_size=80)}.get(type_id, PAYLOADS)
    flags = {1: [1, 1, 2, 4, 6], 2: [0, 2, 2], 3: [1, 2]}.get(type_id, [0])
    return encode_frame(
        Frame(
            likely(draw, st.sampled_from([1, 3, 5]), st.integers(0, 65535)),
            likely(draw, st.just(1), st.integers(0, 255)),
            likely(draw, st.sampled_from([0, 1, 1]), st.integers(0, 255)),
            type_id,
            likely(draw, st.sampled_from(flags), st.integers(0, 15)),
            likely(draw, payload, PAYLOADS),
        )
    )


class Splitting(io.BytesIO):
    """An input that gives few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self.size = size

    def read(self, size: Any = -1) -> bytes:
        return super().read(min(size, self.size))


def check(target: str, body: bytes, split: int, missing: int, asks: str) -> None:
    provider = FakeProvider(OPEN)
    app = make_app(api=API, provider=provider, limits=LIMITS)
    exchange = send(
        app,
        target,
        body,
        CONTENT_LENGTH=str(len(body) + missing),
        HTTP_X_HGPROTO_1=asks,
        **{"wsgi.input": Splitting(body, split)},
    )
    try:
        answer = Answer(exchange)
    except Exception as error:
        # A request of which too much would have to be dropped.
        assert "closing the connection" in str(error)
        return
    assert answer.status[:3] in STATUSES
    if answer.media_type == MEDIA_TYPE:
        assert answer.frames
        assert {each.type_id for each in answer.frames} <= set(EXP_0002.frame_types.values())
        assert answer.replies
    else:
        assert answer.media_type == "text/plain"
        assert answer.body
    assert b"internal server error" not in answer.body
    assert provider.leased == provider.released
    assert not [thread for thread in threading.enumerate() if thread.name == "hgwire-worker"]


OPTIONS = (
    st.sampled_from(TARGETS),
    st.integers(1, 100),
    st.sampled_from([0, 0, 0, 1, 100]),
    st.sampled_from(["", "comp=zlib"]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(frames(), max_size=12).map(b"".join), *OPTIONS)
def test_frames(body: bytes, target: str, split: int, missing: int, asks: str) -> None:
    check(target, body, split, missing, asks)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=400), *OPTIONS)
def test_bytes(body: bytes, target: str, split: int, missing: int, asks: str) -> None:
    check(target, body, split, missing, asks)
