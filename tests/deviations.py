"""Where this project answers otherwise than Mercurial's server or a recorded exchange, on purpose.

One table, :data:`DEVIATIONS`, which ``docs/deviations.rst`` shows (``python tests/deviations.py`` writes it).  A
deviation that vectors can show is a rule: it decides by what was asked and answered, never by the name of a case.  Each
of the others names the tests that show it.

A vector to which no rule applies must be answered as recorded, or as its ``spec_expect`` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
from vector_files import raw_bytes
from wire_model import COMMANDS, STREAMS, Call, Recorded

from hgwire_wsgi.framing import EXP_0002, BufferedCommands, Error, Frame, RunCommand, ServerReactor

__all__ = [
    "DEVIATIONS",
    "FRAMED_RULES",
    "FRAME_RULES",
    "HG_ERROR",
    "PAGE",
    "V1_RULES",
    "Deviation",
    "Expected",
    "FrameStep",
    "Framed",
    "expected_for",
    "is_plain_notation",
    "render",
]

HG_ERROR = "application/hg-error"
MEDIA_TYPE_01 = "application/mercurial-0.1"
MEDIA_TYPE_02 = "application/mercurial-0.2"
TEXT = "text/plain"
FRAMES = "application/mercurial-exp-framing-0002"


@attrs.frozen(kw_only=True)
class Expected:
    """What is answered instead.

    Attributes:
        status: the status; any of several.
        content_type: the media type.
        body: the decoded body; ``None`` leaves it open.
        says: what the body of an error holds, in any case.
        engine: the engine that a body of media type 0.2 names.
        headers: headers that must be there.
        like: another request that must be answered the same, apart from which nothing is expected.
        frames: the data of the one response frame, or the message of the one error frame.
    """

    status: tuple[int, ...] = (400,)
    content_type: str = HG_ERROR
    body: bytes | None = None
    says: tuple[str, ...] = ()
    engine: str | None = None
    headers: tuple[str, ...] = ()
    like: Any = None
    frames: bytes | str | None = None


PAGE = Expected(status=())
"""The request is for the wrapped application."""


@attrs.frozen
class Deviation:
    """One line of the table.

    Attributes:
        name: the name of the rule.
        asked: what the deviation is about.
        reference: what hgweb, or the recorded server, does.
        ours: what this project does.
        reason: why.
        rule: what is expected instead of the recorded answer; ``None`` where the rule does not apply.  A rule of single
            frames says whether it applies.
        tests: tests that show what no vector can.
    """

    name: str
    asked: str
    reference: str
    ours: str
    reason: str
    rule: Callable[[Any], Any] | None = None
    tests: tuple[str, ...] = ()


def expected_for(rules: Iterable[Deviation], exchange: Any) -> tuple[Deviation, Expected] | None:
    """The first rule that applies to an exchange, and what it expects."""
    for deviation in rules:
        assert deviation.rule is not None
        if (expected := deviation.rule(exchange)) is not None:
            return deviation, expected
    return None


# Version 1


def _one_command(asked: Recorded) -> Expected | None:
    return Expected(says=("cmd", "more than once")) if len(asked.commands) > 1 else None


def _page(asked: Recorded) -> Expected | None:
    return PAGE if (asked.answer["content_type"] or "").startswith("text/html") else None


def _typed_refusal(asked: Recorded) -> Expected | None:
    if asked.answer["content_type"] is not None or asked.status not in (401, 403, 405):
        return None
    headers = ("Allow",) if asked.status == 405 else ()
    says = asked.answer["status_line"].split(" ", 2)[2]
    return Expected(status=_refusal(asked.status), body=b"0\n%s\n" % says.encode(), says=(says,), headers=headers)


def _refusal(recorded: int) -> tuple[int, ...]:
    """The status of a refusal: where no password helps, 401 becomes 403."""
    return (401, 403) if recorded == 401 else (recorded,)


def _command_among_arguments(asked: Recorded) -> Expected | None:
    if asked.commands and any(name == b"cmd" for name, _ in asked.given):
        return Expected(says=("only the query string", "cmd"))
    return None


def _not_offered(asked: Recorded) -> Expected | None:
    if asked.header("X-HgArgs-Post") in (None, "0") or asked.post_args:
        return None
    headers = [pair for pair in asked.headers if pair[0].lower() != "x-hgargs-post"]
    return Expected(like=attrs.evolve(asked, headers=headers))


def _posted_length(asked: Recorded) -> Expected | None:
    value = asked.header("X-HgArgs-Post")
    if value is None or not asked.post_args:
        return None
    if not re.fullmatch("[0-9]+", value) or int(value) > len(asked.body):
        return Expected(says=("X-HgArgs-Post",))
    return None


def _comma(asked: Recorded) -> Expected | None:
    return Expected(says=("X-HgArg", "comma")) if not asked.posted and "," in asked.numbered("X-HgArg-") else None


def _foreign_push(asked: Recorded) -> Expected | None:
    media_type = asked.header("Content-Type")
    pushes = any(call.command in (b"pushkey", b"unbundle") for call in asked.calls)
    if asked.method != "POST" or not pushes or not media_type or media_type.startswith("application/mercurial-"):
        return None
    if media_type.startswith("application/x-www-form-urlencoded") and asked.numbered("X-HgArg-"):
        return None
    return Expected(status=(415,), says=("must be sent as application/mercurial-0.1",))


def _malformed_batch(asked: Recorded) -> Expected | None:
    if asked.call.command == b"batch" and not asked.call.missing and asked.call.batch is None:
        return Expected(says=("batch", "must be a name"))
    return None


def _batched(names: Callable[[bytes], bool], *says: str) -> Callable[[Recorded], Expected | None]:
    def rule(asked: Recorded) -> Expected | None:
        for call in asked.calls[1:]:
            if names(call.command):
                return Expected(says=(*says, call.command.decode("latin-1")))
        return None

    return rule


def _missing_argument(asked: Recorded) -> Expected | None:
    for call in asked.calls:
        if call.missing:
            return Expected(says=(f"missing argument {call.missing[0].decode()}",))
    return None


def _malformed_nodes(asked: Recorded) -> Expected | None:
    for call in asked.calls:
        if call.malformed:
            return Expected(says=(repr(call.malformed[0][:48].decode("ascii", "backslashreplace"))[:-1],))
    return None


_TAKES_UNKNOWN_NODES = frozenset({b"known", b"unbundle"})


def _unknown_node(asked: Recorded) -> Expected | None:
    if asked.status != 500:
        return None
    for call in asked.calls:
        if call.command not in _TAKES_UNKNOWN_NODES:
            words = call.nodes(b"heads") if call.command == b"getbundle" else call.nodes()
            for word in words:
                if bytes.fromhex(word.decode()) not in asked.known:
                    return Expected(says=("unknown revision", word.decode()[:12]))
    return None


def _long_nodes(asked: Recorded) -> Expected | None:
    if asked.status != 500 or asked.call.command != b"known" or all(len(word) != 64 for word in asked.call.nodes()):
        return None
    body = b"".join(b"%d" % (bytes.fromhex(word.decode()) in asked.known) for word in asked.call.nodes())
    return Expected(status=(200,), content_type=MEDIA_TYPE_01, body=body)


def _no_inline_bundle(asked: Recorded) -> Expected | None:
    return Expected() if asked.status == 500 and asked.call.command == b"get_cached_bundle_inline" else None


def _not_ascii(asked: Recorded) -> Expected | None:
    values = [value for call in asked.calls for value in call.arguments.values()]
    if asked.status != 500 or all(value.isascii() for value in values):
        return None
    body = wire_arguments(asked.call) if asked.call.command == b"debugwireargs" else None
    return Expected(status=(200,), content_type=MEDIA_TYPE_01, body=body)


def wire_arguments(call: Call) -> bytes:
    """What the recording server's command ``debugwireargs`` answers."""
    one, two = call.arguments[b"one"], call.arguments[b"two"]
    return b" ".join([one, two, *(call.arguments.get(name, b"None") for name in (b"three", b"four")), b"None"])


