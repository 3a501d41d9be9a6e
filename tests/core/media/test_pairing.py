"""Which frame a result belongs to: on simulated paths and stream managers, and whatever a peer may say."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepio_core.media.pairing import LIMIT, SentFrames
from deepio_core.messages import DataMessage

OFFSET = -1_795_353_000.0
"""Our clock less the stream manager's."""


@dataclass
class Path:
    """A camera, a network and a stream manager, in virtual time; all in seconds."""

    interval: float = 0.04
    jitter: float = 0.004
    """Of the camera."""
    encoding: float = 0.006
    way: float = 0.01
    decoding: float = 0.008
    noise: float = 0.003
    """Mean of what comes on top of each."""
    held: int = 1
    says_held: bool = False
    analysis: float = 0.1
    first: int = 0
    """Frames lost before the first that is decoded."""
    detectors: int = 1
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def noisy(self, time: float) -> float:
        return time + self.chance.expovariate(1 / self.noise) if self.noise else time

    def run(self, count: int) -> list[tuple[int, Any]]:
        """Sends frames; returns the number of the right frame and the pairing for each result, as they come."""
        captured = [100.0 + n * self.interval + self.chance.uniform(0, self.jitter) for n in range(count)]
        sent = [at + 0.001 for at in captured]
        arrived = [self.noisy(at + self.encoding + self.way) for at in sent]
        events: list[tuple[float, str, int, Any]] = [(at, "sent", n, None) for n, at in enumerate(sent)]
        for n in range(self.first, count - self.held):
            taken = self.noisy(max(arrived[n : n + self.held + 1]) + self.decoding)
            for detector in range(self.detectors):
                done = self.noisy(taken + self.analysis * (detector + 1))
                trip = 2 * self.way + 2 * self.chance.expovariate(1 / (self.noise or 1e-9))
                raw: dict[str, Any] = {"type": "data", "vc_time": taken - OFFSET, "rec_time": done - OFFSET}
                raw["round_trip"] = 0 if n == self.first else trip
                if self.says_held:
                    raw["held_frames"] = self.held
                events.append((self.noisy(done + self.way), "result", n, DataMessage(raw=raw)))
        frames, pairs = SentFrames(), list[tuple[int, Any]]()
        for at, kind, number, message in sorted(events, key=lambda event: event[0]):
            if kind == "sent":
                frames.sent(captured[number], at)
            else:
                pairing = frames.on_result(message, at)
                paired = None if pairing is None else captured.index(pairing.captured_at)
                pairs.append((number, paired))
                if pairing is not None and self.says_held and number < 2 and paired != number:
                    # No round trip is known yet: who is far off may not be sure.
                    assert pairing.uncertainty >= abs(captured[number] - pairing.captured_at) - 1e-9
        return pairs


def right(pairs: list[tuple[int, Any]]) -> float:
    return sum(number == paired for number, paired in pairs) / len(pairs)


def within_one(pairs: list[tuple[int, Any]]) -> bool:
    """Not the first, that come before any round trip is known."""
    return all(paired is not None and abs(number - paired) <= 1 for number, paired in pairs[2:])


@pytest.mark.parametrize("says_held", [True, False])
@pytest.mark.parametrize("interval", [1 / 60, 0.04, 0.1])
@pytest.mark.parametrize("way", [0.0005, 0.01, 0.08])
def test_deeps_own_stream_managers(interval: float, way: float, says_held: bool) -> None:
    path = Path(interval=interval, way=way, encoding=0.002, decoding=0.003, noise=0.001, says_held=says_held)
    pairs = path.run(300)
    assert right(pairs) > 0.97
    assert within_one(pairs)


def test_a_stream_manager_that_holds_nothing_back_says_so() -> None:
    pairs = Path(held=0, says_held=True).run(300)
    assert right(pairs) > 0.97
    assert within_one(pairs)


def test_without_noise_each_is_right_and_sure() -> None:
    path = Path(noise=0, jitter=0, way=0.001, held=0, says_held=True)
    assert right(path.run(100)) == 1.0


def test_frames_at_uneven_times() -> None:
    pairs = Path(interval=0.05, jitter=0.04, noise=0.001).run(300)
    assert right(pairs) > 0.9
    assert within_one(pairs)


def test_first_frames_may_be_lost_and_detectors_may_interleave() -> None:
    pairs = Path(first=7, detectors=3, analysis=0.07).run(300)
    assert right(pairs) > 0.97
    assert within_one(pairs)


def test_a_delay_near_one_interval_does_not_swing_between_two_frames() -> None:
    pairs = Path(interval=0.04, encoding=0.018, decoding=0.018, way=0.002, noise=0.001).run(400)
    assert len({paired - number for number, paired in pairs[100:-1]}) == 1


def test_who_is_not_told_what_is_held_is_not_sure() -> None:
    frames = SentFrames()
    for number in range(10):
        frames.sent(number / 10, number / 10)
    pairing = frames.on_result(result(0.905, rec_time=0.91), 0.92)
    assert pairing is not None
    assert pairing.captured_at == 0.8
    assert pairing.uncertainty >= 0.1 - 1e-9


def result(vc_time: float, *, rec_time: float, held: int | None = None, round_trip: float = 0.002) -> DataMessage:
    raw: dict[str, Any] = {"vc_time": vc_time - OFFSET, "rec_time": rec_time - OFFSET, "round_trip": round_trip}
    if held is not None:
        raw["held_frames"] = held
    return DataMessage(raw=raw)


