"""Video from end to end: from a source over RTP to the pictures of another engine, compared with what was sent."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path as File
from typing import Any, cast

import anyio
import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deepio_adapters.engine import EngineConfig, EngineStats, open_engine
from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.source_urls import SourceError
from deepio_adapters.sources import Source, SourceFrame, SourceInfo, parse_source
from deepio_adapters.test_pattern import Pattern, read_counter
from deepio_adapters.video_decoder import CodedPicture, VideoDecoder
from deepio_core.media import h264
from deepio_core.media.options import VideoOptions
from tests.adapters.packet_sources import read_packets
from tests.clips import BEATS, CLIPS, RATE, build
from tests.engines import BOUND, End, connect, end
from tests.media import make_clip
from tests.paths import Packet, Path, path

pytestmark = pytest.mark.anyio

Image = NDArray[np.uint8]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # engines live in a thread of their own: what they are to callers on trio is in test_engine


# --- What is seen ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A picture that came out of a decoder."""

    counter: int | None
    pts: float
    at: float
    picture: av.VideoFrame


class Tap:
    """Everything that goes into the decoder of the far side, and everything that comes out of it."""

    def __init__(self) -> None:
        self.units: list[CodedPicture] = []
        self.seen: list[Seen] = []

    @property
    def counters(self) -> list[int | None]:
        return [one.counter for one in self.seen]

    def look(self, frame: av.VideoFrame, origin: CodedPicture) -> None:
        counter = read_counter(bgr(frame))
        self.seen.append(Seen(counter, origin.ticks / 90_000, time.monotonic(), frame))

    async def until(self, condition: Callable[[], object], bound: float = BOUND) -> None:
        with anyio.move_on_after(bound):
            while not condition():  # noqa: ASYNC110 - pictures come in another thread, and many at a time
                await anyio.sleep(0.005)
            return
        raise AssertionError(f"not within {bound} s; pictures: {self.counters}")

    async def more(self, count: int) -> None:
        wanted = len(self.seen) + count
        await self.until(lambda: len(self.seen) >= wanted)


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    one = Tap()

    class Tapped(VideoDecoder):
        def __init__(self, deliver: Callable[[av.VideoFrame, CodedPicture], object], *args: Any, **more: Any) -> None:
            def look(frame: av.VideoFrame, origin: CodedPicture) -> None:
                one.look(frame, origin)
                deliver(frame, origin)

            super().__init__(look, *args, **more)

        def offer(self, picture: CodedPicture, now: float) -> bool:
            one.units.append(picture)
            return super().offer(picture, now)

    monkeypatch.setattr("deepio_adapters.receiving.VideoDecoder", Tapped)
    return one


@dataclass(frozen=True)
class Stream:
    """Video on its way."""

    near: End
    far: End
    answer: str

    @property
    def sent(self) -> EngineStats:
        return self.near.engine.stats()

    @property
    def received(self) -> EngineStats:
        return self.far.engine.stats()


@asynccontextmanager
async def streaming(
    source: Callable[[], Source],
    *,
    calls: bool = True,
    over: Path | None = None,
    theirs: Callable[[str], str] | None = None,
    fresh: bool = False,
    **options: Any,
) -> AsyncGenerator[Stream]:
    """Sends a source from one engine to another.

    `calls`: who sends offers. `over`: on which path. `theirs` changes the descriptions of who receives, on their way to
    who sends; what it takes out, who receives has never heard of. `fresh`: a camera begins with a keyframe when all is
    connected.
    """
    config = EngineConfig(source=source, fresh_source=fresh, video=VideoOptions(**options))
    async with end(open_engine, config) as near, end(open_engine, EngineConfig(receive_video=True)) as far:

        def relay(sdp: str, of_far: bool) -> str:
            if theirs is not None and (of_far or calls):
                sdp = theirs(sdp)
            return sdp if over is None else over.stand_in(sdp)

        _, answer = await connect(
            *((near, far) if calls else (far, near)),
            offered=lambda sdp: relay(sdp, not calls),
            answered=lambda sdp: relay(sdp, calls),
        )
        yield Stream(near, far, answer)


