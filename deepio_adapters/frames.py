"""What is received: video frames, turned into arrays only when the application asks for them."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final, cast

from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FRAME_FORMATS", "TICKS", "ReceivedFrame", "check_frame_format"]

TICKS: Final = Fraction(1, 90_000)
"""Seconds of a tick of the time stamps of video (RFC 3551 section 5)."""

FRAME_FORMATS: Final = ("bgr24", "rgb24", "bgra", "rgba", "gray", "yuv420p", "nv12", "av")
"""What applications can have frames in: FFmpeg's names of pixel formats, and "av" for the `av.VideoFrame` itself."""


def check_frame_format(format: str) -> str:  # noqa: A002 - PyAV's name for it
    """Returns a frame format as it is.

    Raises:
        LocalProtocolError: There is no such format.
    """
    if format not in FRAME_FORMATS:
        raise LocalProtocolError(f"There is no frame format {format!r}.", remedy=f"Use {', '.join(FRAME_FORMATS)}.")
    return format


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReceivedFrame:
    """One decoded picture of the remote peer. Converting it costs time, so that is done on request only."""

    picture: av.VideoFrame
    """The picture as it came from the decoder, mostly yuv420p, with `pts` in its own `time_base`. Read it only."""
    captured_at: float | None = None
    """When the remote peer took it, in seconds of our `time.monotonic`, as its RTCP reports say; many senders say when
    they sent it instead. None before the first report, and if the remote peer tells no time. The clocks are brought
    together by half of the shortest round trip, and that is by how much it can be wrong."""
    received_at: float
    """When its last packet came: seconds of `time.monotonic`."""
    decoded_at: float | None = None
    """When it was decoded: seconds of `time.monotonic`; None if it never was encoded, or that is not known."""
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
                (height, width, 3), "bgra" and "rgba" (height, width, 4), "gray" gives (height, width), and "yuv420p"
                and "nv12" (height * 3 / 2, width) with the planes one below the other.
        """
        array = cast("NDArray[np.uint8]", self.picture.to_ndarray(format=format))
        # Without a conversion, PyAV lends the memory of the picture.
        return array.copy() if self.picture.format.name == format else array

    def to(self, format: str) -> NDArray[np.uint8] | av.VideoFrame:  # noqa: A002 - PyAV's name for it
        """Returns the picture in one of `FRAME_FORMATS`: a new array, or with "av" the `picture` itself."""
        return self.picture if format == "av" else self.to_ndarray(format)
