"""Detectors for tests, to be named as `tests.detecting:name`."""

from __future__ import annotations

import threading

from deepio_adapters.test_pattern import read_counter
from deepio_core.detections import Attribute, Box, Keypoint
from deepio_core.results import DetectedObject

hanging = threading.Event()
"""`hangs` does so until this is set."""

not_callable = 5


def counter(frame):
    """One object, whose id is the counter of the test pattern."""
    number = read_counter(frame)
    if number is None:
        return []
    return [DetectedObject(id=str(number), box=Box(0, 0, frame.shape[1], frame.shape[0]), class_name="pattern")]


def everything(frame):
    """One object with all that can be said about one."""
    return [
        DetectedObject(
            id="7",
            box=Box(1.5, 2, 30, 40),
            class_name="face",
            points=(Keypoint(3, 4, "nose"),),
            attributes={"age": Attribute(value="(25, 32)", vc_time=12.5)},
        )
    ]


class FailsTwiceOfThree:
    """A class, of which each manager makes one object; its first results are none, and no results at all."""

    def __init__(self):
        self.calls = 0

    def __call__(self, frame):
        self.calls += 1
        if self.calls % 3 == 1:
            raise ZeroDivisionError("of no use")
        return ["no object"] if self.calls % 3 == 2 else []


def hangs(frame):
    hanging.wait()
    return []


class CannotBeMade:
    def __init__(self):
        raise RuntimeError("no model")
