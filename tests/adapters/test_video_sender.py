"""The video of one connection: copied, encoded, and from one to the other without a hole."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from deepio_adapters import video_sender
from deepio_adapters.decoding import PictureDecoder
from deepio_adapters.engine import EngineConfig, EngineStats
from deepio_adapters.feed import Feed, MediaFeed
from deepio_adapters.media import EncodedFrame, SourceGap, SourcePacket
from deepio_adapters.source_urls import SourceError
from deepio_adapters.sources import parse_source
from deepio_adapters.video_sender import EncoderFactory, VideoSender
from deepio_core.media.far import FarVideo
from deepio_core.media.levels import PictureLimits
from deepio_core.media.options import VideoOptions
from deepio_core.outputs import Cause
from tests.adapters.packet_sources import Scripted, counter, read_packets
from tests.adapters.video_sinks import FakeEncoder, FakeSink, until
from tests.media import make_clip

pytestmark = pytest.mark.anyio

GOP = 10

TOO_OLD = 0.8
"""Seconds after which a picture must not be sent any more in the tests of slowness. Were they queued, the last would be
three seconds old; they are less than a tenth of a second, but machines stall."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # it lives in the engine room


@pytest.fixture(scope="module")
def packets(tmp_path_factory: pytest.TempPathFactory) -> list[SourcePacket]:
    return read_packets(make_clip(tmp_path_factory.mktemp("sender") / "clip.ts", size=(160, 120), frames=40, gop=GOP))


@pytest.fixture(scope="module")
def long_gop(tmp_path_factory: pytest.TempPathFactory) -> list[SourcePacket]:
    return read_packets(make_clip(tmp_path_factory.mktemp("sender") / "long.ts", size=(160, 120), frames=80, gop=100))


@pytest.fixture(scope="module")
def vp8(tmp_path_factory: pytest.TempPathFactory) -> list[SourcePacket]:
    clip = tmp_path_factory.mktemp("sender") / "clip.webm"
    return read_packets(make_clip(clip, codec="libvpx", size=(160, 120), frames=20, gop=GOP))


class Connection:
    """A video sender and its surroundings."""

    def __init__(
        self, feed: Feed, sink: FakeSink | None, make_encoder: EncoderFactory | None, options: dict[str, Any]
    ) -> None:
        self.sink = sink or FakeSink()
        self.stats = EngineStats()
        self.ended: list[str] = []
        self.causes: list[Cause] = []
        self.sent: list[tuple[float, float]] = []
        more: dict[str, Any] = {} if make_encoder is None else {"make_encoder": make_encoder}
        self.sender = VideoSender(
            feed,
            EngineConfig(video=VideoOptions(**options)),
            self.stats,
            self.on_end,
            sent=lambda *times: self.sent.append(times),
            **more,
        )

    def on_end(self, cause: Cause, why: str) -> None:
        self.causes.append(cause)
        self.ended.append(why)

    @property
    def mode(self) -> tuple[str | None, str | None, int | None]:
        return self.stats.video_mode, self.stats.encoder, self.stats.target_bitrate


@asynccontextmanager
async def connection(
    feed: Feed,
    *,
    sink: FakeSink | None = None,
    make_encoder: EncoderFactory | None = None,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[Connection]:
    made = Connection(feed, sink, make_encoder, options)
    if start:
        made.sender.started(made.sink)
    try:
        yield made
    finally:
        made.sender.close()
        made.sender.close()
        await until(lambda: not encoders())


def encoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in {"deepio-encode", "deepio-pictures"}]


def fakes(**arguments: Any) -> tuple[list[FakeEncoder], EncoderFactory]:
    made: list[FakeEncoder] = []

    def make(*_: object) -> FakeEncoder:
        made.append(FakeEncoder(**arguments))
        return made[-1]

    return made, make


def numbers(frames: list[EncodedFrame], packets: list[SourcePacket]) -> list[int | None]:
    """What a decoder sees of the frames, each a number; None where it sees nothing."""
    decoder = PictureDecoder(packets[0].stream)
    seen: list[int | None] = []
    for frame in frames:
        pictures = decoder.decode(
            SourcePacket(
                data=frame.data,
                stream=packets[0].stream,
                keyframe=frame.keyframe,
                pts=frame.pts,
                captured_at=frame.captured_at,
                interval=0.04,
            )
        )
        seen.extend(counter(picture) for picture in pictures)
    assert decoder.errors == 0
    return seen


