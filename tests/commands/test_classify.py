"""What a request asks for, as pure functions.  The tests of ``http/v1/input.py`` feed them whole requests."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hgwire_wsgi.commands.batch import SubCommand
from hgwire_wsgi.commands.classify import WireRequest, describe, named_command, names_command
from hgwire_wsgi.commands.registry import CommandRegistry
from hgwire_wsgi.errors import RequestError
from hgwire_wsgi.limits import Limits

COMMANDS = CommandRegistry.standard()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ()),
        ("cmd=", ()),
        ("cmd=&x=1", ()),
        ("xcmd=heads", ()),
        ("cmd=heads", ("heads",)),
        ("cmd=heads;x", ("heads;x",)),
        ("cmd=a+b", ("a b",)),
        ("cmd=%68eads", ("heads",)),
        ("x=1&cmd=heads", ("heads",)),
        ("cmd=heads&cmd=lookup&cmd=", ("heads", "lookup")),
        ("cmd=%ff", ("\xff",)),
    ],
)
def test_the_commands_of_a_query_string(query: str, names: tuple[str, ...]) -> None:
    assert names_command(query) == names


@given(st.text(st.characters(max_codepoint=255), min_size=1))
def test_a_quoted_name_is_read_back(name: str) -> None:
    assert names_command("cmd=" + quote(name, encoding="latin-1", safe="")) == (name,)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("", ""),
        ("x=1", ""),
        ("cmd=", ""),
        ("cmd=&cmd=", ""),
        ("cmd=heads", "heads"),
        ("cmd=heads&x=1", "heads"),
        ("cmd=%ff", "\xff"),
        ("x=1&c%6Dd=a+b", "a b"),
        ("cmd=heads&cmd\n", "heads"),
    ],
)
def test_the_command_of_a_query_string(query: str, name: str) -> None:
    assert named_command(query) == name


@pytest.mark.parametrize("query", ["cmd=heads&cmd=heads", "cmd=&cmd=heads", "cmd=heads&x&cmd="])
def test_one_request_names_one_command(query: str) -> None:
    with pytest.raises(RequestError, match="more than once"):
        named_command(query)


def test_characters_that_are_no_bytes() -> None:
    with pytest.raises(RequestError):
        names_command("cmd=\u20ac&x")


@pytest.mark.parametrize(
    ("command", "arguments", "names", "permission"),
    [
        ("heads", {}, ("heads",), "pull"),
        ("unbundle", {}, ("unbundle",), "push"),
        ("nosuch", {}, ("nosuch",), "push"),
        ("batch", {"cmds": b"heads ;known nodes="}, ("batch", "heads", "known"), "pull"),
        ("batch", {"cmds": b"heads ;heads "}, ("batch", "heads", "heads"), "pull"),
        ("batch", {"cmds": b"heads ;pushkey key=x"}, ("batch", "heads", "pushkey"), "push"),
        ("batch", {"cmds": b"nosuch "}, ("batch", "nosuch"), "push"),
    ],
)
def test_the_strictest_permission_counts(
    command: str, arguments: dict[str, bytes], names: tuple[str, ...], permission: str
) -> None:
    described = describe(command, arguments, COMMANDS, Limits(), posted=3)
    assert (described.names, described.permission, described.posted) == (names, permission, 3)
    assert described.arguments is arguments


def test_sub_commands_with_their_arguments() -> None:
    described = describe("batch", {"cmds": b"heads ;known nodes=11"}, COMMANDS, Limits())
    assert described.batch == (SubCommand("heads", {}), SubCommand("known", {"nodes": b"11"}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "missing argument cmds"),
        ({"cmds": "heads "}, "missing argument cmds"),
        ({"cmds": b"heads"}, "batch: a command must be"),
        ({"cmds": b"heads ;heads ;heads "}, "more than 2 commands"),
    ],
)
def test_a_malformed_batch(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        describe("batch", arguments, COMMANDS, Limits(batch_commands=2))


def test_commands_of_one_version() -> None:
    commands = CommandRegistry()
    commands.command("x", permission="pull", version="v2")(lambda context: b"")
    assert describe("x", {}, commands, Limits()).permission == "push"
    assert describe("x", {}, commands, Limits(), version="v2").permission == "pull"


@given(cmds=st.binary())
def test_a_batch_or_the_documented_error(cmds: bytes) -> None:
    try:
        described = describe("batch", {"cmds": cmds}, COMMANDS, Limits())
    except RequestError:
        return
    assert isinstance(described, WireRequest) and len(described.batch) >= 1
