"""The results of a stream manager: what it counts, and the `data` messages that it sends.

The fields are those of stream_manager.py in the DEEP Framework, v0.10 and v1.0.16. A message holds the objects twice:
under `objects`, as stream managers have sent them since October 2020, and under `data`, for programs written before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from deepio_core.detections import Attribute, Box, Keypoint, read_number
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_core.jsontext import JSON

_CORNERS = ("x_topleft", "y_topleft", "x_bottomright", "y_bottomright")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedObject:
    """One object in one frame, as a detector tells it."""

    id: str
    """The same for one object as long as it is followed; unique for this detector."""
    box: Box
    """Where the object is, in pixels of the frame."""
    class_name: str | None = None
    """What it is, such as `face`."""
    points: tuple[Keypoint, ...] = ()
    """Marked points of the object, in pixels of the frame."""
    attributes: Mapping[str, Attribute] = field(default_factory=dict[str, Attribute])
    """What descriptors say about the object, by the descriptor's name."""


class StreamStatistics:
    """What a stream manager counts while one camera is connected. Times are Unix seconds on its own clock."""

    def __init__(self) -> None:
        self.received_frames = 0
        """Frames received from the camera."""
        self.processed_frames = 0
        """Results of the detector."""
        self.messages_sent = 0
        """`data` messages sent."""
        self.acknowledged = 0
        """Acknowledges received."""
        self.round_trip: float = 0
        """Seconds from sending a result to its acknowledge, measured last; 0 before the first."""
        self.last_frame_shape: tuple[int, ...] = (720, 1280, 3)
        """Shape of the last frame: height, width, channels."""
        self._last_rec_time: float | None = None

    def on_frame(self, shape: tuple[int, ...]) -> None:
        """Count a frame of the shape (height, width, channels)."""
        self.received_frames += 1
        self.last_frame_shape = shape

    def on_acknowledge(self, rec_time: float | None, *, now: float) -> None:
        """Take the time that an acknowledge echoes.

        What is no time, None or an integer beyond the range of a float, as from broken clients, counts for nothing.
        """
        sent = read_number(rec_time)
        if sent is not None:
            self.acknowledged += 1
            self.round_trip = now - sent

    def data_message(
        self,
        objects: Iterable[DetectedObject],
        *,
        vc_time: float,
        collector_time: float,
        rec_time: float,
        generated_frames: int = 0,
        detector_category: str = "",
        frame_attributes: Mapping[str, Attribute] | None = None,
        held_frames: int = 0,
    ) -> dict[str, JSON]:
        """The `data` message for one result, which is counted as sent.

        Args:
            objects: What the detector has found.
            vc_time: When the frame was received.
            collector_time: When the detector was done.
            rec_time: Now; the camera echoes it.
            generated_frames: Frames sent back as video.
            detector_category: Which detector this is.
            frame_attributes: What descriptors say about the whole frame, by the descriptor's name.
            held_frames: How many later frames had to begin before this one was received: aiortc waits for one. The
                stream managers of the DEEP Framework do not tell.
        """
        found = list(objects)
        # First what can fail, with objects that are none: what is not sent is not counted.
        timed: list[JSON] = [_timed_object(one) for one in found]
        old: list[JSON] = [_old_object(one) for one in found]
        period = 0.0 if self._last_rec_time is None else rec_time - self._last_rec_time
        self._last_rec_time = rec_time
        self.processed_frames += 1
        self.messages_sent += 1
        return {
            "type": "data",
            "received_frames": self.received_frames,
            "processed_frames": self.processed_frames,
            "generated_frames": generated_frames,
            "messages_sent": self.messages_sent,
            "last_frame_shape": list(self.last_frame_shape),
            "round_trip": self.round_trip,
            "deep_delay": rec_time - vc_time,
            "processing_period": period,
            "collector_time": collector_time,
            "vc_time": vc_time,
            "held_frames": held_frames,
            "rec_time": rec_time,
            "detector_category": detector_category,
            "objects": timed,
            "frame_attributes": _timed_attributes(frame_attributes or {}),
            "data": old,
        }


def _timed_object(one: DetectedObject) -> dict[str, JSON]:
    return {
        **_timed_attributes(one.attributes),
        "pid": one.id,
        "rect": _corners(one.box),
        "points": _points(one.points),
        "class": one.class_name or "",
    }


def _old_object(one: DetectedObject) -> dict[str, JSON]:
    bare: dict[str, JSON] = {name: attribute.value for name, attribute in one.attributes.items()}
    rect = {**_corners(one.box), "class": one.class_name or ""}
    return {**bare, "pid": one.id, "rect": rect, "points": _points(one.points)}


def _timed_attributes(attributes: Mapping[str, Attribute]) -> dict[str, JSON]:
    return {name: {"value": one.value, "vc_time": one.vc_time} for name, one in attributes.items()}


def _corners(box: Box) -> dict[str, JSON]:
    return dict(zip(_CORNERS, box, strict=True))


def _points(points: tuple[Keypoint, ...]) -> JSON:
    return [[point.x, point.y, point.tag] for point in points]
