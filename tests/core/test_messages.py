"""DEEP messages: the recorded ones, those that we send, and everything that a remote peer should not send."""

import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import deepio_core.messages as protocol
from deepio_core import jsontext
from deepio_core.detections import Attribute, Box, Keypoint
from deepio_core.errors import LocalProtocolError, RemoteProtocolError
from deepio_core.messages import (
    AcknowledgeMessage,
    DataMessage,
    ErrorMessage,
    Generation,
    Message,
    MetadataMessage,
    SourceDisconnectedMessage,
    SourceMessage,
    UnknownMessage,
    WarningMessage,
    acknowledgement,
    parse_message,
    to_json,
)
from fuzz import fuzz_messages

HERE = Path(__file__).parent
RECORDED = [json.loads(line) for line in (HERE / "data/deep-messages.jsonl").read_text("utf-8").splitlines()]
"""One of each kind that real peers have sent, and the class that it is to be."""

CORPUS = sorted((HERE.parents[1] / "fuzz/corpus/messages").iterdir())
HUGE = 10**400
MAX_SIZE = 1 << 20

KEYS = ["type", "metadata", "peerId", "reason", "rec_time", "messages_received", "browser_time", "messagge"]
KEYS += ["message", "objects", "data", "frame_attributes", "detector_category", "vc_time", "last_frame_shape"]
KEYS += ["received_frames", "round_trip", "pid", "rect", "points", "class", "value"]
"""What the codec looks for, so that generated messages come near to real ones."""

TYPES = ["data", "metadata", "acknowledge", "source", "source-disconnected", "warning", "error", "other"]


def json_of(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | numbers | st.text(max_size=8) | st.just("\ud800"),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner),
        max_leaves=20,
    )


any_json = json_of(st.integers() | st.just(HUGE) | st.floats())
clean_json = json_of(st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False))
clean_objects = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), clean_json)
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=40)


def typed(kind: st.SearchStrategy[str], fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda kind, fields: {**fields, "type": kind}, kind, fields)


sendable: st.SearchStrategy[Message] = st.one_of(
    st.builds(MetadataMessage, metadata=clean_json),
    st.builds(SourceMessage, peer_id=texts),
    st.builds(SourceDisconnectedMessage, reason=texts),
    st.builds(
        AcknowledgeMessage,
        rec_time=st.integers(-(2**128), 2**128) | finite,
        messages_received=st.none() | st.integers(-(2**64), 2**64),
        browser_time=st.none() | finite,
    ),
    st.builds(WarningMessage, text=texts),
    st.builds(ErrorMessage, text=texts),
    st.builds(DataMessage, raw=typed(st.just("data"), clean_objects)),
    st.builds(
        lambda raw: UnknownMessage(type=raw["type"], raw=raw),
        typed(texts.filter(lambda kind: kind not in TYPES), clean_objects),
    ),
)


def look_at_everything(message: Message) -> None:
    """Read whatever a message offers; a view that raises fails the test."""
    repr(message)
    if not isinstance(message, DataMessage):
        return
    assert isinstance(message.generation, Generation | None)
    assert isinstance(message.detections(), tuple)
    assert all(isinstance(attribute, Attribute) for attribute in message.frame_attributes.values())
    for name in ("vc_time", "collector_time", "deep_delay", "processing_period", "round_trip"):
        assert isinstance(getattr(message, name), float | None), name
    for name in ("received_frames", "processed_frames", "generated_frames", "messages_sent"):
        assert isinstance(getattr(message, name), int | None), name
    assert isinstance(message.last_frame_shape, tuple | None)
    assert isinstance(message.detector_category, str | None)
    assert (acknowledgement(message) is None) == (message.rec_time is None)


def recorded(kind: str, recording: str = "") -> list[Any]:
    return [
        parse_message(json.loads(row["text"]))
        for row in RECORDED
        if row["class"] == kind and row["recording"].startswith(recording)
    ]


