"""Detections of all generations, and what becomes of objects that no detector would send."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core.detections import (
    Attribute,
    Box,
    Detection,
    Keypoint,
    is_timed,
    read_attributes,
    read_detections,
    read_number,
)

CORNERS = {"x_topleft": 632, "y_topleft": 305, "x_bottomright": 800, "y_bottomright": 415}
HUGE = 10**400

KEYS = ["pid", "id", "rect", "points", "class", "properties", "tag", "value", "vc_time", "gender"]
KEYS += ["top_left_point", "bottom_right_point", "x_coordinate", "y_coordinate", *CORNERS]
"""What the reader looks for, so that generated objects come near to real ones."""

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(HUGE) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner),
    max_leaves=20,
)


def only(raw: dict[str, Any]) -> Detection:
    (detection,) = read_detections([raw])
    return detection


def test_until_september_2020_the_class_is_inside_the_rectangle() -> None:
    raw: Any = {"pid": "1", "rect": {**CORNERS, "class": "small_vehicle"}, "points": [], "age": "(25, 32)"}
    assert only(raw) == Detection(
        id="1",
        class_name="small_vehicle",
        box=Box(632.0, 305.0, 800.0, 415.0),
        points=(),
        attributes={"age": Attribute(value="(25, 32)", vc_time=None)},
        raw=raw,
    )


def test_from_october_2020_the_class_is_beside_the_rectangle() -> None:
    raw: Any = {
        "pid": "3f0c",
        "rect": CORNERS,
        "points": [[640, 310, "left_eye"], [660, 310, "right_eye"]],
        "class": "face",
        "gender": "Male",
        "emotion": [["Happy", 0.8], ["Neutral", 0.2]],
    }
    assert only(raw) == Detection(
        id="3f0c",
        class_name="face",
        box=Box(632.0, 305.0, 800.0, 415.0),
        points=(Keypoint(640.0, 310.0, "left_eye"), Keypoint(660.0, 310.0, "right_eye")),
        attributes={
            "gender": Attribute(value="Male", vc_time=None),
            "emotion": Attribute(value=[["Happy", 0.8], ["Neutral", 0.2]], vc_time=None),
        },
        raw=raw,
    )


def test_from_april_2021_each_attribute_has_its_own_time() -> None:
    detection = only({"pid": "1", "yaw": {"value": -3.5, "vc_time": 1795353319.0574489}})
    assert detection.attributes == {"yaw": Attribute(value=-3.5, vc_time=1795353319.0574489)}


def test_serialised_rect_and_points_of_the_framework() -> None:
    def point(x: int, y: int, **properties: str) -> dict[str, object]:
        return {"x_coordinate": x, "y_coordinate": y, "properties": properties}

    rect = {
        "top_left_point": point(10, 20),
        "bottom_right_point": point(30, 60),
        "centroid": point(20, 40),
        "properties": {"class": "person", "score": 0.9},
    }
    detection = only({"pid": "1", "rect": rect, "points": [point(12, 22, tag="nose"), point(13, 23)]})
    assert detection.box == Box(10.0, 20.0, 30.0, 60.0)
    assert detection.class_name == "person"
    assert detection.points == (Keypoint(12.0, 22.0, "nose"), Keypoint(13.0, 23.0, None))


def test_the_newest_place_of_the_class_wins() -> None:
    rect = {**CORNERS, "class": "rect", "properties": {"class": "properties"}}
    assert only({"rect": rect, "class": "object"}).class_name == "object"
    assert only({"rect": rect, "class": 7}).class_name == "rect"
    assert only({"rect": {"properties": 7}}).class_name is None


def test_a_box_is_not_clipped_or_sorted() -> None:
    rect = {"x_topleft": 5.5, "y_topleft": 9, "x_bottomright": -1, "y_bottomright": 2}
    assert only({"rect": rect}).box == (5.5, 9.0, -1.0, 2.0)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"pid": "one"}, "one"),
        ({"pid": ""}, ""),
        ({"pid": 7}, "7"),
        ({"pid": 0}, "0"),
        ({"pid": -(2**63) + 1}, "-9223372036854775807"),
        ({"pid": 2**63}, None),
        ({"pid": HUGE}, None),
        ({"pid": True}, None),
        ({"pid": 1.0}, None),
        ({"pid": None, "id": "one"}, None),
        ({"id": "one"}, "one"),
        ({"pid": "one", "id": "two"}, "one"),
        ({}, None),
    ],
)
def test_id(raw: dict[str, Any], expected: str | None) -> None:
    assert only(raw).id == expected
    assert only(raw).attributes == {}


@pytest.mark.parametrize("corner", list(CORNERS))
@pytest.mark.parametrize("value", [None, "632", True, [632], float("nan"), HUGE])
def test_no_box_without_four_numbers(corner: str, value: object) -> None:
    assert only({"rect": {**CORNERS, corner: value}}).box is None
    assert only({"rect": {name: 1 for name in CORNERS if name != corner}}).box is None


@pytest.mark.parametrize(
    "rect", [None, 7, "rect", [1, 2, 3, 4], {}, {"top_left_point": {"x_coordinate": 1, "y_coordinate": 2}}]
)
def test_no_box_in_other_rectangles(rect: object) -> None:
    assert only({"rect": rect}).box is None


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1, 2]], ((1.0, 2.0, None),)),
        ([[1, 2, "nose", 0.9]], ((1.0, 2.0, "nose"),)),
        ([[1, 2, 3]], ((1.0, 2.0, None),)),
        ([{"x_coordinate": 1, "y_coordinate": 2, "properties": 3}], ((1.0, 2.0, None),)),
        ([[1], [None, 2], [1, "2"], 7, None, "nose", {}, [3, 4, "chin"]], ((3.0, 4.0, "chin"),)),
        ({"nose": "[12.5 40.1]"}, ()),
        (7, ()),
        (None, ()),
    ],
)
def test_points(points: object, expected: tuple[Keypoint, ...]) -> None:
    assert only({"points": points}).points == expected


@pytest.mark.parametrize("objects", [None, 7, "x", {"pid": "1"}, [], [1, None, "x", [{"pid": "1"}]]])
def test_no_detections_in_anything_but_a_list_of_objects(objects: Any) -> None:
    assert read_detections(objects) == ()


def test_garbage_between_objects_is_left_out() -> None:
    assert [found.id for found in read_detections([{"pid": "1"}, 7, None, {"pid": "2"}, []])] == ["1", "2"]


def test_the_raw_object_is_kept_and_does_not_count_in_comparisons() -> None:
    raw = {"pid": "1", "rect": {"left": 7}}
    detection = only(raw)
    assert detection.raw is raw
    assert detection == only({"pid": "1"})
    assert detection != only({"pid": "2"})
    assert "left" not in repr(detection)


@pytest.mark.parametrize(
    ("value", "timed"),
    [
        ({"value": 1, "vc_time": 2.0}, True),
        ({"value": None, "vc_time": None, "more": 1}, True),
        ({"value": 1}, False),
        ({"vc_time": 2.0}, False),
        (["value", "vc_time"], False),
        ("value vc_time", False),
        (None, False),
    ],
)
def test_timed(value: Any, timed: bool) -> None:
    assert is_timed(value) is timed


def test_attributes() -> None:
    assert read_attributes(
        {
            "clothing": {"value": ["shirt"], "vc_time": 1.5},
            "flux": {"value": 3, "vc_time": "soon"},
            "weather": {"value": "sun"},
            "mood": None,
        }
    ) == {
        "clothing": Attribute(value=["shirt"], vc_time=1.5),
        "flux": Attribute(value=3, vc_time=None),
        "weather": Attribute(value={"value": "sun"}, vc_time=None),
        "mood": Attribute(value=None, vc_time=None),
    }


@pytest.mark.parametrize("descriptors", [None, 7, "x", [["clothing", 1]]])
def test_no_attributes_in_anything_but_an_object(descriptors: Any) -> None:
    assert read_attributes(descriptors) == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0.0),
        (-1, -1.0),
        (1.5, 1.5),
        (2**53, 9007199254740992.0),
        (HUGE, None),
        (float("nan"), None),
        (float("inf"), None),
        (float("-inf"), None),
        (True, None),
        ("1", None),
        (None, None),
        ([], None),
        ({}, None),
    ],
)
def test_number(value: Any, expected: float | None) -> None:
    number = read_number(value)
    assert number == expected
    assert number is None or type(number) is float


@given(any_json)
def test_anything_is_read(value: Any) -> None:
    before = repr(value)
    for detection in read_detections([value, value]):
        assert detection.raw is value
        assert isinstance(detection.id, str | None)
        assert isinstance(detection.class_name, str | None)
        assert isinstance(detection.box, Box | None)
        assert all(isinstance(number, float) for number in detection.box or ())
        assert all(isinstance(number, float) for point in detection.points for number in point[:2])
        assert set(detection.attributes) <= set(value)
    for attribute in read_attributes(value).values():
        assert isinstance(attribute.vc_time, float | None)
    assert repr(value) == before


def test_a_nesting_bomb_is_not_walked_into() -> None:
    bomb: Any = []
    for _ in range(100_000):
        bomb = [bomb]
    detection = only({"pid": bomb, "rect": bomb, "points": bomb, "class": bomb, "age": bomb})
    assert detection.attributes["age"].value is bomb
    assert (detection.id, detection.box, detection.points) == (None, None, ())


def test_views_are_values() -> None:
    box, point = Box(1.0, 2.0, 3.0, 4.0), Keypoint(1.0, 2.0, "nose")
    assert json.loads(json.dumps([box, point])) == [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, "nose"]]
    assert box.right - box.left == 2.0
