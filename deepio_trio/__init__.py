"""The public face for trio applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepio_adapters.shared import SharedSource
from deepio_core.media.options import VideoOptions
from deepio_trio.deepio import DeepIO

if TYPE_CHECKING:
    from deepio_adapters.fleet import (
        Fleet,
        FleetError,
        FleetStats,
        StreamEnded,
        StreamLost,
        StreamPhase,
        StreamRestarting,
        StreamRetrying,
        StreamStarted,
        StreamStateChanged,
        StreamStatus,
    )

__all__ = [
    "DeepIO",
    "Fleet",
    "FleetError",
    "FleetStats",
    "SharedSource",
    "StreamEnded",
    "StreamLost",
    "StreamPhase",
    "StreamRestarting",
    "StreamRetrying",
    "StreamStarted",
    "StreamStateChanged",
    "StreamStatus",
    "VideoOptions",
]


def __getattr__(name: str) -> object:
    """Give what concerns fleets, which is loaded when it is asked for: most applications have one stream."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deepio_adapters import fleet

    return getattr(fleet, name)