def _only_02(asked: Recorded) -> Expected | None:
    compressed = asked.answer["content_type"] == MEDIA_TYPE_01 and asked.answer.get("engine_level_bytes_hex")
    if asked.status == 200 and compressed and "0.2" in asked.versions and "0.1" not in asked.versions:
        return Expected(status=(200,), content_type=MEDIA_TYPE_02, engine="none")
    return None


def _garbage(asked: Recorded) -> Expected | None:
    content = asked.body[asked.posted :]
    if asked.method != "POST" or asked.call.command != b"unbundle" or asked.status not in (200, 500):
        return None
    if asked.status == 200 and re.match(rb"HG10(UN|GZ|BZ)|HG20|\0", content):
        return None
    return Expected(status=(200, 400))


def _head(asked: Recorded) -> Expected | None:
    if asked.method != "HEAD" or asked.status != 200:
        return None
    return Expected(status=(200,), content_type=asked.answer["content_type"], body=b"")


V1_RULES = (
    Deviation(
        "one-command",
        "``cmd`` twice in the query string",
        "the last one runs",
        "400",
        "A proxy that classifies requests and the server could choose different ones.",
        _one_command,
    ),
    Deviation(
        "pages",
        "no command, an unknown command, or one of hgweb's own",
        "a page of HTML",
        "``WireMiddleware`` passes the request to the wrapped application. Alone, an unknown command is 400 with "
        "``application/hg-error``, and the URL of a repository names itself in plain text.",
        "Pages are not part of the wire protocol.",
        _page,
    ),
    Deviation(
        "typed-refusals",
        "a push that is not allowed, or needs POST or TLS",
        "401, 403 or 405 without a ``Content-Type``",
        "the same status (see useless-challenge) and text as ``application/hg-error``; 401 has ``WWW-Authenticate``, "
        "405 has ``Allow``",
        "HTTP requires the two headers, and a body has a media type.",
        _typed_refusal,
    ),
    Deviation(
        "posted-arguments-not-offered",
        "``X-HgArgs-Post`` where ``httppostargs`` is not offered",
        "the arguments are read from the body",
        "the header is ignored",
        "The setting decides where arguments are; what is in front of the server must read the same ones.",
        _not_offered,
    ),
    Deviation(
        "posted-arguments-length",
        "``X-HgArgs-Post`` that is not made of digits alone (``+11``, ``-1``, ``1_0``, ``abc``), or exceeds the body",
        "500 for ``abc``; the others are read as Python reads integers, and a body that is too short is accepted",
        "400",
        "Two readers of a lenient number find different bodies.",
        _posted_length,
    ),
    Deviation(
        "command-among-arguments",
        "``cmd`` in ``X-HgArg`` or in the posted arguments",
        "ignored",
        "400",
        "A proxy that merges the arguments would see another command than the server.",
        _command_among_arguments,
    ),
    Deviation(
        "unescaped-comma",
        "an unescaped comma in ``X-HgArg-<N>``",
        "part of the value",
        "400",
        "Servers join a header that was sent twice with a comma. Clients escape theirs.",
        _comma,
    ),
    Deviation(
        "foreign-push",
        "a push with a ``Content-Type`` that is not Mercurial's",
        "accepted",
        "415; a form that has its arguments in ``X-HgArg`` comes from an old client and is accepted",
        "A web page can make a browser send a form with the user's credentials, but neither that media type nor that "
        "header.",
        _foreign_push,
    ),
    Deviation(
        "malformed-batch",
        "a sub-command of ``batch`` without a space, or an argument without exactly one ``=``",
        "500",
        "400",
        "The client is at fault.",
        _malformed_batch,
    ),
    Deviation(
        "nested-batch",
        "``batch`` within ``batch``",
        "runs, to any depth",
        "400",
        "The permission of a request is read from one list of commands. Clients do not nest.",
        _batched(lambda name: name == b"batch", "cannot be batched"),
    ),
    Deviation(
        "unknown-command-in-batch",
        "a sub-command that does not exist",
        "500",
        "400",
        "The client is at fault.",
        _batched(lambda name: name not in COMMANDS, "unknown command"),
    ),
    Deviation(
        "stream-in-batch",
        "a sub-command whose reply is a stream",
        "500",
        "400",
        "A batch carries short replies only.",
        _batched(lambda name: name in STREAMS, "cannot be batched"),
    ),
    Deviation(
        "missing-argument",
        "a required argument is missing",
        "500",
        "400 with its name",
        "The client is at fault.",
        _missing_argument,
    ),
    Deviation(
        "malformed-nodes",
        "a malformed node",
        "500",
        "400 with the node",
        "The client is at fault.",
        _malformed_nodes,
    ),
    Deviation(
        "unknown-nodes",
        "a well-formed node that the repository does not have, where it must exist",
        "500",
        "400 with the node; bundle2 carries the error in a bundle, as hgweb's does",
        "The client is at fault.",
        _unknown_node,
    ),
    Deviation(
        "long-nodes",
        "``known`` with nodes of 64 digits",
        "500",
        "they are not known",
        "Mercurial's format for longer hashes.",
        _long_nodes,
    ),
    Deviation(
        "missing-inline-bundle",
        "an inline clone bundle that does not exist",
        "500",
        "400",
        "The list of bundles may have changed since the client read it.",
        _no_inline_bundle,
    ),
    Deviation(
        "bytes-in-arguments",
        "argument values that are not ASCII",
        "500 before Python 3.13",
        "they are bytes and work",
        "Bookmarks and branches have such names.",
        _not_ascii,
    ),
    Deviation(
        "only-0.2",
        "a stream for a client that reads 0.2 but not 0.1, without a common engine",
        "``application/mercurial-0.1``, which the client did not list",
        "``application/mercurial-0.2`` with the engine ``none``",
        "Every client that reads 0.2 reads uncompressed data.",
        _only_02,
    ),
    Deviation(
        "garbage-bundle",
        "``unbundle`` with a body that is not a bundle, or with an empty bundle",
        "200 with ``0`` and no reason, or 500",
        "400, or ``0`` with the reason",
        "The user sees what is wrong.",
        _garbage,
    ),
    Deviation(
        "head",
        "``HEAD``",
        "hgweb gives the body to the server",
        "no body; status and headers as for ``GET``",
        "HTTP requires it.",
        _head,
    ),
)
"""For ``negotiation/*.json``, in the order in which they are tried."""


