"""The states of a peer and every legal edge between them, as data.

Rule 1: whatever a trigger does to the stage of a peer stands in this file and nowhere else.
Rule 2: this file knows no role, no transport and no clock.

The eight public states are those of hyperpeer-js (the docstring of hyperpeer-py describes them shifted by one).
A stage is finer: it says which answer is awaited. A trigger that a stage does not list is refused: a command raises
`LocalProtocolError`, a signal is told as `SignalIgnored`, a report of the engine is dropped as stale.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from deepio_core.timers import Timer

if TYPE_CHECKING:
    from collections.abc import Mapping


class PeerState(Enum):
    """The public states of a hyperpeer peer, with the numbers that hyperpeer-py gives them."""

    STARTING = auto()
    """The signaling connection is being opened."""
    ONLINE = auto()
    """Connected to the server, paired with nobody."""
    LISTENING = auto()
    """Listed as ready: other peers may pair with this one."""
    CONNECTING = auto()
    """From the pair request, or the pairing by another peer, to the open data channel."""
    CONNECTED = auto()
    """The data channel is open."""
    DISCONNECTING = auto()
    """Leaving the remote peer: the engine closes, the server confirms."""
    CLOSING = auto()
    """Leaving the server."""
    CLOSED = auto()
    """The end: the peer does nothing any more."""

    # There is one object of each: no need to hash its name, by a function in Python, whenever a table is looked into.
    __hash__ = object.__hash__


class Stage(Enum):
    """What exactly a peer is doing or waiting for."""

    STARTING = "starting"
    """Waiting for the signaling connection."""
    ONLINE = "online"
    """Idle on the server."""
    LISTENING = "listening"
    """Waiting to be paired by another peer."""
    PAIRING = "pairing"
    """Asked for a remote peer; the server's reply is due."""
    OVERTAKEN = "overtaken"
    """Asked for a remote peer, but a third one has paired us first; the server's reply is still due."""
    INVITED = "invited"
    """Paired by a remote peer; the application has not accepted yet."""
    OFFERING = "offering"
    """Accepted; the engine makes the offer."""
    AWAITING_ANSWER = "awaiting_answer"
    """The offer is out; the remote peer's answer is due."""
    AWAITING_OFFER = "awaiting_offer"
    """Paired as asked; the remote peer's offer is due."""
    ANSWERING = "answering"
    """The offer is in; the engine makes the answer."""
    OPENING = "opening"
    """Both descriptions are exchanged; the data channel is due."""
    CONNECTED = "connected"
    """The data channel is open."""
    DETACHED = "detached"
    """The data channel is open, but the signaling connection is lost: media and data go on."""
    PARTING = "parting"
    """Asked to leave in the middle of answering; the negotiation is finished first, since a
    hyperpeer-py listener that never gets its answer, or ICE, is blocked or dies."""
    LEAVING = "leaving"
    """The engine closes and the server's `unpaired` is due."""
    DRAINING = "draining"
    """The engine closes; the server knows that the session is over."""
    UNPAIRING = "unpairing"
    """No engine any more; the server's `unpaired` is due."""
    CLOSING = "closing"
    """The engine or the signaling connection is still open and closes."""
    CLOSED = "closed"
    """Nothing is open."""

    __hash__ = object.__hash__  # as above


class Trigger(StrEnum):
    """What can move a peer from stage to stage."""

    # Commands of the application.
    LIST_PEERS = auto()
    LISTEN = auto()
    CONNECT = auto()
    ACCEPT = auto()
    DISCONNECT = auto()
    SEND = auto()
    CLOSE = auto()
    # The signaling connection and what comes over it.
    SIGNALING_OPENED = auto()
    SIGNALING_FAILED = auto()
    SIGNALING_CLOSED = auto()
    PEER_LIST = auto()
    PAIRED = auto()
    PAIRED_OTHER = auto()
    """Paired with another peer than the one at hand."""
    PAIR_REFUSED = auto()
    """The server knows no such peer, or it is busy."""
    NOT_PAIRED = auto()
    """The server could not relay: it holds us for unpaired."""
    UNPAIRED = auto()
    OFFER = auto()
    ANSWER = auto()
    CANDIDATE = auto()
    # Reports of the engine.
    LOCAL_OFFER = auto()
    LOCAL_ANSWER = auto()
    LOCAL_CANDIDATE = auto()
    CHANNEL_OPENED = auto()
    CHANNEL_RECEIVED = auto()
    ACTIVITY = auto()
    ENGINE_FAILED = auto()
    ENGINE_CLOSED = auto()
    # Neither of them.
    EXPIRED = auto()
    """The deadline of the stage has passed."""
    ALL_CLOSED = auto()
    """Neither engine nor signaling connection is open any more."""


