"""Where streams of a fleet run: the host in this process, and what every host can do."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import anyio

from deepio_adapters.client import SessionEndedError
from deepio_adapters.face import DeepIOBase
from deepio_adapters.fleet_records import (
    FleetError,
    FleetEvent,
    Restart,
    StreamEnded,
    StreamPhase,
    StreamRestarting,
    StreamRetrying,
    StreamStarted,
    StreamStateChanged,
    StreamStatus,
)
from deepio_adapters.threads import current_stream
from deepio_core import outputs, session
from deepio_core.errors import DeepIOError, LocalProtocolError
from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from deepio_adapters.pairing import Result
    from deepio_core.jsontext import JSON
    from deepio_core.messages import Message

__all__ = [
    "Backoff",
    "Host",
    "LocalHost",
    "MakeStreamIO",
    "OnMessage",
    "OnResult",
    "StreamIO",
    "Tell",
]

logger = logging.getLogger(__name__)

DELAY_MAX: Final = 30.0
"""Seconds at most before something is started again: then a camera that comes back is seen within half a minute."""

REMOVED: Final = "the application has ended it"
"""Why a stream ends that is removed, or whose fleet ends."""

LASTING: Final = 60.0
"""Seconds after which a start counts as a success, so that the next failure begins with the first delay."""


class StreamIO(DeepIOBase):
    """The DeepIO of a stream, on either loop."""

    def set_metadata(self, metadata: JSON) -> None:
        """Send new metadata, now if connected, and after every connection to come.

        Raises:
            LocalProtocolError: The metadata is not JSON, or too large.
        """
        self._remember_metadata(metadata)


MakeStreamIO: TypeAlias = Callable[..., StreamIO]
"""Makes the DeepIO of a stream from its arguments; in tests, one that lives in memory."""

Tell: TypeAlias = Callable[[FleetEvent], object]
"""Takes what happens to a stream."""

OnMessage: TypeAlias = Callable[[str, "Message"], object]
"""Takes a stream's name and a message of its remote peer."""

OnResult: TypeAlias = Callable[[str, "Result"], object]
"""Takes a stream's name and a result with the frame it belongs to."""


_ENDED: Final = (Cause.LOCAL, "the session has ended")
"""Why a session ends, unless it says more."""


class Host(Protocol):
    """Where streams run. All names are known to be new, or known, to the host: the fleet sees to that."""

    async def add(self, name: str, arguments: Mapping[str, Any], restart: Restart) -> None:
        """Start a stream; returns when its source is open.

        Raises:
            DeepIOError: An argument cannot be used, or the source cannot be opened; nothing is left of it.
        """
        ...

    async def remove(self, name: str) -> None:
        """End a stream, with goodbyes, and forget it; bounded."""
        ...

    async def send_metadata(self, name: str, metadata: JSON) -> None:
        """Send new metadata, now if connected, and after every connection to come.

        Raises:
            LocalProtocolError: The metadata is not JSON, or too large.
        """
        ...

    def want_results(self) -> None:
        """Give each result with the frame it belongs to, from now on."""
        ...

    def status(self, name: str) -> StreamStatus:
        """How a stream is."""
        ...


class Backoff:
    """Delays that double, with some jitter so that what has failed together does not come back all at once.

    Args:
        first: The first delay, in seconds.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self._failures = 0

    def delay(self, lived: float) -> float:
        """The delay, in seconds, before something that has lived so long is started again."""
        if lived >= LASTING:
            self._failures = 0
        delay = min(self._first * 2.0 ** min(self._failures, 16), max(DELAY_MAX, self._first))
        self._failures += 1
        return delay * random.uniform(0.75, 1.25)


class LocalHost:
    """Runs streams in this event loop.

    Args:
        tasks: Where they run; cancelling it ends them side by side, each with its goodbyes.
        tell: Takes what happens to them.
        on_message: Takes their messages.
        on_result: Takes their results, once somebody wants them.
        delay: Seconds before the first restart of a stream.
        make: Makes their DeepIO.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        *,
        tell: Tell,
        on_message: OnMessage,
        on_result: OnResult,
        delay: float,
        make: MakeStreamIO = StreamIO,
    ) -> None:
        self._tasks = tasks
        self._tell = tell
        self._on_message = on_message
        self._on_result = on_result
        self._delay = delay
        self._make = make
        self._results_wanted = False
        self._streams: dict[str, _Stream] = {}

    async def add(self, name: str, arguments: Mapping[str, Any], restart: Restart, *, again: bool = False) -> None:
        """Start a stream; see `Host`.

        Args:
            name: Its name.
            arguments: Those of its DeepIO.
            restart: Its restart policy.
            again: It has run before: a source that cannot be opened now is a failure like others, and is not waited
                for.
        """
        deep = self._make(**arguments)
        stream = _Stream(name, deep, restart, self._tell, self._on_message, Backoff(self._delay))
        if self._results_wanted:
            stream.want_results(self._on_result)
        self._streams[name] = stream
        self._tasks.start_soon(stream.run, again)
        try:
            await stream.settled.wait()
        except BaseException:
            stream.scope.cancel()
            with anyio.CancelScope(shield=True):
                await stream.done.wait()
            self._streams.pop(name, None)
            raise
        if stream.refused is not None:
            self._streams.pop(name, None)
            raise stream.refused

    async def remove(self, name: str) -> None:
        """End a stream; see `Host`."""
        stream = self._streams.get(name)
        if stream is not None:  # or it has just turned out that it cannot be started
            stream.scope.cancel()
            await stream.done.wait()
            self._streams.pop(name, None)

    async def send_metadata(self, name: str, metadata: JSON) -> None:
        """Send new metadata; see `Host`."""
        self._streams[name].send_metadata(metadata)

    def want_results(self) -> None:
        """Give each result from now on; see `Host`."""
        if not self._results_wanted:
            self._results_wanted = True
            for stream in self._streams.values():
                stream.want_results(self._on_result)

    def status(self, name: str) -> StreamStatus:
        """How a stream is."""
        return self._streams[name].status()

    @property
    def statuses(self) -> list[StreamStatus]:
        """How all streams are."""
        return [stream.status() for stream in self._streams.values()]