async def one_by_one(made: Scripted, sink: FakeSink, count: int) -> None:
    """Lets packets through, each when the one before has been sent."""
    for _ in range(count):
        expected = len(sink.frames) + 1
        made.source.give()
        await until(partial(lambda expected: len(sink.frames) >= expected, expected))


def rises(frames: list[EncodedFrame]) -> bool:
    return all(one.pts < other.pts for one, other in pairwise(frames))


async def test_packets_are_copied_as_they_are(packets: list[SourcePacket]) -> None:
    with Scripted(packets) as made:
        async with connection(made.feed, start=False) as it:
            assert it.sender.preferred_codecs == ("H264", "VP8")
            it.sender.started(it.sink)
            assert it.stats.video_mode is None
            made.source.give(25)
            await until(lambda: len(it.sink.frames) == 25)
            assert [frame.data for frame in it.sink.frames] == [packet.data for packet in packets[:25]]
            assert it.sink.kinds == ("C" + 9 * "c") * 2 + "Ccccc"
            assert it.stats.send_dropped == 0
            assert it.mode == ("copy", None, None)
            assert it.stats.video_reason == "the far side takes the video as it is"
            assert [captured for captured, _ in it.sent] == [frame.captured_at for frame in it.sink.frames]
            assert not encoders()


async def test_a_keyframe_that_the_source_has_not_is_encoded_until_it_has_one(packets: list[SourcePacket]) -> None:
    with Scripted(packets) as made:
        async with connection(made.feed, keyframe_wait=0.05) as it:
            made.source.give(3)
            await until(lambda: len(it.sink.frames) == 3)
            await asyncio.sleep(0.25)  # longer than a keyframe counts as the answer
            it.sender.keyframe_requested()
            await until(lambda: it.sink.kinds.endswith("E"))
            assert it.stats.video_mode == "encode"
            assert it.stats.target_bitrate == 1_500_000
            await one_by_one(made, it.sink, 4)
            assert it.stats.encoder == "libx264"
            made.source.until_keyframe()
            made.source.give(3)
            await until(lambda: it.sink.kinds.endswith("Ccc"))
            assert it.sink.kinds.startswith("CccE")
            seen = numbers(it.sink.frames, packets)
            assert None not in seen
            assert seen == sorted(seen, key=lambda number: number or 0)
            assert seen[-3:] == [10, 11, 12]
            assert rises(it.sink.frames)
            assert it.mode == ("copy", None, None)
            assert not it.ended


async def test_a_new_connection_to_a_running_camera_shows_a_picture_at_once(packets: list[SourcePacket]) -> None:
    with Scripted(packets) as made:
        made.source.give(17)
        watcher = made.feed.subscribe_packets()
        await until(lambda: made.feed.keyframe_at is not None)
        async with connection(made.feed) as it:
            await until(lambda: it.sink.frames)
            assert it.sink.kinds == "E"
            assert numbers(it.sink.frames, packets) == [16]
            made.source.give(5)
            await until(lambda: it.sink.kinds.endswith("Cc"))
            assert numbers(it.sink.frames, packets)[-2:] == [20, 21]
        made.feed.unsubscribe(watcher)


async def test_only_so_many_encode_what_could_be_copied(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_sender, "MAX_OPTIONAL", 1)
    with Scripted(packets) as made:
        made.source.give(17)
        watcher = made.feed.subscribe_packets()
        await until(lambda: made.feed.keyframe_at is not None)
        async with connection(made.feed) as one, connection(made.feed) as other:
            await until(lambda: one.sink.frames)
            assert (one.stats.video_mode, other.stats.video_mode) == ("encode", None)
            made.source.give(5)
            await until(lambda: other.sink.frames)
            assert other.sink.kinds.startswith("C"), "the source's next keyframe had to do"
            await until(lambda: one.stats.video_mode == "copy")
            async with connection(made.feed) as third:
                await until(lambda: third.sink.frames)
                assert third.sink.kinds == "E", "there is an encoder to spare again"
        made.feed.unsubscribe(watcher)


