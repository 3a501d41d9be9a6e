"""The rules that every peer and every session keeps, whatever befalls it.

A `Watch` sits beside one machine, sees what goes in and what comes out, and raises `ViolationError` when a rule is
broken. It knows the contract of the machines (the docstrings of `inputs` and `outputs`), and nothing of how they are
made.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, Protocol

from deepio_core import inputs, outputs
from deepio_core.messages import DataMessage, acknowledgement
from deepio_core.session import MessageReceived, SessionEnded
from deepio_core.states import PeerState, Stage

_WAITING: Final = frozenset({PeerState.STARTING, PeerState.CONNECTING, PeerState.DISCONNECTING, PeerState.CLOSING})
"""Where something is awaited, and so a deadline runs."""

_LONGEST_WAIT: Final = 60.0
"""No deadline is further away, seconds, with the settings that the tests use."""


class ViolationError(AssertionError):
    """A machine has broken a rule: a bug of deep-io, or of a test that feeds it what no driver may."""


class WatchedMachine(Protocol):
    """What a watch looks at."""

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` is due."""
        ...

    @property
    def state(self) -> PeerState:
        """The public state."""
        ...

    @property
    def stage(self) -> Stage:
        """What exactly is done or awaited."""
        ...


class _Life(Enum):
    """How far a connection, or an engine, has come."""

    OPENING = auto()
    OPEN = auto()
    CLOSING = auto()
    ENDED = auto()


class _Connections:
    """Whether effects fit: each link and each engine is opened once, used while it is open, and ended once."""

    def __init__(self) -> None:
        self._links: dict[int, _Life] = {}
        self._engines: dict[int, _Life] = {}

    def took(self, event: object) -> None:
        match event:
            case inputs.SignalingOpened(link=link) if self._links.get(link) is _Life.OPENING:
                self._links[link] = _Life.OPEN
            case inputs.SignalingFailed(link=link) | inputs.SignalingClosed(link=link):
                self._links[link] = _Life.ENDED
            case inputs.EngineClosed(negotiation=negotiation):
                self._engines[negotiation] = _Life.ENDED
            case _:
                pass

    def said(self, output: object) -> None:
        match output:
            case outputs.OpenSignaling(link=link):
                _demand(all(link > other for other in self._links), "link numbers grow")
                self.check_released("a new link is opened")
                self._links[link] = _Life.OPENING
            case outputs.SendSignaling(link=link):
                _demand(self._links[link] is _Life.OPEN, "signals are sent while the link is open")
            case outputs.CloseSignaling(link=link):
                _demand(
                    self._links[link] in {_Life.OPENING, _Life.OPEN}, "a link is closed once, and not after its end"
                )
                self._links[link] = _Life.CLOSING
            case outputs.StartEngine(negotiation=negotiation):
                _demand(all(negotiation > other for other in self._engines), "negotiation numbers grow")
                _demand(_Life.OPEN not in self._engines.values(), "an engine is closed before the next one starts")
                self._engines[negotiation] = _Life.OPEN
            case outputs.CloseEngine(negotiation=negotiation):
                _demand(self._engines[negotiation] is _Life.OPEN, "an engine is closed once, and not after its end")
                self._engines[negotiation] = _Life.CLOSING
            case (
                outputs.ApplyOffer(negotiation=negotiation)
                | outputs.ApplyAnswer(negotiation=negotiation)
                | outputs.ApplyCandidate(negotiation=negotiation)
                | outputs.SendChannel(negotiation=negotiation)
            ):
                _demand(self._engines.get(negotiation) is _Life.OPEN, "effects go to the open engine")
            case _:
                pass

    def check_released(self, moment: str) -> None:
        """Nothing is left open that nobody has been asked to close."""
        _demand(_Life.OPEN not in self._engines.values(), f"no engine is open when {moment}")
        lives = self._links.values()
        _demand(_Life.OPEN not in lives and _Life.OPENING not in lives, f"no link is open when {moment}")


