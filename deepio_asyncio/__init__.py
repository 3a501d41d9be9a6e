"""The public face for asyncio applications."""

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
from deepio_adapters.peer_client import PeerError, PeerStateError, ServerUnreachableError
from deepio_asyncio.deepio import DeepIO
from deepio_asyncio.peer import Peer
from deepio_core.states import PeerState

__all__ = [
    "DeepIO",
    "Fleet",
    "FleetError",
    "FleetStats",
    "Peer",
    "PeerError",
    "PeerState",
    "PeerStateError",
    "ServerUnreachableError",
    "StreamEnded",
    "StreamLost",
    "StreamPhase",
    "StreamRestarting",
    "StreamRetrying",
    "StreamStarted",
    "StreamStateChanged",
    "StreamStatus",
]
