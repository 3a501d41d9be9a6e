"""What the `DeepIO` of both event loops has in common: the documented constructor, handlers and views.

The signature and the behaviour are those of the documented API of deep_io; the keyword-only arguments are additions.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from deepio_adapters.client import Client, ClientConfig, ClientStats, EventHandler, Handler
from deepio_adapters.engine import ChannelOptions, EngineConfig, IceServer
from deepio_adapters.frames import check_frame_format
from deepio_adapters.shared import SharedSource
from deepio_adapters.sources import parse_source
from deepio_adapters.tls import TLSOptions
from deepio_core.address import build_address
from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.jsontext import encode
from deepio_core.media.options import VideoOptions
from deepio_core.policy import ConnectFirst, ConnectTo, ListenForCallers, SessionConfig
from deepio_core.states import PeerState

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from deepio_adapters.reconnecting import ReconnectPolicy
    from deepio_adapters.sources import FrameFeed
    from deepio_adapters.streams import FrameStream, MessageStream, ResultStream
    from deepio_core.jsontext import JSON
    from deepio_core.media.options import VideoMode
    from deepio_core.policy import Policy

__all__ = ["DeepIOBase", "PeerView"]


class PeerView:
    """What programs written for deep_io look at in `DeepIO.peer`.

    Args:
        owner: The DeepIO whose peer this is.
    """

    def __init__(self, owner: DeepIOBase) -> None:
        self._owner = owner

    @property
    def id(self) -> str:
        """Our id on the server, percent-encoded."""
        return self._owner.config.address.peer_id

    @property
    def readyState(self) -> PeerState:  # noqa: N802 - the name of hyperpeer-py
        """The public state."""
        return self._owner.state


class DeepIOBase:
    """The connection between this application and a DEEP core; see the subclass of your event loop.

    Args:
        server_address: URL, name or IP address of the DEEP server. Without a scheme it is `wss://`.
        server_port: Its port, as text or number; None for the scheme's.
        source: The video source: a path, an `http(s)://` or `rtsp(s)://` URL, a camera device such as `/dev/video0`,
            `test:[WIDTHxHEIGHT][@RATE]` for the test pattern, or what makes frames: a (sync or async) generator, or a
            function that returns one, of uint8 arrays of shape (H, W, 3) in BGR order. A `SharedSource` to send the
            same video with several DeepIOs. None to send no video.
        peer_id: Our id, unique on the server; other peers find us by it.
        peer_type: Our type; tells others the role of the peer.
        format: FFmpeg's name of the source's format, such as `mpjpeg` or `v4l2`; None to detect it.
        metadata: Describes the video source: any JSON value. Sent after every connection.
        remotePeerId: Connect to the peer with this id.
        auto_connect: Connect to the first free peer of `remote_types`. If neither this nor `remotePeerId` is given,
            wait for others to connect.
        stream_manager_id: The same as `remotePeerId`, under its name in deep_io 0.1.1.
        source_id: Whose video the stream manager is to use, if not ours: id of a peer (see
            `deepio_core.policy.SessionConfig`).
        remote_types: The types that `auto_connect` looks for.
        key: The key for the server.
        ssl_context: Checks the server's certificate.
        tls_ca: PEM file of the authority, or of the server's own certificate.
        tls_fingerprint: SHA-256 of the server's certificate.
        tls_insecure: Check nothing. Without any of these four the environment is asked: DEEPIO_TLS_CA,
            DEEPIO_TLS_FINGERPRINT, DEEPIO_TLS_INSECURE; without these the system's authorities.
        allow_plain: Allow `ws://` to another machine.
        ice_servers: STUN and TURN servers; none by default.
        channel: The data channel that we make for those who call us.
        keep_frames: Seconds for which frames that are sent are kept, at most 300 of them, so that results come with the
            frame they belong to; for that, copied video is decoded as well. 0 for none.
        receive_video: Frames of the remote peer will be read by `frames()`. A frame handler implies it.
        frame_format: What frame handlers get: "bgr24", "rgb24", "bgra", "rgba", "gray", "yuv420p" or "nv12" for an
            array of uint8 (see `ReceivedFrame.to_ndarray` for its shape), "av" for the `av.VideoFrame` as it came.
        media_sink: File to record the remote peer's video to.
        loop: Start the source again at its end.
        frame_rate: Frames per second, for sources that make frames.
        source_options: FFmpeg's options for the source.
        reconnect: Open a live source again when it is lost, while the connection stays; a
            `deepio_adapters.reconnecting.ReconnectPolicy` to say when.
        audio: Send the sound of the source too, in Opus, if it has any and the remote peer takes it.
        video: "auto" copies the packets of the source when the remote peer can take them, and encodes otherwise;
            "copy", "encode", or a `VideoOptions` with more settings.
        silence_timeout: Seconds without any sign of life after which the remote peer counts as lost; None for never.

    Raises:
        DeepIOError: An argument cannot be used; the message says which and what to do.
    """

    def __init__(
        self,
        server_address: str,
        server_port: str | int | None,
        source: str | Path | FrameFeed | SharedSource | None,
        peer_id: str,
        peer_type: str = "stream_capture",
        format: str | None = None,  # noqa: A002 - the documented name
        metadata: JSON = None,
        remotePeerId: str | None = None,  # noqa: N803 - the documented name
        auto_connect: bool = False,
        *,
        stream_manager_id: str | None = None,
        source_id: str | None = None,
        remote_types: Sequence[str] = ("stream_manager", "deep_input"),
        key: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_fingerprint: str | None = None,
        tls_insecure: bool | None = None,
        allow_plain: bool | None = None,
        ice_servers: Sequence[IceServer] = (),
        channel: ChannelOptions | None = None,
        keep_frames: float = 0.0,
        receive_video: bool = False,
        frame_format: str = "bgr24",
        media_sink: str | None = None,
        loop: bool = False,
        frame_rate: float | None = None,
        source_options: Mapping[str, str] | None = None,
        reconnect: bool | ReconnectPolicy = True,
        audio: bool = False,
        video: VideoMode | VideoOptions = "auto",
        silence_timeout: float | None = 4.5,
    ) -> None:
        encode(metadata)  # raises if it is not JSON

        shared = source if isinstance(source, SharedSource) else None
        if shared is not None and (format or source_options or loop or frame_rate or reconnect is not True):
            raise LocalProtocolError(
                "format, source_options, loop, frame_rate and reconnect are settings of the shared source itself.",
                remedy="Give them to SharedSource.",
            )

        def make_source() -> Any:
            assert source is not None, "asked for only if there is one"
            assert not isinstance(source, SharedSource), "those make their own"
            return parse_source(
                source,
                format=format,
                options=source_options,
                loop=loop,
                frame_rate=frame_rate,
                reconnect=reconnect,
                audio=audio,
            )

        own = source is not None and shared is None
        # Raises if it is none; opens nothing.
        self.source_name = make_source().name if own else "no video" if shared is None else shared.name
        """The source, for people: no secrets."""
        address = build_address(server_address, server_port, peer_type=peer_type, peer_id=peer_id, key=key)
        self.config = ClientConfig(
            address=address,
            session=SessionConfig(
                peer=PeerConfig(peer_id=address.peer_id, silence_timeout=silence_timeout),
                policy=_policy(remotePeerId, stream_manager_id, auto_connect, remote_types),
                metadata=metadata,
                source_id=source_id,
            ),
            engine=EngineConfig(
                source=make_source if own else None,
                shared=shared,
                video=video if isinstance(video, VideoOptions) else VideoOptions(mode=video),
                audio=audio,
                keep_frames=keep_frames,
                receive_video=receive_video,
                media_sink=media_sink,
                ice_servers=tuple(ice_servers),
                channel=channel or ChannelOptions(),
            ),
            tls=TLSOptions.from_environment(
                os.environ,
                ssl_context=ssl_context,
                ca_file=tls_ca,
                fingerprint=tls_fingerprint,
                insecure=tls_insecure,
            ),
            allow_plain=allow_plain,
            frame_format=check_frame_format(frame_format),
        )
        """All settings."""
        self.id = peer_id
        """Our id, as it was given."""
        self.metadata: JSON = metadata
        """The newest metadata."""
        self.peer = PeerView(self)
        """What programs written for deep_io look at."""
        self._client: Client | None = None
        self._context: AbstractAsyncContextManager[Client] | None = None
        self._data_handlers: list[Handler] = []
        self._frame_handlers: list[Handler] = []
        self._result_handlers: list[Handler] = []
        self._event_handlers: list[EventHandler] = []

    # --- The life ----------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the connection is being kept: inside `async with`, `start()` or `run()`."""
        return self._client is not None

    @asynccontextmanager
    async def _live(self) -> AsyncGenerator[Client]:
        """Run a client with all handlers for as long as the block lasts."""
        if self._client is not None:
            raise LocalProtocolError("This DeepIO is running already.", remedy="Make another one, with its own id.")
        client = Client(self.config)
        for handler in self._data_handlers:
            client.add_data_handler(handler)
        for handler in self._frame_handlers:
            client.add_frame_handler(handler)
        for handler in self._result_handlers:
            client.add_result_handler(handler)
        for event_handler in self._event_handlers:
            client.add_event_handler(event_handler)
        self._client = client
        try:
            client.send_metadata(self.metadata)  # not before: another thread may have new metadata just now
            async with client:
                yield client
        finally:
            self._client = None

    async def __aenter__(self) -> Self:
        """Open engine and source, and begin to connect.

        Raises:
            DeepIOError: The source cannot be opened, or a setting cannot be used.
        """
        context = self._live()
        await context.__aenter__()
        self._context = context
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._context is not None, "entered before"
        return await self._context.__aexit__(kind, error, traceback)

    async def start(self) -> None:
        """Connect, and keep connected until `stop`, or until the session ends by itself.

        Raises:
            SessionEndedError: The session has failed.
            DeepIOError: The source cannot be opened, or a setting cannot be used.
        """
        async with self._live() as client:
            await client.wait_ended()

    async def stop(self) -> None:
        """End what `start` does, with goodbyes; does nothing if it does not run."""
        if self._client is not None:
            await self._client.stop()

    @property
    def _running(self) -> Client:
        if self._client is None:
            raise LocalProtocolError(
                "This DeepIO does not run.", remedy="Use it inside `async with`, or while `start()` or `run()` runs."
            )
        return self._client

    # --- What the application asks -----------------------------------------------------------------------------

    def add_data_handler(self, handler: Handler) -> None:
        """Have `handler` called with each message that comes, as JSON value, in the application's event loop.

        Handlers are called one after the other. One that raises is logged, and the others still run. A `data` message
        is acknowledged before.

        Args:
            handler: A function or coroutine function of one argument, named as you like.
        """
        self._data_handlers.append(handler)
        if self._client is not None:
            self._client.add_data_handler(handler)

    def add_frame_handler(self, handler: Handler) -> None:
        """Have `handler` called with the newest frame that came from the remote peer.

        Args:
            handler: A function or coroutine function that takes a BGR array (H, W, 3) of uint8, or what `frame_format`
                says.

        Raises:
            LocalProtocolError: It runs already, and has refused the remote peer's video.
        """
        if self._client is not None:
            self._client.add_frame_handler(handler)
        self._frame_handlers.append(handler)

    def remove_frame_handler(self, handler: Handler) -> None:
        """Undo `add_frame_handler`. While there is no handler and nobody reads `frames()`, no frame is decoded.

        Args:
            handler: The same function.

        Raises:
            ValueError: There is no such handler.
        """
        self._frame_handlers.remove(handler)
        if self._client is not None:
            self._client.remove_frame_handler(handler)

    def add_result_handler(self, handler: Handler) -> None:
        """Have `handler` called with each result that comes, and the frame it belongs to.

        Args:
            handler: A function or coroutine function that takes a `deepio_adapters.pairing.Result`.
        """
        self._result_handlers.append(handler)
        if self._client is not None:
            self._client.add_result_handler(handler)

    def add_event_handler(self, handler: EventHandler) -> None:
        """Have `handler` called with each event: states, failures, retries (see `deepio_core.session`).

        Args:
            handler: A function that does not block.
        """
        self._event_handlers.append(handler)
        if self._client is not None:
            self._client.add_event_handler(handler)

    def messages(self) -> MessageStream:
        """The messages from now on, to be read by `async for`.

        Raises:
            LocalProtocolError: It does not run.
        """
        return self._running.messages()

    def results(self) -> ResultStream:
        """The results from now on, each with the frame it belongs to, to be read by `async for`.

        Raises:
            LocalProtocolError: It does not run.
        """
        return self._running.results()

    def frames(self) -> FrameStream:
        """The newest frames of the remote peer from now on, to be read by `async for`.

        Raises:
            LocalProtocolError: It does not run, or the remote peer's video is refused.
        """
        return self._running.frames()

    async def send(self, message: JSON) -> None:
        """Send one message to the connected remote peer; DEEP peers want an object with a `type`.

        Raises:
            LocalProtocolError: Not connected, or the message is not JSON or too large.
        """
        await self._running.send(message)

    async def wait_connected(self) -> str:
        """Wait until the remote peer is connected; return its id.

        Raises:
            SessionEndedError: The session has failed.
            LocalProtocolError: It does not run, or has ended.
        """
        return await self._running.wait_connected()

    async def wait_ended(self) -> None:
        """Wait until the session ends by itself, say because its video source has ended.

        Raises:
            SessionEndedError: The session has failed.
            LocalProtocolError: It does not run.
        """
        await self._running.wait_ended()

    @property
    def state(self) -> PeerState:
        """The public state; STARTING while it does not run."""
        return PeerState.STARTING if self._client is None else self._client.state

    @property
    def remote_id(self) -> str | None:
        """The remote peer, if there is one."""
        return None if self._client is None else self._client.remote_id

    def stats(self) -> ClientStats:
        """A snapshot of what it does.

        Raises:
            LocalProtocolError: It does not run.
        """
        return self._running.stats()

    def _remember_metadata(self, metadata: JSON) -> None:
        """Send new metadata, now if connected, and after every connection to come; from any thread.

        Raises:
            LocalProtocolError: The metadata is not JSON, or too large.
        """
        encode(metadata)
        old, self.metadata = self.metadata, metadata
        if self._client is not None:
            try:
                self._client.send_metadata(metadata)
            except LocalProtocolError:
                self.metadata = old
                raise


def _policy(
    remote_peer_id: str | None, stream_manager_id: str | None, auto_connect: bool, remote_types: Sequence[str]
) -> Policy:
    if remote_peer_id and stream_manager_id and remote_peer_id != stream_manager_id:
        raise LocalProtocolError(
            "remotePeerId and stream_manager_id name two peers to connect to.", remedy="Give one of them."
        )
    remote_id = remote_peer_id or stream_manager_id
    if remote_id:
        return ConnectTo(remote_id=remote_id)
    if auto_connect:
        return ConnectFirst(peer_types=tuple(remote_types))
    return ListenForCallers()
