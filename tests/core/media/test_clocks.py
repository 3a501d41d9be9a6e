"""The offset between a remote peer's clock and ours: found through queues, followed through drift and steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepio_core.media.clocks import SPAN, SPANS, ClockOffset

OFFSET = -1_795_353_000.0
"""Ours less theirs."""


def heard(clock: ClockOffset, now: float, *, delay: float, trip: float | None, offset: float = OFFSET) -> None:
    clock.on_message(now - delay - offset, trip, now)


def error(clock: ClockOffset, offset: float = OFFSET) -> float:
    assert clock.offset is not None
    return clock.offset - offset


def test_nothing_is_known_at_first() -> None:
    clock = ClockOffset()
    assert (clock.offset, clock.round_trip, clock.local(1_795_353_000.0)) == (None, None, None)
    assert clock.uncertainty(0.0) == 0.2


def test_one_message_is_off_by_its_time_on_the_way() -> None:
    clock = ClockOffset()
    heard(clock, 10.0, delay=0.02, trip=0)
    assert error(clock) == pytest.approx(0.02)
    assert clock.uncertainty(10.0) > 0.02


def test_half_of_the_shortest_round_trip_is_taken_off() -> None:
    clock = ClockOffset()
    for number, trip in enumerate([0.3, 0.04, -1.0, 0.2]):
        heard(clock, 10.0 + number / 10, delay=0.02, trip=trip)
    assert clock.round_trip == 0.04
    assert error(clock) == pytest.approx(0.0, abs=1e-6)
    assert clock.uncertainty(10.3) == pytest.approx(0.02, abs=1e-3)
    assert clock.local(1_795_353_100.5) == pytest.approx(100.5, abs=1e-5)


def test_queues_are_seen_through() -> None:
    chance = random.Random(1)
    clock = ClockOffset()
    for number in range(500):
        forth, back = (0.015 + chance.expovariate(1 / 0.03) for _ in range(2))
        heard(clock, number / 10, delay=forth, trip=forth + back)
    assert abs(error(clock)) < 0.003


def test_messages_in_any_order_are_as_good() -> None:
    clock = ClockOffset()
    clock.on_message(20.0 - OFFSET, 0.02, 20.01)
    clock.on_message(19.0 - OFFSET, 0.02, 20.02)  # a second late
    clock.on_message(20.0 - OFFSET, 0.02, 20.03)  # twice
    assert error(clock) == pytest.approx(0.0, abs=1e-6)


def test_drift_is_followed() -> None:
    clock = ClockOffset()
    for second in range(2000):
        heard(clock, float(second), delay=0.01, trip=0.02, offset=OFFSET + second * 50e-6)
    assert error(clock, OFFSET + 2000 * 50e-6) == pytest.approx(0.0, abs=SPAN * (SPANS + 1) * 50e-6)


def test_what_was_the_fastest_long_ago_is_forgotten_and_less_sure_meanwhile() -> None:
    clock = ClockOffset()
    heard(clock, 0.0, delay=0.001, trip=0.002)
    first = clock.uncertainty(0.0)
    for second in range(1, 60):
        heard(clock, float(second), delay=0.02, trip=0.04)
    assert clock.round_trip == 0.002
    assert clock.uncertainty(59.0) > first
    heard(clock, 61.0, delay=0.02, trip=0.04)
    assert clock.round_trip == 0.04


@pytest.mark.parametrize("step", [0.5, -0.5, 3600.0, -3600.0])
def test_a_clock_that_is_set_is_believed_after_seconds(step: float) -> None:
    clock = ClockOffset()
    for number in range(20):
        heard(clock, number / 10, delay=0.01, trip=0.02)
    for number in range(20, 50):
        heard(clock, number / 10, delay=0.01, trip=0.02, offset=OFFSET + step)
    assert error(clock, OFFSET + step) == pytest.approx(0.0, abs=1e-3)


def test_a_stall_and_congestion_are_no_steps() -> None:
    clock = ClockOffset()
    for number in range(20):
        heard(clock, number / 10, delay=0.01, trip=0.02)
    for number in range(30):  # all at once, after three seconds
        heard(clock, 5.0 + number / 1000, delay=3.0 - number / 10, trip=0.02)
    for number in range(60, 120):  # a full queue, one way
        heard(clock, number / 10, delay=0.81, trip=0.82)
    assert error(clock) == pytest.approx(0.0, abs=1e-3)


def test_a_message_in_time_ends_the_doubt() -> None:
    clock = ClockOffset()
    for number in range(40):
        heard(clock, number / 2, delay=0.01 if number % 7 == 0 else 1.0, trip=0.02)
    assert error(clock) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("value", [None, -1.0, 0.0, float("nan"), float("inf"), 1.795e12])
def test_what_is_no_time_counts_for_nothing(value: float | None) -> None:
    clock = ClockOffset()
    clock.on_message(value, 0.02, 1.0)
    assert clock.offset is None
    heard(clock, 2.0, delay=0.01, trip=0.02)
    assert clock.local(value) is None


anything = st.one_of(st.none(), st.floats(), st.floats(1.0, 1e11))


@given(st.lists(st.tuples(st.floats(0.0, 20.0), anything, anything), max_size=80))
@settings(deadline=None)
def test_nothing_that_a_peer_says_hurts(said: list[tuple[float, float | None, float | None]]) -> None:
    clock = ClockOffset()
    now = 1000.0
    for wait, sent_at, trip in said:
        now += wait
        clock.on_message(sent_at, trip, now)
        local = clock.local(sent_at)
        assert local is None or local <= now + 1e-3
        assert clock.uncertainty(now) >= 0
