"""What stands in for the network in tests of video senders: a sink that keeps what it is given, and may be slow."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deepio_adapters.media import EncodedFrame
from deepio_core.media.far import FarVideo

BOUND = 10.0
"""Seconds after which a wait in a test has failed."""


class FakeSink:
    """Keeps the frames sent; `backlog` is what the test says."""

    def __init__(self, far: FarVideo | None = None) -> None:
        self.far = far or FarVideo(codec="H264", lenient=True)
        self.backlog = 0
        self.frames: list[EncodedFrame] = []
        self._changed = threading.Condition()
        self.on_send: Callable[[EncodedFrame], object] = lambda _: None

    def send(self, frame: EncodedFrame) -> None:
        with self._changed:
            self.frames.append(frame)
            self._changed.notify_all()
        self.on_send(frame)

    def wait(self, holds: Callable[[list[EncodedFrame]], object]) -> list[EncodedFrame]:
        """Waits in another thread until the frames are as said, and returns them."""
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self.frames), BOUND), [
                (frame.copied, frame.keyframe, round(frame.pts, 3)) for frame in self.frames
            ]
            return self.frames.copy()
