"""The public face for asyncio applications."""

from deepio_adapters.peer_client import PeerError, PeerStateError, ServerUnreachableError
from deepio_asyncio.deepio import DeepIO
from deepio_asyncio.peer import Peer
from deepio_core.states import PeerState

__all__ = ["DeepIO", "Peer", "PeerError", "PeerState", "PeerStateError", "ServerUnreachableError"]