# --- What real peers send -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row["recording"])
def test_recorded_message(row: dict[str, str]) -> None:
    value = jsontext.decode(row["text"], max_size=MAX_SIZE)
    message = parse_message(value)
    assert type(message) is getattr(protocol, row["class"])
    assert message.raw is value
    look_at_everything(message)


def test_recorded_results_of_all_generations_tell_the_same_box() -> None:
    assert {message.generation for message in recorded("DataMessage")} == set(Generation)
    boxes = [found.box for message in recorded("DataMessage") for found in message.detections()]
    assert boxes == [Box(632.0, 305.0, 800.0, 415.0)] * 3


def test_recorded_result_of_2020_09() -> None:
    message = recorded("DataMessage", "deepio-02")[0]
    assert message.generation is Generation.DATA
    (detection,) = message.detections()
    assert (detection.id, detection.class_name) == ("1", "small_vehicle")
    assert detection.attributes == {}
    assert message.frame_attributes == {}
    assert message.detector_category is None
    assert (message.received_frames, message.processed_frames, message.generated_frames) == (0, 1, 2)
    assert message.messages_sent == 1
    assert message.last_frame_shape == (720, 1280, 3)
    assert message.round_trip == 0.0
    assert message.deep_delay == 0.12416481971740723
    assert message.processing_period == 0.15938949584960938
    assert message.collector_time == 1795353225.0585625
    assert message.vc_time == 1795353224.9385626
    assert message.rec_time == 1795353225.0627275


def test_recorded_result_of_2020_11() -> None:
    message = recorded("DataMessage", "deepio-02")[1]
    assert message.generation is Generation.OBJECTS
    (detection,) = message.detections()
    assert detection.class_name == "face"
    assert detection.points[1] == Keypoint(660.0, 310.0, "right_eye")
    assert detection.attributes["age"] == Attribute(value="(25, 32)", vc_time=None)
    assert message.frame_attributes == {"clothing": Attribute(value=["shirt"], vc_time=None)}


def test_recorded_result_of_v1_0_16() -> None:
    (message,) = recorded("DataMessage", "deepio-06")
    assert message.generation is Generation.TIMED_OBJECTS
    (detection,) = message.detections()
    assert detection.attributes["gender"] == Attribute(value="Male", vc_time=1795353319.0574489)
    assert message.frame_attributes == {"clothing": Attribute(value=["shirt"], vc_time=1795353318.8574488)}
    assert message.detector_category == "face"


def test_recorded_messages_of_other_types() -> None:
    assert recorded("AcknowledgeMessage") == [
        AcknowledgeMessage(rec_time=1795353324.7484703, messages_received=1, browser_time=1.0),
        AcknowledgeMessage(rec_time=1.5),
    ]
    assert recorded("MetadataMessage") == [
        MetadataMessage(metadata={"url": "rtsp://camera"}),
        MetadataMessage(metadata=None),
        MetadataMessage(metadata=None),
    ]
    assert recorded("SourceMessage") == [SourceMessage(peer_id="cam1")]
    assert [message.reason for message in recorded("SourceDisconnectedMessage")] == [
        "remote disconnection",
        "Remote peer does not exists!",
    ]
    assert recorded("WarningMessage")[1] == WarningMessage(text="Stream manager deactivated")
    assert recorded("ErrorMessage")[0].text.startswith("No data from DEEP since ")
    assert [message.type for message in recorded("UnknownMessage")] == [None, "hello", None, None, None]


# --- The generation and its objects -------------------------------------------------------------------------

PLAIN = {"pid": "1", "gender": "Male"}
TIMED = {"pid": "1", "gender": {"value": "Male", "vc_time": 1.5}}


