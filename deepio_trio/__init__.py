"""The public face for trio applications."""

from deepio_adapters.fleet import Fleet
from deepio_adapters.fleet_records import (
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
from deepio_trio.deepio import DeepIO

__all__ = [
    "DeepIO",
    "Fleet",
    "FleetError",
    "FleetStats",
    "StreamEnded",
    "StreamLost",
    "StreamPhase",
    "StreamRestarting",
    "StreamRetrying",
    "StreamStarted",
    "StreamStateChanged",
    "StreamStatus",
]
