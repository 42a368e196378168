"""The commands of one request in frames, and their responses.

Idea: all errors in a request are found before any command runs.  First every frame of a ``multirequest`` is read, every
command is resolved, and the policy is asked about each, in addition to the URL.  Later failures become error frames,
and the other commands of the request are answered.  The one exception is a command with data at its own URL: it reads
while the client sends, and gets errors in the request from its reads.

Streams:

- Without an encoding, each response begins stream 2 again and does not end it, as in the recorded exchanges.
- With an encoding, all responses share stream 2 and its one encoder; the last frame of the last response ends it.
- Commands that run in parallel have a stream for each response, which ends with the response.

Threads: the thread that serves the request reads everything.  Then either it runs one command after the other, or
workers run them, each on its own lease.  Only :func:`~.renderers.send_framed` touches the reactor in several
threads, so it is called under a lock; the frames themselves are made without it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, groupby

import attrs

from ...commands.classify import describe
from ...dispatch import BoundCommand, Dispatcher
from ...errors import (
    HgWireError,
    LimitExceeded,
    PermissionDenied,
    RepositoryNotFound,
    Unavailable,
    UnknownCommand,
)
from ...framing import OutgoingStream, Profile, RunCommand
from ...framing.streams import DEFAULT_FRAME_SIZE
from ...negotiation import ClientProtocol, ServerCapabilities
from ...repositories.base import Lease, RepositoryProvider
from ...streams import BoundedReader, Readable
from ..message import Request
from .api import PlainRefusal, Target
from .input import CommandBody, FrameInput, Spool
from .renderers import RENDERERS, Framed, join_frames, send_framed
from .reports import Stopwatch
from .workers import Task, Workers

__all__ = ["MultiRequest"]

_STREAM = 2
"""The stream of responses that are not sent in parallel with others."""

_NO_COMMAND = "the request holds no command\n"

Chunks = Generator[bytes, None, None]
"""Whole frames, ready to be sent."""


@attrs.frozen
class _Job:
    """A command of a request: ready to run, or with the reason why it cannot run."""

    request_id: int
    names: tuple[str, ...]
    work: BoundCommand | HgWireError

    @property
    def independent(self) -> bool:
        """Whether it may run in parallel with others, in any order."""
        return not isinstance(self.work, BoundCommand) or self.work.permission == "pull"

    @property
    def reads_body(self) -> bool:
        return isinstance(self.work, BoundCommand) and self.work.command.body

    def reading(self, body: Readable) -> _Job:
        return attrs.evolve(self, work=self.work.reading(body)) if isinstance(self.work, BoundCommand) else self

    def run(self) -> Framed:
        """Run the command; an exception becomes its answer."""
        if not isinstance(self.work, BoundCommand):
            return Framed.failure(self.work)
        try:
            response = self.work.run()
            return RENDERERS[type(response)](response)
        except Exception as error:
            return Framed.failure(error)


@attrs.frozen(kw_only=True)
class MultiRequest:
    """One request in frames, with everything needed to serve it.

    Attributes:
        dispatcher: prepares commands.
        provider: leases repositories for commands that run in parallel.
        workers: threads for them; ``None`` to run one command after the other.
        profile: the encoding of response streams; ``None`` for none.
        target: the target of the URL.
        request: the HTTP request.
        name: the repository's name.
        lease: of the repository; the maker of this object releases it.
        client: the client's capabilities.
        frames: the frames of the request.
        spool: stores the data of commands.
        server: what is negotiated for this repository.
        lock: held while the reactor is called.
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
    server: ServerCapabilities = attrs.field(init=False)
    lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    @server.default
    def _(self) -> ServerCapabilities:
        return self.lease.repository.adjust_capabilities(self.dispatcher.server)

    # Reading: all errors in a request are raised here.

    def single(self) -> Chunks:
        """Run the command that the URL names.

        Raises:
            HgWireError: for anything that is wrong with the request.
        """
        run = self.frames.next()
        if not isinstance(run, RunCommand):
            raise PlainRefusal(400, _NO_COMMAND)
        if run.name.decode("latin-1") != self.target.command:
            raise PlainRefusal(200, "command in frame must match command in URL")
        job = self._plan(run)
        self.request.commands = job.names
        limits = self.dispatcher.limits
        if not (run.has_data and job.reads_body):
            self.frames.finish(limits.drain or limits.body)
            return self._one_by_one([job])
        stopwatch = Stopwatch()
        framed = job.reading(BoundedReader(CommandBody(self.frames), limits.body_decoded)).run()
        try:
            self.frames.finish(limits.drain or limits.body)
        except BaseException:
            framed.close()
            raise
        return self._chunks(job, framed, stopwatch, self._stream(_STREAM), end_stream=self.profile is not None)

    def multiple(self) -> Chunks:
        """Run all commands of a ``multirequest``, in the order in which they were complete.

        Raises:
            HgWireError: for anything that is wrong with the request.
        """
        planned: list[_Job] = []
        try:
            complete = self._read(planned)
        finally:
            names = tuple(chain.from_iterable(job.names for job in planned))
            self.request.commands = names or self.request.commands
        if self.workers is not None and any(len(group) > 1 for _, group in _groups(complete)):
            return self._side_by_side(complete, self.workers)
        return self._one_by_one(complete)

    def _read(self, planned: list[_Job]) -> list[_Job]:
        """Read all frames; returns the commands in the order in which they were complete.

        Args:
            planned: gets each command as it begins.
        """
        limits, spool = self.dispatcher.limits, self.spool
        complete: list[_Job] = []
        receiving: dict[int, _Job] = {}
        held = 0
        while (action := self.frames.next()) is not None:
            if not isinstance(action, RunCommand):
                spool.write(action.request_id, action.data)
                if action.final:
                    complete.append(receiving.pop(action.request_id))
                continue
            held += self.frames.reactor.size_of(action)
            if held > limits.argument_bytes:
                raise LimitExceeded(f"command arguments of one request exceed {limits.argument_bytes} bytes")
            job = self._plan(action)
            planned.append(job)
            if not action.has_data:
                complete.append(job)
            else:
                receiving[job.request_id] = job.reading(spool.open(job.request_id)) if job.reads_body else job
        if not complete:
            raise PlainRefusal(400, _NO_COMMAND)
        spool.rewind()
        return complete

    def _plan(self, run: RunCommand) -> _Job:
        """Find a command and make sure that it may run.

        Raises:
            HgWireError: if the whole request is refused because of it.
        """
        dispatcher, version, repository = self.dispatcher, self.target.api.version, self.lease.repository
        name = run.name.decode("latin-1")
        arguments = {key.decode("latin-1"): value for key, value in run.arguments.items()}
        names: tuple[str, ...] = (name,)
        try:
            wire = describe(name, arguments, dispatcher.commands, dispatcher.limits, version=version)
            names = wire.names
            try:
                resolved = dispatcher.resolve(wire, repository, version, self.target.api.codec)
            except UnknownCommand:
                if dispatcher.find(name, repository, version) is None:
                    raise PlainRefusal(200, f"wire protocol command not available: {name}") from None
                raise
            if resolved.permission == "push" and self.target.access != "push":
                raise PlainRefusal(403, f"insufficient permissions to execute command: {name}")
            bound = dispatcher.bind(
                resolved,
                self.request,
                self.name,
                repository,
                server=self.server,
                client=self.client,
                body=io.BytesIO(),
                version=version,
            )
        except (PermissionDenied, PlainRefusal, RepositoryNotFound, Unavailable):
            raise
        except HgWireError as error:
            return _Job(run.request_id, names, error)
        if self.request.observed is not None and bound.is_clone:
            self.request.observed.clone = True
        return _Job(run.request_id, names, bound)

    # Answering: failures become error frames.

    def _one_by_one(self, jobs: Sequence[_Job]) -> Chunks:
        shared = None if self.profile is None else self._stream(_STREAM)
        for number, job in enumerate(jobs, start=1):
            stopwatch = Stopwatch()
            stream = shared or self._stream(_STREAM)
            last = shared is not None and number == len(jobs)
            yield from self._chunks(job, job.run(), stopwatch, stream, end_stream=last)

    def _side_by_side(self, jobs: Sequence[_Job], workers: Workers) -> Chunks:
        """Run independent commands in parallel, and all others alone and in order.

        The repository used for the checks is released first: requests that hold one while they wait for another could
        deadlock.
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
        """Run a command on its own lease, in its own stream."""
        stopwatch = Stopwatch()
        with ExitStack() as stack:
            try:
                if isinstance(job.work, BoundCommand):
                    repository = stack.enter_context(self.provider.lease(self.name))
                    job = attrs.evolve(job, work=job.work.on(repository))
                framed = job.run()
            except Exception as error:
                framed = Framed.failure(error)
            yield from self._chunks(job, framed, stopwatch, self._stream(stream_id), end_stream=True)

    def _stream(self, stream_id: int) -> OutgoingStream:
        size = min(DEFAULT_FRAME_SIZE, self.dispatcher.limits.frame_payload)
        return OutgoingStream(stream_id, self.profile, frame_size=size)

    def _chunks(
        self, job: _Job, framed: Framed, stopwatch: Stopwatch, stream: OutgoingStream, *, end_stream: bool
    ) -> Chunks:
        """Yield the frames of a response; at the end, or when closed, close its source and report to the observers."""
        reactor, observed = self.frames.reactor, self.request.observed
        sent, complete = 0, False
        with ExitStack() as stack:
            stack.callback(framed.close)
            try:
                with self.lock:
                    actions = send_framed(reactor, stream, job.request_id, framed, end_stream=end_stream)
                for action in actions:
                    stack.callback(action.close)
                frames = chain.from_iterable(action.frames for action in actions)
                for chunk in join_frames(frames, self.dispatcher.limits):
                    sent += len(chunk)
                    yield chunk
                complete = True
            finally:
                if observed is not None:
                    report = stopwatch.report(job.request_id, job.names[0], framed, sent, complete=complete)
                    observed.reports.append(report)


def _groups(jobs: Iterable[_Job]) -> list[tuple[bool, list[_Job]]]:
    """Group consecutive commands that may run in any order; each other command is alone."""
    return [(independent, list(group)) for independent, group in groupby(jobs, key=lambda job: job.independent)]
