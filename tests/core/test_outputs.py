"""What comes out of a peer: complete, immutable, and silent about secrets."""

import typing

import pytest

from deepio_core import outputs
from deepio_core.outputs import Cause
from deepio_core.states import PeerState, Stage
from tests.core.vocabulary import check_dataclass, dataclasses_of, undocumented_fields


@pytest.mark.parametrize("kind", dataclasses_of(outputs), ids=lambda kind: kind.__name__)
def test_every_output_is_a_good_dataclass(kind: type) -> None:
    check_dataclass(kind)


def test_every_field_is_documented() -> None:
    assert list(undocumented_fields(outputs)) == []


def test_the_unions_hold_them_all() -> None:
    effects, events = set(typing.get_args(outputs.Effect)), set(typing.get_args(outputs.PeerEvent))
    assert effects | events == set(typing.get_args(outputs.PeerOutput)) == set(dataclasses_of(outputs))
    assert not effects & events


@pytest.mark.parametrize(
    "secret",
    [
        outputs.SendSignaling(link=1, text="SECRET"),
        outputs.ApplyOffer(negotiation=1, sdp="SECRET"),
        outputs.ApplyAnswer(negotiation=1, sdp="SECRET"),
    ],
)
def test_descriptions_are_not_shown(secret: outputs.Effect) -> None:
    assert "SECRET" not in repr(secret)


def test_causes_are_words() -> None:
    assert all(str(cause) == cause.name.lower() for cause in Cause)


def test_outputs_compare_by_value() -> None:
    changed = outputs.StateChanged(old=PeerState.ONLINE, new=PeerState.LISTENING)
    assert changed == outputs.StateChanged(old=PeerState.ONLINE, new=PeerState.LISTENING)
    assert outputs.SignalIgnored(stage=Stage.ONLINE, detail="x") != outputs.SignalIgnored(
        stage=Stage.LISTENING, detail="x"
    )
    assert outputs.CloseSignaling(link=1) == outputs.CloseSignaling(link=1, code=1000, reason="")
