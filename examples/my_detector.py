"""A detector of one's own: the brightest spot of the picture.

    deepio demo --detector my_detector:brightest       # in this folder
    deepio serve --detector my_detector:brightest

A detector is a function from a frame, a BGR array (H, W, 3) of uint8, to the objects in it. It is called in a worker
thread, always with the newest frame. Where it remembers something from frame to frame, name a class instead: each
camera gets an object of its own, which is called with the frames.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from deepio_core.detections import Attribute, Box, Keypoint
from deepio_core.results import DetectedObject

HALF = 20


def brightest(frame: NDArray[np.uint8]) -> list[DetectedObject]:
    """One object, around the brightest spot; none in a dark picture."""
    gray = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (9, 9), 0)
    _, brightness, _, (x, y) = cv2.minMaxLoc(gray)
    if brightness < 50:
        return []
    return [
        DetectedObject(
            id="spot",
            box=Box(x - HALF, y - HALF, x + HALF, y + HALF),
            class_name="light",
            points=(Keypoint(x, y, "brightest"),),
            attributes={"brightness": Attribute(value=brightness, vc_time=None)},
        )
    ]
