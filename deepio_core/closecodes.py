"""WebSocket close codes (RFC 6455 section 7.4) that a signaling connection ends with, and what they mean.

hyperpeer-node 0.1.3 sends no code of its own. Where a client should know what to do, `SignalingServer` uses the
private range 4000 to 4999: 4000 plus the HTTP status of the same meaning.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

NORMAL: Final = 1000
"""The peer leaves."""
GOING_AWAY: Final = 1001
"""The server stops, or the page with the peer is left."""
NO_STATUS: Final = 1005
"""Never sent: what an empty close frame is told as. So hyperpeer-node 0.1.3 refuses an id that is in use."""
ABNORMAL: Final = 1006
"""Never sent: what the end of the connection without a close frame is told as."""
RATE_EXCEEDED: Final = 1008
"""The peer sent more messages than the server takes ("policy violation"): slow down."""
MESSAGE_TOO_BIG: Final = 1009
"""The peer sent a larger message than the server takes."""
INTERNAL_ERROR: Final = 1011
"""The application around the server is broken: retry later."""
ADDRESS_REFUSED: Final = 4400
"""The server takes no such type or id, or the path is none of a peer: retrying does not help."""
KEY_REFUSED: Final = 4401
"""The key is wrong or missing, where the connection could not be refused with HTTP status 401."""
ID_IN_USE: Final = 4409
"""Another peer has this id, perhaps the same one over a connection not yet known to be dead: retry later."""
SERVER_FULL: Final = 4503
"""The server takes no more peers now: retry later."""

CAUSES: Final[Mapping[int | None, Cause]] = MappingProxyType(
    {
        ADDRESS_REFUSED: Cause.ADDRESS_REFUSED,
        KEY_REFUSED: Cause.KEY_REFUSED,
        ID_IN_USE: Cause.ID_IN_USE,
        SERVER_FULL: Cause.SERVER_FULL,
    }
)
"""The codes that say more than that the connection is lost."""
