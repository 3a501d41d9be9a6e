"""What H.264 levels allow: macroblocks, of 16 by 16 pixels, in a picture and in a second (ITU-T H.264 table A-1).

A receiver that states a level decodes that much (RFC 6184 section 8.1), and need not decode more. All but one: 3.1 is
what browsers and aiortc write whatever they decode, since it is what everybody writes; who sends them 1080p is well
received. So that level bounds nothing here, and every other has been meant.
"""

from __future__ import annotations

import re
from math import ceil, isqrt, sqrt
from typing import TYPE_CHECKING, Final

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_core.media.far import FarVideo

__all__ = ["PROFILE_LEVEL_ID", "PictureLimits", "level_of", "picture_limits"]

PROFILE_LEVEL_ID: Final = re.compile(r"[0-9a-fA-F]{6}")
"""How a profile and a level are stated (RFC 6184 section 8.1)."""

_UNMEANT: Final = 31

# MaxFS and MaxMBPS by level_idc; 10.5 is level 1b.
_LEVELS: Final[dict[float, tuple[int, int]]] = {
    10: (99, 1485), 10.5: (99, 1485), 11: (396, 3000), 12: (396, 6000), 13: (396, 11_880),
    20: (396, 11_880), 21: (792, 19_800), 22: (1620, 20_250),
    30: (1620, 40_500), 31: (3600, 108_000), 32: (5120, 216_000),
    40: (8192, 245_760), 41: (8192, 245_760), 42: (8704, 522_240),
    50: (22_080, 589_824), 51: (36_864, 983_040), 52: (36_864, 2_073_600),
    60: (139_264, 4_177_920), 61: (139_264, 8_355_840), 62: (139_264, 16_711_680),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """The pictures that a receiver takes."""

    level: str
    """The level, such as "3.0"."""
    frame: int
    """Macroblocks of a picture at most."""
    second: int
    """Macroblocks in a second at most."""

    def box(self, width: int, height: int) -> tuple[int, int]:
        """The size, in pixels, into which pictures of another one have to be scaled; the same if they fit."""
        # No side is longer than the square root of eight times the largest picture (Annex A.3.1).
        longest = 16 * isqrt(8 * self.frame)
        longer, shorter = max(width, height), min(width, height)
        if longer <= longest and _macroblocks(width, height) <= self.frame:
            return width, height
        wide = min(longer, longest, int(sqrt(256 * self.frame * longer / shorter))) // 2 * 2
        # Macroblocks at the edges count whole.
        while _macroblocks(wide, high := max(16, wide * shorter // longer)) > self.frame:
            wide -= 2
        return (wide, high) if width >= height else (high, wide)

    def frame_rate(self, width: int, height: int) -> float:
        """Pictures of this size in a second at most."""
        return self.second / _macroblocks(width, height)


def picture_limits(far: FarVideo) -> PictureLimits | None:
    """Tell which pictures the far side takes, as far as it has said so and is to be taken at its word.

    Returns:
        None if there are no limits known.
    """
    said = far.profile_level_id or ""
    if far.codec != "H264" or far.lenient or far.exceeds_level or not PROFILE_LEVEL_ID.fullmatch(said):
        return None
    level = level_of(*bytes.fromhex(said))
    if level == _UNMEANT or level not in _LEVELS:
        return None
    frame, second = _LEVELS[level]
    return PictureLimits(level="1b" if level == 10.5 else f"{level / 10:.1f}", frame=frame, second=second)


def level_of(profile: int, constraints: int, level: int) -> float:
    """level_idc with 1b, which two ways of writing tell from 1.1, where it belongs (Annex A.3)."""
    return 10.5 if level == 9 or (level == 11 and constraints & 0x10 and profile < 100) else level


def _macroblocks(width: int, height: int) -> int:
    return ceil(width / 16) * ceil(height / 16)
