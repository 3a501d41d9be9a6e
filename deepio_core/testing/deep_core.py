"""A DEEP core in memory: listens, offers, answers video with detections, and misbehaves when told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from deepio_core import inputs, outputs
from deepio_core.detections import Box
from deepio_core.messages import (
    AcknowledgeMessage,
    ErrorMessage,
    Generation,
    Message,
    MetadataMessage,
    SourceDisconnectedMessage,
    SourceMessage,
    WarningMessage,
    parse_message,
    to_json,
)
from deepio_core.outputs import Cause
from deepio_core.states import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from deepio_core.jsontext import JSON
    from deepio_core.testing.world import World

_LAST_WORD: Final = 0.1
"""Seconds between an `error` and the end. The message and the news that we leave go different ways; a real core closes
the peer connection first, behind its last message."""

_REDIAL_DELAY: Final = 1.0
"""Seconds after which a core whose link broke dials again, as a restarted container would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenObject:
    """An object for the core to report, in the terms of `deepio_core.detections`."""

    class_name: str
    """Such as `face`."""
    box: Box
    """Where it is, pixels."""
    id: str = "1"
    """What the tracker calls it."""
    points: tuple[tuple[float, float, str], ...] = ()
    """Marked points: x, y, what it is."""
    attributes: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"])
    """What descriptors say about it."""


def encode_result(
    objects: Iterable[SeenObject],
    *,
    generation: Generation,
    vc_time: float,
    category: str = "face",
    frame_attributes: Mapping[str, JSON] | None = None,
) -> dict[str, JSON]:
    """The part of a `data` message that a detector makes, as deep_framework's collector sends it.

    Args:
        objects: What is in the frame.
        generation: Which of the three formats.
        vc_time: When the frame was taken, Unix seconds.
        category: Name of the detector; only the newest format has it.
        frame_attributes: What descriptors say about the whole frame; the oldest format has no place for it.
    """

    def describe(attributes: Mapping[str, JSON]) -> dict[str, JSON]:
        if generation is not Generation.TIMED_OBJECTS:
            return dict(attributes)
        return {name: {"value": value, "vc_time": vc_time} for name, value in attributes.items()}

    encoded: list[JSON] = []
    for seen in objects:
        rect: dict[str, JSON] = {
            "x_topleft": seen.box.left,
            "y_topleft": seen.box.top,
            "x_bottomright": seen.box.right,
            "y_bottomright": seen.box.bottom,
        }
        entry: dict[str, JSON] = {"pid": seen.id, "rect": rect, "points": [[*point] for point in seen.points]}
        (rect if generation is Generation.DATA else entry)["class"] = seen.class_name
        encoded.append(entry | describe(seen.attributes))
    if generation is Generation.DATA:
        return {"data": encoded}
    result: dict[str, JSON] = {"objects": encoded, "frame_attributes": describe(frame_attributes or {})}
    return result if generation is Generation.OBJECTS else result | {"detector_category": category}


