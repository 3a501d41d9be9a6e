"""The oracle notices: for each rule, a machine that breaks it and one that just does not."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from deepio_core import inputs, outputs
from deepio_core.messages import DataMessage, UnknownMessage
from deepio_core.outputs import Cause
from deepio_core.session import MessageReceived, SessionEnded
from deepio_core.states import STATE_OF, PeerState, Stage
from deepio_core.testing import PeerWatch, SessionWatch, ViolationError, Watch


@dataclass
class Pose:
    """A machine, as far as a watch looks at it."""

    stage: Stage
    deadline: float | None = None

    @property
    def state(self) -> PeerState:
        return STATE_OF[self.stage]


@dataclass
class Took:
    """An input among outputs."""

    event: object


def changed(old: PeerState, new: PeerState) -> outputs.StateChanged:
    return outputs.StateChanged(old=old, new=new)


def watch(steps: Sequence[object], *, session: bool = False) -> Watch:
    """Let a watch see it all."""
    watch = SessionWatch() if session else PeerWatch()
    for step in steps:
        match step:
            case Took(event):
                watch.took(event)
            case Pose():
                watch.rested(step, 100.0)
            case _:
                watch.said(step)
    return watch


S = PeerState
BOB = "bob"
OPEN = outputs.OpenSignaling(link=1)
ONLINE = [OPEN, Took(inputs.SignalingOpened()), changed(S.STARTING, S.ONLINE)]
CALLING = [*ONLINE, Took(inputs.Connect(remote_id=BOB)), changed(S.ONLINE, S.CONNECTING)]
START = outputs.StartEngine(negotiation=1, remote_id=BOB, offerer=False)
CONNECTED = outputs.Connected(remote_id=BOB, negotiation=1)
TOGETHER = [*CALLING, START, changed(S.CONNECTING, S.CONNECTED), CONNECTED]
FAILED = outputs.ConnectionFailed(remote_id=BOB, cause=Cause.BUSY)
DISCONNECTED = outputs.Disconnected(remote_id=BOB, cause=Cause.LOCAL)
CLOSE_ENGINE = outputs.CloseEngine(negotiation=1)
CLOSE_LINK = outputs.CloseSignaling(link=1)
DATA = outputs.DataReceived(data=1)
LIST = Took(inputs.ListPeers())
LISTED = outputs.PeersListed(peers=())
NOT_LISTED = outputs.PeersNotListed(cause=Cause.LOCAL)
END = outputs.PeerClosed(cause=Cause.LOCAL)
ACKNOWLEDGE = outputs.SendChannel(negotiation=1, text='{"type":"acknowledge","rec_time":1}')
RESULT = MessageReceived(message=DataMessage(raw={"type": "data", "rec_time": 1}))
SESSION_END = SessionEnded(cause=Cause.LOCAL)
CALLED = [OPEN, Took(inputs.SignalingOpened()), changed(S.STARTING, S.ONLINE), changed(S.ONLINE, S.CONNECTING)]
MET = [*CALLED, START, changed(S.CONNECTING, S.CONNECTED), CONNECTED]


@pytest.mark.parametrize(
    "steps",
    [
        [
            OPEN,
            Took(inputs.SignalingFailed(cause=Cause.UNREACHABLE)),
            changed(S.STARTING, S.CLOSED),
            END,
            Pose(Stage.CLOSED),
        ],
        [*ONLINE, LIST, LISTED, LIST, NOT_LISTED, Pose(Stage.ONLINE)],
        [*ONLINE, LIST, Pose(Stage.ONLINE, 105.0)],
        [*CALLING, outputs.SendSignaling(link=1, text=""), Pose(Stage.PAIRING, 105.0)],
        [*ONLINE, changed(S.ONLINE, S.CONNECTING), outputs.ConnectionRequested(remote_id=BOB), FAILED],
        [*TOGETHER, DATA, Pose(Stage.CONNECTED), CLOSE_ENGINE, DISCONNECTED, Took(inputs.EngineClosed(negotiation=1))],
        [*TOGETHER, CLOSE_ENGINE, CLOSE_LINK, DISCONNECTED, END],
        [*TOGETHER, Took(inputs.Activity(negotiation=1)), outputs.ApplyCandidate(negotiation=1, candidate=None)],
    ],
)
def test_a_peer_that_keeps_the_rules(steps: list[object]) -> None:
    watch(steps)


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("states follow each other", [changed(S.ONLINE, S.LISTENING)]),
        ("states follow each other", [changed(S.STARTING, S.STARTING)]),
        ("StateChanged has told", [OPEN, Pose(Stage.ONLINE)]),
        ("Connected answers a request", [*ONLINE, CONNECTED]),
        ("Connected answers a request", [*TOGETHER, CONNECTED]),
        ("Connected names the peer", [*CALLING, outputs.Connected(remote_id="eve", negotiation=1)]),
        ("ConnectionFailed answers a request", [*CALLING, FAILED, FAILED]),
        ("one connection at a time", [*CALLING, Took(inputs.Connect(remote_id="eve"))]),
        ("one connection at a time", [*TOGETHER, outputs.ConnectionRequested(remote_id="eve")]),
        ("a request is open just while", [*CALLING, FAILED, Pose(Stage.PAIRING, 101.0)]),
        ("Disconnected follows Connected", [*CALLING, DISCONNECTED]),
        ("Disconnected names the peer", [*TOGETHER, outputs.Disconnected(remote_id="eve", cause=Cause.LOCAL)]),
        ("Connected and CONNECTED go together", [*TOGETHER, DISCONNECTED, Pose(Stage.CONNECTED)]),
        ("DataReceived comes between", [*CALLING, DATA]),
        ("DataIgnored comes between", [*TOGETHER, DISCONNECTED, outputs.DataIgnored(detail="")]),
        ("SignalingLost comes between", [*CALLING, outputs.SignalingLost()]),
        ("there is a deadline", [*CALLING, Pose(Stage.PAIRING)]),
        ("no deadline is far away", [*CALLING, Pose(Stage.PAIRING, 1000.0)]),
        ("every ListPeers is answered once", [*ONLINE, LIST, LISTED, NOT_LISTED]),
        ("every ListPeers is answered before the end", [*ONLINE, LIST, CLOSE_LINK, END]),
        ("an unanswered ListPeers has a deadline", [*ONLINE, LIST, Pose(Stage.ONLINE)]),
        ("a request is answered before the end", [*CALLING, CLOSE_LINK, END]),
        ("Disconnected comes before the end", [*TOGETHER, CLOSE_ENGINE, CLOSE_LINK, END]),
        ("no engine is open when the machine ends", [*TOGETHER, DISCONNECTED, CLOSE_LINK, END]),
        ("no link is open when the machine ends", [*ONLINE, END]),
        ("no link is open when the machine ends", [OPEN, END]),
        ("no link is open when a new link", [*ONLINE, outputs.OpenSignaling(link=2)]),
        ("link numbers grow", [OPEN, OPEN]),
        ("nothing comes after the end", [*ONLINE, CLOSE_LINK, END, END]),
        ("PeerClosed is told on reaching CLOSED", [*ONLINE, CLOSE_LINK, END, Pose(Stage.ONLINE)]),
        ("signals are sent while the link is open", [OPEN, outputs.SendSignaling(link=1, text="")]),
        ("signals are sent while the link is open", [*ONLINE, CLOSE_LINK, outputs.SendSignaling(link=1, text="")]),
        ("a link is closed once", [*ONLINE, CLOSE_LINK, CLOSE_LINK]),
        ("a link is closed once", [*ONLINE, Took(inputs.SignalingClosed(code=1006)), CLOSE_LINK]),
        ("negotiation numbers grow", [START, CLOSE_ENGINE, START]),
        (
            "an engine is closed before the next",
            [START, outputs.StartEngine(negotiation=2, remote_id="", offerer=True)],
        ),
        ("an engine is closed once", [START, CLOSE_ENGINE, CLOSE_ENGINE]),
        ("an engine is closed once", [START, Took(inputs.EngineClosed(negotiation=1)), CLOSE_ENGINE]),
        ("effects go to the open engine", [outputs.ApplyOffer(negotiation=1, sdp="")]),
        ("effects go to the open engine", [START, CLOSE_ENGINE, outputs.ApplyAnswer(negotiation=1, sdp="")]),
        ("effects go to the open engine", [*TOGETHER, CLOSE_ENGINE, outputs.SendChannel(negotiation=1, text="")]),
    ],
)
def test_a_peer_that_breaks_a_rule(rule: str, steps: list[object]) -> None:
    watch(steps[:-1])
    with pytest.raises(ViolationError, match=rule):
        watch(steps)


@pytest.mark.parametrize(
    "steps",
    [
        [OPEN, Pose(Stage.STARTING, 105.0)],
        [OPEN, Took(inputs.SignalingOpened()), changed(S.STARTING, S.ONLINE), Pose(Stage.ONLINE, 101.0)],
        [*MET, ACKNOWLEDGE, RESULT, Pose(Stage.CONNECTED)],
        [*MET, MessageReceived(message=DataMessage(raw={"type": "data"}))],
        [*MET, MessageReceived(message=UnknownMessage(type=None, raw=1))],
        [*CALLED, changed(S.CONNECTING, S.ONLINE), FAILED, changed(S.ONLINE, S.LISTENING), Pose(Stage.LISTENING)],
        [OPEN, CLOSE_LINK, changed(S.STARTING, S.CLOSED), SESSION_END, Pose(Stage.CLOSED)],
    ],
)
def test_a_session_that_keeps_the_rules(steps: list[object]) -> None:
    watch(steps, session=True)


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ("a session that has not ended", [OPEN, CLOSE_LINK, changed(S.STARTING, S.CLOSED), Pose(Stage.CLOSED)]),
        ("a result is acknowledged, once", [*MET, RESULT]),
        ("a result is acknowledged, once", [*MET, ACKNOWLEDGE, ACKNOWLEDGE, RESULT]),
        ("MessageReceived comes between", [OPEN, RESULT]),
        ("keeps DataReceived to itself", [*MET, DATA]),
        ("keeps PeersListed to itself", [OPEN, LISTED]),
        ("keeps PeersNotListed to itself", [OPEN, NOT_LISTED]),
        ("keeps PeerClosed to itself", [OPEN, CLOSE_LINK, END]),
        ("no link is open", [OPEN, SESSION_END]),
        ("nothing comes after the end", [OPEN, CLOSE_LINK, SESSION_END, SESSION_END]),
    ],
)
def test_a_session_that_breaks_a_rule(rule: str, steps: list[object]) -> None:
    watch(steps[:-1], session=True)
    with pytest.raises(ViolationError, match=rule):
        watch(steps, session=True)