# Single frames


def is_plain_notation(human: str | bytes) -> bool:
    """Whether all numbers of a frame in the human notation are made of up to eight digits alone."""
    fields = human.split(b" ", 5) if isinstance(human, bytes) else human.encode().split(b" ", 5)
    flags = [flag for field in (fields[2:3] + fields[4:5]) for flag in field.split(b"|")]
    words = [*fields[:2], *fields[3:4], *flags]
    return all(re.fullmatch(rb"[0-9]{1,8}|[a-z]+(-[a-z]+)*", word) for word in words)


@attrs.frozen
class FrameStep:
    """A step of a recorded scenario, before it is taken.

    Attributes:
        step: as the vector has it.
        active: request IDs that were handed out and not answered.
        receiving: request IDs whose commands are incomplete.
        partial: request IDs whose argument goes on in the next frame.
        names: the arguments that requests have so far.
        failed: whether there was a protocol error; then the end of the input only sends what was deferred.
        frame: the frame of the step, if it has one.
    """

    step: Mapping[str, Any]
    active: frozenset[int]
    receiving: frozenset[int]
    partial: frozenset[int]
    names: Mapping[int, frozenset[bytes]]
    failed: bool
    frame: Frame | None = None

    @property
    def argument(self) -> bytes | None:
        """The name of the argument that the frame begins; ``None`` if it begins none, or not all of its name."""
        frame = self.frame
        if frame is None or frame.type_id != 2 or frame.request_id in self.partial or len(frame.payload) < 4:
            return None
        size = int.from_bytes(frame.payload[:2], "little")
        return frame.payload[4 : 4 + size] if len(frame.payload) >= 4 + size else None


