"""What is received: video frames, turned into arrays only when the application asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from deepio_core.records import dataclass

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ReceivedFrame"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReceivedFrame:
    """One decoded picture of the remote peer. Converting it costs time, so that is done on request only."""

    picture: av.VideoFrame
    """The picture as it came from the decoder, mostly yuv420p, with `pts` in its own `time_base`. Read it only."""
    received_at: float
    """When it was decoded: seconds of `time.monotonic`."""
    negotiation: int
    """Number of the connection that it came over; its time stamps are those of this connection."""
    held_frames: int = 0
    """How many later frames had to begin before this one was complete: 0 if its last packet was enough, 1 where aiortc
    receives, which waits for the first packet of the next frame."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.picture.width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.picture.height

    @property
    def pts(self) -> float | None:
        """The sender's time stamp: seconds from the first frame of the connection; None if there is none."""
        picture = self.picture
        if picture.pts is None or picture.time_base is None:
            return None
        # Not a multiplication: PyAV 19 brings a time base that is no `Fraction`.
        return picture.pts * picture.time_base.numerator / picture.time_base.denominator

    def to_ndarray(self, format: str = "bgr24") -> NDArray[np.uint8]:  # noqa: A002 - PyAV's name for it
        """Returns the picture as a new uint8 array.

        Args:
            format: FFmpeg's name of a pixel format: "bgr24" (OpenCV's order) and "rgb24" give
                (height, width, 3), "gray" gives (height, width).
        """
        array = cast("NDArray[np.uint8]", self.picture.to_ndarray(format=format))
        # Without a conversion, PyAV lends the memory of the picture.
        return array.copy() if self.picture.format.name == format else array
