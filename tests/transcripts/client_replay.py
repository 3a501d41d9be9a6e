"""Replays what one recorded peer saw and did against our client role.

What the server sent is handed to `Peer` as it came; what the recorded peer sent tells which command its application
gave, or what its engine made; rows from inside it tell when the data channel opened and closed. Then our peer has to
send the same messages in the same order. It may send one more, or not send one, or in another form, only where
docs/client-differences.md says so. A server always answers `unpair`: where ours sends one that the recorded peer did
not, the reply is made up.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from deepio_core import inputs, outputs, signals
from deepio_core.address import SEGMENT_CHARACTERS
from deepio_core.config import PeerConfig
from deepio_core.errors import AddressError
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.sdp import offer_problem
from deepio_core.states import PeerState, Stage
from tests.transcripts.driving import UNPAIRED, Driver
from tests.transcripts.judging import follows, kind_of, parse, was_refused_for_its_id
from tests.transcripts.recording import (
    CLIENT,
    SERVER,
    Connection,
    Recording,
    Row,
    is_close,
    is_cut,
    is_message,
    of_connection,
    parse_strictly,
    restore,
    restore_data,
    same_json,
)
from tests.transcripts.report import Report

_IDLE = frozenset({Stage.ONLINE, Stage.LISTENING})
_WAITS_FOR_UNPAIRED = frozenset({Stage.LEAVING, Stage.UNPAIRING})
_OVER = frozenset({Stage.CLOSING, Stage.CLOSED})
_ACTIVE = frozenset({Stage.CONNECTED, Stage.DETACHED})
_OUT_OF_TURN = frozenset(
    {Stage.PAIRING, Stage.INVITED, Stage.OFFERING, Stage.AWAITING_OFFER, Stage.ANSWERING, Stage.PARTING}
)
"""Where another description than the recorded one is due, or none yet."""

_WHY_UNPAIR = {
    Cause.LOCAL: "C-unpair",
    Cause.REMOTE_CLOSED: "C-unpair",
    Cause.ENGINE: "C-unpair",
    Cause.REPAIRED: "C-repaired",
    Cause.CROSSED: "C-crossed",
    Cause.NOT_PAIRED: "C-not-paired",
    Cause.NO_REPLY: "C-timeout",
    Cause.NOT_ACCEPTED: "C-timeout",
    Cause.NO_CONNECTION: "C-timeout",
    Cause.SILENCE: "C-timeout",
}
"""The difference that an `unpair` of our own accord is, by the cause that went with it."""


class ClientReplay:
    """One connection of a recording, one peer of ours."""

    def __init__(self, recording: Recording, connection: Connection, make: type[Peer] = Peer) -> None:
        self.connection = connection
        self.report = Report()
        self.differences: Counter[str] = self.report.differences
        self.rows = of_connection(recording, connection)
        self.ahead: list[str] = []
        """The difference of each `unpair` that ours has sent and the recorded peer has not, so far."""
        self.ended = False
        """The pairing has ended since the recorded peer was paired last: by the server's word, or by ours."""
        self.refused_offer = False
        self.listed_free = False
        """Ours has sent `ready`, and has not been paired since."""
        self.described = False
        start = float(self.rows[0]["t"])
        peer = make(PeerConfig(peer_id=connection.peer_id or "assigned"), now=start)
        self.driver = Driver(peer, start)
        self.driver.after_timeout = self._note_unasked

    def run(self) -> Report:
        for row in self.rows:
            if self.driver.stage is Stage.CLOSED and "dir" in row:
                self.driver.now = max(self.driver.now, row["t"])
            else:
                self.driver.advance(row["t"])
            self._note_unasked()
            self._play(row)
            self._note_unasked()
        self._flush()
        self._check_end()
        return self.report

    def _play(self, row: Row) -> None:
        event = row.get("event")
        if "dc" in row:
            self._on_data(row)
        elif is_close(row, SERVER):
            self.driver.lose_link(1005 if row.get("code") is None else row["code"], row.get("reason", ""))
        elif is_message(row, SERVER):
            self._on_server(restore(row))
        elif is_close(row, CLIENT):
            self._on_close(row)
        elif is_message(row, CLIENT):
            self._on_client(row)
        elif event is not None:
            self._on_event(event, row)

    # --- What happened inside, and to the connection ---------------------------------------------------------

    def _on_event(self, event: str, row: Row) -> None:
        match event:
            case "open":
                self.driver.feed(inputs.SignalingOpened())
            case "http-response" | "no-http-response":
                self.driver.link_open = False
                refused = " 401" in str(row.get("status"))
                cause = Cause.KEY_REFUSED if refused else Cause.NOT_SIGNALING
                self.driver.feed(inputs.SignalingFailed(cause=cause))
            case "tcp-end":
                if row.get("by") == "server" or self.driver.closing:
                    self.driver.lose_link(1000 if self.driver.closing else 1006)
            case "dc-open":
                self.driver.open_channel()
            case "dc-close":
                self._end_engine()
            case "pc-connectionstatechange" if row.get("value") in {"closed", "failed"}:
                self._end_engine()
            case "state":
                self._on_state(str(row.get("value")))
            case "call-failed" if row.get("call") in {"setLocalDescription", "setRemoteDescription"}:
                if self.driver.engine_open:
                    self.driver.report(inputs.EngineFailed, cause=Cause.ENGINE)
            case _:
                pass

    def _end_engine(self) -> None:
        if self.driver.engine_open:
            paired = self.driver.link_open and self.driver.stage not in {*_OVER, Stage.LEAVING, Stage.DRAINING}
            self.driver.end_engine()
            if paired and signals.UNPAIR not in self.driver.sent:
                self.report.problems.append(f"{self.connection.label}: ends a session without unpair")

    def _on_state(self, state: str) -> None:
        """A state of hyperpeer-py."""
        stage = self.driver.stage
        if state == "CONNECTED":
            self.driver.open_channel()
        elif state == "DISCONNECTING" and self.driver.engine_open and stage not in _OVER:
            # Nothing has ended it before: the application asked for it, or its media has ended.
            self.driver.attempt(inputs.Disconnect())

    # --- What the server sent --------------------------------------------------------------------------------

    def _on_server(self, text: str | bytes) -> None:
        signal = parse(text)
        match signal:
            case signals.Paired():
                self.ended = self.refused_offer = self.described = self.listed_free = False
            case signals.Unpaired() | signals.ServerError(code=signals.ERR_BAD_STATE):
                self.ended = True
            case signals.Offer() if offer_problem(signal.sdp):
                self.refused_offer = True
            case _:
                pass
        if len(text) > PeerConfig(peer_id="x").max_signal_size:
            self.differences["C-oversize"] += 1
        stage, before = self.driver.stage, len(self.driver.events)
        self.driver.receive(text)
        if self.driver.link_open and not follows(signal, stage, self.driver, self.driver.events[before:]):
            what = f"{signal} leads from {stage.value} to {self.driver.stage.value}"
            self.report.problems.append(f"{self.connection.label}: {what[:200]}")

    def _note_unasked(self) -> None:
        """Take note of what ours has sent of its own accord, and answer it as a server does."""
        for text in self.driver.take_sent():
            if text != signals.UNPAIR:
                self.report.problems.append(f"{self.connection.label}: sent unasked {text[:80]}")
                continue
            self.ahead.append(self._why_unpaired())
            self.ended = True
            self.driver.receive(UNPAIRED)

    def _why_unpaired(self) -> str:
        """The listed difference behind an unasked `unpair`: the cause of the end that was told last."""
        if self.driver.stage is Stage.ONLINE:
            return "C-declined"  # no session has ended: an invitation came too late
        ends = outputs.ConnectionFailed | outputs.Disconnected
        told = next((one for one in reversed(self.driver.events) if isinstance(one, ends)), None)
        return "C-unlisted" if told is None else _WHY_UNPAIR.get(told.cause, "C-unlisted")

    # --- What the recorded peer sent -------------------------------------------------------------------------

    def _on_client(self, row: Row) -> None:
        text = restore(row)
        try:
            message = parse_strictly(text)
        except ValueError:
            message = None
        kind = kind_of(message)
        if kind == "unpair" and self.ahead:
            self.ahead.pop(0)
            self.report.same += 1
            return
        self._flush()
        if self.driver.stage in _OVER or self.driver.stage is Stage.DETACHED:
            self._expect_over(row)
            return
        match kind:
            case "listPeers":
                self._expect(self.driver.attempt(inputs.ListPeers()), message)
            case "ready":
                self._on_ready(message)
            case "pair":
                self._on_pair(message)
            case "unpair":
                self._on_unpair(message)
            case "offer" | "answer":
                self._on_description(kind, message)
            case "candidate":
                self._on_candidate(message)
            case "renegotiation":
                self.differences["C-renegotiation"] += 1
            case _:
                self.differences["C-private"] += 1

    def _expect_over(self, row: Row) -> None:
        """The recorded peer went on to send although its connection was over, as seen by ours."""
        closes = [one for one in self.connection.rows if one.get("frame") == "close" or one.get("event") == "tcp-end"]
        if not any(one["t"] <= row["t"] for one in closes):
            self.report.problems.append(f"{self.connection.label}: is over at {row['t']}, and was not")
        else:
            self.differences["C-over"] += 1

    def _expect(self, done: bool, message: Any) -> None:
        """Ours has been asked to send a message: it must have sent this one, and nothing else."""
        sent = [json.loads(text) for text in self.driver.take_sent()]
        if done and len(sent) == 1 and same_json(sent[0], message):
            self.report.same += 1
        else:
            stage = self.driver.stage.value
            self.report.problems.append(
                f"{self.connection.label}: at {self.driver.now} sent {str(sent)[:160]} in stage {stage}, "
                f"recorded {str(message)[:160]}"
            )

    def _flush(self) -> None:
        """The recorded peer has done something else: it did not send the `unpair` that ours has sent."""
        self.differences.update(self.ahead)
        self.ahead.clear()

    def _on_ready(self, message: Any) -> None:
        if self.driver.stage is Stage.LISTENING:
            self.differences["C-ready-again"] += 1
            return
        self._leave_first()
        done = self.driver.attempt(inputs.Listen())
        if done and self.listed_free and not self.driver.sent:
            self.differences["C-ready-again"] += 1
            return
        self.listed_free = True
        self._expect(done, {"type": "ready"})
        if message != {"type": "ready"}:
            self.differences["C-form"] += 1

    def _on_pair(self, message: dict[str, Any]) -> None:
        remote_id = message.get("remotePeerId")
        if not isinstance(remote_id, str):
            self.differences["C-form"] += 1
            return
        if remote_id == self.connection.peer_id:
            if self.driver.attempt(inputs.Connect(remote_id=remote_id)):
                self.report.problems.append(f"{self.connection.label}: has paired with itself")
            self.differences["C-self"] += 1
            return
        self._leave_first()
        self.described = False
        done = self.driver.attempt(inputs.Connect(remote_id=remote_id))
        if not SEGMENT_CHARACTERS.issuperset(remote_id) or not remote_id:
            self.differences["C-form"] += 1  # no peer can have such an id; ours encodes it, or refuses
            self.driver.take_sent()
        else:
            self._expect(done, message)

    def _leave_first(self) -> None:
        """The recorded peer begins something new: ours ends what it has, as its application would."""
        for _ in range(5):
            if self.driver.stage in _IDLE:
                break
            if self.driver.stage in _WAITS_FOR_UNPAIRED:
                self.driver.receive(UNPAIRED)
            elif not self.driver.attempt(inputs.Disconnect()):
                self.driver.expire()
            self._note_unasked()
        self._flush()

    def _on_unpair(self, message: Any) -> None:
        stage = self.driver.stage
        left = stage is not Stage.LISTENING and self.driver.attempt(inputs.Disconnect())
        if not left:
            self.differences["C-unpair-idle"] += 1
        elif self.driver.stage is Stage.PARTING:
            self.differences["C-part"] += 1
        else:
            self.ended = True
            self._expect(True, message)

    def _on_description(self, kind: str, message: dict[str, Any]) -> None:
        sdp = message.get("sdp")
        stage = self.driver.stage
        if kind == "offer" and stage is Stage.INVITED:
            self.driver.attempt(inputs.Accept())
            stage = self.driver.stage
        due = {"offer": Stage.OFFERING, "answer": Stage.ANSWERING}[kind]
        if stage is due and isinstance(sdp, str):
            self.described = True
            if self.driver.offerer != (kind == "offer") or (kind == "answer" and not self.driver.applied):
                self.report.problems.append(f"{self.connection.label}: the engine is told to do other than {kind}")
            make = inputs.LocalOffer if kind == "offer" else inputs.LocalAnswer
            self.driver.report(make, sdp=sdp)
            self._expect(True, {"type": kind, "sdp": sdp})
            return
        self.differences[self._why_not_described(kind, stage)] += 1

    def _why_not_described(self, kind: str, stage: Stage) -> str:
        """The listed difference that is behind a description that ours does not send."""
        if self.ended and stage in _IDLE | _WAITS_FOR_UNPAIRED:
            return "C-ended"
        if self.described and self.driver.engine_open:
            return "C-renegotiation"
        if kind == "answer" and stage is Stage.AWAITING_OFFER and self.refused_offer:
            return "C-unusable"
        if stage in _IDLE:
            return "C-not-paired"
        if stage in _OUT_OF_TURN:
            return "C-role"
        self.report.problems.append(f"{self.connection.label}: no {kind} is sent while {stage.value}")
        return "C-unlisted"

    def _on_candidate(self, message: dict[str, Any]) -> None:
        signal = parse(json.dumps(message))
        if not isinstance(signal, signals.RemoteCandidate) or signal.candidate is None:
            self.differences["C-private"] += 1
        elif self.driver.engine_open and self.described and self.driver.stage not in {Stage.LEAVING, Stage.DRAINING}:
            self.driver.report(inputs.LocalCandidate, candidate=signal.candidate)
            fields = message["candidate"] if isinstance(message["candidate"], dict) else message
            plain = {"candidate": {key: fields.get(key) for key in ("candidate", "sdpMLineIndex", "sdpMid")}}
            self.differences["C-candidate-form"] += plain != message
            self._expect(True, plain)
        elif self.ended:
            self.differences["C-ended"] += 1
        elif not self.described:
            self.differences["C-candidate-early"] += 1
        else:
            self.report.problems.append(f"{self.connection.label}: no candidate while {self.driver.stage.value}")

    def _on_close(self, row: Row) -> None:
        self._flush()
        if row.get("code") == 1009:
            # Its library could not take what ours only ignores. The connection is over all the same.
            self.driver.lose_link(1009)
            return
        if self.driver.stage in _OVER:
            return
        if not self.driver.attempt(inputs.Close()) or not (self.driver.closing or not self.driver.link_open):
            self.report.problems.append(f"{self.connection.label}: does not close at {row['t']}")
        elif row.get("code") == 1000:
            self.report.same += 1
        else:
            self.differences["C-close-code"] += 1

    # --- Data ------------------------------------------------------------------------------------------------

    def _on_data(self, row: Row) -> None:
        data = restore_data(row)
        if data is None:
            return
        self.driver.open_channel()  # rows of browsers come late: there is data, so the channel is open
        if self.driver.stage not in _ACTIVE:
            if self.ended:
                self.differences["C-ended"] += 1
            else:
                self.report.problems.append(f"{self.connection.label}: has data while {self.driver.stage.value}")
        elif row["dc"] == "recv":
            self._on_received(data)
        else:
            self._on_data_sent(row, data)

    def _on_received(self, data: str | bytes) -> None:
        before = len(self.driver.events)
        self.driver.report(inputs.ChannelReceived, data=data)
        told = self.driver.events[before:]
        try:
            expected = parse_strictly(data)
        except ValueError:
            fits = len(told) == 1 and isinstance(told[0], outputs.DataIgnored)
        else:
            fits = len(told) == 1 and isinstance(told[0], outputs.DataReceived) and same_json(told[0].data, expected)
        if fits:
            self.report.same += 1
        else:
            self.report.problems.append(f"{self.connection.label}: data {data[:80]!r} is told as {told}")

    def _on_data_sent(self, row: Row, data: str | bytes) -> None:
        try:
            message = json.loads(data)
        except ValueError:
            self.differences["C-data"] += 1
            return
        done = self.driver.attempt(inputs.Send(data=message))
        sent = [json.loads(text) for text in self.driver.take_channel()]
        if isinstance(data, bytes):
            self.differences["C-data"] += 1  # the same, as text
        elif done and len(sent) == 1 and same_json(sent[0], message):
            self.report.same += 1
        elif not done and is_cut(row):
            self.differences["C-data"] += 1
        else:
            self.report.problems.append(f"{self.connection.label}: data sent {sent}, recorded {data[:80]!r}")

    # --- The end ---------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        """Ours must be as good as new: back online and served, or closed in due form."""
        driver = self.driver
        for _ in range(12):
            if driver.stage in _OVER or driver.stage is Stage.ONLINE:
                break
            if driver.stage in _WAITS_FOR_UNPAIRED:
                driver.receive(UNPAIRED)
            elif not driver.attempt(inputs.Disconnect()):
                driver.expire()
            driver.take_sent()
        if driver.stage is Stage.ONLINE:
            before = len(driver.events)
            driver.attempt(inputs.ListPeers())
            driver.receive('{"type":"peers","peers":[]}')
            if not any(isinstance(one, outputs.PeersListed) for one in driver.events[before:]):
                self.report.problems.append(f"{self.connection.label}: is online and lists no peers at the end")
            driver.attempt(inputs.Close())
        if driver.link_open and driver.closing:
            driver.lose_link(1000)
        closed = [one for one in driver.events if isinstance(one, outputs.PeerClosed)]
        if driver.stage is not Stage.CLOSED or len(closed) != 1:
            self.report.problems.append(f"{self.connection.label}: is {driver.stage.value} at the end: {closed}")
        elif was_refused_for_its_id(self.connection) and closed[0].cause is not Cause.ID_IN_USE:
            self.report.problems.append(f"{self.connection.label}: takes a refused id for {closed[0].cause}")
        changes = [one for one in driver.events if isinstance(one, outputs.StateChanged)]
        if changes and changes[-1].new is not PeerState.CLOSED:
            self.report.problems.append(f"{self.connection.label}: the last state told is {changes[-1].new}")


def replay_client(recording: Recording, connection: Connection) -> Report:
    """Replay one connection of a recording against `Peer`."""
    try:
        PeerConfig(peer_id=connection.peer_id or "assigned")
    except AddressError:
        return Report(differences=Counter({"C-address": 1}))
    return ClientReplay(recording, connection).run()
