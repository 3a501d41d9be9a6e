"""The loop-neutral client that both faces wrap: a session on a real link and a real engine, for one application.

    async with Client(config) as client:
        async for message in client.messages():
            ...

All of it lives inside the `async with`: leaving it says goodbye to the remote peer and the server, in bounded time.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import anyio
import anyio.lowlevel

from deepio_adapters.audience import Audience, Handler
from deepio_adapters.client_stats import ClientStats
from deepio_adapters.driver import Dial, Driver
from deepio_adapters.engine import EngineConfig, EngineFactory, open_engine
from deepio_adapters.frames import check_frame_format
from deepio_adapters.groups import unwrapped
from deepio_adapters.link import SignalingLink, open_link
from deepio_adapters.rates import RateMeter
from deepio_adapters.streams import FrameStream, MessageStream, ResultStream
from deepio_core import outputs, session
from deepio_core.errors import DeepIOError, LocalProtocolError
from deepio_core.jsontext import encode, utf8_size
from deepio_core.messages import DataMessage, MetadataMessage, to_json
from deepio_core.records import dataclass
from deepio_core.states import PeerState

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import TaskStatus

    from deepio_adapters.pairing import Result
    from deepio_adapters.sources import SourceFrame
    from deepio_adapters.tls import TLSOptions
    from deepio_core.address import SignalingAddress
    from deepio_core.jsontext import JSON
    from deepio_core.policy import SessionConfig

__all__ = ["Client", "ClientConfig", "ClientStats", "EventHandler", "Handler", "SessionEndedError"]

logger = logging.getLogger(__name__)

LEAVE_TIMEOUT: Final = 5.0
"""Seconds for goodbyes on the way out; then everything is cut."""

MEASURE_INTERVAL: Final = 1.0
"""Seconds between two looks at the counters."""

EventHandler: TypeAlias = Callable[[session.SessionEvent], object]
"""A function that takes an event of the session; it must not block."""


class SessionEndedError(DeepIOError):
    """The session has ended for a reason that trying again cannot help.

    Args:
        message: Why, as a sentence.
        remedy: What can be done about it.
        cause: Why, as far as a program needs to know.
    """

    def __init__(self, message: str, *, remedy: str = "", cause: outputs.Cause = outputs.Cause.LOCAL) -> None:
        super().__init__(message, remedy=remedy)
        self.cause = cause
        """Why, as far as a program needs to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Settings of a `Client`."""

    address: SignalingAddress
    """The server, and who we are on it."""
    session: SessionConfig
    """Settings of the session: whom to connect to, metadata, timeouts."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Settings of the engine: source, received video, ICE servers. A frame handler turns `receive_video` on."""
    frame_format: str = "bgr24"
    """What frame handlers get: one of `frames.FRAME_FORMATS`."""
    tls: TLSOptions | None = None
    """How the server's certificate is checked; None: as the environment says."""
    allow_plain: bool | None = None
    """Allow ws:// to another machine; None: as the environment says."""
    ping_interval: float = 20.0
    """Seconds between two pings of the server."""
    proxy: str | Literal[True] | None = True
    """URL of an HTTP proxy; True: as the environment says; None: none."""
    open_engine: EngineFactory = field(default=open_engine, repr=False)
    """Makes the engine; in tests, the one of a `MemoryNetwork`."""
    dial: Dial | None = field(default=None, repr=False)
    """Opens signaling links; None: WebSockets to `address`. In tests, in-memory links."""