def clip_of(name: str) -> Callable[[], Source]:
    return lambda: parse_source(build(name), loop=True)


# --- Clips of every kind --------------------------------------------------------------------------------------------

PLAYED = [("asyncio", name) for name, clip in CLIPS.items() if clip.fate != "refused"]
PLAYED += [("trio", "H.264 main, AVCC"), ("trio", "MJPEG")]
REFUSED = [("asyncio", name) for name, clip in CLIPS.items() if clip.fate == "refused"]
REFUSED += [("trio", "nothing")]

WHY_ENCODED = {
    "H.264 with B-frames, AVCC": "the video has B-frames, which WebRTC cannot carry",
    "H.264 with B-frames, transport stream": "the video has B-frames, which WebRTC cannot carry",
    "H.264 with B-frames, Annex B": "the video has B-frames, which WebRTC cannot carry",
    "H.264 interlaced": "the video may be interlaced, which WebRTC receivers do not undo",
    "H.264 4:4:4": "the video has samples in yuv444p, and WebRTC receivers take 8 bits in 4:2:0",
    "H.264 of odd width": "the video has samples in yuv444p, and WebRTC receivers take 8 bits in 4:2:0",
    "H.264 rotated by 90": "the pictures must be turned by 90 degrees",
    "H.264 rotated by 180": "the pictures must be turned by 180 degrees",
    "H.264 rotated by 270": "the pictures must be turned by 270 degrees",
    "H.265": "the video is H.265, and H.264 was agreed",
    "VP9": "the video is VP9, and H.264 was agreed",
    "MJPEG": "the video is Motion JPEG, and H.264 was agreed",
    "raw pictures": "the video is uncompressed, and H.264 was agreed",
}


