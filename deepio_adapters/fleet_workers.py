"""The host whose streams run in a worker process, which is started again whenever it is lost."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, assert_never

import anyio

from deepio_adapters.fleet_host import REMOVED, Backoff, StreamIO
from deepio_adapters.fleet_process import WorkerProcess
from deepio_adapters.fleet_records import (
    FleetError,
    ProcessStats,
    StreamEnded,
    StreamLost,
    StreamPhase,
    StreamRestarting,
    StreamRetrying,
    StreamStarted,
    StreamStateChanged,
    StreamStatus,
)
from deepio_adapters.fleet_wire import read_error, read_event, read_result, read_status, write_arguments
from deepio_adapters.groups import unwrapped
from deepio_core.errors import DeepIOError
from deepio_core.jsontext import encode
from deepio_core.messages import parse_message
from deepio_core.outputs import Cause
from deepio_core.states import PeerState

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from deepio_adapters.fleet_host import OnMessage, OnResult, Tell
    from deepio_adapters.fleet_records import FleetEvent, Restart
    from deepio_core.jsontext import JSON

__all__ = ["WorkerHost"]

logger = logging.getLogger(__name__)


class _Reply:
    """What a request waits for."""

    def __init__(self) -> None:
        self.came = anyio.Event()
        self.error: DeepIOError | None = None


class _Remote:
    """A stream that belongs to the worker."""

    def __init__(self, arguments: dict[str, JSON], restart: Restart, status: StreamStatus) -> None:
        self.arguments = arguments
        self.restart = restart
        self.status = status
        self.earlier = 0
        """Restarts up to the last time the worker was lost, by that included."""
        self.lasting = False
        """It has begun and not ended: it is started again in a new worker."""


class WorkerHost:
    """Runs streams in a worker process.

    Args:
        number: Number of the process in the fleet.
        tell: Takes what happens to the streams.
        on_message: Takes their messages.
        on_result: Takes their results, once somebody wants them.
        delay: Seconds before the first restart of a stream, or of the process.
        log_level: From which level on the worker logs.
    """

    def __init__(
        self,
        number: int,
        *,
        tell: Tell,
        on_message: OnMessage,
        on_result: OnResult,
        delay: float,
        log_level: int,
    ) -> None:
        self._number = number
        self._tell = tell
        self._on_message = on_message
        self._on_result = on_result
        self._settings = {"kind": "settings", "delay": delay, "log_level": log_level, "results": False}
        self._backoff = Backoff(delay)
        self._remotes: dict[str, _Remote] = {}
        self._replies: dict[int, _Reply] = {}  # as many as callers wait
        self._ids = itertools.count(1)
        self._process: WorkerProcess | None = None
        self._up = anyio.Event()
        self._ever_up = self._ended = False
        self._restarts = 0
        self._dropped, self._dropped_before = (0, 0), (0, 0)

    # --- Its process -------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Keep a worker process until this is cancelled.

        Raises:
            FleetError: The first one cannot be started.
        """
        try:
            with unwrapped():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._tell_up, task_status)
                    while True:
                        began = anyio.current_time()
                        reason = await self._run_once()
                        delay = self._backoff.delay(anyio.current_time() - began)
                        self._lose(reason, delay)
                        await anyio.sleep(delay)
                        self._restarts += 1
        finally:
            self._ended = True
            self._up.set()
            self._fail_replies("The fleet has ended.")

    async def _tell_up(self, task_status: TaskStatus[None]) -> None:
        await self._up.wait()
        task_status.started()

    async def _run_once(self) -> str:
        """One life of a process; returns what has become of it."""
        self._process = process = WorkerProcess(self._number, self._on_line)
        process.send(self._settings)
        for name, remote in self._remotes.items():
            if remote.lasting:
                self._request("add", name, **_to_add(remote), again=True)
        try:
            reason = await process.run()
        except FleetError as error:
            if not self._ever_up:
                raise
            reason = error.message.rstrip(".")
        finally:
            self._process = None
        if not self._ever_up:
            raise FleetError(
                f"A worker process of the fleet has not come up: {reason}.", remedy="What it has logged tells why."
            )
        return reason

    def _lose(self, reason: str, delay: float) -> None:
        logger.error("The worker process %d is lost: %s. A new one starts in %.1f s.", self._number, reason, delay)
        self._up = anyio.Event()
        self._dropped_before, self._dropped = self.dropped, (0, 0)
        self._fail_replies(f"The worker process was lost meanwhile: {reason}.")
        text = f"its worker process was lost: {reason}"
        for name, remote in list(self._remotes.items()):
            if remote.lasting:
                remote.earlier = remote.status.restarts + 1
                remote.status = dataclasses.replace(
                    remote.status, phase=StreamPhase.WAITING, state=PeerState.STARTING, stats=None, last_error=text
                )
                self._tell(StreamLost(name=name, process=self._number, reason=text, delay=delay))

    def _fail_replies(self, why: str) -> None:
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.error = FleetError(why, remedy="Try again.")
            reply.came.set()

    # --- What the fleet asks -----------------------------------------------------------------------------------

    async def add(self, name: str, arguments: Mapping[str, Any], restart: Restart) -> None:
        """Start a stream; see `fleet_host.Host`."""
        StreamIO(**arguments)  # raises for what it cannot use, without a process in between; opens nothing
        status = StreamStatus(name=name, phase=StreamPhase.RUNNING, state=PeerState.STARTING, process=self._number)
        remote = _Remote(write_arguments(arguments), restart, status)
        while not self._up.is_set():
            await self._up.wait()
        self._remotes[name] = remote
        try:
            await self._ask("add", name, **_to_add(remote), again=False)
            remote.lasting = remote.status.phase in {StreamPhase.RUNNING, StreamPhase.WAITING}
        except DeepIOError:
            del self._remotes[name]
            raise
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.remove(name)
            raise

    async def remove(self, name: str) -> None:
        """End a stream; see `fleet_host.Host`. A worker that does not do it ends after a while, and the stream too."""
        remote = self._remotes[name]
        try:
            await self._ask("remove", name)
        except FleetError:
            # There is no worker now; so the end is told from here, if there was something to end.
            if remote.lasting:
                self._tell(StreamEnded(name=name, cause=Cause.LOCAL, reason=REMOVED))
        finally:
            del self._remotes[name]

    async def send_metadata(self, name: str, metadata: JSON) -> None:
        """Send new metadata; see `fleet_host.Host`."""
        encode(metadata)  # raises if it is not JSON
        try:
            await self._ask("metadata", name, metadata=metadata)
        except FleetError:
            logger.debug("The new metadata of %s goes to the next worker.", name)
        if name in self._remotes:
            self._remotes[name].arguments["metadata"] = metadata

    def want_results(self) -> None:
        """Give each result from now on; see `fleet_host.Host`."""
        if not self._settings["results"]:
            self._settings["results"] = True
            if self._process is not None:
                self._process.send({"kind": "results"})

    def status(self, name: str) -> StreamStatus:
        """How a stream is, as was told last."""
        return self._remotes[name].status

    @property
    def stats(self) -> ProcessStats:
        """How the process is."""
        pid = None if self._process is None else self._process.pid
        return ProcessStats(process=self._number, pid=pid, streams=len(self._remotes), restarts=self._restarts)

    @property
    def dropped(self) -> tuple[int, int]:
        """Messages and events that this process was too slow to read from the worker."""
        return self._dropped_before[0] + self._dropped[0], self._dropped_before[1] + self._dropped[1]

    async def _ask(self, kind: str, name: str, **fields: Any) -> None:
        reply = self._request(kind, name, **fields)
        await reply.came.wait()
        if reply.error is not None:
            raise reply.error

    def _request(self, kind: str, name: str, **fields: Any) -> _Reply:
        if self._process is None or self._ended:
            raise FleetError("The worker process does not run now.", remedy="Try again.")
        number, reply = next(self._ids), _Reply()
        self._replies[number] = reply
        self._process.send({"kind": kind, "id": number, "name": name, **fields})
        return reply

    # --- What the worker says ----------------------------------------------------------------------------------

    def _on_line(self, line: Mapping[str, Any]) -> None:
        match line["kind"]:
            case "message":
                self._on_message(line["name"], parse_message(line["raw"]))
            case "result":
                self._on_result(line["name"], read_result(line))
            case "event":
                self._on_event(read_event(line))
            case "status":
                self._dropped = (line["dropped"][0], line["dropped"][1])
                for written in line["streams"]:
                    self._note(read_status(written))
            case "reply":
                reply = self._replies.pop(line["id"], None)
                if reply is not None:
                    reply.error = read_error(line["error"]) if "error" in line else None
                    reply.came.set()
            case "hello":
                self._ever_up = True
                self._up.set()
            case kind:
                raise ValueError(f"a worker says no {kind!r}")

    def _note(self, status: StreamStatus) -> None:
        remote = self._remotes.get(status.name)
        if remote is not None:
            remote.status = dataclasses.replace(status, process=self._number, restarts=status.restarts + remote.earlier)

    def _on_event(self, event: FleetEvent) -> None:
        remote = self._remotes.get(event.name)
        if remote is None:
            return
        status = remote.status
        match event:
            case StreamStarted():
                event = dataclasses.replace(event, restarts=event.restarts + remote.earlier)
                status = dataclasses.replace(status, phase=StreamPhase.RUNNING, restarts=event.restarts)
            case StreamStateChanged():
                status = dataclasses.replace(status, state=event.new)
            case StreamRetrying():
                status = dataclasses.replace(status, last_error=event.reason)
            case StreamRestarting():
                status = dataclasses.replace(status, phase=StreamPhase.WAITING, last_error=event.reason, stats=None)
            case StreamEnded():
                remote.lasting = False
                phase = StreamPhase.FAILED if event.failed else StreamPhase.ENDED
                status = dataclasses.replace(
                    status,
                    phase=phase,
                    state=PeerState.STARTING,
                    stats=None,
                    last_error=event.reason if event.failed else status.last_error,
                )
            case StreamLost():
                raise AssertionError("a worker does not know that it was lost")
            case _:
                assert_never(event)
        remote.status = status
        self._tell(event)


def _to_add(remote: _Remote) -> dict[str, JSON]:
    return {"arguments": remote.arguments, "restart": remote.restart}