_CONTRADICTIONS = {1: ({3, 5, 7}, 7), 2: ({3}, 3), 3: ({3}, 3)}
"""By frame type: flags that exclude each other, and the flags that are defined."""

_PROFILES = (b"identity", b"zlib", b"zstd-8mb")


def _contradicting(step: FrameStep) -> bool:
    frame = step.frame
    if frame is None or frame.type_id not in _CONTRADICTIONS:
        return False
    contradictions, defined = _CONTRADICTIONS[frame.type_id]
    return frame.flags & defined in contradictions


def _even_request(step: FrameStep) -> bool:
    return step.frame is not None and step.frame.type_id == 1 and step.frame.request_id % 2 == 0


def _empty_name(step: FrameStep) -> bool:
    return step.argument == b""


def _duplicate_name(step: FrameStep) -> bool:
    return step.frame is not None and step.argument in step.names.get(step.frame.request_id, ())


def _ends_inside(step: FrameStep) -> bool:
    return step.step["op"] == "eof" and bool(step.receiving) and not step.failed


def _unknown_profile(step: FrameStep) -> bool:
    frame = step.frame
    if frame is None or frame.type_id != 8:
        return False
    return frame.payload[1 : 1 + frame.payload[0]] not in _PROFILES if frame.payload else True


def _ignored_frame(step: FrameStep) -> bool:
    return bool(step.step["expect"].get("returns_none")) and "spec_expect" not in step.step


