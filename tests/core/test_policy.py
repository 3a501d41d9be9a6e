"""Whom a session connects to: settings that make no sense, and how its delays grow."""

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core import policy
from deepio_core.config import PeerConfig
from deepio_core.errors import AddressError, LocalProtocolError
from deepio_core.policy import Backoff, ConnectFirst, ConnectTo, ListenForCallers, SessionConfig
from tests.core.vocabulary import check_dataclass, dataclasses_of, undocumented_fields

CONFIG = SessionConfig(peer=PeerConfig(peer_id="caf%C3%A9"), policy=ListenForCallers())


@pytest.mark.parametrize("kind", dataclasses_of(policy), ids=lambda kind: kind.__name__)
def test_settings_are_frozen_and_documented(kind: type) -> None:
    check_dataclass(kind)


def test_every_field_is_documented() -> None:
    assert list(undocumented_fields(policy)) == []


def test_the_defaults_are_those_of_deep_io() -> None:
    assert ConnectFirst().peer_types == ("stream_manager", "deep_input")
    assert (CONFIG.poll_interval, CONFIG.greets, CONFIG.metadata, CONFIG.source_id) == (1.0, True, None, None)


def test_metadata_is_not_shown() -> None:
    assert "secret" not in repr(replace(CONFIG, metadata={"url": "rtsp://user:secret@camera"}))


@pytest.mark.parametrize("name", ["poll_interval", "backoff_first", "backoff_max", "stable_after"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_times_are_above_zero(name: str, value: float) -> None:
    change: dict[str, Any] = {name: value}
    with pytest.raises(LocalProtocolError, match=name):
        replace(CONFIG, **change)


def test_the_longest_delay_is_not_shorter_than_the_first() -> None:
    assert replace(CONFIG, backoff_first=3.0, backoff_max=3.0).backoff_max == 3.0
    with pytest.raises(LocalProtocolError, match="backoff_max"):
        replace(CONFIG, backoff_first=3.0, backoff_max=2.9)


@pytest.mark.parametrize("own_id", ["caf%C3%A9", "café"])
def test_nobody_calls_himself(own_id: str) -> None:
    with pytest.raises(LocalProtocolError, match="own id"):
        replace(CONFIG, policy=ConnectTo(remote_id=own_id))


@pytest.mark.parametrize("remote_id", ["", "\ud800", "x" * 1000])
def test_nobody_calls_what_no_address_can_carry(remote_id: str) -> None:
    with pytest.raises(AddressError):
        replace(CONFIG, policy=ConnectTo(remote_id=remote_id))


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(replace(CONFIG, backoff_first=1.0, backoff_max=10.0), lambda: 0.5)
    assert [backoff.next() for _ in range(6)] == [0.75, 1.5, 3.0, 6.0, 7.5, 7.5]
    assert backoff.attempt == 6
    backoff.reset()
    assert backoff.attempt == 0
    assert backoff.next() == 0.75


def test_a_pause_is_no_failure() -> None:
    backoff = Backoff(replace(CONFIG, poll_interval=4.0), lambda: 0.5)
    assert [backoff.pause(), backoff.pause()] == [3.0, 3.0]
    assert backoff.attempt == 0


@given(
    first=st.floats(0.001, 10.0),
    longest=st.floats(10.0, 1000.0),
    seed=st.integers(0, 100),
    failures=st.integers(0, 2000),
)
def test_a_delay_is_jittered_between_half_and_the_whole(first: float, longest: float, seed: int, failures: int) -> None:
    """As often as it may fail: a camera of a site that was switched off for a year tries a million times."""
    backoff = Backoff(replace(CONFIG, backoff_first=first, backoff_max=longest), random.Random(seed).random)
    for _ in itertools.repeat(None, failures):
        backoff.next()
    whole = min(longest, first * 2.0 ** min(failures, 500))
    assert whole / 2 <= backoff.next() <= whole
    assert 0.5 <= backoff.pause() <= 1.0


def test_two_of_a_site_do_not_come_back_as_one() -> None:
    one, other = (Backoff(CONFIG, random.Random(seed).random) for seed in (1, 2))
    assert [one.next() for _ in range(5)] != [other.next() for _ in range(5)]