COMMANDS: Final = frozenset(
    {
        Trigger.LIST_PEERS,
        Trigger.LISTEN,
        Trigger.CONNECT,
        Trigger.ACCEPT,
        Trigger.DISCONNECT,
        Trigger.SEND,
        Trigger.CLOSE,
    }
)
"""The triggers that the application pulls: the only ones whose refusal raises."""

STATE_OF: Final[Mapping[Stage, PeerState]] = MappingProxyType(
    {
        Stage.STARTING: PeerState.STARTING,
        Stage.ONLINE: PeerState.ONLINE,
        Stage.LISTENING: PeerState.LISTENING,
        Stage.PAIRING: PeerState.CONNECTING,
        Stage.OVERTAKEN: PeerState.CONNECTING,
        Stage.INVITED: PeerState.CONNECTING,
        Stage.OFFERING: PeerState.CONNECTING,
        Stage.AWAITING_ANSWER: PeerState.CONNECTING,
        Stage.AWAITING_OFFER: PeerState.CONNECTING,
        Stage.ANSWERING: PeerState.CONNECTING,
        Stage.OPENING: PeerState.CONNECTING,
        Stage.CONNECTED: PeerState.CONNECTED,
        Stage.DETACHED: PeerState.CONNECTED,
        Stage.PARTING: PeerState.DISCONNECTING,
        Stage.LEAVING: PeerState.DISCONNECTING,
        Stage.DRAINING: PeerState.DISCONNECTING,
        Stage.UNPAIRING: PeerState.DISCONNECTING,
        Stage.CLOSING: PeerState.CLOSING,
        Stage.CLOSED: PeerState.CLOSED,
    }
)
"""The public state that each stage belongs to."""

STAGE_TIMERS: Final[Mapping[Stage, Timer]] = MappingProxyType(
    {
        Stage.STARTING: Timer.OPEN,
        Stage.PAIRING: Timer.REPLY,
        Stage.OVERTAKEN: Timer.REPLY,
        Stage.INVITED: Timer.ACCEPT,
        Stage.OFFERING: Timer.NEGOTIATION,
        Stage.AWAITING_ANSWER: Timer.NEGOTIATION,
        Stage.AWAITING_OFFER: Timer.NEGOTIATION,
        Stage.ANSWERING: Timer.NEGOTIATION,
        Stage.OPENING: Timer.NEGOTIATION,
        Stage.CONNECTED: Timer.SILENCE,
        Stage.DETACHED: Timer.SILENCE,
        Stage.PARTING: Timer.PART,
        Stage.LEAVING: Timer.LEAVE,
        Stage.DRAINING: Timer.LEAVE,
        Stage.UNPAIRING: Timer.LEAVE,
        Stage.CLOSING: Timer.CLOSE,
    }
)
"""The deadline that runs in each stage. Neighbours with the same timer share one run of it."""


def _at(stage: Stage, *stays: Trigger, **moves: Stage) -> tuple[Stage, dict[Trigger, Stage]]:
    """One row of the table: triggers that keep the stage, then `trigger=next_stage` for the others."""
    return stage, dict.fromkeys(stays, stage) | {Trigger(name): target for name, target in moves.items()}


_LISTS = (Trigger.LIST_PEERS, Trigger.PEER_LIST)
"""The peer list can be asked for whenever the signaling connection is up."""

_NEGOTIATES = (*_LISTS, Trigger.CANDIDATE, Trigger.LOCAL_CANDIDATE)
"""What may come at any time between pairing and leaving."""

_ENDS = {
    # Whatever ends a session that has an engine: what is still open decides where to.
    "unpaired": Stage.DRAINING,
    "not_paired": Stage.LEAVING,
    "paired_other": Stage.LEAVING,
    "engine_failed": Stage.LEAVING,
    "expired": Stage.LEAVING,
    "engine_closed": Stage.UNPAIRING,
    "close": Stage.CLOSING,
    "signaling_closed": Stage.CLOSING,
}

