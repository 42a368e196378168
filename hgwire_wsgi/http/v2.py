"""The version 2 transport: commands and their responses as frames, any number of them in one request.

What may be wrong with a request is found out before anything runs: every frame of a ``multirequest`` is read first,
every command is looked up, and its permission is checked whatever the URL says.  What fails from then on is an error
frame, and the other commands of the request get their answers.  The one exception is a command with data at a URL of
its own: it reads while the client sends, and learns of a wrong request from what it reads.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, groupby
from typing import Any

import attrs
from webob.acceptparse import Accept

from ..commands.classify import WireRequest, describe
from ..errors import (
    BadEncoding,
    FrameTooLarge,
    HgWireError,
    LimitExceeded,
    MalformedFrame,
    PermissionDenied,
    RemoteProtocolError,
    TruncatedFrame,
)
from ..framing import EXP_0002, OutgoingStream, Profile, RunCommand
from ..framing.streams import DEFAULT_FRAME_SIZE
from ..negotiation import ClientProtocol, read_client_protocol
from ..repositories.base import Lease, Repository, RepositoryProvider
from ..streams import BoundedReader, Readable
from .answer import NOSNIFF, StartResponse, answer, send
from .api import ApiSettings, PlainAnswer, Target, route
from .body import RequestBody
from .exchange import CommandBody, FrameInput, Spool
from .framed import RENDERERS, Framed, join_frames, send_framed
from .parallel import Task, Workers
from .reflect import reflect
from .render import status_line
from .service import Call, Service, public, refuse_cross_site

__all__ = ["V2Transport"]

_TRANSPORT = "http-v2"
_REVISION = EXP_0002
_MULTIREQUEST = "multirequest"
_STREAM = 2
"""The stream of a response that has no others beside it.  Each response begins it again, as the reference does."""

Chunks = Generator[bytes, None, None]
"""Whole frames, ready to be sent."""

_NO_COMMAND = "the request holds no command\n"

_MALFORMED = (TruncatedFrame, FrameTooLarge, LimitExceeded, MalformedFrame, BadEncoding)
"""Faults that the reference either crashes at or does not know.  All others it answers with 200 and a text."""


@attrs.frozen
class _Job:
    """A command of a request: fit to run on the repository it was checked with, or why it cannot run."""

    request_id: int
    work: Call | HgWireError

    @property
    def independent(self) -> bool:
        """Whether it may run beside others, in any order."""
        return not isinstance(self.work, Call) or self.work.permission == "pull"

    @property
    def reads_body(self) -> bool:
        return isinstance(self.work, Call) and self.work.command.body

    def with_body(self, body: Readable) -> _Job:
        return _Job(self.request_id, self.work.with_body(body)) if isinstance(self.work, Call) else self


@attrs.frozen(kw_only=True)
class _Exchange:
    """One request and what it is served with."""

    service: Service
    provider: RepositoryProvider
    workers: Workers | None
    profile: Profile | None
    target: Target
    name: str
    lease: Lease
    environ: dict[str, Any]
    client: ClientProtocol
    frames: FrameInput
    spool: Spool
    lock: threading.Lock = attrs.Factory(threading.Lock)

    # Reading: everything that is wrong with a request is raised here.

    def single(self) -> tuple[Chunks, bool]:
        """Run the command that the URL names.

        Returns:
            The chunks of the response, and whether the connection can be used again.
        """
        run = self.frames.next()
        if not isinstance(run, RunCommand):
            raise PlainAnswer(400, _NO_COMMAND)
        if run.name.decode("latin-1") != self.target.command:
            raise PlainAnswer(200, "command in frame must match command in URL")
        job = self._plan(run)
        limits = self.service.limits
        if not (run.has_data and job.reads_body):
            whole = self.frames.finish(limits.drain)
            return self._one_by_one([job]), whole
        framed = _execute(job.with_body(BoundedReader(CommandBody(self.frames), limits.body_decoded)))
        try:
            whole = self.frames.finish(limits.drain)
        except BaseException:
            framed.close()
            raise
        return self._chunks(job, framed, _STREAM), whole

    def multiple(self) -> Chunks:
        """Run all commands of a ``multirequest``, in the order in which they were complete."""
        limits = self.service.limits
        complete: list[_Job] = []
        receiving: dict[int, _Job] = {}
        held = 0
        while (action := self.frames.next()) is not None:
            if isinstance(action, RunCommand):
                held += sum(len(name) + len(value) for name, value in action.arguments.items())
                if held > limits.argument_bytes:
                    raise LimitExceeded(f"command arguments of one request exceed {limits.argument_bytes} bytes")
                job = self._plan(action)
                if not action.has_data:
                    complete.append(job)
                    continue
                receiving[job.request_id] = job.with_body(self.spool.open(job.request_id)) if job.reads_body else job
            else:
                self.spool.write(action.request_id, action.data)
                if action.final:
                    complete.append(receiving.pop(action.request_id))
        if not complete:
            raise PlainAnswer(400, _NO_COMMAND)
        self.spool.rewind()
        if self.workers is not None and any(len(group) > 1 for _, group in _groups(complete)):
            return self._side_by_side(complete, self.workers)
        return self._one_by_one(complete)

    def _plan(self, run: RunCommand) -> _Job:
        """Find a command and see to it that it may run."""
        name = run.name.decode("latin-1")
        if _missing(self.service, self.lease.repository, name):
            raise PlainAnswer(200, f"wire protocol command not available: {name}")
        arguments = {key.decode("latin-1"): value for key, value in run.arguments.items()}
        try:
            request = describe(name, arguments, self.service.commands, self.service.limits)
            call = self._prepare(request, self.lease.repository, io.BytesIO())
        except HgWireError as error:
            return _Job(run.request_id, error)
        if call.permission == "push" and self.target.access != "push":
            raise PlainAnswer(403, f"insufficient permissions to execute command: {name}")
        # The URL's own question was asked already.
        if (call.permission, request.names) != (self.target.access, (self.target.command,)):
            call.context.authorize(call.permission)
        return _Job(run.request_id, call)

    def _prepare(self, request: WireRequest, repository: Repository, body: Readable) -> Call:
        return self.service.prepare(
            request, self.name, repository, self.environ, body=body, client=self.client, transport=_TRANSPORT
        )

    # Answering: what fails here is an error frame.

    def _one_by_one(self, jobs: Iterable[_Job]) -> Chunks:
        for job in jobs:
            yield from self._chunks(job, _execute(job), _STREAM)

    def _side_by_side(self, jobs: list[_Job], workers: Workers) -> Chunks:
        """Run what is independent side by side, and everything else alone and in its place.

        The repository of the checks is given back first: a request that keeps one while it waits for another could
        wait for ever.
        """
        self.lease.release()
        limits = self.service.limits
        streams = limits.open_streams if self.profile is None else limits.encoded_streams
        lanes = range(2, 2 * min(streams, 127) + 1, 2)
        for independent, group in _groups(jobs):
            tasks: list[Task] = [partial(self._leased, job) for job in group]
            if independent and len(tasks) > 1:
                yield from workers.interleave(tasks, lanes, limits.response_backlog)
            else:
                for task in tasks:
                    yield from task(_STREAM)

    def _leased(self, job: _Job, stream_id: int) -> Chunks:
        """Run a command on a repository of its own, in a stream of its own."""
        with ExitStack() as stack:
            try:
                if isinstance(checked := job.work, Call):
                    repository = stack.enter_context(self.provider.lease(self.name))
                    call = self._prepare(checked.request, repository, checked.context.body)
                    if call.permission != checked.permission:
                        raise PermissionDenied("the permission that the command needs has changed")
                    job = _Job(job.request_id, call)
                framed = _execute(job)
            except Exception as error:
                framed = Framed.failure(error)
            yield from self._chunks(job, framed, stream_id, end_stream=True)

    def _chunks(self, job: _Job, framed: Framed, stream_id: int, *, end_stream: bool = False) -> Chunks:
        limits = self.service.limits
        # Neither errors nor text are ever encoded.
        profile = self.profile if framed.encode and framed.error is None else None
        stream = OutgoingStream(stream_id, profile, frame_size=min(DEFAULT_FRAME_SIZE, limits.frame_payload))
        with ExitStack() as stack:
            stack.callback(framed.close)
            # Only the frames may be made by several threads at a time.
            with self.lock:
                actions = send_framed(self.frames.reactor, stream, job.request_id, framed, end_stream=end_stream)
            for action in actions:
                stack.callback(action.close)
            yield from join_frames(chain.from_iterable(action.frames for action in actions), limits)


def _execute(job: _Job) -> Framed:
    """Run a command; whatever it raises becomes its answer."""
    if not isinstance(job.work, Call):
        return Framed.failure(job.work)
    try:
        response = job.work.run()
        return RENDERERS[type(response)](response)
    except Exception as error:
        return Framed.failure(error)


def _groups(jobs: Iterable[_Job]) -> Iterator[tuple[bool, list[_Job]]]:
    """Neighbours that may run in any order, and the others."""
    for independent, group in groupby(jobs, key=lambda job: job.independent):
        yield independent, list(group)


def _missing(service: Service, repository: Repository, name: str) -> str:
    """What is wrong with the name of a command; nothing if there is such a one here."""
    command = service.commands.resolve(name, repository.commands())
    if command is None:
        return "unknown"
    return "" if _TRANSPORT in command.transports else "invalid"


@attrs.frozen
class V2Transport:
    """Runs commands for HTTP version 2.

    Attributes:
        service: what it shares with the other transports.
        provider: leases repositories.
        api: what is switched on.
        workers: threads for what may run side by side.
    """

    service: Service
    provider: RepositoryProvider
    api: ApiSettings
    workers: Workers | None = attrs.field(init=False)

    @workers.default
    def _(self) -> Workers | None:
        return Workers(self.api.workers) if self.api.workers else None

    def respond(self, name: str, rest: str, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request for the API server; what it leases is released when the response is closed.

        Args:
            name: of the repository.
            rest: the path below it, which begins with ``api``.
            environ: the WSGI environ.
            start_response: as in WSGI.
        """
        limits = self.service.limits
        body: RequestBody | None = None
        stack = ExitStack()
        try:
            body = RequestBody(environ, limits)
            target = route(rest, environ, self.api)
            lease = self.provider.lease(name)
            stack.callback(lease.release)
            self.service.authorizer(name, lease.repository, environ, (target.command,))(target.access)
            if target.command == "debugreflect":
                raise self._reflect(body)
            self._check(target, lease.repository, environ)
            spool = Spool(limits)
            stack.callback(spool.close)
            client = read_client_protocol(environ)
            exchange = _Exchange(
                service=self.service,
                provider=self.provider,
                workers=self.workers,
                profile=self._choose_profile(client),
                target=target,
                name=name,
                lease=lease,
                environ=environ,
                client=client,
                frames=FrameInput(body, _REVISION, limits),
                spool=spool,
            )
            chunks, whole = (exchange.multiple(), True) if target.command == _MULTIREQUEST else exchange.single()
            stack.callback(chunks.close)
            first = next(chunks, b"")
        except Exception as error:
            stack.close()
            return self._refuse(error, environ, start_response, body)
        except BaseException:
            stack.close()
            raise
        headers = [("Content-Type", _REVISION.media_type), NOSNIFF]
        return send("200 OK", headers, chain([first], chunks), [stack.close], environ, start_response, cut=not whole)

    def _check(self, target: Target, repository: Repository, environ: dict[str, Any]) -> None:
        """What the reference checks before it reads the body, in its order."""
        media_type = _REVISION.media_type
        if target.command != _MULTIREQUEST and (fault := _missing(self.service, repository, target.command)):
            end = "\n" if fault == "unknown" else ""
            raise PlainAnswer(404, f"{fault} wire protocol command: {target.command}{end}")
        if not _accepts(environ.get("HTTP_ACCEPT") or "", media_type):
            raise PlainAnswer(406, f"client MUST specify Accept header with value: {media_type}\n")
        if (environ.get("CONTENT_TYPE") or "").partition(";")[0].strip().lower() != media_type:
            raise PlainAnswer(415, f"client MUST send Content-Type header with value: {media_type}\n")
        if target.access == "push":
            refuse_cross_site(environ)

    def _reflect(self, body: RequestBody) -> PlainAnswer:
        if not self.api.debugreflect:
            return PlainAnswer(404, "debugreflect service not available")
        return PlainAnswer(200, reflect(body, _REVISION, self.service.limits).decode("latin-1"))

    def _choose_profile(self, client: ClientProtocol) -> Profile | None:
        """The best encoding that the client asks for; one that says nothing gets none."""
        if not any(token.startswith("comp=") for token in client.tokens):
            return None
        return next((profile for profile in self.api.encodings if profile.name in client.engines), None)

    def _refuse(
        self, error: Exception, environ: dict[str, Any], start_response: StartResponse, body: RequestBody | None
    ) -> Iterable[bytes]:
        """Answer with a status and a text."""
        known = public(error)
        status, text = status_line(known.http_status), f"{known.message}\n".encode("utf-8", "replace")
        if isinstance(known, PlainAnswer):
            text = known.message.encode("latin-1", "replace")
        elif isinstance(known, PermissionDenied):
            status, text = status_line(known.http_status, known.message), b"permission denied"
        elif isinstance(known, RemoteProtocolError) and not isinstance(known, _MALFORMED):
            status = status_line(200)
        headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(text))), *known.headers]
        headers += [*self.service.challenges(known), NOSNIFF]
        return answer(status, headers, text, environ, start_response, self.service.limits, body)


def _accepts(header: str, media_type: str) -> bool:
    """Whether a media type is itself named in an ``Accept`` header, with a weight other than 0."""
    try:
        ranges = list(Accept.parse(header))
    except ValueError:
        return False
    return any(weight and name.partition(";")[0].strip().lower() == media_type for name, weight, _, _ in ranges)
