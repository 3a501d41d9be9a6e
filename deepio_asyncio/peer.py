"""`Peer` for asyncio applications: what `hyperpeer.Peer` of hyperpeer-py 0.3.1 offers, under the same names.

A program written for `from hyperpeer import Peer, PeerState` runs with this import changed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from deepio_adapters.engine import ChannelOptions, EngineConfig, IceServer
from deepio_adapters.frames import check_frame_format
from deepio_adapters.peer_client import PeerClient, PeerSettings, PeerStateError
from deepio_adapters.source_urls import SourceKind, SourceUrl
from deepio_adapters.sources import parse_source
from deepio_adapters.tls import TLSOptions
from deepio_core import outputs
from deepio_core.address import build_address
from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.states import PeerState

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from deepio_adapters.client import Handler
    from deepio_adapters.sources import FrameFeed, Source
    from deepio_core.jsontext import JSON

__all__ = ["Peer"]

logger = logging.getLogger(__name__)

_CHANNEL_KEYS: Final = {
    "label": "label",
    "ordered": "ordered",
    "maxRetransmits": "max_retransmits",
    "maxPacketLifeTime": "max_packet_life_time",
    "protocol": "protocol",
}
"""The keys of `datachannel_options`, those of W3C's RTCDataChannelInit, and what we call them."""