FRAME_RULES = (
    Deviation(
        "contradicting-flags",
        "``continuation`` with ``eos`` or ``eoa``; ``eos`` with ``have-args`` or ``have-data``",
        "one of the flags wins, or an exception",
        "a protocol error",
        "The specification calls the latter mutually exclusive; the former mean the opposite of each other.",
        _contradicting,
    ),
    Deviation(
        "even-request-id",
        "a command with an even request ID",
        "runs",
        "a protocol error",
        "Even IDs belong to requests of the server.",
        _even_request,
    ),
    Deviation(
        "empty-argument-name",
        "an argument without a name",
        "accepted",
        "a protocol error",
        "No command can have such an argument.",
        _empty_name,
    ),
    Deviation(
        "duplicate-argument-name",
        "an argument that the request has already",
        "the last one wins",
        "a protocol error",
        "What reads the first one and what reads the last one would disagree.",
        _duplicate_name,
    ),
    Deviation(
        "end-inside-a-command",
        "the input ends before a command does",
        "nothing happens",
        "a protocol error",
        "The client would wait for an answer that never comes.",
        _ends_inside,
    ),
    Deviation(
        "unknown-profile",
        "``stream-settings`` with an unknown profile",
        "``stream-settings`` is always an error",
        "a protocol error that names the known ones: ``identity``, ``zlib``, ``zstd-8mb``",
        "The frames of the stream could not be decoded.",
        _unknown_profile,
    ),
    Deviation(
        "ignored-frames",
        "an undefined frame type, or one that only servers send, while a command is received",
        "no answer at all",
        "a protocol error",
        "The specification allows no such frame here.",
        _ignored_frame,
    ),
)
"""For the steps of ``framing-0002/reactor*.json``: what the decisions make a protocol error."""


# Frames over HTTP


