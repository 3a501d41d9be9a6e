"""A detector of one's own: a function from a frame to the objects in it.

    deepio demo --detector examples.my_detector:bright_spot
    deepio serve --detector examples.my_detector:RedThings

or, as this file does when it is run, in a program:

    python examples/my_detector.py [VIDEO]

A function is shared by all stream managers. Of a class each manager makes an object of its own, which may remember
things. Either is called in a worker thread, with one frame at a time; of the frames that come meanwhile only the newest
is kept.
"""

from __future__ import annotations

import asyncio
import sys

import cv2
import numpy as np
from numpy.typing import NDArray

from deepio_core.detections import Attribute, Box, Keypoint
from deepio_core.results import DetectedObject


def bright_spot(frame: NDArray[np.uint8]) -> list[DetectedObject]:
    """The brightest spot of a BGR frame (H, W, 3) of uint8."""
    grey = cv2.blur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (15, 15))
    _, brightest, _, (x, y) = cv2.minMaxLoc(grey)
    box = Box(x - 20, y - 20, x + 20, y + 20)
    return [DetectedObject(id="1", box=box, class_name="spot", points=(Keypoint(x, y, f"{brightest:.0f}"),))]


class RedThings:
    """Finds the largest red thing, and says how many frames it has looked at: in DEEP, descriptors say such things."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, frame: NDArray[np.uint8]) -> list[DetectedObject]:
        """The largest red thing of a BGR frame (H, W, 3) of uint8, or nothing."""
        self.frames += 1
        red = cv2.inRange(frame, np.array([0, 0, 120]), np.array([100, 100, 255]))
        outlines, _ = cv2.findContours(red, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        if not outlines:
            return []
        x, y, width, height = cv2.boundingRect(max(outlines, key=cv2.contourArea))
        seen = Attribute(value=self.frames, vc_time=None)
        return [
            DetectedObject(
                id="red", box=Box(x, y, x + width, y + height), class_name="thing", attributes={"frames_seen": seen}
            )
        ]


async def main(video: str) -> None:
    from deepio_asyncio import DeepIO
    from deepio_core.messages import DataMessage
    from deepio_server.core import CoreConfig, serve

    async with (
        serve(CoreConfig(detector="my_detector:RedThings")) as core,
        DeepIO(core.url, None, video, "camera", auto_connect=True) as deep,
    ):
        shown = 0
        async for message in deep.messages():
            if isinstance(message, DataMessage):
                for found in message.detections():
                    print(found.class_name, found.id, found.box, found.attributes)
                shown += 1
                if shown == 20:
                    break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "test:640x360@25"))
