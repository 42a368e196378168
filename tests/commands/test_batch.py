"""The encoding of ``batch``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.commands.batch import SubCommand, escape, split_commands, unescape
from hgwire_wsgi.errors import RequestError

PIECES = st.sampled_from([b"heads", b"a", b" ", b"=", b",", b";", b":", b":c", b":x"])
NAMES = st.text("abcXYZ0_-+%/\\&?#é\xff", min_size=1)


@given(plain=st.binary())
def test_escape_round_trip(plain: bytes) -> None:
    assert unescape(escape(plain)) == plain
    assert not set(escape(plain)) & set(b",;=")


def test_escapes() -> None:
    assert escape(b"a:b,c;d=e") == b"a:cb:oc:sd:ee"
    assert unescape(b":cc :x :") == b":c :x :"


@pytest.mark.parametrize(
    ("cmds", "commands"),
    [
        (b"heads ", [("heads", {})]),
        (b"heads ;known nodes=11", [("heads", {}), ("known", {"nodes": b"11"})]),
        (b"x a=1,b=2", [("x", {"a": b"1", "b": b"2"})]),
        (b"x a=1,a=2", [("x", {"a": b"1"})]),
        (b"x a=,,b=", [("x", {"a": b"", "b": b""})]),
        (b"lookup key=a:ob:sc:ed:cf", [("lookup", {"key": b"a,b;c=d:f"})]),
        (b"x :c=a b", [("x", {":": b"a b"})]),
        (b"x \xc3=\xff", [("x", {"Ã": b"\xff"})]),
    ],
)
def test_split(cmds: bytes, commands: list[tuple[str, dict[str, bytes]]]) -> None:
    assert split_commands(cmds, 10, 9) == tuple(SubCommand(*command) for command in commands)


@pytest.mark.parametrize("cmds", [b"", b"heads", b" a=1", b"heads ;", b";heads ", b"x a", b"x a=1=2", b"x a=1,b"])
def test_malformed(cmds: bytes) -> None:
    with pytest.raises(RequestError, match="batch: a"):
        split_commands(cmds, 10, 9)


def test_limit() -> None:
    assert len(split_commands(b"heads ;" * 9 + b"heads ", 10, 9)) == 10
    with pytest.raises(RequestError, match="batch: more than 10 commands"):
        split_commands(b"heads ;" * 10 + b"heads ", 10, 9)


def test_equal_commands_are_one_object() -> None:
    first, other, second = split_commands(b"heads ;lookup key=a;heads ", 3, 1)
    assert first is second and other.name == "lookup"


def test_limit_of_arguments() -> None:
    assert split_commands(b"x a=1,b=2", 1, 2)[0].arguments == {"a": b"1", "b": b"2"}
    for many in (b"x a=1,b=2,c=3", b"x ,,,"):
        with pytest.raises(RequestError, match="batch: a command with more than 2 arguments"):
            split_commands(many, 1, 2)


@given(
    commands=st.lists(
        st.tuples(NAMES, st.dictionaries(NAMES, st.binary(max_size=20), max_size=3)), min_size=1, max_size=5
    )
)
def test_what_clients_encode_is_read_back(commands: list[tuple[str, dict[str, bytes]]]) -> None:
    encoded = b";".join(
        name.encode("latin-1")
        + b" "
        + b",".join(escape(key.encode("latin-1")) + b"=" + escape(value) for key, value in arguments.items())
        for name, arguments in commands
    )
    assert split_commands(encoded, 5, 9) == tuple(SubCommand(*command) for command in commands)


@given(cmds=st.one_of(st.binary(), st.lists(PIECES).map(b"".join)))
def test_commands_or_the_documented_error(cmds: bytes) -> None:
    try:
        split_commands(cmds, 3, 9)
    except RequestError as error:
        assert error.message.startswith("batch: ")


@given(replies=st.lists(st.binary(), min_size=1))
def test_replies_are_taken_apart_by_clients(replies: list[bytes]) -> None:
    assert [unescape(reply) for reply in b";".join(map(escape, replies)).split(b";")] == replies
