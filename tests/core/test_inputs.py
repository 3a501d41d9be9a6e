"""What goes into a peer: complete, immutable, and silent about secrets."""

import typing

import pytest

from deepio_core import inputs
from deepio_core.outputs import Cause
from tests.core.peers import BOB, CANDIDATE, Driven
from tests.core.vocabulary import check_dataclass, dataclasses_of, undocumented_fields


@pytest.mark.parametrize("kind", dataclasses_of(inputs), ids=lambda kind: kind.__name__)
def test_every_input_is_a_good_dataclass(kind: type) -> None:
    check_dataclass(kind)


def test_every_field_is_documented() -> None:
    assert list(undocumented_fields(inputs)) == []


def test_the_union_holds_them_all() -> None:
    assert set(typing.get_args(inputs.PeerInput)) == set(dataclasses_of(inputs))
    parts = (inputs.Command, inputs.SignalingInput, inputs.EngineReport)
    assert sum(len(typing.get_args(part)) for part in parts) == len(dataclasses_of(inputs))


def test_a_peer_takes_every_input() -> None:
    examples: list[inputs.SignalingInput | inputs.EngineReport] = [
        inputs.SignalingOpened(),
        inputs.SignalingReceived(text=b""),
        inputs.SignalingFailed(cause=Cause.UNREACHABLE),
        inputs.SignalingClosed(),
        inputs.LocalOffer(negotiation=1, sdp=""),
        inputs.LocalAnswer(negotiation=1, sdp=""),
        inputs.LocalCandidate(negotiation=1, candidate=CANDIDATE),
        inputs.ChannelOpened(negotiation=1),
        inputs.ChannelReceived(negotiation=1, data=""),
        inputs.Activity(negotiation=1),
        inputs.EngineFailed(negotiation=1, cause=Cause.ENGINE),
        inputs.EngineClosed(negotiation=1),
    ]
    driven = Driven()
    for example in examples:
        driven.do(example)
    commands = set(typing.get_args(inputs.Command))
    assert {type(example) for example in examples} == set(typing.get_args(inputs.PeerInput)) - commands


@pytest.mark.parametrize(
    "secret",
    [
        inputs.SignalingReceived(text="SECRET"),
        inputs.LocalOffer(negotiation=1, sdp="SECRET"),
        inputs.LocalAnswer(negotiation=1, sdp="SECRET"),
    ],
)
def test_descriptions_are_not_shown(secret: inputs.PeerInput) -> None:
    assert "SECRET" not in repr(secret)


def test_inputs_compare_by_value() -> None:
    assert inputs.Connect(remote_id=BOB) == inputs.Connect(remote_id="bob")
    assert len({inputs.Listen(), inputs.Listen(), inputs.Close()}) == 2
