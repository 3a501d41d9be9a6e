"""The client role of the hyperpeer protocol: one peer on one signaling connection.

The listening side offers, the connecting side answers. All a peer does follows the table in `states`; this module says
which effects and events go with an edge. Facts about the other side are those of hyperpeer-node, hyperpeer-py 0.3.1 and
hyperpeer-js 0.1.4; the docs page on the protocol lists them with the point (Q1 to Q24) that each one is.

The contract::

    peer = Peer(PeerConfig(peer_id="cam1"), now=now)
    peer.handle(something, now=now)         # a command, what signaling brought, a report of the engine
    peer.handle_timeout(now=now)            # when peer.deadline has passed
    while (output := peer.poll()) is not None:
        ...                                 # drained after every call above
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from deepio_core import closecodes, inputs, outputs, signals
from deepio_core.address import encode_segment
from deepio_core.errors import LocalProtocolError, RemoteProtocolError
from deepio_core.jsontext import decode, encode, utf8_size
from deepio_core.machine import EXPIRED, StageMachine
from deepio_core.outputs import Cause
from deepio_core.sdp import answer_problem, offer_problem
from deepio_core.states import STATE_OF, PeerState, Stage, Trigger
from deepio_core.timers import Timer

if TYPE_CHECKING:
    from deepio_core.config import PeerConfig

_DETACHED_STAGES: Final = frozenset({Stage.STARTING, Stage.DETACHED, Stage.CLOSING, Stage.CLOSED})
"""Where no signal is read: the signaling connection is not open, or given up."""

_ALONE_STAGES: Final = frozenset({Stage.ONLINE, Stage.LISTENING, Stage.CLOSED})
"""Where there is no remote peer."""

_ENDING_STAGES: Final = frozenset({Stage.DETACHED, Stage.CLOSING, Stage.CLOSED})
"""Where this peer will do nothing new."""

_REFUSALS: Final = {signals.ERR_PEER_NOT_FOUND: Cause.NOT_FOUND, signals.ERR_PEER_BUSY: Cause.BUSY}
"""The only two errors that answer `pair`. Any other may be a late one about a signal of the former session."""


class Peer(StageMachine):
    """The client role as a state machine; see the module's docstring for how to drive it.

    Args:
        config: The settings.
        now: The time, in seconds on the caller's monotonic clock.
        link: Number of the signaling connection, told by `OpenSignaling`.
        first_negotiation: Number of the first negotiation.
        observer: Told every edge of `states.TRANSITIONS` that is taken, stays included, as (stage, trigger). For
            tests that want to know what they have reached; it must not touch the peer.
    """

    def __init__(
        self,
        config: PeerConfig,
        *,
        now: float,
        link: int = 1,
        first_negotiation: int = 1,
        observer: Callable[[Stage, Trigger], None] | None = None,
    ) -> None:
        super().__init__(config, now=now, observer=observer)
        self.link = link
        """Number of the signaling connection."""
        self._opened_at = now
        self._link_open = True  # from OpenSignaling to SignalingFailed or SignalingClosed
        self._heard = False
        self._ready = False  # the server lists us as free: `ready` is sent, and no pairing has come since
        self._lists = 0
        self._closed_for: tuple[Cause, str] | None = None
        self._remote_id = ""
        self._negotiation = first_negotiation - 1
        self._engine_open = False
        self._engine_closing = False
        self._local_offer = ""
        self._described = False
        self._remote_described = False
        self._candidates: list[signals.Candidate | None] = []  # of this negotiation, applied or waiting
        self._send_limit = config.max_send_size
        self._tell(outputs.OpenSignaling(link=link))

    # --- What the caller sees --------------------------------------------------------------------------------

    @property
    def remote_id(self) -> str | None:
        """The remote peer, from CONNECTING until all that belongs to it is over; else None."""
        return self._remote_id or None

    @property
    def negotiation(self) -> int:
        """Number of the newest negotiation."""
        return self._negotiation

    def handle(self, event: inputs.PeerInput, *, now: float) -> None:
        """Take one input; then drain `poll`.

        Raises:
            LocalProtocolError: The command is not possible in this stage; nothing has changed.
        """
        self._now = max(self._now, now)
        self._HANDLERS[type(event)](self, event)

    def handle_timeout(self, *, now: float) -> None:
        """Let time pass: `deadline` has come. Early calls do nothing."""
        self._now = max(self._now, now)
        while (timer := self._timers.pop_expired(self._now)) is not None:
            if timer is Timer.LIST:
                self._give_up_lists(Cause.NO_REPLY)
            else:
                self._move(Trigger.EXPIRED, *EXPIRED[timer])

    # --- What an edge means ----------------------------------------------------------------------------------

    def _entered(self, origin: Stage, cause: Cause, detail: str) -> None:
        target = self._stage
        remote_id = self._remote_id
        if target in _ALONE_STAGES:
            self._forget_remote()
        if target in _ENDING_STAGES and self._closed_for is None:
            self._closed_for = cause, detail
        old, new = STATE_OF[origin], STATE_OF[target]
        if old is not new:
            self._tell(outputs.StateChanged(old=old, new=new))
            if old is PeerState.CONNECTED:
                self._tell(outputs.Disconnected(remote_id=remote_id, cause=cause, detail=detail))
            elif old is PeerState.CONNECTING and new is not PeerState.CONNECTED:
                self._tell(outputs.ConnectionFailed(remote_id=remote_id, cause=cause, detail=detail))
        self._act(origin, target)

    def _act(self, origin: Stage, target: Stage) -> None:
        """Perform what entering `target` means for the connections that are still open."""
        if target is Stage.DRAINING:
            self._close_engine()
        elif target is Stage.LEAVING:
            self._close_engine()
            self._signal(signals.UNPAIR)
        elif target is Stage.UNPAIRING and origin is not Stage.LEAVING:
            self._signal(signals.UNPAIR)
        elif target is Stage.DETACHED:
            self._give_up_lists(Cause.SIGNALING_LOST)
            assert self._closed_for is not None, "set on the way into this stage"
            self._tell(outputs.SignalingLost(detail=self._closed_for[1]))
        elif target is Stage.CLOSING:
            self._close_all()
        elif target is Stage.CLOSED:
            self._end()

    def _close_engine(self) -> None:
        if self._engine_open and not self._engine_closing:
            self._engine_closing = True
            self._tell(outputs.CloseEngine(negotiation=self._negotiation))

    def _close_all(self) -> None:
        self._close_engine()
        if self._link_open:
            self._tell(outputs.CloseSignaling(link=self.link))
        self._give_up_lists(Cause.LOCAL if self._link_open else Cause.SIGNALING_LOST)

    def _check_all_closed(self) -> None:
        if not (self._engine_open or self._link_open):
            self._move(Trigger.ALL_CLOSED)

    def _end(self) -> None:
        assert self._closed_for is not None, "set on the way into this stage"
        self._give_up_lists(Cause.SIGNALING_LOST)
        cause, detail = self._closed_for
        self._tell(outputs.PeerClosed(cause=cause, detail=detail))

    def _forget_remote(self) -> None:
        self._remote_id = self._local_offer = ""
        self._engine_open = self._engine_closing = self._described = self._remote_described = False
        self._candidates.clear()

    def _signal(self, text: str) -> None:
        self._tell(outputs.SendSignaling(link=self.link, text=text))

    def _ignore(self, detail: str) -> None:
        self._tell(outputs.SignalIgnored(stage=self._stage, detail=detail))

    # --- Commands --------------------------------------------------------------------------------------------

    def _on_list_peers(self, _command: inputs.ListPeers) -> None:
        self._demand(Trigger.LIST_PEERS)
        self._signal(signals.LIST_PEERS)
        if not self._lists:
            self._start(Timer.LIST)
        self._lists += 1
        self._move(Trigger.LIST_PEERS)

    def _on_listen(self, _command: inputs.Listen) -> None:
        self._demand(Trigger.LISTEN)
        if not self._ready:
            # Sent twice, it may overtake a pairing that the first one has brought: the server would take us for free
            # again in the middle of it, and the next caller would cut off the first, which is not even told.
            self._ready = True
            self._signal(signals.READY)
        self._move(Trigger.LISTEN)

    def _on_connect(self, command: inputs.Connect) -> None:
        self._demand(Trigger.CONNECT)
        remote_id = encode_segment(command.remote_id)
        if remote_id == self.config.peer_id:
            raise LocalProtocolError(
                f"Cannot connect to the own id {remote_id!r}.", remedy="Give the id of another peer."
            )
        self._remote_id = remote_id
        self._signal(signals.pair_text(remote_id))
        self._move(Trigger.CONNECT)

    def _on_accept(self, _command: inputs.Accept) -> None:
        self._demand(Trigger.ACCEPT)
        self._move(Trigger.ACCEPT)
        self._start_engine(offerer=True)

    def _on_disconnect(self, _command: inputs.Disconnect) -> None:
        self._demand(Trigger.DISCONNECT)
        self._move(Trigger.DISCONNECT)

    def _on_send(self, command: inputs.Send) -> None:
        self._demand(Trigger.SEND)
        text = encode(command.data)
        size = utf8_size(text)
        if size > self._send_limit:
            raise LocalProtocolError(
                f"The message has {size} bytes; the remote peer takes {self._send_limit}.",
                remedy="Send less at once.",
            )
        self._tell(outputs.SendChannel(negotiation=self._negotiation, text=text))
        self._move(Trigger.SEND)

    def _on_close(self, _command: inputs.Close) -> None:
        self._demand(Trigger.CLOSE)
        self._move(Trigger.CLOSE)

    # --- The signaling connection ----------------------------------------------------------------------------

    def _on_signaling_opened(self, event: inputs.SignalingOpened) -> None:
        if event.link == self.link and self._move(Trigger.SIGNALING_OPENED):
            self._opened_at = self._now

    def _on_signaling_failed(self, event: inputs.SignalingFailed) -> None:
        if event.link == self.link and self._allows(Trigger.SIGNALING_FAILED):
            self._lose_link(Trigger.SIGNALING_FAILED, event.cause, event.detail)

    def _on_signaling_closed(self, event: inputs.SignalingClosed) -> None:
        if event.link != self.link:
            return
        detail = f"the signaling connection was closed with code {event.code}"
        if event.reason:
            detail += f": {signals.legible(event.reason)}"
        self._lose_link(Trigger.SIGNALING_CLOSED, self._close_cause(event.code), detail)

    def _close_cause(self, code: int | None) -> Cause:
        """What a close code means.

        hyperpeer-node 0.1.3 closes a second peer of the same id with an empty frame (code 1005) right after the
        handshake, before it answers anything; it closes nothing else itself.
        """
        early = self._now - self._opened_at <= self.config.id_in_use_window and not self._heard
        if code == closecodes.NO_STATUS and early:
            return Cause.ID_IN_USE
        return closecodes.CAUSES.get(code, Cause.SIGNALING_LOST)

    def _lose_link(self, trigger: Trigger, cause: Cause, detail: str) -> None:
        self._link_open = False
        self._move(trigger, cause, detail)
        if self._stage is Stage.CLOSING:
            self._check_all_closed()

    def _on_signaling_received(self, event: inputs.SignalingReceived) -> None:
        if event.link != self.link or self._stage in _DETACHED_STAGES:
            return
        self._heard = True
        try:
            signal = signals.parse_signal(event.text, max_size=self.config.max_signal_size)
        except RemoteProtocolError as error:
            self._ignore(str(error))
            return
        self._SIGNAL_HANDLERS[type(signal)](self, signal)

    def _on_peer_list(self, signal: signals.PeerList) -> None:
        if not self._lists:
            self._ignore("a peer list that nobody asked for")
            return
        self._lists -= 1
        self._timers.stop(Timer.LIST)
        if self._lists:
            self._start(Timer.LIST)
        self._tell(outputs.PeersListed(peers=signal.peers))
        self._move(Trigger.PEER_LIST)

    def _give_up_lists(self, cause: Cause) -> None:
        self._timers.stop(Timer.LIST)
        for _ in range(self._lists):
            self._tell(outputs.PeersNotListed(cause=cause))
        self._lists = 0

    def _on_paired(self, signal: signals.Paired) -> None:
        self._ready = False
        other = self._remote_id not in {"", signal.remote_id}
        trigger = Trigger.PAIRED_OTHER if other else Trigger.PAIRED
        if not self._allows(trigger):
            self._ignore(f"paired with {signal.remote_id!r}")
        elif self._stage is Stage.ONLINE:
            self._signal(signals.UNPAIR)
            self._move(trigger)
        elif self._stage is Stage.LISTENING:
            self._move(trigger)
            self._remote_id = signal.remote_id
            self._tell(outputs.ConnectionRequested(remote_id=signal.remote_id))
        else:
            self._move(trigger, Cause.REPAIRED, "the server paired us with another peer")
            if trigger is Trigger.PAIRED:
                self._start_engine(offerer=False)

    def _on_unpaired(self, _signal: signals.Unpaired) -> None:
        # Every stage that hears the server lists this trigger: nobody knows when it comes, and how often.
        self._move(Trigger.UNPAIRED, Cause.REMOTE_LEFT, "the remote peer left")

    def _on_server_error(self, signal: signals.ServerError) -> None:
        cause = _REFUSALS.get(signal.code)
        if cause is not None:
            self._on_pair_refused(signal, cause)
        elif signal.code != signals.ERR_BAD_STATE or not self._move(
            Trigger.NOT_PAIRED, Cause.NOT_PAIRED, "the server could not relay to the remote peer"
        ):
            self._ignore(f"error {signal.code}")

    def _on_pair_refused(self, signal: signals.ServerError, cause: Cause) -> None:
        if self._stage is Stage.AWAITING_OFFER:
            # The `paired` before was not the reply to our `pair`: the remote peer has asked for us at the same
            # moment, and awaits an offer as we do.
            cause = Cause.CROSSED
        if not self._move(Trigger.PAIR_REFUSED, cause, signal.message):
            self._ignore(f"error {signal.code}")

    def _on_offer(self, signal: signals.Offer) -> None:
        problem = offer_problem(signal.sdp)
        if not self._allows(Trigger.OFFER) or self._remote_described:
            self._ignore("an offer that is not awaited")
        elif problem:
            self._ignore(f"an offer that cannot be used: {problem}")
        else:
            self._move(Trigger.OFFER)
            self._tell(outputs.ApplyOffer(negotiation=self._negotiation, sdp=signal.sdp))
            self._apply_candidates()

    def _on_answer(self, signal: signals.Answer) -> None:
        if not self._allows(Trigger.ANSWER):
            self._ignore("an answer that is not awaited")
        elif problem := answer_problem(self._local_offer, signal.sdp):
            self._ignore(f"an answer that does not fit the offer: {problem}")
        else:
            self._move(Trigger.ANSWER)
            self._tell(outputs.ApplyAnswer(negotiation=self._negotiation, sdp=signal.sdp))
            self._apply_candidates()

    def _on_candidate(self, signal: signals.RemoteCandidate) -> None:
        if not self._move(Trigger.CANDIDATE):
            self._ignore("a candidate that is not awaited")
        elif len(self._candidates) >= self.config.max_candidates:
            self._ignore("one candidate too many")
        else:
            self._candidates.append(signal.candidate)
            if self._remote_described:
                self._apply_candidate(signal.candidate)

    def _apply_candidates(self) -> None:
        self._remote_described = True
        for candidate in self._candidates:
            self._apply_candidate(candidate)

    def _apply_candidate(self, candidate: signals.Candidate | None) -> None:
        self._tell(outputs.ApplyCandidate(negotiation=self._negotiation, candidate=candidate))

    def _on_renegotiation(self, _signal: signals.RenegotiationAsked) -> None:
        self._ignore("a request to negotiate again")  # as hyperpeer-py; browsers stay connected

    def _on_unknown_signal(self, signal: signals.UnknownSignal) -> None:
        self._ignore(signal.detail)

    # --- Reports of the engine -------------------------------------------------------------------------------

    def _start_engine(self, *, offerer: bool) -> None:
        self._negotiation += 1
        self._engine_open = True
        self._send_limit = self.config.max_send_size
        self._tell(outputs.StartEngine(negotiation=self._negotiation, remote_id=self._remote_id, offerer=offerer))

    def _current(self, report: inputs.EngineReport, trigger: Trigger) -> bool:
        """Whether the report is about the newest negotiation and awaited in this stage."""
        return report.negotiation == self._negotiation and self._allows(trigger)

    def _on_local_offer(self, report: inputs.LocalOffer) -> None:
        if self._current(report, Trigger.LOCAL_OFFER):
            self._local_offer = report.sdp
            self._describe(Trigger.LOCAL_OFFER, signals.offer_text(report.sdp))

    def _on_local_answer(self, report: inputs.LocalAnswer) -> None:
        if self._current(report, Trigger.LOCAL_ANSWER):
            self._describe(Trigger.LOCAL_ANSWER, signals.answer_text(report.sdp))

    def _describe(self, trigger: Trigger, text: str) -> None:
        """Send our description, if it is not larger than what every known peer reads."""
        if utf8_size(text) > self.config.max_signal_size:
            self._move(Trigger.ENGINE_FAILED, Cause.ENGINE, "our session description is too large to be sent")
        else:
            self._described = True
            self._signal(text)
            self._move(trigger)

    def _on_local_candidate(self, report: inputs.LocalCandidate) -> None:
        # A candidate before the description makes hyperpeer-py fail, so it waits for none and is not sent.
        if self._current(report, Trigger.LOCAL_CANDIDATE):
            if self._described:
                self._signal(signals.candidate_text(report.candidate))
            self._move(Trigger.LOCAL_CANDIDATE)

    def _on_channel_opened(self, report: inputs.ChannelOpened) -> None:
        if not self._current(report, Trigger.CHANNEL_OPENED):
            return
        if report.max_message_size:  # 0 and absent: no limit known (RFC 8841 section 6.1)
            self._send_limit = min(self.config.max_send_size, report.max_message_size)
        self._move(Trigger.CHANNEL_OPENED)
        if self._stage is Stage.CONNECTED:
            self._tell(outputs.Connected(remote_id=self._remote_id, negotiation=self._negotiation))

    def _on_channel_received(self, report: inputs.ChannelReceived) -> None:
        if not self._current(report, Trigger.CHANNEL_RECEIVED):
            return
        self._move(Trigger.CHANNEL_RECEIVED)
        self._start(Timer.SILENCE)
        try:
            data = decode(report.data, max_size=self.config.max_receive_size)
        except RemoteProtocolError as error:
            self._tell(outputs.DataIgnored(detail=str(error)))
        else:
            self._tell(outputs.DataReceived(data=data))

    def _on_activity(self, report: inputs.Activity) -> None:
        if self._current(report, Trigger.ACTIVITY):
            self._move(Trigger.ACTIVITY)
            self._start(Timer.SILENCE)

    def _on_engine_failed(self, report: inputs.EngineFailed) -> None:
        if self._current(report, Trigger.ENGINE_FAILED):
            self._move(Trigger.ENGINE_FAILED, report.cause, report.detail)

    def _on_engine_closed(self, report: inputs.EngineClosed) -> None:
        if self._current(report, Trigger.ENGINE_CLOSED):
            self._engine_open = False
            self._move(Trigger.ENGINE_CLOSED, Cause.REMOTE_CLOSED, "the remote peer closed the connection")
            if self._stage is Stage.CLOSING:
                self._check_all_closed()

    # --- Who takes what --------------------------------------------------------------------------------------

    _HANDLERS: ClassVar[dict[type[Any], Callable[[Peer, Any], None]]] = {
        inputs.ListPeers: _on_list_peers,
        inputs.Listen: _on_listen,
        inputs.Connect: _on_connect,
        inputs.Accept: _on_accept,
        inputs.Disconnect: _on_disconnect,
        inputs.Send: _on_send,
        inputs.Close: _on_close,
        inputs.SignalingOpened: _on_signaling_opened,
        inputs.SignalingReceived: _on_signaling_received,
        inputs.SignalingFailed: _on_signaling_failed,
        inputs.SignalingClosed: _on_signaling_closed,
        inputs.LocalOffer: _on_local_offer,
        inputs.LocalAnswer: _on_local_answer,
        inputs.LocalCandidate: _on_local_candidate,
        inputs.ChannelOpened: _on_channel_opened,
        inputs.ChannelReceived: _on_channel_received,
        inputs.Activity: _on_activity,
        inputs.EngineFailed: _on_engine_failed,
        inputs.EngineClosed: _on_engine_closed,
    }

    _SIGNAL_HANDLERS: ClassVar[dict[type[Any], Callable[[Peer, Any], None]]] = {
        signals.PeerList: _on_peer_list,
        signals.Paired: _on_paired,
        signals.Unpaired: _on_unpaired,
        signals.ServerError: _on_server_error,
        signals.Offer: _on_offer,
        signals.Answer: _on_answer,
        signals.RemoteCandidate: _on_candidate,
        signals.RenegotiationAsked: _on_renegotiation,
        signals.UnknownSignal: _on_unknown_signal,
    }
