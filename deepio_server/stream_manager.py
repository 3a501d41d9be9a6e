"""A stream manager: a peer that listens for cameras, one at a time, and answers their video with results.

Towards a camera it behaves as stream_manager.py of the DEEP Framework v0.10 does; its one detector is in its process.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import numpy as np

from deepio_adapters.client import Client, ClientConfig
from deepio_adapters.engine import ChannelOptions, EngineConfig
from deepio_adapters.sources import parse_source
from deepio_core import outputs
from deepio_core.address import build_address
from deepio_core.config import PeerConfig
from deepio_core.errors import DeepIOError, LocalProtocolError
from deepio_core.messages import (
    AcknowledgeMessage,
    MetadataMessage,
    SourceDisconnectedMessage,
    SourceMessage,
    WarningMessage,
    to_json,
)
from deepio_core.policy import ListenForCallers, SessionConfig
from deepio_core.results import StreamStatistics
from deepio_core.session import Retrying, SessionEnded
from deepio_core.states import PeerState

if TYPE_CHECKING:
    from anyio.abc import TaskStatus
    from numpy.typing import NDArray

    from deepio_adapters.frames import ReceivedFrame
    from deepio_adapters.link import SignalingLink
    from deepio_core.jsontext import JSON
    from deepio_core.messages import Message
    from deepio_core.session import SessionEvent
    from deepio_server.detectors import Detector

__all__ = ["StreamManager", "StreamManagerError"]

logger = logging.getLogger(__name__)

ECHO_RATE: Final = 10.0
"""Frames per second of the video that goes back, as DEEP's stream managers send it. Nothing is encoded for a camera
that does not want it."""

DARK: Final[NDArray[np.uint8]] = np.zeros((720, 1280, 3), np.uint8)
"""What goes back before a camera's first frame, and after its last one."""

CHANNEL: Final = ChannelOptions(ordered=False, max_retransmits=0)
"""The data channel of DEEP's stream managers: a result that is late is worth nothing."""


class StreamManagerError(DeepIOError):
    """A stream manager cannot begin."""


