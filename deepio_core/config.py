"""Settings of the machines. All times are seconds, all sizes bytes of UTF-8."""

from __future__ import annotations

from deepio_core.address import encode_segment
from deepio_core.errors import AddressError, LocalProtocolError
from deepio_core.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """Settings of a `Peer`."""

    peer_id: str
    """Our id as it stands in the signaling URL (see `address.encode_segment`)."""
    open_timeout: float = 10.0
    """For the signaling connection to open."""
    reply_timeout: float = 5.0
    """For the server to answer `listPeers` and `pair`. hyperpeer-py gives it 2 s; giving up on a `pair` that
    succeeds late ends real stream managers, so we wait longer."""
    accept_timeout: float = 15.0
    """For the application to accept or refuse an invitation; the caller gives up after 15 s (hyperpeer-js)."""
    negotiation_timeout: float = 15.0
    """From the pairing to the open data channel (`connectionTimeout` of hyperpeer-js)."""
    silence_timeout: float | None = 4.5
    """Without any sign of life from the connected remote peer; None for no limit. The engine reports `Activity`
    at least every 2 s while anything arrives, so that a dead peer is noticed within 5 s of its last packet."""
    part_timeout: float = 2.0
    """For a negotiation to finish that the application has left."""
    leave_timeout: float = 5.0
    """For the engine to close and the server to confirm `unpair`."""
    close_timeout: float = 5.0
    """For the engine and the signaling connection to close."""
    id_in_use_window: float = 5.0
    """A connection that hyperpeer-node closes with an empty frame this soon, having said nothing, was refused
    because its id is in use."""
    max_signal_size: int = 1024 * 1024
    """Largest signaling message, in and out: the limit of hyperpeer-py's WebSocket library."""
    max_send_size: int = 256 * 1024
    """Largest data message that we send: what current aiortc and Chromium announce."""
    max_receive_size: int = 1024 * 1024
    """Largest data message that we decode; real stream managers send up to 300 kB."""
    max_candidates: int = 256
    """Candidates of the remote peer taken in one negotiation, also while the description that they belong to is
    awaited; more are dropped and told as `SignalIgnored`. A browser with ten interfaces sends about 40 for each media
    line, and an engine pairs each one with all of its own."""

    def __post_init__(self) -> None:
        if encode_segment(self.peer_id) != self.peer_id:
            # The server and all peers know us by the encoded id: with another one we would call ourselves.
            raise AddressError(
                f"The peer id {self.peer_id!r} is not as it stands in the signaling URL.",
                remedy="Encode it with `address.encode_segment`.",
            )
        for name in ("open", "reply", "accept", "negotiation", "part", "leave", "close"):
            positive(f"{name}_timeout", getattr(self, f"{name}_timeout"))
        if self.silence_timeout is not None:
            positive("silence_timeout", self.silence_timeout)
        for name in (
            "id_in_use_window",
            "max_signal_size",
            "max_send_size",
            "max_receive_size",
            "max_candidates",
        ):
            positive(name, getattr(self, name))


def positive(name: str, value: float) -> None:
    """Raise `LocalProtocolError` unless the setting `name` is above zero."""
    if not value > 0:
        raise LocalProtocolError(f"{name} must be above zero, not {value}.")
