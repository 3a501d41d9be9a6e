"""How video is sent: the settings of users, checked."""

from __future__ import annotations

from typing import Final, Literal, cast

from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

__all__ = ["VideoMode", "VideoOptions"]

VideoMode = Literal["auto", "copy", "encode"]
"""Whether the packets of a source are sent as they are."""


_NUMBERS: Final = {
    "bitrate": int,
    "min_bitrate": int,
    "max_bitrate": int,
    "threads": int,
    "keyframe_interval": int | float,
    "max_gop": int | float,
    "keyframe_wait": int | float,
    "max_frame_rate": int | float | None,
    "max_keyframe": int | None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How video is sent.

    Raises:
        LocalProtocolError: A value is out of bounds; the message names it.
    """

    mode: VideoMode = "auto"
    """"auto" copies the packets of a source when the far side can take them, and encodes otherwise; "encode" always
    encodes; "copy" sends packets as they are or nothing at all, and says why."""
    codec: Literal["H264", "VP8"] | None = None
    """The codec to encode with; None for that of the source if it can be copied, and H.264 otherwise. The far side must
    know it: if it does not, the other one is used."""
    bitrate: int = 1_500_000
    """Bits per second that encoding begins with."""
    min_bitrate: int = 250_000
    """Bits per second below which encoding does not go, however bad the network is."""
    max_bitrate: int = 4_000_000
    """Bits per second above which encoding does not go, however good the network is."""
    keyframe_interval: float = 4.0
    """Seconds between keyframes that nobody has asked for, when encoding."""
    max_size: tuple[int, int] | None = None
    """Pictures larger than this (width, height) are scaled down to fit into it, when encoding; None: as they come."""
    max_frame_rate: float | None = None
    """Frames per second at most, when encoding; None: as they come."""
    threads: int = 1
    """Threads of the encoder; 0: as many as it likes. One costs least CPU for each frame."""
    hardware: bool = True
    """Encode in hardware where PyAV has an encoder for it and a probe succeeds."""
    max_gop: float = 10.0
    """Seconds between keyframes of a source above which it is not copied."""
    max_keyframe: int | None = None
    """Bytes of a keyframe above which a source is not copied; None for what the far side holds, as far as its session
    description tells: receivers up to aiortc 1.15, which DEEP stream managers are, hold 128 packets and lose for ever
    what does not fit in, aiortc 1.16 holds 512."""
    keyframe_wait: float = 0.5
    """Seconds for which a request for a keyframe may wait for that of a copied source; then one is encoded."""
    while_away: Literal["last", "nothing"] = "nothing"
    """What is sent while a live source is being connected to again: its last picture once a second, or nothing."""

    def __post_init__(self) -> None:
        def check(holds: bool, what: str, remedy: str) -> None:
            if not holds:
                raise LocalProtocolError(what, remedy=remedy)

        for name, kind in _NUMBERS.items():
            value: object = getattr(self, name)
            check(
                isinstance(value, kind) and not isinstance(value, bool),
                f"{name}={value!r} is no number, or not of the right kind.",
                "Give an integer." if kind is int else "Give a number.",
            )
        check(
            self.mode in ("auto", "copy", "encode"), f"There is no video mode {self.mode!r}.", "Use auto, copy, encode."
        )
        check(self.codec in (None, "H264", "VP8"), f"Video is not sent in {self.codec!r}.", "Use H264 or VP8.")
        check(
            10_000 <= self.min_bitrate <= self.bitrate <= self.max_bitrate <= 100_000_000,
            f"min_bitrate={self.min_bitrate}, bitrate={self.bitrate}, max_bitrate={self.max_bitrate} is not possible.",
            "10 kbit/s <= min_bitrate <= bitrate <= max_bitrate <= 100 Mbit/s.",
        )
        check(
            0.1 <= self.keyframe_interval <= 600,
            f"A keyframe_interval of {self.keyframe_interval} s is not possible.",
            "Give 0.1 to 600 s.",
        )
        check(
            self.max_size is None or (_is_size(self.max_size) and all(16 <= side <= 8192 for side in self.max_size)),
            f"A max_size of {self.max_size} is not possible.",
            "Give (width, height) of 16 to 8192 pixels.",
        )
        check(
            self.max_frame_rate is None or 0.1 <= self.max_frame_rate <= 240,
            f"A max_frame_rate of {self.max_frame_rate} is not possible.",
            "Give 0.1 to 240 frames per second.",
        )
        check(0 <= self.threads <= 64, f"{self.threads} encoder threads are not possible.", "Give 0 to 64.")
        check(self.max_gop > 0, "max_gop must be above 0.", "Give seconds.")
        check(self.max_keyframe is None or self.max_keyframe > 0, "max_keyframe must be above 0.", "Give bytes.")
        check(self.keyframe_wait >= 0, "keyframe_wait must not be below 0.", "Give seconds.")
        check(
            self.while_away in ("last", "nothing"), f"There is no {self.while_away!r} to send.", "Use last or nothing."
        )


def _is_size(value: object) -> bool:
    return isinstance(value, tuple) and [type(side) for side in cast("tuple[object, ...]", value)] == [int, int]