async def test_what_is_read_ahead_is_sent_before_what_is_encoded(long_gop: list[SourcePacket]) -> None:
    made_encoders, make = fakes()
    with Scripted(long_gop, live=False) as made:
        async with connection(made.feed, make_encoder=make, keyframe_wait=0.0) as it:
            begun = time.monotonic()
            # The keyframe is too old to be the answer, and the last of these is not due yet.
            made.source.give(10, captured_at=begun - 0.25)
            await until(lambda: len(it.sink.frames) == 10)
            it.sender.keyframe_requested()
            it.sender.keyframe_requested()
            assert it.stats.video_mode == "encode"
            made.source.give(10, captured_at=begun + 0.15)
            await until(lambda: len(it.sink.encoded) > 3)
            made.source.number = len(long_gop)
            made.source.give(2, captured_at=time.monotonic() + 0.1)
            await until(lambda: it.sink.kinds.endswith("Cc"))
            assert it.mode == ("copy", None, None)
            assert it.sink.kinds.startswith("C" + 9 * "c" + "E")
            assert it.sink.encoded[0].captured_at >= it.sink.frames[9].captured_at
            # What is encoded is sent when it is due, and so is the keyframe after it.
            ages = [age for age, frame in zip(it.sink.ages, it.sink.frames, strict=True) if not frame.copied]
            assert min([*ages, it.sink.ages[-2]]) > -0.001
            assert rises(it.sink.frames)
            assert len(made_encoders) == 1


async def test_what_is_known_and_counted_outlasts_the_encoder(long_gop: list[SourcePacket]) -> None:
    made_encoders, make = fakes(takes=0.02)
    with Scripted(long_gop, fresh=True) as made:
        async with connection(made.feed, make_encoder=make, keyframe_wait=0.0) as it:
            made.source.give(captured_at=time.monotonic() - 1)
            await until(lambda: it.sink.frames)
            it.sender.estimated(700_000)
            assert it.stats.target_bitrate is None
            it.sender.keyframe_requested()
            assert it.stats.target_bitrate == 700_000
            while it.stats.send_dropped < 3:
                made.source.give()
                await asyncio.sleep(0.005)
            assert made_encoders[0].bitrate == 700_000
            made.source.number = len(long_gop)
            made.source.give()
            await until(lambda: it.sink.kinds.endswith("C"))
            assert it.stats.send_dropped >= 3
        assert made.source.closed


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_encoding_can_be_asked_for(packets: list[SourcePacket], codec: str) -> None:
    with Scripted(packets) as made:
        async with connection(made.feed, sink=FakeSink(codec), mode="encode", codec=codec) as it:
            assert it.sender.preferred_codecs[0] == codec
            await one_by_one(made, it.sink, 4)
            assert it.sink.kinds == "Eeee"
            assert it.stats.video_reason == "encoding was asked for"
            assert it.stats.encoder == ("libx264" if codec == "H264" else "libvpx")
            assert len(it.sink.encoded) == len(it.sink.frames)


async def test_pictures_are_encoded() -> None:
    feed = MediaFeed(lambda: parse_source("test:160x120@100"))
    feed.open()
    async with connection(feed) as it:
        await until(lambda: len(it.sink.frames) > 3)
        assert it.sink.kinds.startswith("Eeee")
        assert it.stats.video_reason == "the source makes pictures, and has no packets to copy"
        assert rises(it.sink.frames)
    assert feed.close(10)


async def test_vp8_is_copied_to_who_takes_it_and_encoded_for_others(vp8: list[SourcePacket]) -> None:
    with Scripted(vp8) as made:
        async with (
            connection(made.feed, sink=FakeSink("VP8")) as copied,
            connection(made.feed, sink=FakeSink("H264")) as encoded,
        ):
            assert copied.sender.preferred_codecs == ("VP8", "H264")
            await one_by_one(made, encoded.sink, 3)
            assert [frame.data for frame in copied.sink.frames] == [packet.data for packet in vp8[:3]]
            assert encoded.sink.kinds == "Eee"


@pytest.mark.parametrize("while_away", ["nothing", "last"])
async def test_a_source_that_is_away(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch, while_away: str
) -> None:
    monkeypatch.setattr("deepio_adapters.video_sender.REPEAT", 0.05)
    with Scripted(packets) as made:
        async with connection(made.feed, while_away=while_away) as it:
            made.source.give(3)
            await until(lambda: len(it.sink.frames) == 3)
            made.source.gap()
            if while_away == "last":
                await until(lambda: len(it.sink.frames) >= 6)
                assert set(numbers(it.sink.frames, packets)[3:]) == {2}
                assert it.stats.video_reason == "the source is away, and its last picture is sent"
            else:
                await until(lambda: it.stats.video_mode is None)
                assert it.stats.video_reason == "the source is away"
            made.source.number += 4 * GOP  # as many as have not come
            made.source.give(2)
            await until(lambda: it.sink.kinds.endswith("Cc"))
            assert made.feed.reconnects == 1
            assert rises(it.sink.frames)
            assert it.sink.kinds.startswith("CccE" if while_away == "last" else "CccCc")
            before = len(it.sink.frames)
            await asyncio.sleep(0.1)
            assert len(it.sink.frames) == before


