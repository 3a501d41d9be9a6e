"""What the decoder of received video decodes, what it leaves out, and that nothing ends it but its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import pytest

from deepio_adapters import video_decoder
from deepio_adapters.engine import EngineStats
from deepio_adapters.test_pattern import Pattern, read_counter
from deepio_adapters.video_decoder import (
    KEYFRAME_PATIENCE,
    MAX_DELAY,
    MAX_WAITING,
    CodedPicture,
    VideoDecoder,
    make_decoder,
)

BOUND = 10.0


def coded(number: int, *, keyframe: bool = False, gap: bool = False, data: bytes = b"", codec: str = "H264"):
    return CodedPicture(
        data=data or b"%d" % number,
        codec=codec,
        keyframe=keyframe,
        discontinuity=gap,
        ticks=number * 3000,
        captured_at=None,
        received_at=0.0,
    )


class Bench:
    """A decoder whose decoding a test can hold up and spoil."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counters = EngineStats()
        self.decoded: list[int] = []
        self.decoders: list[str] = []
        self.faults = 0
        self.bad: set[int] = set()
        self.corrupt: set[int] = set()
        self.free = threading.Event()
        self.free.set()
        self.busy = threading.Event()
        self.ended = threading.Event()
        self.changed = threading.Condition()
        monkeypatch.setattr(video_decoder, "make_decoder", self.make_decoder)
        self.decoder = VideoDecoder(
            lambda frame, origin: self.note(origin.ticks // 3000),
            self.counters,
            on_fault=self.on_fault,
            on_end=self.ended.set,
        )

    def make_decoder(self, codec: str):
        self.decoders.append(codec)

        def decode(picture: CodedPicture) -> list:
            number = picture.ticks // 3000
            self.busy.set()
            assert self.free.wait(BOUND)
            if number in self.bad:
                raise ZeroDivisionError
            return [Frame(picture, number in self.corrupt)]

        return decode

    def note(self, number: int) -> None:
        with self.changed:
            self.decoded.append(number)
            self.changed.notify_all()

    def on_fault(self) -> None:
        with self.changed:
            self.faults += 1
            self.changed.notify_all()

    def wait(self, condition) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, BOUND), (self.decoded, self.counters)

    def block(self, number: int = 0) -> None:
        """Have the decoder be at a keyframe until `free` is set."""
        self.free.clear()
        self.busy.clear()
        assert not self.decoder.offer(coded(number, keyframe=True), 0.0)
        assert self.busy.wait(BOUND)


class Frame:
    def __init__(self, opaque: CodedPicture, is_corrupt: bool) -> None:
        self.opaque = opaque
        self.is_corrupt = is_corrupt


@pytest.fixture
def bench(monkeypatch) -> Iterator[Bench]:
    bench = Bench(monkeypatch)
    yield bench
    bench.free.set()
    bench.decoder.close()
    assert bench.ended.wait(BOUND)


def test_decoding_begins_with_a_keyframe(bench: Bench) -> None:
    assert bench.decoder.offer(coded(0), 0.0)
    assert bench.decoder.offer(coded(1), 0.1)
    assert not bench.decoder.alive
    assert not bench.decoder.offer(coded(2, keyframe=True), 0.2)
    assert not bench.decoder.offer(coded(3), 0.3)
    bench.wait(lambda: bench.decoded == [2, 3])
    assert bench.counters.decode_dropped == 2


def test_after_a_gap_it_waits_for_a_keyframe(bench: Bench) -> None:
    assert not bench.decoder.offer(coded(0, keyframe=True), 0.0)
    assert bench.decoder.offer(coded(2, gap=True), 0.1)
    assert bench.decoder.offer(coded(3), 0.2)
    assert not bench.decoder.offer(coded(4, keyframe=True), 0.3)
    assert not bench.decoder.offer(coded(6, keyframe=True, gap=True), 0.4)
    bench.wait(lambda: bench.decoded == [0, 4, 6])


def test_it_does_not_wait_for_a_keyframe_for_ever(bench: Bench) -> None:
    bench.corrupt = {4, 8}
    assert not bench.decoder.offer(coded(0, keyframe=True), 0.0)
    assert bench.decoder.offer(coded(2, gap=True), 0.1)
    assert bench.decoder.offer(coded(3, gap=True), 0.1 + KEYFRAME_PATIENCE)
    # A picture with faults is better than none.
    assert not bench.decoder.offer(coded(4), 0.2 + KEYFRAME_PATIENCE)
    bench.wait(lambda: bench.decoded == [0, 4])
    # After a keyframe, it is not any more.
    assert not bench.decoder.offer(coded(7, keyframe=True), 2.0)
    assert not bench.decoder.offer(coded(8), 2.1)
    bench.wait(lambda: bench.faults == 1)
    assert bench.decoded == [0, 4, 7]


def test_a_fault_leaves_out_what_hangs_on_it(bench: Bench) -> None:
    bench.bad = {0}
    bench.block()
    for number in (1, 2):
        assert not bench.decoder.offer(coded(number), 0.01)
    assert not bench.decoder.offer(coded(3, keyframe=True), 0.02)
    assert not bench.decoder.offer(coded(4), 0.03)
    bench.free.set()
    bench.wait(lambda: bench.decoded == [3, 4])
    assert (bench.counters.decode_errors, bench.counters.decode_dropped, bench.faults) == (1, 2, 1)


