"""Settings of a peer: their defaults, and what is no setting."""

import dataclasses
import math
from typing import Any

import pytest

from deepio_core import config
from deepio_core.config import PeerConfig, positive
from deepio_core.errors import AddressError, LocalProtocolError
from tests.core.vocabulary import check_dataclass, undocumented_fields

NUMBERS = [field.name for field in dataclasses.fields(PeerConfig) if field.name != "peer_id"]


def test_a_good_dataclass() -> None:
    check_dataclass(PeerConfig)
    assert list(undocumented_fields(config)) == []


def test_defaults_are_those_of_the_peers_around() -> None:
    settings = PeerConfig(peer_id="cam1")
    assert settings.negotiation_timeout == 15.0, "connectionTimeout of hyperpeer-js"
    assert settings.max_signal_size == 1024 * 1024, "the limit of hyperpeer-py"
    assert settings.reply_timeout > 2.0, "hyperpeer-py gives up too early"
    assert settings.accept_timeout <= settings.negotiation_timeout, "the caller waits no longer"
    assert settings.part_timeout < 5.0, "a browser that listens waits no longer"


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan])
def test_nothing_is_zero_or_less(name: str, value: float) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(LocalProtocolError, match=f"{name} must be above zero, not {value}"):
        PeerConfig(peer_id="cam1", **changed)


@pytest.mark.parametrize("name", NUMBERS)
def test_anything_above_zero_will_do(name: str) -> None:
    changed: dict[str, Any] = {name: 1}
    assert getattr(PeerConfig(peer_id="cam1", **changed), name) == 1


def test_silence_may_last_for_ever() -> None:
    assert PeerConfig(peer_id="cam1", silence_timeout=None).silence_timeout is None


def test_positive() -> None:
    positive("delay", 0.001)
    with pytest.raises(LocalProtocolError):
        positive("delay", -math.inf)


@pytest.mark.parametrize("peer_id", ["", "cam 1", "cam.1", "café", "x" * 257, "a/b"])
def test_the_id_is_that_of_the_url(peer_id: str) -> None:
    with pytest.raises(AddressError) as raised:
        PeerConfig(peer_id=peer_id)
    assert raised.value.remedy


@pytest.mark.parametrize("peer_id", ["cam1", "caf%C3%A9", "A-Z_0~9", "%"])
def test_an_encoded_id_is_taken(peer_id: str) -> None:
    assert PeerConfig(peer_id=peer_id).peer_id == peer_id
