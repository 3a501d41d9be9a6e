"""The test pattern: moving shapes, a clock, and a frame counter that can be read back from the pixels.

The counter is there twice: as digits for people, and as a strip of big black and white blocks for programs,
which survives scaling and lossy coding. The strip takes the upper eighth of the picture: two rows of 20
blocks hold, most significant bit first, the 32 bits of the counter and a CRC-8 over them that tells a strip
from any other picture.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from deepio_adapters.imports import import_lock
from deepio_adapters.sources import DEFAULT_FRAME_RATE, Source, SourceError, SourceFrame, SourceInfo, stamp
from deepio_adapters.timeline import Pacer

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pattern", "PatternSource", "parse_pattern", "read_counter"]

_COLUMNS, _ROWS = 20, 2
_COUNTER_BITS, _CHECK_BITS = 32, 8
_STRIP = 8  # the strip takes one part in eight of the height

MIN_WIDTH, MIN_HEIGHT = 80, 64
"""Pixels below which blocks are too small (4 by 4) to survive lossy coding."""

MAX_SIDE = 8192
"""Pixels of the longer side at most, as for every source of arrays."""

# Darker is a 0, brighter is a 1, anything between is no strip.
_DARK, _BRIGHT = 96, 160

# Five columns by seven rows for every character of the captions, one string of seven hexadecimal pairs each.
_GLYPHS = {
    "0": "0e11131519110e",
    "1": "040c040404040e",
    "2": "0e11010204081f",
    "3": "1f02040201110e",
    "4": "02060a121f0202",
    "5": "1f101e0101110e",
    "6": "0608101e11110e",
    "7": "1f010204080808",
    "8": "0e11110e11110e",
    "9": "0e11110f01020c",
    ":": "00040400040400",
    ".": "0000000000000c",
    "#": "0a0a1f0a1f0a0a",
    " ": "00000000000000",
}

_SHAPES = (
    # Blue, green, red; width and height as parts of the picture; frames for one way across and one way down; frames
    # they are ahead, so that they start apart.
    ((60, 60, 220), 0.16, 0.20, 100, 260, 60),
    ((70, 190, 60), 0.12, 0.16, 170, 120, 75),
    ((220, 130, 40), 0.20, 0.12, 230, 90, 205),
)

_SPEC = re.compile(r"test:(?:(\d+)x(\d+))?(?:@(\d+(?:\.\d+)?))?")


def _crc8(value: int) -> int:
    """CRC-8 with polynomial 0x07, starting from 0xff so that neither black nor white pictures pass."""
    crc = 0xFF
    for byte in value.to_bytes(4, "big"):
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1) ^ 0x107 if crc & 0x80 else crc << 1
    return crc


def _edges(length: int, parts: int) -> list[int]:
    return [round(length * i / parts) for i in range(parts + 1)]


def read_counter(frame: NDArray[Any]) -> int | None:
    """Reads the frame counter of the test pattern back.

    Args:
        frame: uint8 array (height, width, 3), in whatever size the picture has arrived.

    Returns:
        The counter, or None when the picture holds no strip that can be read.
    """
    if frame.ndim != 3 or frame.shape[1] < MIN_WIDTH or frame.shape[0] < MIN_HEIGHT:
        return None
    height, width = frame.shape[:2]
    rows, columns = _edges(height // _STRIP, _ROWS), _edges(width, _COLUMNS)
    word = 0
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            # The middle of the block: its rim is blurred by coding and scaling.
            rim_y, rim_x = (bottom - top) // 4, (right - left) // 4
            level = float(frame[top + rim_y : bottom - rim_y, left + rim_x : right - rim_x].mean())
            if _DARK < level < _BRIGHT:
                return None
            word = word << 1 | (level >= _BRIGHT)
    counter = word >> _CHECK_BITS
    return counter if _crc8(counter) == word & 0xFF else None


class Pattern:
    """Draws the test pattern."""

    def __init__(self, width: int, height: int) -> None:
        if not (MIN_WIDTH <= width <= MAX_SIDE and MIN_HEIGHT <= height <= MAX_SIDE):
            raise SourceError(
                f"A test pattern cannot have {width}x{height} pixels.",
                remedy=f"Its size is {MIN_WIDTH}x{MIN_HEIGHT} to {MAX_SIDE}x{MAX_SIDE}.",
            )
        self.width, self.height = width, height
        self._top = height // _STRIP
        across = np.linspace(40, 110, width)
        down = np.linspace(30, 90, height)[:, None]
        layers = [down + 0 * across, across + 0 * down, (across + down) / 2]
        self._background = np.stack(layers, axis=2).astype(np.uint8)
        self._scale = max(1, height // 120)

    def draw(self, counter: int, clock: str = "") -> NDArray[np.uint8]:
        """Returns the frame with this number, a new uint8 array (height, width, 3) in BGR order.

        Args:
            counter: Frame number; its lower 32 bits are coded.
            clock: Digits, colons and dots to show beside it.
        """
        frame = self._background.copy()
        self._draw_shapes(frame, counter)
        self._draw_strip(frame, counter & 0xFFFFFFFF)
        line = 9 * self._scale
        self._draw_text(frame, f"#{counter}", self._top + 2 * self._scale)
        self._draw_text(frame, clock, self._top + 2 * self._scale + line)
        return frame

    def _draw_strip(self, frame: NDArray[np.uint8], counter: int) -> None:
        word = counter << _CHECK_BITS | _crc8(counter)
        bits = [word >> shift & 1 for shift in reversed(range(_COUNTER_BITS + _CHECK_BITS))]
        rows, columns = _edges(self._top, _ROWS), _edges(self.width, _COLUMNS)
        for index, bit in enumerate(bits):
            row, column = divmod(index, _COLUMNS)
            frame[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 255 * bit

    def _draw_shapes(self, frame: NDArray[np.uint8], counter: int) -> None:
        for colour, part_x, part_y, period_x, period_y, ahead in _SHAPES:
            wide, high = max(2, int(part_x * self.width)), max(2, int(part_y * self.height))
            x = round(_to_and_fro(counter + ahead, period_x) * (self.width - wide))
            y = self._top + round(_to_and_fro(counter + ahead, period_y) * (self.height - self._top - high))
            frame[y : y + high, x : x + wide] = colour

    def _draw_text(self, frame: NDArray[np.uint8], text: str, top: int) -> None:
        if not text:
            return
        rows = [np.frombuffer(bytes.fromhex(_GLYPHS[character]), np.uint8) for character in text]
        # Six columns a character: the five of the glyph, most significant bit first, and one apart.
        bits: NDArray[Any] = np.concatenate([row[:, None] >> np.arange(5, -1, -1) & 1 for row in rows], axis=1)
        mask = np.kron(bits.astype(np.uint8), np.ones((self._scale, self._scale), np.uint8)).astype(bool)
        area = frame[top : top + mask.shape[0], : mask.shape[1]]
        mask = mask[: area.shape[0], : area.shape[1]]
        area[:] = 0
        area[mask] = 255


def _to_and_fro(counter: int, period: int) -> float:
    """Goes from 0 to 1 in `period` frames and back again."""
    phase = counter / period % 2
    return phase if phase <= 1 else 2 - phase


def parse_pattern(source: str, frame_rate: float | None = None) -> PatternSource:
    """Understands `test:`, `test:640x480`, `test:@25` and `test:640x480@25`.

    Raises:
        SourceError: It is none of these, or asks for what cannot be.
    """
    match = _SPEC.fullmatch(source)
    if match is None:
        raise SourceError(f"{source} is no test pattern.", remedy="Write test: or test:640x480@25.")
    width, height, rate = match.groups()
    rate = float(rate) if rate else frame_rate or DEFAULT_FRAME_RATE
    if not 0 < rate <= 1000:
        raise SourceError(f"A frame rate of {rate:g} is not possible.", remedy="Give frames per second, up to 1000.")
    return PatternSource(int(width or 640), int(height or 480), rate)


class PatternSource(Source):
    """The test pattern at a steady rate, without end."""

    def __init__(self, width: int, height: int, frame_rate: float) -> None:
        super().__init__(f"test:{width}x{height}@{frame_rate:g}")
        self._pattern = Pattern(width, height)
        self._rate = frame_rate

    def open(self) -> SourceInfo:
        """Nothing to open; tells size and rate."""
        with self._step():
            pass
        return SourceInfo(width=self._pattern.width, height=self._pattern.height, frame_rate=self._rate, live=True)

    def frames(self) -> Iterator[SourceFrame]:
        """Yields frames, counted from 0. Where the machine is too slow, numbers are left out, as a camera does."""
        with import_lock:
            from deepio_adapters.arrays import to_picture  # imports PyAV

        pacer = Pacer(self._closed)
        counter = 0
        started = time.monotonic()
        try:
            while True:
                pts = counter / self._rate
                due = pacer.wait(pts)
                if due is None:
                    return
                # The wall clock is for the eye alone: nothing is computed from it.
                clock = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
                image = self._pattern.draw(counter, clock)
                yield stamp(to_picture(image), pts, due)
                counter = max(counter + 1, math.floor((time.monotonic() - started) * self._rate))
        finally:
            self.close()