@pytest.mark.parametrize(("anyio_backend", "name"), PLAYED)
async def test_a_clip_arrives(tap: Tap, name: str) -> None:
    clip = CLIPS[name]
    async with streaming(clip_of(name)) as stream:
        await tap.until(lambda: len(tap.seen) >= len(clip.counters) + 4)
        if clip.fate == "copy" and not clip.broken:
            await tap.until(lambda: set(tap.counters) == set(clip.counters))
        stats = stream.sent
        assert stats.video_mode == clip.fate
        assert stats.codec_out == ("VP8" if clip.codec == "vp8" else "H264")
        if clip.fate == "copy":
            assert stats.video_reason == "the far side takes the video as it is"
            assert stats.frames_copied == stats.frames_sent
            assert stats.encoder is None
        else:
            assert stats.video_reason == WHY_ENCODED[name]
            assert stats.frames_copied == 0
            assert stats.encoder == "libx264"
        assert stream.received.decode_errors == 0 or clip.broken
    # H.264 in 4:2:0 has even sides only.
    sides = clip.size if clip.fate == "copy" else tuple(side // 2 * 2 for side in clip.size)
    seen = tap.seen.copy()
    assert {(one.picture.width, one.picture.height) for one in seen} == {sides}
    if clip.broken:
        counters = tap.counters
        assert set(counters) == set(range(max(one or 0 for one in counters) + 1))
        return
    # Not all are sent, received and decoded in time on a machine that has other things to do. But when one is shown
    # tells which one it is.
    if name == "H.264 with B-frames, Annex B":
        del seen[0]  # nothing in the file tells how long it is shown
    assert [one.counter for one in seen] == due(name, seen)


def due(name: str, seen: list[Seen]) -> list[int | None]:
    """The counters that pictures of a clip must have, going by the first of them and their time stamps."""
    counters, rate = CLIPS[name].counters, {".h264": 25}.get(CLIPS[name].suffix, 10 if "1080p" in name else RATE)
    times = [*BEATS, BEATS[-1] + 1 / RATE] if "variable" in name else [n / rate for n in range(counters[-1] + 2)]
    begin, period = times[seen[0].counter or 0] - seen[0].pts, times[-1]

    def away(number: int, at: float) -> float:
        return abs((at - times[number] + period / 2) % period - period / 2)

    return [min(counters, key=lambda number: away(number, begin + one.pts)) for one in seen]


@pytest.mark.parametrize(("anyio_backend", "name"), REFUSED)
async def test_a_clip_that_cannot_be_played_is_refused_before_anything_connects(name: str) -> None:
    config = EngineConfig(source=clip_of(name))
    with pytest.raises(SourceError) as caught:
        async with end(open_engine, config):
            pytest.fail("it was opened")
    assert CLIPS[name].words in caught.value.message


# --- Whether it is the same -----------------------------------------------------------------------------------------


def units_of(clip: File) -> list[bytes]:
    """The access units of a clip."""
    return [packet.data for packet in read_packets(clip)]


@cache
def clip_at_leisure(name: str) -> File:
    """A clip whose pictures come at a pace that a busy machine keeps up with, too: what is sent late may be dropped."""
    path, webm = build(name), name.startswith("VP8")
    if name.endswith("Annex B"):
        return path
    how: dict[str, Any] = {"codec": "libvpx"} if webm else {}
    return make_clip(path.with_name(f"leisure{path.suffix}"), frames=12, size=(160, 120), rate=25, gop=6, **how)


@pytest.mark.parametrize("name", ["H.264 main, AVCC", "H.264 main, Annex B", "VP8, WebM"])
async def test_what_is_copied_arrives_byte_for_byte(tap: Tap, name: str) -> None:
    clip = clip_at_leisure(name)
    sent = units_of(clip)
    async with streaming(lambda: parse_source(clip, loop=True)):
        await tap.until(lambda: len(tap.units) >= len(sent) + 2)
    units = [unit.data for unit in tap.units]
    if CLIPS[name].codec == "h264":
        # Start codes are not transmitted.
        kinds = [nal[0] & 0x1F for nal in h264.nal_units(units[0])]
        sets, slices = [kind for kind in kinds if kind not in {h264.SEI, h264.IDR}], kinds[-1:]
        assert (sets, slices) == ([h264.SPS, h264.PPS], [h264.IDR])
        sent, units = ([b"".join(h264.nal_units(unit)) for unit in some] for some in (sent, units))
    at = sent.index(units[0])
    assert units == [sent[(at + n) % len(sent)] for n in range(len(units))]


def bgr(picture: av.VideoFrame) -> Image:
    return cast("Image", picture.to_ndarray(format="bgr24"))


@cache
def texture() -> Image:
    """Fur, grass and leaves (see data/README.md)."""
    with av.open(str(File(__file__).parents[1] / "data" / "bunny.jpg")) as container:
        return bgr(next(container.decode(video=0)))


def textured(number: int) -> Image:
    """The picture with a number: a camera that pans over the texture, below a counter."""
    image = Pattern(320, 240).draw(number)
    x, y = 2 * number % 320, number % 120
    image[30:] = texture()[y : y + 210, x : x + 320]
    return image


def plain(number: int) -> Image:
    return Pattern(320, 240).draw(number)


def drawn(draw: Callable[[int], Image], rate: float) -> Callable[[], Source]:
    """Makes a source of pictures that are drawn by their number."""

    def pictures() -> Iterator[Image]:
        for number in range(1_000_000):
            yield draw(number)

    return lambda: parse_source(pictures, frame_rate=rate)


def psnr(one: Image, other: Image) -> float:
    """Peak signal-to-noise ratio, decibels."""
    error = float(np.mean((one.astype(np.float64) - other) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-9))


@pytest.mark.parametrize("codec", ["H264", "VP8"])
@pytest.mark.parametrize("draw", [plain, textured])
async def test_what_is_encoded_looks_as_it_was(tap: Tap, codec: str, draw: Callable[[int], Image]) -> None:
    async with streaming(drawn(draw, 25), codec=codec) as stream:
        await tap.more(15)
        assert stream.sent.codec_out == codec
        assert (stream.sent.video_mode, stream.received.decode_errors) == ("encode", 0)
    ratios: list[float] = []
    for one in tap.seen:
        assert one.counter is not None
        ratios.append(psnr(draw(one.counter), bgr(one.picture)))
    assert min(ratios) > 30


# --- What the far side can take -------------------------------------------------------------------------------------


def without_h264(sdp: str) -> str:
    """A description of somebody who has VP8 only."""
    gone = set(re.findall(r"a=rtpmap:(\d+) H264/", sdp))
    gone |= {rtx for rtx, codec in re.findall(r"a=fmtp:(\d+) apt=(\d+)", sdp) if codec in gone}

    def listed(line: re.Match[str]) -> str:
        return line[1] + "".join(f" {number}" for number in line[2].split() if number not in gone)

    sdp = re.sub(r"a=(?:rtpmap|fmtp|rtcp-fb):(\d+) .*\r\n", lambda line: "" if line[1] in gone else line[0], sdp)
    return re.sub(r"(m=video \S+ \S+)([ \d]+)", listed, sdp)


@pytest.mark.parametrize("calls", [True, False])
@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("H.264 main, AVCC", "encode", "the video is H.264, and VP8 was agreed"),
        ("VP8, WebM", "copy", "the far side takes the video as it is"),
    ],
)
async def test_who_has_no_h264_gets_vp8(tap: Tap, calls: bool, name: str, mode: str, reason: str) -> None:
    async with streaming(clip_of(name), calls=calls, theirs=without_h264) as stream:
        await tap.more(8)
        stats = stream.sent
        assert "H264" not in stream.answer
        assert (stats.video_mode, stats.video_reason, stats.codec_out) == (mode, reason, "VP8")
        assert {unit.codec for unit in tap.units} == {"VP8"}
    assert tap.counters == due(name, tap.seen)


