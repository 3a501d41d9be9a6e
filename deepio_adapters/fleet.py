"""Many streams in one application: added and removed while it runs, isolated from each other's faults.

    async with Fleet() as fleet:
        await fleet.add("door", server_address=server, source="rtsp://camera1/", auto_connect=True)
        await fleet.add("gate", server_address=server, source="rtsp://camera2/", auto_connect=True)
        async for name, message in fleet.messages():
            ...

With `Fleet(processes=4)` the streams are spread over four worker processes, for more of them than one Python process
can carry.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from weakref import WeakSet

import anyio
import anyio.lowlevel

from deepio_adapters.fleet_host import LocalHost, StreamIO
from deepio_adapters.fleet_queue import FairStream
from deepio_adapters.fleet_records import (
    FleetError,
    FleetEvent,
    FleetStats,
    ProcessStats,
    Restart,
    StreamEnded,
    StreamLost,
    StreamPhase,
    StreamRestarting,
    StreamRetrying,
    StreamStarted,
    StreamStateChanged,
    StreamStatus,
)
from deepio_adapters.groups import unwrapped
from deepio_adapters.streams import MessageStream
from deepio_core.errors import LocalProtocolError
from deepio_core.messages import Message
from deepio_core.states import PeerState

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import TaskGroup

    from deepio_adapters.fleet_host import Host, MakeStreamIO
    from deepio_adapters.fleet_workers import WorkerHost
    from deepio_adapters.pairing import Result
    from deepio_core.jsontext import JSON

__all__ = [
    "Fleet",
    "FleetDataHandler",
    "FleetError",
    "FleetEvent",
    "FleetEventHandler",
    "FleetStats",
    "ProcessStats",
    "Restart",
    "StreamEnded",
    "StreamLost",
    "StreamPhase",
    "StreamRestarting",
    "StreamRetrying",
    "StreamStarted",
    "StreamStateChanged",
    "StreamStatus",
]

logger = logging.getLogger(__name__)

FleetDataHandler: TypeAlias = Callable[[str, Any], "Awaitable[object] | object"]
"""A function or coroutine function that takes a stream's name and a message, as the JSON value that came."""

FleetEventHandler: TypeAlias = Callable[[FleetEvent], object]
"""A function that takes what happens to a stream; it must not block."""