class Client:
    """A session that lives in an `async with`, on asyncio or trio; used once.

    Args:
        config: The settings.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        """The settings."""
        self._context: AbstractAsyncContextManager[None] | None = None
        self._driver: Driver | None = None
        self._session: session.Session | None = None
        self._thread: int | None = None
        self._driven = self._stopping = False
        self._metadata = config.session.metadata
        self._event_handlers: list[EventHandler] = []
        self._messages = Audience(MessageStream, _raw)
        self._results = Audience(lambda at_end: ResultStream(at_end, self._frame_of), _itself)
        frame_format = check_frame_format(config.frame_format)
        self._frames = Audience(FrameStream, lambda frame: frame.to(frame_format))
        self._messages_received = self._connections = 0
        self._last_error: str | None = None
        self._ended: session.SessionEnded | None = None
        self._changed = anyio.Event()
        self._rates = RateMeter()

    # --- The life ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open engine and source, and begin to connect.

        Raises:
            DeepIOError: The source cannot be opened, or a setting cannot be used.
        """
        if self._context is not None:
            raise LocalProtocolError("A client is used once.", remedy="Make a new one.")
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
        self._thread = threading.get_ident()
        driver = self._driver = Driver(
            self._make_session,
            dial=self.config.dial or self._dial,
            engine=self._engine_config(),
            open_engine=self.config.open_engine,
            on_event=self._on_event,
        )
        scope = anyio.CancelScope()
        with unwrapped() as known:
            async with anyio.create_task_group() as tasks:
                try:
                    await tasks.start(self._drive, driver, scope)
                    # A cancellation of the application must not reach the driver before the goodbyes are said.
                    scope.shield = True
                    if self._stopping:
                        driver.feed(session.Stop())
                    for audience in self._audiences:
                        tasks.start_soon(audience.serve)
                    tasks.start_soon(self._spread_frames, driver)
                    tasks.start_soon(self._measure, driver)
                    try:
                        yield
                    except BaseException as error:
                        known.own = error
                        raise
                finally:
                    with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
                        await self._leave(driver)
                    self._close_streams()
                    scope.cancel()
                    tasks.cancel_scope.cancel()

    async def _drive(self, driver: Driver, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        try:
            with scope:
                await driver.run(task_status=task_status)
        finally:
            self._driven = True
            self._notify()

    def _make_session(self, now: float) -> session.Session:
        config = dataclasses.replace(self.config.session, metadata=self._metadata)
        self._session = session.Session(config, now=now, random=random.random)
        return self._session

    def _engine_config(self) -> EngineConfig:
        wanted = self.config.engine.receive_video or bool(self._frames.handlers)
        return dataclasses.replace(self.config.engine, receive_video=wanted)

    def _dial(self) -> AbstractAsyncContextManager[SignalingLink]:
        config = self.config
        return open_link(
            config.address,
            tls=config.tls,
            allow_plain=config.allow_plain,
            open_timeout=config.session.peer.open_timeout,
            ping_interval=config.ping_interval,
            max_size=config.session.peer.max_signal_size,
            proxy=config.proxy,
        )

    async def _leave(self, driver: Driver) -> None:
        if self._session is None or self._driven:
            return  # never begun, or cut off: there is nobody to say goodbye
        if self._ended is None:
            driver.feed(session.Stop())
        while self._ended is None and not self._driven:
            await self._changed.wait()

    @property
    def _audiences(self) -> tuple[Audience[MessageStream], Audience[ResultStream], Audience[FrameStream]]:
        return self._messages, self._results, self._frames

    def _close_streams(self) -> None:
        for audience in self._audiences:
            audience.close()

    # --- What the application asks -----------------------------------------------------------------------------

    def add_data_handler(self, handler: Handler) -> None:
        """Have `handler` called with each message that comes, as JSON value, in the application's event loop.

        Handlers are called one after the other. One that raises is logged, and the others still run. A `data` message
        is acknowledged before.
        """
        self._messages.handlers.append(handler)

    def remove_data_handler(self, handler: Handler) -> None:
        """Undo `add_data_handler`.

        Raises:
            ValueError: There is no such handler.
        """
        self._messages.handlers.remove(handler)

    def add_frame_handler(self, handler: Handler) -> None:
        """Have `handler` called with the newest frame that came, in `ClientConfig.frame_format`.

        Raises:
            LocalProtocolError: The client runs already and has refused the remote peer's video.
        """
        if self._driver is not None:
            self._demand_video()
        self._frames.handlers.append(handler)
        self._look_for_watchers()

    def remove_frame_handler(self, handler: Handler) -> None:
        """Undo `add_frame_handler`. While there is no handler and no stream of frames, none is decoded.

        Raises:
            ValueError: There is no such handler.
        """
        self._frames.handlers.remove(handler)

    def add_result_handler(self, handler: Handler) -> None:
        """Have `handler` called with each `Result` that comes: a `data` message and the frame it belongs to."""
        self._results.handlers.append(handler)

    def add_event_handler(self, handler: EventHandler) -> None:
        """Have `handler` called with each event of the session: states, failures, retries. It must not block."""
        self._event_handlers.append(handler)

    def messages(self) -> MessageStream:
        """The messages from now on, to be read by `async for`; each stream has its own bounded queue.

        The iteration ends with the session, and raises `SessionEndedError` if the session has failed.
        """
        return self._messages.stream(self._raise_if_failed)

    def results(self) -> ResultStream:
        """The results from now on, each with the frame it belongs to, to be read by `async for`.

        The iteration ends with the session, and raises `SessionEndedError` if the session has failed.
        """
        return self._results.stream(self._raise_if_failed)

    def frames(self) -> FrameStream:
        """The newest frames from now on, to be read by `async for`; they are decoded as long as the stream is held.

        The iteration ends with the session, and raises `SessionEndedError` if the session has failed.

        Raises:
            LocalProtocolError: The client refuses the remote peer's video.
        """
        self._demand_video()
        stream = self._frames.stream(self._raise_if_failed)
        self._look_for_watchers()
        return stream

    def _demand_video(self) -> None:
        if not (self.config.engine.receive_video or self._frames.handlers):
            raise LocalProtocolError(
                "No frames come, since the remote peer's video is refused.",
                remedy="Set receive_video, or add a frame handler before the start.",
            )

    async def send(self, message: JSON) -> None:
        """Send one message to the connected remote peer.

        Raises:
            LocalProtocolError: Not connected, or the message is not JSON or too large.
        """
        await anyio.lowlevel.checkpoint()
        self._running.feed(session.SendMessage(message=message))

    def send_metadata(self, metadata: JSON) -> None:
        """Send new metadata, now if connected, and after every connection to come; from any thread.

        Raises:
            LocalProtocolError: The metadata is not JSON, or too large.
        """
        # Raises here, and not at the start or in the other thread.
        size = utf8_size(encode(to_json(MetadataMessage(metadata=metadata))))
        if size > self.config.session.peer.max_send_size:
            raise LocalProtocolError(
                f"The metadata has {size} bytes; {self.config.session.peer.max_send_size} can be sent.",
                remedy="Send less.",
            )
        command = session.SendMetadata(metadata=metadata)
        if self._session is not None and self._driver is not None and self._thread == threading.get_ident():
            self._driver.feed(command)  # raises if the remote peer takes less
        # Set before it is looked whether there is a driver: a session that begins meanwhile takes one or the other.
        self._metadata = metadata
        if self._driver is not None and self._thread != threading.get_ident():
            self._driver.post(command)

    async def stop(self) -> None:
        """End the session with goodbyes, in bounded time; the `async with` goes on.

        While the source is still being opened, the session ends as soon as that is done.
        """
        self._stopping = True
        if self._driver is not None:
            with anyio.move_on_after(LEAVE_TIMEOUT):
                await self._leave(self._driver)

    async def wait_connected(self) -> str:
        """Wait until the data channel is open; return the remote peer's id.

        Raises:
            SessionEndedError: The session has failed.
            LocalProtocolError: The session has ended as planned.
        """
        while True:
            await anyio.lowlevel.checkpoint()
            if self._ended is not None:
                self._raise_if_failed()
                raise LocalProtocolError("The session has ended.")
            current = self._session
            if current is not None and current.state is PeerState.CONNECTED and current.remote_id is not None:
                return current.remote_id
            await self._changed.wait()

    async def wait_ended(self) -> None:
        """Wait until the session ends by itself, say because its video source has ended.

        Raises:
            SessionEndedError: The session has failed.
        """
        await anyio.lowlevel.checkpoint()
        while self._ended is None:
            await self._changed.wait()
        self._raise_if_failed()

    @property
    def state(self) -> PeerState:
        """The public state; STARTING before the start."""
        return PeerState.STARTING if self._session is None else self._session.state

    @property
    def remote_id(self) -> str | None:
        """The remote peer, from CONNECTING to DISCONNECTING; else None."""
        return None if self._session is None else self._session.remote_id

    @property
    def metadata(self) -> JSON:
        """The newest metadata."""
        return self._metadata

    def stats(self) -> ClientStats:
        """A snapshot of what the client does.

        Raises:
            LocalProtocolError: The client does not run yet.
        """
        driver = self._running
        return ClientStats.gather(
            driver.engine.stats(),
            self._rates,
            state=self.state,
            remote_id=self.remote_id,
            frames_missed=self._frames.missed,
            messages_received=self._messages_received,
            messages_missed=self._messages.missed + self._results.missed + driver.reports_dropped,
            reconnects=max(0, self._connections - 1),
            last_error=self._last_error,
        )

    @property
    def _running(self) -> Driver:
        if self._driver is None or self._session is None:
            raise LocalProtocolError("The client does not run.", remedy="Use it inside its `async with`.")
        return self._driver

    # --- What comes --------------------------------------------------------------------------------------------

    def _on_event(self, event: session.SessionEvent) -> None:
        match event:
            case session.MessageReceived():
                self._messages_received += 1
                self._messages.put(event.message)
                if isinstance(event.message, DataMessage) and self._driver is not None:
                    self._results.put(self._driver.engine.sent_frames.pair(event.message, time.monotonic()))
            case outputs.Connected():
                self._connections += 1
            case session.Retrying():
                self._last_error = event.detail
                logger.info("Trying again in %.1f s: %s.", event.delay, event.detail.rstrip("."))
            case session.SessionEnded():
                self._ended = event
                self._close_streams()
            case _:
                pass
        for handler in list(self._event_handlers):
            try:
                handler(event)
            except Exception:
                logger.exception("An event handler has failed.")
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def _raise_if_failed(self) -> None:
        ended = self._ended
        if ended is not None and ended.cause not in {outputs.Cause.LOCAL, outputs.Cause.SOURCE_ENDED}:
            raise SessionEndedError(
                f"The session has ended: {ended.detail.rstrip('.')}.", remedy=ended.remedy, cause=ended.cause
            )

    def _frame_of(self, result: Result) -> SourceFrame | None:
        return None if self._driver is None else self._driver.engine.sent_frames.frame(result)

    def _look_for_watchers(self) -> None:
        """Has the engine decode frames only while somebody watches."""
        if self._session is not None and self._driver is not None:
            self._driver.engine.want_frames(self._frames.watching)

    async def _spread_frames(self, driver: Driver) -> None:
        async for frame in driver.engine.frames:
            self._frames.put(frame)

    async def _measure(self, driver: Driver) -> None:
        while True:
            self._look_for_watchers()  # nobody tells that a stream was let go
            stats = driver.engine.stats()
            self._rates.sample(
                anyio.current_time(), stats.frames_sent, stats.frames_received, stats.bytes_sent, stats.bytes_received
            )
            await anyio.sleep(MEASURE_INTERVAL)


def _raw(message: Any) -> object:
    return message.raw


def _itself(result: Any) -> object:
    return result