@pytest.mark.parametrize("calls", [True, False])
async def test_who_cannot_hold_a_large_keyframe_gets_smaller_ones(tap: Tap, calls: bool) -> None:
    def old(sdp: str) -> str:
        assert "a=max-message-size:262144" in sdp
        return sdp.replace("a=max-message-size:262144", "a=max-message-size:65536")  # aiortc up to 1.15

    name = "H.264 1080p with large keyframes"
    async with streaming(clip_of(name), calls=calls, theirs=old) as stream:
        await tap.more(3)
        stats = stream.sent
        assert stats.video_mode == "encode"
        assert stats.video_reason is not None
        assert stats.video_reason.endswith("bytes, more than the 140000 that the far side holds")
    assert any(unit.keyframe for unit in tap.units)
    assert all(len(unit.data) < 140_000 for unit in tap.units)
    assert tap.counters == due(name, tap.seen)


# --- Cameras --------------------------------------------------------------------------------------------------------


class Camera(Source):
    """Plays a clip as a camera does: each packet comes when it is taken, and what is not taken is gone."""

    def __init__(self, clip: File) -> None:
        super().__init__("camera")
        self._clip = parse_source(clip, loop=True)
        self.gave: list[float] = []
        """When each packet was given."""

    def open(self) -> SourceInfo:
        return replace(self._clip.open(), live=True)

    def frames(self) -> Iterator[SourceFrame]:
        raise AssertionError("its packets are wanted")

    def packets(self) -> Iterator[SourcePacket | SourceGap]:
        for packet in self._clip.packets():
            assert isinstance(packet, SourcePacket)
            if self._closed.wait(max(0.0, packet.captured_at - time.monotonic())):
                return
            self.gave.append(time.monotonic())
            yield packet

    def close(self, timeout: float = 2.0) -> bool:
        super().close(timeout)
        return self._clip.close(timeout)