@pytest.mark.parametrize(
    ("raw", "generation", "found"),
    [
        ({}, None, 0),
        ({"objects": 7}, None, 0),
        ({"objects": None, "data": {}}, None, 0),
        ({"data": []}, Generation.DATA, 0),
        ({"data": [PLAIN, 7]}, Generation.DATA, 1),
        ({"data": [PLAIN], "objects": None}, Generation.DATA, 1),
        ({"data": [PLAIN], "frame_attributes": {"clothing": ["shirt"]}}, Generation.DATA, 1),
        ({"objects": []}, Generation.OBJECTS, 0),
        ({"objects": [], "frame_attributes": {"clothing": ["shirt"]}}, Generation.OBJECTS, 0),
        ({"objects": [PLAIN, 7], "data": [PLAIN, PLAIN]}, Generation.OBJECTS, 1),
        ({"objects": [], "data": [PLAIN]}, Generation.OBJECTS, 0),
        ({"objects": "none", "data": [PLAIN]}, Generation.DATA, 1),
        ({"objects": [PLAIN], "frame_attributes": 7}, Generation.OBJECTS, 1),
        ({"objects": [PLAIN, 7, TIMED]}, Generation.TIMED_OBJECTS, 2),
        ({"objects": [], "frame_attributes": {"x": {"value": 1, "vc_time": 2}}}, Generation.TIMED_OBJECTS, 0),
        ({"objects": [], "detector_category": "face"}, Generation.TIMED_OBJECTS, 0),
    ],
)
def test_generation(raw: dict[str, Any], generation: Generation | None, found: int) -> None:
    message = parse_message({"type": "data", **raw})
    assert isinstance(message, DataMessage)
    assert message.generation is generation
    assert len(message.detections()) == found


# --- Tolerant in --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{}, {"of wrong kind": True}], ids=["missing", "wrong"])
@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        ("metadata", None, MetadataMessage(metadata=None)),
        ("source", "peerId", SourceMessage(peer_id=None)),
        ("source-disconnected", "reason", SourceDisconnectedMessage(reason=None)),
        ("acknowledge", "rec_time", AcknowledgeMessage(rec_time=None)),
        ("acknowledge", "messages_received", AcknowledgeMessage(rec_time=None)),
        ("acknowledge", "browser_time", AcknowledgeMessage(rec_time=None)),
        ("warning", "messagge", WarningMessage(text=None)),
        ("error", "messagge", ErrorMessage(text=None)),
    ],
)
def test_missing_and_wrong_fields_are_none(
    kind: str, key: str | None, wrong: dict[str, Any], expected: Message
) -> None:
    raw: Any = {"type": kind, "extra": [1]}
    if wrong and key:
        raw[key] = wrong
    message = parse_message(raw)
    assert message == expected
    assert message.raw is raw


@pytest.mark.parametrize("wrong", [None, True, "7", ["7"], {"a": 7}, float("nan")])
def test_wrong_statistics_are_none(wrong: Any) -> None:
    names = ["received_frames", "processed_frames", "generated_frames", "messages_sent", "last_frame_shape"]
    names += ["round_trip", "deep_delay", "processing_period", "collector_time", "vc_time", "rec_time"]
    message = DataMessage(raw={"type": "data", **dict.fromkeys(names, wrong)})
    assert {name: getattr(message, name) for name in names} == dict.fromkeys(names)
    assert acknowledgement(message) is None
    assert DataMessage(raw={"detector_category": 7}).detector_category is None


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([720, 1280, 3], (720, 1280, 3)),
        ([720, 1280], (720, 1280)),
        ([], None),
        ([720, None, 3], None),
        ([720.0, 1280.0, 3.0], None),
        ("720x1280", None),
    ],
)
def test_last_frame_shape(shape: Any, expected: tuple[int, ...] | None) -> None:
    assert DataMessage(raw={"last_frame_shape": shape}).last_frame_shape == expected


@pytest.mark.parametrize(("kind", "made"), [("warning", WarningMessage), ("error", ErrorMessage)])
def test_both_spellings_of_message_are_read(kind: str, made: Callable[..., Message]) -> None:
    assert parse_message({"type": kind, "messagge": "late"}) == made(text="late")
    assert parse_message({"type": kind, "message": "late"}) == made(text="late")
    assert parse_message({"type": kind, "messagge": "", "message": "late"}) == made(text="")
    assert parse_message({"type": kind, "messagge": 7, "message": "late"}) == made(text="late")


