"""The public face for asyncio applications."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from deepio_adapters.shared import SharedSource
from deepio_asyncio.deepio import DeepIO
from deepio_core.media.options import VideoOptions
from deepio_core.states import PeerState

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
    from deepio_adapters.peer_client import PeerError, PeerStateError, ServerUnreachableError
    from deepio_asyncio.peer import Peer

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


_PEER_ERRORS = {"PeerError", "PeerStateError", "ServerUnreachableError"}


def __getattr__(name: str) -> object:
    """Give what concerns `Peer` and fleets, which is loaded when asked for: most applications have one `DeepIO`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Peer":
        module = "deepio_asyncio.peer"
    else:
        module = "deepio_adapters.peer_client" if name in _PEER_ERRORS else "deepio_adapters.fleet"
    return getattr(import_module(module), name)