@cache
def filmed(rate: int, gop: int, frames: int, bit_rate: int = 1_000_000) -> File:
    folder = build("H.264 main, AVCC").parent
    path = folder / f"{rate}-{gop}-{frames}-{bit_rate}.mp4"
    return make_clip(path, rate=rate, gop=gop, frames=frames, size=(160, 128), bit_rate=bit_rate)


async def test_a_keyframe_that_the_camera_does_not_give_is_encoded(tap: Tap) -> None:
    rate, gop, wait = 50, 75, 0.2
    clip = filmed(rate=rate, gop=gop, frames=2 * gop)
    theirs = [b"".join(h264.nal_units(unit)) for unit in units_of(clip)]

    def copied(unit: CodedPicture) -> bool:
        return b"".join(h264.nal_units(unit.data)) in theirs

    async with streaming(lambda: Camera(clip), fresh=True, keyframe_wait=wait) as stream:
        # Who was not ready yet when the first keyframe came has asked for one, too.
        await tap.until(lambda: len(tap.seen) >= 5 and stream.sent.video_mode == "copy" and copied(tap.units[-1]))
        # Who looks again needs a keyframe to begin with.
        stream.far.engine.want_frames(False)
        await tap.until(lambda: stream.received.frames_unwanted >= 3)
        looked = len(tap.seen)
        asked, units = time.monotonic(), len(tap.units)
        stream.far.engine.want_frames(True)
        await tap.more(1)
        assert tap.seen[looked].at - asked < wait + 0.5
        stats = stream.sent
        assert stats.video_mode == "encode"
        assert stats.video_reason == "a keyframe was asked for, and the next one of the source is too far away"
        # And at the camera's next one, its packets are copied again.
        await tap.until(lambda: stream.sent.video_mode == "copy", gop / rate + 0.5)
        await tap.more(10)
        assert stream.received.decode_errors == 0
    data = [b"".join(h264.nal_units(unit.data)) for unit in tap.units[units:]]
    encoded = [one not in theirs for one in data]
    first = next(at for at, one in enumerate(tap.units) if at >= units and encoded[at - units])
    assert tap.units[first].keyframe
    again = len(encoded) - encoded[::-1].index(True)
    assert len(encoded) - again >= 5
    assert tap.units[units + again].keyframe
    assert theirs.index(data[again]) % gop == 0
    # Whoever looks sees every picture once, and as it was filmed.
    assert all(looks_right(one, rate) for one in tap.seen)
    steps = [((other.counter or 0) - (one.counter or 0)) % (2 * gop) for one, other in pairwise(tap.seen)]
    assert all(0 < step < gop for step in steps)


# --- Bad networks ---------------------------------------------------------------------------------------------------


def looks_right(one: Seen, rate: int) -> bool:
    """Whether a picture of what was `filmed` is what it says it is, and no mixture of several."""
    if one.counter is None:
        return False
    drawn = Pattern(160, 128).draw(one.counter, f"{one.counter / rate:.3f}")
    return psnr(drawn, bgr(one.picture)) > 25


def longest_gap(seen: list[Seen]) -> float:
    """Seconds for which a picture stood still."""
    return max(other.at - one.at for one, other in pairwise(seen))


@pytest.mark.parametrize("mode", ["auto", "encode"])
async def test_random_losses_are_hardly_seen(tap: Tap, mode: str) -> None:
    dice = random.Random(5)
    clip = filmed(rate=50, gop=50, frames=200)
    with path() as over:
        over.lose = lambda _: dice.random() < 0.05
        async with streaming(lambda: Camera(clip), over=over, mode=mode) as stream:
            await tap.more(80)
            assert stream.sent.packets_resent >= 3
            assert stream.received.decode_errors == 0
        assert over.lost >= 3
    assert all(looks_right(one, 50) for one in tap.seen)
    # A lost packet comes again within a round trip. What none comes for, within two (0.1 s at least) a keyframe does.
    assert longest_gap(tap.seen) < 1.0


