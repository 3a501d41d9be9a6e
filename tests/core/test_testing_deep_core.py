"""The fake DEEP core: what it sends in each generation, and how it misbehaves."""

from typing import Any

import pytest

from deepio_core import outputs
from deepio_core.detections import Box
from deepio_core.messages import (
    DataMessage,
    ErrorMessage,
    Generation,
    MetadataMessage,
    SourceDisconnectedMessage,
    SourceMessage,
    UnknownMessage,
    WarningMessage,
)
from deepio_core.outputs import Cause
from deepio_core.policy import ConnectTo
from deepio_core.session import MessageReceived, Retrying, SendMessage
from deepio_core.states import PeerState
from deepio_core.testing import FakeDeepCore, Lab, SeenObject, SessionNode
from deepio_core.testing.deep_core import encode_result

FACE = SeenObject(
    id="7",
    class_name="face",
    box=Box(1.0, 2.0, 30.0, 40.0),
    points=((5.0, 6.0, "left_eye"),),
    attributes={"age": "(25, 32)"},
)


class Pair:
    """A core and its client."""

    def __init__(self, **settings: Any) -> None:
        self.lab = Lab()
        self.core = self.lab.deep_core("sm1", **settings)
        self.lab.run(0.0)
        self.client = self.lab.session("cam1", ConnectTo(remote_id="sm1"), metadata={"place": "door"})
        self.lab.run_until(lambda: self.core.metadata is not None)

    def arrives(self, kind: type[object]) -> Any:
        self.lab.run_until(lambda: any(isinstance(message, kind) for message in self.messages), within=1.0)
        return next(message for message in self.messages if isinstance(message, kind))

    def ends(self) -> Cause:
        self.lab.run_until(lambda: any(isinstance(event, Retrying) for event in self.client.events))
        return next(event.cause for event in self.client.events if isinstance(event, Retrying))

    def comes_back(self) -> None:
        self.lab.run_until(lambda: self.core.client_id == "cam1" and self.connected)

    @property
    def connected(self) -> bool:
        return self.client.session.state is PeerState.CONNECTED

    @property
    def messages(self) -> list[object]:
        return [event.message for event in self.client.events if isinstance(event, MessageReceived)]


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.mark.parametrize("generation", Generation)
def test_results_of_every_generation(generation: Generation) -> None:
    pair = Pair(generation=generation)
    pair.core.send_detections(FACE, frame_attributes={"people": 1})
    message = pair.arrives(DataMessage)
    assert message.generation is generation
    [seen] = message.detections()
    assert (seen.id, seen.class_name, seen.box) == ("7", "face", FACE.box)
    assert [(point.x, point.y, point.tag) for point in seen.points] == list(FACE.points)
    assert seen.attributes["age"].value == "(25, 32)"
    timed = generation is Generation.TIMED_OBJECTS
    assert seen.attributes["age"].vc_time == (message.vc_time if timed else None)
    assert ("people" in message.frame_attributes) is (generation is not Generation.DATA)
    assert message.detector_category == ("face" if timed else None)
    assert message.messages_sent == 1


def test_a_result_without_frame_attributes() -> None:
    result = encode_result([], generation=Generation.OBJECTS, vc_time=1.0)
    assert result == {"objects": [], "frame_attributes": {}}


def test_results_are_acknowledged() -> None:
    pair = Pair(fps=10, detect=lambda frame: [FACE] * frame)
    pair.lab.run(1.05)
    assert pair.core.frames == 10
    assert pair.core.round_trips == [0.0] * 10
    assert pair.core.unacknowledged == []
    assert [len(message.detections()) for message in pair.messages if isinstance(message, DataMessage)] == [
        *range(1, 11)
    ]


def test_what_the_client_says_is_kept(pair: Pair) -> None:
    pair.client.handle(SendMessage(message={"type": "note"}))
    pair.client.handle(SendMessage(message={"type": "acknowledge", "rec_time": 1}))
    pair.lab.run(0.0)
    assert [type(message) for message in pair.core.received[:3]] == [SourceMessage, MetadataMessage, UnknownMessage]
    assert (pair.core.source_id, pair.core.metadata) == ("cam1", {"place": "door"})
    assert pair.core.round_trips == []
    assert pair.core.id == "sm1"


def test_messages_beside_results(pair: Pair) -> None:
    pair.core.warn("late")
    assert pair.arrives(WarningMessage).text == "late"
    pair.core.lose_source("gone")
    assert pair.arrives(SourceDisconnectedMessage).reason == "gone"
    pair.core.send_text("no JSON")
    pair.lab.run(0.0)
    assert isinstance(pair.client.events[-1], outputs.DataIgnored)


def test_gives_up_after_its_last_word(pair: Pair) -> None:
    pair.core.give_up("no data")
    assert pair.arrives(ErrorMessage).text == "no data"
    assert pair.ends() in {Cause.REMOTE_LEFT, Cause.REMOTE_CLOSED}
    pair.comes_back()


def test_leaves_and_listens_again(pair: Pair) -> None:
    pair.core.leave()
    assert pair.ends() in {Cause.REMOTE_LEFT, Cause.REMOTE_CLOSED}
    pair.comes_back()


def test_goes_silent(pair: Pair) -> None:
    pair.core.go_silent()
    assert pair.ends() is Cause.SILENCE
    pair.comes_back()


@pytest.mark.parametrize("settings", [{}, {"fps": 5}])
def test_crashes(settings: dict[str, Any]) -> None:
    pair = Pair(**settings)
    pair.core.crash()
    assert pair.core.client_id is None
    assert pair.ends() is Cause.REMOTE_LEFT
    pair.comes_back()


def test_is_busy_until_it_is_free(pair: Pair) -> None:
    pair.core.be_busy()
    pair.lab.run(10.0)
    assert not pair.connected
    assert pair.client.events[-1].cause is Cause.BUSY
    pair.core.be_free()
    pair.comes_back()


def test_is_free_as_soon_as_it_is_back(pair: Pair) -> None:
    pair.core.be_busy()
    pair.core.be_free()
    pair.comes_back()


def test_never_offers(pair: Pair) -> None:
    pair.core.offers = False
    pair.core.leave()
    pair.lab.run(30.0)
    assert Cause.NO_CONNECTION in {event.cause for event in pair.client.events if isinstance(event, Retrying)}
    pair.core.offers = True
    pair.comes_back()


def test_dials_again_when_its_link_breaks() -> None:
    lab = Lab()
    core = lab.deep_core("sm1")
    lab.run(1.0)
    lab.restart_server()
    lab.run(5.0)
    assert [peer.id for peer in lab.world.server.peers] == ["sm1"]
    assert not lab.world.server.peers[0].busy
    assert core.client_id is None


def test_with_nobody_there_is_nothing_to_misbehave_with() -> None:
    lab = Lab()
    core: FakeDeepCore = lab.deep_core("sm1")
    core.go_silent()
    core.send_text("hello")
    lab.run(1.0)
    assert core.received == []


def test_clients_come_one_at_a_time(pair: Pair) -> None:
    other: SessionNode = pair.lab.session("cam2", ConnectTo(remote_id="sm1"))
    pair.lab.run(10.0)
    assert pair.core.client_id == "cam1"
    assert other.session.state is not PeerState.CONNECTED