class Peer:
    """A peer on a hyperpeer server, which other peers connect to or which connects to them; one connection at a time.

    Nothing is opened and no event loop is needed before `open`. What is done on the way follows hyperpeer-py, except
    where that fails: `open` may follow `close`; a peer may be connected to again and again over one signaling
    connection; `recv` raises when the connection ends; a message that is not JSON, and a handler that raises, are
    logged and end nothing; who calls `get_peers`, `connect_to` or `listen_connections` while the former connection is
    still being left, waits for that.

    Every method may be cancelled. Who cancels `connect_to`, `listen_connections` or `accept_connection` leaves the
    remote peer; who cancels `open` or `close` has everything closed.

    Args:
        serverAddress: URL of the server, such as `wss://127.0.0.1:8000`.
        peer_type: Our type, for others to see.
        id: Our id, unique on the server; a random one if it is not given: see the attribute `id`.
        key: The key for the server.
        media_source: The video to send: a path, a URL or a camera device (see `DeepIO`).
        media_sink: File to record the remote peers' video to; its name tells the format.
        frame_generator: What makes the video to send, if there is no `media_source`: a generator function, plain or
            async, begun anew for every connection, or an iterator. Each frame is an array (H, W, 3) of uint8 in BGR
            order. It runs in a thread of its own, unless it is async.
        frame_consumer: Called with the newest frame of the remote peer, an array (H, W, 3) of uint8 in BGR order: a
            function, any other callable, or a coroutine function. Without one, and without `media_sink`, video is
            refused.
        frame_rate: Frames per second taken from the generator.
        ssl_context: Checks the server's certificate; without it the system's authorities do, or what the environment
            says (DEEPIO_TLS_CA, DEEPIO_TLS_FINGERPRINT, DEEPIO_TLS_INSECURE).
        datachannel_options: For the data channel, which the called side makes: any of `label`, `ordered`,
            `maxRetransmits`, `maxPacketLifeTime` (milliseconds), `protocol`.
        media_source_format: FFmpeg's name of the format of `media_source`; None, or `autodetect`, to detect it.
        media_options: FFmpeg's options for `media_source`.
        tls_fingerprint: SHA-256 of the server's certificate, to trust it alone.
        allow_plain: Allow `ws://` to another machine.
        ice_servers: STUN and TURN servers; none by default.
        frame_format: What `frame_consumer` gets instead of BGR: "rgb24", "bgra", "rgba", "gray", "yuv420p" or "nv12"
            for another array of uint8, "av" for the `av.VideoFrame` as it came.

    Raises:
        DeepIOError: An argument cannot be used; the message says which and what to do.
    """

    def __init__(
        self,
        serverAddress: str,  # noqa: N803 - the documented name
        peer_type: str = "media-server",
        id: str | None = None,  # noqa: A002 - the documented name
        key: str | None = None,
        media_source: str | Path | None = None,
        media_sink: str | None = None,
        frame_generator: FrameFeed | None = None,
        frame_consumer: Handler | None = None,
        frame_rate: float = 30,
        ssl_context: ssl.SSLContext | None = None,
        datachannel_options: Mapping[str, Any] | None = None,
        media_source_format: str | None = None,
        media_options: Mapping[str, str] | None = None,
        *,
        tls_fingerprint: str | None = None,
        allow_plain: bool | None = None,
        ice_servers: Sequence[IceServer] = (),
        frame_format: str = "bgr24",
    ) -> None:
        if frame_consumer is not None and not callable(frame_consumer):
            raise LocalProtocolError("frame_consumer cannot be called.", remedy="Give a function of one argument.")
        if not id:
            # The server would give us one and not tell it; and take the key for it, for all to see.
            id = str(uuid.uuid4())  # noqa: A001 - the documented name
            logger.info("No id was given: this peer calls itself %s.", id)
        address = build_address(serverAddress, None, peer_type=peer_type, peer_id=id, key=key or None)
        source, fresh = _make_source(media_source, media_source_format, media_options, frame_generator, frame_rate)
        self.config = PeerSettings(
            address=address,
            peer=PeerConfig(peer_id=address.peer_id),
            engine=EngineConfig(
                source=source,
                fresh_source=fresh,
                receive_video=frame_consumer is not None,
                media_sink=media_sink,
                ice_servers=tuple(ice_servers),
                channel=_channel(datachannel_options or {}),
            ),
            tls=TLSOptions.from_environment(os.environ, ssl_context=ssl_context or None, fingerprint=tls_fingerprint),
            allow_plain=allow_plain,
            frame_format=check_frame_format(frame_format),
        )
        """All settings."""
        self.id: str = address.peer_id
        """Our id as the peer list shows it: percent-encoded."""
        self.url: str = address.redacted
        """The URL on the server, with `***` for the key."""
        self.disconnection_event = asyncio.Event()
        """Set when a connection ends, and cleared once it has been left: who waits for it learns of the end."""
        self._frame_consumer = frame_consumer
        self._data_handlers: list[Handler] = []
        self._client: PeerClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resting = PeerState.STARTING
        self._failure: BaseException | None = None

    @property
    def readyState(self) -> PeerState:  # noqa: N802 - the documented name
        """The state."""
        return self._resting if self._client is None else self._client.state

    # --- The life ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to the server, and be ONLINE. May be called again after `close`, or when the server was lost.

        Raises:
            ServerUnreachableError: The server cannot be reached, or refuses us; it is a ConnectionError too.
            PeerStateError: The peer is open.
            DeepIOError: The source or the sink cannot be opened, or a setting cannot be used.
        """
        self._raise_failure()
        if self._client is not None:
            if self._client.state is not PeerState.CLOSED:
                raise PeerStateError("The peer is open already.")
            await self.close()  # the server was lost, and the rest has just to end
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            self.disconnection_event = asyncio.Event()  # the other one belongs to the other loop
        self._loop = loop
        client = PeerClient(
            self.config,
            data_handlers=self._data_handlers,
            frame_consumer=self._frame_consumer,
            on_event=self._on_event,
        )
        task = loop.create_task(client.run(), name=f"Peer {self.id}")
        self._client, self._task = client, task
        try:
            await client.opened()
        except BaseException:
            self._client = self._task = None
            task.cancel()
            await _end_of(task)
            raise
        task.add_done_callback(self._on_done)

    async def close(self) -> None:
        """Leave the remote peer and the server; does nothing if all is closed. Bounded in time.

        May be called by a handler of this peer, which then has a second to finish.

        Raises:
            Exception: What went wrong in the background since the last call, if anything.
        """
        client, task = self._client, self._task
        if client is not None and task is not None:
            try:
                await client.close()
                if not client.in_handler:
                    await _end_of(task)
            except asyncio.CancelledError:
                task.cancel()
                await _end_of(task)
                raise
            finally:
                if self._task is task:
                    self._client = self._task = None
        self._resting = PeerState.CLOSED
        self._raise_failure()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # --- Peers -------------------------------------------------------------------------------------------------

    async def get_peers(self) -> list[dict[str, Any]]:
        """All peers of the server, ourselves included: dictionaries of `id`, `type` and `busy`.

        Raises:
            PeerStateError: "Not in ONLINE state!"
            PeerError: "Server not responding!", or the server is lost.
        """
        return [dataclasses.asdict(peer) for peer in await self._open_client(PeerState.ONLINE).list_peers()]

    async def connect_to(self, remote_peer_id: str) -> None:
        """Connect to a listening peer.

        Raises:
            PeerStateError: "Not in ONLINE state!"
            PeerError: What the server says ("Remote peer does not exists!", "Remote peer is busy!"), "Cannot pair with
                peer!", or why the connection has not come about. Its `cause` is for programs.
            LocalProtocolError: It is our own id, or none.
        """
        await self._open_client(PeerState.ONLINE).connect(remote_peer_id)

    async def listen_connections(self) -> str:
        """Wait for another peer to connect, and return its id; then `accept_connection` in 15 s.

        Raises:
            PeerStateError: "Not in ONLINE state!"
            PeerError: "Websocket connection closed while waiting for a signal"
        """
        return await self._open_client(PeerState.ONLINE).listen()

    async def accept_connection(self) -> None:
        """Connect to the peer that `listen_connections` has returned.

        Raises:
            PeerStateError: "Not in CONNECTING state!": it has left meanwhile, or there was none.
            PeerError: The connection has not come about.
        """
        await self._open_client(PeerState.CONNECTING).accept()

    async def disconnect(self, error: str | Exception | None = None) -> None:
        """Leave the remote peer, and be ONLINE; does nothing without one.

        Args:
            error: Why. A text is logged. An exception has everything closed, and is raised.

        Raises:
            Exception: `error`.
        """
        self._raise_failure()
        if self._client is None or self._client.state not in {PeerState.CONNECTING, PeerState.CONNECTED}:
            return
        if error is not None:
            logger.error("Disconnecting: %s", error)
        await self._client.disconnect()
        if isinstance(error, Exception):
            await self.close()
            raise error

    # --- Messages ----------------------------------------------------------------------------------------------

    async def send(self, data: JSON) -> None:
        """Send a message to the remote peer: any JSON value.

        Raises:
            PeerStateError: "Not in CONNECTED state!"
            LocalProtocolError: It is not JSON, or larger than the remote peer takes.
        """
        await self._open_client(PeerState.CONNECTED).send(data)

    async def recv(self) -> JSON:
        """The newest message of the remote peer; waits for one if the newest has been returned already.

        Raises:
            PeerStateError: "Not in CONNECTED state!"
            PeerError: The connection has ended before one came.
        """
        return await self._open_client(PeerState.CONNECTED).receive()

    def add_data_handler(self, handler: Handler) -> None:
        """Have `handler` called with each message that comes, over all connections, in order.

        Args:
            handler: A function or coroutine function of one argument. If it raises, that is logged.
        """
        self._data_handlers.append(handler)

    def remove_data_handler(self, handler: Handler) -> None:
        """Undo `add_data_handler`.

        Raises:
            ValueError: There is no such handler.
        """
        self._data_handlers.remove(handler)

    # --- Inside ------------------------------------------------------------------------------------------------

    def _open_client(self, needed: PeerState) -> PeerClient:
        self._raise_failure()
        if self._client is None:
            raise PeerStateError(f"Not in {needed.name} state!", detail="The peer is not open: await open() first.")
        return self._client

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _on_event(self, event: outputs.PeerEvent) -> None:
        if isinstance(event, outputs.StateChanged):
            if event.old is PeerState.CONNECTED:
                self.disconnection_event.set()
            if event.new in {PeerState.ONLINE, PeerState.CLOSED}:
                self.disconnection_event.clear()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.error("The peer %s has failed.", self.id, exc_info=failure)
            self._failure = failure


async def _end_of(task: asyncio.Task[None]) -> None:
    """Wait for the end of a task, however it ends; its exception is somebody else's."""
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