@pytest.mark.parametrize("mode", ["auto", "encode"])
async def test_after_a_burst_that_takes_a_keyframe_the_picture_is_soon_back(tap: Tap, mode: str) -> None:
    clip = filmed(rate=50, gop=75, frames=150)
    over_at = float("inf")
    ours: set[int] = set()

    def lose(packet: Packet) -> bool:
        if over_at == float("inf"):
            ours.add(packet.ssrc)
            return False
        # Afterwards nothing is repaired, either: what is sent again has a stream of its own (RFC 4588).
        return time.monotonic() < over_at or packet.ssrc not in ours

    with path() as over:
        over.lose = lose
        async with streaming(lambda: Camera(clip), over=over, mode=mode, fresh=True, keyframe_wait=0.2) as stream:
            sending = "copy" if mode == "auto" else "encode"
            await tap.until(lambda: stream.sent.video_mode == sending and ((tap.counters or [0])[-1] or 0) % 75 >= 60)
            over_at = time.monotonic() + 0.4
            await tap.until(lambda: time.monotonic() > over_at)
            before = len(tap.seen)
            await tap.more(30)
            assert stream.sent.keyframe_requests >= 1
            assert stream.received.decode_errors == 0
    assert all(looks_right(one, 50) for one in tap.seen)
    # It takes until it is seen that something is missing, until that is given up (0.1 s), and until a keyframe is made:
    # by the encoder at once, for a camera after `keyframe_wait` at the latest. Its own next one is more than a second
    # away.
    assert tap.seen[before].at - over_at < 0.1 + 0.2 + 0.5


SLOW_AGE = 0.5 + 0.5 + 0.5
"""Seconds: the slow path keeps half a second, what it has lost is waited for as long again at most, and the machine may
have other things to do. Without bounds, pictures would be as old as the path has been slow."""


async def until_right(tap: Tap, count: int) -> None:
    """Waits until the pictures shown last can all be read: on an overloaded path they are damaged at first."""
    begin = len(tap.seen)
    await tap.until(lambda: len(tap.seen) >= begin + count and None not in tap.counters[-count:])


def newest_ages(tap: Tap, made: list[float], count: int, cycle: int) -> list[float]:
    """Seconds from when the pictures shown last were made until they were shown."""
    return [one.at - max(at for at in made[one.counter or 0 :: cycle] if at <= one.at) for one in tap.seen[-count:]]


async def test_a_slow_path_makes_what_is_encoded_worse_but_not_older(tap: Tap) -> None:
    made: list[float] = []

    def draw(number: int) -> Image:
        made.append(time.monotonic())
        return textured(number)

    with path() as over:
        over.rate, over.limit = 400_000, 0.5
        async with streaming(drawn(draw, 25), over=over, bitrate=700_000) as stream:
            await tap.until(lambda: (stream.sent.target_bitrate or 0) < 400_000)
            await until_right(tap, 15)
    assert max(newest_ages(tap, made, 15, 1_000_000)) < SLOW_AGE


async def test_a_camera_with_more_than_the_path_carries_is_encoded(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepio_core.media.plan.LOSS_TIME", 0.3)
    monkeypatch.setattr("deepio_core.media.plan.SHORT_TIME", 0.3)
    frames = 200
    clip = filmed(rate=50, gop=50, frames=frames, bit_rate=2_000_000)
    cameras: list[Camera] = []

    def make() -> Source:
        cameras.append(Camera(clip))
        return cameras[-1]

    with path() as over:
        over.limit = 0.5
        async with streaming(make, over=over) as stream:
            await tap.until(lambda: stream.sent.video_mode == "copy")
            over.rate = 300_000
            await tap.until(lambda: "the path" in (stream.sent.video_reason or ""))
            assert stream.sent.video_mode == "encode"
            await tap.until(lambda: (stream.sent.target_bitrate or 0) < 300_000)
            await until_right(tap, 15)
            assert stream.sent.video_mode == "encode"
    assert max(newest_ages(tap, cameras[0].gave, 15, frames)) < SLOW_AGE
