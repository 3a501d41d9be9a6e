"""The settings of the server, and that nothing that goes in or out shows a secret by its repr."""

import math
from dataclasses import fields
from typing import Any

import pytest

from deepio_core import server, server_ports
from deepio_core.address import SEGMENT_CHARACTERS
from deepio_core.errors import LocalProtocolError
from deepio_core.server_ports import PeerArrived, PeerSent, SendTo, ServerConfig
from deepio_core.signals import PeerInfo, peers_text

NUMBERS = [field.name for field in fields(ServerConfig) if field.name != "characters"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_must_be_a_number_above_zero(name: str, value: Any) -> None:
    with pytest.raises(LocalProtocolError, match=f"{name} must be a number above zero, not {value}"):
        ServerConfig(**{name: value})


def test_a_burst_of_less_than_a_message_would_refuse_everything() -> None:
    with pytest.raises(LocalProtocolError, match="message_burst must be at least 1"):
        ServerConfig(message_burst=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [(name, 1) for name in NUMBERS])
def test_small_limits_are_allowed(name: str, value: Any) -> None:
    assert getattr(ServerConfig(**{name: value}), name) == value


def test_a_rate_may_be_below_one_message_per_second() -> None:
    assert ServerConfig(messages_per_second=0.01).messages_per_second == 0.01


@pytest.mark.parametrize("characters", [frozenset[str](), frozenset("ab."), frozenset(["ab"]), frozenset(" ")])
def test_characters_must_be_some_of_those_that_a_url_can_carry(characters: frozenset[str]) -> None:
    with pytest.raises(LocalProtocolError, match="characters must be some of those"):
        ServerConfig(characters=characters)


def test_the_longest_peer_list_of_the_default_limits_reaches_every_client() -> None:
    config = ServerConfig()
    peer = PeerInfo(id="i" * config.max_id_length, type="t" * config.max_type_length, busy=False)
    # 1 MiB is what hyperpeer-py takes.
    assert len(peers_text([peer] * config.max_peers)) < 1024 * 1024 / 2
    assert config.characters == SEGMENT_CHARACTERS


def test_no_repr_shows_a_key_or_a_description() -> None:
    for secret in (
        PeerArrived(conn=1, path="/t/a/sesame"),
        PeerSent(conn=1, text="sesame"),
        SendTo(conn=1, text="sesame"),
    ):
        assert "sesame" not in repr(secret)


def test_the_server_module_offers_all_of_them() -> None:
    defined: set[Any] = {
        name
        for name, value in vars(server_ports).items()
        if isinstance(value, type) and value.__module__ == server_ports.__name__
    }
    assert defined < set(server.__all__)
    assert all(getattr(server, name) is getattr(server_ports, name) for name in defined)
