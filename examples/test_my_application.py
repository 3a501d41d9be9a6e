"""How to test what an application does about the protocol: no network, no event loop, no sleep.

`Doorkeeper` is the application: it counts faces, shows a status, and gives up only when it must. The tests put it on a
session in a `Lab`, and let happen what is hard to arrange with a real DEEP server. All of them take milliseconds.

    pytest examples/test_my_application.py
"""

from typing import Any

import pytest

from deepio_core.detections import Box
from deepio_core.messages import DataMessage, ErrorMessage, Generation, WarningMessage
from deepio_core.outputs import Connected, Disconnected
from deepio_core.policy import ConnectFirst, ConnectTo, ListenForCallers
from deepio_core.session import MessageReceived, Retrying, SendMetadata, SessionEnded, Stop
from deepio_core.testing import Lab, SeenObject


class Doorkeeper:
    """Counts the faces at the door, and tells people how it is."""

    def __init__(self) -> None:
        self.status = "looking for a core"
        self.faces: set[str] = set()
        self.alarms: list[str] = []

    def on_event(self, event: Any) -> None:
        match event:
            case Connected(remote_id=core):
                self.status = f"watching with {core}"
            case MessageReceived(message=DataMessage() as result):
                self.faces |= {seen.id for seen in result.detections() if seen.id and seen.class_name == "face"}
            case MessageReceived(message=WarningMessage(text=text) | ErrorMessage(text=text)):
                self.alarms.append(text or "")
            case Disconnected():
                self.status = "blind"
            case Retrying(cause=cause):
                self.status = f"waiting: {cause}"
            case SessionEnded(remedy=remedy):
                self.status = f"stopped. {remedy}".strip()
            case _:
                pass


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def app() -> Doorkeeper:
    return Doorkeeper()


def one_face_more_each_second(frame: int) -> list[SeenObject]:
    """What the core sees at 10 frames a second."""
    return [
        SeenObject(id=str(number), class_name="face", box=Box(10, 10, 50, 60), attributes={"age": 30})
        for number in range(1 + frame // 10)
    ]


@pytest.mark.parametrize("generation", Generation)
def test_counts_faces_of_every_generation_of_deep(lab: Lab, app: Doorkeeper, generation: Generation) -> None:
    core = lab.deep_core("sm1", fps=10, detect=one_face_more_each_second, generation=generation)
    lab.session("door", metadata={"place": "front door"}, on_event=app.on_event)
    lab.run_until(lambda: app.faces == {"0", "1", "2"})
    assert app.status == "watching with sm1"
    assert core.metadata == {"place": "front door"}
    assert core.round_trips


def test_metadata_changed_on_the_way(lab: Lab, app: Doorkeeper) -> None:
    core = lab.deep_core("sm1")
    session = lab.session("door", metadata="day", on_event=app.on_event)
    lab.run_until(lambda: core.metadata == "day")
    session.handle(SendMetadata(metadata="night"))
    lab.run_until(lambda: core.metadata == "night", within=0.1)


def test_the_core_leaves_and_takes_us_again(lab: Lab, app: Doorkeeper) -> None:
    core = lab.deep_core("sm1")
    lab.session("door", on_event=app.on_event)
    lab.run_until(lambda: core.client_id == "door")
    core.leave()
    lab.run_until(lambda: app.status.startswith("waiting"))
    lab.run_until(lambda: app.status == "watching with sm1", within=5.0)


def test_the_network_to_the_core_is_gone(lab: Lab, app: Doorkeeper) -> None:
    core = lab.deep_core("sm1")
    lab.session("door", on_event=app.on_event)
    lab.run_until(lambda: core.client_id == "door")
    core.go_silent()
    lab.run_until(lambda: app.status == "waiting: silence", within=10.0)
    lab.run_until(lambda: app.status == "watching with sm1")


def test_the_core_is_busy_for_an_hour(lab: Lab, app: Doorkeeper) -> None:
    core = lab.deep_core("sm1", busy=True)
    lab.session("door", ConnectTo(remote_id="sm1"), on_event=app.on_event)
    lab.run(3600.0)
    assert app.status == "waiting: busy"
    core.be_free()
    lab.run_until(lambda: app.status == "watching with sm1", within=2.0)


def test_nobody_of_the_wanted_type_is_there(lab: Lab, app: Doorkeeper) -> None:
    lab.deep_core("old", "stream_manager")
    lab.session("door", ConnectFirst(peer_types=("deep_input",)), on_event=app.on_event)
    lab.run(60.0)
    assert app.status == "looking for a core"
    lab.deep_core("new", "deep_input")
    lab.run_until(lambda: app.status == "watching with new", within=2.0)


def test_warnings_and_errors_reach_the_application(lab: Lab, app: Doorkeeper) -> None:
    core = lab.deep_core("sm1")
    lab.session("door", on_event=app.on_event)
    lab.run_until(lambda: core.client_id == "door")
    core.warn("High processing period")
    core.give_up("No data from DEEP")
    lab.run_until(lambda: app.status.startswith("waiting"))
    assert app.alarms == ["High processing period", "No data from DEEP"]


def test_a_refused_key_is_not_tried_again(lab: Lab, app: Doorkeeper) -> None:
    lab.keys = {"door": "right"}
    session = lab.session("door", key="wrong", on_event=app.on_event)
    lab.run(600.0)
    assert app.status == "stopped. Give the key that the server expects for this type and id."
    assert len(session.links) == 1


def test_the_server_restarts_while_results_come(lab: Lab, app: Doorkeeper) -> None:
    lab.deep_core("sm1", fps=10, detect=one_face_more_each_second)
    session = lab.session("door", on_event=app.on_event)
    lab.run_until(lambda: app.faces)
    lab.stop_server()
    lab.run(10.0)
    # Data and media do not need the server.
    assert app.status == "watching with sm1"
    assert len(app.faces) > 5
    lab.start_server()
    session.handle(Stop())
    lab.run_until(lambda: app.status == "stopped.")


def test_the_core_crashes_and_comes_back(lab: Lab, app: Doorkeeper) -> None:
    core = lab.deep_core("sm1")
    lab.session("door", on_event=app.on_event)
    lab.run_until(lambda: core.client_id == "door")
    core.crash()
    lab.run_until(lambda: app.status.startswith("waiting"))
    lab.run_until(lambda: app.status == "watching with sm1")


def test_called_instead_of_calling(lab: Lab, app: Doorkeeper) -> None:
    lab.session("door", ListenForCallers(), on_event=app.on_event)
    lab.session("viewer", ConnectTo(remote_id="door"))
    lab.run_until(lambda: app.status == "watching with viewer")
