"""The settings of sending video: what is out of bounds is refused by name."""

from typing import Any

import pytest

from deepio_core.errors import LocalProtocolError
from deepio_core.media.options import VideoOptions


def test_the_settings_that_come_with_it_fit_together() -> None:
    options = VideoOptions()
    assert options.mode == "auto"
    assert options.min_bitrate < options.bitrate < options.max_bitrate


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "copy", "codec": "VP8"},
        {"min_bitrate": 10_000, "bitrate": 10_000, "max_bitrate": 10_000},
        {"max_bitrate": 100_000_000},
        {"keyframe_interval": 0.1},
        {"keyframe_interval": 600},
        {"max_size": (16, 8192)},
        {"max_frame_rate": 0.1},
        {"max_frame_rate": 240},
        {"threads": 0},
        {"threads": 64},
        {"max_keyframe": 1},
        {"keyframe_wait": 0},
        {"while_away": "last"},
    ],
    ids=str,
)
def test_settings_within_bounds_are_taken(settings: dict[str, Any]) -> None:
    options = VideoOptions(**settings)
    assert {name: getattr(options, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mode": "transcode"}, "'transcode'"),
        ({"codec": "AV1"}, "'AV1'"),
        ({"min_bitrate": 9_999}, "min_bitrate=9999"),
        ({"bitrate": 100_000}, "bitrate=100000"),
        ({"max_bitrate": 1_000_000}, "max_bitrate=1000000"),
        ({"max_bitrate": 100_000_001}, "max_bitrate=100000001"),
        ({"mode": {"bitrate": 5}}, "bitrate"),
        ({"bitrate": "500k"}, "bitrate='500k'"),
        ({"threads": True}, "threads=True"),
        ({"keyframe_interval": None}, "keyframe_interval=None"),
        ({"max_size": "640x360"}, "max_size"),
        ({"max_size": (640, 360, 1)}, "max_size"),
        ({"max_size": (640.0, 360)}, "max_size"),
        ({"keyframe_interval": 0.09}, "keyframe_interval"),
        ({"keyframe_interval": 601}, "keyframe_interval"),
        ({"max_size": (15, 720)}, "max_size"),
        ({"max_size": (1280, 8193)}, "max_size"),
        ({"max_frame_rate": 0}, "max_frame_rate"),
        ({"max_frame_rate": 241}, "max_frame_rate"),
        ({"threads": -1}, "threads"),
        ({"threads": 65}, "threads"),
        ({"max_gop": 0}, "max_gop"),
        ({"max_keyframe": 0}, "max_keyframe"),
        ({"keyframe_wait": -0.1}, "keyframe_wait"),
        ({"while_away": "test pattern"}, "'test pattern'"),
    ],
    ids=str,
)
def test_settings_out_of_bounds_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named) as refused:
        VideoOptions(**settings)
    assert refused.value.remedy