TRANSITIONS: Final[Mapping[Stage, Mapping[Trigger, Stage]]] = MappingProxyType(
    dict(
        (
            _at(
                Stage.STARTING,
                signaling_opened=Stage.ONLINE,
                signaling_failed=Stage.CLOSED,
                signaling_closed=Stage.CLOSED,
                expired=Stage.CLOSING,
                close=Stage.CLOSING,
            ),
            _at(
                Stage.ONLINE,
                *_LISTS,
                Trigger.PAIRED,  # nobody can take `ready` back: an invitation that comes late is declined
                Trigger.UNPAIRED,
                listen=Stage.LISTENING,
                connect=Stage.PAIRING,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSED,
            ),
            _at(
                Stage.LISTENING,
                *_LISTS,
                Trigger.UNPAIRED,
                paired=Stage.INVITED,
                connect=Stage.PAIRING,
                disconnect=Stage.ONLINE,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSED,
            ),
            _at(
                Stage.PAIRING,
                *_LISTS,
                Trigger.UNPAIRED,
                paired=Stage.AWAITING_OFFER,
                paired_other=Stage.OVERTAKEN,
                pair_refused=Stage.ONLINE,
                disconnect=Stage.UNPAIRING,
                expired=Stage.UNPAIRING,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSED,
            ),
            _at(
                Stage.OVERTAKEN,
                *_LISTS,
                unpaired=Stage.PAIRING,
                paired=Stage.AWAITING_OFFER,  # the server has dissolved the other pairing without a word
                pair_refused=Stage.UNPAIRING,
                disconnect=Stage.UNPAIRING,
                expired=Stage.UNPAIRING,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSED,
            ),
            _at(
                Stage.INVITED,
                *_LISTS,
                accept=Stage.OFFERING,
                unpaired=Stage.ONLINE,
                paired_other=Stage.UNPAIRING,
                disconnect=Stage.UNPAIRING,
                expired=Stage.UNPAIRING,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSED,
            ),
            _at(
                Stage.OFFERING,
                *_NEGOTIATES,
                local_offer=Stage.AWAITING_ANSWER,
                disconnect=Stage.LEAVING,
                **_ENDS,
            ),
            _at(
                Stage.AWAITING_ANSWER,
                *_NEGOTIATES,
                answer=Stage.OPENING,
                disconnect=Stage.LEAVING,
                **_ENDS,
            ),
            _at(
                Stage.AWAITING_OFFER,
                *_NEGOTIATES,
                offer=Stage.ANSWERING,
                pair_refused=Stage.LEAVING,  # both sides asked for each other: see Peer._on_pair_refused
                disconnect=Stage.PARTING,
                **_ENDS,
            ),
            _at(
                Stage.ANSWERING,
                *_NEGOTIATES,
                local_answer=Stage.OPENING,
                disconnect=Stage.PARTING,
                **_ENDS,
            ),
            _at(
                Stage.OPENING,
                *_NEGOTIATES,
                channel_opened=Stage.CONNECTED,
                disconnect=Stage.PARTING,
                **_ENDS,
            ),
            _at(
                Stage.CONNECTED,
                *_NEGOTIATES,
                Trigger.SEND,
                Trigger.CHANNEL_RECEIVED,
                Trigger.ACTIVITY,
                disconnect=Stage.LEAVING,
                **_ENDS | {"signaling_closed": Stage.DETACHED},
            ),
            _at(
                Stage.DETACHED,
                Trigger.SEND,
                Trigger.CHANNEL_RECEIVED,
                Trigger.ACTIVITY,
                disconnect=Stage.CLOSING,
                engine_failed=Stage.CLOSING,
                engine_closed=Stage.CLOSED,
                expired=Stage.CLOSING,
                close=Stage.CLOSING,
            ),
            _at(
                Stage.PARTING,
                *_NEGOTIATES,
                Trigger.OFFER,
                Trigger.LOCAL_ANSWER,
                channel_opened=Stage.LEAVING,
                **_ENDS,
            ),
            _at(
                Stage.LEAVING,
                *_LISTS,
                unpaired=Stage.DRAINING,
                engine_closed=Stage.UNPAIRING,
                expired=Stage.ONLINE,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSING,
            ),
            _at(
                Stage.DRAINING,
                *_LISTS,
                Trigger.UNPAIRED,  # both sides left at once: the server confirms twice
                engine_closed=Stage.ONLINE,
                expired=Stage.ONLINE,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSING,
            ),
            _at(
                Stage.UNPAIRING,
                *_LISTS,
                unpaired=Stage.ONLINE,
                expired=Stage.ONLINE,
                close=Stage.CLOSING,
                signaling_closed=Stage.CLOSED,
            ),
            _at(
                Stage.CLOSING,
                Trigger.ENGINE_CLOSED,
                Trigger.SIGNALING_CLOSED,
                Trigger.SIGNALING_FAILED,
                expired=Stage.CLOSED,
                all_closed=Stage.CLOSED,
            ),
            _at(Stage.CLOSED),
        )
    )
)
"""Every legal edge: stage, trigger, next stage."""