def test_a_fault_with_no_keyframe_behind_it_needs_one(bench: Bench) -> None:
    bench.bad = {1}
    assert not bench.decoder.offer(coded(0, keyframe=True), 0.0)
    assert not bench.decoder.offer(coded(1), 0.1)
    bench.wait(lambda: bench.faults == 1)
    assert bench.decoder.offer(coded(2), 0.2)
    assert not bench.decoder.offer(coded(3, keyframe=True), 0.3)
    bench.wait(lambda: bench.decoded == [0, 3])


def test_a_decoder_that_is_behind_goes_on_at_the_newest_keyframe(bench: Bench) -> None:
    bench.block()
    for number in range(1, 10):
        assert not bench.decoder.offer(coded(number, keyframe=number in (3, 6)), 0.0)
    assert not bench.decoder.offer(coded(10), MAX_DELAY + 0.01)
    bench.free.set()
    bench.wait(lambda: bench.decoded == [0, 6, 7, 8, 9, 10])
    assert bench.counters.decode_dropped == 5


@pytest.mark.parametrize("first_is_keyframe", [False, True])
def test_a_decoder_that_is_behind_with_no_newer_keyframe_needs_one(bench: Bench, first_is_keyframe: bool) -> None:
    bench.block()
    for number in range(1, MAX_WAITING + 1):
        assert not bench.decoder.offer(coded(number, keyframe=first_is_keyframe and number == 1), 0.0)
    assert bench.decoder.offer(coded(200), 0.0)
    assert bench.counters.decode_dropped == MAX_WAITING + 1
    assert not bench.decoder.offer(coded(300, keyframe=True), 0.0)
    bench.free.set()
    bench.wait(lambda: bench.decoded == [0, 300])


def test_after_a_pause_all_begins_anew(bench: Bench) -> None:
    bench.block()
    assert not bench.decoder.offer(coded(1), 0.0)
    bench.decoder.pause()
    bench.decoder.pause()
    assert bench.decoder.offer(coded(2), 0.1)
    assert not bench.decoder.offer(coded(3, keyframe=True), 0.2)
    bench.free.set()
    bench.wait(lambda: bench.decoded == [0, 3])
    assert bench.decoders == ["H264", "H264"]
    assert bench.counters.decode_dropped == 1  # what nobody wants has not been dropped


def test_after_a_pause_no_more_wait_than_ever(bench: Bench) -> None:
    bench.block()
    bench.decoder.pause()
    for number in range(1, MAX_WAITING):
        assert not bench.decoder.offer(coded(number, keyframe=number == 1), 0.0)
    assert bench.decoder.offer(coded(200), 0.0)
    assert bench.counters.decode_dropped == MAX_WAITING
    assert not bench.decoder.offer(coded(300, keyframe=True), 0.0)
    bench.free.set()
    bench.wait(lambda: bench.decoded == [0, 300])
    assert bench.decoders == ["H264", "H264"]


def test_a_fault_during_a_pause_needs_nothing(bench: Bench) -> None:
    bench.bad = {0}
    bench.block()
    bench.decoder.pause()
    bench.free.set()
    bench.wait(lambda: bench.faults == 1)
    assert not bench.decoder.offer(coded(1, keyframe=True), 0.2)
    bench.wait(lambda: bench.decoded == [1])


def test_another_codec_takes_another_decoder(bench: Bench) -> None:
    assert not bench.decoder.offer(coded(0, keyframe=True), 0.0)
    assert not bench.decoder.offer(coded(1, keyframe=True, codec="VP8"), 0.1)
    bench.wait(lambda: bench.decoded == [0, 1])
    assert bench.decoders == ["H264", "VP8"]


def test_closing_waits_for_nothing_and_ends_the_thread(bench: Bench) -> None:
    bench.block()
    bench.decoder.offer(coded(1), 0.0)
    began = time.monotonic()
    bench.decoder.close()
    assert time.monotonic() - began < 1
    assert not bench.decoder.offer(coded(2, keyframe=True), 0.0)
    bench.free.set()
    assert bench.ended.wait(BOUND)
    assert not bench.decoded  # what comes after the end is shown to nobody


def test_one_that_never_began_ends_at_once(bench: Bench) -> None:
    bench.decoder.close()
    assert bench.ended.is_set()


def encode(codec: str, numbers: list[int], size: tuple[int, int] = (160, 128)) -> list[bytes]:
    """Pictures of the test pattern; each list begins with a keyframe."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = size
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 30), Fraction(30)
    context.options = {"preset": "ultrafast", "tune": "zerolatency"} if codec == "libx264" else {"lag-in-frames": "0"}
    pattern, data = Pattern(*size), []
    for number in numbers:
        frame = av.VideoFrame.from_ndarray(pattern.draw(number), format="bgr24")
        frame.pts = number
        data += [bytes(packet) for packet in context.encode(frame)]
    return data


@pytest.mark.parametrize(("codec", "encoder"), [("H264", "libx264"), ("VP8", "libvpx")])
def test_real_pictures_come_out_at_once_with_what_they_were_made_of(codec: str, encoder: str) -> None:
    decode = make_decoder(codec)
    small, large = encode(encoder, [0, 1, 2]), encode(encoder, [3, 4], (320, 256))
    for number, data in enumerate(small + large):
        picture = coded(number, data=data, codec=codec)
        (frame,) = decode(picture)
        assert frame.opaque is picture
        assert (frame.pts, frame.time_base) == (number * 3000, Fraction(1, 90_000))
        assert read_counter(frame.to_ndarray(format="bgr24")) == number
        assert frame.width == (160 if number < 3 else 320)


def test_there_is_no_decoder_for_what_does_not_exist() -> None:
    with pytest.raises(ValueError, match="nothing"):
        make_decoder("nothing")
