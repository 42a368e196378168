"""Negotiation: what headers say, and what is chosen by it."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.compression import BZIP2, ENGINES, NONE, ZLIB, ZSTD, Engine
from hgwire_wsgi.errors import BodyTooLarge, NotAcceptable, RequestError, UnsupportedMediaType
from hgwire_wsgi.negotiation import (
    MEDIA_TYPE_01,
    MEDIA_TYPE_02,
    ClientProtocol,
    Encoding,
    ServerCapabilities,
    choose_encoding,
    choose_plain_encoding,
    content_length,
    media_type_version,
    parse_form,
    posted_arguments_length,
    read_client_protocol,
    read_header_arguments,
    vary,
)

LIMIT = 1 << 20
ONLY_02 = ServerCapabilities(send=("0.2",))


def spread(header: str, *values: str) -> dict[str, str]:
    return {f"{header}-{number}": value for number, value in enumerate(values, 1)}


def client(value: str) -> ClientProtocol:
    return read_client_protocol(spread("X-HgProto", value))


def iter_splits(value: str) -> Iterator[tuple[str, str]]:
    for place in range(len(value) + 1):
        yield value[:place], value[place:]


class TestServerCapabilities:
    def test_default_tokens(self) -> None:
        assert ServerCapabilities().capabilities() == [
            b"httpheader=1024",
            b"httpmediatype=0.1rx,0.1tx,0.2rx,0.2tx",
            b"compression=zstd,zlib",
        ]

    @pytest.mark.parametrize(
        ("server", "tokens"),
        [
            (ServerCapabilities(post_args=True), [b"httppostargs"]),
            (ServerCapabilities(max_header_length=0), [b"httpheader=0"]),
            (ServerCapabilities(engines=(BZIP2, NONE)), [b"compression=bzip2,none"]),
            (ServerCapabilities(send=("0.2",)), [b"httpmediatype=0.1rx,0.2rx,0.2tx,mintx=0.2"]),
            (ServerCapabilities(receive=("0.2",)), [b"httpmediatype=0.1tx,0.2rx,0.2tx,minrx=0.2"]),
        ],
        ids=lambda value: None if isinstance(value, ServerCapabilities) else value[0].decode(),
    )
    def test_token(self, server: ServerCapabilities, tokens: list[bytes]) -> None:
        assert set(tokens) <= set(server.capabilities())

    def test_without_02_there_is_no_compression(self) -> None:
        assert ServerCapabilities(send=("0.1",), receive=("0.1",), engines=()).capabilities() == [
            b"httpheader=1024",
            b"httpmediatype=0.1rx,0.1tx",
        ]

    @pytest.mark.parametrize(("send", "receive"), [(("0.1",), ("0.2",)), (("0.2",), ("0.1",))])
    def test_engines_are_announced_for_either_direction(self, send: tuple[str, ...], receive: tuple[str, ...]) -> None:
        """A client that sends 0.2 has to know what the server decompresses."""
        assert b"compression=zstd,zlib" in ServerCapabilities(send=send, receive=receive).capabilities()

    def test_engine_names_are_quoted(self) -> None:
        odd = Engine(name="a%/b", start=ZLIB.start, start_decoder=ZLIB.start_decoder)
        assert b"compression=a%25/b" in ServerCapabilities(engines=(odd,)).capabilities()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"send": ()}, "send must name some of 0.1, 0.2"),
            ({"receive": ("0.3",)}, "receive must name some of"),
            ({"engines": (ZLIB, ZLIB)}, "twice"),
            ({"engines": (), "receive": ("0.1",)}, "at least one compression engine"),
            ({"engines": (), "send": ("0.1",)}, "at least one compression engine"),
            ({"max_header_length": -1}, "max_header_length"),
        ],
        ids=["nothing to send", "unknown version", "twice", "no engine to send", "none to receive", "negative length"],
    )
    def test_refuses(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ServerCapabilities(**wrong)


class TestClientProtocol:
    """``X-HgProto-<N>``."""

    def test_defaults(self) -> None:
        assert read_client_protocol({}) == ClientProtocol((), frozenset({"0.1"}), ("zlib", "none"))

    @pytest.mark.parametrize(
        ("value", "media_types", "engines"),
        [
            ("", {"0.1"}, ("zlib", "none")),
            ("0.1", {"0.1"}, ("zlib", "none")),
            ("0.2", {"0.2"}, ("zlib", "none")),
            ("0.1 0.2", {"0.1", "0.2"}, ("zlib", "none")),
            ("0.3", {"0.1"}, ("zlib", "none")),
            ("0.20 application/mercurial-0.2", {"0.1"}, ("zlib", "none")),
            ("comp=zstd,none 0.2", {"0.2"}, ("zstd", "none")),
            ("0.2 comp=zstd comp=zlib", {"0.2"}, ("zstd",)),
            ("0.2 comp=", {"0.2"}, ("",)),
            ("0.2 comp", {"0.2"}, ("zlib", "none")),
            ("0.2 COMP=zstd", {"0.2"}, ("zlib", "none")),
            ("  0.2   comp=ZSTD  partial-pull", {"0.2"}, ("ZSTD",)),
        ],
    )
    def test_value(self, value: str, media_types: set[str], engines: tuple[str, ...]) -> None:
        protocol = client(value)
        assert (protocol.media_types, protocol.engines) == (media_types, engines)

    def test_tokens_keep_their_order(self) -> None:
        assert client("0.2 partial-pull 0.1").tokens == ("0.2", "partial-pull", "0.1")

    def test_may_be_split_anywhere(self) -> None:
        value = "0.1 0.2 comp=zstd,zlib,none partial-pull"
        for parts in iter_splits(value):
            assert read_client_protocol(spread("X-HgProto", *parts)) == client(value)

    def test_many_headers(self) -> None:
        assert read_client_protocol(spread("X-HgProto", *"0.2 comp=zstd")) == client("0.2 comp=zstd")

    def test_bound(self) -> None:
        value = "0.2 comp=" + "a" * 4087
        assert read_client_protocol(spread("X-HgProto", *value)).media_types == {"0.2"}
        with pytest.raises(RequestError, match="X-HgProto exceeds 4096 bytes"):
            read_client_protocol(spread("X-HgProto", *value, "a"))

    def test_a_gap_ends_them(self) -> None:
        assert read_client_protocol({"X-HgProto-1": "0.1", "X-HgProto-3": " 0.2"}) == client("0.1")
        assert read_client_protocol({"X-HgProto-2": "0.2"}) == ClientProtocol()

    @given(value=st.text(string.printable, max_size=60))
    def test_any_value_is_read(self, value: str) -> None:
        assert client(value).media_types


class TestChoice:
    @pytest.mark.parametrize(
        ("value", "engine"),
        [
            ("0.2", ZLIB),
            ("0.1 0.2", ZLIB),
            ("0.2 comp=zlib,zstd", ZSTD),
            ("0.1 0.2 comp=none,zlib", ZLIB),
            ("0.2 comp=none", NONE),
            ("0.2 comp=unheard-of", NONE),
            ("0.2 comp=", NONE),
        ],
    )
    def test_02(self, value: str, engine: Engine) -> None:
        assert choose_encoding(ServerCapabilities(), client(value)) == Encoding(MEDIA_TYPE_02, engine)

    @pytest.mark.parametrize("value", ["", "0.1", "0.1 comp=zstd", "0.1 0.2 comp=none", "0.1 0.2 comp=bzip2"])
    def test_01(self, value: str) -> None:
        assert choose_encoding(ServerCapabilities(), client(value)) == Encoding(MEDIA_TYPE_01, ZLIB)

    def test_the_order_of_the_server_decides(self) -> None:
        server = ServerCapabilities(engines=(NONE, BZIP2, ZLIB))
        assert choose_encoding(server, client("0.2 comp=zlib,bzip2")).engine is BZIP2
        assert choose_encoding(server, client("0.2")).engine is NONE

    def test_legacy_engine(self) -> None:
        level_9 = Engine(name="zlib", start=ZLIB.start, start_decoder=ZLIB.start_decoder, level=9)
        assert choose_encoding(ServerCapabilities(legacy_engine=level_9), ClientProtocol()).engine is level_9

    def test_what_does_not_shrink(self) -> None:
        for value in ("0.2", "0.2 comp=zstd"):
            assert choose_encoding(ServerCapabilities(), client(value), prefer_uncompressed=True) == Encoding(
                MEDIA_TYPE_02, NONE
            )
        assert choose_encoding(ServerCapabilities(), client("0.1"), prefer_uncompressed=True) == Encoding(
            MEDIA_TYPE_01, ZLIB
        )

    def test_server_without_01(self) -> None:
        assert choose_encoding(ONLY_02, client("0.1 0.2 comp=unheard-of")) == Encoding(MEDIA_TYPE_02, NONE)
        for choose in (choose_encoding, choose_plain_encoding):
            with pytest.raises(NotAcceptable, match=r"4\.1"):
                choose(ONLY_02, ClientProtocol())

    def test_server_without_02(self) -> None:
        assert choose_encoding(ServerCapabilities(send=("0.1",)), client("0.2")) == Encoding(MEDIA_TYPE_01, ZLIB)

    def test_plain(self) -> None:
        for value in ("", "0.2 comp=zstd"):
            assert choose_plain_encoding(ServerCapabilities(), client(value)) == Encoding(MEDIA_TYPE_01, None)
        assert choose_plain_encoding(ONLY_02, client("0.2 comp=zstd")) == Encoding(MEDIA_TYPE_02, NONE)

    @given(
        offered=st.permutations(list(ENGINES.values())).flatmap(
            lambda engines: st.integers(1, 4).map(lambda count: tuple(engines[:count]))
        ),
        send=st.sampled_from([("0.1",), ("0.2",), ("0.1", "0.2")]),
        media_types=st.frozensets(st.sampled_from(["0.1", "0.2"]), min_size=1),
        engines=st.lists(st.sampled_from([*ENGINES, "unheard-of"]), max_size=4),
        uncompressed=st.booleans(),
    )
    def test_every_choice_is_one_that_both_sides_know(
        self,
        offered: tuple[Engine, ...],
        send: tuple[str, ...],
        media_types: frozenset[str],
        engines: list[str],
        uncompressed: bool,
    ) -> None:
        server, protocol = (
            ServerCapabilities(engines=offered, send=send),
            ClientProtocol((), media_types, tuple(engines)),
        )
        try:
            chosen = choose_encoding(server, protocol, prefer_uncompressed=uncompressed)
        except NotAcceptable:
            assert send == ("0.2",) and "0.2" not in media_types
            return
        if chosen.media_type == MEDIA_TYPE_01:
            assert "0.1" in send and chosen.engine is ZLIB
        else:
            assert "0.2" in send and "0.2" in media_types and chosen.engine is not None
            assert chosen.engine is NONE or (chosen.engine in offered and chosen.engine.name in engines)


class TestMediaTypeOfBodies:
    @pytest.mark.parametrize(
        ("content_type", "version"),
        [
            (None, "0.1"),
            ("", "0.1"),
            (MEDIA_TYPE_01, "0.1"),
            (MEDIA_TYPE_02, "0.2"),
            ("Application/Mercurial-0.2; charset=x", "0.2"),
        ],
    )
    def test_version(self, content_type: str | None, version: str) -> None:
        for required in (False, True):
            assert media_type_version(ServerCapabilities(), content_type, required=required) == version

    def test_foreign(self) -> None:
        assert media_type_version(ServerCapabilities(), "text/plain", required=False) == "0.1"
        with pytest.raises(
            UnsupportedMediaType, match=r"must be application/mercurial-0.1 or application/mercurial-0.2"
        ):
            media_type_version(ServerCapabilities(), "text/plain", required=True)

    @pytest.mark.parametrize(
        ("receive", "content_type", "words"),
        [
            (
                ("0.2",),
                MEDIA_TYPE_01,
                "as application/mercurial-0.2, not as application/mercurial-0.1; use a client that sends that",
            ),
            (("0.2",), None, "use a client that sends that"),
            (
                ("0.1",),
                MEDIA_TYPE_02,
                "as application/mercurial-0.1, not as application/mercurial-0.2; use a client that sends that",
            ),
        ],
    )
    def test_not_received(self, receive: tuple[str, ...], content_type: str | None, words: str) -> None:
        with pytest.raises(UnsupportedMediaType, match=words):
            media_type_version(ServerCapabilities(receive=receive), content_type, required=False)


class TestArguments:
    @pytest.mark.parametrize(
        ("text", "pairs"),
        [
            ("", []),
            ("a=1&b=2", [("a", b"1"), ("b", b"2")]),
            ("a=1;b=2", [("a", b"1;b=2")]),
            ("a=&b", [("a", b""), ("b", b"")]),
            ("&&a=1&", [("a", b"1")]),
            ("a=1&a=2", [("a", b"1"), ("a", b"2")]),
            ("a=x+y%20z%2B", [("a", b"x y z+")]),
            ("a=%C3%A9\xe9", [("a", b"\xc3\xa9\xe9")]),
            ("a=100%&b=%zz%4", [("a", b"100%"), ("b", b"%zz%4")]),
            ("a=b=c", [("a", b"b=c")]),
        ],
    )
    def test_form(self, text: str, pairs: list[tuple[str, bytes]]) -> None:
        assert parse_form(text) == pairs

    @given(pairs=st.lists(st.tuples(st.text(string.ascii_letters, min_size=1), st.binary(max_size=30)), max_size=8))
    def test_what_clients_encode_is_read_back(self, pairs: list[tuple[str, bytes]]) -> None:
        assert parse_form(urlencode(pairs)) == pairs
        assert parse_form("&".join(f"{name}={quote_from_bytes(value)}" for name, value in pairs)) == pairs

    @given(text=st.text(st.characters(max_codepoint=255), max_size=60))
    def test_any_text_is_read(self, text: str) -> None:
        parse_form(text)

    def test_number_of_arguments(self) -> None:
        assert len(parse_form("a=1&b=2", 2)) == 2
        for read in (lambda: parse_form("a=1&b=2", 1), lambda: read_header_arguments({"X-HgArg-1": "a&b"}, LIMIT, 1)):
            with pytest.raises(RequestError, match="more than 1 arguments"):
                read()

    def test_characters_that_are_no_bytes(self) -> None:
        with pytest.raises(RequestError, match="invalid WSGI environ: non-latin-1 characters"):
            parse_form("a=\u0100")

    def test_headers_may_be_split_anywhere(self) -> None:
        value = "key=a%20b%2C&nodes=1+2"
        for parts in iter_splits(value):
            found = read_header_arguments(spread("X-HgArg", *parts), LIMIT)
            assert found == [("key", b"a b,"), ("nodes", b"1 2")]

    def test_headers_absent_or_with_a_gap(self) -> None:
        assert read_header_arguments({}, LIMIT) == []
        assert read_header_arguments({"X-HgArg-2": "key=tip"}, LIMIT) == []
        gap = {"X-HgArg-1": "one=a", "X-HgArg-3": "&two=b"}
        assert read_header_arguments(gap, LIMIT) == [("one", b"a")]

    def test_headers_are_bounded(self) -> None:
        assert read_header_arguments(spread("X-HgArg", "a=", "1"), 3) == [("a", b"1")]
        with pytest.raises(RequestError, match="exceed 2 bytes"):
            read_header_arguments(spread("X-HgArg", "a=", "1"), 2)

    def test_repeated_header(self) -> None:
        with pytest.raises(RequestError, match="twice"):
            read_header_arguments(spread("X-HgArg", "key=tip, key=0"), LIMIT)


class TestPostedLength:
    @pytest.mark.parametrize(("value", "length"), [(None, 0), ("0", 0), ("17", 17), ("007", 7), ("100", 100)])
    def test_length(self, value: str | None, length: int) -> None:
        headers = {} if value is None else {"X-HgArgs-Post": value}
        assert posted_arguments_length(headers, 100) == length

    @pytest.mark.parametrize("value", ["", "abc", "-1", "+1", " 1", "1.0", "1_0", "٣", "²"])
    def test_not_a_number(self, value: str) -> None:
        with pytest.raises(RequestError, match="not a number"):
            posted_arguments_length({"X-HgArgs-Post": value}, 100)

    @pytest.mark.parametrize("value", ["101", "9" * 18, "9" * 5000])
    def test_too_long(self, value: str) -> None:
        with pytest.raises(RequestError, match="exceeds 100 bytes"):
            posted_arguments_length({"X-HgArgs-Post": value}, 100)


class TestContentLength:
    @pytest.mark.parametrize(("value", "length"), [(None, None), ("", None), ("0", 0), ("100", 100)])
    def test_length(self, value: str | None, length: int | None) -> None:
        assert content_length({} if value is None else {"Content-Length": value}, 100) == length

    def test_malformed_or_too_long(self) -> None:
        with pytest.raises(RequestError, match="Content-Length is not a number"):
            content_length({"Content-Length": "-1"}, 100)
        for value in ("101", "9" * 5000):
            with pytest.raises(BodyTooLarge, match="Content-Length exceeds 100 bytes"):
                content_length({"Content-Length": value}, 100)


class TestVary:
    def test_one_lookup_for_each_header(self) -> None:
        class Counting(dict[str, str]):
            asked: list[str] = []

            def get(self, name: str, default: Any = None) -> Any:
                self.asked.append(name)
                return super().get(name, default)

        headers = Counting(spread("X-HgArg", "a"))
        read_header_arguments(headers, LIMIT)
        assert headers.asked == ["X-HgArg-1", "X-HgArg-2"]

    def test_names_the_headers_and_the_first_that_is_absent(self) -> None:
        assert vary({}) == "X-HgArg-1, X-HgProto-1"
        headers = {**spread("X-HgArg", "a", "b"), **spread("X-HgProto", "0.1")}
        assert vary(headers) == "X-HgArg-1, X-HgArg-2, X-HgArg-3, X-HgProto-1, X-HgProto-2"
