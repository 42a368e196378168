"""The registry: declarations, their checks, and which command a name means for whom."""

from __future__ import annotations

import functools
import json
from typing import Any

import attrs
import pytest

from hgwire_wsgi.commands.arguments import Argument
from hgwire_wsgi.commands.registry import Command, CommandRegistry, stricter
from hgwire_wsgi.errors import InvalidArgument


def handler(context: Any, **arguments: Any) -> bytes:
    return b"ours"


def theirs(context: Any, **arguments: Any) -> bytes:
    return b"theirs"


def command(name: str = "x", permission: str = "pull", **declaration: Any) -> Command:
    return Command(name=name, handler=handler, permission=permission, **declaration)


class TestCommand:
    @pytest.mark.parametrize("name", ["", "a b", "a;b", "a,b", "a=b", "a&b", "a?b", "a#b"])
    def test_names_that_cannot_be_written(self, name: str) -> None:
        with pytest.raises(ValueError, match="not a valid command name"):
            command(name)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"permission": "read"}, "x: permission must be one of pull, push, not 'read'"),
            ({"reply": "text"}, "x: reply must be one of bytes, stream, legacy, push, any, not 'text'"),
            ({"version": "v3"}, "x: version must be one of v1, v2, not 'v3'"),
            ({"permission": "push", "cacheable": True}, "x: the reply of .* is never cached"),
        ],
        ids=str,
    )
    def test_wrong_declaration(self, wrong: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            command(**wrong)

    def test_a_cacheable_command_needs_a_handler_with_a_name(self) -> None:
        """Its name is part of the key, and a partial object has none."""
        with pytest.raises(ValueError, match="x: the handler of a cacheable command needs a name"):
            Command(name="x", handler=functools.partial(handler), permission="pull", cacheable=True)

    def test_misspelled_declaration_of_a_host(self) -> None:
        with pytest.raises(TypeError, match="cachable"):
            CommandRegistry().command("x", permission="pull", cachable=True)  # type: ignore[call-arg]  # what is tested

    def test_permission_is_mandatory(self) -> None:
        with pytest.raises(TypeError):
            Command(name="x", handler=handler)  # type: ignore[call-arg]  # that it refuses is what is tested

    @pytest.mark.parametrize(
        ("declaration", "batchable"),
        [
            ({}, True),
            ({"permission": "push"}, True),
            ({"reply": "stream"}, False),
            ({"reply": "push"}, False),
            ({"body": True}, False),
            ({"name": "batch"}, False),
        ],
        ids=str,
    )
    def test_batchable(self, declaration: dict[str, Any], batchable: bool) -> None:
        assert command(**declaration).batchable is batchable

    def test_decode(self) -> None:
        declared = command(arguments=(Argument("nodes", "nodes"), Argument("flag", "boolean", required=False)))
        assert declared.decode({"nodes": b"", "flag": b"1", "other": b"x"}) == {"nodes": [], "flag": True}
        assert declared.decode({"nodes": b"11" * 20}) == {"nodes": [b"\x11" * 20]}
        with pytest.raises(InvalidArgument, match="x: missing argument nodes"):
            declared.decode({"flag": b"1"})
        with pytest.raises(InvalidArgument, match="x: argument nodes: 'zz' is not a node"):
            declared.decode({"nodes": b"zz"})

    def test_decode_collects_the_rest(self) -> None:
        declared = command(arguments=(Argument("one"),), rest=True)
        assert declared.decode({"one": b"1", "two": b"2"}) == {"one": b"1", "rest": {"two": b"2"}}

    def test_describe(self) -> None:
        assert command(arguments=(Argument("one", "csv", required=False),), body=True).describe() == {
            "name": "x",
            "arguments": [{"name": "one", "type": "csv", "required": False}],
            "rest": False,
            "permission": "pull",
            "reply": "bytes",
            "body": True,
            "batchable": False,
            "version": None,
            "cacheable": False,
        }


class TestRegistering:
    def test_decorator(self) -> None:
        registry = CommandRegistry()
        declare = registry.command(
            "x",
            permission="push",
            args=["one", Argument("two", "nodes"), "*"],
            optional=["three", Argument("four", "csv")],
        )
        assert declare(handler) is handler
        assert registry["x"] == Command(
            name="x",
            handler=handler,
            permission="push",
            arguments=(
                Argument("one"),
                Argument("two", "nodes"),
                Argument("three", required=False),
                Argument("four", "csv", required=False),
            ),
            rest=True,
        )

    def test_decorator_demands_a_permission(self) -> None:
        with pytest.raises(TypeError):
            CommandRegistry().command("x")  # type: ignore[call-arg]  # that it refuses is what is tested

    def test_mapping(self) -> None:
        registry = CommandRegistry([command("x"), command("y")])
        assert list(registry) == ["x", "y"] and len(registry) == 2 and "x" in registry and "z" not in registry

    def test_override_keeps_the_declaration(self) -> None:
        registry = CommandRegistry.standard()
        before = registry["lookup"]
        assert registry.override("lookup", handler) is before.handler
        assert registry["lookup"] == attrs.evolve(before, handler=handler, overridable=False, cacheable=False)
        registry.override("lookup", handler, cacheable=True)
        assert registry["lookup"] == attrs.evolve(before, handler=handler, overridable=False)
        with pytest.raises(KeyError):
            registry.override("nosuch", handler)

    def test_remove_and_register_again(self) -> None:
        registry = CommandRegistry([command("x")])
        registry.remove("x", "never-there")
        assert "x" not in registry
        from_repository = {"x": command("x"), "never-there": command("never-there")}
        assert (
            registry.resolve("x", from_repository) is None and registry.resolve("never-there", from_repository) is None
        )
        registry.register(command("x"))
        assert registry.resolve("x", {}) is registry["x"]

    def test_merge(self) -> None:
        registry, other = CommandRegistry([command("x"), command("y")]), CommandRegistry([command("y", "push")])
        registry.remove("z")
        other.remove("x")
        other.register(command("z"))
        registry.merge(other)
        assert set(registry) == {"y", "z"} and registry.permission_of("y") == "push"
        assert registry.resolve("x", {"x": command("x")}) is None

    def test_backend_commands(self) -> None:
        registry = CommandRegistry([command("x")])
        registry.remove("gone")
        backend = {"x": command("x", "push"), "gone": command("gone"), "new": command("new")}
        registry.add_backend_commands(backend, {"known": "pull", "gone": "pull", "x": "push"})
        assert set(registry) == {"x", "new"}
        assert registry["x"].permission == "pull" and registry["new"].overridable
        # What is known by name alone is classified, and not offered.
        assert "known" not in registry and registry.copy().permission_of("known") == "pull"
        assert registry.permission_of("gone") == "push" and registry.permission_of("x") == "pull"

    def test_copies_are_independent(self) -> None:
        registry = CommandRegistry([command("x")])
        registry.remove("gone")
        copy = registry.copy()
        copy.register(command("y"))
        registry.remove("x")
        assert set(copy) == {"x", "y"} and not registry
        assert copy.resolve("gone", {"gone": command("gone")}) is None

    def test_frozen(self) -> None:
        registry = CommandRegistry([command("x")])
        frozen = registry.freeze()
        for change in (
            lambda: frozen.register(command("y")),
            lambda: frozen.remove("x"),
            lambda: frozen.merge(registry),
            lambda: frozen.add_backend_commands({}, {}),
            lambda: frozen.override("x", theirs),
        ):
            with pytest.raises(TypeError, match="cannot change"):
                change()
        registry.remove("x")
        frozen.copy().remove("x")
        assert set(frozen) == {"x"}


class TestResolving:
    def test_what_nobody_declares(self) -> None:
        assert CommandRegistry().resolve("x", {}) is None
        assert CommandRegistry().permission_of("x") == "push"

    def test_who_goes_first(self) -> None:
        own, from_repository = command(), attrs.evolve(command(), handler=theirs)
        assert CommandRegistry([own]).resolve("x", {"x": from_repository}) is own
        assert (
            CommandRegistry([attrs.evolve(own, overridable=True)]).resolve("x", {"x": from_repository})
            is from_repository
        )
        assert CommandRegistry([own]).resolve("x", {}) is own
        assert CommandRegistry().resolve("x", {"x": from_repository}) is from_repository

    @pytest.mark.parametrize("permissions", [("pull", "push"), ("push", "pull")])
    def test_the_stricter_permission_holds(self, permissions: tuple[str, str]) -> None:
        registry = CommandRegistry([command(permission=permissions[0], overridable=True)])
        from_repository = attrs.evolve(command(permission=permissions[1]), handler=theirs)
        found = registry.resolve("x", {"x": from_repository})
        assert found is not None and (found.handler, found.permission) == (theirs, "push")

    def test_a_cacheable_pull_becomes_an_uncached_push(self) -> None:
        registry = CommandRegistry([command(permission="push", overridable=True)])
        found = registry.resolve("x", {"x": command(cacheable=True)})
        assert found is not None and not found.cacheable


class TestVersions:
    def test_a_command_without_a_version_serves_all(self) -> None:
        registry = CommandRegistry([command("x")])
        assert registry.find("x", "v1") is registry.find("x", "v2") is registry["x"]

    def test_versions_differ(self) -> None:
        first, second = command("x", version="v1"), command("x", "push", version="v2")
        registry = CommandRegistry([second, first])
        assert registry.find("x", "v1") is first and registry.find("x", "v2") is second
        assert registry["x"] is first and list(registry) == ["x"] and len(registry) == 1
        assert registry.permission_of("x", "v2") == "push"
        assert [each["version"] for each in registry.describe()] == ["v1", "v2"]

    def test_a_command_of_one_version_goes_before_one_of_all(self) -> None:
        registry = CommandRegistry([command("x"), command("x", version="v2")])
        assert registry.find("x", "v2") is not registry.find("x", "v1")

    def test_a_command_of_all_versions_replaces_the_others(self) -> None:
        registry = CommandRegistry([command("x", version="v1"), command("x", version="v2")])
        registry.register(command("x"))
        assert registry.find("x", "v1") is registry.find("x", "v2") is registry["x"]
        registry.remove("x")
        assert not registry

    def test_a_repository_brings_commands_of_one_version(self) -> None:
        brought = {"x": command("x", version="v1")}
        assert CommandRegistry().resolve("x", brought, "v1") is brought["x"]
        assert CommandRegistry().resolve("x", brought, "v2") is None


def test_stricter() -> None:
    assert stricter("pull") == "pull" and stricter("pull", "push") == stricter("push", "pull") == "push"
    assert stricter() == "push"


def test_standard_registries_are_independent() -> None:
    registry = CommandRegistry.standard()
    registry.remove("heads")
    assert "heads" in CommandRegistry.standard()


def test_standard_commands_and_permissions() -> None:
    described = {each["name"]: each for each in CommandRegistry.standard().describe()}
    assert list(described) == [
        *(
            "batch",
            "between",
            "branches",
            "branchmap",
            "capabilities",
            "changegroup",
            "changegroupsubset",
            "clonebundles",
        ),
        *("clonebundles_manifest", "get_cached_bundle_inline", "getbundle", "heads", "hello", "known", "listkeys"),
        *("lookup", "protocaps", "pushkey", "stream_out", "unbundle"),
    ]
    assert {name for name, each in described.items() if each["permission"] == "push"} == {"pushkey", "unbundle"}
    assert json.loads(json.dumps(described)) == described


def test_a_handler_is_known_by_where_it_is_defined() -> None:
    assert CommandRegistry.standard()["heads"].handler_name == ("hgwire_wsgi.commands.standard", "heads")
    partial = Command(name="x", handler=functools.partial(print), permission="pull")
    assert partial.handler_name == ("functools", "")
