"""A hyperpeer peer on a real link and a real engine, on asyncio or trio: one machine, from its start to its end.

What a program written for hyperpeer-py asks of a `Peer`, one step at a time: list, connect or listen, accept, send,
leave. The texts of the errors that such programs look at are those of hyperpeer-py.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import field
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from deepio_adapters.driver import Dial, Driver
from deepio_adapters.engine import EngineConfig, EngineFactory, open_engine
from deepio_adapters.groups import unwrapped
from deepio_adapters.link import SignalingLink, open_link
from deepio_adapters.streams import QueueStream
from deepio_core import inputs, outputs
from deepio_core.errors import DeepIOError, LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.records import dataclass
from deepio_core.states import PeerState, Stage

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from deepio_adapters.client import Handler
    from deepio_adapters.tls import TLSOptions
    from deepio_core.address import SignalingAddress
    from deepio_core.config import PeerConfig
    from deepio_core.jsontext import JSON
    from deepio_core.signals import PeerInfo

__all__ = ["PeerClient", "PeerError", "PeerSettings", "PeerStateError", "ServerUnreachableError"]

logger = logging.getLogger(__name__)

LOST_WAITING = "Websocket connection closed while waiting for a signal"
NOT_RESPONDING = "Server not responding!"
CANNOT_PAIR = "Cannot pair with peer!"

HANDLER_GRACE: Final = 1.0
"""Seconds that handlers get to finish when all else is closed."""


class PeerError(DeepIOError):
    """Something that a peer was asked for has not come about.

    The text alone is what hyperpeer-py says, where programs look at it; more stands in the notes, which a traceback
    shows.

    Args:
        message: What went wrong.
        detail: More about it.
        cause: Why, as far as a program needs to know.
    """

    def __init__(self, message: str, *, detail: str = "", cause: Cause | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        """Why, as far as a program needs to know."""
        if detail and detail not in message:
            self.add_note(detail)


class PeerStateError(PeerError, LocalProtocolError):
    """The peer is not in the state that the call needs; nothing has changed."""


class ServerUnreachableError(PeerError, ConnectionError):
    """The signaling connection could not be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """Settings of a `PeerClient`."""

    address: SignalingAddress
    """The server, and who we are on it."""
    peer: PeerConfig
    """Timeouts and limits."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Settings of the engine: source, received video, ICE servers."""
    frame_format: str = "bgr24"
    """What the frame consumer gets: one of `frames.FRAME_FORMATS`."""
    tls: TLSOptions | None = None
    """How the server's certificate is checked; None: as the environment says."""
    allow_plain: bool | None = None
    """Allow ws:// to another machine; None: as the environment says."""
    open_engine: EngineFactory = field(default=open_engine, repr=False)
    """Makes the engine; in tests, the one of a `MemoryNetwork`."""
    dial: Dial | None = field(default=None, repr=False)
    """Opens the signaling link; None: a WebSocket to `address`. In tests, an in-memory link."""


