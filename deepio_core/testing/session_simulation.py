"""A run of sessions and DEEP cores in a world where everything goes wrong, judged by the oracle.

Four sessions have a partner each: one calls a core by its id, one calls the first free core of a type, and one calls
another that listens. Whatever happens in between, they must be together again in the end, and talk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from deepio_core import outputs
from deepio_core.config import PeerConfig
from deepio_core.detections import Box
from deepio_core.messages import DataMessage, Generation
from deepio_core.outputs import Cause
from deepio_core.policy import ConnectFirst, ConnectTo, ListenForCallers, Policy, SessionConfig
from deepio_core.server import ServerConfig
from deepio_core.session import MessageReceived, Retrying, SendMessage, SendMetadata, SessionEnded, Stop
from deepio_core.states import PeerState
from deepio_core.testing.deep_core import FakeDeepCore, SeenObject
from deepio_core.testing.mischief import CALM, Faults, Mischief, pick_faults
from deepio_core.testing.nodes import PeerNode, SessionNode
from deepio_core.testing.oracle import ViolationError
from deepio_core.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

MEETING_TIME: Final = 180.0
"""Virtual seconds after which all are together again: the longest delays and timeouts, several times over."""


class SessionSimulation:
    """One run.

    Args:
        seed: Decides everything.
        steps: How much happens before the faults end.
        faults: What goes wrong; None: as `pick_faults` says.
    """

    def __init__(self, seed: int, *, steps: int = 150, faults: Faults | None = None) -> None:
        self.faults = pick_faults(seed) if faults is None else faults
        """What goes wrong."""
        self.world = World(seed, server_config=ServerConfig(message_burst=100_000))
        """Where it happens."""
        self.world.loss = self.faults.loss
        self._steps = steps
        self._random = self.world.random
        generation = self._random.choice(list(Generation))
        self.cores = [
            FakeDeepCore(self.world, "core1", "stream_manager", fps=2, detect=_detect, generation=generation),
            FakeDeepCore(self.world, "core2", "deep_input", fps=2, detect=_detect, generation=generation),
        ]
        """The cores."""
        self.sessions = [
            self._add("caller", ConnectTo(remote_id="core1")),
            self._add("seeker", ConnectFirst(peer_types=("deep_input",))),
            self._add("listener", ListenForCallers()),
            self._add("viewer", ConnectTo(remote_id="listener")),
        ]
        """The sessions: each has one partner, a core or another session."""
        self._mischief = Mischief[PeerNode | SessionNode](self.world, self.world.nodes, self.faults)

    def run(self) -> None:
        """Do it all.

        Raises:
            ViolationError: A rule is broken; the text holds the seed and the journals.
        """
        actions: list[tuple[Callable[[], Any], float]] = [
            (self.world.step, 100),
            (self._pass_time, 20),
            (self._talk, 4),
            (self._change_metadata, 2),
            (self._leave, 1),
            (self._crash, self.faults.crash),
            *self._mischief.actions,
        ]
        doings, weights = zip(*actions, strict=True)
        for doing in self._random.choices(doings, weights, k=self._steps):
            doing()
        self._mischief.end()
        self.world.loss = 0.0
        self.meet()
        self.stop()

    def meet(self) -> None:
        """All come together, and get what they are there for."""
        end = self.world.now + MEETING_TIME
        while not all(self._is_connected(node) for node in self.sessions):
            if not self.world.step() and not self.world.pass_to_deadline(end):
                self._demand(False, "all sessions are together again")
        # What was sent on connecting may have been lost: data channels are unreliable, and metadata has no receipt.
        for node in self.sessions:
            node.handle(SendMetadata(metadata={"name": node.id, "number": -1}))
        before = [len(node.events) for node in self.sessions]
        self.world.advance(2.0)
        for node, start in zip(self.sessions[:2], before, strict=False):
            results = [event for event in node.events[start:] if isinstance(event, MessageReceived)]
            found = [event.message for event in results if isinstance(event.message, DataMessage)]
            self._demand(any(message.detections() for message in found), f"{node.id} gets results")
        for core, node in zip(self.cores, self.sessions, strict=False):
            self._demand(core.client_id == node.id, f"{core.id} serves {node.id}")
            self._demand(core.metadata == node.session.metadata, f"{core.id} has the newest metadata")
            self._demand(len(core.unacknowledged) <= 1, f"{core.id} has its results acknowledged")

    def stop(self) -> None:
        """All end when they are told to."""
        for node in self.sessions:
            node.handle(Stop())
        self.world.advance(30.0)
        for node in self.sessions:
            self._demand(isinstance(node.events[-1], SessionEnded), f"{node.id} ends")

    # --- What happens ----------------------------------------------------------------------------------------

    def _add(self, peer_id: str, policy: Policy) -> SessionNode:
        config = SessionConfig(peer=PeerConfig(peer_id=peer_id), policy=policy, metadata={"name": peer_id})
        node = self.world.add_session(config)
        node.listeners.append(self._judge)
        return node

    def _pass_time(self) -> None:
        # With what is on its way undelivered only in the runs that are meant to be rough.
        if self.faults == CALM:
            self.world.drain()
        self.world.pass_to_deadline(self.world.now + 30.0)

    def _talk(self) -> None:
        node = self._random.choice(self.sessions)
        if node.session.state is PeerState.CONNECTED:
            node.handle(SendMessage(message={"type": "note"}))

    def _change_metadata(self) -> None:
        node = self._random.choice(self.sessions)
        node.handle(SendMetadata(metadata={"name": node.id, "number": self._random.randrange(1000)}))

    def _leave(self) -> None:
        core = self._random.choice(self.cores)
        if core.client_id is not None:
            core.leave()

    def _crash(self) -> None:
        self._random.choice(self.cores).crash()

    # --- Judging ---------------------------------------------------------------------------------------------

    def _is_connected(self, node: SessionNode) -> bool:
        engine = node.engine
        return node.session.state is PeerState.CONNECTED and engine is not None and engine.healthy

    def _judge(self, event: object) -> None:
        """In a calm run sessions fail for no other reason than that their partner is not there, or has left."""
        if self.faults != CALM:
            return
        match event:
            case Retrying(cause=cause) | outputs.ConnectionFailed(cause=cause) | outputs.Disconnected(cause=cause):
                calm = {Cause.NOT_FOUND, Cause.BUSY, Cause.REMOTE_LEFT, Cause.REMOTE_CLOSED, Cause.LOCAL}
                self._demand(cause in calm, f"nothing breaks in a calm run: {event}")
            case outputs.SignalingLost():
                self._demand(False, "no link breaks in a calm run")
            case _:
                pass

    def _demand(self, holds: bool, rule: str) -> None:
        if not holds:
            raise ViolationError(f"{rule}\n{self.world.describe()}")


def _detect(frame: int) -> list[SeenObject]:
    return [SeenObject(class_name="face", box=Box(frame, 2, 30, 40), attributes={"age": 30})]
