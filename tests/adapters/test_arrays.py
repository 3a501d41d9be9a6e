"""Pictures from arrays, and their conversion: OpenCV's against FFmpeg's."""

from __future__ import annotations

import builtins
import logging
import subprocess
import sys
from types import ModuleType

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from deepio_adapters import arrays
from deepio_adapters.arrays import ALIGNMENT, to_picture, to_planes
from deepio_adapters.encoder import VideoEncoder
from deepio_adapters.sources import stamp
from deepio_core.media.options import VideoOptions


def image(width: int = 322, height: int = 180) -> np.ndarray:
    """Smooth, and with all colors."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [127 + 127 * np.sin(x / 40), 127 + 127 * np.cos(y / 30), 127 + 127 * np.sin((x + y) / 50)]
    return np.stack(planes, axis=2).astype(np.uint8)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2))))


@pytest.mark.parametrize("size", [(322, 180), (1, 2), (853, 3), (64, 64)])
def test_a_picture_is_a_copy_of_its_array(size):
    original = image(*size)
    given = original.copy()
    picture = to_picture(given)
    given[:] = 0
    assert (picture.width, picture.height, picture.format.name) == (*size, "bgr24")
    assert picture.planes[0].line_size % ALIGNMENT == 0
    np.testing.assert_array_equal(picture.to_ndarray(), original)


def test_an_array_may_be_a_view_that_is_not_contiguous():
    flipped = image()[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(to_picture(flipped).to_ndarray(), flipped)


@pytest.mark.parametrize("name", ["bgr24", "rgb24"])
def test_opencv_makes_the_planes_that_ffmpeg_makes(name):
    picture = to_picture(image()) if name == "bgr24" else av.VideoFrame.from_ndarray(image(), format=name)
    ours, theirs = to_planes(picture), picture.reformat(format="yuv420p")
    assert ours is not None
    assert ours.format.name == "yuv420p"
    for told in ("width", "height", "colorspace", "color_range", "color_primaries", "color_trc"):
        assert getattr(ours, told) == getattr(theirs, told), told
    for one, other in zip(np.split(ours.to_ndarray(), [180]), np.split(theirs.to_ndarray(), [180]), strict=True):
        assert psnr(one, other) > 45
        assert abs(np.mean(one.astype(float) - other)) < 1


@pytest.mark.parametrize("red", [0, 255])
@pytest.mark.parametrize("green", [0, 128, 255])
@pytest.mark.parametrize("blue", [0, 255])
def test_colors_are_those_of_ffmpeg_but_for_rounding(blue, green, red):
    picture = to_picture(np.full((32, 32, 3), (blue, green, red), np.uint8))
    ours = to_planes(picture)
    assert ours is not None
    theirs = picture.reformat(format="yuv420p").to_ndarray().astype(int)
    assert np.abs(ours.to_ndarray() - theirs).max() <= 1


def test_what_opencv_would_convert_otherwise_is_left_to_ffmpeg():
    for odd in ((321, 180), (322, 181), (322, 182)):
        assert to_planes(to_picture(image(*odd))) is None
    assert to_planes(to_picture(image()).reformat(format="yuv420p")) is None
    tagged = to_picture(image())
    tagged.colorspace = Colorspace.ITU709
    assert to_planes(tagged) is None


@pytest.mark.parametrize("fault", [ImportError("no such module"), OSError("libGL.so.1 is missing"), None])
def test_without_opencv_ffmpeg_has_to_do_and_it_is_said_once(fault, monkeypatch, caplog):
    original = builtins.__import__

    def without(name, *arguments):
        if name == "cv2":
            if fault is None:
                return ModuleType("cv2")  # its folder alone
            raise fault
        return original(name, *arguments)

    caplog.set_level(logging.INFO, "deepio_adapters.arrays")
    monkeypatch.setattr(builtins, "__import__", without)
    arrays._opencv.cache_clear()
    try:
        assert to_planes(to_picture(image())) is None
        assert to_planes(to_picture(image())) is None
    finally:
        arrays._opencv.cache_clear()
    assert [(str(fault) if fault else "cvtColor") in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("max_size", [None, (160, 90)])
def test_an_encoder_converts_from_the_second_picture_on_and_not_what_it_scales(max_size, monkeypatch):
    asked = []

    def noted(picture):
        asked.append(picture)
        return to_planes(picture)

    monkeypatch.setattr(arrays, "to_planes", noted)
    encoder = VideoEncoder("H264", VideoOptions(max_size=max_size))
    frames = [stamp(to_picture(image()), number / 25, 0) for number in range(3)]
    encoded = [encoder.encode(frame) for frame in frames]
    assert asked == ([frame.picture for frame in frames[1:]] if max_size is None else [])
    assert [each.keyframe for each in encoded if each is not None] == [True, False, False], "one encoder takes both"


def test_opencv_is_imported_for_arrays_only_and_not_for_their_first_picture():
    program = """
import sys
import av
from deepio_adapters.encoder import VideoEncoder
from deepio_adapters.sources import stamp
from deepio_core.media.options import VideoOptions
for name in ("yuv420p", "bgr24"):
    encoder = VideoEncoder("H264", VideoOptions())
    for number in range(2):
        encoder.encode(stamp(av.VideoFrame(64, 64, name), number, 0))
        print("cv2" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False", "False", "True"]