def paired(frames: SentFrames, message: DataMessage, now: float) -> float | None:
    pairing = frames.on_result(message, now)
    return None if pairing is None else pairing.captured_at


def test_a_frame_of_a_recording_leaves_when_it_is_due() -> None:
    frames = SentFrames()
    for number in range(10):
        frames.sent(10 + number / 25, 10.0)
    assert paired(frames, result(10.205, rec_time=10.4, held=0), 10.41) == 10.2


@pytest.mark.parametrize("interval", [1 / 60, 0.1, 1.0])
def test_results_for_the_very_first_frames_teach_nothing_wrong(interval: float) -> None:
    frames = SentFrames()
    for number in range(30):
        at = 10 + number * interval
        frames.sent(at, at)
        assert paired(frames, result(at + 0.005, rec_time=at + 0.007, held=0), at + 0.008) == at


def test_a_second_frame_that_follows_at_once_completes_the_first() -> None:
    frames = SentFrames()
    frames.sent(9.9, 10.0)  # the picture that was shown already
    frames.sent(10.017, 10.017)
    assert paired(frames, result(10.02, rec_time=10.022, held=1), 10.023) == 9.9


def test_one_frame_is_enough() -> None:
    frames = SentFrames()
    frames.sent(5.0, 5.001)
    assert paired(frames, result(5.01, rec_time=5.2, held=0), 5.202) == 5.0
    assert paired(frames, result(5.01, rec_time=5.2), 5.202) is None  # it is held back still


def test_a_result_from_before_the_first_frame_has_none() -> None:
    frames = SentFrames()
    for number in range(10):
        frames.sent(10 + number / 25, 10 + number / 25)
    for delay in (3.0, 1.0, 0.2):  # old results, all at once; and dark pictures
        assert paired(frames, result(10 - delay, rec_time=10.4, held=0), 10.41) is None
    assert paired(frames, result(10.005, rec_time=10.4, held=0), 10.41) == 10.0


def test_a_result_from_long_after_the_last_frame_has_none() -> None:
    frames = SentFrames()
    for number in range(10):
        frames.sent(10 + number / 25, 10 + number / 25)
    assert paired(frames, result(10.9, rec_time=12.0, held=0), 12.01) == 10.36
    assert paired(frames, result(11.9, rec_time=12.0, held=0), 12.01) is None


@pytest.mark.parametrize("value", [None, -1, 0, float("nan"), float("inf"), "1795353000", 10**400, True])
@pytest.mark.parametrize("name", ["vc_time", "rec_time"])
def test_what_is_no_time_has_no_frame(name: str, value: Any) -> None:
    frames = SentFrames()
    frames.sent(10.0, 10.0)
    raw = dict(result(10.01, rec_time=10.1, held=0).raw)
    raw[name] = value
    assert frames.on_result(DataMessage(raw=raw), 10.11) is None
    assert paired(frames, result(10.01, rec_time=10.2, held=0), 10.21) == 10.0


@pytest.mark.parametrize("held", [-1, 0.5, True, "1"])
def test_what_is_no_number_of_frames_is_not_said(held: Any) -> None:
    assert DataMessage(raw={"held_frames": held}).held_frames is None


def test_the_round_trip_of_the_network_serves_where_none_is_told() -> None:
    frames = SentFrames()
    for number in range(10):
        frames.sent(10 + number / 25, 10 + number / 25)
    for trip, captured_at in ((None, 10.36), (0.16, 10.2)):
        # Each way takes 0.08 s: without an idea of that, the frame seems to have been sent 0.16 s later than it was.
        message = result(10.285, rec_time=10.4, held=0, round_trip=0)
        pairing = frames.on_result(message, 10.48, trip)
        assert pairing is not None
        assert pairing.captured_at == captured_at
        assert pairing.uncertainty > 0.04


def test_nothing_was_sent() -> None:
    assert SentFrames().on_result(result(1.0, rec_time=1.1), 1.11) is None


def test_the_oldest_frames_are_forgotten() -> None:
    frames = SentFrames()
    for number in range(LIMIT + 10):
        frames.sent(number / 25, number / 25)
    last = (LIMIT + 9) / 25
    assert paired(frames, result(9 / 25 + 0.005, rec_time=last, held=0), last) is None
    assert paired(frames, result(10 / 25 + 0.005, rec_time=last, held=0), last) == 0.4


field_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.floats(999 - OFFSET, 1100 - OFFSET)
)
steps = st.lists(
    st.tuples(
        st.floats(0, 5),
        st.one_of(
            st.floats(-1, 1),
            st.dictionaries(st.sampled_from(["vc_time", "rec_time", "round_trip", "held_frames"]), field_values),
        ),
    ),
    max_size=60,
)


@given(steps)
@settings(deadline=None)
def test_whatever_comes_is_a_frame_that_was_sent_or_none(told: list[tuple[float, float | dict[str, Any]]]) -> None:
    frames, now, sent = SentFrames(), 1000.0, set[float]()
    for wait, what in told:
        now += wait
        if isinstance(what, dict):
            pairing = frames.on_result(DataMessage(raw=what), now)
            assert pairing is None or (pairing.captured_at in sent and pairing.uncertainty >= 0)
        else:
            frames.sent(now + what, now)
            sent.add(now + what)