async def test_the_last_picture_is_repeated_only_while_the_source_is_away(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepio_adapters.video_sender.REPEAT", 0.03)
    with Scripted(packets) as made:
        async with connection(made.feed, mode="encode", while_away="last") as it:
            await one_by_one(made, it.sink, 1)
            made.source.gap()
            await until(lambda: len(it.sink.frames) >= 4)
            made.source.number += 4 * GOP
            made.source.give()
            await until(lambda: it.sink.frames[-1].pts == pytest.approx(made.source.number * 0.04 - 0.04))
            before = len(it.sink.frames)
            await asyncio.sleep(0.15)
            assert len(it.sink.frames) == before


@pytest.mark.parametrize("while_away", ["nothing", "last"])
async def test_a_connection_begun_while_the_source_is_away(packets: list[SourcePacket], while_away: str) -> None:
    with Scripted(packets) as made:
        made.source.give(3)
        made.source.gap()
        watcher = made.feed.subscribe_packets()
        await until(lambda: any(isinstance(item, SourceGap) for item in watcher.take_all()))
        async with connection(made.feed, while_away=while_away) as it:
            await until(lambda: "is away" in (it.stats.video_reason or ""))
            if while_away == "last":
                await until(lambda: it.sink.frames)
            made.source.give(2)
            await until(lambda: it.sink.kinds.endswith("Cc"))
            assert it.sink.kinds == ("ECc" if while_away == "last" else "Cc")
        made.feed.unsubscribe(watcher)


async def test_a_source_that_comes_back_in_another_codec_is_encoded(
    packets: list[SourcePacket], vp8: list[SourcePacket]
) -> None:
    with Scripted(packets) as made:
        async with connection(made.feed) as it:
            made.source.give(2)
            await until(lambda: len(it.sink.frames) == 2)
            made.source.gap()
            first = made.source.number
            made.source.give(data=vp8[0].data, stream=vp8[0].stream)
            await until(lambda: len(it.sink.frames) == 3)
            assert it.sink.kinds == "CcE"
            assert it.stats.video_reason == "the video is VP8, and H.264 was agreed"
            made.source.number = first + GOP
            made.source.give(2)
            await until(lambda: it.sink.kinds.endswith("Cc"))
            assert rises(it.sink.frames)


@pytest.mark.parametrize("lenient", [True, False])
async def test_an_encoder_is_told_the_limits_of_a_far_side_that_means_them(
    packets: list[SourcePacket], lenient: bool
) -> None:
    given: list[object] = []

    def make(*arguments: object) -> FakeEncoder:
        given.extend(arguments)
        return FakeEncoder()

    sink = FakeSink()
    sink.far = FarVideo(codec="H264", profile_level_id="42e01e", lenient=lenient)
    with Scripted(packets) as made:
        async with connection(made.feed, sink=sink, make_encoder=make, mode="encode") as it:
            made.source.give()
            await until(lambda: len(it.sink.frames) == 1)
    assert given[0] == "H264"
    assert given[3] == (None if lenient else PictureLimits(level="3.0", frame=1620, second=40_500))


async def test_a_slow_encoder_makes_pictures_fewer_but_not_older(packets: list[SourcePacket]) -> None:
    made_encoders, make = fakes(takes=0.03)
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make, mode="encode") as it:
            for _ in range(120):
                made.source.give()
                await asyncio.sleep(0.005)
            await until(lambda: len(it.sink.frames) + it.stats.send_dropped >= 120)
            assert it.stats.send_dropped > 40
            assert max(it.sink.ages) < TOO_OLD
    assert made_encoders[0].closed


async def test_a_decoder_that_is_behind_is_counted_too(packets: list[SourcePacket]) -> None:
    _, make = fakes()
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make, mode="encode") as it:
            await one_by_one(made, it.sink, 1)
            made.source.give(9, captured_at=time.monotonic() - 10)
            await one_by_one(made, it.sink, 1)
            assert it.stats.send_dropped == 9
        assert it.stats.send_dropped == 9


