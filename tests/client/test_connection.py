"""The connection: addresses, bodies, keeping it alive, and one kind of error for all that can go wrong."""

from __future__ import annotations

import io
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire_servers import PATIENCE, Recorder, endless, http, raw_server, serving

from hgwire_wsgi.client.connection import Address, Connection, pieces_of, size_of
from hgwire_wsgi.errors import ConnectionFailed, HgWireError, LocalProtocolError

CONNECTIONS: list[Connection] = []


def connect(url: str, *, timeout: float = PATIENCE, **options: Any) -> Connection:
    CONNECTIONS.append(Connection(Address.parse(url), timeout=timeout, **options))
    return CONNECTIONS[-1]


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    yield
    while CONNECTIONS:
        CONNECTIONS.pop().close()


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read()]


@pytest.fixture(scope="module")
def echoed() -> Iterator[tuple[str, Recorder]]:
    recorder = Recorder(echo)
    with serving(recorder) as url:
        yield url, recorder


def get(connection: Connection, **options: Any) -> bytes:
    response = connection.request("GET", "/", **options)
    return b"".join(iter(lambda: response.read(65536), b""))


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://host", ("http", "host", None, "", None)),
            ("https://host:8443/a/b/", ("https", "host", 8443, "/a/b", None)),
            ("http://[::1]:80/r", ("http", "::1", 80, "/r", None)),
            ("http://u:p%40@host/é f", ("http", "host", None, "/%C3%A9%20f", "Basic dTpwQA==")),
            ("http://u@host/%20", ("http", "host", None, "/%20", "Basic dTo=")),
        ],
    )
    def test_parse(self, url: str, expected: tuple[Any, ...]) -> None:
        address = Address.parse(url)
        assert (address.scheme, address.host, address.port, address.path, address.authorization) == expected

    def test_credentials_given_apart_go_first(self) -> None:
        assert Address.parse("http://a:b@host", ("u", "p@")).authorization == "Basic dTpwQA=="

    @pytest.mark.parametrize(
        "url",
        ["host/repo", "ftp://host", "http://", "http://u:secret@host:port/", "http://[::1", "http://u:secret@ho st/"],
    )
    def test_urls_that_are_refused(self, url: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            Address.parse(url)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("url", ["http://host/\udcff", "http://\udcff:secret@host/"])
    def test_urls_that_are_not_unicode(self, url: str) -> None:
        with pytest.raises(LocalProtocolError, match=r"^not UTF-8: "):
            Address.parse(url)

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://[::1]/r", ("::1", 80)),
            ("https://[::1]/r", ("::1", 443)),
            ("https://[::1]:8443/r", ("::1", 8443)),
            ("http://host:8000", ("host", 8000)),
        ],
    )
    def test_where_a_connection_goes(self, url: str, expected: tuple[str, int]) -> None:
        http = connect(url).http
        assert (http.host, http.port) == expected

    def test_password_is_not_shown(self) -> None:
        address = Address.parse("http://u:secret@[::1]:81/r")
        assert address.url == "http://[::1]:81/r"
        assert "secret" not in repr(address) and "dT" not in repr(address)


