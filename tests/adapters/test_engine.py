"""What every engine promises, kept by the one over aiortc (on loopback) and by the one in memory."""

from __future__ import annotations

import re
import threading
from typing import Any

import anyio
import pytest

from deepio_adapters.engine import ChannelOptions, EngineConfig, EngineFactory, IceServer, open_engine
from deepio_adapters.memory_engine import MemoryNetwork
from deepio_adapters.recording import RecordingError
from deepio_adapters.slots import SlotClosedError
from deepio_adapters.source_urls import SourceError
from deepio_adapters.sources import Source, parse_source
from deepio_core.errors import LocalProtocolError
from deepio_core.inputs import (
    Activity,
    ChannelOpened,
    ChannelReceived,
    EngineClosed,
    EngineFailed,
    EngineReport,
    LocalAnswer,
    LocalOffer,
)
from deepio_core.media.options import VideoOptions
from deepio_core.outputs import (
    ApplyAnswer,
    ApplyCandidate,
    ApplyOffer,
    Cause,
    CloseEngine,
    SendChannel,
    StartEngine,
)
from deepio_core.signals import Candidate
from tests.engines import BOUND, connect, describe, end, pattern
from tests.media import make_clip

pytestmark = pytest.mark.anyio


# The engine lives in a thread of its own, so two kinds of callers are enough: those on asyncio and those on trio.
@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["memory", "aiortc"])
def factory(request: pytest.FixtureRequest) -> EngineFactory:
    return MemoryNetwork().open_engine if request.param == "memory" else open_engine


def direction(sdp: str, kind: str) -> str | None:
    """The direction of the first media section of a kind."""
    found = re.search(rf"(?ms)^m={kind} .*?^a=(sendrecv|sendonly|recvonly|inactive)\s*$", sdp)
    return found[1] if found else None


SENDS = EngineConfig(source=pattern())
TAKES = EngineConfig(receive_video=True)
BOTH = EngineConfig(source=pattern(), receive_video=True)


async def test_data_goes_both_ways_in_order_up_to_60_kb(factory: EngineFactory) -> None:
    texts = ["{}", "", "à la carte", "x" * 60_000, "last"]
    async with end(factory) as a, end(factory) as b:
        await connect(a, b)
        for one, other in ((a, b), (b, a)):
            for text in texts:
                one.engine.perform(SendChannel(negotiation=1, text=text))
            await other.until(ChannelReceived, 1, len(texts))
            assert [report.data for report in other.of(ChannelReceived)] == texts
        assert a.engine.stats().messages_sent == a.engine.stats().messages_received == len(texts)
        assert a.engine.stats().path == "host-host"


async def test_each_connection_opens_once_and_tells_how_much_the_far_side_takes(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory) as b:
        await connect(a, b)
        assert [len(one.of(ChannelOpened)) for one in (a, b)] == [1, 1]
        assert (await a.until(ChannelOpened)).max_message_size == 256 * 1024
        assert not a.of(LocalAnswer)
        assert not b.of(LocalOffer)


async def test_a_message_larger_than_the_far_side_takes_is_refused(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory) as b:
        await connect(a, b)
        a.engine.perform(SendChannel(negotiation=1, text="x" * (256 * 1024 + 1)))
        a.engine.perform(SendChannel(negotiation=1, text="still there"))
        assert (await b.until(ChannelReceived)).data == "still there"
        stats = a.engine.stats()
        assert (stats.messages_sent, stats.messages_dropped) == (1, 1)
        assert stats.last_notice is not None
        assert "not sent" in stats.last_notice


async def test_a_message_larger_than_we_take_is_dropped(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory, EngineConfig(max_message_size=10)) as b:
        await connect(a, b)
        a.engine.perform(SendChannel(negotiation=1, text="x" * 11))
        a.engine.perform(SendChannel(negotiation=1, text="x" * 10))
        assert (await b.until(ChannelReceived)).data == "x" * 10
        assert b.engine.stats().messages_dropped == 1


