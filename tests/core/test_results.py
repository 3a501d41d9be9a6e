"""The results of a stream manager: every field, and what a camera reads from them."""

import pytest

from deepio_core.detections import Attribute, Box, Keypoint
from deepio_core.jsontext import decode, encode
from deepio_core.messages import DataMessage, Generation, acknowledgement, parse_message
from deepio_core.results import DetectedObject, StreamStatistics

FACE = DetectedObject(
    id="7",
    box=Box(10, 20.5, 30, 40),
    class_name="face",
    points=(Keypoint(12, 22, "eye"), Keypoint(14, 22, None)),
    attributes={"age": Attribute(value="(25, 32)", vc_time=99.5)},
)


def sent(statistics: StreamStatistics, *objects: DetectedObject, rec_time: float = 100.75) -> DataMessage:
    """A result as the camera reads it."""
    value = statistics.data_message(
        objects,
        vc_time=100.25,
        collector_time=100.5,
        rec_time=rec_time,
        generated_frames=3,
        detector_category="face",
        frame_attributes={"crowd": Attribute(value=4, vc_time=100.0)},
        held_frames=1,
    )
    message = parse_message(decode(encode(value), max_size=10_000))
    assert isinstance(message, DataMessage)
    return message


def test_a_result_says_all_that_a_stream_manager_says() -> None:
    statistics = StreamStatistics()
    statistics.on_frame((360, 640, 3))
    statistics.on_frame((480, 640, 3))
    message = sent(statistics, FACE)
    assert message.generation is Generation.TIMED_OBJECTS
    assert message.received_frames == 2
    assert message.processed_frames == message.messages_sent == 1
    assert message.generated_frames == 3
    assert message.last_frame_shape == (480, 640, 3)
    assert message.round_trip == 0
    assert message.deep_delay == 0.5
    assert message.processing_period == 0
    assert (message.vc_time, message.collector_time, message.rec_time) == (100.25, 100.5, 100.75)
    assert message.held_frames == 1
    assert message.detector_category == "face"
    assert message.frame_attributes == {"crowd": Attribute(value=4, vc_time=100.0)}


def test_the_camera_reads_the_objects_that_the_detector_told() -> None:
    (seen,) = sent(StreamStatistics(), FACE).detections()
    assert (seen.id, seen.class_name, seen.box) == (FACE.id, FACE.class_name, FACE.box)
    assert seen.points == FACE.points
    assert seen.attributes == FACE.attributes


def test_programs_written_before_october_2020_find_the_objects_under_data() -> None:
    raw = dict(sent(StreamStatistics(), FACE).raw)
    del raw["objects"], raw["detector_category"]
    old = parse_message(raw)
    assert isinstance(old, DataMessage)
    assert old.generation is Generation.DATA
    (seen,) = old.detections()
    assert (seen.id, seen.class_name, seen.box, seen.points) == (FACE.id, FACE.class_name, FACE.box, FACE.points)
    assert seen.attributes == {"age": Attribute(value="(25, 32)", vc_time=None)}


def test_the_second_result_tells_the_period_and_the_round_trip() -> None:
    statistics = StreamStatistics()
    reply = acknowledgement(sent(statistics))
    assert reply is not None
    statistics.on_acknowledge(reply.rec_time, now=100.78125)
    second = sent(statistics, rec_time=101.0)
    assert second.round_trip == 0.03125
    assert second.processing_period == 0.25
    assert second.messages_sent == 2
    assert statistics.acknowledged == 1


@pytest.mark.parametrize("rec_time", [None, 10**400, float("nan")], ids=["none", "huge", "nan"])
def test_an_acknowledge_without_a_time_counts_for_nothing(rec_time: float | None) -> None:
    statistics = StreamStatistics()
    statistics.on_acknowledge(rec_time, now=5.0)
    assert (statistics.acknowledged, statistics.round_trip) == (0, 0)


def test_an_object_needs_no_class() -> None:
    (seen,) = sent(StreamStatistics(), DetectedObject(id="1", box=Box(0, 0, 1, 1))).detections()
    assert not seen.class_name
    assert seen.attributes == {}
