"""What a signal means to whoever replays it: what the recorded peer wanted, what ours must make of it."""

from __future__ import annotations

from typing import Any

from deepio_core import outputs, signals
from deepio_core.errors import RemoteProtocolError
from deepio_core.states import Stage
from tests.transcripts.driving import Driver
from tests.transcripts.recording import CLIENT, SERVER, Connection, is_close

_MAX_SIGNAL = 2**24
_PAIRED = frozenset(
    {Stage.INVITED, Stage.OFFERING, Stage.AWAITING_ANSWER, Stage.AWAITING_OFFER, Stage.ANSWERING, Stage.OPENING}
    | {Stage.CONNECTED, Stage.PARTING, Stage.LEAVING, Stage.UNPAIRING}
)
"""Where `unpaired` is the end."""


def parse(text: str | bytes) -> signals.Signal | None:
    try:
        return signals.parse_signal(text, max_size=_MAX_SIGNAL)
    except RemoteProtocolError:
        return None


def follows(signal: signals.Signal | None, stage: Stage, driver: Driver, news: list[Any]) -> bool:
    """Whether ours has made of a signal what every peer makes of it."""
    match signal:
        case signals.Unpaired():
            return driver.stage not in _PAIRED
        case signals.Paired() if stage is Stage.LISTENING:
            return outputs.ConnectionRequested(remote_id=signal.remote_id) in news
        case signals.Paired() if stage is Stage.PAIRING and signal.remote_id == driver.remote_id:
            return driver.stage is Stage.AWAITING_OFFER and driver.engine_open and not driver.offerer
        case signals.ServerError(code=signals.ERR_PEER_NOT_FOUND | signals.ERR_PEER_BUSY) if stage is Stage.PAIRING:
            return driver.stage is Stage.ONLINE
        case signals.PeerList() if any(isinstance(one, outputs.PeersListed) for one in news):
            return outputs.PeersListed(peers=signal.peers) in news
        case _:
            return True


def kind_of(message: Any) -> str:
    """What a message of a client is for."""
    if not isinstance(message, dict):
        return "private"
    kind = message.get("type")
    if not isinstance(kind, str | None):
        return "private"
    if kind in {"listPeers", "ready", "pair", "unpair", "offer", "answer", "candidate"}:
        return str(kind)
    if kind in {"renegotiate", "transceiverRequest"} or (kind is None and message.keys() & _UNTYPED_REQUESTS):
        return "renegotiation"
    return "candidate" if kind is None and "candidate" in message else "private"


_UNTYPED_REQUESTS = frozenset({"renegotiate", "transceiverRequest"})


def was_refused_for_its_id(connection: Connection) -> bool:
    """Whether the server closed it with an empty frame before it had said anything."""
    said = [row for row in connection.rows if row.get("dir") == SERVER]
    if not said or not is_close(said[0], SERVER) or said[0].get("code") is not None:
        return False
    return not any(is_close(row, CLIENT) and row["t"] < said[0]["t"] for row in connection.rows)