@pytest.mark.parametrize("value", [None, True, 5, 1.5, "data", [1, 2], [{"type": "data"}], {}, {"x": 1}])
def test_what_is_no_deep_message_passes_through(value: Any) -> None:
    assert parse_message(value) == UnknownMessage(type=None, raw=value)


@pytest.mark.parametrize("kind", [None, 5, True, ["data"], {"type": "data"}])
def test_a_type_that_is_no_string_passes_through(kind: Any) -> None:
    assert parse_message({"type": kind}) == UnknownMessage(type=None, raw={"type": kind})


@pytest.mark.parametrize("kind", ["source-error", "source-disconnecting", "Data", "", "\ud800"])
def test_unknown_types_pass_through(kind: str) -> None:
    raw: Any = {"type": kind, "error": "x"}
    message = parse_message(raw)
    assert message == UnknownMessage(type=kind, raw={**raw})
    assert message.raw is raw
    assert to_json(message) == raw


@given(any_json | typed(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(KEYS), any_json)))
def test_any_json_value_makes_a_message(value: Any) -> None:
    before = repr(value)
    message = parse_message(value)
    assert message.raw is value
    look_at_everything(message)
    assert repr(value) == before


@given(st.binary() | st.text() | st.builds(json.dumps, any_json))
def test_any_text_makes_a_message_or_the_documented_error(text: str | bytes) -> None:
    try:
        value = jsontext.decode(text, max_size=MAX_SIZE)
    except RemoteProtocolError:
        return
    look_at_everything(parse_message(value))


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"type":"data","objects":' + "[" * 65 + "]" * 65 + "}"])
def test_nesting_bombs_end_in_the_documented_error(bomb: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_message(jsontext.decode(bomb, max_size=MAX_SIZE))


def test_ten_megabytes_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        parse_message(jsontext.decode(b'{"type":"%s"}' % (b"x" * 10_000_000), max_size=MAX_SIZE))


def test_huge_integers_in_every_field() -> None:
    raw: Any = {**dict.fromkeys(KEYS, HUGE), "type": "data", "objects": [dict.fromkeys(KEYS, HUGE)]}
    message = parse_message(raw)
    look_at_everything(message)
    assert isinstance(message, DataMessage)
    assert message.vc_time is None
    assert message.rec_time == HUGE
    assert message.received_frames == HUGE


def test_the_last_of_duplicate_keys_counts() -> None:
    value = jsontext.decode('{"type":"data","type":"metadata","metadata":1,"metadata":2}', max_size=MAX_SIZE)
    assert parse_message(value) == MetadataMessage(metadata=2)


def test_a_lone_surrogate_goes_in_and_out() -> None:
    value = jsontext.decode(r'{"type":"warning","messagge":"\ud800"}', max_size=MAX_SIZE)
    message = parse_message(value)
    assert message == WarningMessage(text="\ud800")
    assert jsontext.encode(to_json(message)).isascii()


# --- Strict out ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (MetadataMessage(metadata=None), {"type": "metadata", "metadata": None}),
        (SourceMessage(peer_id="none"), {"type": "source", "peerId": "none"}),
        (SourceDisconnectedMessage(reason="gone"), {"type": "source-disconnected", "reason": "gone"}),
        (AcknowledgeMessage(rec_time=1.5), {"type": "acknowledge", "rec_time": 1.5}),
        (
            AcknowledgeMessage(rec_time=0, messages_received=0, browser_time=0.0),
            {"type": "acknowledge", "rec_time": 0, "messages_received": 0, "browser_time": 0.0},
        ),
        (WarningMessage(text="late"), {"type": "warning", "messagge": "late"}),
        (ErrorMessage(text="no data"), {"type": "error", "messagge": "no data"}),
        (DataMessage(raw={"type": "data", "objects": []}), {"type": "data", "objects": []}),
        (DataMessage(raw=MappingProxyType({"type": "data"})), {"type": "data"}),
        (UnknownMessage(type="hello", raw={"type": "hello"}), {"type": "hello"}),
    ],
)
def test_sent_as(message: Message, expected: dict[str, Any]) -> None:
    sent = to_json(message)
    assert sent == expected
    assert type(sent) is dict