class Watch:
    """The rules that a peer and a session share."""

    def __init__(self) -> None:
        self._connections = _Connections()
        self._state = PeerState.STARTING
        self._asked = False
        self._remote_id = ""
        self._connected = False
        self._ended = False

    def took(self, event: object) -> None:
        """The machine has taken an input, and nothing has come out yet."""
        self._connections.took(event)

    def said(self, output: object) -> None:
        """The machine has put out an effect or an event."""
        _demand(not self._ended, "nothing comes after the end")
        self._connections.said(output)
        match output:
            case outputs.StateChanged(old=old, new=new):
                _demand(old is self._state and new is not old, f"states follow each other: {self._state}, not {old}")
                self._state = new
            case outputs.Connected(remote_id=remote_id):
                self._answer("Connected", remote_id)
                self._remote_id = remote_id
                self._connected = True
            case outputs.ConnectionFailed(remote_id=remote_id):
                self._answer("ConnectionFailed", remote_id)
            case outputs.Disconnected(remote_id=remote_id):
                _demand(self._connected, "Disconnected follows Connected")
                _demand(remote_id == self._remote_id, "Disconnected names the peer that Connected named")
                self._connected = False
            case outputs.DataReceived() | outputs.DataIgnored() | outputs.SendChannel() | outputs.SignalingLost():
                _demand(self._connected, f"{type(output).__name__} comes between Connected and Disconnected")
            case _:
                pass

    def rested(self, machine: WatchedMachine, now: float) -> None:
        """The machine is drained."""
        _demand(machine.state is self._state, f"StateChanged has told of {machine.state}")
        _demand(self._connected is (machine.state is PeerState.CONNECTED), "Connected and CONNECTED go together")
        deadline = machine.deadline
        if machine.state in _WAITING:
            _demand(deadline is not None, f"there is a deadline while {machine.stage.value}")
        if deadline is not None:
            _demand(deadline <= now + _LONGEST_WAIT, "no deadline is far away")

    def ask(self, remote_id: str) -> None:
        """A connection has been asked for; the empty id stands for one that is not known."""
        _demand(not self._asked and not self._connected, "one connection at a time is asked for")
        self._asked = True
        self._remote_id = remote_id

    def end(self) -> None:
        """The last event has come."""
        _demand(not self._asked, "a request is answered before the end")
        _demand(not self._connected, "Disconnected comes before the end")
        self._connections.check_released("the machine ends")
        self._ended = True

    def _answer(self, event: str, remote_id: str) -> None:
        _demand(self._asked, f"{event} answers a request, exactly once")
        _demand(self._remote_id in {"", remote_id}, f"{event} names the peer that was asked for")
        self._asked = False


class PeerWatch(Watch):
    """The rules of a `Peer`."""

    def __init__(self) -> None:
        super().__init__()
        self._lists = 0

    def took(self, event: object) -> None:
        """A command that was accepted opens a question."""
        super().took(event)
        if isinstance(event, inputs.Connect):
            self.ask(event.remote_id)
        elif isinstance(event, inputs.ListPeers):
            self._lists += 1

    def said(self, output: object) -> None:
        """Every question is answered once."""
        super().said(output)
        match output:
            case outputs.ConnectionRequested(remote_id=remote_id):
                self.ask(remote_id)
            case outputs.PeersListed() | outputs.PeersNotListed():
                _demand(self._lists > 0, "every ListPeers is answered once")
                self._lists -= 1
            case outputs.PeerClosed():
                _demand(self._lists == 0, "every ListPeers is answered before the end")
                self.end()
            case _:
                pass

    def rested(self, machine: WatchedMachine, now: float) -> None:
        """What is asked for is being worked on, and the other way round."""
        super().rested(machine, now)
        _demand(self._asked is (machine.state is PeerState.CONNECTING), "a request is open just while CONNECTING")
        _demand(self._ended is (machine.stage is Stage.CLOSED), "PeerClosed is told on reaching CLOSED")
        _demand(self._lists == 0 or machine.deadline is not None, "an unanswered ListPeers has a deadline")


class SessionWatch(Watch):
    """The rules of a `Session`."""

    def __init__(self) -> None:
        super().__init__()
        self._acknowledged = 0

    def said(self, output: object) -> None:
        """Results are acknowledged before they are told."""
        super().said(output)
        match output:
            case outputs.StateChanged(new=PeerState.CONNECTING):
                self.ask("")
            case outputs.SendChannel(text=text) if '"type":"acknowledge"' in text:
                self._acknowledged += 1
            case MessageReceived(message=message):
                _demand(self._connected, "MessageReceived comes between Connected and Disconnected")
                if isinstance(message, DataMessage) and acknowledgement(message) is not None:
                    self._acknowledged -= 1
                _demand(self._acknowledged == 0, "a result is acknowledged, once, before it is told")
            case outputs.DataReceived() | outputs.PeersListed() | outputs.PeersNotListed() | outputs.PeerClosed():
                raise ViolationError(f"a session keeps {type(output).__name__} to itself")
            case SessionEnded():
                self.end()
            case _:
                pass

    def rested(self, machine: WatchedMachine, now: float) -> None:
        """A session never just sits there."""
        super().rested(machine, now)
        busy = machine.state is PeerState.CONNECTED or machine.stage is Stage.LISTENING or machine.deadline is not None
        _demand(busy or self._ended, "a session that has not ended is connected, listens, or has a deadline")


def _demand(holds: bool, rule: str) -> None:
    if not holds:
        raise ViolationError(rule)
