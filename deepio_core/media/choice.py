"""Whether a stream can be sent as it is, and the reason that people are told.

Copying costs a tenth of decoding and encoding, so everything is copied that arrives well. What does not:

- Codecs other than the agreed one. WebRTC has H.264 and VP8 in common (RFC 7742 section 5); aiortc has no other.
- B-frames: WebRTC shows pictures in the order in which they come.
- Interlaced pictures, and samples other than 8 bits in 4:2:0, which browsers and DEEP do not take apart.
- Pictures that have to be turned: nothing in the packets tells the far side.
- Keyframes larger than what the far side's jitter buffer holds: none of them would ever arrive.
- GOPs that are too long: after a loss there is no picture until the next keyframe.
- H.264 profiles and levels above those in the far side's description (RFC 6184 section 8.2.2). Everything built on
  aiortc offers constrained baseline at level 3.1 and decodes with FFmpeg whatever comes; an IP camera with main
  profile is copied there, `FarVideo.lenient`. Browsers are taken at their word: they name all that they take when they
  offer. Baseline counts as constrained baseline, since what only the former has is made by no camera and decoded
  by no one, and a main or high stream that claims to conform to a lower profile by its constraint flags as that one.

What is not known yet refuses nothing: it is looked at again when it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deepio_core.media.far import FarVideo
from deepio_core.media.levels import PROFILE_LEVEL_ID, level_of
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepio_core.media.options import VideoOptions
    from deepio_core.media.stream import StreamFormat
    from deepio_core.sdp import Description

__all__ = ["NO_PACKETS", "Choice", "choose", "copyable", "far_video", "preferred_codecs"]

_RTP_NAMES: Final = {"h264": "H264", "vp8": "VP8"}
_NAMES: Final = {
    "H264": "H.264", "h264": "H.264", "hevc": "H.265", "mjpeg": "Motion JPEG", "rawvideo": "uncompressed",
    "mpeg4": "MPEG-4 Part 2", "mpeg2video": "MPEG-2",
}  # fmt: skip
_SAMPLES: Final = frozenset({None, "yuv420p", "yuvj420p", "nv12"})  # 8 bits, 4:2:0; the j stands for the full range

# Each takes what is before it, once B-frames and interlaced pictures are out of the question (RFC 6184 table 5).
_PROFILES: Final = ("baseline", "main", "high")
_RANKS: Final = {66: 0, 77: 1, 100: 2}
_EXOTIC_PROFILES: Final = {
    44: "CAVLC 4:4:4 intra", 88: "extended", 110: "high 10", 122: "high 4:2:2", 244: "high 4:4:4 predictive",
}  # fmt: skip

_UNSAID: Final = "42e01f"
"""What browsers and aiortc take for said where nothing is; RFC 6184 would have level 1."""
_OUR_LEVEL: Final = 31
"""What aiortc offers: the most for both directions if the far side wants them to have one level."""

_OLD_MESSAGE_SIZE: Final = 65_536
"""Largest data-channel message of aiortc up to 1.15, in its description."""
_OLD_MAX_KEYFRAME: Final = 140_000
"""Bytes of a keyframe in the 128 packets of their jitter buffer: 115 of them are left for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whether a stream is copied."""

    copy: bool
    """Its packets can be sent as they are."""
    reason: str
    """Why, or why not; part of a sentence."""


NO_PACKETS: Final = Choice(copy=False, reason="the source makes pictures, and has no packets to copy")
"""Of numpy frames and the test pattern."""


def choose(stream: StreamFormat, far: FarVideo, options: VideoOptions) -> Choice:
    """Decide whether a stream is copied.

    Args:
        stream: What is known of it.
        far: What the far side can take.
        options: The settings. With `mode="copy"`, too, the choice can be against it.
    """
    if options.mode == "encode":
        return Choice(copy=False, reason="encoding was asked for")
    obstacle = next(_obstacles(stream, far, options), None)
    return Choice(copy=obstacle is None, reason=obstacle or "the far side takes the video as it is")


def copyable(stream: StreamFormat | None, options: VideoOptions) -> Choice:
    """Decide whether there can be a far side that a stream is copied to: one that takes all that can be taken.

    Args:
        stream: What is known of it; None if the source gives pictures.
        options: The settings.
    """
    if stream is None:
        return NO_PACKETS
    return choose(stream, FarVideo(codec=_RTP_NAMES.get(stream.codec, "H264"), lenient=True), options)


def preferred_codecs(stream: StreamFormat | None, options: VideoOptions) -> tuple[str, ...]:
    """The codecs to agree on, the preferred one first.

    That is the codec of the source if it can be copied to somebody; else, or if there is a codec in the settings, the
    one to encode with. With `mode="copy"` the source alone decides.

    Args:
        stream: What is known of the source; None if it gives pictures.
        options: The settings.
    """
    first: str = options.codec or "H264"
    asked = options.codec is not None and options.mode != "copy"
    if stream is not None and not asked and copyable(stream, options).copy:
        first = _RTP_NAMES[stream.codec]
    return (first, *(codec for codec in ("H264", "VP8") if codec != first))


def far_video(description: Description, codec: str) -> FarVideo:
    """Read what the far side can take out of its session description.

    Args:
        description: The remote one, offer or answer.
        codec: What was agreed: "H264" or "VP8".
    """
    lenient = description.made_by_aiortc
    small = lenient and (description.max_message_size or 0) <= _OLD_MESSAGE_SIZE
    level, exceeds = _most_capable(description) if codec == "H264" else (None, False)
    return FarVideo(
        codec=codec,
        profile_level_id=level,
        exceeds_level=exceeds,
        lenient=lenient,
        max_keyframe=_OLD_MAX_KEYFRAME if small else FarVideo(codec=codec).max_keyframe,
    )


def _obstacles(stream: StreamFormat, far: FarVideo, options: VideoOptions) -> Iterator[str]:
    """Everything that is against copying, the plainest first."""
    if _RTP_NAMES.get(stream.codec) != far.codec:
        name = _NAMES.get(stream.codec, stream.codec.upper())
        yield f"the video is {name}, and {_NAMES.get(far.codec, far.codec)} was agreed"
    if stream.b_frames:
        yield "the video has B-frames, which WebRTC cannot carry"
    if stream.interlaced:
        yield "the video may be interlaced, which WebRTC receivers do not undo"
    if stream.pixel_format not in _SAMPLES:
        yield f"the video has samples in {stream.pixel_format}, and WebRTC receivers take 8 bits in 4:2:0"
    if stream.codec == "h264":
        yield from _profile_obstacles(stream, far)
    if stream.rotation:
        yield f"the pictures must be turned by {stream.rotation} degrees"
    limit = far.max_keyframe if options.max_keyframe is None else options.max_keyframe
    if stream.keyframe_size is not None and stream.keyframe_size > limit:
        whose = "the far side holds" if options.max_keyframe is None else "are allowed"
        yield f"a keyframe of the video has {stream.keyframe_size} bytes, more than the {limit} that {whose}"
    if stream.gop is not None and stream.gop > options.max_gop:
        yield (
            f"keyframes of the video are {stream.gop:.1f} s apart, more than {options.max_gop:g} s: "
            "too long to recover from a loss"
        )


def _profile_obstacles(stream: StreamFormat, far: FarVideo) -> Iterator[str]:
    """What is against copying H.264 of this profile and level."""
    if stream.profile is None:
        return
    if stream.profile not in _RANKS:
        name = _EXOTIC_PROFILES.get(stream.profile, f"number {stream.profile}")
        yield f"the video has the H.264 profile {name}, which WebRTC receivers do not decode"
    elif not far.lenient:
        theirs = far.profile_level_id or ""
        profile, constraints, level = bytes.fromhex(theirs if PROFILE_LEVEL_ID.fullmatch(theirs) else _UNSAID)
        needed, taken = _rank(stream.profile, stream.constraints), _rank(profile, constraints)
        if needed > taken:
            yield f"the video has the H.264 profile {_PROFILES[needed]}, and the far side takes {_PROFILES[taken]}"
        if stream.level is not None:
            # Not how many pixels and frames that is: a level may be there for its buffer.
            has, may = level_of(stream.profile, stream.constraints, stream.level), level_of(profile, constraints, level)
            if has > may:
                yield f"the video has the H.264 level {has / 10:.1f}, and the far side takes {may / 10:.1f}"


def _rank(profile: int, constraints: int) -> int:
    """Index of the least profile that a stream with these bytes conforms to, or that a receiver takes."""
    if profile == 77 and constraints & 0x80:
        return 0
    if profile == 100 and constraints & 0x40:
        return 1
    # What lies above high takes it (Annex A.2); what lies beside takes constrained baseline.
    return _RANKS.get(profile, 2 if profile > 100 else 0)


def _most_capable(description: Description) -> tuple[str | None, bool]:
    """The highest profile-level-id among those with packetization mode 1, which is what we send.

    Returns:
        That, and whether the level is exceeded (`FarVideo.exceeds_level`).
    """
    line = description.first("video")
    found: list[tuple[int, float, str, bool]] = []
    for codec in line.codecs if line is not None else ():
        pairs = (item.partition("=") for item in codec.fmtp.split(";"))
        parameters = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if codec.name.upper() != "H264" or parameters.get("packetization-mode") != "1":
            continue
        text = parameters.get("profile-level-id", _UNSAID)
        if not PROFILE_LEVEL_ID.fullmatch(text):
            continue
        profile, constraints, level = bytes.fromhex(text)
        if parameters.get("level-asymmetry-allowed") != "1":
            level = min(level, _OUR_LEVEL)
        said, exceeds = f"{text[:4].lower()}{level:02x}", not parameters.keys().isdisjoint(("max-fs", "max-mbps"))
        found.append((_rank(profile, constraints), level_of(profile, constraints, level), said, exceeds))
    return max(found)[2:] if found else (None, False)
