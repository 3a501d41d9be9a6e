"""What the table in `states` makes of a peer: a stage, a deadline, and one way out.

A `StageMachine` moves along the edges and keeps the deadline of each stage. What an edge means to the outside is the
affair of its subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.states import COMMANDS, STAGE_TIMERS, STATE_OF, TRANSITIONS, PeerState, Stage, Trigger
from deepio_core.timers import Timer, Timers

if TYPE_CHECKING:
    from deepio_core.config import PeerConfig
    from deepio_core.outputs import PeerOutput

EXPIRED: Final = {
    Timer.OPEN: (Cause.UNREACHABLE, "the signaling connection did not open in time"),
    Timer.REPLY: (Cause.NO_REPLY, "the server did not answer in time"),
    Timer.ACCEPT: (Cause.NOT_ACCEPTED, "the application did not accept in time"),
    Timer.NEGOTIATION: (Cause.NO_CONNECTION, "the data channel did not open in time"),
    Timer.SILENCE: (Cause.SILENCE, "nothing has arrived from the remote peer"),
    Timer.PART: (Cause.NO_CONNECTION, "the negotiation did not end in time"),
    Timer.LEAVE: (Cause.NO_REPLY, "the server did not confirm in time"),
    Timer.CLOSE: (Cause.NO_REPLY, "the connections did not close in time"),
}
"""What it means that the deadline of a stage has passed."""

_NAMES: Final = {
    Trigger.LIST_PEERS: "list peers",
    Trigger.LISTEN: "listen",
    Trigger.CONNECT: "connect",
    Trigger.ACCEPT: "accept",
    Trigger.DISCONNECT: "disconnect",
    Trigger.SEND: "send",
    Trigger.CLOSE: "close",
}

_TIMEOUTS: Final = {
    Timer.OPEN: "open_timeout",
    Timer.REPLY: "reply_timeout",
    Timer.LIST: "reply_timeout",
    Timer.ACCEPT: "accept_timeout",
    Timer.NEGOTIATION: "negotiation_timeout",
    Timer.SILENCE: "silence_timeout",
    Timer.PART: "part_timeout",
    Timer.LEAVE: "leave_timeout",
    Timer.CLOSE: "close_timeout",
}
"""The setting behind each timer."""


class StageMachine(ABC):
    """A stage, the timers that run in it, and the outputs that wait to be polled.

    Args:
        config: The settings.
        now: The time, in seconds on the caller's monotonic clock.
        observer: Told every edge of `states.TRANSITIONS` that is taken, stays included, as (stage, trigger).
    """

    def __init__(
        self, config: PeerConfig, *, now: float, observer: Callable[[Stage, Trigger], None] | None = None
    ) -> None:
        self.config = config
        """The settings."""
        self._observer = observer
        self._now = now
        self._stage = Stage.STARTING
        self._timers = Timers()
        self._outputs: deque[PeerOutput] = deque()  # bounded: drained after every input
        self._start(Timer.OPEN)

    @property
    def state(self) -> PeerState:
        """The public state."""
        return STATE_OF[self._stage]

    @property
    def stage(self) -> Stage:
        """What exactly the peer is doing or waiting for."""
        return self._stage

    @property
    def ended(self) -> bool:
        """Whether `PeerClosed` has been told."""
        return self._stage is Stage.CLOSED

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` is due, in seconds on the caller's clock; None: not before the next input."""
        first = self._timers.next()
        return None if first is None else first[1]

    @property
    def waiting_for(self) -> Timer | None:
        """The name of the timer behind `deadline`."""
        first = self._timers.next()
        return None if first is None else first[0]

    def poll(self) -> PeerOutput | None:
        """The next effect to perform or event to tell; None when there is none left."""
        return self._outputs.popleft() if self._outputs else None

    @abstractmethod
    def _entered(self, origin: Stage, cause: Cause, detail: str) -> None:
        """Do what it means to have come from `origin` into the stage at hand, and why."""

    def _allows(self, trigger: Trigger) -> bool:
        return trigger in TRANSITIONS[self._stage]

    def _demand(self, trigger: Trigger) -> None:
        """Raise unless the application may pull `trigger` now."""
        assert trigger in COMMANDS, "only commands are refused by raising"
        if not self._allows(trigger):
            stages = [stage.value for stage, row in TRANSITIONS.items() if trigger in row]
            raise LocalProtocolError(
                f"Cannot {_NAMES[trigger]} while {self._stage.value}.",
                remedy=f"This is possible while {', '.join(stages)}.",
            )

    def _move(self, trigger: Trigger, cause: Cause = Cause.LOCAL, detail: str = "") -> bool:
        """Follow the edge of `trigger`; False if the stage has none."""
        target = TRANSITIONS[self._stage].get(trigger)
        if target is None:
            return False
        if self._observer is not None:
            self._observer(self._stage, trigger)
        if target is not self._stage:
            origin, self._stage = self._stage, target
            self._retime(origin, target)
            self._entered(origin, cause, detail)
        return True

    def _retime(self, origin: Stage, target: Stage) -> None:
        """Swap the deadline of the one stage for that of the other; neighbours may share one."""
        old, new = STAGE_TIMERS.get(origin), STAGE_TIMERS.get(target)
        if old is new:
            return
        if old is not None:
            self._timers.stop(old)
        if new is not None:
            self._start(new)

    def _start(self, timer: Timer) -> None:
        seconds: float | None = getattr(self.config, _TIMEOUTS[timer])
        if seconds is not None:
            self._timers.set(timer, self._now + seconds)

    def _tell(self, output: PeerOutput) -> None:
        self._outputs.append(output)