async def test_frames_go_both_ways_intact_and_in_order(factory: EngineFactory) -> None:
    async with end(factory, BOTH) as a, end(factory, BOTH) as b:
        offer, answer = await connect(a, b)
        assert (direction(offer, "video"), direction(answer, "video")) == ("sendrecv", "sendrecv")
        for one in (a, b):
            counters = [await one.counter() for _ in range(4)]
            assert counters == sorted(set(counters))
            frame = await one.frame()
            assert frame.to_ndarray().shape == (128, 160, 3)
            assert frame.to_ndarray("gray").shape == (128, 160)
            assert (frame.width, frame.height, frame.negotiation) == (160, 128, 1)
            assert frame.pts is not None
            assert 0 <= frame.pts < BOUND
        stats = a.engine.stats()
        assert stats.frames_sent > 0
        assert stats.frames_received >= 5
        assert (stats.codec_out, stats.codec_in) == ("H264", "H264")


@pytest.mark.parametrize(
    ("ours", "theirs", "offered", "answered"),
    [
        (SENDS, TAKES, "sendonly", "recvonly"),
        (TAKES, SENDS, "recvonly", "sendonly"),
        (BOTH, SENDS, "sendrecv", "sendonly"),
        (SENDS, BOTH, "sendonly", "recvonly"),
        (SENDS, SENDS, "sendonly", "inactive"),
        (BOTH, EngineConfig(), "sendrecv", "inactive"),
        (EngineConfig(), BOTH, None, None),
    ],
)
async def test_video_is_offered_and_answered_as_wanted(
    factory: EngineFactory, ours: EngineConfig, theirs: EngineConfig, offered: str | None, answered: str | None
) -> None:
    async with end(factory, ours) as a, end(factory, theirs) as b:
        offer, answer = await connect(a, b)
        assert (direction(offer, "video"), direction(answer, "video")) == (offered, answered)
        a.engine.perform(SendChannel(negotiation=1, text="data goes on"))
        await b.until(ChannelReceived)
        if answered == "recvonly":
            assert await b.counter() >= 0
            assert [b.engine.stats().codec_out, b.engine.stats().codec_in] == [None, "H264"]
            assert [a.engine.stats().codec_out, a.engine.stats().codec_in] == ["H264", None]
        if answered == "sendonly":
            assert await a.counter() >= 0
            assert b.engine.stats().frames_received == 0  # nobody wants them, so nothing is decoded
            assert b.engine.stats().codec_in is None


async def test_an_offer_without_video_is_answered_and_said(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory, BOTH) as b:
        await connect(a, b)
        b.engine.perform(SendChannel(negotiation=1, text="here"))
        assert (await a.until(ChannelReceived)).data == "here"
        assert b.engine.stats().last_notice == "The remote peer does not do video: we are connected for data only."
        assert not b.of(EngineFailed)


@pytest.mark.parametrize(
    ("ours", "theirs", "notice"),
    [
        (SENDS, SENDS, "The remote peer does not take video: none is sent."),
        (TAKES, TAKES, "The remote peer sends no video."),
    ],
)
async def test_video_that_does_not_come_about_is_said(
    factory: EngineFactory, ours: EngineConfig, theirs: EngineConfig, notice: str
) -> None:
    async with end(factory, ours) as a, end(factory, theirs) as b:
        await connect(a, b)
        assert a.engine.stats().last_notice == notice
        assert b.engine.stats().last_notice == notice


async def test_the_source_stays_open_from_one_connection_to_the_next(factory: EngineFactory) -> None:
    made: list[int] = []
    make = pattern(rate=50)

    def counted() -> Source:
        made.append(1)
        return make()

    async with end(factory, EngineConfig(source=counted)) as a, end(factory, TAKES) as b:
        await connect(a, b, 1)
        while (last := await b.counter()) == 0:
            pass
        for one in (a, b):
            one.engine.perform(CloseEngine(negotiation=1))
            await one.until(EngineClosed, 1)
        await connect(b, a, 2)
        assert await b.counter(2) >= last  # a new test pattern would count from 0
        assert len(made) == 1
        assert a.engine.stats().negotiations == 2


async def test_a_recording_starts_when_it_is_watched_and_its_end_is_told(factory: EngineFactory, tmp_path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=20)
    config = EngineConfig(source=lambda: parse_source(clip))
    async with end(factory, config) as a, end(factory, TAKES) as b:
        await anyio.sleep(0.5)  # time in which it must not play; nothing waits for anything here
        for number in (1, 2):  # and again from the start in the next connection
            await connect(a, b, number)
            assert await b.counter(number) < 10
            failed = await a.until(EngineFailed, number)
            assert failed.cause is Cause.SOURCE_ENDED
            assert "clip.mp4" in failed.detail
            a.engine.perform(CloseEngine(negotiation=number))
            await a.until(EngineClosed, number)
            await b.until(EngineClosed, number)


