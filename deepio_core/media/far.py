"""What the far side can take, as far as its session description tells."""

from __future__ import annotations

from deepio_core.records import dataclass

__all__ = ["FarVideo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FarVideo:
    """The video that the far side can take over one connection."""

    codec: str
    """The codec that was agreed: "H264" or "VP8"."""
    profile_level_id: str | None = None
    """H.264: six hexadecimal digits (RFC 6184 section 8.1); None if it did not say."""
    exceeds_level: bool = False
    """H.264: it takes more or larger pictures than its level has (`max-fs` or `max-mbps`, RFC 6184 section 8.1)."""
    lenient: bool = False
    """It decodes with FFmpeg, as everything built on aiortc: any 4:2:0 profile and level, whatever it says."""
    max_keyframe: int = 560_000
    """Bytes of the largest keyframe that its jitter buffer holds: 512 packets since aiortc 1.16 and in browsers, 128
    before, of which some are taken by what comes around the keyframe."""
