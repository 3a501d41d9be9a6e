"""Received frames: pixels, sizes and times, on request."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from deepio_adapters.frames import FRAME_FORMATS, ReceivedFrame, check_frame_format
from deepio_core.errors import LocalProtocolError


def received(picture: av.VideoFrame) -> ReceivedFrame:
    return ReceivedFrame(picture=picture, received_at=1.0, negotiation=1)


def test_pixels_come_as_bgr_arrays_of_one_s_own() -> None:
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[..., 0] = 255
    frame = received(av.VideoFrame.from_ndarray(blue, format="bgr24"))
    pixels = frame.to_ndarray()
    assert pixels.dtype == np.uint8
    assert (pixels == blue).all()
    pixels[:] = 0
    assert (frame.to_ndarray() == blue).all()
    assert (frame.to_ndarray("rgb24") == blue[..., ::-1]).all()
    assert frame.to_ndarray("gray").shape == (48, 64)
    assert (frame.width, frame.height) == (64, 48)


@pytest.mark.parametrize(
    ("pts", "base", "seconds"),
    [(45_000, Fraction(1, 90_000), 0.5), (0, Fraction(1, 90_000), 0.0), (None, Fraction(1, 90_000), None)],
)
def test_the_sender_s_time_is_in_seconds(pts: int | None, base: Fraction, seconds: float | None) -> None:
    picture = av.VideoFrame(64, 48, "yuv420p")
    picture.pts, picture.time_base = pts, base
    assert received(picture).pts == seconds


def test_every_format_that_can_be_asked_for_comes_out_in_its_shape() -> None:
    frame = received(av.VideoFrame(64, 48, "yuv420p"))
    shapes = {
        name: np.shape(frame.to(check_frame_format(name)))  # type: ignore[arg-type]
        for name in FRAME_FORMATS
        if name != "av"
    }
    assert shapes == {
        "bgr24": (48, 64, 3),
        "rgb24": (48, 64, 3),
        "bgra": (48, 64, 4),
        "rgba": (48, 64, 4),
        "gray": (48, 64),
        "yuv420p": (72, 64),
        "nv12": (72, 64),
    }
    assert frame.to(check_frame_format("av")) is frame.picture


def test_a_format_that_there_is_not_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match=r"no frame format 'bgr'"):
        check_frame_format("bgr")