@attrs.define(eq=False)
class Framed:
    """A recorded exchange of the frame-based API.

    Attributes:
        case: the vector.
        body: of the request.
        required: the arguments that a command of the recording cannot do without.
        result: what a command of the recording answers, or the message (``str``) of its failure.
    """

    case: Mapping[str, Any]
    body: bytes
    required: Callable[[bytes], Iterable[bytes]]
    result: Callable[[bytes, Mapping[bytes, bytes]], bytes | str]

    @property
    def status(self) -> int:
        return int(self.case["response"]["status"])

    @property
    def parts(self) -> list[str]:
        """The parts of the path below the API."""
        path = unquote(self.case["request"]["target"].partition("?")[0])
        return [part for part in path.split("/") if part][2:]

    @property
    def is_command(self) -> bool:
        return len(self.parts) == 2 and self.parts[1] != "debugreflect"

    def header(self, name: str) -> str:
        return ",".join(value for key, value in self.case["request"]["headers"] if key.lower() == name)

    def with_header(self, name: str, value: str) -> dict[str, Any]:
        request = self.case["request"]
        headers = [pair for pair in request["headers"] if pair[0].lower() != name]
        return {**self.case, "request": {**request, "headers": [*headers, [name, value]]}}

    def actions(self) -> Iterator[Any]:
        """What a reactor makes of the body."""
        commands = BufferedCommands(ServerReactor(EXP_0002))
        yield from commands.receive_data(self.body)
        yield commands.receive_eof()

    @property
    def error(self) -> Error | None:
        return next((action for action in self.actions() if isinstance(action, Error)), None)

    @property
    def runs(self) -> list[RunCommand]:
        return [action for action in self.actions() if isinstance(action, RunCommand)]

    @property
    def content_type(self) -> str | None:
        headers = {name.lower(): value for name, value in self.case["response"]["headers"]}
        return headers.get("content-type")


def _api_off(asked: Framed) -> Expected | None:
    return Expected(status=(404,), content_type="") if asked.case.get("body_is_hgweb_specific") else None


def _more_parts(asked: Framed) -> Expected | None:
    if len(asked.parts) <= 2 or asked.status == 404:
        return None
    return Expected(status=(404,), content_type=TEXT, says=("do not know how to process", "/".join(asked.parts)))


def _media_range(asked: Framed) -> Expected | None:
    ranges = [each.strip().lower() for each in asked.header("accept").split(",")]
    named = [each for each in ranges if each.partition(";")[0].strip() == FRAMES]
    if asked.status != 406 or not any(not re.search(r";\s*q=0(\.0*)?\s*$", each) for each in named):
        return None
    return Expected(like=asked.with_header("accept", FRAMES))


def _media_parameters(asked: Framed) -> Expected | None:
    media_type, mark, _ = asked.header("content-type").partition(";")
    if asked.status != 415 or not mark or media_type.strip().lower() != FRAMES:
        return None
    return Expected(like=asked.with_header("content-type", FRAMES))


def _no_command(asked: Framed) -> Expected | None:
    if asked.status != 500 or not asked.is_command or asked.error is not None or asked.runs:
        return None
    return Expected(content_type=TEXT, says=("no command",))


def _bad_frames(asked: Framed) -> Expected | None:
    if asked.status not in (200, 500) or not asked.is_command or asked.content_type == TEXT or asked.error is None:
        return None
    return Expected(
        status=(400,) if asked.status == 500 else (200, 400), content_type=TEXT, says=(asked.error.message,)
    )


def _failed_command(asked: Framed) -> Expected | None:
    if asked.status != 500 or not asked.is_command or len(asked.runs) != 1:
        return None
    (run,) = asked.runs
    for name in asked.required(run.name):
        if name not in run.arguments:
            return Expected(status=(200,), content_type=FRAMES, frames=f"missing argument {name.decode()}")
    result = asked.result(run.name, run.arguments)
    return Expected(status=(200,), content_type=FRAMES, frames=result) if isinstance(result, str) else None


def _works(asked: Framed) -> Expected | None:
    if asked.status != 500 or not asked.is_command or len(asked.runs) != 1 or _failed_command(asked) is not None:
        return None
    (run,) = asked.runs
    return Expected(status=(200,), content_type=FRAMES, frames=asked.result(run.name, run.arguments))


def _typed(asked: Framed) -> Expected | None:
    if asked.content_type is not None or asked.status == 500:
        return None
    body = raw_bytes(asked.case["response"].get("body_hex", ""))
    return Expected(status=_refusal(asked.status), content_type=TEXT, body=body)


