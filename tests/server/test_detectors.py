"""Detectors: how they are found, and what the default one finds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from deepio_adapters.test_pattern import Pattern
from deepio_server.detectors import MAX_OBJECTS, DetectorError, MotionDetector, load_detector
from tests import detecting

STILL = Pattern(640, 360).draw(50, "12:00:00.000")


def test_a_function_is_found_by_its_name() -> None:
    assert load_detector("tests.detecting:counter") is detecting.counter


def test_of_a_class_each_camera_has_its_own_object() -> None:
    one, two = (load_detector("tests.detecting:FailsTwiceOfThree") for _ in range(2))
    assert isinstance(one, detecting.FailsTwiceOfThree)
    assert one is not two


def test_the_default_finds_motion() -> None:
    assert isinstance(load_detector(""), MotionDetector)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tests.nothing_here:x", "No module named 'tests.nothing_here'"),
        ("tests.detecting:nothing", "has no attribute 'nothing'"),
        ("tests.detecting", "has no attribute ''"),
        (":x", "ValueError"),
        ("tests.detecting:not_callable", "cannot be called"),
        ("tests.detecting:CannotBeMade", "RuntimeError: no model"),
    ],
)
def test_what_is_no_detector_is_said(name: str, why: str) -> None:
    with pytest.raises(DetectorError) as raised:
        load_detector(name)
    assert why in str(raised.value)
    assert "module:function" in raised.value.remedy


def test_a_module_that_is_broken_is_said(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "half_written.py").write_text("def detect(frame:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DetectorError, match="SyntaxError"):
        load_detector("half_written:detect")


def test_the_shapes_of_the_test_pattern_are_found_and_followed() -> None:
    pattern, detector = Pattern(640, 360), MotionDetector()
    seen: list[dict[str, tuple[float, float]]] = []
    for number in range(150):
        objects = detector(pattern.draw(number, "12:00:00.000"))
        assert all(one.class_name == "moving" for one in objects)
        for box in (one.box for one in objects):
            assert 0 <= box.left < box.right <= 640
            assert 0 <= box.top < box.bottom <= 360
        # What moves above are the blocks and digits of the counter.
        seen.append(
            {
                one.id: ((one.box.left + one.box.right) / 2, (one.box.top + one.box.bottom) / 2)
                for one in objects
                if one.box.top > 100 and one.box.right - one.box.left > 60
            }
        )
    followed = seen[60:]
    assert all(1 <= len(frame) <= 3 for frame in followed)
    # Ids are kept from one frame to the next...
    kept = [len(before.keys() & after.keys()) / len(after) for before, after in pairwise(followed)]
    assert sum(kept) / len(kept) > 0.9
    # ...by objects that move a little.
    for before, after in pairwise(followed):
        for name in before.keys() & after.keys():
            assert np.hypot(after[name][0] - before[name][0], after[name][1] - before[name][1]) < 120
    assert len({name for frame in followed for name in frame}) < 12


def test_a_still_picture_with_noise_is_silent() -> None:
    noise, detector = np.random.default_rng(7), MotionDetector()
    for _ in range(60):
        grain = noise.integers(-6, 7, STILL.shape)
        assert detector(np.clip(STILL.astype(int) + grain, 0, 255).astype(np.uint8)) == []


def test_a_picture_of_another_size_begins_anew() -> None:
    detector = MotionDetector()
    small = Pattern(320, 240)
    for number in range(5):
        detector(Pattern(640, 360).draw(number))
    assert detector(small.draw(0)) == []
    assert detector(small.draw(40))


def test_chaos_is_bounded() -> None:
    noise, detector = np.random.default_rng(7), MotionDetector()
    for _ in range(5):
        spots = noise.integers(0, 2, (36, 64, 1), np.uint8).repeat(3, axis=2) * 255
        objects = detector(spots.repeat(10, axis=0).repeat(10, axis=1))
        assert len(objects) <= MAX_OBJECTS
        assert len({one.id for one in objects}) == len(objects)