class TestSources:
    def test_sizes(self, tmp_path: Path) -> None:
        file = io.BytesIO(b"12345")
        file.seek(2)
        assert size_of(file) == 3 and file.tell() == 2
        assert size_of(b"123") == 3
        assert size_of(iter([b"1"])) is None
        assert size_of([b"1"]) is None

    def test_a_pipe_has_no_size(self) -> None:
        left, right = socket.socketpair()
        with left, right, left.makefile("rb") as file:
            assert size_of(file) is None

    def test_pieces(self) -> None:
        assert list(pieces_of(b"")) == []
        assert list(pieces_of(b"12")) == [b"12"]
        assert list(pieces_of([b"1", b"", b"2"])) == [b"1", b"2"]
        assert list(pieces_of(io.BytesIO(b"x" * 65537))) == [b"x" * 65536, b"x"]

    def test_an_iterable_is_closed_and_a_file_is_not(self) -> None:
        closed = []

        def source() -> Iterator[bytes]:
            try:
                yield b"1"
                yield b"2"
            finally:
                closed.append(True)

        pieces = pieces_of(source())
        assert next(pieces) == b"1"
        pieces.close()
        assert closed == [True]
        file = io.BytesIO(b"1")
        pieces = pieces_of(file)
        next(pieces)
        pieces.close()
        assert not file.closed


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "length"),
        [
            ([b"abc"], "3"),
            ([b"ab", io.BytesIO(b"c")], "3"),
            ([b""], "0"),
            ([b"a", iter([b"b", b"", b"c"])], None),
        ],
    )
    def test_length_is_sent_where_it_is_known(self, echoed: Any, body: Any, length: str | None) -> None:
        url, recorder = echoed
        connection = connect(url)
        response = connection.request("POST", "/", body=body)
        received = response.read(100)
        assert received == (b"" if length == "0" else b"abc")
        # waitress gives a body in chunks a length of its own.
        assert recorder.last["CONTENT_LENGTH"] == (length or "3")
        connection.close()

    @pytest.mark.parametrize(("method", "length"), [("POST", b"Content-Length: 0\r\n"), ("GET", b""), ("HEAD", b"")])
    def test_no_body(self, method: str, length: bytes) -> None:
        """A POST says that it has none; chunks without a last one would leave the server waiting."""
        with raw_server(http(b"")) as (url, requests):
            connect(url).request(method, "/").close()
        assert length in requests[0]
        assert b"Content-Length" not in requests[0].replace(length, b"")
        assert b"Transfer-Encoding" not in requests[0]

    def test_chunks_on_the_wire(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            while b"\r\n0\r\n\r\n" not in request:
                request += sock.recv(100)
            seen.append(request.partition(b"\r\n\r\n")[2])
            sock.sendall(http(b""))

        seen: list[bytes] = []
        with raw_server(script) as (url, _):
            connect(url).request("POST", "/", body=[iter([b"ab", b"c" * 17])]).close()
        assert seen == [b"2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n"]

    @pytest.mark.parametrize(("length", "problem"), [(1, "exceed the announced length of 1"), (4, "end after 2 of 4")])
    def test_another_length_than_announced(self, echoed: Any, length: int, problem: str) -> None:
        with pytest.raises(LocalProtocolError, match=problem):
            connect(echoed[0]).request("POST", "/", body=[iter([b"a", b"b"])], length=length)

    @pytest.mark.parametrize("raised", [OSError("disk"), ValueError("mine"), KeyboardInterrupt()])
    def test_what_a_source_raises_passes_through(self, echoed: Any, raised: BaseException) -> None:
        def source() -> Iterator[bytes]:
            yield b"a"
            raise raised

        connection = connect(echoed[0])
        with pytest.raises(type(raised)) as caught:
            connection.request("POST", "/", body=[source()])
        assert caught.value is raised
        assert get(connection) == b"", "the connection is usable again"
        connection.close()

    def test_an_answer_before_the_body_was_read(self) -> None:
        def script(sock: socket.socket, request: bytes) -> None:
            sock.sendall(http(b"go away", "text/plain", "413 Too Large"))
            sock.shutdown(socket.SHUT_WR)
            # Until the client has seen the answer, so that no reset destroys it.
            while sock.recv(65536):
                pass

        def source() -> Iterator[bytes]:
            for _ in range(20):
                yield b"x" * 65536

        with raw_server(script) as (url, _):
            response = connect(url).request("POST", "/", body=[source()])
            assert (response.status, response.read(100)) == (413, b"go away")
            response.close()

    def test_a_server_that_explains_before_it_closes(self) -> None:
        answer = http(b"go away", "text/plain", "413 Too Large")
        with raw_server(answer) as (url, _):
            connection = connect(url)
            response = connection.request("POST", "/", body=[iter([bytes(65536)] * 500)])
            assert (response.status, response.read(100)) == (413, b"go away")
            response.close()

    def test_a_server_that_hangs_up_while_the_body_is_sent(self) -> None:
        with raw_server(lambda sock, request: None) as (url, _), pytest.raises(ConnectionFailed):
            connect(url).request("POST", "/", body=[iter([b"x" * 65536] * 500)])


@pytest.mark.parametrize(
    ("value", "media_type"),
    [("Text/Plain; charset=utf-8", "text/plain"), ("", ""), ("x/y", "x/y"), ("\x1bx/y", "?x/y")],
)
def test_media_type(value: str, media_type: str) -> None:
    with raw_server(http(b"", value)) as (url, _):
        assert connect(url).request("GET", "/").media_type == media_type


class TestKeepAlive:
    def test_one_connection_for_many_requests(self, echoed: Any) -> None:
        connection = connect(echoed[0])
        assert [get(connection) for _ in range(3)] == [b"", b"", b""]
        assert connection.opened == 1
        connection.close()
        get(connection)
        assert connection.opened == 2
        connection.close()

    def test_a_request_with_data_opens_another(self, echoed: Any) -> None:
        connection = connect(echoed[0])
        get(connection)
        connection.request("POST", "/", body=[b"data"]).close()
        assert connection.opened == 2
        connection.close()

    def test_the_previous_response_must_be_read(self, echoed: Any) -> None:
        connection = connect(echoed[0])
        response = connection.request("POST", "/", body=[b"data"])
        with pytest.raises(LocalProtocolError, match="previous response"):
            connection.request("GET", "/")
        response.close()
        assert response.read(10) == b""
        assert get(connection) == b""
        connection.close()

    def test_a_connection_the_server_has_closed(self) -> None:
        kept = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        with raw_server(kept) as (url, requests):
            connection = connect(url)
            assert [get(connection, repeatable=True) for _ in range(3)] == [b"ok"] * 3
            assert len(requests) == 3
            connection.close()

    def test_a_connection_closed_on_the_next_request(self) -> None:
        """What select() cannot see: the server closes while the request is on its way."""

        def once(sock: socket.socket, request: bytes) -> None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            sock.recv(65536)

        with raw_server(once) as (url, _):
            connection = connect(url)
            assert [get(connection, repeatable=True) for _ in range(2)] == [b"ok", b"ok"]
            assert connection.opened == 2
            with pytest.raises(ConnectionFailed):
                get(connection, repeatable=False)
            connection.close()

    def test_a_request_is_repeated_once(self) -> None:
        def once(sock: socket.socket, request: bytes) -> None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            sock.recv(65536)

        with raw_server(once, b"") as (url, requests):
            connection = connect(url)
            get(connection, repeatable=True)
            with pytest.raises(ConnectionFailed):
                get(connection, repeatable=True)
            assert len(requests) == 2


HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


class TestHostileServers:
    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"\x00\xff" * 100,
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
            f"{HEAD}Content-Length: 10\r\n\r\nabc".encode(),
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nabc".encode(),
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".encode(),
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n".encode(),
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n".encode(),
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n-99999999\r\nabc\r\n0\r\n\r\n".encode(),
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{'f' * 40}\r\nabc".encode(),
        ],
    )
    def test_incomplete_responses(self, answer: bytes) -> None:
        with raw_server(answer) as (url, _), pytest.raises(ConnectionFailed, match=url):
            get(connect(url))

    @pytest.mark.parametrize(
        ("head", "piece"),
        [
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"),
            (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n".encode(), b"X: y\r\n"),
        ],
    )
    def test_headers_without_end(self, head: bytes, piece: bytes) -> None:
        with raw_server(endless(head, piece)) as (url, _), pytest.raises(ConnectionFailed):
            get(connect(url))

    def test_many_small_chunks_are_no_attack(self) -> None:
        body = b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
        with raw_server(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + body) as (url, _):
            assert get(connect(url)) == b"x" * 5000

    def test_nobody_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with pytest.raises(ConnectionFailed, match=f"http://127.0.0.1:{port}"):
            get(connect(f"http://u:secret@127.0.0.1:{port}"))

    def test_silence(self) -> None:
        done = threading.Event()
        with raw_server(lambda sock, request: done.wait(PATIENCE) and None) as (url, _):
            connection = connect(url, timeout=0.05)
            with pytest.raises(ConnectionFailed, match="no answer in time"):
                get(connection)
            done.set()

    def test_the_password_is_in_no_message(self) -> None:
        with raw_server(b"nonsense") as (url, _), pytest.raises(HgWireError) as caught:
            get(connect(url.replace("//", "//u:secret@")))
        assert "secret" not in str(caught.value)


def test_the_body_arrives_while_it_is_sent() -> None:
    """A piece is given when it is there, not when the piece asked for is full."""
    seen = threading.Event()

    def script(sock: socket.socket, request: bytes) -> None:
        sock.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n".encode())
        assert seen.wait(PATIENCE)
        sock.sendall(b"1\r\nb\r\n0\r\n\r\n")

    with raw_server(script) as (url, _):
        response = connect(url).request("GET", "/")
        assert response.read(65536) == b"a"
        seen.set()
        assert response.read(65536) == b"b"
        assert response.read(65536) == b""
        response.close()


CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""Key and certificate of localhost and 127.0.0.1, valid for a century, known to nobody."""


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_tls(tls: ssl.SSLContext) -> None:
    with raw_server(http(b"secret"), context=tls) as (url, _):
        secure = url.replace("http:", "https:")
        assert get(connect(secure, ssl_context=ssl.create_default_context(cafile=str(CERTIFICATE)))) == b"secret"


def test_an_untrusted_certificate(tls: ssl.SSLContext) -> None:
    with raw_server(http(b"secret"), context=tls) as (url, requests):
        with pytest.raises(ConnectionFailed, match="certificate verify failed"):
            get(connect(url.replace("http:", "https:")))
        assert not requests, "nothing was sent"


def test_a_server_without_tls() -> None:
    with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (url, _), pytest.raises(ConnectionFailed):
        get(connect(url.replace("http:", "https:")))
