"""Sound of sources: in step with the pictures, bounded, and decoded only for those who listen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import anyio
import av
import numpy as np
import pytest

from deepio_adapters.audio import BLOCK, MAX_BLOCKS, AudioBlock, AudioQueue, AudioTap, SoundDecoder
from deepio_adapters.demuxing import Demuxer
from deepio_adapters.slots import SlotClosedError
from deepio_adapters.source_urls import SourceUrl
from deepio_adapters.sources import Source, SourceError, parse_source
from tests.clips import build
from tests.media import BOUND, make_clip


def block(number: int, due: float) -> AudioBlock:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=BLOCK)
    frame.pts = number * BLOCK
    return AudioBlock(frame=frame, due=due)


def listen(source: Source, monkeypatch: pytest.MonkeyPatch) -> tuple[list[av.AudioFrame], list[int], list[float]]:
    """What is heard while the source plays: the blocks, their time stamps, and when each was due."""
    heard: list[AudioBlock] = []
    monkeypatch.setattr(AudioQueue, "put", lambda _, b: heard.append(b))
    assert source.audio is not None
    source.audio.subscribe()
    list(source.packets())
    return [b.frame for b in heard], [b.frame.pts or 0 for b in heard], [b.due for b in heard]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of pictures and sound."""
    return make_clip(tmp_path_factory.mktemp("sound") / "clip.mp4", frames=25, rate=50, size=(160, 120), audio=True)