async def test_a_slow_network_makes_pictures_fewer_but_not_older(packets: list[SourcePacket]) -> None:
    _, make = fakes()
    sink = FakeSink()
    with Scripted(packets) as made:
        async with connection(made.feed, sink=sink, make_encoder=make, mode="encode") as it:

            def drain() -> None:
                sink.backlog = 0
                it.sender.drained()

            def blocked(_: EncodedFrame) -> None:
                assert sink.backlog == 0  # the encoder waits for that
                sink.backlog = 1
                asyncio.get_running_loop().call_later(0.03, drain)

            sink.on_send = blocked
            for _ in range(120):
                made.source.give()
                await asyncio.sleep(0.005)
            await until(lambda: len(it.sink.frames) + it.stats.send_dropped >= 119)
            assert it.stats.send_dropped > 40
            assert max(sink.ages) < TOO_OLD


async def test_a_slow_application_gets_the_newest_picture(packets: list[SourcePacket]) -> None:
    with Scripted(packets) as made:
        slot = made.feed.subscribe_frames()
        ages: list[float] = []
        queue = made.feed.subscribe_packets()
        for _ in range(20):
            for _ in range(6):
                made.source.give()
                await asyncio.sleep(0.005)
            ages.append(time.monotonic() - slot.get(10).captured_at)
        assert slot.dropped > 40
        assert max(ages) < TOO_OLD / 2
        # Who takes no packets has as many as may wait, and no more.
        made.source.give(200)
        await until(lambda: queue.dropped > 100)
        assert len(queue.take_all()) <= 150


async def test_a_sink_that_says_nothing_of_its_end_is_looked_at(packets: list[SourcePacket]) -> None:
    _, make = fakes()
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make, mode="encode") as it:
            it.sink.backlog = 1
            made.source.give()
            await until(lambda: len(it.sink.frames) == 1)
            made.source.give(3)
            await asyncio.sleep(0.06)
            assert len(it.sink.frames) == 1
            it.sink.backlog = 0
            await until(lambda: len(it.sink.frames) == 2)
            assert it.sink.frames[-1].pts == pytest.approx(0.12)
            await until(lambda: it.stats.send_dropped == 2)


async def test_the_bitrate_follows_the_path(packets: list[SourcePacket]) -> None:
    made_encoders, make = fakes()
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make, mode="encode") as it:
            it.sender.estimated(700_000)
            assert it.stats.target_bitrate == 700_000
            made.source.give()
            await until(lambda: it.sink.frames)
            assert made_encoders[0].bitrate == 700_000
            await asyncio.sleep(0.25)
            it.sender.reported(0.5, 0.01)
            assert it.stats.target_bitrate == 525_000
            made.source.give()
            await until(lambda: made_encoders[0].bitrate == 525_000)


async def test_a_path_that_loses_packets_is_not_copied_to(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepio_core.media.plan.LOSS_TIME", 0.0)
    _, make = fakes()
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make) as it:
            made.source.give(2)
            await until(lambda: len(it.sink.frames) == 2)
            it.sender.reported(0.2, None)
            it.sender.reported(0.2, None)
            assert it.stats.video_reason == "the path loses packets (20%)"
            made.source.give(20)
            await until(lambda: it.sink.encoded)
            assert "C" not in it.sink.kinds[2:]


async def test_keyframes_are_asked_of_an_encoder_at_work(packets: list[SourcePacket]) -> None:
    _, make = fakes()
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make, mode="encode") as it:
            await one_by_one(made, it.sink, 3)
            await asyncio.sleep(0.25)  # longer than a keyframe counts as the answer
            it.sender.keyframe_requested()
            made.source.give()
            await until(lambda: len(it.sink.frames) == 4)
            assert it.sink.kinds == "EeeE"


async def test_an_encoder_that_does_not_work_ends_what_must_be_encoded(packets: list[SourcePacket]) -> None:
    made_encoders, make = fakes(fails=True)
    with Scripted(packets) as made:
        async with connection(made.feed, make_encoder=make, mode="encode") as it:
            made.source.give()
            await until(lambda: len(made_encoders) == 2)
            made.source.give()
            await until(lambda: it.ended)
            assert it.ended == ["The fake encoder is broken."]
            assert it.causes == [Cause.SOURCE_FAILED]
            made.source.give()
            assert not it.sink.frames