FRAMED_RULES = (
    Deviation(
        "api-off",
        "``/api`` where the API is off",
        "a page of hgweb",
        "404; ``WireMiddleware`` passes the request on",
        "Without the API the URL is not part of the wire protocol.",
        _api_off,
    ),
    Deviation(
        "more-path-parts",
        "parts of the path after the command",
        "ignored",
        "404",
        "A policy that matches paths must see what runs.",
        _more_parts,
    ),
    Deviation(
        "accept-ranges",
        "``Accept`` with several media types, parameters or weights",
        "406 unless it is the media type, byte for byte",
        "the media type must be among them, with a weight other than 0",
        "HTTP allows it.",
        _media_range,
    ),
    Deviation(
        "content-type-parameters",
        "``Content-Type`` with parameters",
        "415 unless it is the media type, byte for byte",
        "parameters are ignored",
        "HTTP allows it.",
        _media_parameters,
    ),
    Deviation(
        "no-command",
        "a body without a command",
        "500",
        "400, ``text/plain``",
        "The client is at fault.",
        _no_command,
    ),
    Deviation(
        "broken-frames",
        "a body that ends inside a frame or a command, or contains an error of the table above",
        "500, or the commands run",
        "``text/plain`` with the reason: 400, or 200 for the kinds of errors that were recorded with it",
        "The client is at fault.",
        _bad_frames,
    ),
    Deviation(
        "failed-command",
        "a command fails, or lacks an argument",
        "500",
        "an error frame",
        "The specification has frames for this; other commands of the request are answered.",
        _failed_command,
    ),
    Deviation(
        "works-over-frames",
        "a command with arguments ``*``, with continued arguments, or whose reply is a stream",
        "500",
        "works",
        "The reference does not implement it.",
        _works,
    ),
    Deviation(
        "typed-answers",
        "405 and other short answers",
        "no ``Content-Type``",
        "``text/plain``",
        "A body has a media type.",
        _typed,
    ),
)
"""For ``framing-0002/http.json``, in the order in which they are tried."""