def test_sound_comes_in_blocks_in_step_with_the_pictures(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parse_source(clip, audio=True)
    source.open()
    started = time.monotonic()
    frames, stamps, due = listen(source, monkeypatch)
    assert {(f.format.name, f.layout.name, f.rate, f.samples) for f in frames} == {("s16", "stereo", 48_000, BLOCK)}
    assert stamps == [n * BLOCK for n in range(len(frames))]
    assert len(frames) == pytest.approx(25, abs=3)
    assert due == pytest.approx([due[0] + n / 50 for n in range(len(frames))], abs=0.001)
    assert due[0] == pytest.approx(started, abs=0.3)
    samples = np.concatenate([f.to_ndarray().ravel() for f in frames[2:20]]).astype(int)
    assert 1000 < np.abs(samples).max() < 5000, "the tone is a tenth of full scale"


def test_sound_goes_on_over_loops(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parse_source(clip, loop=True, audio=True)
    source.open()
    closer = threading.Timer(1.3, source.close)
    closer.start()
    _, stamps, due = listen(source, monkeypatch)
    closer.join()
    assert len(stamps) > 50
    assert all(b - a >= BLOCK for a, b in pairwise(stamps))
    # In step with the pictures to the end, however often the sound was some milliseconds longer.
    assert due[-1] - due[0] == pytest.approx((stamps[-1] - stamps[0]) / 48_000, abs=0.1)


def test_nothing_is_decoded_for_nobody(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parse_source(clip, audio=True)
    source.open()
    assert source.audio is not None
    monkeypatch.setattr(AudioTap, "put", lambda *_: pytest.fail("there is sound"))
    queue = source.audio.subscribe()
    source.audio.unsubscribe(queue)
    list(source.packets())
    with pytest.raises(SlotClosedError):
        asyncio.run(queue.aget())


def test_sound_is_only_there_when_it_is_asked_for(clip: Path) -> None:
    for source in (parse_source(clip), parse_source(build("H.264 main, AVCC"), audio=True), parse_source("test:")):
        source.open()
        assert source.audio is None
        source.close()
    with pytest.raises(SourceError, match="audio does not go with the test pattern"):
        parse_source("test:", audio=True)


def test_damaged_sound_does_not_end_the_pictures(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, packet: object) -> None:
        raise ValueError("damaged")

    source = parse_source(clip, audio=True)
    source.open()
    source.make_ready()
    decoder = getattr(source, "_sound")  # noqa: B009
    monkeypatch.setattr(decoder, "_context", type("Context", (), {"decode": refuse})())
    assert source.audio is not None
    source.audio.subscribe()
    assert len(list(source.packets())) == 25
    assert decoder.errors > 20


# --- The queue


@pytest.mark.anyio
async def test_blocks_are_given_out_when_they_are_due() -> None:
    queue = AudioQueue()
    now = time.monotonic()
    for number in range(3):
        queue.put(block(number, now + 0.05 * number))
    with anyio.fail_after(BOUND):
        for number in range(3):
            assert (await queue.aget()).pts == number * BLOCK
            assert time.monotonic() >= now + 0.05 * number - 0.005  # some loops count in milliseconds
    assert queue.dropped == 0


@pytest.mark.anyio
async def test_a_block_is_waited_for() -> None:
    queue = AudioQueue()
    threading.Timer(0.05, lambda: queue.put(block(7, time.monotonic()))).start()
    with anyio.fail_after(BOUND):
        assert (await queue.aget()).pts == 7 * BLOCK


@pytest.mark.anyio
async def test_the_end_is_told_after_the_last_block() -> None:
    queue = AudioQueue()
    queue.put(block(0, time.monotonic()))
    threading.Timer(0.05, queue.close).start()
    with anyio.fail_after(BOUND):
        await queue.aget()
        with pytest.raises(SlotClosedError):
            await queue.aget()
    queue.put(block(1, 0.0))
    with pytest.raises(SlotClosedError):
        await queue.aget()


@pytest.mark.anyio
async def test_sound_that_comes_too_late_is_dropped_and_counted() -> None:
    queue = AudioQueue()
    now = time.monotonic()
    for number, due in enumerate([now - 9, now - 1, now - 0.1]):
        queue.put(block(number, due))
    with anyio.fail_after(BOUND):
        assert (await queue.aget()).pts == 2 * BLOCK
    assert queue.dropped == 2


def test_a_queue_that_nobody_reads_keeps_the_newest() -> None:
    queue = AudioQueue()
    now = time.monotonic()
    for number in range(MAX_BLOCKS + 5):
        queue.put(block(number, now))
    assert queue.dropped == 5
    assert asyncio.run(queue.aget()).pts == 5 * BLOCK


@pytest.mark.anyio
async def test_cancelling_takes_nothing_out() -> None:
    queue = AudioQueue()
    queue.put(block(0, time.monotonic() + 0.1))
    with anyio.move_on_after(0.01) as scope:
        await queue.aget()
    assert scope.cancelled_caught
    with anyio.fail_after(BOUND):
        assert (await queue.aget()).pts == 0


def test_a_tap_that_is_closed_gives_closed_queues() -> None:
    tap = AudioTap()
    first = tap.subscribe()
    assert tap.wanted
    tap.close()
    for queue in (first, tap.subscribe()):
        with pytest.raises(SlotClosedError):
            asyncio.run(queue.aget())
    assert not tap.wanted


# --- Where blocks are placed


class Speaker:
    """A stream whose packets are the times, in blocks, at which sound of 20 ms begins."""

    time_base = Fraction(1, 48_000)

    def __init__(self, *, stamped: bool = True) -> None:
        self.codec_context = self
        self.thread_count = 0
        self.stamped = stamped

    def decode(self, packet: Any) -> list[av.AudioFrame]:
        frame = av.AudioFrame(format="s16", layout="stereo", samples=BLOCK)
        frame.sample_rate = 48_000
        if self.stamped:
            frame.pts, frame.time_base = packet * BLOCK, self.time_base
        return [frame]


def played(decoder: SoundDecoder, queue: AudioQueue, times: list[int], **shift: Any) -> list[tuple[int, float]]:
    """Time stamps in blocks, and due times."""
    got: list[tuple[int, float]] = []
    cast(Any, queue).put = lambda b: got.append(((b.frame.pts or 0) // BLOCK, b.due))
    for number in times:
        decoder.decode(cast(Any, number), **shift)
    return got


def test_sound_is_placed_beside_the_pictures() -> None:
    tap = AudioTap()
    queue = tap.subscribe()
    decoder = SoundDecoder(cast(Any, Speaker()), tap)
    # The pictures are 1 s ahead of the medium, and its zero is due at 100 s.
    got = played(decoder, queue, [0, 1, 2], to_pts=1.0, to_due=100.0)
    assert [at for at, _ in got] == [50, 51, 52]
    assert [due for _, due in got] == pytest.approx([100.0, 100.02, 100.04])
    # A hole stays one, and what would sound over what was heard is left out.
    assert [at for at, _ in played(decoder, queue, [10, 11, 3, 12], to_pts=1.0, to_due=100.0)] == [60, 61, 62]
    assert decoder.overlapped == 1


def test_sound_that_is_off_by_little_has_no_seams() -> None:
    tap = AudioTap()
    queue = tap.subscribe()
    decoder = SoundDecoder(cast(Any, Speaker()), tap)
    assert [at for at, _ in played(decoder, queue, [0, 1, 3, 4, 4, 5], to_pts=0.0, to_due=0.0)] == [0, 1, 2, 3, 4, 5]


def test_sound_of_the_next_opening_goes_on() -> None:
    tap = AudioTap()
    queue = tap.subscribe()
    first = SoundDecoder(cast(Any, Speaker()), tap)
    played(first, queue, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], to_pts=0.0, to_due=0.0)
    second = SoundDecoder(cast(Any, Speaker()), tap, first)
    # The pictures begin again 0.1 s after the beginning, which the sound of the first round has gone beyond.
    assert [at for at, _ in played(second, queue, list(range(8)), to_pts=0.1, to_due=0.1)] == [10, 11, 12, 13, 14, 15]
    assert second.overlapped == 2


def test_sound_without_times_follows_on_and_is_live_at_once() -> None:
    tap = AudioTap()
    queue = tap.subscribe()
    decoder = SoundDecoder(cast(Any, Speaker(stamped=False)), tap)
    got = played(decoder, queue, [0, 0, 0], to_pts=0.0, to_due=None)
    assert [at for at, _ in got] == [0, 1, 2]
    assert got[0][1] == pytest.approx(time.monotonic(), abs=1.0)


def test_sound_alone_does_not_keep_a_camera_alive(clip: Path) -> None:
    demuxer = Demuxer(SourceUrl.parse(clip), options={}, timeout=(BOUND, 0.2), stop=threading.Event(), audio=True)
    packets: Iterator[Any] = iter(demuxer.read, None)
    sounds = [packet for packet in packets if packet.stream_index != demuxer.video.index]

    def slowly() -> Iterator[Any]:
        for packet in sounds:
            time.sleep(0.02)
            yield packet

    demuxer._packets = slowly()
    assert len(list(iter(demuxer.read, None))) == len(sounds), "of a recording"
    demuxer.live, demuxer._packets = True, slowly()
    with pytest.raises(SourceError, match=r"0\.2 s"):
        list(iter(demuxer.read, None))
    demuxer.close()
