"""Detectors: plain callables from a frame to the objects in it. The default one finds what moves."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from deepio_core.detections import Box
from deepio_core.errors import DeepIOError
from deepio_core.results import DetectedObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Detector", "DetectorError", "MotionDetector", "load_detector"]

Detector: TypeAlias = "Callable[[NDArray[np.uint8]], Sequence[DetectedObject]]"
"""Takes a BGR frame (H, W, 3) of uint8 and returns the objects in it, boxes in pixels of the frame. It is called in a
worker thread, with one frame at a time."""

WORK_WIDTH: Final = 320
"""Pixels of width that the motion detector works on: what moves is found as well as at full size, ten times faster."""

MIN_AREA: Final = 0.0005
"""Share of the picture below which a moving blob is noise."""

MAX_OBJECTS: Final = 50
"""Objects told at most, the largest ones: more is no object but a camera that shakes."""

MAX_DISTANCE: Final = 0.15
"""Share of the picture's diagonal that an object may move from one frame to the next and still be the same."""

FORGET_AFTER: Final = 10
"""Frames without being seen after which an object is forgotten."""


class DetectorError(DeepIOError):
    """A detector cannot be loaded."""


def load_detector(name: str) -> Detector:
    """Load a detector by its name.

    Args:
        name: `module:name`, where the name is a function `frame -> objects`, or a class whose objects are; of a class
            one object is made for each camera. Empty for the default.

    Raises:
        DetectorError: There is no such thing, or it cannot be called.
    """
    if not name:
        return MotionDetector()
    module_name, _, attribute = name.partition(":")
    remedy = "Name it as module:function, from a module that Python can import here."
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        if isinstance(found, type):
            found = found()
    except Exception as error:  # a module may do anything while it is imported
        why = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise DetectorError(f"The detector {name!r} cannot be loaded: {why}.", remedy=remedy) from error
    if not callable(found):
        raise DetectorError(f"The detector {name!r} cannot be called.", remedy=remedy)
    return cast("Detector", found)


class MotionDetector:
    """Finds what moves in front of a background that does not, and follows it: boxes with stable ids.

    The background is learnt (OpenCV's MOG2); blobs keep the id of the nearest one of the frame before.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._tracks: dict[int, tuple[float, float, int]] = {}  # id -> centre, frames unseen; bounded: MAX_OBJECTS
        self._next_id = 1

    def __call__(self, frame: NDArray[np.uint8]) -> list[DetectedObject]:
        """The moving objects in a BGR frame (H, W, 3) of uint8; none in the first one, which is all background."""
        import cv2

        scale = min(1.0, WORK_WIDTH / frame.shape[1])
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if frame.shape != self._shape:
            self._shape = frame.shape
            self._background = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=25, detectShadows=False)
            self._background.apply(small)
            self._tracks.clear()
            return []
        mask = self._background.apply(small)
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3)))
        mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_RECT, (5, 5)), iterations=2)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        least = MIN_AREA * mask.shape[0] * mask.shape[1]
        rects = [rect for rect in map(cv2.boundingRect, outlines) if rect[2] * rect[3] >= least]
        rects.sort(key=lambda rect: rect[2] * rect[3], reverse=True)
        boxes = [
            Box(x / scale, y / scale, (x + width) / scale, (y + height) / scale)
            for x, y, width, height in rects[:MAX_OBJECTS]
        ]
        return [
            DetectedObject(id=str(identity), box=box, class_name="moving")
            for identity, box in zip(self._follow(boxes), boxes, strict=True)
        ]

    def _follow(self, boxes: list[Box]) -> list[int]:
        """The id of each box: that of the nearest object of the frame before, each once, or a new one."""
        height, width = self._shape[:2]
        reach = MAX_DISTANCE * (height**2 + width**2) ** 0.5
        centres = [((box.left + box.right) / 2, (box.top + box.bottom) / 2) for box in boxes]
        pairs = sorted(
            (((x - seen[0]) ** 2 + (y - seen[1]) ** 2) ** 0.5, index, identity)
            for index, (x, y) in enumerate(centres)
            for identity, seen in self._tracks.items()
        )
        ids: dict[int, int] = {}
        for distance, index, identity in pairs:
            if distance <= reach and index not in ids and identity not in ids.values():
                ids[index] = identity
        for index in range(len(boxes)):
            if index not in ids:
                ids[index] = self._next_id
                self._next_id += 1
        unseen = {
            identity: (x, y, age + 1)
            for identity, (x, y, age) in self._tracks.items()
            if identity not in ids.values() and age < FORGET_AFTER
        }
        seen_now = {ids[index]: (x, y, 0) for index, (x, y) in enumerate(centres)}
        self._tracks = dict(list((seen_now | unseen).items())[: 2 * MAX_OBJECTS])
        return [ids[index] for index in range(len(boxes))]
