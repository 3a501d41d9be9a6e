"""What a command counts about results."""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from deepio_core.messages import DataMessage

if TYPE_CHECKING:
    from deepio_adapters.client import ClientStats
    from deepio_cli.display import Rows
    from deepio_core.messages import Message

__all__ = ["Tally"]

KEPT: Final = 10_000
"""Latencies that count, the newest: those of seven minutes at 25 results a second. The live table sorts them at every
look, in the event loop."""


VIDEO: Final = (
    "video_mode",
    "video_reason",
    "codec",
    "encoder",
    "target_bitrate",
    "frames_copied",
    "frames_dropped",
    "keyframe_requests",
    "packets_resent",
    "loss",
    "source_reconnects",
)
"""What programs are told of how video was sent, by its name in `ClientStats`."""


class Tally:
    """Counts results and how old they were."""

    def __init__(self) -> None:
        self.results = 0
        """Results received."""
        self.objects = 0
        """Objects in the newest result."""
        self.stats: ClientStats | None = None
        """The last statistics; None if it has not come to any."""
        self.interrupted = False
        """Whether a signal has ended it."""
        self._latencies: deque[float] = deque(maxlen=KEPT)

    def take(self, message: Message) -> None:
        """Count a message, if it is a result.

        Its latency is the time since the core has received the frame, by the clocks of both machines.
        """
        if isinstance(message, DataMessage):
            self.results += 1
            self.objects = len(message.detections())
            if message.vc_time is not None:
                self._latencies.append(time.time() - message.vc_time)

    def latency(self, share: float) -> float | None:
        """The latency that this share of the results does not pass, in seconds; None without any."""
        if not self._latencies:
            return None
        return sorted(self._latencies)[min(len(self._latencies) - 1, int(share * len(self._latencies)))]

    @property
    def median(self) -> float | None:
        """The median latency in seconds; None without any."""
        return statistics.median(self._latencies) if self._latencies else None

    def rows(self, stats: ClientStats) -> Rows:
        """What there is to show of a connection at work."""
        rows = {
            "state": stats.state.name.lower() + (f" to {stats.remote_id}" if stats.remote_id else ""),
            "video out": f"{stats.frames_sent} frames, {stats.fps_sent:.1f} fps, {stats.bitrate_sent / 1e6:.2f} Mbit/s",
            "video": _video(stats),
            "results": f"{self.results}, {self.objects} objects in the newest",
            "latency": f"median {milliseconds(self.median)}, p95 {milliseconds(self.latency(0.95))}",
            "reconnects": str(stats.reconnects),
        }
        if stats.video_reason:
            rows["because"] = stats.video_reason
        if stats.last_error:
            rows["last error"] = stats.last_error
        return rows

    @property
    def frames_sent(self) -> int:
        """Frames sent."""
        return 0 if self.stats is None else self.stats.frames_sent

    @property
    def reconnects(self) -> int:
        """How often the connection has come back."""
        return 0 if self.stats is None else self.stats.reconnects

    @property
    def last_error(self) -> str | None:
        """What has gone wrong last."""
        return None if self.stats is None else self.stats.last_error

    def summary(self) -> dict[str, Any]:
        """The same for programs; latencies in seconds."""
        video = {name: None if self.stats is None else getattr(self.stats, name) for name in VIDEO}
        return {
            "frames_sent": self.frames_sent,
            "results": self.results,
            "latency_median": self.median,
            "latency_p95": self.latency(0.95),
            "bytes_sent": 0 if self.stats is None else self.stats.bytes_sent,
            "reconnects": self.reconnects,
            "last_error": self.last_error,
            **video,
        }


def milliseconds(seconds: float | None) -> str:
    """A time for people."""
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"


def _video(stats: ClientStats) -> str:
    """How video is sent, for people."""
    if stats.video_mode is None:
        return "-"
    said = {"copy": "copied", "encode": "encoded"}[stats.video_mode]
    if stats.codec is not None:
        said += f", {stats.codec}"
    if stats.video_mode == "encode":
        said += f" by {stats.encoder}" if stats.encoder is not None else ""
        said += f", {stats.target_bitrate / 1e6:.2f} Mbit/s aimed at" if stats.target_bitrate is not None else ""
    return said