def _make_source(
    media_source: str | Path | None,
    media_format: str | None,
    media_options: Mapping[str, str] | None,
    frame_generator: FrameFeed | None,
    frame_rate: float,
) -> tuple[Callable[[], Source] | None, bool]:
    """What makes the source, and whether every connection is to begin it anew; raises if it is no source."""
    if media_source is not None:
        media: str | Path = media_source
        container = None if media_format == "autodetect" else media_format

        def make() -> Source:
            return parse_source(media, format=container, options=media_options)

        make()
        pattern = str(media).startswith("test:")
        return make, not pattern and SourceUrl.parse(media, container).kind is SourceKind.FILE
    if frame_generator is None:
        return None, False
    feed: FrameFeed = frame_generator

    def make_frames() -> Source:
        return parse_source(feed, frame_rate=frame_rate)

    make_frames()
    return make_frames, callable(feed)


def _channel(options: Mapping[str, Any]) -> ChannelOptions:
    unknown = options.keys() - _CHANNEL_KEYS.keys()
    if unknown:
        raise LocalProtocolError(
            f"datachannel_options has no {' and no '.join(sorted(unknown))}.",
            remedy=f"Its keys are {', '.join(_CHANNEL_KEYS)}.",
        )
    return ChannelOptions(**{_CHANNEL_KEYS[name]: value for name, value in options.items()})
