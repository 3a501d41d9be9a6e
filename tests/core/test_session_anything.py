"""Whatever comes to a session, in whatever order and at whatever time: documented outputs, and always a way on."""

import json
import typing
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deepio_core import inputs, outputs
from deepio_core.errors import LocalProtocolError
from deepio_core.messages import DataMessage
from deepio_core.outputs import Cause
from deepio_core.session import (
    REMEDIES,
    MessageReceived,
    SendMessage,
    SendMetadata,
    SessionEnded,
    SessionEvent,
    SessionOutput,
    Stop,
)
from deepio_core.states import Stage
from tests.core.peers import ANSWER, OFFER, PEERS
from tests.core.sessions import CALLS, LISTENS, SEEKS, DrivenSession, endure
from tests.core.test_peer_anything import MESSAGES, json_values, reports, texts

DOCUMENTED: tuple[type, ...] = (*typing.get_args(outputs.Effect), *typing.get_args(SessionEvent))

COMMANDS = (SendMessage, SendMetadata)
"""The inputs that may raise."""

Step = Any
"""An input, a function from the session to one, or seconds to wait; None: until the deadline."""

messages = st.sampled_from(
    [{"type": "data", "rec_time": 1.5}, {"type": "data"}, {"type": "warning", "messagge": "late"}, {"type": "x"}, []]
)
commands = (
    st.builds(lambda data: SendMessage(message=data), json_values)
    | st.builds(lambda data: SendMetadata(metadata=data), json_values)
    | st.sampled_from([Stop(), SendMetadata(metadata={"place": "gate"})])
)
strange = st.one_of(
    st.builds(lambda text: lambda driven: inputs.SignalingReceived(text=text, link=driven.link), texts),
    st.builds(lambda report: lambda driven: report(driven.negotiation), reports),
    st.builds(
        lambda cause, off: lambda driven: inputs.SignalingFailed(link=driven.link + off, cause=cause),
        st.sampled_from(Cause),
        st.sampled_from([0, 0, -1, 1]),
    ),
    st.builds(
        lambda code, off: lambda driven: inputs.SignalingClosed(link=driven.link + off, code=code),
        st.sampled_from([None, 1000, 1005, 1006, 4400, 4401, 4409, 4503]),
        st.sampled_from([0, 0, -1, 1]),
    ),
)
# What a session meets as a rule; without these few sequences would get far.
likely = st.one_of(
    st.just(lambda driven: inputs.SignalingOpened(link=driven.link)),
    st.builds(
        lambda message: lambda driven: inputs.SignalingReceived(text=json.dumps(message), link=driven.link),
        st.sampled_from([PEERS, *MESSAGES]),
    ),
    st.just(lambda driven: inputs.LocalOffer(negotiation=driven.negotiation, sdp=OFFER)),
    st.just(lambda driven: inputs.LocalAnswer(negotiation=driven.negotiation, sdp=ANSWER)),
    st.just(lambda driven: inputs.ChannelOpened(negotiation=driven.negotiation)),
    st.just(lambda driven: inputs.EngineClosed(negotiation=driven.negotiation)),
    st.builds(
        lambda message: lambda driven: inputs.ChannelReceived(negotiation=driven.negotiation, data=json.dumps(message)),
        messages,
    ),
)
pauses = st.none() | st.sampled_from([0.0, 0.5, 3.0, 60.0, -100.0]) | st.floats(-10.0, 1e6)
steps = st.lists(likely | likely | likely | strange | commands | pauses, max_size=50)
configs = st.sampled_from([CALLS, SEEKS, LISTENS, endure(CALLS), endure(LISTENS)])


def take(driven: DrivenSession, step: Step) -> list[SessionOutput]:
    """Take one step; only a command may raise, and then changes nothing."""
    if step is None:
        return driven.expire() if driven.session.deadline is not None else []
    if isinstance(step, float):
        return driven.wait(step)
    event = step(driven) if callable(step) else step
    before = driven.facts()
    try:
        return driven.do(event)
    except LocalProtocolError:
        assert isinstance(event, COMMANDS)
        assert driven.drain() == []
        assert driven.facts() == before
        return []


def check_grammar(log: list[SessionOutput]) -> None:
    """What an application may rely on, whatever happens."""
    changes = [output for output in log if isinstance(output, outputs.StateChanged)]
    assert all(one.new is two.old for one, two in pairwise(changes))
    ends = [output for output in log if isinstance(output, SessionEnded)]
    if ends:
        assert ends == [log[-1]]
        assert ends[0].cause in REMEDIES
    connected = False
    for before, output in pairwise([None, *log]):
        match output:
            case outputs.Connected():
                assert not connected
                connected = True
            case outputs.Disconnected():
                assert connected
                connected = False
            case outputs.SendChannel():
                assert connected
            case MessageReceived(message=DataMessage(rec_time=float())):
                assert connected
                assert isinstance(before, outputs.SendChannel)
                assert json.loads(before.text)["type"] == "acknowledge"
            case MessageReceived():
                assert connected
            case _:
                pass


@given(config=configs, steps=steps, numbers=st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=1, max_size=5))
def test_anything(config: Any, steps: list[Step], numbers: list[float]) -> None:
    turn = iter(range(10**9))
    driven = DrivenSession(config, random=lambda: numbers[next(turn) % len(numbers)])
    for step in steps:
        was_over = driven.session.ended
        taken = take(driven, step)
        assert all(isinstance(output, DOCUMENTED) for output in taken)
        assert not (was_over and taken)
    check_grammar(driven.log)
    # However it stands now, it can be ended, and whoever answers or not, that does not take long.
    driven.do(Stop())
    for _ in range(12):
        if not driven.session.ended:
            driven.expire()
    assert driven.session.ended
    check_grammar(driven.log)


def tries(taken: list[SessionOutput]) -> bool:
    """Whether the outputs ask the outside for a connection of any kind."""
    return any(
        isinstance(output, outputs.OpenSignaling)
        or (isinstance(output, outputs.SendSignaling) and json.loads(output.text)["type"] in {"pair", "listPeers"})
        for output in taken
    )


@given(config=configs, steps=steps.map(lambda steps: [step for step in steps if not isinstance(step, Stop)]))
def test_it_tries_again_as_long_as_nothing_ends_it(config: Any, steps: list[Step]) -> None:
    """After any mishap the next attempt comes, if only time passes: at most two stages and a delay lie before it."""
    driven = DrivenSession(config)
    for step in steps:
        take(driven, step)
    for _ in range(5):
        if driven.session.ended or driven.session.stage is Stage.LISTENING:
            return
        if driven.session.deadline is None:
            driven.close_engine()  # nothing else ends a session that no silence ends
        elif tries(driven.expire()):
            return
    raise AssertionError(f"stuck in {driven.session.stage}, waiting for {driven.session.waiting_for}")
