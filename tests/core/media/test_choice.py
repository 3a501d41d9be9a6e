"""Which streams are copied: what WebRTC cannot carry, what the far side says, and what people are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepio_core.media.choice import choose, copyable, far_video, preferred_codecs
from deepio_core.media.far import FarVideo
from deepio_core.media.options import VideoOptions
from deepio_core.media.stream import StreamFormat
from deepio_core.sdp import parse_description

CAMERA = StreamFormat(codec="h264", width=1280, height=720, profile=66, constraints=0xC0, level=31)
BROWSER = FarVideo(codec="H264", profile_level_id="42e01f")
MANAGER = FarVideo(codec="H264", profile_level_id="42e01f", lenient=True, max_keyframe=140_000)
OPTIONS = VideoOptions()


def camera(**facts: Any) -> StreamFormat:
    known: dict[str, Any] = {name: getattr(CAMERA, name) for name in ("codec", "width", "height", "profile", "level")}
    return StreamFormat(**(known | {"constraints": CAMERA.constraints} | facts))


def browser(profile_level_id: str | None) -> FarVideo:
    return FarVideo(codec="H264", profile_level_id=profile_level_id)


GOOD = {
    "nothing is known": StreamFormat(codec="h264", width=0, height=0),
    "a camera": CAMERA,
    "everything is known": camera(
        pixel_format="yuv420p", b_frames=False, interlaced=False, keyframe_size=140_000, gop=10.0, frame_rate=25.0
    ),
    "full range": camera(pixel_format="yuvj420p"),
    "from a hardware decoder": camera(pixel_format="nv12"),
    "odd size": camera(width=321, height=241),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("mode", ["auto", "copy"])
def test_what_is_copied(name: str, mode: Any) -> None:
    for far in (BROWSER, MANAGER):
        choice = choose(GOOD[name], far, VideoOptions(mode=mode))
        assert choice.copy
        assert choice.reason == "the far side takes the video as it is"


def test_nothing_is_copied_when_encoding_is_asked_for() -> None:
    choice = choose(CAMERA, MANAGER, VideoOptions(mode="encode"))
    assert not choice.copy
    assert choice.reason == "encoding was asked for"


NEVER: dict[str, tuple[dict[str, Any], str]] = {
    "B-frames": ({"b_frames": True}, "the video has B-frames, which WebRTC cannot carry"),
    "interlaced": ({"interlaced": True}, "the video may be interlaced, which WebRTC receivers do not undo"),
    "10 bits": (
        {"pixel_format": "yuv420p10le"},
        "the video has samples in yuv420p10le, and WebRTC receivers take 8 bits in 4:2:0",
    ),
    "4:2:2": (
        {"pixel_format": "yuv422p"},
        "the video has samples in yuv422p, and WebRTC receivers take 8 bits in 4:2:0",
    ),
    "high 4:2:2": (
        {"profile": 122},
        "the video has the H.264 profile high 4:2:2, which WebRTC receivers do not decode",
    ),
    "high 4:4:4": (
        {"profile": 244},
        "the video has the H.264 profile high 4:4:4 predictive, which WebRTC receivers do not decode",
    ),
    "high 10": ({"profile": 110}, "the video has the H.264 profile high 10, which WebRTC receivers do not decode"),
    "extended": ({"profile": 88}, "the video has the H.264 profile extended, which WebRTC receivers do not decode"),
    "unheard of": ({"profile": 3}, "the video has the H.264 profile number 3, which WebRTC receivers do not decode"),
    "rotated": ({"rotation": 90}, "the pictures must be turned by 90 degrees"),
    "large keyframes": (
        {"keyframe_size": 560_001},
        "a keyframe of the video has 560001 bytes, more than the 560000 that the far side holds",
    ),
    "long GOPs": (
        {"gop": 12.04},
        "keyframes of the video are 12.0 s apart, more than 10 s: too long to recover from a loss",
    ),
    "H.265": ({"codec": "hevc"}, "the video is H.265, and H.264 was agreed"),
    "Motion JPEG": ({"codec": "mjpeg"}, "the video is Motion JPEG, and H.264 was agreed"),
    "VP8": ({"codec": "vp8"}, "the video is VP8, and H.264 was agreed"),
    "AV1": ({"codec": "av1"}, "the video is AV1, and H.264 was agreed"),
    "uncompressed": ({"codec": "rawvideo"}, "the video is uncompressed, and H.264 was agreed"),
}


@pytest.mark.parametrize("name", NEVER)
@pytest.mark.parametrize("mode", ["auto", "copy"])
def test_what_is_never_copied(name: str, mode: Any) -> None:
    facts, reason = NEVER[name]
    lenient = FarVideo(codec="H264", profile_level_id="42e01f", lenient=True)
    for far in (lenient, browser("640034")):
        choice = choose(camera(**facts), far, VideoOptions(mode=mode))
        assert not choice.copy
        assert choice.reason == reason


def test_h264_is_not_copied_where_vp8_was_agreed() -> None:
    vp8 = StreamFormat(codec="vp8", width=641, height=361)
    far = FarVideo(codec="VP8")
    assert choose(vp8, far, OPTIONS).copy
    assert choose(CAMERA, far, OPTIONS).reason == "the video is H.264, and VP8 was agreed"
    assert not choose(CAMERA, far, OPTIONS).copy


def test_the_settings_bound_keyframes_and_gops() -> None:
    options = VideoOptions(max_keyframe=200_000, max_gop=2.5)
    assert choose(camera(keyframe_size=200_000, gop=2.5), MANAGER, options).copy
    large = choose(camera(keyframe_size=200_001), BROWSER, options)
    assert not large.copy
    assert large.reason == "a keyframe of the video has 200001 bytes, more than the 200000 that are allowed"
    assert choose(camera(gop=3), BROWSER, options).reason.endswith(
        "3.0 s apart, more than 2.5 s: too long to recover from a loss"
    )
    # Without, the far side does.
    assert choose(camera(keyframe_size=173_275), BROWSER, OPTIONS).copy
    assert not choose(camera(keyframe_size=173_275), MANAGER, OPTIONS).copy


# --- Profiles and levels ---------------------------------------------------------------------------------------

PROFILES = {
    # (profile_idc, constraints) of the stream: the least profile_idc that takes it
    (66, 0xC0): 66,
    (66, 0x00): 66,  # nobody makes what constrained baseline has not
    (77, 0x40): 77,
    (77, 0x00): 77,
    (77, 0x80): 66,  # it says that it conforms to baseline
    (100, 0x00): 100,
    (100, 0x0C): 100,
    (100, 0x40): 77,  # it says that it conforms to main
}
TAKERS = {
    "42001f": 66,
    "42e01f": 66,
    "42E01F": 66,
    "58001f": 66,
    "4d801f": 66,
    "4d001f": 77,
    "4d401f": 77,
    "64001f": 100,
    "640c1f": 100,
    "7a001f": 100,
    None: 66,
    "": 66,
    "4d001": 66,
    "no hex": 66,
}


@pytest.mark.parametrize("profile", PROFILES, ids=str)
@pytest.mark.parametrize("taker", TAKERS, ids=str)
def test_profiles_that_the_far_side_takes(profile: tuple[int, int], taker: str | None) -> None:
    stream = camera(profile=profile[0], constraints=profile[1])
    choice = choose(stream, browser(taker), OPTIONS)
    assert choice.copy == (PROFILES[profile] <= TAKERS[taker])
    # Whatever is built on aiortc decodes it anyway: a DEEP stream manager gets the camera's own packets.
    assert choose(stream, MANAGER, OPTIONS).copy


def test_the_reason_names_both_profiles() -> None:
    stream = camera(profile=100, constraints=0)
    assert choose(stream, browser("42e01f"), OPTIONS).reason == (
        "the video has the H.264 profile high, and the far side takes baseline"
    )
    assert choose(camera(profile=77, constraints=0), browser(None), OPTIONS).reason == (
        "the video has the H.264 profile main, and the far side takes baseline"
    )


@pytest.mark.parametrize(
    ("profile", "constraints", "level", "taker", "copy"),
    [
        (66, 0xC0, 31, "42e01f", True),
        (66, 0xC0, 32, "42e01f", False),
        (66, 0xC0, 40, "42e028", True),
        (66, 0xC0, 40, None, False),
        (66, 0xC0, None, "42e00a", True),
        # 1b lies between 1.0 and 1.1, and is written in two ways.
        (66, 0xD0, 11, "42e00a", False),
        (66, 0xD0, 11, "42f00b", True),
        (66, 0xC0, 11, "42f00b", False),
        (100, 0x00, 9, "64000a", False),
        (100, 0x10, 11, "64000b", True),
        (100, 0x10, 11, "640009", False),
        (100, 0x00, 9, "640009", True),
    ],
)
def test_levels_that_the_far_side_takes(
    profile: int, constraints: int, level: int | None, taker: str | None, copy: bool
) -> None:
    stream = camera(profile=profile, constraints=constraints, level=level)
    assert choose(stream, browser(taker), OPTIONS).copy == copy
    assert choose(stream, MANAGER, OPTIONS).copy


def test_the_reason_names_both_levels() -> None:
    assert choose(camera(level=40), BROWSER, OPTIONS).reason == (
        "the video has the H.264 level 4.0, and the far side takes 3.1"
    )


ANY_FORMAT = st.builds(
    StreamFormat,
    codec=st.sampled_from(["h264", "vp8", "hevc", "x"]),
    width=st.integers(0, 9999),
    height=st.integers(0, 9999),
    pixel_format=st.sampled_from([None, "yuv420p", "gray"]),
    profile=st.none() | st.integers(0, 255),
    constraints=st.integers(0, 255),
    level=st.none() | st.integers(0, 255),
    b_frames=st.none() | st.booleans(),
    interlaced=st.none() | st.booleans(),
    keyframe_size=st.none() | st.integers(0, 1_000_000),
    gop=st.none() | st.floats(0, 100),
    rotation=st.sampled_from([0, 90, 180, 270]),
)


@given(
    stream=ANY_FORMAT,
    far=st.builds(
        FarVideo,
        codec=st.sampled_from(["H264", "VP8"]),
        profile_level_id=st.none() | st.text(max_size=7) | st.binary(min_size=3, max_size=3).map(bytes.hex),
        lenient=st.booleans(),
    ),
)
def test_every_format_has_an_answer_and_what_is_learned_later_only_refuses(stream: StreamFormat, far: FarVideo) -> None:
    choice = choose(stream, far, OPTIONS)
    assert choice.reason
    assert choice.reason[-1] != "."
    unknown = StreamFormat(codec=stream.codec, width=0, height=0)
    if choice.copy:
        assert choose(unknown, far, OPTIONS).copy


# --- The order of codecs ---------------------------------------------------------------------------------------

VP8_STREAM = StreamFormat(codec="vp8", width=640, height=360)
B_FRAMES = camera(b_frames=True)
HIGH = camera(profile=100, constraints=0, level=51)


def test_whether_anybody_can_take_a_copy() -> None:
    assert copyable(CAMERA, OPTIONS).copy
    assert copyable(StreamFormat(codec="vp8", width=1280, height=720), OPTIONS).copy
    assert "H.265" in copyable(StreamFormat(codec="hevc", width=1280, height=720), OPTIONS).reason
    assert "B-frames" in copyable(camera(b_frames=True), OPTIONS).reason
    assert "no packets" in copyable(None, OPTIONS).reason
    assert not copyable(CAMERA, VideoOptions(mode="encode")).copy


@pytest.mark.parametrize(
    ("stream", "options", "first"),
    [
        (None, {}, "H264"),
        (None, {"codec": "VP8"}, "VP8"),
        (None, {"mode": "copy", "codec": "VP8"}, "VP8"),
        (CAMERA, {}, "H264"),
        (HIGH, {}, "H264"),
        (VP8_STREAM, {}, "VP8"),
        (VP8_STREAM, {"mode": "encode"}, "H264"),
        (VP8_STREAM, {"mode": "copy"}, "VP8"),
        (VP8_STREAM, {"codec": "H264"}, "H264"),
        (VP8_STREAM, {"codec": "H264", "mode": "copy"}, "VP8"),
        (CAMERA, {"codec": "VP8"}, "VP8"),
        (CAMERA, {"codec": "VP8", "mode": "copy"}, "H264"),
        (B_FRAMES, {"codec": "VP8", "mode": "copy"}, "VP8"),
        (camera(codec="hevc"), {}, "H264"),
        (StreamFormat(codec="vp8", width=0, height=0, rotation=90), {}, "H264"),
    ],
)
def test_the_codec_to_agree_on(stream: StreamFormat | None, options: dict[str, Any], first: str) -> None:
    codecs = preferred_codecs(stream, VideoOptions(**options))
    assert codecs[0] == first
    assert sorted(codecs) == ["H264", "VP8"]


# --- What the far side says ------------------------------------------------------------------------------------

PAIRS = {
    row["name"]: row
    for row in map(
        json.loads, (Path(__file__).parents[1] / "data" / "sdp" / "pairs.jsonl").read_text("utf-8").splitlines()
    )
}
MANAGERS = FarVideo(codec="H264", profile_level_id="42e01f", lenient=True, max_keyframe=140_000)
OURS = FarVideo(codec="H264", profile_level_id="42e01f", lenient=True)


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("deepio-03-source-is-another-peer", "offer", MANAGERS),
        ("js-01-connects-no-stream-py-video", "offer", MANAGERS),
        ("js-08-listens-with-audio-video-py-consumer", "answer", MANAGERS),
        ("mix-03-py-aiortc1.5-connects-to-aiortc1.16", "answer", MANAGERS),
        ("mix-03-py-aiortc1.5-connects-to-aiortc1.16", "offer", OURS),
        ("mix-06-aiortc1.16-connects-to-browser", "answer", OURS),
        # A browser that offers names all that it takes; one that answers, what of the offer it takes.
        ("mix-06-aiortc1.16-connects-to-browser", "offer", FarVideo(codec="H264", profile_level_id="4d001f")),
        ("mix-05-browser-connects-to-aiortc1.16", "answer", FarVideo(codec="H264", profile_level_id="42e01f")),
        ("js-01-connects-no-stream-py-video", "answer", FarVideo(codec="H264", profile_level_id="42e01f")),
        ("js-04-connects-with-video-py-data-only", "answer", FarVideo(codec="H264")),
    ],
)
def test_real_peers(name: str, side: str, expected: FarVideo) -> None:
    description = parse_description(PAIRS[name][side])
    assert far_video(description, "H264") == expected
    of_vp8 = far_video(description, "VP8")
    assert (of_vp8.codec, of_vp8.profile_level_id) == ("VP8", None)
    assert (of_vp8.lenient, of_vp8.max_keyframe) == (expected.lenient, expected.max_keyframe)


def describe(*formats: str) -> str:
    numbers = range(96, 96 + len(formats))
    lines = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, numbers))}"]
    for number, text in zip(numbers, formats, strict=True):
        lines += [f"a=rtpmap:{number} H264/90000", f"a=fmtp:{number} {text}"]
    return "\r\n".join([*lines, ""])


SINGLE = "packetization-mode=1;level-asymmetry-allowed=1;profile-level-id="


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        ([], None),
        ([SINGLE + "42e01f", SINGLE + "640C34", SINGLE + "4d0033"], "640c34"),
        ([SINGLE + "42e01f", SINGLE + "42e034"], "42e034"),
        (["packetization-mode=0;level-asymmetry-allowed=1;profile-level-id=640034", SINGLE + "42e01f"], "42e01f"),
        (["level-asymmetry-allowed=1;profile-level-id=640034"], None),
        (["packetization-mode=1;level-asymmetry-allowed=1"], "42e01f"),
        ([" Packetization-Mode = 1 ; level-asymmetry-allowed=1; profile-level-id = 4d0028 "], "4d0028"),
        # One level for both directions: no more than what we offer.
        (["packetization-mode=1;profile-level-id=640034"], "64001f"),
        (["packetization-mode=1;level-asymmetry-allowed=0;profile-level-id=42e01e"], "42e01e"),
        ([SINGLE + "42e01", SINGLE + "xyz", SINGLE], None),
    ],
)
def test_the_most_capable_format_counts(formats: list[str], expected: str | None) -> None:
    assert far_video(parse_description(describe(*formats)), "H264").profile_level_id == expected


def test_who_takes_more_than_its_level_has_says_so() -> None:
    for more, exceeds in ((";max-fs=8192", True), (";MAX-MBPS = 245760", True), (";max-br=9000", False), ("", False)):
        far = far_video(parse_description(describe(SINGLE + "42e00d" + more)), "H264")
        assert (far.profile_level_id, far.exceeds_level) == ("42e00d", exceeds)


def test_other_codecs_do_not_count() -> None:
    text = describe(SINGLE + "42e01f", SINGLE + "640034").replace("97 H264", "97 H265")
    assert far_video(parse_description(text), "H264").profile_level_id == "42e01f"


@given(st.lists(st.text(max_size=30)))
@example(["=;=;;packetization-mode=1;profile-level-id=\u0661\u0661\u0661\u0661\u0661\u0661"])
def test_any_description_is_read(formats: list[str]) -> None:
    far = far_video(parse_description(describe(*formats)), "H264")
    assert far.codec == "H264"
    assert not far.lenient
