"""Small clips of every kind that users have, built with PyAV: what plays, and what must be refused.

`CLIPS` names them, with what is to become of each; `build` makes one and keeps it for the session of the tests.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from deepio_adapters.test_pattern import Pattern
from tests.media import make_clip, truncate

Fate = Literal["copy", "encode", "refused"]
"""What becomes of a clip with the settings of a fresh `VideoOptions`: its packets are sent as they are, its pictures
are encoded anew, or opening it fails with a SourceError that says why."""

SIZE = (160, 120)
FRAMES = 12
RATE = 200

_ONE_SLICE = "slices=1:sliced-threads=0"


@dataclass(frozen=True)
class Clip:
    """One clip."""

    fate: Fate
    build: Callable[[Path], object]
    """Writes it to the path."""
    suffix: str
    size: tuple[int, int] = SIZE
    """Width and height of its pictures when they are upright."""
    counters: tuple[int, ...] = tuple(range(FRAMES))
    """The counters burnt into its pictures, in the order in which they are shown."""
    broken: bool = False
    """It breaks off somewhere: some pictures at its end are missing, and the last one may be damaged."""
    words: str = ""
    """Part of the message of the refusal."""
    codec: str = "h264"
    """FFmpeg's name of the codec."""


def _make(**how: Any) -> Callable[[Path], object]:
    settings: dict[str, Any] = {"frames": FRAMES, "size": SIZE, "rate": RATE, "gop": 6, **how}
    return lambda path: make_clip(path, **settings)


def _x264(profile: str, parameters: str = "", **how: Any) -> Callable[[Path], object]:
    # x264 names the lowest profile that holds what is used: CABAC makes it main.
    used = "" if profile == "baseline" else "cabac=1"
    options = {"profile": profile, "x264-params": ":".join(filter(None, (_ONE_SLICE, used, parameters)))}
    return _make(options=options, **how)


def _annex_b(path: Path) -> None:
    """A bare byte stream, as cameras record it: time is told by nothing but the order."""
    mp4 = path.with_suffix(".source.mp4")
    _x264("main")(mp4)
    with av.open(str(mp4)) as container:
        stream = container.streams.video[0]
        convert: Any = BitStreamFilterContext("h264_mp4toannexb", stream)
        units = [bytes(unit) for packet in container.demux(stream) if packet.size for unit in convert.filter(packet)]
    path.write_bytes(b"".join(units))