async def test_a_source_that_cannot_be_opened_is_told_at_once(factory: EngineFactory, tmp_path) -> None:
    with pytest.raises(SourceError, match=r"nothing\.mp4"):
        async with end(factory, EngineConfig(source=lambda: parse_source(tmp_path / "nothing.mp4"))):
            pass
    assert "deepio-engine-room" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(("clip", "why"), [("hevc", "H.265"), ("b_frames", "B-frames"), (None, "no packets")])
async def test_what_cannot_be_copied_is_refused_at_once_if_it_must_be(
    factory: EngineFactory, tmp_path, clip: str | None, why: str
) -> None:
    how: dict[str, dict[str, Any]] = {"hevc": {"codec": "libx265"}, "b_frames": {"b_frames": 2}}
    source = "test:160x128" if clip is None else make_clip(tmp_path / "clip.mp4", **how[clip])
    with pytest.raises(SourceError, match=why) as raised:
        async with end(factory, EngineConfig(source=lambda: parse_source(source), video=VideoOptions(mode="copy"))):
            pass
    assert "auto" in raised.value.remedy


async def test_a_recording_that_cannot_be_written_is_told_at_once(factory: EngineFactory, tmp_path) -> None:
    with pytest.raises(RecordingError, match=r"no_such_folder.out\.mp4"):
        async with end(factory, EngineConfig(media_sink=str(tmp_path / "no_such_folder" / "out.mp4"))):
            pass


async def test_incoming_video_is_recorded(factory: EngineFactory, tmp_path) -> None:
    path = tmp_path / "out.mp4"
    async with end(factory, SENDS) as a, end(factory, EngineConfig(media_sink=str(path))) as b:
        await connect(a, b)
        while b.engine.stats().frames_received < 6:
            await b.frame()
    import av

    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    times = [picture.time for picture in pictures]
    assert len(pictures) >= 5
    assert times == sorted(set(times))
    assert (pictures[0].width, pictures[0].height) == (160, 128)


async def test_closing_ends_both_sides_once(factory: EngineFactory) -> None:
    async with end(factory, BOTH) as a, end(factory, BOTH) as b:
        await connect(a, b)
        a.engine.perform(CloseEngine(negotiation=1))
        a.engine.perform(CloseEngine(negotiation=1))
        await a.until(EngineClosed, 1)
        await b.until(EngineClosed, 1)  # unasked
        b.engine.perform(CloseEngine(negotiation=1))
        await connect(a, b, 2)
        for one in (a, b):
            assert len(one.of(EngineClosed, 1)) == 1
            assert not one.of(EngineFailed)
    assert [len(one.of(EngineClosed, 2)) for one in (a, b)] == [1, 1]  # by the end of the engines


@pytest.mark.parametrize("offerer", [True, False])
async def test_it_closes_at_every_step(factory: EngineFactory, offerer: bool) -> None:
    async with end(factory) as a:
        start = StartEngine(negotiation=1, remote_id="far", offerer=offerer)
        a.engine.perform(start)
        a.engine.perform(CloseEngine(negotiation=1))
        await a.until(EngineClosed, 1)
        assert a.reports == [EngineClosed(negotiation=1)]
    async with end(factory) as a, end(factory) as b:
        await describe(a, b)
        one = a if offerer else b
        one.engine.perform(CloseEngine(negotiation=1))
        await one.until(EngineClosed, 1)
        assert one.reports[-1] == EngineClosed(negotiation=1)


async def test_what_is_stale_or_unknown_is_dropped(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory) as b:
        offer, answer = await connect(a, b, 2)
        count = len(a.reports)
        for effect in (
            SendChannel(negotiation=1, text="stale"),
            SendChannel(negotiation=3, text="unknown"),
            CloseEngine(negotiation=1),
            ApplyOffer(negotiation=2, sdp=offer),
            ApplyAnswer(negotiation=2, sdp=answer),
            StartEngine(negotiation=2, remote_id="far", offerer=False),
            SendChannel(negotiation=2, text="fresh"),
        ):
            a.engine.perform(effect)
        assert (await b.until(ChannelReceived)).data == "fresh"
        assert [type(report) for report in a.reports[count:]] in ([], [Activity])
        assert a.engine.stats().last_notice is not None
    a.engine.perform(SendChannel(negotiation=2, text="after the end"))
    with pytest.raises(SlotClosedError):
        a.engine.frames.take()


