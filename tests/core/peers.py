"""Peers for tests: driven by public inputs only, into any stage, every promise of the contract checked on the way."""

import json
from collections.abc import Callable
from typing import Any, Final

from deepio_core import inputs, outputs, states
from deepio_core.config import PeerConfig
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.signals import Candidate
from deepio_core.states import PeerState, Stage, Trigger

ALICE: Final = "alice"
"""The peer under test."""
BOB: Final = "bob"
"""Its remote peer."""
EVE: Final = "eve"
"""Who interferes."""

CONFIG: Final = PeerConfig(peer_id=ALICE)

_HEAD: Final = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n"
_VIDEO: Final = "m=video 9 UDP/TLS/RTP/SAVPF 97\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=rtpmap:97 VP8/90000\r\n"
_DATA: Final = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sctp-port:5000\r\n"
_TRANSPORT: Final = "a=ice-ufrag:u\r\na=ice-pwd:p\r\na=fingerprint:sha-256 AB:CD\r\n"

OFFER: Final = f"{_HEAD}{_VIDEO}{_TRANSPORT}a=setup:actpass\r\n{_DATA}{_TRANSPORT}a=setup:actpass\r\n"
"""An offer of video and data, ours or the remote peer's."""
ANSWER: Final = OFFER.replace("actpass", "active")
"""The answer to it."""
OTHER_ANSWER: Final = f"{_HEAD}{_DATA}{_TRANSPORT}a=setup:active\r\n"
"""An answer to another offer: of data only."""

CANDIDATE_TEXT: Final = "candidate:1 1 udp 2130706431 192.0.2.1 50000 typ host"
CANDIDATE: Final = Candidate(candidate=CANDIDATE_TEXT, sdp_mid="0", sdp_mline_index=0)
CANDIDATE_MESSAGE: Final = {"candidate": {"candidate": CANDIDATE_TEXT, "sdpMLineIndex": 0, "sdpMid": "0"}}

LIST_PEERS: Final = {"type": "listPeers"}
READY: Final = {"type": "ready"}
UNPAIR: Final = {"type": "unpair"}
UNPAIRED: Final = {"type": "status", "status": "unpaired"}
NOT_FOUND: Final = {"type": "error", "code": "ERR_PEER_NOT_FOUND", "message": "Remote peer does not exists!"}
BUSY: Final = {"type": "error", "code": "ERR_PEER_BUSY", "message": "Remote peer is busy!"}
BAD_STATE: Final = {"type": "error", "code": "ERR_BAD_STATE", "message": "Cannot forward message!"}
PEERS: Final = {"type": "peers", "peers": [{"id": BOB, "type": "stream_manager", "busy": False}]}
OFFERED: Final = {"type": "offer", "sdp": OFFER}
ANSWERED: Final = {"type": "answer", "sdp": ANSWER}

SILENT_STAGES: Final = frozenset({Stage.STARTING, Stage.DETACHED, Stage.CLOSING, Stage.CLOSED})
"""Without a signaling connection to hear anything from."""
RESTING_STATES: Final = frozenset({PeerState.ONLINE, PeerState.LISTENING, PeerState.CONNECTED, PeerState.CLOSED})
"""Where nothing is due from anybody. All others are waiting states."""


def pair(remote_id: str = BOB) -> dict[str, str]:
    """The request to be paired."""
    return {"type": "pair", "remotePeerId": remote_id}


def paired(remote_id: str = BOB) -> dict[str, str]:
    """The server's word that two peers are paired."""
    return {"type": "status", "status": "paired", "remotePeerId": remote_id}


