"""Whatever comes, in whatever order: documented errors for commands, documented outputs, and every promise kept."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deepio_core import inputs, outputs
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.states import TRANSITIONS, PeerState, Stage, Trigger
from tests.core.peers import (
    ANSWERED,
    BAD_STATE,
    BOB,
    BUSY,
    CANDIDATE,
    CANDIDATE_MESSAGE,
    COMMANDS,
    EVE,
    NOT_FOUND,
    OFFERED,
    PEERS,
    UNPAIRED,
    Driven,
    bring,
    paired,
    pull,
)

EFFECTS = (
    outputs.OpenSignaling,
    outputs.SendSignaling,
    outputs.CloseSignaling,
    outputs.StartEngine,
    outputs.ApplyOffer,
    outputs.ApplyAnswer,
    outputs.ApplyCandidate,
    outputs.SendChannel,
    outputs.CloseEngine,
)

MESSAGES: list[Any] = [
    ANSWERED,
    BAD_STATE,
    BUSY,
    CANDIDATE_MESSAGE,
    NOT_FOUND,
    OFFERED,
    PEERS,
    UNPAIRED,
    paired(),
    paired(EVE),
    paired(""),
    {"candidate": None},
    {"renegotiate": True},
    {"type": "transceiverRequest", "transceiverRequest": {"kind": "audio"}},
]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
texts = (
    st.sampled_from(MESSAGES).map(json.dumps)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | json_values.map(json.dumps)
)
links = st.sampled_from([1, 1, 1, 1, 0, 2])
sdps = st.sampled_from([OFFERED["sdp"], ANSWERED["sdp"], "", "v=0"])
ahead = st.sampled_from([0, 0, 0, 0, -1, 1])
"""How far the number of a report is from the newest negotiation."""

commands = (
    st.sampled_from(list(COMMANDS.values()))
    | st.builds(inputs.Connect, remote_id=st.text(max_size=5))
    | st.builds(inputs.Send, data=json_values)
)
signaling = (
    st.builds(inputs.SignalingOpened, link=links)
    | st.builds(inputs.SignalingReceived, text=texts, link=links)
    | st.builds(inputs.SignalingFailed, cause=st.sampled_from(Cause), link=links)
    | st.builds(
        inputs.SignalingClosed, code=st.none() | st.integers(1000, 5000), reason=st.text(max_size=5), link=links
    )
)
reports = st.one_of(
    st.builds(lambda n, sdp: lambda now: inputs.LocalOffer(negotiation=now + n, sdp=sdp), ahead, sdps),
    st.builds(lambda n, sdp: lambda now: inputs.LocalAnswer(negotiation=now + n, sdp=sdp), ahead, sdps),
    st.builds(lambda n: lambda now: inputs.LocalCandidate(negotiation=now + n, candidate=CANDIDATE), ahead),
    st.builds(
        lambda n, size: lambda now: inputs.ChannelOpened(negotiation=now + n, max_message_size=size),
        ahead,
        st.none() | st.integers(0, 100_000),
    ),
    st.builds(lambda n, data: lambda now: inputs.ChannelReceived(negotiation=now + n, data=data), ahead, texts),
    st.builds(lambda n: lambda now: inputs.Activity(negotiation=now + n), ahead),
    st.builds(
        lambda n, cause: lambda now: inputs.EngineFailed(negotiation=now + n, cause=cause),
        ahead,
        st.sampled_from(Cause),
    ),
    st.builds(lambda n: lambda now: inputs.EngineClosed(negotiation=now + n), ahead),
)
pauses = st.sampled_from([0.0, 0.5, 3.0, 60.0, -100.0]) | st.floats(-10.0, 1e6)
steps = st.lists(commands | signaling | signaling | reports | pauses, max_size=40)


def take(driven: Driven, step: Any) -> list[outputs.PeerOutput]:
    """Take one step; only a command may raise, and then changes nothing."""
    if isinstance(step, float):
        return driven.wait(step)
    event = step(driven.peer.negotiation) if callable(step) else step
    before = driven.facts()
    try:
        return driven.do(event)
    except LocalProtocolError:
        assert isinstance(event, inputs.Command)
        assert driven.drain() == []
        assert driven.facts() == before
        return []


def check_grammar(log: list[outputs.PeerOutput]) -> None:
    """What an application may rely on, whatever happens."""
    states = [output for output in log if isinstance(output, outputs.StateChanged)]
    assert all(one.new is two.old for one, two in pairwise(states))
    connected: str | None = None
    running: int | None = None
    for output in log:
        match output:
            case outputs.Connected(remote_id=remote_id, negotiation=negotiation):
                assert connected is None
                assert running == negotiation
                connected = remote_id
            case outputs.Disconnected(remote_id=remote_id):
                assert connected == remote_id
                connected = None
            case outputs.DataReceived() | outputs.DataIgnored() | outputs.SendChannel() | outputs.SignalingLost():
                assert connected is not None
            case outputs.ConnectionFailed() | outputs.ConnectionRequested():
                assert connected is None
            case outputs.StartEngine(negotiation=negotiation):
                assert running is None or negotiation == running + 1
                running = negotiation
            case outputs.ApplyOffer() | outputs.ApplyAnswer() | outputs.ApplyCandidate() | outputs.CloseEngine():
                assert output.negotiation == running
            case _:
                pass
    assert len([output for output in log if isinstance(output, outputs.PeerClosed)]) <= 1
    for started in (output for output in log if isinstance(output, outputs.StartEngine)):
        closings = [o for o in log if isinstance(o, outputs.CloseEngine) and o.negotiation == started.negotiation]
        assert len(closings) <= 1


@given(stage=st.sampled_from(Stage), steps=steps)
def test_anything(stage: Stage, steps: list[Any]) -> None:
    driven = bring(stage)
    for step in steps:
        was = driven.peer.stage
        taken = take(driven, step)
        assert all(isinstance(output, EFFECTS + outputs.PeerEvent.__args__) for output in taken)
        if was is Stage.CLOSED:
            assert taken == []
            assert driven.peer.stage is Stage.CLOSED
        for output in taken:
            if isinstance(output, outputs.SendSignaling):
                assert isinstance(json.loads(output.text), dict)
    check_grammar(driven.log)
    # However it stands now, time and a last word end it.
    driven.wait(1e6)
    driven.wait(1e6)
    if driven.peer.state in {PeerState.ONLINE, PeerState.LISTENING}:
        driven.do(inputs.Close())
    for _ in range(3):
        driven.wait(1e6)
    assert driven.peer.ended
    check_grammar(driven.log)


@given(triggers=st.lists(st.sampled_from(Trigger), max_size=60))
def test_only_edges_of_the_table_are_taken(triggers: list[Trigger]) -> None:
    driven = Driven()
    for trigger in triggers:
        if trigger is Trigger.ALL_CLOSED:
            continue
        was, count = driven.peer.stage, len(driven.edges)
        try:
            pull(driven, trigger)
        except LocalProtocolError:
            assert trigger not in TRANSITIONS[was]
            assert driven.peer.stage is was
        for stage, taken in driven.edges[count:]:
            assert taken in TRANSITIONS[stage]
        if len(driven.edges) > count:
            last = driven.edges[-1]
            assert driven.peer.stage is TRANSITIONS[last[0]][last[1]]


@given(text=st.text() | st.binary(), stage=st.sampled_from(Stage))
def test_any_text_as_a_signal_is_told_or_dropped(text: str | bytes, stage: Stage) -> None:
    driven = bring(stage)
    before = driven.facts()
    for output in driven.do(inputs.SignalingReceived(text=text)):
        assert isinstance(output, outputs.SignalIgnored)
    assert driven.facts() == before


@given(text=st.text() | st.binary())
def test_any_text_as_data_is_received_or_told(text: str | bytes) -> None:
    driven = bring(Stage.CONNECTED)
    (output,) = driven.receive(text)
    assert isinstance(output, (outputs.DataReceived, outputs.DataIgnored))
    assert driven.peer.remote_id == BOB