OTHERS = (
    Deviation(
        "0.2rx",
        "``httpmediatype`` in the capabilities",
        "``0.1rx,0.1tx,0.2tx``",
        "``0.1rx,0.1tx,0.2rx,0.2tx``",
        "Compressed request bodies are decoded.",
        tests=("tests/test_deviations.py::test_received_media_types",),
    ),
    Deviation(
        "broken-settings",
        "``server.compressionengines`` or a level that Mercurial refuses",
        "500",
        "the rest of the settings counts, and the log names the one that is wrong",
        "A mistake in one setting does not stop the server.",
        tests=("tests/test_deviations.py::test_broken_settings",),
    ),
    Deviation(
        "locked-repository",
        "a push while the repository stays locked",
        "the connection breaks off",
        "503 with the reason",
        "The client can try again.",
        tests=("tests/test_deviations.py::test_a_locked_repository",),
    ),
    Deviation(
        "path-below-a-repository",
        "an unknown path below a repository, without ``cmd``",
        "400 and a page",
        "404; with ``cmd`` the reply is ``0`` and ``Not Found`` on both sides",
        "Pages are not part of the wire protocol.",
        tests=("tests/test_deviations.py::test_a_path_below_a_repository",),
    ),
    Deviation(
        "useless-challenge",
        "a refusal of a user who is known, or by a rule that refuses every user (``allow-pull = no``, an empty "
        "``allow-push``, ``deny_read = *``, ``deny_push = *``)",
        "401",
        "403 with the text of the rule",
        "A client that gets 401 asks for a password, which would not help.",
        tests=("tests/access/test_hgweb.py::test_pull", "tests/access/test_hgweb.py::test_push_and_upload"),
    ),
    Deviation(
        "client-address",
        "``HG_URL`` of hooks where the server sets no ``REMOTE_HOST``",
        "``remote:http::``, without the client",
        "the client's address",
        "Servers other than ``hg serve`` set only ``REMOTE_ADDR``.",
        tests=("tests/live/test_live_access.py::test_a_user_name_reaches_the_hooks",),
    ),
    Deviation(
        "users-are-text",
        "a user beyond ASCII: from a host that passes text, or in a setting that is not UTF-8",
        "compared as bytes; hooks get Latin-1, or the request fails with 500",
        "compared as text; hooks get UTF-8",
        "Hosts pass both forms, and a rule that names a user must mean him in either.",
        tests=(
            "tests/repositories/test_mercurial_users.py::test_rules_name_users_in_either_form",
            "tests/repositories/test_mercurial_users.py::test_rules_in_latin_1",
            "tests/repositories/test_mercurial_users.py::test_hooks_get_bytes_in_utf_8",
        ),
    ),
    Deviation(
        "no-credentials-for-hooks",
        "``HTTP_AUTHORIZATION``, ``HTTP_PROXY_AUTHORIZATION`` and ``HTTP_COOKIE`` in ``ui.environ`` of hooks",
        "there",
        "left out",
        "A hook that prints its environment would show them to the client and in logs.",
        tests=("tests/repositories/test_mercurial_users.py::test_hooks_get_no_credentials",),
    ),
    Deviation(
        "inline-bundle-path",
        "an inline clone bundle in a folder beside the permitted one whose name begins the same",
        "sent",
        "refused",
        "Paths are compared part by part.",
        tests=("tests/live/test_live_bundles.py::test_an_inline_clone_bundle_outside_its_folder_is_not_sent",),
    ),
    Deviation(
        "human-numbers",
        "numbers such as ``+1`` or ``1_0`` in the human notation of frames",
        "read as Python reads integers",
        "refused",
        "Every reader of the notation must find the same number.",
        tests=("tests/framing/test_recorded.py::TestFrames::test_lenient_numbers_are_refused",),
    ),
    Deviation(
        "large-frames",
        "a frame with a payload over 65,535 bytes",
        "received with a wrong length from 65,536 on, and sent",
        "refused in both directions unless ``Limits`` allows more; a long argument is split",
        "The specification requires permission for them.",
        tests=("tests/framing/test_recorded.py::TestFrames::test_make",),
    ),
    Deviation(
        "long-error-messages",
        "an error message that does not fit into a frame",
        "an assertion fails",
        "cut to fit, at a UTF-8 boundary",
        "The start of the message is what matters.",
        tests=("tests/framing/test_recorded.py::TestResponses::test_error",),
    ),
    Deviation(
        "unexpected-responses",
        "a response for a request that is not waiting, or on a stream of the client",
        "frames, then an exception",
        "``LocalProtocolError`` at once",
        "The caller is at fault, and sees where.",
        tests=("tests/framing/test_recorded.py::TestReactor::test_scenario",),
    ),
)
"""What no rule over vectors can decide, or what is compared in another way."""

DEVIATIONS: Mapping[str, tuple[Deviation, ...]] = {
    "Version 1": V1_RULES,
    "Frames": FRAME_RULES,
    "Frames over HTTP": FRAMED_RULES,
    "Servers and files": OTHERS,
}
"""The table, by the headings of the page."""


def render() -> str:
    """The tables as ``docs/deviations.rst`` has them."""
    lines: list[str] = []
    for heading, deviations in DEVIATIONS.items():
        lines += [
            heading,
            "-" * len(heading),
            "",
            ".. list-table::",
            "   :header-rows: 1",
            "   :widths: 24 22 27 27",
            "",
        ]
        rows = [("What", "hgweb or the recorded server", "hgwire-wsgi", "Why")]
        rows += [(f"{each.asked} ({each.name})", each.reference, each.ours, each.reason) for each in deviations]
        for row in rows:
            lines += [f"   {'*' if cell is row[0] else ' '} - {cell}".rstrip() for cell in row]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Write the tables into the page."""
    page = Path(__file__).resolve().parents[1] / "docs" / "deviations.rst"
    start = page.read_text().partition("Version 1\n---------")[0]
    page.write_text(start + render())


if __name__ == "__main__":
    main()
