"""When packets leave: large pictures spread within bounds, bursts of pictures too, and nothing else delayed."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepio_core.media.pacing import BURST, MAX_DELAY, MAX_WINDOW, Smoother, groups

INTERVALS = st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize("count", [0, 1, 9, BURST])
def test_an_ordinary_picture_leaves_at_once(count: int) -> None:
    assert groups(count, 0.04) == [(0.0, count)]


@pytest.mark.parametrize(
    ("count", "interval", "expected"),
    [
        (17, 0.04, [(0.0, 9), (0.002, 8)]),
        (40, 0.04, [(0.0, 14), (0.002, 13), (0.004, 13)]),
        # Half of the interval: closer together, and when they cannot be closer, larger.
        (128, 0.02, [(pytest.approx(number / 700), 16) for number in range(8)]),
        (128, 1 / 120, [(pytest.approx(number / 1000), 22 - (number > 1)) for number in range(6)]),
    ],
)
def test_a_large_picture_leaves_in_groups(count: int, interval: float, expected: list[tuple[float, int]]) -> None:
    assert groups(count, interval) == expected


def test_the_largest_keyframe_of_an_old_receiver_leaves_in_bursts_of_ordinary_size() -> None:
    made = groups(128, 0.04)
    assert [count for _, count in made] == [BURST] * 8
    assert made[-1][0] == pytest.approx(0.014)


@given(count=st.integers(0, 5000), interval=INTERVALS)
@example(count=500, interval=math.nan)
@example(count=500, interval=0.0)
@example(count=500, interval=-math.inf)
@example(count=17, interval=math.inf)
def test_groups_are_complete_and_within_bounds(count: int, interval: float) -> None:
    made = groups(count, interval)
    assert sum(size for _, size in made) == count
    sizes, delays = [size for _, size in made], [delay for delay, _ in made]
    assert max(sizes) - min(sizes) <= 1
    assert delays[0] == 0.0
    assert all(later - earlier >= 0.0009 for earlier, later in pairwise(delays))
    # Of half an interval, what is reasonable: 5 ms at least, and 15 at most, also if there is none to speak of.
    assert delays[-1] <= max(0.005, min(interval / 2, MAX_WINDOW)) + 1e-9 or not interval <= 2 * MAX_WINDOW
    assert delays[-1] <= MAX_WINDOW + 1e-9
    assert max(sizes) <= BURST or len(made) >= 6
    # In no millisecond more than half of what a receive buffer holds, up to the largest keyframe that is copied.
    if count <= 448 and interval >= 1 / 30:
        assert max(sizes) <= 46


def test_what_is_on_time_is_not_delayed() -> None:
    smoother = Smoother()
    for number in range(100):
        at = 5.0 + number / 25 + 0.015 * (number % 3 == 1)  # a little late now and then
        assert smoother.due(at, 1 / 25) == at


@pytest.mark.parametrize("rate", [5, 10, 25, 30, 60, 240])
def test_no_rate_is_too_high(rate: int) -> None:
    smoother = Smoother()
    assert all(smoother.due(number / rate, 1 / rate) == number / rate for number in range(100))


def test_a_burst_is_spread_and_then_forgotten() -> None:
    smoother = Smoother()
    smoother.due(10.0, 0.04)
    # The network stood still for a second: 25 pictures at once.
    times = [smoother.due(11.0, 0.04) for _ in range(25)]
    assert times[0] == 11.0
    assert all(0.0002 < later - earlier < 0.007 for earlier, later in pairwise(times))
    assert 11.04 < times[-1] <= 11.0 + MAX_DELAY
    assert smoother.due(11.04, 0.04) <= 11.04 + MAX_DELAY
    assert [smoother.due(at, 0.04) for at in (11.08, 11.12)] == [11.08, 11.12]


def test_two_at_once_are_half_an_interval_apart_if_that_is_short() -> None:
    smoother = Smoother()
    assert [smoother.due(1.0, 0.01), smoother.due(1.0, 0.01)] == [1.0, pytest.approx(1.005)]


@given(st.lists(st.tuples(st.floats(0, 0.2), INTERVALS), max_size=60))
def test_nothing_is_ever_delayed_beyond_the_bound_or_overtaken(arrivals: list[tuple[float, float]]) -> None:
    smoother = Smoother()
    at, last = 100.0, 0.0
    for gap, interval in arrivals:
        at += gap
        due = smoother.due(at, interval)
        assert at <= due <= at + MAX_DELAY + 1e-9
        assert due >= last
        last = due


@given(st.lists(st.tuples(st.floats(0, 1000), INTERVALS), min_size=1, max_size=20))
def test_a_clock_that_goes_back_does_not_change_the_order(arrivals: list[tuple[float, float]]) -> None:
    smoother = Smoother()
    times = [smoother.due(at, interval) for at, interval in arrivals]
    assert times == sorted(times)
    assert times[-1] <= max(at for at, _ in arrivals) + MAX_DELAY + 1e-9
