"""Pictures that are made of arrays, and how they become what encoders take."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["to_picture", "to_planes"]

logger = logging.getLogger(__name__)

ALIGNMENT = 64
"""Bytes of which the rows of a picture are a multiple: FFmpeg reads them in vectors, and would read beyond the end."""

# What OpenCV calls the conversions to planes, by FFmpeg's name of what is converted: to BT.601 in the limited range, as
# FFmpeg does it where nothing is said.
_CONVERSIONS = {"bgr24": "COLOR_BGR2YUV_I420", "rgb24": "COLOR_RGB2YUV_I420"}

_UNSAID = (2, 0)
"""Color space and range of such a picture: FFmpeg's numbers for "unspecified"."""


def to_picture(image: NDArray[np.uint8]) -> av.VideoFrame:
    """Copies a BGR array (height, width, 3) into a picture.

    Once, into memory that the picture then owns: PyAV's `from_ndarray` copies twice, which takes twice the time.
    """
    height, width, _ = image.shape
    rows = np.empty((height, -(-3 * width // ALIGNMENT) * ALIGNMENT), np.uint8)
    pixels = rows[:, : 3 * width].reshape(image.shape)
    pixels[:] = image
    return av.VideoFrame.from_numpy_buffer(pixels, format="bgr24")


def to_planes(picture: av.VideoFrame) -> av.VideoFrame | None:
    """Converts BGR or RGB to yuv420p with OpenCV, in less than half of the CPU time that FFmpeg takes.

    The first call in a process imports OpenCV, if the application has not: that takes 0.15 s.

    Returns:
        The same picture in planes; None if OpenCV is not installed, or it is not for this picture: in other samples,
        with colors that are not as usual, or of a width that is odd, or a height that is no multiple of four.
    """
    conversion = _CONVERSIONS.get(picture.format.name)
    usual = (picture.colorspace, picture.color_range) == _UNSAID and picture.planes[0].line_size > 0  # not upside down
    # OpenCV takes even sides only, and PyAV errs about planes in an array of other heights.
    fits = not picture.width % 2 and not picture.height % 4
    if conversion is None or not usual or not fits or (opencv := _opencv()) is None:
        return None
    convert: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]] = opencv.cvtColor
    return av.VideoFrame.from_numpy_buffer(convert(_pixels(picture), getattr(opencv, conversion)), format="yuv420p")


def _pixels(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """The memory of a BGR or RGB picture."""
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(cast("Any", plane)), np.uint8).reshape(picture.height, plane.line_size)
    return rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)


@functools.cache
def _opencv() -> Any:
    try:
        import cv2

        # An installation of which only the folder is left can be imported, too.
        _ = cv2.cvtColor, *(getattr(cv2, name) for name in _CONVERSIONS.values())
    except Exception as fault:  # noqa: BLE001 - whatever an installation that is broken raises: there is another way
        logger.info("OpenCV, which would convert pictures from arrays in half of the time, is not there: %s", fault)
        return None
    return cv2
