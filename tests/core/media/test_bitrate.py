"""The bitrate follows REMB and loss, within its bounds, and does not fidget."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepio_core.media.bitrate import RateController
from deepio_core.media.options import VideoOptions

OPTIONS = VideoOptions(bitrate=1_000_000, min_bitrate=100_000, max_bitrate=2_000_000)


def after_reports(loss: float, count: int, *, interval: float = 1.0) -> RateController:
    rate = RateController(OPTIONS)
    for number in range(count):
        rate.on_report(loss, number * interval)
    return rate


def test_it_begins_where_the_user_says() -> None:
    assert RateController(OPTIONS).target == 1_000_000


@pytest.mark.parametrize(
    ("loss", "target"),
    [(0.0, 1_050_000), (0.019, 1_050_000), (0.02, 1_000_000), (0.1, 1_000_000), (0.2, 900_000), (1.0, 500_000)],
)
def test_one_report(loss: float, target: int) -> None:
    assert after_reports(loss, 1).target == target


def test_without_losses_it_grows_to_the_upper_bound() -> None:
    assert after_reports(0.0, 5).target == round(1_000_000 * 1.05**5)
    assert after_reports(0.0, 40).target == 2_000_000


def test_with_losses_it_shrinks_to_the_lower_bound() -> None:
    assert after_reports(0.5, 3).target == round(1_000_000 * 0.75**3)
    assert after_reports(0.5, 40).target == 100_000


def test_a_flood_of_reports_counts_like_two_a_second() -> None:
    assert after_reports(0.5, 100, interval=0.01).target == 562_500


@pytest.mark.parametrize(("estimate", "target"), [(600_000, 600_000), (0, 100_000), (2**81, 1_000_000)])
def test_the_far_sides_estimate_is_an_upper_bound(estimate: int, target: int) -> None:
    rate = RateController(OPTIONS)
    rate.on_estimate(estimate, 0.0)
    assert rate.target == target


def test_it_returns_at_once_when_the_estimate_recovers() -> None:
    rate = RateController(OPTIONS)
    rate.on_estimate(200_000, 0.0)
    rate.on_estimate(5_000_000, 1.0)
    assert rate.target == 1_000_000


def test_losses_count_from_what_was_sent() -> None:
    rate = RateController(OPTIONS)
    rate.on_estimate(400_000, 0.0)
    rate.on_report(0.2, 1.0)
    assert rate.target == 360_000


def test_it_does_not_grow_beyond_the_estimate() -> None:
    rate = RateController(OPTIONS)
    rate.on_estimate(400_000, 0.0)
    for second in range(1, 10):
        rate.on_report(0.0, float(second))
    assert rate.target == 400_000


def test_a_rise_waits_for_a_second_and_a_fall_for_a_fifth() -> None:
    rate = RateController(OPTIONS)
    rate.on_estimate(500_000, 0.0)
    rate.on_estimate(800_000, 0.9)
    assert rate.target == 500_000
    rate.on_estimate(800_000, 1.0)
    assert rate.target == 800_000
    rate.on_estimate(300_000, 1.1)
    assert rate.target == 800_000
    rate.on_report(0.05, 1.25)  # a report is an occasion as good as any
    assert rate.target == 300_000


def test_small_changes_are_not_worth_it_until_they_add_up() -> None:
    rate = RateController(OPTIONS)
    rate.on_estimate(990_000, 0.0)
    assert rate.target == 1_000_000
    rate.on_estimate(980_000, 0.1)
    assert rate.target == 980_000


said = st.tuples(
    st.floats(0.0, 3.0), st.one_of(st.floats(0.0, 1.0), st.integers(0, 2**81))
)  # seconds since the one before; a float is a report, an integer an estimate


@given(st.lists(said, max_size=60))
@settings(deadline=None)
def test_whatever_is_said_it_stays_in_bounds_and_changes_seldom(steps: list[tuple[float, float | int]]) -> None:
    rate = RateController(OPTIONS)
    now, changes = 100.0, list[tuple[float, int]]()
    for wait, value in steps:
        now += wait
        before = rate.target
        if isinstance(value, int):
            rate.on_estimate(value, now)
        else:
            rate.on_report(value, now)
        assert 100_000 <= rate.target <= 2_000_000
        if rate.target != before:
            changes.append((now, rate.target))
    for (first, lower), (second, higher) in pairwise(changes):
        assert second - first >= (1.0 if higher > lower else 0.2)
