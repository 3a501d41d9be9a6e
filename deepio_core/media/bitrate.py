"""How many bits per second to encode with: within bounds, following what the far side says about the path.

The far side says two things. REMB (draft-alvestrand-rmcat-remb-03) is its own estimate, made from how packets are
delayed. Receiver reports (RFC 3550 section 6.4.1) tell what was lost, and of these we make an estimate as in
draft-ietf-rmcat-gcc-02 section 6. The smaller of the two counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from deepio_core.media.options import VideoOptions

__all__ = ["RateController"]

HIGH_LOSS: Final = 0.10
"""Part of packets lost above which the rate shrinks."""

LOW_LOSS: Final = 0.02
"""Part of packets lost below which the rate grows. Between the two it stays: such losses need not come from us."""

GROWTH: Final = 1.05
"""By what the rate grows for a report without losses."""

REPORT_INTERVAL: Final = 0.5
"""Seconds for which a report has the last word: the draft means reports that come about once a second. What comes
sooner mostly tells of packets from before the last step."""

RISE_INTERVAL: Final = 1.0
"""Seconds from one target to a higher one: each change costs an encoder a moment, some even a keyframe."""

FALL_INTERVAL: Final = 0.2
"""Seconds from one target to a lower one: sooner, since what is too much waits in queues and makes latency."""

STEP: Final = 0.02
"""Part of the target below which a change is not worth its cost, unless it is the one to a bound."""


class RateController:
    """Decides the bitrate of an encoder, for one connection.

    Begins at `VideoOptions.bitrate`. The estimate made from losses grows by 5 % with each report of less than 2 %, and
    shrinks to `1 - loss / 2` of what was sent with each above 10 %. The far side's own estimate stays in force until
    it sends another one. There are at most one rise per second and five falls, by 2 % or more each or to a bound; what
    is held back follows with the next report or estimate.

    Args:
        options: The bounds, and the bitrate to begin with.
    """

    def __init__(self, options: VideoOptions) -> None:
        self._least, self._most = options.min_bitrate, options.max_bitrate
        self._target = options.bitrate
        self._by_loss = float(options.bitrate)
        self._by_delay: float | None = None
        self._reported_at: float | None = None
        self._changed_at: float | None = None

    @property
    def target(self) -> int:
        """Bits per second to encode with now."""
        return self._target

    def on_estimate(self, bitrate: int, now: float) -> None:
        """Take the far side's estimate of what the path carries.

        Args:
            bitrate: Bits per second.
            now: Monotonic seconds.
        """
        self._by_delay = self._bounded(bitrate)
        self._settle(now)

    def on_report(self, loss: float, now: float) -> None:
        """Take a receiver report.

        Args:
            loss: Part of the packets lost since the report before, 0 to 1.
            now: Monotonic seconds.
        """
        if self._reported_at is None or now - self._reported_at >= REPORT_INTERVAL:
            self._reported_at = now
            if loss > HIGH_LOSS:
                # Not of an estimate that the far side's was below: nothing was sent at that rate.
                self._by_loss = self._bounded(self._wanted * (1 - loss / 2))
            elif loss < LOW_LOSS:
                self._by_loss = self._bounded(self._by_loss * GROWTH)
        self._settle(now)

    @property
    def _wanted(self) -> float:
        return self._by_loss if self._by_delay is None else min(self._by_loss, self._by_delay)

    def _bounded(self, bitrate: float) -> float:
        return min(max(bitrate, self._least), self._most)

    def _settle(self, now: float) -> None:
        wanted = round(self._wanted)
        if wanted == self._target:
            return
        interval = FALL_INTERVAL if wanted < self._target else RISE_INTERVAL
        if self._changed_at is not None and now - self._changed_at < interval:
            return
        if abs(wanted - self._target) >= STEP * self._target or wanted in (self._least, self._most):
            self._target, self._changed_at = wanted, now