class _Stream:
    """One stream, from its start to its end, restarts included."""

    def __init__(
        self, name: str, deep: StreamIO, restart: Restart, tell: Tell, on_message: OnMessage, backoff: Backoff
    ) -> None:
        self.name = name
        self.scope = anyio.CancelScope()
        """Cancelled to end the stream."""
        self.settled = anyio.Event()
        """Set when it is known whether the stream can be started."""
        self.done = anyio.Event()
        """Set when nothing of it runs any more."""
        self.refused: DeepIOError | None = None
        """Why it cannot be started."""
        self._deep = deep
        self._restart = restart
        self._tell = tell
        self._on_message = on_message
        self._backoff = backoff
        self._phase = StreamPhase.RUNNING
        self._last_error: str | None = None
        self._restarts = 0
        self._ended: tuple[Cause, str] = _ENDED
        deep.add_event_handler(self._on_event)

    def status(self) -> StreamStatus:
        """How it is."""
        try:
            stats = self._deep.stats()
        except LocalProtocolError:
            stats = None  # it does not run
        return StreamStatus(
            name=self.name,
            phase=self._phase,
            state=self._deep.state,
            stats=stats,
            last_error=self._last_error,
            restarts=self._restarts,
        )

    def want_results(self, on_result: OnResult) -> None:
        """Give each result from now on, over all starts."""

        def take(result: Result) -> None:
            on_result(self.name, result)

        self._deep.add_result_handler(take)

    def send_metadata(self, metadata: JSON) -> None:
        """Send new metadata, or remember it for the next start."""
        self._deep.set_metadata(metadata)

    async def run(self, again: bool) -> None:
        """Run until the end, or until `scope` is cancelled; never raises for what a stream does."""
        current_stream.set(self.name)
        end = StreamEnded(name=self.name, cause=Cause.LOCAL, reason=REMOVED)
        if again:
            self.settled.set()
        try:
            with self.scope:
                end = await self._run_again_and_again()
        finally:
            if self.settled.is_set():
                self._phase = StreamPhase.FAILED if end.failed else StreamPhase.ENDED
                self._tell(end)
            elif self.refused is None:
                self.refused = FleetError(f"The stream {self.name} was removed before it had begun.")
            self.done.set()
            self.settled.set()

    async def _run_again_and_again(self) -> StreamEnded:
        while True:
            began = anyio.current_time()
            end = await self._run_once()
            if not self.settled.is_set():
                return end
            if end.failed:
                self._last_error = end.reason
            if self._restart == "never" or not (end.failed or self._restart == "always"):
                return end
            delay = self._backoff.delay(anyio.current_time() - began)
            self._phase = StreamPhase.WAITING
            logger.warning("The stream %s has ended: %s. It is started again in %.1f s.", self.name, end.reason, delay)
            self._tell(StreamRestarting(name=self.name, reason=end.reason, delay=delay))
            await anyio.sleep(delay)
            self._phase = StreamPhase.RUNNING
            self._restarts += 1

    async def _run_once(self) -> StreamEnded:
        self._ended = _ENDED
        try:
            async with self._deep:
                self.settled.set()
                self._tell(StreamStarted(name=self.name, restarts=self._restarts))
                await self._deep.wait_ended()
        except SessionEndedError as error:
            return self._failed(error, error.cause)
        except DeepIOError as error:
            return self._failed(error, Cause.ENGINE)
        except Exception as error:
            # A fault of ours, or of the application's source: it must not end the other streams.
            logger.exception("The stream %s has failed unexpectedly.", self.name)
            return self._failed(DeepIOError(f"It has failed unexpectedly ({type(error).__name__})."), Cause.ENGINE)
        cause, reason = self._ended
        return StreamEnded(name=self.name, cause=cause, reason=reason)

    def _failed(self, error: DeepIOError, cause: Cause) -> StreamEnded:
        if not self.settled.is_set():
            self.refused = error
        return StreamEnded(
            name=self.name, cause=cause, reason=error.message.rstrip("."), remedy=error.remedy, failed=True
        )

    def _on_event(self, event: session.SessionEvent) -> None:
        match event:
            case session.MessageReceived():
                self._on_message(self.name, event.message)
            case outputs.StateChanged():
                self._tell(StreamStateChanged(name=self.name, old=event.old, new=event.new))
            case session.Retrying():
                self._last_error = event.detail
                self._tell(StreamRetrying(name=self.name, reason=event.detail, delay=event.delay))
            case session.SessionEnded():
                self._ended = (event.cause, event.detail or _ENDED[1])
            case _:
                pass
