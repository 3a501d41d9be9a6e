"""A session: a peer, its conversation with a DEEP core, and the policy that keeps the two together.

It does what deep_io does in its main loop (call a core or listen for callers, send `source` and `metadata`, acknowledge
results) and what deep_io does not: it survives. Whatever ends, the session tells why and tries again, unless trying
again cannot help.

A session holds one `Peer` for each signaling connection, and is driven like one: `handle`, `handle_timeout`, `poll`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, Final, TypeAlias

from deepio_core import inputs, outputs
from deepio_core.address import is_segment
from deepio_core.errors import LocalProtocolError
from deepio_core.jsontext import encode, utf8_size
from deepio_core.messages import (
    DataMessage,
    Message,
    MetadataMessage,
    SourceMessage,
    acknowledgement,
    parse_message,
    to_json,
)
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.policy import Backoff, ConnectFirst, ConnectTo, ListenForCallers
from deepio_core.records import dataclass
from deepio_core.states import PeerState, Stage
from deepio_core.timers import Timer, Timers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deepio_core.jsontext import JSON
    from deepio_core.policy import SessionConfig

REMEDIES: Final[Mapping[Cause, str]] = {
    Cause.KEY_REFUSED: "Give the key that the server expects for this type and id.",
    Cause.CERTIFICATE_REFUSED: "Trust the certificate by its CA file or SHA-256 fingerprint, or renew it.",
    Cause.ADDRESS_REFUSED: "Choose another peer type and id.",
    Cause.SOURCE_ENDED: "",
    Cause.SOURCE_FAILED: "Check the source, and begin anew.",
    Cause.LOCAL: "",
}
"""The causes that end a session, since trying again cannot help, each with what can."""

_UNANSWERED: Final = frozenset({Stage.AWAITING_OFFER, Stage.ANSWERING, Stage.OPENING})
"""Leaving the server in these stages blocks or kills a listening stream manager; `Disconnect` does not."""

_AWAY: Final = frozenset({Cause.NOT_FOUND, Cause.BUSY, Cause.CROSSED})
"""The remote peer is not there for us now: no failure, so no growing delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Leave the remote peer and the server; ends in `SessionEnded`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMetadata:
    """Remember new metadata and, while connected, send it; it is sent again after every connection."""

    metadata: JSON = field(repr=False)
    """The metadata: any JSON value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessage:
    """Send one message to the connected remote peer."""

    message: JSON = field(repr=False)
    """The message; DEEP peers want an object with a `type`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A DEEP message has come; a `data` message is acknowledged already."""

    message: Message
    """The message; `raw` holds the JSON as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageNotSent:
    """A message that the session sends by itself is not possible, say because the remote peer takes less."""

    detail: str
    """Which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """Something has ended or failed; the session tries again."""

    cause: Cause
    """What has happened."""
    detail: str
    """The same for people."""
    delay: float
    """Seconds until the next attempt."""
    attempt: int
    """Failures since the last lasting success, this one included; a busy or absent remote peer is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded:
    """The end: nothing is open any more. The last event of a session, exactly one."""

    cause: Cause
    """LOCAL after `Stop`, SOURCE_ENDED, or why trying again cannot help."""
    detail: str = ""
    """Why, for people."""
    remedy: str = ""
    """What can be done about it; may be empty."""


SessionInput: TypeAlias = Stop | SendMetadata | SendMessage | inputs.SignalingInput | inputs.EngineReport
SessionEvent: TypeAlias = (
    outputs.StateChanged
    | outputs.ConnectionRequested
    | outputs.ConnectionFailed
    | outputs.Connected
    | outputs.DataIgnored
    | outputs.Disconnected
    | outputs.SignalingLost
    | outputs.SignalIgnored
    | MessageReceived
    | MessageNotSent
    | Retrying
    | SessionEnded
)
SessionOutput: TypeAlias = outputs.Effect | SessionEvent


