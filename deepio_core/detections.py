"""What a DEEP detector has found in a frame, as one typed view over all generations of the result format.

The field names come from the collector and the detectors of deep_framework. Everything here reads decoded
JSON of a remote peer: what is missing or of the wrong kind becomes None or is left out, and nothing raises.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING, NamedTuple

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepio_core.jsontext import JSON

_STRUCTURE = frozenset({"pid", "id", "rect", "points", "class"})
"""Keys of an object that describe the object itself; every other key is the name of a descriptor."""


class Box(NamedTuple):
    """A bounding box in pixels of the analysed frame, as sent: not clipped and not sorted.

    The origin is the top left corner of the frame; `DataMessage.last_frame_shape` tells the frame's size.
    """

    left: float
    top: float
    right: float
    bottom: float


class Keypoint(NamedTuple):
    """One marked point of an object, such as the left eye of a face, in pixels of the analysed frame."""

    x: float
    y: float
    tag: str | None
    """What the point marks; None if the detector does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """What one descriptor says about an object or about the whole frame."""

    value: JSON
    """Whatever the descriptor's model returns: a string, a number, pairs of label and probability, ..."""
    vc_time: float | None
    """Capture time, in Unix seconds, of the frame that the descriptor has seen. It is often older than the
    detector's: descriptors are slower. None before April 2021, when stream managers did not send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One object in one frame."""

    id: str | None
    """`pid`: the same for one object as long as the tracker follows it; unique per detector only. `id` in
    older documents. Numbers, which some trackers use, are told as text."""
    class_name: str | None
    """`class`: such as `face` or `small_vehicle`; inside `rect` until September 2020."""
    box: Box | None
    """`rect`: where the object is; None unless all four coordinates are numbers."""
    points: tuple[Keypoint, ...]
    """`points`: the marked points of the object; unreadable ones are left out."""
    attributes: Mapping[str, Attribute]
    """One entry for each descriptor that has seen the object, by the descriptor's name."""
    raw: Mapping[str, JSON] = field(compare=False, repr=False)
    """The object as it was sent. Shared with the message: do not change it."""


def read_detections(objects: JSON) -> tuple[Detection, ...]:
    """Read the `objects` (or `data`) list of a `data` message.

    Args:
        objects: The decoded list. Elements that are no JSON objects are left out; anything but a list
            holds no detections.

    Returns:
        The detections in the order of the list.
    """
    if not isinstance(objects, list):
        return ()
    return tuple([_read_detection(raw) for raw in objects if isinstance(raw, dict)])


def read_attributes(descriptors: JSON) -> dict[str, Attribute]:
    """Read `frame_attributes`: descriptor name to value, with or without a time of its own.

    Args:
        descriptors: The decoded object; anything else holds no attributes.

    Returns:
        A new dictionary in the order of the message.
    """
    if not isinstance(descriptors, dict):
        return {}
    return {name: _read_attribute(value) for name, value in descriptors.items()}


def is_timed(value: JSON) -> bool:
    """Whether a descriptor's value is in the `{"value": ..., "vc_time": ...}` form (since April 2021)."""
    return isinstance(value, dict) and "value" in value and "vc_time" in value


def read_number(value: JSON) -> float | None:
    """Read a finite number.

    Returns:
        The number; None for anything else, booleans and integers beyond the range of a float included.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return value if isinstance(value, float) and math.isfinite(value) else None


def _read_detection(raw: dict[str, JSON]) -> Detection:
    rect = raw.get("rect")
    return Detection(
        id=_read_id(raw.get("pid", raw.get("id"))),
        class_name=_read_class(raw, rect),
        box=_read_box(rect),
        points=_read_points(raw.get("points")),
        attributes={name: _read_attribute(value) for name, value in raw.items() if name not in _STRUCTURE},
        raw=raw,
    )


def _read_attribute(value: JSON) -> Attribute:
    if isinstance(value, dict) and is_timed(value):
        return Attribute(value=value["value"], vc_time=read_number(value["vc_time"]))
    return Attribute(value=value, vc_time=None)


def _read_id(pid: JSON) -> str | None:
    if isinstance(pid, str):
        return pid
    # Trackers count from zero. The bound keeps away from Python's limit on turning huge integers into text.
    if isinstance(pid, int) and not isinstance(pid, bool) and abs(pid) < 2**63:
        return str(pid)
    return None


def _read_class(raw: dict[str, JSON], rect: JSON) -> str | None:
    # The places in which detectors have put it, newest first; `properties` belongs to deep_framework's Rect.
    places = [raw, rect, rect.get("properties") if isinstance(rect, dict) else None]
    for place in places:
        if isinstance(place, dict) and isinstance(name := place.get("class"), str):
            return name
    return None


def _read_box(rect: JSON) -> Box | None:
    if not isinstance(rect, dict):
        return None
    if "top_left_point" in rect:  # deep_framework's Rect, serialised without the detector's flattening
        left, top = _read_coordinates(rect["top_left_point"])
        right, bottom = _read_coordinates(rect.get("bottom_right_point"))
    else:
        left, top = read_number(rect.get("x_topleft")), read_number(rect.get("y_topleft"))
        right, bottom = read_number(rect.get("x_bottomright")), read_number(rect.get("y_bottomright"))
    if left is None or top is None or right is None or bottom is None:
        return None
    return Box(left, top, right, bottom)


def _read_points(points: JSON) -> tuple[Keypoint, ...]:
    if not isinstance(points, list):
        return ()
    read = [_read_point(point) for point in points]
    return tuple([point for point in read if point is not None])


def _read_point(point: JSON) -> Keypoint | None:
    tag: JSON = None
    if isinstance(point, list) and len(point) >= 2:
        x, y = read_number(point[0]), read_number(point[1])
        tag = point[2] if len(point) > 2 else None
    else:
        x, y = _read_coordinates(point)
        if isinstance(point, dict) and isinstance(properties := point.get("properties"), dict):
            tag = properties.get("tag")
    if x is None or y is None:
        return None
    return Keypoint(x, y, tag if isinstance(tag, str) else None)


def _read_coordinates(point: JSON) -> tuple[float | None, float | None]:
    """Read deep_framework's Point: `{"x_coordinate": ..., "y_coordinate": ..., "properties": {...}}`."""
    if not isinstance(point, dict):
        return None, None
    return read_number(point.get("x_coordinate")), read_number(point.get("y_coordinate"))
