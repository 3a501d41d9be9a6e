"""Every pair of stage and trigger, pulled as the outside does: what comes of it, and that nothing else does."""

import pytest

from deepio_core import inputs, outputs
from deepio_core.errors import LocalProtocolError
from deepio_core.states import STAGE_TIMERS, TRANSITIONS, Stage, Trigger
from tests.core.peers import (
    COMMANDS,
    ENGINE_REPORTS,
    LINK_REPORTS,
    SIGNALS,
    SILENT_STAGES,
    Driven,
    briefly,
    bring,
    pull,
)

OUTCOMES: dict[Stage, dict[Trigger, list[str]]] = {
    Stage.STARTING: {
        Trigger.SIGNALING_OPENED: ["STARTING > ONLINE"],
        Trigger.SIGNALING_FAILED: ["STARTING > CLOSED", "PeerClosed unreachable"],
        Trigger.SIGNALING_CLOSED: ["STARTING > CLOSED", "PeerClosed signaling_lost"],
        Trigger.EXPIRED: ["STARTING > CLOSING", "CloseSignaling"],
        Trigger.CLOSE: ["STARTING > CLOSING", "CloseSignaling"],
    },
    Stage.ONLINE: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.PAIRED: ["send unpair"],
        Trigger.UNPAIRED: [],
        Trigger.LISTEN: ["send ready", "ONLINE > LISTENING"],
        Trigger.CONNECT: ["send pair bob", "ONLINE > CONNECTING"],
        Trigger.CLOSE: ["ONLINE > CLOSING", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["ONLINE > CLOSED", "PeerClosed signaling_lost"],
    },
    Stage.LISTENING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.UNPAIRED: [],
        Trigger.PAIRED: ["LISTENING > CONNECTING", "ConnectionRequested bob"],
        Trigger.CONNECT: ["send pair bob", "LISTENING > CONNECTING"],
        Trigger.DISCONNECT: ["LISTENING > ONLINE"],
        Trigger.CLOSE: ["LISTENING > CLOSING", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["LISTENING > CLOSED", "PeerClosed signaling_lost"],
    },
    Stage.PAIRING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.UNPAIRED: [],
        Trigger.PAIRED: ["StartEngine bob answers"],
        Trigger.PAIRED_OTHER: [],
        Trigger.PAIR_REFUSED: ["CONNECTING > ONLINE", "failed bob busy"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_reply", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSED", "failed bob signaling_lost", "PeerClosed signaling_lost"],
    },
    Stage.OVERTAKEN: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.UNPAIRED: [],
        Trigger.PAIRED: ["StartEngine bob answers"],
        Trigger.PAIR_REFUSED: ["CONNECTING > DISCONNECTING", "failed bob busy", "send unpair"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_reply", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSED", "failed bob signaling_lost", "PeerClosed signaling_lost"],
    },
    Stage.INVITED: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.ACCEPT: ["StartEngine bob offers"],
        Trigger.UNPAIRED: ["CONNECTING > ONLINE", "failed bob remote_left"],
        Trigger.PAIRED_OTHER: ["CONNECTING > DISCONNECTING", "failed bob repaired", "send unpair"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob not_accepted", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSED", "failed bob signaling_lost", "PeerClosed signaling_lost"],
    },
    Stage.OFFERING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: [],
        Trigger.LOCAL_CANDIDATE: [],
        Trigger.LOCAL_OFFER: ["send offer"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local", "CloseEngine", "send unpair"],
        Trigger.UNPAIRED: ["CONNECTING > DISCONNECTING", "failed bob remote_left", "CloseEngine"],
        Trigger.NOT_PAIRED: ["CONNECTING > DISCONNECTING", "failed bob not_paired", "CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CONNECTING > DISCONNECTING", "failed bob repaired", "CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CONNECTING > DISCONNECTING", "failed bob engine", "CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_connection", "CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["CONNECTING > DISCONNECTING", "failed bob remote_closed", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSING", "failed bob signaling_lost", "CloseEngine"],
    },
    Stage.AWAITING_ANSWER: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: [],
        Trigger.LOCAL_CANDIDATE: ["send candidate"],
        Trigger.ANSWER: ["ApplyAnswer"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local", "CloseEngine", "send unpair"],
        Trigger.UNPAIRED: ["CONNECTING > DISCONNECTING", "failed bob remote_left", "CloseEngine"],
        Trigger.NOT_PAIRED: ["CONNECTING > DISCONNECTING", "failed bob not_paired", "CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CONNECTING > DISCONNECTING", "failed bob repaired", "CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CONNECTING > DISCONNECTING", "failed bob engine", "CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_connection", "CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["CONNECTING > DISCONNECTING", "failed bob remote_closed", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSING", "failed bob signaling_lost", "CloseEngine"],
    },
    Stage.AWAITING_OFFER: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: [],
        Trigger.LOCAL_CANDIDATE: [],
        Trigger.OFFER: ["ApplyOffer"],
        Trigger.PAIR_REFUSED: ["CONNECTING > DISCONNECTING", "failed bob crossed", "CloseEngine", "send unpair"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local"],
        Trigger.UNPAIRED: ["CONNECTING > DISCONNECTING", "failed bob remote_left", "CloseEngine"],
        Trigger.NOT_PAIRED: ["CONNECTING > DISCONNECTING", "failed bob not_paired", "CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CONNECTING > DISCONNECTING", "failed bob repaired", "CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CONNECTING > DISCONNECTING", "failed bob engine", "CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_connection", "CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["CONNECTING > DISCONNECTING", "failed bob remote_closed", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSING", "failed bob signaling_lost", "CloseEngine"],
    },
    Stage.ANSWERING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: ["ApplyCandidate"],
        Trigger.LOCAL_CANDIDATE: [],
        Trigger.LOCAL_ANSWER: ["send answer"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local"],
        Trigger.UNPAIRED: ["CONNECTING > DISCONNECTING", "failed bob remote_left", "CloseEngine"],
        Trigger.NOT_PAIRED: ["CONNECTING > DISCONNECTING", "failed bob not_paired", "CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CONNECTING > DISCONNECTING", "failed bob repaired", "CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CONNECTING > DISCONNECTING", "failed bob engine", "CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_connection", "CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["CONNECTING > DISCONNECTING", "failed bob remote_closed", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSING", "failed bob signaling_lost", "CloseEngine"],
    },
    Stage.OPENING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: ["ApplyCandidate"],
        Trigger.LOCAL_CANDIDATE: ["send candidate"],
        Trigger.CHANNEL_OPENED: ["CONNECTING > CONNECTED", "Connected bob"],
        Trigger.DISCONNECT: ["CONNECTING > DISCONNECTING", "failed bob local"],
        Trigger.UNPAIRED: ["CONNECTING > DISCONNECTING", "failed bob remote_left", "CloseEngine"],
        Trigger.NOT_PAIRED: ["CONNECTING > DISCONNECTING", "failed bob not_paired", "CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CONNECTING > DISCONNECTING", "failed bob repaired", "CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CONNECTING > DISCONNECTING", "failed bob engine", "CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CONNECTING > DISCONNECTING", "failed bob no_connection", "CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["CONNECTING > DISCONNECTING", "failed bob remote_closed", "send unpair"],
        Trigger.CLOSE: ["CONNECTING > CLOSING", "failed bob local", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["CONNECTING > CLOSING", "failed bob signaling_lost", "CloseEngine"],
    },
    Stage.CONNECTED: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: ["ApplyCandidate"],
        Trigger.LOCAL_CANDIDATE: ["send candidate"],
        Trigger.SEND: ["SendChannel"],
        Trigger.CHANNEL_RECEIVED: ["DataReceived"],
        Trigger.ACTIVITY: [],
        Trigger.DISCONNECT: ["CONNECTED > DISCONNECTING", "disconnected bob local", "CloseEngine", "send unpair"],
        Trigger.UNPAIRED: ["CONNECTED > DISCONNECTING", "disconnected bob remote_left", "CloseEngine"],
        Trigger.NOT_PAIRED: ["CONNECTED > DISCONNECTING", "disconnected bob not_paired", "CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CONNECTED > DISCONNECTING", "disconnected bob repaired", "CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CONNECTED > DISCONNECTING", "disconnected bob engine", "CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CONNECTED > DISCONNECTING", "disconnected bob silence", "CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["CONNECTED > DISCONNECTING", "disconnected bob remote_closed", "send unpair"],
        Trigger.CLOSE: ["CONNECTED > CLOSING", "disconnected bob local", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["SignalingLost"],
    },
    Stage.DETACHED: {
        Trigger.SEND: ["SendChannel"],
        Trigger.CHANNEL_RECEIVED: ["DataReceived"],
        Trigger.ACTIVITY: [],
        Trigger.DISCONNECT: ["CONNECTED > CLOSING", "disconnected bob local", "CloseEngine"],
        Trigger.ENGINE_FAILED: ["CONNECTED > CLOSING", "disconnected bob engine", "CloseEngine"],
        Trigger.ENGINE_CLOSED: ["CONNECTED > CLOSED", "disconnected bob remote_closed", "PeerClosed signaling_lost"],
        Trigger.EXPIRED: ["CONNECTED > CLOSING", "disconnected bob silence", "CloseEngine"],
        Trigger.CLOSE: ["CONNECTED > CLOSING", "disconnected bob local", "CloseEngine"],
    },
    Stage.PARTING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.CANDIDATE: [],
        Trigger.LOCAL_CANDIDATE: [],
        Trigger.OFFER: ["ApplyOffer"],
        Trigger.LOCAL_ANSWER: ["send answer"],
        Trigger.CHANNEL_OPENED: ["CloseEngine", "send unpair"],
        Trigger.UNPAIRED: ["CloseEngine"],
        Trigger.NOT_PAIRED: ["CloseEngine", "send unpair"],
        Trigger.PAIRED_OTHER: ["CloseEngine", "send unpair"],
        Trigger.ENGINE_FAILED: ["CloseEngine", "send unpair"],
        Trigger.EXPIRED: ["CloseEngine", "send unpair"],
        Trigger.ENGINE_CLOSED: ["send unpair"],
        Trigger.CLOSE: ["DISCONNECTING > CLOSING", "CloseEngine", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["DISCONNECTING > CLOSING", "CloseEngine"],
    },
    Stage.LEAVING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.UNPAIRED: [],
        Trigger.ENGINE_CLOSED: [],
        Trigger.EXPIRED: ["DISCONNECTING > ONLINE"],
        Trigger.CLOSE: ["DISCONNECTING > CLOSING", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["DISCONNECTING > CLOSING"],
    },
    Stage.DRAINING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.UNPAIRED: [],
        Trigger.ENGINE_CLOSED: ["DISCONNECTING > ONLINE"],
        Trigger.EXPIRED: ["DISCONNECTING > ONLINE"],
        Trigger.CLOSE: ["DISCONNECTING > CLOSING", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["DISCONNECTING > CLOSING"],
    },
    Stage.UNPAIRING: {
        Trigger.LIST_PEERS: ["send listPeers"],
        Trigger.PEER_LIST: ["PeersListed"],
        Trigger.UNPAIRED: ["DISCONNECTING > ONLINE"],
        Trigger.EXPIRED: ["DISCONNECTING > ONLINE"],
        Trigger.CLOSE: ["DISCONNECTING > CLOSING", "CloseSignaling"],
        Trigger.SIGNALING_CLOSED: ["DISCONNECTING > CLOSED", "PeerClosed signaling_lost"],
    },
    Stage.CLOSING: {
        Trigger.ENGINE_CLOSED: [],
        Trigger.SIGNALING_CLOSED: [],
        Trigger.SIGNALING_FAILED: [],
        Trigger.EXPIRED: ["CLOSING > CLOSED", "PeerClosed local"],
    },
    Stage.CLOSED: {},
}
"""What a peer puts out on each edge, when it comes by the way of `bring`."""

EDGES = [(stage, trigger) for stage, row in OUTCOMES.items() for trigger in row]
LISTS = {Trigger.LIST_PEERS, Trigger.PEER_LIST}
"""They run a timer of their own beside that of the stage; see test_peer.py."""
NO_EDGES = [
    (stage, trigger)
    for stage in Stage
    for trigger in Trigger
    if trigger not in TRANSITIONS[stage] and trigger is not Trigger.ALL_CLOSED
]


def bring_to(stage: Stage, trigger: Trigger) -> Driven:
    """A peer for which the trigger means what it says: the reply to a request needs the request."""
    driven = bring(stage)
    if trigger is Trigger.PEER_LIST and Trigger.LIST_PEERS in TRANSITIONS[stage]:
        driven.do(inputs.ListPeers())
    return driven


def test_every_edge_is_written_down() -> None:
    # ALL_CLOSED is what follows from the last of two reports; it has a test of its own below.
    assert {stage: set(row) for stage, row in OUTCOMES.items()} == {
        stage: set(row) - {Trigger.ALL_CLOSED} for stage, row in TRANSITIONS.items()
    }


@pytest.mark.parametrize(("stage", "trigger"), EDGES)
def test_edge(stage: Stage, trigger: Trigger) -> None:
    driven = bring_to(stage, trigger)
    driven.edges.clear()
    assert briefly(pull(driven, trigger)) == OUTCOMES[stage][trigger]
    assert driven.peer.stage is TRANSITIONS[stage][trigger]
    assert driven.edges == [(stage, trigger)]


@pytest.mark.parametrize(("stage", "trigger"), [edge for edge in EDGES if edge[1] not in LISTS])
def test_edge_and_deadline(stage: Stage, trigger: Trigger) -> None:
    """A stage brings its timer; a neighbour with the same timer goes on with the same run of it."""
    driven = bring(stage)
    if trigger is not Trigger.EXPIRED:
        driven.wait(1.0)
    before = driven.peer.deadline
    pull(driven, trigger)
    old, new = STAGE_TIMERS.get(stage), STAGE_TIMERS.get(driven.peer.stage)
    assert driven.peer.waiting_for is new
    if new is None:
        assert driven.peer.deadline is None
    elif new is old and trigger not in {Trigger.CHANNEL_RECEIVED, Trigger.ACTIVITY}:
        assert driven.peer.deadline == before
    else:
        assert driven.peer.deadline == driven.now + getattr(driven.peer.config, f"{new}_timeout")


@pytest.mark.parametrize("first", [Trigger.ENGINE_CLOSED, Trigger.SIGNALING_CLOSED, Trigger.SIGNALING_FAILED])
def test_edge_all_closed(first: Trigger) -> None:
    driven = bring(Stage.CLOSING)
    assert pull(driven, first) == []
    last = Trigger.SIGNALING_CLOSED if first is Trigger.ENGINE_CLOSED else Trigger.ENGINE_CLOSED
    assert briefly(pull(driven, last)) == ["CLOSING > CLOSED", "PeerClosed local"]
    assert driven.edges[-3:] == [(Stage.CLOSING, trigger) for trigger in (first, last, Trigger.ALL_CLOSED)]


@pytest.mark.parametrize(("stage", "trigger"), [pair for pair in NO_EDGES if pair[1] in COMMANDS])
def test_illegal_command_raises_and_changes_nothing(stage: Stage, trigger: Trigger) -> None:
    driven = bring(stage)
    before = driven.facts()
    with pytest.raises(LocalProtocolError, match=f"while {stage.value}") as raised:
        driven.peer.handle(COMMANDS[trigger], now=driven.now)
    assert driven.drain() == []
    assert driven.facts() == before
    for possible in (s for s in Stage if trigger in TRANSITIONS[s]):
        assert possible.value in raised.value.remedy


@pytest.mark.parametrize(("stage", "trigger"), [pair for pair in NO_EDGES if pair[1] in SIGNALS])
def test_illegal_signal_is_told_and_changes_nothing(stage: Stage, trigger: Trigger) -> None:
    driven = bring(stage)
    if trigger is Trigger.PAIRED_OTHER and driven.peer.remote_id is None:
        # There is no other peer than this one: it is PAIRED that has been pulled.
        assert stage in SILENT_STAGES | {Stage.ONLINE, Stage.LISTENING}
        return
    before = driven.facts()
    told = pull(driven, trigger)
    if stage in SILENT_STAGES:
        assert told == []
    else:
        (ignored,) = told
        assert isinstance(ignored, outputs.SignalIgnored)
        assert ignored.stage is stage
        assert ignored.detail
    assert driven.facts() == before


@pytest.mark.parametrize(
    ("stage", "trigger"), [pair for pair in NO_EDGES if pair[1] in LINK_REPORTS or pair[1] in ENGINE_REPORTS]
)
def test_illegal_report_is_dropped(stage: Stage, trigger: Trigger) -> None:
    driven = bring(stage)
    before = driven.facts()
    assert pull(driven, trigger) == []
    assert driven.facts() == before


@pytest.mark.parametrize("stage", [stage for stage, trigger in NO_EDGES if trigger is Trigger.EXPIRED])
def test_nothing_expires_where_nothing_is_due(stage: Stage) -> None:
    driven = bring(stage)
    assert driven.peer.deadline is None
    assert pull(driven, Trigger.EXPIRED) == []
    assert driven.peer.stage is stage


def test_every_pair_has_a_test() -> None:
    pulled = {*COMMANDS, *SIGNALS, *LINK_REPORTS, *ENGINE_REPORTS, Trigger.EXPIRED, Trigger.ALL_CLOSED}
    assert pulled == set(Trigger)