class FakeDeepCore:
    """A stream manager for the tests of an application.

    It accepts one client at a time, and while one is connected it takes `fps` frames a second for received, looks at
    each with `detect`, and sends what that returns. All methods take effect at once; what they send arrives when the
    world goes on.

    Args:
        world: Where it lives.
        peer_id: Its id.
        peer_type: `stream_manager` (DEEP until 0.10) or `deep_input` (the current framework).
        fps: Frames a second; 0: results only by `send_detections`.
        detect: Called with the number of each frame, from 1.
        generation: The format of results.
        busy: It is there and takes no calls; see `be_busy`.
    """

    def __init__(
        self,
        world: World,
        peer_id: str,
        peer_type: str = "stream_manager",
        *,
        fps: float = 0.0,
        detect: Callable[[int], Sequence[SeenObject]] = lambda _frame: (),
        generation: Generation = Generation.TIMED_OBJECTS,
        busy: bool = False,
    ) -> None:
        self.received: list[Message] = []
        """Every message of its clients, oldest first."""
        self.metadata: JSON = None
        """The newest metadata."""
        self.source_id: str | None = None
        """Whose video the client asked for: `source`, of older cores."""
        self.client_id: str | None = None
        """Who is connected."""
        self.round_trips: list[float] = []
        """Seconds from each result to its acknowledgement."""
        self.unacknowledged: list[float] = []
        """The `rec_time` of each result that was not acknowledged yet."""
        self.offers = True
        """Whether it answers a call; False: the caller waits in vain."""
        self.generation = generation
        """The format of results."""
        self.fps = fps
        """Frames a second."""
        self.detect = detect
        """Called with the number of each frame, from 1."""
        self.frames = 0
        """Frames received from the present client."""
        self._sent = 0
        self._busy = busy
        self._leaves = False
        self._world = world
        self._node = world.add_peer(peer_id, peer_type)
        self._node.listeners.append(self._on_event)
        self._node.on_alarm = self._on_alarm

    @property
    def id(self) -> str:
        """Its id."""
        return self._node.id

    # --- What it can be told to do ---------------------------------------------------------------------------

    def send_detections(self, *objects: SeenObject, frame_attributes: Mapping[str, JSON] | None = None) -> None:
        """Send a result to the client, with statistics."""
        now = self._world.now
        self._sent += 1
        statistics: dict[str, JSON] = {
            "type": "data",
            "received_frames": self.frames,
            "processed_frames": self._sent,
            "generated_frames": 0,
            "messages_sent": self._sent,
            "last_frame_shape": [480, 640, 3],
            "round_trip": self.round_trips[-1] if self.round_trips else 0,
            "deep_delay": 0.0,
            "processing_period": 1 / self.fps if self.fps else -1,
            "collector_time": now,
            "vc_time": now,
            "rec_time": now,
        }
        self.unacknowledged.append(now)
        result = encode_result(objects, generation=self.generation, vc_time=now, frame_attributes=frame_attributes)
        self.send(statistics | result)

    def send(self, message: JSON) -> None:
        """Send any JSON value to the client.

        Raises:
            LocalProtocolError: Nobody is connected.
        """
        self._node.handle(inputs.Send(data=message))

    def send_text(self, text: str | bytes) -> None:
        """Send something to the client that need not be JSON."""
        engine = self._node.engine
        if engine is not None and engine.connected and engine.partner is not None:
            engine.partner.receive(text)

    def warn(self, text: str) -> None:
        """Send a `warning`: the core is late, or about to stop."""
        self.send(to_json(WarningMessage(text=text)))

    def give_up(self, text: str) -> None:
        """Send an `error`, and leave a moment later."""
        self.send(to_json(ErrorMessage(text=text)))
        self._leaves = True
        self._node.alarm = self._world.now + _LAST_WORD

    def lose_source(self, reason: str) -> None:
        """Send `source-disconnected`: the camera that the client asked for has gone."""
        self.send(to_json(SourceDisconnectedMessage(reason=reason)))

    def leave(self) -> None:
        """Leave the client, and listen again."""
        self._node.handle(inputs.Disconnect())

    def go_silent(self) -> None:
        """Lose the network to the client: nothing arrives, and nobody is told."""
        engine = self._node.engine
        if engine is not None:
            engine.lose_network()

    def be_busy(self) -> None:
        """Take no more calls: come back to the server without being ready."""
        self._busy = True
        self._node.handle(inputs.Close())

    def be_free(self) -> None:
        """Take calls again."""
        self._busy = False
        if self._node.machine.stage is Stage.ONLINE:
            self._node.handle(inputs.Listen())

    def crash(self) -> None:
        """End without a word, and start again a second later."""
        self._node.crash()
        self._forget_client()
        self._node.alarm = self._world.now + _REDIAL_DELAY

    # --- What it does by itself ------------------------------------------------------------------------------

    def _on_event(self, event: object) -> None:
        node = self._node
        match event:
            case outputs.ConnectionRequested() if self.offers and node.machine.stage is Stage.INVITED:
                node.handle(inputs.Accept())
            case outputs.Connected(remote_id=remote_id):
                self.client_id = remote_id
                self._wait_for_frame()
            case outputs.DataReceived(data=data):
                self._on_data(data)
            case outputs.Disconnected():
                self._forget_client()
            case outputs.PeerClosed(cause=Cause.LOCAL):
                node.start_again()
            case outputs.PeerClosed():
                node.alarm = self._world.now + _REDIAL_DELAY
            case _:
                pass
        if node.machine.stage is Stage.ONLINE and not self._busy:
            node.handle(inputs.Listen())

    def _on_data(self, data: JSON) -> None:
        message = parse_message(data)
        self.received.append(message)
        match message:
            case AcknowledgeMessage(rec_time=rec_time) if rec_time in self.unacknowledged:
                self.unacknowledged.remove(rec_time)
                self.round_trips.append(self._world.now - rec_time)
            case MetadataMessage(metadata=metadata):
                self.metadata = metadata
            case SourceMessage(peer_id=peer_id):
                self.source_id = peer_id
            case _:
                pass

    def _forget_client(self) -> None:
        self.client_id = None
        self._leaves = False
        self.frames = 0
        self.unacknowledged.clear()
        self._node.alarm = None

    def _wait_for_frame(self) -> None:
        if self.fps:
            self._node.alarm = self._world.now + 1 / self.fps

    def _on_alarm(self) -> None:
        if self.client_id is None:
            self._node.start_again()
        elif self._leaves:
            self.leave()
        else:
            self.frames += 1
            self._wait_for_frame()
            self.send_detections(*self.detect(self.frames))
