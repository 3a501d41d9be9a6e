"""What stands in for the network and for the encoder in tests of video senders."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from deepio_adapters.encoder import EncoderError
from deepio_adapters.media import EncodedFrame
from deepio_adapters.sources import SourceFrame
from deepio_core.media.far import FarVideo

BOUND = 10.0
"""Seconds after which a wait in a test has failed."""


async def until(holds: Callable[[], object]) -> None:
    """Waits until something is so, and lets everything else go on."""
    end = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        await asyncio.sleep(0.002)


class FakeSink:
    """Keeps the frames sent; `backlog` is what the test says."""

    def __init__(self, codec: str = "H264", max_keyframe: int = 560_000) -> None:
        self.far = FarVideo(codec=codec, lenient=True, max_keyframe=max_keyframe)
        self.backlog = 0
        self.frames: list[EncodedFrame] = []
        self.ages: list[float] = []
        """Seconds from the taking of each frame until it was handed over."""
        self.on_send: Callable[[EncodedFrame], object] = lambda _: None

    def send(self, frame: EncodedFrame) -> None:
        self.frames.append(frame)
        self.ages.append(time.monotonic() - frame.captured_at)
        self.on_send(frame)

    @property
    def encoded(self) -> list[EncodedFrame]:
        return [frame for frame in self.frames if not frame.copied]

    @property
    def kinds(self) -> str:
        """A letter for each frame: c copied, e encoded; capital for a keyframe."""
        letters = ["c" if frame.copied else "e" for frame in self.frames]
        return "".join(
            letter.upper() if frame.keyframe else letter for letter, frame in zip(letters, self.frames, strict=True)
        )


class FakeEncoder:
    """An encoder that takes its time; what it makes is the number of the picture as text."""

    def __init__(self, *, takes: float = 0.0, fails: bool = False) -> None:
        self.bitrate = 0
        self.name = "fake"
        self.closed = False
        self._takes = takes
        self._fails = fails
        self._begun = False

    def encode(self, frame: SourceFrame, *, keyframe: bool = False) -> EncodedFrame | None:
        if self._fails:
            raise EncoderError("The fake encoder is broken.")
        time.sleep(self._takes)
        keyframe, self._begun = keyframe or not self._begun, True
        return EncodedFrame(
            data=f"{frame.pts:.3f}".encode(),
            keyframe=keyframe,
            pts=frame.pts,
            captured_at=frame.captured_at,
            interval=0.04,
        )

    def close(self) -> None:
        self.closed = True
