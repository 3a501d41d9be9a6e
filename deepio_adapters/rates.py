"""Rates from counters that only grow."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["RateMeter"]

SAMPLES: Final = 3
"""Samples kept: with one a second, rates are means over the last two seconds, steady yet quick to follow."""


class RateMeter:
    """Means per second of a group of counters, sampled now and then."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, tuple[int, ...]]] = deque(maxlen=SAMPLES)

    def sample(self, now: float, *counters: int) -> None:
        """Note the counters at the time `now`, in seconds."""
        self._samples.append((now, counters))

    def rate(self, index: int) -> float:
        """Growth per second of the counter `index` between the oldest and the newest sample; 0.0 without two."""
        if len(self._samples) < 2:
            return 0.0
        (start, first), (end, last) = self._samples[0], self._samples[-1]
        return (last[index] - first[index]) / (end - start) if end > start else 0.0
