"""Drives our client machines, `Peer` or `Session`, by a recording's clock, with an engine that does as recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from deepio_core import inputs, outputs
from deepio_core.errors import LocalProtocolError
from deepio_core.states import Stage
from deepio_core.timers import Timer

UNPAIRED = '{"type":"status","status":"unpaired"}'


class Machine(Protocol):
    """What `Peer` and `Session` have in common."""

    @property
    def stage(self) -> Stage: ...
    @property
    def remote_id(self) -> str | None: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def waiting_for(self) -> Timer | None: ...
    def handle(self, event: Any, /, *, now: float) -> None: ...
    def handle_timeout(self, *, now: float) -> None: ...
    def poll(self) -> Any: ...


class Driver:
    """A machine between a recorded server and a recorded engine.

    The engine closes at once when it is told to. Everything that the machine sends and tells is kept in `sent`,
    `channel` and `events` until the replay has looked at it.
    """

    def __init__(self, machine: Machine, now: float) -> None:
        self.machine = machine
        self.now = now
        self.link = 1
        self.link_open = True
        self.negotiation = 0
        self.engine_open = False
        self.offerer = False
        self.applied: list[str] = []
        """Descriptions that the engine of this negotiation was given."""
        self.sent: list[str] = []
        self.channel: list[str] = []
        self.events: list[Any] = []
        self.order: list[Any] = []
        """Events and `SendChannel` effects in the order in which they came."""
        self.closing = False
        self.after_timeout: Callable[[], None] = lambda: None
        """Called whenever a deadline has passed: the server answers what was sent before the next one does."""
        self._drain()

    @property
    def stage(self) -> Stage:
        return self.machine.stage

    @property
    def remote_id(self) -> str | None:
        return self.machine.remote_id

    def feed(self, event: Any) -> None:
        """Hand in an input, take out what comes of it.

        Raises:
            LocalProtocolError: The machine refuses the command.
        """
        self.machine.handle(event, now=self.now)
        self._drain()

    def attempt(self, command: Any) -> bool:
        """Give a command; False if the stage does not allow it, and then nothing may have changed."""
        stage = self.stage
        try:
            self.feed(command)
        except LocalProtocolError:
            refused = True
        else:
            refused = False
        assert not refused or self.stage is stage, "a refused command changes nothing"
        assert self.machine.poll() is None, "a refused command has no effects"
        return not refused

    def receive(self, text: str | bytes) -> None:
        """The server has sent something."""
        if self.link_open:
            self.feed(inputs.SignalingReceived(text=text, link=self.link))

    def lose_link(self, code: int | None, reason: str = "") -> None:
        """The signaling connection has ended."""
        if self.link_open:
            self.link_open = False
            self.feed(inputs.SignalingClosed(code=code, reason=reason, link=self.link))

    def report(self, make: Callable[..., Any], **fields: Any) -> None:
        """The engine reports something about the newest negotiation."""
        self.feed(make(negotiation=self.negotiation, **fields))

    def open_channel(self) -> None:
        """The data channel is open, if it can be by now."""
        if self.engine_open and self.stage in {Stage.OPENING, Stage.PARTING}:
            self.report(inputs.ChannelOpened)

    def end_engine(self) -> None:
        """The far side has closed the peer connection, if there is one."""
        if self.engine_open:
            self.engine_open = False
            self.report(inputs.EngineClosed)

    def advance(self, to: float, *, quiet: bool = False) -> None:
        """Let time pass. A connected remote peer gives signs of life, unless it is `quiet`."""
        while (deadline := self.machine.deadline) is not None and deadline <= to:
            self.now = max(self.now, deadline)
            if self.machine.waiting_for is Timer.SILENCE and not quiet:
                self.report(inputs.Activity)
            else:
                self.machine.handle_timeout(now=self.now)
                self._drain()
                self.after_timeout()
        self.now = max(self.now, to)

    def expire(self) -> None:
        """Let time pass until the next deadline."""
        if self.machine.deadline is not None:
            self.advance(self.machine.deadline, quiet=True)

    def take_sent(self) -> list[str]:
        taken, self.sent = self.sent, []
        return taken

    def take_channel(self) -> list[str]:
        taken, self.channel = self.channel, []
        return taken

    def _drain(self) -> None:
        while (output := self.machine.poll()) is not None:
            match output:
                case outputs.OpenSignaling():
                    self.link, self.link_open, self.closing = output.link, True, False
                case outputs.SendSignaling():
                    assert self.link_open, "nothing is sent over a closed connection"
                    json.loads(output.text)
                    self.sent.append(output.text)
                case outputs.CloseSignaling():
                    self.closing = True
                case outputs.StartEngine():
                    self.negotiation, self.offerer = output.negotiation, output.offerer
                    self.engine_open = True
                    self.applied = []
                case outputs.ApplyOffer() | outputs.ApplyAnswer():
                    self.applied.append(output.sdp)
                case outputs.ApplyCandidate():
                    assert self.applied, "an engine takes no candidate before the description it belongs to"
                case outputs.SendChannel():
                    self.channel.append(output.text)
                    self.order.append(output)
                case outputs.CloseEngine():
                    if self.engine_open:
                        self.engine_open = False
                        self.machine.handle(inputs.EngineClosed(negotiation=output.negotiation), now=self.now)
                case _:
                    self.events.append(output)
                    self.order.append(output)