class Session:
    """A peer that keeps itself connected; see the module's docstring.

    Args:
        config: The settings.
        now: The time, in seconds on the caller's monotonic clock.
        random: Gives a number in [0, 1), for the jitter of delays.
    """

    def __init__(self, config: SessionConfig, *, now: float, random: Callable[[], float]) -> None:
        self.config = config
        """The settings."""
        self.metadata: JSON = config.metadata
        """The newest metadata."""
        self._now = now
        self._timers = Timers()
        self._outputs: deque[SessionOutput] = deque()  # bounded: drained after every input
        self._backoff = Backoff(config, random)
        self._called = False
        self._connected_at = now
        self._online_at: float | None = None  # of this signaling connection
        self._ending: tuple[Cause, str] | None = None
        self._ended = False
        self._peer = Peer(config.peer, now=now)
        self._drain()

    # --- What the caller sees --------------------------------------------------------------------------------

    @property
    def state(self) -> PeerState:
        """The public state of the peer; CLOSED while the next attempt to reach the server is waited for."""
        return self._peer.state

    @property
    def stage(self) -> Stage:
        """What exactly the peer is doing or waiting for."""
        return self._peer.stage

    @property
    def remote_id(self) -> str | None:
        """The remote peer, from CONNECTING to DISCONNECTING; else None."""
        return self._peer.remote_id

    @property
    def ended(self) -> bool:
        """Whether `SessionEnded` has been told."""
        return self._ended

    @property
    def deadline(self) -> float | None:
        """When `handle_timeout` is due, in seconds on the caller's clock; None: not before the next input."""
        own = self._timers.next()
        both = [at for at in (own and own[1], self._peer.deadline) if at is not None]
        return min(both, default=None)

    @property
    def waiting_for(self) -> Timer | None:
        """The name of the timer behind `deadline`."""
        own = self._timers.next()
        peers = self._peer.deadline
        if own is None or (peers is not None and peers < own[1]):
            return self._peer.waiting_for
        return own[0]

    def handle(self, event: SessionInput, *, now: float) -> None:
        """Take one input; then drain `poll`.

        Raises:
            LocalProtocolError: The command is not possible now, or its message is not JSON or too large; nothing
                has changed.
        """
        self._now = max(self._now, now)
        match event:
            case Stop():
                self._stop(Cause.LOCAL, "stopped by the application")
            case SendMetadata():
                self._send_metadata(event.metadata)
            case SendMessage():
                self._peer.handle(inputs.Send(data=event.message), now=self._now)
            case _:
                self._peer.handle(event, now=self._now)
        self._drain()

    def handle_timeout(self, *, now: float) -> None:
        """Let time pass: `deadline` has come. Early calls do nothing."""
        self._now = max(self._now, now)
        while (timer := self._timers.pop_expired(self._now)) is not None:
            if timer is Timer.RETRY and self._peer.stage is Stage.CLOSED:
                self._redial()
        self._peer.handle_timeout(now=self._now)
        self._drain()

    def poll(self) -> SessionOutput | None:
        """The next effect to perform or event to tell; None when there is none left."""
        return self._outputs.popleft() if self._outputs else None

    # --- The peer underneath ---------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take over all that the peer has to say, then do what is next for an idle peer."""
        self._take_over()
        while self._seek():
            self._take_over()

    def _take_over(self) -> None:
        while (output := self._peer.poll()) is not None:
            match output:
                case outputs.DataReceived():
                    self._on_data(output.data)
                case outputs.PeersListed():
                    self._on_peers(output)
                case outputs.PeersNotListed():
                    pass  # the next look is due in any case
                case outputs.PeerClosed():
                    self._on_peer_closed(output)
                case _:
                    self._outputs.append(output)
                    self._react(output)

    def _react(self, output: outputs.PeerOutput) -> None:
        match output:
            case outputs.ConnectionRequested():
                self._peer.handle(inputs.Accept(), now=self._now)
            case outputs.Connected():
                self._connected_at = self._now
                if self.config.greets:
                    self._greet()
            case outputs.ConnectionFailed():
                self._on_lost(output.cause, output.detail)
            case outputs.Disconnected():
                self._reset_if_stable(self._connected_at)
                self._on_lost(output.cause, output.detail)
            case outputs.StateChanged(old=PeerState.STARTING, new=PeerState.ONLINE):
                self._online_at = self._now
            case _:
                pass

    def _seek(self) -> bool:
        """Do what is next for a peer that is online and idle; False if there is nothing to do now."""
        if self._peer.stage is not Stage.ONLINE or self._timers.next() is not None:
            return False
        match self.config.policy:
            case _ if self._ending is not None:
                self._peer.handle(inputs.Close(), now=self._now)
            case ConnectTo(remote_id=remote_id):
                self._call(remote_id)
            case ConnectFirst():
                self._peer.handle(inputs.ListPeers(), now=self._now)
                self._timers.set(Timer.POLL, self._now + self.config.poll_interval)
            case _:
                self._called = False
                self._peer.handle(inputs.Listen(), now=self._now)
        return True

    def _call(self, remote_id: str) -> None:
        self._called = True
        self._peer.handle(inputs.Connect(remote_id=remote_id), now=self._now)

    def _on_peers(self, listed: outputs.PeersListed) -> None:
        """Call the first free peer of a wanted type (deep_io: of type `stream_manager`)."""
        policy = self.config.policy
        if self._peer.stage is not Stage.ONLINE or not isinstance(policy, ConnectFirst):
            return
        if self._timers.runs(Timer.RETRY) or self._ending is not None:
            return  # the reply is late
        for peer in listed.peers:
            if peer.type in policy.peer_types and not peer.busy and self._can_call(peer.id):
                self._timers.stop(Timer.POLL)
                self._call(peer.id)
                return

    def _can_call(self, peer_id: str) -> bool:
        """Whether a listed id is one that can be called: not our own, and one at all, for a server lists anything."""
        return peer_id != self.config.peer.peer_id and is_segment(peer_id)

    # --- The conversation ------------------------------------------------------------------------------------

    def _greet(self) -> None:
        """What a camera says first: whose video to use, and what it shows."""
        source_id = self.config.source_id
        if source_id is None and self._called:
            source_id = self.config.peer.peer_id
        if source_id is not None:
            self._send_by_itself(SourceMessage(peer_id=source_id))
        self._send_by_itself(MetadataMessage(metadata=self.metadata))

    def _send_by_itself(self, message: Message) -> None:
        try:
            self._peer.handle(inputs.Send(data=to_json(message)), now=self._now)
        except LocalProtocolError as error:
            self._outputs.append(MessageNotSent(detail=f"{type(message).__name__}: {error}"))

    def _on_data(self, data: JSON) -> None:
        message = parse_message(data)
        if isinstance(message, DataMessage) and (reply := acknowledgement(message)) is not None:
            self._send_by_itself(reply)
            self._take_over()  # the acknowledgement leaves before the application sees the message
        self._outputs.append(MessageReceived(message=message))

    def _send_metadata(self, metadata: JSON) -> None:
        message = to_json(MetadataMessage(metadata=metadata))
        if self._peer.state is PeerState.CONNECTED:
            self._peer.handle(inputs.Send(data=message), now=self._now)
        elif utf8_size(encode(message)) > self.config.peer.max_send_size:
            raise LocalProtocolError(
                f"The metadata is larger than {self.config.peer.max_send_size} bytes.", remedy="Send less."
            )
        self.metadata = metadata

    # --- Trying again, and ending ----------------------------------------------------------------------------

    def _on_lost(self, cause: Cause, detail: str) -> None:
        """The connection to the remote peer is over, or has not come about."""
        if cause in REMEDIES:
            # A peer that is closed has its `PeerClosed` still to come, which ends the session for the same cause.
            if self._peer.stage is not Stage.CLOSED:
                self._stop(cause, detail)
            return
        # A listener is ready again at once: it is the caller who waits. A peer that is closing is replaced later.
        listens = isinstance(self.config.policy, ListenForCallers)
        if not listens and self._peer.state not in {PeerState.CLOSING, PeerState.CLOSED}:
            self._retry(cause, detail)

    def _reset_if_stable(self, since: float) -> None:
        if self._now - since >= self.config.stable_after:
            self._backoff.reset()

    def _retry(self, cause: Cause, detail: str) -> None:
        delay = self._backoff.pause() if cause in _AWAY else self._backoff.next()
        self._timers.set(Timer.RETRY, self._now + delay)
        self._outputs.append(Retrying(cause=cause, detail=detail, delay=delay, attempt=self._backoff.attempt))

    def _on_peer_closed(self, closed: outputs.PeerClosed) -> None:
        self._timers.clear()
        if self._ending is None and closed.cause in REMEDIES:
            self._ending = closed.cause, closed.detail
        if self._ending is not None:
            self._end()
        else:
            if self._online_at is not None:
                self._reset_if_stable(self._online_at)
            self._retry(closed.cause, closed.detail)

    def _redial(self) -> None:
        old = self._peer
        self._online_at = None
        self._peer = Peer(old.config, now=self._now, link=old.link + 1, first_negotiation=old.negotiation + 1)
        self._outputs.append(outputs.StateChanged(old=old.state, new=self._peer.state))

    def _stop(self, cause: Cause, detail: str) -> None:
        if self._ending is not None:
            return
        self._ending = cause, detail
        self._timers.clear()
        stage = self._peer.stage
        if stage is Stage.CLOSED:
            self._end()
        elif stage in _UNANSWERED:
            self._peer.handle(inputs.Disconnect(), now=self._now)
        elif stage not in {Stage.PARTING, Stage.CLOSING}:
            self._peer.handle(inputs.Close(), now=self._now)

    def _end(self) -> None:
        assert self._ending is not None, "set by whoever ends the session"
        self._ended = True
        self._timers.clear()
        cause, detail = self._ending
        self._outputs.append(SessionEnded(cause=cause, detail=detail, remedy=REMEDIES[cause]))