class PeerClient:
    """One peer, from the opening of the signaling connection until all is closed; used once.

    `run` it in a task; the other methods may then be called by any task of the same event loop, and be cancelled: who
    cancels a wait for a remote peer leaves that peer.

    Args:
        settings: The settings.
        data_handlers: Called in order with each message that comes; may change at any time.
        frame_consumer: Called with the newest frame that came, in `PeerSettings.frame_format`.
        on_event: Told every event of the machine, at once; must neither block nor raise.
    """

    def __init__(
        self,
        settings: PeerSettings,
        *,
        data_handlers: Sequence[Handler] = (),
        frame_consumer: Handler | None = None,
        on_event: Callable[[outputs.PeerEvent], object] = lambda _event: None,
    ) -> None:
        self.settings = settings
        """The settings."""
        self.failure: Exception | None = None
        """What has ended `run` before its time: a setting that cannot be used, or a bug."""
        self._data_handlers = data_handlers
        self._frame_consumer = frame_consumer
        self._tell = on_event
        self._peer: Peer | None = None
        self._driver: Driver | None = None
        self._driven = False
        self._finished = False
        self._handlers: set[int] = set()
        self._closed: outputs.PeerClosed | None = None
        self._changed = anyio.Event()
        self._lists: deque[list[outputs.PeersListed | outputs.PeersNotListed]] = deque()
        self._requested: str | None = None
        self._outcome: outputs.Connected | outputs.ConnectionFailed | None = None
        self._connections = 0
        self._last_end = ""
        self._mailbox: deque[JSON] = deque(maxlen=1)  # the newest message wins, as with hyperpeer-py
        self._messages: QueueStream[JSON] = QueueStream(lambda: None)

    # --- The life ----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open engine and signaling connection, and keep them until all is closed.

        Raises:
            DeepIOError: The source cannot be opened, or a setting cannot be used.
        """
        try:
            with unwrapped():
                async with anyio.create_task_group() as tasks:
                    await tasks.start(self._drive, tasks.cancel_scope)
                    tasks.start_soon(self._hand_out_messages)
                    tasks.start_soon(self._hand_out_frames)
                    task_status.started()
        except Exception as error:
            self.failure = error
            raise
        finally:
            self._finished = True
            self._notify()

    async def _drive(self, scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        driver = self._driver = Driver(
            self._make_peer,
            dial=self.settings.dial or self._dial,
            engine=self.settings.engine,
            open_engine=self.settings.open_engine,
            on_event=self._on_event,
        )
        await driver.run(task_status=task_status)
        self._driven = True
        self._notify()
        self._messages.close()
        scope.deadline = anyio.current_time() + HANDLER_GRACE

    def _make_peer(self, now: float) -> Peer:
        self._peer = Peer(self.settings.peer, now=now)
        return self._peer

    def _dial(self) -> AbstractAsyncContextManager[SignalingLink]:
        settings = self.settings
        return open_link(
            settings.address,
            tls=settings.tls,
            allow_plain=settings.allow_plain,
            open_timeout=settings.peer.open_timeout,
            max_size=settings.peer.max_signal_size,
        )

    # --- What the application asks -----------------------------------------------------------------------------

    @property
    def state(self) -> PeerState:
        """The public state."""
        if self._finished:
            return PeerState.CLOSED
        return PeerState.STARTING if self._peer is None else self._peer.state

    async def opened(self) -> None:
        """Wait until the signaling connection is open.

        Raises:
            ServerUnreachableError: It could not be opened.
            DeepIOError: The source cannot be opened, or a setting cannot be used.
        """
        await anyio.lowlevel.checkpoint()
        while self.state in {PeerState.STARTING, PeerState.CLOSING, PeerState.CLOSED}:
            if self._finished and self.failure is None and self._closed is not None:
                raise ServerUnreachableError(self._closed.detail or "Given up.", cause=self._closed.cause)
            if self._finished:
                raise self._over()
            await self._changed.wait()

    async def list_peers(self) -> tuple[PeerInfo, ...]:
        """All peers of the server, ourselves included.

        Raises:
            PeerStateError: Not ONLINE.
            PeerError: The server does not answer, or is lost.
        """
        await self._online()
        answer: list[outputs.PeersListed | outputs.PeersNotListed] = []
        self._lists.append(answer)
        self._running.feed(inputs.ListPeers())
        await self._until(lambda: bool(answer))
        if isinstance(answer[0], outputs.PeersListed):
            return answer[0].peers
        cause = answer[0].cause
        raise PeerError(NOT_RESPONDING if cause is Cause.NO_REPLY else LOST_WAITING, cause=cause)

    async def connect(self, remote_id: str) -> None:
        """Connect to a listening peer.

        Raises:
            PeerStateError: Not ONLINE.
            LocalProtocolError: The id is our own, or none.
            PeerError: It has not come about.
        """
        await self._online()
        await self._negotiate(inputs.Connect(remote_id=remote_id))

    async def listen(self) -> str:
        """Wait for a caller, without limit; return its id. It is to be accepted, or left, in `accept_timeout`.

        Raises:
            PeerStateError: Not ONLINE.
            PeerError: The server is lost.
        """
        await self._online()
        self._requested = None
        self._running.feed(inputs.Listen())
        try:
            await self._until(lambda: self._requested is not None)
        except anyio.get_cancelled_exc_class():
            self._withdraw()
            raise
        assert self._requested is not None, "this was waited for"
        return self._requested

    async def accept(self) -> None:
        """Connect to the caller.

        Raises:
            PeerStateError: Not CONNECTING.
            PeerError: It has not come about.
        """
        await anyio.lowlevel.checkpoint()
        if self._peer is None or self._peer.stage is not Stage.INVITED:
            raise self._wrong_state(PeerState.CONNECTING)
        await self._negotiate(inputs.Accept())

    async def send(self, data: JSON) -> None:
        """Send one message.

        Raises:
            PeerStateError: Not CONNECTED.
            LocalProtocolError: The message is not JSON, or larger than the remote peer takes.
        """
        await anyio.lowlevel.checkpoint()
        if self.state is not PeerState.CONNECTED:
            raise self._wrong_state(PeerState.CONNECTED)
        self._running.feed(inputs.Send(data=data))

    async def receive(self) -> JSON:
        """The newest message of this connection that nobody has received yet; waits for one if there is none.

        Raises:
            PeerStateError: Not CONNECTED.
            PeerError: The connection has ended before one came.
        """
        await anyio.lowlevel.checkpoint()
        if self.state is not PeerState.CONNECTED:
            raise self._wrong_state(PeerState.CONNECTED)
        connection = self._connections
        await self._until(
            lambda: bool(self._mailbox) or self.state is not PeerState.CONNECTED or self._connections != connection
        )
        if self._mailbox and self._connections == connection:
            return self._mailbox.pop()
        raise PeerError("The connection to the remote peer has ended.", detail=self._last_end)

    async def disconnect(self) -> None:
        """Leave the remote peer; does nothing if there is none."""
        await anyio.lowlevel.checkpoint()
        if self.state in {PeerState.CONNECTING, PeerState.CONNECTED}:
            self._running.feed(inputs.Disconnect())
            await self._left()

    async def close(self) -> None:
        """Leave the remote peer and the server, and wait until `run` has ended.

        A handler of this peer waits for less: `run` lets it finish, for `HANDLER_GRACE` seconds.
        """
        if self.state is PeerState.CONNECTING:
            # A listening hyperpeer-py dies of a caller that pairs and is gone before it has answered.
            await self.disconnect()
        while self._peer is None and not self._finished:
            await self._changed.wait()
        if self.state not in {PeerState.CLOSING, PeerState.CLOSED}:
            self._running.feed(inputs.Close())
        while not (self._finished or (self.in_handler and self._driven)):
            await self._changed.wait()

    @property
    def in_handler(self) -> bool:
        """Whether the running task is one that calls handlers of this peer."""
        return anyio.get_current_task().id in self._handlers

    # --- Waiting -----------------------------------------------------------------------------------------------

    @property
    def _running(self) -> Driver:
        assert self._driver is not None, "the state says that it runs"
        return self._driver

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds that changes with the events."""
        while not condition():
            if self._finished:
                raise self._over()
            await self._changed.wait()

    async def _left(self) -> None:
        while self.state in {PeerState.DISCONNECTING, PeerState.CLOSING}:
            await self._changed.wait()

    async def _online(self) -> None:
        """Wait until a former connection has been left."""
        await anyio.lowlevel.checkpoint()
        await self._left()
        if self.state is not PeerState.ONLINE:
            raise self._wrong_state(PeerState.ONLINE)

    async def _negotiate(self, command: inputs.Connect | inputs.Accept) -> None:
        self._outcome = None
        self._running.feed(command)
        try:
            await self._until(lambda: self._outcome is not None)
        except anyio.get_cancelled_exc_class():
            self._withdraw()
            raise
        self._raise_if_failed(self._outcome)

    @staticmethod
    def _raise_if_failed(outcome: outputs.Connected | outputs.ConnectionFailed | None) -> None:
        if isinstance(outcome, outputs.ConnectionFailed):
            raise _failed(outcome)

    def _withdraw(self) -> None:
        """Leave the remote peer that was waited for; it goes on by itself."""
        if self.state in {PeerState.LISTENING, PeerState.CONNECTING, PeerState.CONNECTED}:
            self._running.feed(inputs.Disconnect())

    def _wrong_state(self, needed: PeerState) -> PeerStateError:
        why = f" ({self._closed.detail})" if self._closed is not None else ""
        return PeerStateError(
            f"Not in {needed.name} state!", detail=f"The state is {self.state.name}{why}.", cause=Cause.LOCAL
        )

    def _over(self) -> Exception:
        """Why nothing comes any more."""
        if self.failure is not None:
            return self.failure
        if self._closed is None:
            return PeerError("The peer was cancelled.", cause=Cause.LOCAL)
        return PeerError(LOST_WAITING, detail=self._closed.detail, cause=self._closed.cause)

    # --- What comes --------------------------------------------------------------------------------------------

    def _on_event(self, event: outputs.PeerEvent) -> None:
        match event:
            case outputs.PeersListed() | outputs.PeersNotListed():
                self._lists.popleft().append(event)
            case outputs.ConnectionRequested():
                self._requested = event.remote_id
            case outputs.Connected():
                self._connections += 1
                self._mailbox.clear()
                self._outcome = event
            case outputs.ConnectionFailed():
                self._outcome = event
            case outputs.DataReceived():
                self._mailbox.append(event.data)
                self._messages.put(event.data)
            case outputs.DataIgnored():
                logger.warning("A message was ignored: %s", event.detail)
            case outputs.Disconnected():
                self._last_end = event.detail
                logger.info("The connection to %s has ended: %s.", event.remote_id, event.detail or event.cause)
            case outputs.PeerClosed():
                self._closed = event
            case _:
                pass
        self._tell(event)
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _hand_out_messages(self) -> None:
        self._handlers.add(anyio.get_current_task().id)
        async for data in self._messages:
            for handler in list(self._data_handlers):
                await _call(handler, data)

    async def _hand_out_frames(self) -> None:
        self._handlers.add(anyio.get_current_task().id)
        async for frame in self._running.engine.frames:
            if self._frame_consumer is not None:
                await _call(self._frame_consumer, frame.to(self.settings.frame_format))


async def _call(handler: Handler, item: object) -> None:
    try:
        result = handler(item)
        if inspect.isawaitable(result):
            await result
    except Exception:
        logger.exception("A handler has failed.")


def _failed(failed: outputs.ConnectionFailed) -> PeerError:
    """The error of a connection that has not come about."""
    match failed.cause:
        case Cause.NOT_FOUND | Cause.BUSY | Cause.CROSSED:
            text = failed.detail  # what the server says
        case Cause.NO_REPLY:
            text = NOT_RESPONDING
        case Cause.REPAIRED | Cause.REMOTE_LEFT:
            text = CANNOT_PAIR
        case Cause.SIGNALING_LOST:
            text = LOST_WAITING
        case _:
            text = f"The connection to {failed.remote_id} has not come about: {failed.detail or failed.cause}."
    return PeerError(text, detail=failed.detail, cause=failed.cause)