class Fleet:
    """Streams that live in one `async with`, on asyncio or trio; used once.

    Each is a `DeepIO` of its own, with its own source, connection and handlers. Leaving the block says goodbye for all
    of them, side by side and in bounded time.

    Args:
        processes: How many worker processes the streams are spread over; 0 to run them in this one; "auto": as many as
            there are CPUs.
        restart: Whether streams that have ended are started again: "never", "on_failure" if the session has failed, or
            "always", if the source has ended too. Each `add` may say otherwise. What a lost worker process has taken
            with it is started again in any case.
        restart_delay: Seconds before the first restart of a stream or worker process. Each failure doubles it, up to
            30 s; a minute without one begins anew.
        make: Makes the DeepIO of a stream in this process; for tests.

    Raises:
        LocalProtocolError: An argument cannot be used.
    """

    def __init__(
        self,
        processes: int | Literal["auto"] = 0,
        *,
        restart: Restart = "never",
        restart_delay: float = 1.0,
        make: MakeStreamIO = StreamIO,
    ) -> None:
        count = (os.cpu_count() or 1) if processes == "auto" else processes
        if not 0 <= count <= 256:
            raise LocalProtocolError(
                f"A fleet of {processes!r} processes is not possible.", remedy='Give 0 to 256, or "auto".'
            )
        if restart_delay <= 0:
            raise LocalProtocolError("restart_delay must be above 0.", remedy="Give seconds.")
        self.processes = count
        """Number of worker processes; 0: the streams run in this one."""
        _check(restart)
        self._restart: Restart = restart
        self._delay = restart_delay
        self._make = make
        self._context: AbstractAsyncContextManager[None] | None = None
        self._tasks: TaskGroup | None = None
        self._local: LocalHost | None = None
        self._workers: list[WorkerHost] = []
        self._members: dict[str, _Member] = {}
        self._data_handlers: list[FleetDataHandler] = []
        self._event_handlers: list[FleetEventHandler] = []
        self._messages: WeakSet[FairStream[Message]] = WeakSet()
        self._events: WeakSet[FairStream[FleetEvent]] = WeakSet()
        self._results: WeakSet[FairStream[Result]] = WeakSet()

    # --- The life ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start the worker processes, if there are to be any.

        Raises:
            FleetError: One cannot be started.
        """
        if self._context is not None:
            raise LocalProtocolError("A fleet is used once.", remedy="Make a new one.")
        self._context = self._live()
        await self._context.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._context is not None, "entered before"
        return await self._context.__aexit__(kind, error, traceback)

    @asynccontextmanager
    async def _live(self) -> AsyncGenerator[None]:
        try:
            with unwrapped() as known:
                async with anyio.create_task_group() as tasks:
                    await self._begin(tasks)
                    self._tasks = tasks
                    try:
                        yield
                    except BaseException as error:
                        known.own = error
                        raise
                    finally:
                        self._tasks = None
                        # Each says its own goodbyes, shielded and bounded: so they close side by side.
                        tasks.cancel_scope.cancel()
        finally:
            for messages in list(self._messages):
                messages.close()
            for events in list(self._events):
                events.close()
            for results in list(self._results):
                results.close()

    async def _begin(self, tasks: TaskGroup) -> None:
        if not self.processes:
            self._local = LocalHost(
                tasks,
                tell=self._tell,
                on_message=self._on_message,
                on_result=self._on_result,
                delay=self._delay,
                make=self._make,
            )
            return
        from deepio_adapters.fleet_workers import WorkerHost

        level = logging.getLogger("deepio_adapters").getEffectiveLevel()
        self._workers = [
            WorkerHost(
                number,
                tell=self._tell,
                on_message=self._on_message,
                on_result=self._on_result,
                delay=self._delay,
                log_level=level,
            )
            for number in range(self.processes)
        ]
        errors: list[FleetError] = []

        async def start(worker: WorkerHost) -> None:
            try:
                await tasks.start(worker.run)
            except FleetError as error:
                errors.append(error)

        async with anyio.create_task_group() as starting:
            for worker in self._workers:
                starting.start_soon(start, worker)
        if errors:
            raise errors[0]

    # --- What the application asks -----------------------------------------------------------------------------

    async def add(
        self, name: str, *, process: int | None = None, restart: Restart | None = None, **arguments: Any
    ) -> None:
        """Start a stream; returns when its source is open and it begins to connect.

        Args:
            name: Its name in this fleet.
            process: Number of the worker process to run it in, from 0; None for the one with the fewest streams.
            restart: Its restart policy; None for that of the fleet.
            **arguments: Those of `DeepIO`, by keyword. `peer_id` is the name and `server_port` None unless given. In
                worker processes only what JSON can carry: no function as source, no `ssl_context`.

        Raises:
            LocalProtocolError: The fleet does not run, there is a stream of this name, or no such process.
            DeepIOError: An argument cannot be used, or the source cannot be opened. The fleet is as it was.
            FleetError: The worker process was lost meanwhile. The fleet is as it was.
        """
        tasks = self._running
        if name in self._members:
            raise LocalProtocolError(
                f"The fleet has a stream {name!r} already.", remedy="Remove it before, or give another name."
            )
        policy = self._restart if restart is None else restart
        _check(policy)
        host, number = self._place(process)
        member = self._members[name] = _Member(host, number)
        try:
            await host.add(name, {"peer_id": name, "server_port": None, **arguments}, policy)
        except BaseException:
            del self._members[name]
            raise
        member.begun = True
        tasks.start_soon(self._serve, name, member)

    async def remove(self, name: str) -> None:
        """End a stream, with goodbyes and in bounded time, and forget it; also one that has ended by itself.

        Raises:
            LocalProtocolError: There is no such stream.
        """
        member = self._member(name)
        member.begun = False  # a second call finds nothing to remove
        with anyio.CancelScope(shield=True):
            await member.host.remove(name)
        member.handled.close()
        del self._members[name]

    async def send_metadata(self, name: str, metadata: JSON) -> None:
        """Send new metadata of a stream: now if connected, and after every connection to come.

        Raises:
            LocalProtocolError: There is no such stream, or the metadata is not JSON, or too large.
        """
        await anyio.lowlevel.checkpoint()
        await self._member(name).host.send_metadata(name, metadata)

    @property
    def streams(self) -> Mapping[str, StreamStatus]:
        """How each stream is, by name: a snapshot. Those that have ended are there until they are removed."""
        return {name: member.host.status(name) for name, member in self._members.items() if member.begun}

    def messages(self) -> FairStream[Message]:
        """The messages of all streams from now on, to be read by `async for` as pairs of name and message.

        Each consumer has its own queue: for each stream 64 messages may wait, of which the oldest goes first.
        """
        return self._register(FairStream(), self._messages)

    def results(self) -> FairStream[Result]:
        """The results of all streams from now on, each with when its frame was taken, as pairs of name and result.

        They are messages too. Frames that are kept (`keep_frames`) come with them from this process, but not from
        workers. Each consumer has its own queue, as for messages.

        Raises:
            LocalProtocolError: The fleet does not run.
        """
        _ = self._running
        for host in [self._local] if self._local is not None else self._workers:
            host.want_results()
        return self._register(FairStream(), self._results)

    def events(self) -> FairStream[FleetEvent]:
        """What happens to the streams from now on, to be read by `async for` as pairs of name and event.

        Each consumer has its own queue: for each stream 64 events may wait, of which the oldest goes first.
        """
        return self._register(FairStream(), self._events)

    def add_data_handler(self, handler: FleetDataHandler) -> None:
        """Have `handler(name, data)` called with each message of each stream, as JSON value.

        The handlers of one stream are called one after the other; those of different streams do not wait for each
        other. One that raises is logged, and the others still run.
        """
        self._data_handlers.append(handler)

    def add_event_handler(self, handler: FleetEventHandler) -> None:
        """Have `handler(event)` called with what happens to streams.

        It must not block; if it raises, that is logged.
        """
        self._event_handlers.append(handler)

    def stats(self) -> FleetStats:
        """Sums over the streams."""
        statuses = self.streams.values()
        stats = [status.stats for status in statuses if status.stats is not None]
        dropped = [worker.dropped for worker in self._workers]
        handled = sum(member.handled.dropped for member in self._members.values())
        return FleetStats(
            streams=len(statuses),
            connected=sum(status.state is PeerState.CONNECTED for status in statuses),
            frames_sent=sum(one.frames_sent for one in stats),
            bytes_sent=sum(one.bytes_sent for one in stats),
            messages_received=sum(one.messages_received for one in stats),
            messages_dropped=sum(one.messages_dropped for one in stats)
            + sum(messages for messages, _ in dropped)
            + sum(stream.dropped for stream in self._messages)
            + sum(stream.dropped for stream in self._results)
            + handled,
            events_dropped=sum(events for _, events in dropped) + sum(stream.dropped for stream in self._events),
            restarts=sum(status.restarts for status in statuses),
            processes=tuple(worker.stats for worker in self._workers),
        )

    # --- Inside ------------------------------------------------------------------------------------------------

    @property
    def _running(self) -> TaskGroup:
        if self._tasks is None:
            raise LocalProtocolError("The fleet does not run.", remedy="Use it inside its `async with`.")
        return self._tasks

    def _member(self, name: str) -> _Member:
        member = self._members.get(name)
        if member is None or not member.begun:
            raise LocalProtocolError(f"The fleet has no stream {name!r}.", remedy="`streams` has those that there are.")
        return member

    def _place(self, process: int | None) -> tuple[Host, int | None]:
        """Where a new stream runs: as asked for, or where there are the fewest."""
        if process is not None and not 0 <= process < self.processes:
            raise LocalProtocolError(
                f"The fleet has no worker process {process}.",
                remedy=f"Give 0 to {self.processes - 1}." if self.processes else "Make it with processes=1 or more.",
            )
        if self._local is not None:
            return self._local, None
        if process is None:
            placed = [member.process for member in self._members.values()]
            process = min(range(self.processes), key=placed.count)
        return self._workers[process], process

    def _register(self, stream: FairStream[Any], streams: WeakSet[FairStream[Any]]) -> FairStream[Any]:
        if self._context is not None and self._tasks is None:
            stream.close()
        streams.add(stream)
        return stream

    def _tell(self, event: FleetEvent) -> None:
        for stream in self._events:
            stream.put(event.name, event)
        for handler in list(self._event_handlers):
            try:
                handler(event)
            except Exception:
                logger.exception("An event handler has failed.")

    def _on_message(self, name: str, message: Message) -> None:
        for stream in self._messages:
            stream.put(name, message)
        member = self._members.get(name)
        if self._data_handlers and member is not None:
            member.handled.put(message)

    def _on_result(self, name: str, result: Result) -> None:
        for stream in self._results:
            stream.put(name, result)

    async def _serve(self, name: str, member: _Member) -> None:
        """Call the handlers with the messages of one stream."""
        async for message in member.handled:
            for handler in list(self._data_handlers):
                try:
                    result = handler(name, message.raw)
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    logger.exception("A handler has failed for the stream %s.", name)


class _Member:
    """A stream as the fleet knows it."""

    def __init__(self, host: Host, process: int | None) -> None:
        self.host = host
        self.process = process
        self.handled = MessageStream(_nothing)
        """What waits for the handlers."""
        self.begun = False
        """Its start has succeeded, and its removal has not begun."""


def _nothing() -> None:
    """The end of a stream that nobody iterates but the fleet."""


def _check(restart: Restart) -> None:
    if restart not in {"never", "on_failure", "always"}:
        raise LocalProtocolError(f"There is no restart policy {restart!r}.", remedy="Use never, on_failure or always.")