def _rotated(degrees: int) -> Callable[[Path], object]:
    """A clip as telephones take it: the pictures lie, and the track header says how to turn them."""

    def build(path: Path) -> None:
        width, height = SIZE if degrees == 180 else SIZE[::-1]
        pattern = Pattern(width, height)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "bf": "0"})
            # Turned the other way round, so that turning makes them upright.
            lying = [np.rot90(pattern.draw(number), degrees // 90) for number in range(FRAMES)]
            stream.height, stream.width = lying[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.bit_rate = 1_000_000
            for image in lying:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        # The matrix of the track header (ISO/IEC 14496-12 section 8.3.2), 40 bytes behind its version 0 fields.
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 4 + 40
        one, cosine = 0x10000, {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
        a, b = cosine[0] * one, cosine[1] * one
        data[at : at + 36] = struct.pack(">9i", a, b, 0, -b, a, 0, 0, 0, 1 << 30)
        path.write_bytes(data)

    return build


def _large_keyframes(path: Path) -> None:
    """1080p with noise below the counter: keyframes beyond what old receivers hold, and within what new ones do."""
    pattern = Pattern(1920, 1080)
    noise = np.random.default_rng(1).integers(0, 255, (250, 1920, 3), dtype=np.uint8)
    options = {"preset": "ultrafast", "bf": "0", "crf": "30", "x264-params": _ONE_SLICE}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number in range(2):
            image = pattern.draw(number)
            image[-len(noise) :] = noise
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))


def _invisible_frame(path: Path) -> None:
    """One that is decoded and not shown (RFC 6386 section 9.1), as the alternate reference frames of libvpx."""
    whole = path.with_suffix(".whole.ivf")
    _make(codec="libvpx")(whole)
    data = bytearray(whole.read_bytes())
    at = 32  # behind the header of the file
    for _ in range(4):
        at += 12 + int.from_bytes(data[at : at + 4], "little")
    data[at + 12] &= ~0x10
    path.write_bytes(data)


def _part(build: Callable[[Path], object], part: float) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        whole = path.with_suffix(f".whole{path.suffix}")
        build(whole)
        truncate(whole, path, part)

    return make


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


BEATS = [0.0, 0.01, 0.03, 0.04, 0.05, 0.1, 0.11, 0.12, 0.125, 0.17, 0.18, 0.185]
"""Seconds at which the pictures of the clip of variable rate are shown."""

CLIPS: dict[str, Clip] = {
    "H.264 baseline, AVCC": Clip("copy", _x264("baseline"), ".mp4"),
    "H.264 main, AVCC": Clip("copy", _x264("main"), ".mp4"),
    "H.264 high, AVCC": Clip("copy", _x264("high", "8x8dct=1"), ".mkv"),
    "H.264 main, Annex B": Clip("copy", _annex_b, ".h264"),
    "H.264 baseline, transport stream": Clip("copy", _x264("baseline"), ".ts"),
    "H.264 with B-frames, AVCC": Clip("encode", _x264("main", b_frames=2), ".mp4"),
    "H.264 with B-frames, transport stream": Clip("encode", _x264("high", b_frames=2), ".ts"),
    "H.264 with B-frames, Annex B": Clip("encode", _x264("main", b_frames=2), ".h264"),
    "H.264 interlaced": Clip("encode", _x264("main", "tff=1"), ".mp4"),
    "H.264 4:4:4": Clip("encode", _x264("high444", pix_fmt="yuv444p"), ".mkv"),
    "H.264 of odd width": Clip("encode", _x264("high444", pix_fmt="yuv444p", size=(161, 121)), ".mkv", size=(161, 121)),
    "H.264 of variable rate": Clip("copy", _x264("main", times=BEATS), ".mp4"),
    "H.264 rotated by 90": Clip("encode", _rotated(90), ".mp4", size=SIZE[::-1]),
    "H.264 rotated by 180": Clip("encode", _rotated(180), ".mp4"),
    "H.264 rotated by 270": Clip("encode", _rotated(270), ".mp4", size=SIZE[::-1]),
    "H.264 1080p with large keyframes": Clip(
        "copy", _large_keyframes, ".mp4", size=(1920, 1080), counters=tuple(range(2))
    ),
    "H.264 with sound": Clip("copy", _x264("main", audio=True), ".mp4"),
    "H.264 broken off, transport stream": Clip("copy", _part(_x264("main"), 0.6), ".ts", broken=True),
    "H.265": Clip(
        "encode",
        _make(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:bframes=0"}),
        ".mp4",
        codec="hevc",
    ),
    "VP8, WebM": Clip("copy", _make(codec="libvpx"), ".webm", codec="vp8"),
    "VP8, IVF": Clip("copy", _make(codec="libvpx"), ".ivf", codec="vp8"),
    "VP8 with an invisible frame": Clip(
        "copy", _invisible_frame, ".ivf", counters=tuple(n for n in range(FRAMES) if n != 4), codec="vp8"
    ),
    "VP8 of odd width with sound": Clip(
        "copy", _make(codec="libvpx", size=(161, 121), audio=True), ".webm", size=(161, 121), codec="vp8"
    ),
    "VP9": Clip(
        "encode", _make(codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}), ".webm", codec="vp9"
    ),
    "MJPEG": Clip("encode", _make(codec="mjpeg", pix_fmt="yuvj420p"), ".avi", codec="mjpeg"),
    "raw pictures": Clip("encode", _make(codec="rawvideo"), ".avi", codec="rawvideo"),
    "H.264 broken off before its index": Clip(
        "refused", _part(_x264("main"), 0.5), ".mp4", words="is not a media file, or is damaged"
    ),
    "nothing": Clip("refused", _bytes(b""), ".mp4", words="is empty"),
    "garbage": Clip("refused", _bytes(np.random.default_rng(1).bytes(20_000)), ".mp4", words="is not a media file"),
    "garbage named H.264": Clip("refused", _bytes(np.random.default_rng(2).bytes(20_000)), ".h264", words=""),
    "sound alone": Clip("refused", _make(audio=True, video=False), ".mp4", words="holds no video"),
}
"""Every kind of clip, by name."""


@functools.cache
def _folder() -> Path:
    path = tempfile.mkdtemp(prefix="deepio-clips-")
    atexit.register(shutil.rmtree, path)
    return Path(path)


@functools.cache
def build(name: str) -> Path:
    """Returns the path of a clip of `CLIPS`, which is built when it is first asked for."""
    clip = CLIPS[name]
    slug = "".join(c if c.isalnum() else "-" for c in name)
    path = _folder() / f"{slug}{clip.suffix}"
    clip.build(path)
    return path
