"""Sessions for tests: driven by public inputs only, every promise of the contract checked on the way."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from deepio_core import inputs, outputs, states
from deepio_core.policy import ConnectFirst, ConnectTo, ListenForCallers, Policy, SessionConfig
from deepio_core.session import MessageReceived, Retrying, Session, SessionEnded, SessionInput, SessionOutput, Stop
from deepio_core.states import PeerState, Stage
from tests.core.peers import ANSWER, BOB, CONFIG, EVE, OFFER, OFFERED, UNPAIRED, brief, paired

CALLS: Final = SessionConfig(peer=CONFIG, policy=ConnectTo(remote_id=BOB))
"""Calls Bob."""
SEEKS: Final = SessionConfig(peer=CONFIG, policy=ConnectFirst())
"""Calls the first that is free."""
LISTENS: Final = SessionConfig(peer=CONFIG, policy=ListenForCallers())
"""Lets others call."""

MIDDLE: Final = 0.5
"""What the injected random gives, unless a test says otherwise: delays are three quarters of the longest then."""


def with_policy(policy: Policy) -> SessionConfig:
    """The settings, with a policy."""
    return SessionConfig(peer=CONFIG, policy=policy)


class DrivenSession:
    """A session, its clock, and all that it has put out so far."""

    def __init__(
        self, config: SessionConfig = CALLS, *, now: float = 0.0, random: Callable[[], float] = lambda: MIDDLE
    ) -> None:
        self.now = now
        self.session = Session(config, now=now, random=random)
        self.log: list[SessionOutput] = []
        """Everything since the beginning."""
        self.link = 0
        """Number of the newest signaling connection."""
        self.negotiation = 0
        """Number of the newest negotiation."""
        self.drain()

    def drain(self) -> list[SessionOutput]:
        """Take what the session has to say, and check what it promises at any time."""
        taken: list[SessionOutput] = []
        while (output := self.session.poll()) is not None:
            assert not any(isinstance(before, SessionEnded) for before in (*self.log[-1:], *taken)), (
                "the end is the last"
            )
            taken.append(output)
            match output:
                case outputs.OpenSignaling(link=link):
                    assert link == self.link + 1
                    self.link = link
                case outputs.StartEngine(negotiation=negotiation):
                    assert negotiation == self.negotiation + 1
                    self.negotiation = negotiation
                case _:
                    pass
        self.log += taken
        check_promises(self.session)
        return taken

    def do(self, event: SessionInput) -> list[SessionOutput]:
        """Put one input in, now."""
        self.session.handle(event, now=self.now)
        return self.drain()

    def open(self) -> list[SessionOutput]:
        """Let the signaling connection open."""
        return self.do(inputs.SignalingOpened(link=self.link))

    def fail(self, cause: outputs.Cause) -> list[SessionOutput]:
        """Let the signaling connection not come about."""
        return self.do(inputs.SignalingFailed(link=self.link, cause=cause, detail="because"))

    def lose(self, code: int | None = 1006) -> list[SessionOutput]:
        """Let the signaling connection end."""
        return self.do(inputs.SignalingClosed(link=self.link, code=code))

    def hear(self, message: Any) -> list[SessionOutput]:
        """Let the server send a message."""
        return self.do(inputs.SignalingReceived(text=json.dumps(message), link=self.link))

    def wait(self, seconds: float) -> list[SessionOutput]:
        """Let time pass."""
        self.now += seconds
        self.session.handle_timeout(now=self.now)
        return self.drain()

    def expire(self) -> list[SessionOutput]:
        """Let time pass until the deadline."""
        deadline = self.session.deadline
        assert deadline is not None
        return self.wait(deadline - self.now)

    # Reports of the engine at hand.

    def make_offer(self) -> list[SessionOutput]:
        return self.do(inputs.LocalOffer(negotiation=self.negotiation, sdp=OFFER))

    def make_answer(self) -> list[SessionOutput]:
        return self.do(inputs.LocalAnswer(negotiation=self.negotiation, sdp=ANSWER))

    def open_channel(self, max_message_size: int | None = None) -> list[SessionOutput]:
        return self.do(inputs.ChannelOpened(negotiation=self.negotiation, max_message_size=max_message_size))

    def receive(self, message: Any) -> list[SessionOutput]:
        return self.do(inputs.ChannelReceived(negotiation=self.negotiation, data=json.dumps(message)))

    def fail_engine(self, cause: outputs.Cause) -> list[SessionOutput]:
        return self.do(inputs.EngineFailed(negotiation=self.negotiation, cause=cause, detail="because"))

    def close_engine(self) -> list[SessionOutput]:
        return self.do(inputs.EngineClosed(negotiation=self.negotiation))

    # Several steps at once.

    def answer(self) -> list[SessionOutput]:
        """From the pairing that was asked for to the open data channel."""
        return [*self.hear(paired()), *self.hear(OFFERED), *self.make_answer(), *self.open_channel()]

    def leave(self) -> list[SessionOutput]:
        """The remote peer leaves."""
        return [*self.hear(UNPAIRED), *self.close_engine()]

    # What is left behind.

    def told(self, kind: type) -> list[Any]:
        """Every output of one type so far."""
        return [output for output in self.log if isinstance(output, kind)]

    @property
    def sent(self) -> list[Any]:
        """Every message of the data channel so far, decoded."""
        return [json.loads(output.text) for output in self.told(outputs.SendChannel)]

    def facts(self) -> tuple[Any, ...]:
        """All that can be seen of the session."""
        session = self.session
        return (
            *(session.state, session.stage, session.remote_id, session.ended),
            *(session.deadline, session.waiting_for, session.metadata),
        )


def check_promises(session: Session) -> None:
    """What holds after every input, once the outputs are drained."""
    assert session.poll() is None
    assert session.state is states.STATE_OF[session.stage]
    assert (session.deadline is None) is (session.waiting_for is None)
    if session.ended:
        assert session.deadline is None
        assert session.state is PeerState.CLOSED
    elif session.deadline is None:
        silent = session.state is PeerState.CONNECTED and session.config.peer.silence_timeout is None
        assert silent or session.stage is Stage.LISTENING, f"{session.stage} waits for ever"


def in_brief(taken: list[SessionOutput]) -> list[str]:
    """Outputs in a few words each."""
    return [_brief(output) for output in taken]


def _brief(output: SessionOutput) -> str:
    match output:
        case Retrying(cause=cause, delay=delay, attempt=attempt):
            return f"retrying {cause} {delay:g} {attempt}"
        case SessionEnded(cause=cause):
            return f"ended {cause}"
        case MessageReceived(message=message):
            return type(message).__name__
        case outputs.SendChannel(text=text):
            return f"say {json.loads(text)['type']}"
        case _:
            return brief(output)  # type: ignore[arg-type]  # what is left of a session's outputs is its peer's


# --- Into any stage --------------------------------------------------------------------------------------------


def online(config: SessionConfig = CALLS) -> DrivenSession:
    """A session with an open signaling connection, doing what its policy says."""
    driven = DrivenSession(config)
    driven.open()
    return driven


def connected(config: SessionConfig = CALLS) -> DrivenSession:
    """A session that has called, with an open data channel."""
    driven = online(config)
    driven.answer()
    return driven


def called(config: SessionConfig = LISTENS) -> DrivenSession:
    """A session that was called, with an open data channel."""
    driven = online(config)
    driven.hear(paired())
    driven.make_offer()
    driven.hear({"type": "answer", "sdp": ANSWER})
    driven.open_channel()
    return driven


def _overtaken() -> DrivenSession:
    driven = online()
    driven.hear(paired(EVE))
    return driven


def _offering() -> DrivenSession:
    driven = online(LISTENS)
    driven.hear(paired())
    return driven


def _awaiting_answer() -> DrivenSession:
    driven = _offering()
    driven.make_offer()
    return driven


def _awaiting_offer() -> DrivenSession:
    driven = online()
    driven.hear(paired())
    return driven


def _answering() -> DrivenSession:
    driven = _awaiting_offer()
    driven.hear(OFFERED)
    return driven


def _opening() -> DrivenSession:
    driven = _answering()
    driven.make_answer()
    return driven


def _detached() -> DrivenSession:
    driven = connected()
    driven.lose()
    return driven


def _leaving() -> DrivenSession:
    driven = connected()
    driven.fail_engine(outputs.Cause.ENGINE)
    return driven


def _draining() -> DrivenSession:
    driven = connected()
    driven.hear(UNPAIRED)
    return driven


def _unpairing() -> DrivenSession:
    driven = connected()
    driven.close_engine()
    return driven


def _parting() -> DrivenSession:
    driven = _opening()
    driven.do(Stop())
    return driven


def _closing() -> DrivenSession:
    driven = DrivenSession()
    driven.expire()
    return driven


def _closed() -> DrivenSession:
    driven = online()
    driven.lose()
    return driven


_WAYS: Final[dict[Stage, Callable[[], DrivenSession]]] = {
    Stage.STARTING: DrivenSession,
    Stage.ONLINE: lambda: online(SEEKS),
    Stage.LISTENING: lambda: online(LISTENS),
    Stage.PAIRING: online,
    Stage.OVERTAKEN: _overtaken,
    Stage.OFFERING: _offering,
    Stage.AWAITING_ANSWER: _awaiting_answer,
    Stage.AWAITING_OFFER: _awaiting_offer,
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
"""Not INVITED: a session accepts at once."""

STAGES: Final = tuple(_WAYS)
"""The stages in which a session can rest."""


def bring(stage: Stage) -> DrivenSession:
    """A session in a stage, on a way that it takes by itself."""
    driven = _WAYS[stage]()
    assert driven.session.stage is stage
    return driven


def endure(config: SessionConfig) -> SessionConfig:
    """The settings, without a limit of silence."""
    return replace(config, peer=replace(config.peer, silence_timeout=None))
