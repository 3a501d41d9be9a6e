"""Time stamps that only ever grow, and the pacing by them."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_adapters.timeline import MIN_STEP, LiveTimeline, Pacer, RecordedTimeline

MEDIA_TIME = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(st.lists(MEDIA_TIME))
def test_recorded_stamps_start_at_zero_and_grow(times: list[float | None]) -> None:
    timeline = RecordedTimeline(0.04)
    stamps = [timeline.stamp(t) for t in times]
    assert stamps[:1] in ([], [0.0])
    assert all(b > a for a, b in pairwise(stamps))


@given(st.lists(st.tuples(MEDIA_TIME, st.floats(0, 100))))
def test_live_stamps_grow_and_stay_near_the_clock(frames: list[tuple[float | None, float]]) -> None:
    timeline, now, last = LiveTimeline(), 1000.0, -1.0
    for media_time, wait in frames:
        now += wait
        pts = timeline.stamp(media_time, now)
        assert pts > last
        assert pts - (now - 1000.0 - (frames[0][1])) <= 1.0 + len(frames) * MIN_STEP
        last = pts


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([5.0, 5.04, 5.08], [0.0, 0.04, 0.08]),
        ([0.0, 0.04, 10.0], [0.0, 0.04, 10.0]),  # a rest is kept
        ([0.0, 0.04, 500.0, 500.04], [0.0, 0.04, 0.08, 0.12]),  # a break is closed up
        ([90.0, 90.04, 3.0, 3.04], [0.0, 0.04, 0.08, 0.12]),  # a wrap likewise
        ([0.0, 0.04, 0.04, 0.08], [0.0, 0.04, 0.041, 0.08]),  # disorder does not shift what follows
        ([0.0, None, 0.08], [0.0, 0.04, 0.08]),
        ([None, None], [0.0, 0.04]),
    ],
)
def test_recorded_stamps(times: list[float | None], expected: list[float]) -> None:
    timeline = RecordedTimeline(0.04)
    assert [timeline.stamp(t) for t in times] == pytest.approx(expected)


def test_a_restart_follows_after_the_step_seen_last() -> None:
    timeline = RecordedTimeline(0.04)
    first = [timeline.stamp(t) for t in (1.0, 1.1, 1.2)]
    timeline.restart()
    assert first + [timeline.stamp(t) for t in (1.0, 1.1)] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_a_live_clock_is_followed_until_it_deviates() -> None:
    timeline = LiveTimeline()
    assert timeline.stamp(7.0, 100.0) == 0.0
    assert timeline.stamp(7.04, 100.2) == pytest.approx(0.04)  # jitter of the network is not in the stamps
    assert timeline.stamp(1.0, 101.0) == pytest.approx(1.0)  # the camera's clock was set
    assert timeline.stamp(1.04, 101.1) == pytest.approx(1.04)
    assert timeline.stamp(None, 101.2) == pytest.approx(1.2)


def test_the_pacer_waits_until_a_frame_is_due() -> None:
    pacer = Pacer(threading.Event())
    first = pacer.wait(0.0)
    second = pacer.wait(0.03)
    assert first is not None
    assert second == pytest.approx(first + 0.03)
    assert time.monotonic() >= first + 0.03


def test_the_pacer_accepts_a_long_delay_instead_of_rushing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pacer = Pacer(threading.Event())
    assert pacer.wait(0.0) == 100.0
    now[0] = 100.4
    assert pacer.wait(0.2) == pytest.approx(100.2)  # a little late: made up for
    now[0] = 109.0
    assert pacer.wait(0.4) == pytest.approx(109.0)  # far behind: goes on from here
    now[0] = 109.2
    assert pacer.wait(0.6) == pytest.approx(109.2)


def test_a_stopped_pacer_does_not_wait() -> None:
    stop = threading.Event()
    stop.set()
    assert Pacer(stop).wait(1e6) is None
    pacer = Pacer(stop)
    assert pacer.wait(0.0) is None
    assert pacer.wait(1e6) is None


def test_packets_go_in_batches_before_they_are_due() -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return super().wait(timeout)

    pacer = Pacer(Stop(), read_ahead=0.2, batch=0.15)
    started = time.monotonic()
    early: list[float] = []
    for number in range(40):
        due = pacer.wait(number / 100)
        assert due is not None
        early.append(due - time.monotonic())
    assert time.monotonic() - started > 0.15
    assert max(early) <= 0.2
    assert len([wait for wait in waits if wait > 0]) <= 3


def test_it_is_known_before_whether_there_is_something_to_wait_for() -> None:
    pacer = Pacer(threading.Event(), read_ahead=10.0, batch=1.0)
    assert not pacer.would_wait(60.0)  # nothing has begun
    assert pacer.wait(0.0) is not None
    assert not pacer.would_wait(5.0)
    assert pacer.would_wait(60.0)


def test_a_batch_ends_at_once_when_it_is_stopped() -> None:
    stop = threading.Event()
    pacer = Pacer(stop, read_ahead=0.2, batch=0.1)
    assert pacer.wait(0.0) is not None
    stop.set()
    assert pacer.wait(0.1) is None
    assert pacer.wait(60.0) is None


def test_the_interval_is_the_step_seen_last() -> None:
    recorded, live = RecordedTimeline(0.5), LiveTimeline(0.5)
    assert (recorded.interval, live.interval) == (0.5, 0.5)
    for media_time, now in [(7.0, 100.0), (7.1, 100.2)]:
        recorded.stamp(media_time)
        live.stamp(media_time, now)
    assert [recorded.interval, live.interval] == pytest.approx([0.1, 0.1])


def test_the_clock_of_a_source_that_was_opened_again_is_taken_anew() -> None:
    timeline = LiveTimeline()
    assert [timeline.stamp(5.0, 100.0), timeline.stamp(5.1, 100.1)] == pytest.approx([0.0, 0.1])
    timeline.restart()
    # As near to the old clock as not to be told from jitter.
    assert [timeline.stamp(5.2, 100.9), timeline.stamp(5.3, 101.0)] == pytest.approx([0.9, 1.0])
