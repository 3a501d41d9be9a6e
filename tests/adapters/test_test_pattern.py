"""The test pattern, and its counter read back from pixels that went through lossy coding."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_adapters.source_pump import SourcePump
from deepio_adapters.sources import SourceError, parse_source
from deepio_adapters.test_pattern import Pattern, read_counter
from tests.media import BOUND, make_clip


@given(counter=st.integers(0, 2**32 - 1), width=st.integers(80, 700), height=st.integers(64, 500))
def test_the_counter_is_read_back_in_every_size(counter: int, width: int, height: int) -> None:
    assert read_counter(Pattern(width, height).draw(counter)) == counter


def test_the_counter_wraps_after_32_bits() -> None:
    assert read_counter(Pattern(160, 120).draw(2**32 + 7)) == 7


@pytest.mark.parametrize("codec", ["libx264", "libvpx"])
@pytest.mark.parametrize(("size", "bit_rate"), [((80, 64), 60_000), ((160, 120), 60_000), ((640, 480), 300_000)])
def test_the_counter_survives_lossy_coding(tmp_path: Path, codec: str, size: tuple[int, int], bit_rate: int) -> None:
    path = make_clip(tmp_path / "clip.mkv", codec=codec, size=size, bit_rate=bit_rate, frames=20)
    with av.open(str(path)) as container:
        counters = [read_counter(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    assert counters == list(range(20))


@pytest.mark.parametrize("size", [(320, 240), (480, 360), (853, 480)])
def test_the_counter_survives_scaling(size: tuple[int, int]) -> None:
    picture = av.VideoFrame.from_ndarray(Pattern(640, 480).draw(0xDEADBEEF), format="bgr24")
    scaled = picture.reformat(width=size[0], height=size[1], format="yuv420p")
    assert read_counter(scaled.to_ndarray(format="bgr24")) == 0xDEADBEEF


@pytest.mark.parametrize("level", [0, 127, 255])
def test_plain_pictures_hold_no_counter(level: int) -> None:
    assert read_counter(np.full((240, 320, 3), level, np.uint8)) is None


@pytest.mark.parametrize("shape", [(240, 320), (63, 320, 3), (240, 79, 3)])
def test_what_is_no_picture_of_that_size_holds_no_counter(shape: tuple[int, ...]) -> None:
    assert read_counter(np.zeros(shape, np.uint8)) is None


def test_one_wrong_block_is_noticed() -> None:
    frame = Pattern(320, 240).draw(5)
    assert frame[7, 8].tolist() == [0, 0, 0]
    frame[:15, :16] = 255
    assert read_counter(frame) is None


def test_noise_holds_no_counter() -> None:
    random = np.random.default_rng(1)
    assert read_counter(random.integers(0, 256, (240, 320, 3), np.uint8)) is None


def test_frames_differ_below_the_strip_and_show_the_clock() -> None:
    pattern = Pattern(320, 240)
    first, second = pattern.draw(1, "12:00:00.000"), pattern.draw(30, "12:00:00.000")
    assert (first[150:] != second[150:]).any()
    assert (pattern.draw(1, "12:00:00.000") == first).all()
    assert (pattern.draw(1, "12:00:01.000") != first).any()
    assert (pattern.draw(1) != first).any()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test:", (640, 480, 30.0)),
        ("test:320x240", (320, 240, 30.0)),
        ("test:@12.5", (640, 480, 12.5)),
        ("test:320x240@5", (320, 240, 5.0)),
    ],
)
def test_the_source_is_described_by_its_address(text: str, expected: tuple[int, int, float]) -> None:
    source = parse_source(text)
    info = source.open()
    assert (info.width, info.height, info.frame_rate) == expected
    assert info.codec is None
    assert info.live
    assert source.close()


def test_the_frame_rate_may_be_given_beside_it() -> None:
    assert parse_source("test:", frame_rate=7).open().frame_rate == 7
    assert parse_source("test:@9", frame_rate=7).open().frame_rate == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("test:huge", "no test pattern"),
        ("test:320x", "no test pattern"),
        ("test:40x30", "cannot have 40x30"),
        ("test:9000x480", "cannot have 9000x480"),
        ("test:@0", "rate of 0"),
        ("test:@5000", "rate of 5000"),
    ],
)
def test_what_cannot_be_drawn_is_refused(text: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        parse_source(text)


@pytest.mark.parametrize("argument", [{"format": "mp4"}, {"options": {"a": "b"}}, {"timeout": (1.0, 1.0)}])
def test_arguments_for_media_are_refused(argument: dict) -> None:
    with pytest.raises(SourceError, match="does not go with the test pattern"):
        parse_source("test:", **argument)


def test_frames_come_numbered_and_stamped_at_the_rate() -> None:
    source = parse_source("test:160x120@200")
    source.open()
    seen: list[tuple[int | None, float]] = []
    for frame in source.frames():
        seen.append((read_counter(frame.to_bgr()), frame.pts))
        assert (frame.width, frame.height) == (160, 120)
        assert frame.picture.pts == round(frame.pts * 90_000)
        if len(seen) == 20:
            source.close()
    counters = [counter for counter, _ in seen if counter is not None]
    assert len(seen) == 20
    assert counters[0] == 0
    assert counters == sorted(set(counters))
    assert [pts for _, pts in seen] == pytest.approx([counter / 200 for counter in counters])


def test_it_runs_in_a_pump_and_stops() -> None:
    pump = SourcePump(parse_source("test:160x120@100"))
    pump.start()
    assert read_counter(pump.slot.get(BOUND).to_bgr()) is not None
    assert pump.stop(BOUND)
    assert pump.finished.result(0) is None