async def test_an_encoder_that_does_not_work_leaves_what_can_be_copied(packets: list[SourcePacket]) -> None:
    _, make = fakes(fails=True)
    with Scripted(packets) as made:
        made.source.give(3)
        watcher = made.feed.subscribe_packets()
        await until(lambda: made.feed.keyframe_at is not None)
        async with connection(made.feed, make_encoder=make) as it:
            await until(lambda: it.stats.video_mode == "encode")
            while it.stats.video_mode == "encode":
                made.source.give()
                await asyncio.sleep(0.005)
            made.source.until_keyframe()
            made.source.give(2)
            await until(lambda: it.sink.kinds.endswith("Cc"))
            assert not it.ended
        made.feed.unsubscribe(watcher)


async def test_nothing_is_done_after_an_end_in_the_middle_of_what_has_come(packets: list[SourcePacket]) -> None:
    _, make = fakes(fails=True)
    with Scripted(packets) as made:
        made.source.give(3)
        watcher = made.feed.subscribe_packets()
        await until(lambda: made.feed.keyframe_at is not None)
        async with connection(made.feed, make_encoder=make, while_away="last") as it:
            await until(lambda: it.stats.video_mode == "encode")
            while it.stats.video_mode == "encode":
                made.source.give()
                await asyncio.sleep(0.005)
            last = made.feed.subscribe_packets()  # gets what comes after the sender has got it
            made.source.until_keyframe()
            made.source.give(stream=dataclasses.replace(packets[0].stream, b_frames=True))
            made.source.gap()
            while not isinstance(last.get(), SourceGap):
                pass  # in this thread: the sender finds both at once
            await until(lambda: it.ended)
            assert not it.sender._timers
        for queue in (watcher, last):
            made.feed.unsubscribe(queue)


async def test_what_cannot_be_decoded_cannot_be_encoded(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepio_adapters.decoding.MAX_ERRORS_IN_A_ROW", 3)
    with Scripted(packets) as made:
        async with connection(made.feed, mode="encode") as it:
            made.source.give(5, data=b"\0\0\0\1\x65garbage")
            await until(lambda: it.ended)
            assert "cannot be decoded" in it.ended[0]


async def test_copy_or_nothing(packets: list[SourcePacket]) -> None:
    with Scripted(packets) as made:
        async with connection(made.feed, sink=FakeSink("VP8"), mode="copy") as it:
            made.source.give(20)
            queue = made.feed.subscribe_packets()
            made.source.give(GOP + 1)
            await until(queue.take_all)
            assert it.stats.video_mode is None
            assert it.stats.video_reason == "the video is H.264, and VP8 was agreed"
            assert (it.sink.frames, it.ended) == ([], [])


@pytest.mark.parametrize(
    ("error", "why"), [(None, "the source script has ended"), (SourceError("It broke off."), "It broke off.")]
)
@pytest.mark.parametrize("mode", ["auto", "encode"])
async def test_the_end_of_the_source_is_told_once(
    packets: list[SourcePacket], error: SourceError | None, why: str, mode: str
) -> None:
    with Scripted(packets) as made:
        async with connection(made.feed, mode=mode) as it:
            made.source.give()
            await until(lambda: it.sink.frames)
            made.source.give()
            made.source.end(error)
            await until(lambda: it.ended)
            assert it.ended == [why]
            assert it.causes == [Cause.SOURCE_FAILED if error else Cause.SOURCE_ENDED]
            assert len(it.sink.frames) == 2
            assert len(made.sources) == 1


async def test_a_recording_begins_when_the_connection_stands(packets: list[SourcePacket]) -> None:
    with Scripted(packets, live=False) as made:
        made.source.give(3)
        async with connection(made.feed, start=False) as it:
            it.sender.keyframe_requested()
            it.sender.reported(0.5, None)
            it.sender.estimated(100_000)
            it.sender.drained()
            assert made.feed.keyframe_at is None
            it.sender.started(it.sink)
            it.sender.started(FakeSink())
            await until(lambda: len(it.sink.frames) == 3)
            it.sender.stopped()
            it.sender.started(it.sink)
            made.source.give(3)
            it.sender.keyframe_requested()
            await asyncio.sleep(0.02)
            assert len(it.sink.frames) == 3


def test_what_comes_after_the_room_is_closed_is_dropped(packets: list[SourcePacket]) -> None:
    with Scripted(packets) as made:

        async def begin() -> VideoSender:
            it = Connection(made.feed, None, None, {})
            it.sender.started(it.sink)
            return it.sender

        sender = asyncio.run(begin())
        made.source.give(3)
        queue: Callable[[], object] = made.feed.subscribe_packets
        assert queue() is not None
        assert sender is not None
