"""What is known of a stream of compressed video, as far as it matters to whether it can be copied."""

from __future__ import annotations

from dataclasses import field

from deepio_core.records import dataclass

__all__ = ["StreamFormat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFormat:
    """A stream of compressed video. As long as nothing about it changes, it is one object."""

    codec: str
    """FFmpeg's name of the codec, such as "h264", "vp8", "hevc", "mjpeg" or "rawvideo"."""
    width: int
    """Width in pixels, 0 if unknown."""
    height: int
    """Height in pixels, 0 if unknown."""
    extradata: bytes = field(default=b"", repr=False)
    """What a decoder needs before the first packet, in FFmpeg's form; for H.264 the parameter sets in Annex B."""
    pixel_format: str | None = None
    """FFmpeg's name, such as "yuv420p"; a decoder for "rawvideo" needs it."""
    profile: int | None = None
    """H.264: profile_idc of the sequence parameter set (66 baseline, 77 main, 100 high)."""
    constraints: int = 0
    """H.264: the byte of constraint flags behind profile_idc."""
    level: int | None = None
    """H.264: level_idc (31 for 3.1)."""
    b_frames: bool | None = None
    """Frames are not in the order in which they are shown; None if unknown."""
    interlaced: bool | None = None
    """Pictures may be fields; None if unknown."""
    keyframe_size: int | None = None
    """Bytes of the largest keyframe seen; None before one was."""
    gop: float | None = None
    """Longest time between two keyframes seen, seconds; None before two were."""
    rotation: int = 0
    """Degrees, clockwise, by which pictures must be turned to be upright: 0, 90, 180 or 270."""
    frame_rate: float | None = None
    """Frames per second announced; None if unknown."""