class Driven:
    """A peer, its clock, and all that it has put out so far."""

    def __init__(
        self, config: PeerConfig = CONFIG, *, now: float = 0.0, link: int = 1, first_negotiation: int = 1
    ) -> None:
        self.now = now
        self.edges: list[tuple[Stage, Trigger]] = []
        """Every edge taken so far."""
        self.peer = Peer(
            config,
            now=now,
            link=link,
            first_negotiation=first_negotiation,
            observer=lambda stage, trigger: self.edges.append((stage, trigger)),
        )
        self.log: list[outputs.PeerOutput] = []
        """Everything since the beginning."""
        self.drain()

    def drain(self) -> list[outputs.PeerOutput]:
        """Take what the peer has to say, and check what it promises at any time."""
        taken: list[outputs.PeerOutput] = []
        while (output := self.peer.poll()) is not None:
            taken.append(output)
        self.log += taken
        check_promises(self.peer)
        return taken

    def do(self, event: inputs.PeerInput) -> list[outputs.PeerOutput]:
        """Put one input in, now."""
        self.peer.handle(event, now=self.now)
        return self.drain()

    def hear(self, message: Any) -> list[outputs.PeerOutput]:
        """Let the server send a message."""
        return self.do(inputs.SignalingReceived(text=json.dumps(message), link=self.peer.link))

    def wait(self, seconds: float) -> list[outputs.PeerOutput]:
        """Let time pass."""
        self.now += seconds
        self.peer.handle_timeout(now=self.now)
        return self.drain()

    def expire(self) -> list[outputs.PeerOutput]:
        """Let time pass until the deadline."""
        deadline = self.peer.deadline
        assert deadline is not None
        return self.wait(deadline - self.now)

    # Reports of the engine at hand.

    def make_offer(self, sdp: str = OFFER) -> list[outputs.PeerOutput]:
        return self.do(inputs.LocalOffer(negotiation=self.peer.negotiation, sdp=sdp))

    def make_answer(self, sdp: str = ANSWER) -> list[outputs.PeerOutput]:
        return self.do(inputs.LocalAnswer(negotiation=self.peer.negotiation, sdp=sdp))

    def open_channel(self, max_message_size: int | None = None) -> list[outputs.PeerOutput]:
        return self.do(inputs.ChannelOpened(negotiation=self.peer.negotiation, max_message_size=max_message_size))

    def receive(self, data: str | bytes) -> list[outputs.PeerOutput]:
        return self.do(inputs.ChannelReceived(negotiation=self.peer.negotiation, data=data))

    def close_engine(self) -> list[outputs.PeerOutput]:
        return self.do(inputs.EngineClosed(negotiation=self.peer.negotiation))

    # What is left behind.

    @property
    def sent(self) -> list[Any]:
        """Every signaling message so far, decoded."""
        return [json.loads(output.text) for output in self.log if isinstance(output, outputs.SendSignaling)]

    def told(self, kind: type) -> list[Any]:
        """Every output of one type so far."""
        return [output for output in self.log if isinstance(output, kind)]

    def facts(self) -> tuple[Any, ...]:
        """All that can be seen of the peer, and how many edges it has taken."""
        peer = self.peer
        seen = (peer.state, peer.stage, peer.remote_id, peer.negotiation, peer.deadline, peer.waiting_for, peer.ended)
        return (*seen, len(self.edges))


def check_promises(peer: Peer) -> None:
    """What holds after every input, once the outputs are drained."""
    assert peer.poll() is None
    assert peer.state is states.STATE_OF[peer.stage]
    assert peer.ended is (peer.stage is Stage.CLOSED)
    assert (peer.deadline is None) is (peer.waiting_for is None)
    if peer.state not in RESTING_STATES:
        assert peer.deadline is not None, f"{peer.stage} waits for ever"
    if peer.ended:
        assert peer.deadline is None
        assert peer.remote_id is None


