"""The commands of one request in frames, and their responses.

What may be wrong with a request is found out before anything runs: every frame of a ``multirequest`` is read first,
every command is resolved, and its permission is checked whatever the URL says.  What fails from then on is an error
frame, and the other commands of the request get their answers.  The one exception is a command with data at a URL of
its own: it reads while the client sends, and learns of a wrong request from what it reads.

Streams.  A response without an encoding begins stream 2 again and does not end it, as the recorded exchanges have it.
A stream whose encoding this server chose, and each stream of commands that run side by side, ends with its last frame.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, groupby

import attrs

from ...commands.classify import describe
from ...dispatch import BoundCommand, Dispatcher
from ...errors import HgWireError, LimitExceeded, PermissionDenied
from ...events import CommandReport
from ...framing import OutgoingStream, Profile, RunCommand
from ...framing.streams import DEFAULT_FRAME_SIZE
from ...negotiation import ClientProtocol
from ...repositories.base import Lease, RepositoryProvider
from ...streams import BoundedReader, Readable
from ..message import Observed, Request
from .api import PlainRefusal, Target
from .input import CommandBody, FrameInput, Spool
from .renderers import RENDERERS, Framed, join_frames, send_framed
from .workers import Task, Workers

__all__ = ["MultiRequest"]

_STREAM = 2
"""The stream of a response that has no others beside it."""

_NO_COMMAND = "the request holds no command\n"

Chunks = Generator[bytes, None, None]
"""Whole frames, ready to be sent."""


@attrs.frozen
class _Job:
    """A command of a request: ready to run, or the reason why it cannot run."""

    request_id: int
    name: str
    work: BoundCommand | HgWireError

    @property
    def independent(self) -> bool:
        """Whether it may run beside others, in any order."""
        return not isinstance(self.work, BoundCommand) or self.work.permission == "pull"

    @property
    def reads_body(self) -> bool:
        return isinstance(self.work, BoundCommand) and self.work.command.body

    def reading(self, body: Readable) -> _Job:
        return attrs.evolve(self, work=self.work.reading(body)) if isinstance(self.work, BoundCommand) else self


@attrs.frozen(kw_only=True)
class MultiRequest:
    """One request in frames, and what it is served with.

    Attributes:
        dispatcher: prepares commands.
        provider: leases repositories for commands that run side by side.
        workers: threads for them; ``None`` to run one command after the other.
        profile: the encoding of response streams.
        target: what the URL selects.
        request: the HTTP request.
        name: of the repository.
        lease: of the repository; whoever made this object releases it.
        client: what the client understands.
        frames: the frames of the request.
        spool: keeps the data of commands.
    """

    dispatcher: Dispatcher
    provider: RepositoryProvider
    workers: Workers | None
    profile: Profile | None
    target: Target
    request: Request
    name: str
    lease: Lease
    client: ClientProtocol
    frames: FrameInput
    spool: Spool
    lock: threading.Lock = attrs.Factory(threading.Lock)

    # Reading: everything that is wrong with a request is raised here.

    def single(self) -> Chunks:
        """Run the command that the URL names."""
        run = self.frames.next()
        if not isinstance(run, RunCommand):
            raise PlainRefusal(400, _NO_COMMAND)
        if run.name.decode("latin-1") != self.target.command:
            raise PlainRefusal(200, "command in frame must match command in URL")
        job = self._plan(run)
        limits = self.dispatcher.limits
        if not (run.has_data and job.reads_body):
            self.frames.finish(limits.drain)
            return self._one_by_one([job])
        framed = _execute(job.reading(BoundedReader(CommandBody(self.frames), limits.body_decoded)))
        try:
            self.frames.finish(limits.drain)
        except BaseException:
            framed.close()
            raise
        return self._chunks(job, framed, _STREAM)

    def multiple(self) -> Chunks:
        """Run all commands of a ``multirequest``, in the order in which they were complete."""
        limits = self.dispatcher.limits
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
                receiving[job.request_id] = job.reading(self.spool.open(job.request_id)) if job.reads_body else job
            else:
                self.spool.write(action.request_id, action.data)
                if action.final:
                    complete.append(receiving.pop(action.request_id))
        if not complete:
            raise PlainRefusal(400, _NO_COMMAND)
        self.spool.rewind()
        if self.workers is not None and any(len(group) > 1 for _, group in _groups(complete)):
            return self._side_by_side(complete, self.workers)
        return self._one_by_one(complete)

    def _plan(self, run: RunCommand) -> _Job:
        """Find a command and make sure that it may run."""
        dispatcher, version, repository = self.dispatcher, self.target.api.version, self.lease.repository
        name = run.name.decode("latin-1")
        if dispatcher.find(name, repository, version) is None:
            raise PlainRefusal(200, f"wire protocol command not available: {name}")
        arguments = {key.decode("latin-1"): value for key, value in run.arguments.items()}
        try:
            wire = describe(name, arguments, dispatcher.commands, dispatcher.limits, version=version)
            resolved = dispatcher.resolve(wire, repository, version)
        except HgWireError as error:
            return _Job(run.request_id, name, error)
        self.request.commands += wire.names
        if resolved.permission == "push" and self.target.access != "push":
            raise PlainRefusal(403, f"insufficient permissions to execute command: {name}")
        # The URL's own question was asked already.
        asked = (resolved.permission, wire.names) == (self.target.access, (self.target.command,))
        try:
            bound = dispatcher.bind(
                resolved,
                self.request,
                self.name,
                repository,
                server=repository.adjust_capabilities(dispatcher.server),
                client=self.client,
                body=io.BytesIO(),
                version=version,
                codec=self.target.api.codec,
                authorized=asked,
            )
        except PermissionDenied:
            raise
        except HgWireError as error:
            return _Job(run.request_id, name, error)
        return _Job(run.request_id, name, bound)

    # Answering: what fails here is an error frame.

    def _one_by_one(self, jobs: Iterable[_Job]) -> Chunks:
        for job in jobs:
            yield from self._chunks(job, _execute(job), _STREAM)

    def _side_by_side(self, jobs: list[_Job], workers: Workers) -> Chunks:
        """Run what is independent side by side, and everything else alone and in its place.

        The repository of the checks is released first: requests that keep one while they wait for another could wait
        for ever.
        """
        self.lease.release()
        limits = self.dispatcher.limits
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
        """Run a command on a lease of its own, in a stream of its own."""
        with ExitStack() as stack:
            try:
                if isinstance(job.work, BoundCommand):
                    repository = stack.enter_context(self.provider.lease(self.name))
                    job = attrs.evolve(job, work=job.work.on(repository))
                framed = _execute(job)
            except Exception as error:
                framed = Framed.failure(error)
            yield from self._chunks(job, framed, stream_id, end_stream=True)

    def _chunks(self, job: _Job, framed: Framed, stream_id: int, *, end_stream: bool = False) -> Chunks:
        limits = self.dispatcher.limits
        # Neither errors nor text are ever encoded.
        profile = self.profile if framed.encode and framed.error is None else None
        stream = OutgoingStream(stream_id, profile, frame_size=min(DEFAULT_FRAME_SIZE, limits.frame_payload))
        ends = end_stream or profile is not None
        with ExitStack() as stack:
            stack.callback(framed.close)
            # Only the frames may be made by several threads at a time.
            with self.lock:
                actions = send_framed(self.frames.reactor, stream, job.request_id, framed, end_stream=ends)
            for action in actions:
                stack.callback(action.close)
            chunks = join_frames(chain.from_iterable(action.frames for action in actions), limits)
            observed = self.request.observed
            yield from chunks if observed is None else _observed(observed, job, framed, chunks)


def _observed(observed: Observed, job: _Job, framed: Framed, chunks: Iterator[bytes]) -> Chunks:
    """The same chunks, with a report for the observers at their end."""
    wall, cpu, sent, complete = time.perf_counter(), time.thread_time(), 0, False
    try:
        for chunk in chunks:
            sent += len(chunk)
            yield chunk
        complete = True
    finally:
        error = framed.error or b""
        observed.reports.append(
            CommandReport(
                request_id=job.request_id,
                command=job.name,
                outcome="cut" if not complete else "refused" if framed.error is not None else "ok",
                error=error if isinstance(error, str) else error.decode("utf-8", "replace"),
                bytes_out=sent,
                wall=time.perf_counter() - wall,
                cpu=time.thread_time() - cpu,
            )
        )


def _execute(job: _Job) -> Framed:
    """Run a command; what it raises becomes its answer."""
    if not isinstance(job.work, BoundCommand):
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
