"""What the levels of H.264 allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core.media.far import FarVideo
from deepio_core.media.levels import PictureLimits, level_of, picture_limits


def limits(profile_level_id: str) -> PictureLimits | None:
    return picture_limits(FarVideo(codec="H264", profile_level_id=profile_level_id))


@pytest.mark.parametrize(
    ("said", "level", "frame", "second"),
    [
        ("42e00a", "1.0", 99, 1485),
        ("42e009", "1b", 99, 1485),
        ("42f00b", "1b", 99, 1485),
        ("64100b", "1.1", 396, 3000),
        ("42e00d", "1.3", 396, 11_880),
        ("42E01E", "3.0", 1620, 40_500),
        ("42e028", "4.0", 8192, 245_760),
        ("640c34", "5.2", 36_864, 2_073_600),
    ],
)
def test_a_level_that_is_stated_is_meant(said: str, level: str, frame: int, second: int) -> None:
    assert limits(said) == PictureLimits(level=level, frame=frame, second=second)


@pytest.mark.parametrize(
    "far",
    [
        FarVideo(codec="H264", profile_level_id="42e01f"),
        FarVideo(codec="H264", profile_level_id="64001f"),
        FarVideo(codec="H264", profile_level_id="42e01e", lenient=True),
        FarVideo(codec="H264", profile_level_id="42e01e", exceeds_level=True),
        FarVideo(codec="H264", profile_level_id="42e0ff"),
        FarVideo(codec="H264", profile_level_id="nonsense"),
        FarVideo(codec="H264"),
        FarVideo(codec="VP8", profile_level_id="42e01e"),
    ],
    ids=str,
)
def test_what_everybody_writes_or_nobody_knows_bounds_nothing(far: FarVideo) -> None:
    assert picture_limits(far) is None


@pytest.mark.parametrize(
    ("said", "size", "box"),
    [
        ("42e028", (1920, 1080), (1920, 1080)),
        ("42e01e", (720, 576), (720, 576)),
        ("42e01e", (640, 480), (640, 480)),
        ("42e028", (3840, 2160), (1920, 1080)),
        ("42e01e", (1280, 720), (854, 480)),
        ("42e01e", (720, 1280), (480, 854)),
        ("42e00d", (1280, 720), (416, 234)),
        ("42e01e", (8192, 16), (1808, 16)),
        ("42e00a", (16, 8192), (16, 448)),
    ],
)
def test_pictures_that_are_too_large_are_scaled(said: str, size: tuple[int, int], box: tuple[int, int]) -> None:
    made = limits(said)
    assert made is not None
    assert made.box(*size) == box


def macroblocks(width: int, height: int) -> int:
    return -(-width // 16) * -(-height // 16)


SIDES = st.integers(16, 8192)


@given(st.sampled_from(["42e00a", "42e014", "42e01e", "42e028", "42e033"]), SIDES, SIDES)
def test_what_is_scaled_keeps_its_aspect_and_could_not_be_larger(said: str, width: int, height: int) -> None:
    made = limits(said)
    assert made is not None
    wide, high = made.box(width, height)
    assert macroblocks(wide, high) <= made.frame
    assert wide <= width
    assert high <= height
    if (wide, high) != (width, height):
        longer, of_longer, of_shorter = max(wide, high) + 2, max(width, height), min(width, height)
        shorter = max(16, longer * of_shorter // of_longer)
        assert macroblocks(longer, shorter) > made.frame or macroblocks(longer, 1) ** 2 > 8 * made.frame
        assert min(wide, high) == max(16, (longer - 2) * of_shorter // of_longer)


def test_the_frame_rate_hangs_on_the_size() -> None:
    made = limits("42e01e")
    assert made is not None
    assert made.frame_rate(720, 576) == 25
    assert made.frame_rate(705, 561) == pytest.approx(40_500 / (45 * 36))
    assert made.frame_rate(352, 288) == pytest.approx(102.27, abs=0.01)


def test_level_1b_is_written_in_two_ways() -> None:
    assert level_of(66, 0xC0, 9) == level_of(66, 0x10, 11) == 10.5
    assert level_of(66, 0xC0, 11) == level_of(100, 0x10, 11) == 11