def brief(output: outputs.PeerOutput) -> str:
    """An output in a few words, in the order of the fields that matter."""
    match output:
        case outputs.SendSignaling(text=text):
            message = json.loads(text)
            kind = message.get("type", "candidate")
            return f"send {kind} {message['remotePeerId']}" if kind == "pair" else f"send {kind}"
        case outputs.StateChanged(old=old, new=new):
            return f"{old.name} > {new.name}"
        case outputs.ConnectionFailed(remote_id=remote_id, cause=cause):
            return f"failed {remote_id} {cause}"
        case outputs.Disconnected(remote_id=remote_id, cause=cause):
            return f"disconnected {remote_id} {cause}"
        case outputs.PeersNotListed(cause=cause) | outputs.PeerClosed(cause=cause):
            return f"{type(output).__name__} {cause}"
        case outputs.StartEngine(remote_id=remote_id, offerer=offerer):
            return f"StartEngine {remote_id} {'offers' if offerer else 'answers'}"
        case outputs.ConnectionRequested(remote_id=remote_id) | outputs.Connected(remote_id=remote_id):
            return f"{type(output).__name__} {remote_id}"
        case _:
            return type(output).__name__


def briefly(taken: list[outputs.PeerOutput]) -> list[str]:
    """Several of them."""
    return [brief(output) for output in taken]


# --- Into any stage --------------------------------------------------------------------------------------------


def online(config: PeerConfig = CONFIG, *, link: int = 1, first_negotiation: int = 1) -> Driven:
    """A peer that is connected to the server."""
    driven = Driven(config, link=link, first_negotiation=first_negotiation)
    driven.do(inputs.SignalingOpened(link=driven.peer.link))
    return driven


def called(config: PeerConfig = CONFIG) -> Driven:
    """A peer that another one has called, and that has accepted: it makes the offer."""
    driven = online(config)
    driven.do(inputs.Listen())
    driven.hear(paired())
    driven.do(inputs.Accept())
    return driven


def calling(config: PeerConfig = CONFIG) -> Driven:
    """A peer that has called another one: it awaits the offer."""
    driven = online(config)
    driven.do(inputs.Connect(remote_id=BOB))
    driven.hear(paired())
    return driven


def connected(config: PeerConfig = CONFIG) -> Driven:
    """A caller with an open data channel."""
    driven = calling(config)
    driven.hear(OFFERED)
    driven.make_answer()
    driven.open_channel()
    return driven


def _starting() -> Driven:
    return Driven()


def _listening() -> Driven:
    driven = online()
    driven.do(inputs.Listen())
    return driven


def _pairing() -> Driven:
    driven = online()
    driven.do(inputs.Connect(remote_id=BOB))
    return driven


def _overtaken() -> Driven:
    driven = _pairing()
    driven.hear(paired(EVE))
    return driven


def _invited() -> Driven:
    driven = _listening()
    driven.hear(paired())
    return driven


def _awaiting_answer() -> Driven:
    driven = called()
    driven.make_offer()
    return driven


def _answering() -> Driven:
    driven = calling()
    driven.hear(OFFERED)
    return driven


def _opening() -> Driven:
    driven = _answering()
    driven.make_answer()
    return driven


def _detached() -> Driven:
    driven = connected()
    driven.do(inputs.SignalingClosed(code=1006))
    return driven


def _parting() -> Driven:
    driven = calling()
    driven.do(inputs.Disconnect())
    return driven


def _leaving() -> Driven:
    driven = connected()
    driven.do(inputs.Disconnect())
    return driven


def _draining() -> Driven:
    driven = connected()
    driven.hear(UNPAIRED)
    return driven


def _unpairing() -> Driven:
    driven = connected()
    driven.close_engine()
    return driven


def _closing() -> Driven:
    driven = connected()
    driven.do(inputs.Close())
    return driven


def _closed() -> Driven:
    driven = online()
    driven.do(inputs.SignalingClosed(code=1006))
    return driven


_WAYS: Final[dict[Stage, Callable[[], Driven]]] = {
    Stage.STARTING: _starting,
    Stage.ONLINE: online,
    Stage.LISTENING: _listening,
    Stage.PAIRING: _pairing,
    Stage.OVERTAKEN: _overtaken,
    Stage.INVITED: _invited,
    Stage.OFFERING: called,
    Stage.AWAITING_ANSWER: _awaiting_answer,
    Stage.AWAITING_OFFER: calling,
    Stage.ANSWERING: _answering,
    Stage.OPENING: _opening,
    Stage.CONNECTED: connected,
    Stage.DETACHED: _detached,
    Stage.PARTING: _parting,
    Stage.LEAVING: _leaving,
    Stage.DRAINING: _draining,
    Stage.UNPAIRING: _unpairing,
    Stage.CLOSING: _closing,
    Stage.CLOSED: _closed,
}