@pytest.mark.parametrize(
    "message",
    [
        SourceMessage(peer_id=None),
        SourceDisconnectedMessage(reason=None),
        WarningMessage(text=None),
        ErrorMessage(text=None),
        AcknowledgeMessage(rec_time=None),
        AcknowledgeMessage(rec_time=True),
        AcknowledgeMessage(rec_time=float("nan")),
        AcknowledgeMessage(rec_time=float("inf")),
        DataMessage(raw={}),
        DataMessage(raw={"type": "metadata", "metadata": 1}),
        UnknownMessage(type=None, raw={"x": 1}),
        UnknownMessage(type=None, raw={}),
        UnknownMessage(type=None, raw=5),
        UnknownMessage(type="hello", raw=[1]),
        UnknownMessage(type="hello", raw={"type": "data"}),
    ],
    ids=repr,
)
def test_what_no_deep_peer_could_read_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        to_json(message)


def test_what_is_sent_does_not_change_the_message() -> None:
    raw: Any = {"type": "data", "objects": []}
    to_json(DataMessage(raw=raw))["added"] = 1
    assert raw == {"type": "data", "objects": []}


@given(sendable)
def test_sent_and_read_again(message: Message) -> None:
    text = jsontext.encode(to_json(message))
    assert parse_message(jsontext.decode(text, max_size=MAX_SIZE)) == message


# --- The acknowledge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rec_time", ["1795353225.0627275", "1.5", "0", "-0.0", "9007199254740993", "1e300"])
def test_rec_time_is_echoed_without_loss(rec_time: str) -> None:
    message = parse_message(jsontext.decode(f'{{"type":"data","rec_time":{rec_time}}}', max_size=MAX_SIZE))
    assert isinstance(message, DataMessage)
    echo = acknowledgement(message)
    assert echo is not None
    assert f'"rec_time":{rec_time.replace("1e300", "1e+300")}' in jsontext.encode(to_json(echo))


def test_rec_time_of_any_size_is_echoed() -> None:
    assert acknowledgement(DataMessage(raw={"rec_time": HUGE + 1})) == AcknowledgeMessage(rec_time=HUGE + 1)


@pytest.mark.parametrize(
    "raw",
    [{}, *({"rec_time": value} for value in (None, True, "1.5", [1.5], float("nan"), float("inf")))],
    ids=repr,
)
def test_nothing_to_acknowledge_without_a_rec_time(raw: Any) -> None:
    assert acknowledgement(DataMessage(raw=raw)) is None


# --- Secrets, and the fuzzer --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["metadata", "data", "other"])
def test_no_repr_shows_what_an_application_put_into_a_message(kind: str) -> None:
    message = parse_message({"type": kind, "metadata": {"url": "rtsp://user:secret@camera"}})
    assert "secret" not in repr(message)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {"type": "data", "detector_category": "face", "objects": [{}, 1], "vc_time": 1.5, "rec_time": 2},
            "DataMessage('face', 1 detections, vc_time=1.5, rec_time=2)",
        ),
        ({"type": "data"}, "DataMessage(None, 0 detections, vc_time=None, rec_time=None)"),
        ({"type": "metadata", "metadata": {"url": "secret"}}, "MetadataMessage(dict of 1)"),
        ({"type": "metadata", "metadata": None}, "MetadataMessage(NoneType)"),
        ({"type": "x" * 40}, f"UnknownMessage('{'x' * 40}', dict of 1)"),
        ({"type": "x" * 41}, f"UnknownMessage('{'x' * 40}...', dict of 1)"),
        ([1, 2], "UnknownMessage(None, list of 2)"),
        ("hello", "UnknownMessage(None, str of 5)"),
        (5, "UnknownMessage(None, int)"),
    ],
)
def test_a_repr_says_what_the_message_is_and_no_more(value: Any, shown: str) -> None:
    assert repr(parse_message(value)) == shown


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_fuzz_corpus(path: Path) -> None:
    fuzz_messages.check(path.read_bytes())


def test_the_fuzz_corpus_is_there() -> None:
    assert len(CORPUS) >= 10