class StreamManager:
    """One stream manager, and the peer where its results can be watched; `run` it in a task.

    Args:
        connect: Opens a signaling link for a path `/type/id`.
        detector: Finds objects.
        peer_id: Our id. Viewers connect to the peer of type `webrtc_stream` with this id and `_output` behind it, and
            get what the camera gets, as from stream_manager.py v1.0.16.
        peer_type: Our type.
    """

    def __init__(
        self,
        connect: Callable[[str], AbstractAsyncContextManager[SignalingLink]],
        detector: Detector,
        *,
        peer_id: str = "stream_manager",
        peer_type: str = "stream_manager",
    ) -> None:
        self.metadata: JSON = None
        """What the camera has said about itself."""
        self.statistics = StreamStatistics()
        """What has been counted since the camera connected."""
        self._detector = detector
        self._picture = DARK
        self._watching = True
        self._connection: int | None = None
        self.camera = self._listener(connect, peer_type, peer_id, receive_video=True)
        """The client that listens for cameras."""
        self.viewer = self._listener(connect, "webrtc_stream", f"{peer_id}_output", receive_video=False)
        """The client that listens for viewers."""

    def _listener(
        self,
        connect: Callable[[str], AbstractAsyncContextManager[SignalingLink]],
        peer_type: str,
        peer_id: str,
        *,
        receive_video: bool,
    ) -> Client:
        # Not a network address: the link is made by `connect`.
        address = build_address("ws://localhost", 80, peer_type=peer_type, peer_id=peer_id)
        return Client(
            ClientConfig(
                address=address,
                session=SessionConfig(
                    peer=PeerConfig(peer_id=address.peer_id), policy=ListenForCallers(), greets=False
                ),
                engine=EngineConfig(
                    source=functools.partial(parse_source, self._echo, frame_rate=ECHO_RATE),
                    fresh_source=True,  # or a camera would be shown the last picture of the one before
                    receive_video=receive_video,
                    channel=CHANNEL,
                ),
                dial=functools.partial(connect, f"/{address.peer_type}/{address.peer_id}"),
            )
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve one camera and one viewer after the other, until cancelled; started once both can call.

        Raises:
            StreamManagerError: The signaling server does not take us.
        """
        begun = anyio.Event()
        failures: list[str] = []

        def look(event: SessionEvent) -> None:
            if isinstance(event, Retrying | SessionEnded) and not begun.is_set():
                failures.append(event.detail)  # what a server in the same process refuses it will not take later
                begun.set()
            if self.camera.state is self.viewer.state is PeerState.LISTENING:
                begun.set()

        self.camera.add_event_handler(self._on_event)
        self.camera.add_event_handler(look)
        self.viewer.add_event_handler(look)
        async with self.camera, self.viewer, anyio.create_task_group() as tasks:
            await begun.wait()
            if failures:
                raise StreamManagerError(f"A stream manager cannot connect: {failures[0]}.")
            task_status.started()
            tasks.start_soon(self._listen)
            async for frame in self.camera.frames():
                if self._watching:
                    await self._answer(frame)

    async def _answer(self, frame: ReceivedFrame) -> None:
        vc_time = time.time() - (time.monotonic() - frame.received_at)
        picture = await anyio.to_thread.run_sync(frame.to_ndarray)
        if frame.negotiation != self._connection or not self._watching:
            return  # its camera has left, and another one may not see its picture; or is not to be watched after all
        statistics = self.statistics  # not before: its connection may have been told meanwhile
        self._picture = picture
        statistics.on_frame(picture.shape)
        try:
            # A detector that hangs may not keep the core from ending.
            objects = await anyio.to_thread.run_sync(self._detector, picture, abandon_on_cancel=True)
            done = time.time()
            message = statistics.data_message(
                objects,
                vc_time=vc_time,
                collector_time=done,
                rec_time=time.time(),
                generated_frames=self.camera.stats().frames_sent,
                detector_category=getattr(self._detector, "__name__", type(self._detector).__name__),
                held_frames=frame.held_frames,
            )
        except Exception as error:
            logger.exception("The detector has failed.")
            message = to_json(WarningMessage(text=f"The detector has failed: {type(error).__name__}"))
        if frame.negotiation == self._connection:
            await self._send(message, self.camera, self.viewer)

    async def _send(self, message: JSON, *to: Client) -> None:
        for client in to:
            if client.state is PeerState.CONNECTED:
                try:
                    await client.send(message)
                except LocalProtocolError as error:  # larger than the remote peer takes, say
                    # If it has left at this moment, nothing is wrong.
                    if client.state is PeerState.CONNECTED:
                        logger.warning("A message was not sent: %s", error)

    async def _listen(self) -> None:
        async for message in self.camera.messages():
            await self._take(message)

    async def _take(self, message: Message) -> None:
        match message:
            case AcknowledgeMessage():
                self.statistics.on_acknowledge(message.rec_time, now=time.time())
            case MetadataMessage():
                self.metadata = message.metadata
                await self._send(to_json(message), self.viewer)
            case SourceMessage():
                self._watching = message.peer_id == self.camera.remote_id
                if message.peer_id not in {self.camera.remote_id, "none"}:
                    reason = "This stream manager takes the video of its caller only."
                    await self._send(to_json(SourceDisconnectedMessage(reason=reason)), self.camera, self.viewer)
            case _:
                pass

    def _on_event(self, event: SessionEvent) -> None:
        match event:
            case outputs.Connected():
                self.statistics = StreamStatistics()
                self.metadata = None
                self._connection = event.negotiation
                self._watching = True
                logger.info("The camera %s is connected.", event.remote_id)
            case outputs.Disconnected():
                self._connection = None
                self._picture = DARK
                logger.info("The camera %s has left: %s.", event.remote_id, event.detail or event.cause)
            case _:
                pass

    def _echo(self) -> Iterator[NDArray[np.uint8]]:
        """The last picture, again and again, at the pace of whoever asks."""
        while True:
            yield self._picture