def bring(stage: Stage) -> Driven:
    """A peer in a stage, on the way that a session takes; its engine and its link are open where they can be."""
    driven = _WAYS[stage]()
    assert driven.peer.stage is stage
    return driven


# --- Every trigger as an input ---------------------------------------------------------------------------------

COMMANDS: Final[dict[Trigger, inputs.Command]] = {
    Trigger.LIST_PEERS: inputs.ListPeers(),
    Trigger.LISTEN: inputs.Listen(),
    Trigger.CONNECT: inputs.Connect(remote_id=BOB),
    Trigger.ACCEPT: inputs.Accept(),
    Trigger.DISCONNECT: inputs.Disconnect(),
    Trigger.SEND: inputs.Send(data={"type": "metadata", "metadata": None}),
    Trigger.CLOSE: inputs.Close(),
}

SIGNALS: Final[dict[Trigger, dict[str, Any]]] = {
    Trigger.PEER_LIST: PEERS,
    Trigger.PAIRED: paired(),
    Trigger.PAIRED_OTHER: paired(EVE),
    Trigger.PAIR_REFUSED: BUSY,
    Trigger.NOT_PAIRED: BAD_STATE,
    Trigger.UNPAIRED: UNPAIRED,
    Trigger.OFFER: OFFERED,
    Trigger.ANSWER: ANSWERED,
    Trigger.CANDIDATE: CANDIDATE_MESSAGE,
}

LINK_REPORTS: Final[dict[Trigger, inputs.SignalingInput]] = {
    Trigger.SIGNALING_OPENED: inputs.SignalingOpened(),
    Trigger.SIGNALING_FAILED: inputs.SignalingFailed(cause=Cause.UNREACHABLE),
    Trigger.SIGNALING_CLOSED: inputs.SignalingClosed(code=1006),
}

ENGINE_REPORTS: Final[dict[Trigger, Callable[[int], inputs.EngineReport]]] = {
    Trigger.LOCAL_OFFER: lambda number: inputs.LocalOffer(negotiation=number, sdp=OFFER),
    Trigger.LOCAL_ANSWER: lambda number: inputs.LocalAnswer(negotiation=number, sdp=ANSWER),
    Trigger.LOCAL_CANDIDATE: lambda number: inputs.LocalCandidate(negotiation=number, candidate=CANDIDATE),
    Trigger.CHANNEL_OPENED: lambda number: inputs.ChannelOpened(negotiation=number),
    Trigger.CHANNEL_RECEIVED: lambda number: inputs.ChannelReceived(negotiation=number, data='{"type":"data"}'),
    Trigger.ACTIVITY: lambda number: inputs.Activity(negotiation=number),
    Trigger.ENGINE_FAILED: lambda number: inputs.EngineFailed(negotiation=number, cause=Cause.ENGINE),
    Trigger.ENGINE_CLOSED: lambda number: inputs.EngineClosed(negotiation=number),
}


def pull(driven: Driven, trigger: Trigger) -> list[outputs.PeerOutput]:
    """Pull a trigger as the outside does; commands raise as they do for an application."""
    if trigger in COMMANDS:
        return driven.do(COMMANDS[trigger])
    if trigger in SIGNALS:
        return driven.hear(SIGNALS[trigger])
    if trigger in LINK_REPORTS:
        return driven.do(LINK_REPORTS[trigger])
    if trigger in ENGINE_REPORTS:
        return driven.do(ENGINE_REPORTS[trigger](driven.peer.negotiation))
    assert trigger is Trigger.EXPIRED, "ALL_CLOSED is pulled by the last of two reports"
    return driven.expire() if driven.peer.deadline is not None else driven.wait(1e6)