SHORT = "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"


@pytest.mark.parametrize(
    ("sdp", "detail"),
    [
        ("", "has no data channel"),
        ("\0\n\nm=", "has no data channel"),
        (SHORT, "has no data channel"),
        (f"{SHORT}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\n", "names no certificate"),
    ],
)
@pytest.mark.parametrize("offerer", [True, False])
async def test_a_description_without_sense_is_told_without_quoting_it(
    factory: EngineFactory, sdp: str, detail: str, offerer: bool
) -> None:
    async with end(factory) as a:
        a.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=offerer))
        if offerer:
            await a.until(LocalOffer)
            a.engine.perform(ApplyAnswer(negotiation=1, sdp=sdp))
        else:
            a.engine.perform(ApplyOffer(negotiation=1, sdp=sdp))
        failed = await a.until(EngineFailed)
        assert failed.cause is Cause.ENGINE
        assert detail in failed.detail
        a.engine.perform(CloseEngine(negotiation=1))
        await a.until(EngineClosed)


GARBAGE = [
    "",
    "candidate",
    "candidate:",
    "candidate:1 1 udp x 10.0.0.1 1 typ host",
    "candidate:1 1 udp 1 10.0.0.1 1",
    "candidate:1 1 udp 1 0d3a9c1e.local 5000 typ host",
]


async def test_candidates_that_cannot_be_used_are_ignored_whenever_they_come(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory) as b:
        candidates = [Candidate(candidate=text, sdp_mid="0", sdp_mline_index=0) for text in GARBAGE]
        candidates += [
            Candidate(candidate="candidate:1 1 udp 1 10.0.0.1 9 typ host", sdp_mid="7", sdp_mline_index=None)
        ]
        for one in (a, b):
            one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=one is a))
            for candidate in [*candidates, None]:
                one.engine.perform(ApplyCandidate(negotiation=1, candidate=candidate))
        await connect(a, b)
        for one in (a, b):
            for candidate in [*candidates, None, *candidates]:
                one.engine.perform(ApplyCandidate(negotiation=1, candidate=candidate))
        a.engine.perform(SendChannel(negotiation=1, text="unharmed"))
        await b.until(ChannelReceived)
        assert b.engine.stats().candidates_ignored >= 4


async def test_too_many_candidates_before_the_description_are_dropped(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory) as b:
        a.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
        for _ in range(100):
            a.engine.perform(ApplyCandidate(negotiation=1, candidate=None))
        await connect(a, b)
        assert a.engine.stats().candidates_ignored == 36


async def test_activity_is_reported_while_nothing_but_silence_is_exchanged(factory: EngineFactory) -> None:
    async with end(factory) as a, end(factory) as b:
        await connect(a, b)
        began = anyio.current_time()
        for one in (a, b):
            await one.until(Activity, 1, 3)
        assert anyio.current_time() - began < 6.5  # at least every 2 s
        round_trip = a.engine.stats().round_trip
        assert round_trip is not None
        assert round_trip < 1


async def test_a_report_that_nobody_can_take_hurts_nobody(factory: EngineFactory, caplog) -> None:
    def broken(report: EngineReport) -> None:
        raise ZeroDivisionError

    async with factory(EngineConfig(), broken) as engine, end(factory) as b:
        engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
        async with end(factory) as a:
            await connect(a, b)
    assert "Nobody could take the report LocalOffer" in caplog.text


async def test_a_malformed_ice_server_is_refused_before_anything_starts() -> None:
    with pytest.raises(LocalProtocolError, match=r"example\.org is no address"):
        async with open_engine(EngineConfig(ice_servers=(IceServer(urls="example.org"),)), lambda _: None):
            pass


def test_limits_of_a_channel_exclude_each_other() -> None:
    with pytest.raises(LocalProtocolError):
        ChannelOptions(max_retransmits=0, max_packet_life_time=0)


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(IceServer(urls="turn:example.org", username="me", credential="hush"))
