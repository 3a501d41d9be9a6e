"""Replays what a recorded deep_io saw and did against our `Session` with the policy that deep_io followed.

Here nobody gives commands: the session itself asks for the peer list, pairs, listens, greets and acknowledges, and has
to do as recorded, in the recorded order. It also goes on where deep_io ended with an exception.
"""

from __future__ import annotations

import json
from typing import Any

from deepio_core import inputs, outputs, signals
from deepio_core.config import PeerConfig
from deepio_core.outputs import Cause
from deepio_core.policy import ConnectFirst, ConnectTo, ListenForCallers, Policy, SessionConfig
from deepio_core.session import MessageReceived, SendMessage, SendMetadata, Session, SessionEnded, Stop
from deepio_core.states import Stage
from tests.transcripts.driving import UNPAIRED, Driver
from tests.transcripts.recording import (
    CLIENT,
    SERVER,
    Connection,
    Recording,
    Row,
    is_close,
    is_message,
    of_connection,
    parse_strictly,
    restore,
    restore_data,
)
from tests.transcripts.report import Report

_GREETINGS = {"source": "C-source", "metadata": "C-metadata"}
"""What ours says after every connection, and the difference it is if the recorded peer did not."""
_ACTIVE = frozenset({Stage.CONNECTED, Stage.DETACHED})


def is_deep_io(recording: Recording, connection: Connection) -> bool:
    """Whether a connection is that of a recorded deep_io: by its type, its recorded states, and its first words."""
    inside = recording.inside[connection.number]
    states = any(row.get("event") == "state" for row in inside)
    said = [_decode(row) for row in inside if row.get("dc") == "send"]
    greets = not said or (isinstance(said[0], dict) and said[0].get("type") in ("source", "metadata"))
    return connection.opened_at is not None and connection.peer_type == "stream_capture" and states and greets


class SessionReplay:
    """One connection of a recorded deep_io, one session of ours."""

    def __init__(self, recording: Recording, connection: Connection) -> None:
        self.connection = connection
        self.report = Report()
        self.rows = of_connection(recording, connection)
        self.ahead: list[dict[str, Any]] = []
        """What ours has sent over signaling and the recorded deep_io has not, so far."""
        self.said: list[dict[str, Any]] = []
        """The same for the data channel."""
        self.acknowledged: set[str] = set()
        self.greeted = 0
        """Connections in which metadata has been said."""
        sent = [_decode(row) for row in self.rows if row.get("dc") == "send"]
        self.greetings = [message for message in sent if isinstance(message, dict)]
        config = SessionConfig(
            peer=PeerConfig(peer_id=connection.peer_id or "assigned"),
            policy=self._policy(),
            metadata=self._first("metadata").get("metadata"),
            source_id=self._first("source").get("peerId"),
        )
        start = float(self.rows[0]["t"])
        # The shortest delays: ours has asked before what the recorded server said was sent.
        self.driver = Driver(Session(config, now=start, random=lambda: 0.0), start)
        self.driver.after_timeout = self._collect

    def _first(self, kind: str) -> dict[str, Any]:
        return next((message for message in self.greetings if message.get("type") == kind), {})

    def _policy(self) -> Policy:
        """What deep_io was told to do, as its first command shows."""
        for row in self.connection.rows:
            if is_message(row, CLIENT):
                command = json.loads(restore(row))
                if command.get("type") == "pair":
                    return ConnectTo(remote_id=command["remotePeerId"])
                return ListenForCallers() if command.get("type") == "ready" else ConnectFirst()
        return ConnectFirst()

    def run(self) -> Report:
        for row in self.rows:
            self.driver.advance(row["t"])
            self._collect()
            if is_close(row, CLIENT):
                break  # deep_io gave up; ours has no reason to
            self._play(row)
            self._collect()
        self._check_left_over()
        self._check_end()
        return self.report

    def _play(self, row: Row) -> None:
        event, value = row.get("event"), row.get("value")
        if "dc" in row:
            self._on_data(row)
        elif is_message(row, CLIENT):
            self._on_client(json.loads(restore(row)))
        elif is_message(row, SERVER):
            self.driver.receive(restore(row))
        elif is_close(row, SERVER):
            self.driver.lose_link(1005 if row.get("code") is None else row["code"])
        elif event == "open":
            self.driver.feed(inputs.SignalingOpened(link=self.driver.link))
        elif event == "tcp-end" and row.get("by") == "server":
            self.driver.lose_link(1006)
        elif event == "dc-open" or (event == "state" and value == "CONNECTED"):
            self.driver.open_channel()
        elif event == "dc-close" or (event == "pc-connectionstatechange" and value in {"closed", "failed"}):
            self.driver.end_engine()
        elif event == "state" and value == "DISCONNECTING" and self.driver.engine_open:
            # Its file has ended, or its application has left: to a session both are the end of this connection.
            self.driver.end_engine()
        elif event == "call-failed" and self.driver.engine_open:
            self.driver.report(inputs.EngineFailed, cause=Cause.ENGINE)

    def _collect(self) -> None:
        """Take note of what ours has sent; answer `unpair` as a server does."""
        for text in self.driver.take_sent():
            self.ahead.append(json.loads(text))
            if text == signals.UNPAIR:
                self.driver.receive(UNPAIRED)
        self.said += [json.loads(text) for text in self.driver.take_channel()]

    # --- Signaling -------------------------------------------------------------------------------------------

    def _on_client(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind in {"offer", "answer"} and self.driver.stage in {Stage.OFFERING, Stage.ANSWERING}:
            self.driver.report(inputs.LocalOffer if kind == "offer" else inputs.LocalAnswer, sdp=message["sdp"])
            self._collect()
        while self.ahead and self.ahead[0].get("type") != kind:
            self._explain_extra(self.ahead.pop(0))
        if self.ahead and self.ahead[0] == message:
            self.ahead.pop(0)
            self.report.same += 1
        elif kind == "listPeers":
            self.report.differences["C-poll"] += 1
        else:
            what = f"{str(message)[:120]}, ours is {self.driver.stage.value}"
            self.report.problems.append(f"{self.connection.label}: at {self.driver.now} recorded {what}")

    def _explain_extra(self, message: dict[str, Any]) -> None:
        difference = {"listPeers": "C-poll", "unpair": "C-unpair"}.get(str(message.get("type")))
        if difference:
            self.report.differences[difference] += 1
        else:
            self.report.problems.append(f"{self.connection.label}: sent {str(message)[:120]}")

    # --- Data ------------------------------------------------------------------------------------------------

    def _on_data(self, row: Row) -> None:
        data = restore_data(row)
        if data is None:
            return
        self.driver.open_channel()
        self._collect()
        if row["dc"] == "recv":
            self._on_received(data)
        else:
            self._on_said(_decode(row))

    def _on_received(self, data: str | bytes) -> None:
        if self.driver.stage not in _ACTIVE:
            self.report.differences["C-ended"] += 1
            return
        before = len(self.driver.order)
        self.driver.report(inputs.ChannelReceived, data=data)
        news = self.driver.order[before:]
        told = [index for index, one in enumerate(news) if isinstance(one, MessageReceived)]
        sent = [(index, one.text) for index, one in enumerate(news) if isinstance(one, outputs.SendChannel)]
        message = parse_strictly(data)
        wants = isinstance(message, dict) and message.get("type") == "data"
        rec_time = message.get("rec_time") if wants else None
        # Numbers are compared as they are written: an integer stays one, and no digit goes.
        expected = [] if rec_time is None else [{"type": "acknowledge", "rec_time": repr(rec_time)}]
        replies = [json.loads(text) for _, text in sent]
        shown = [{**reply, "rec_time": repr(reply.get("rec_time"))} for reply in replies]
        if len(told) != 1 or shown != expected or any(index > told[0] for index, _ in sent):
            self.report.problems.append(f"{self.connection.label}: {data[:100]!r} is answered by {sent}")
            return
        self.report.same += 1
        self.driver.take_channel()
        self.acknowledged |= {reply["rec_time"] for reply in shown}

    def _on_said(self, message: Any) -> None:
        """What deep_io said: a greeting, an acknowledgement, or what its application wanted."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "acknowledge":
            # Ours has sent it together with the message, which the recording may have left out.
            self.report.same += repr(message.get("rec_time")) in self.acknowledged
            return
        while self.said and self.said[0] != message and (extra := _GREETINGS.get(self.said[0].get("type", ""))):
            self.said.pop(0)
            self.report.differences[extra] += 1
            self._greeted()
        metadata = kind == "metadata"
        greeted = self._greeted() if metadata else True
        if self.said and self.said[0] == message:
            self.said.pop(0)
            self.report.same += 1
        elif not greeted:
            self.report.problems.append(f"{self.connection.label}: did not say {message} by itself")
        elif self.driver.stage in _ACTIVE:
            self.driver.feed(SendMetadata(metadata=message["metadata"]) if metadata else SendMessage(message=message))
            sent = [json.loads(text) for text in self.driver.take_channel()]
            if sent == [message]:
                self.report.same += 1
            else:
                self.report.problems.append(f"{self.connection.label}: said {sent}, recorded {message}")
        else:
            self.report.differences["C-ended"] += 1

    def _greeted(self) -> bool:
        """Whether this is not the first thing to be said in this connection."""
        connections = sum(isinstance(one, outputs.Connected) for one in self.driver.events)
        greeted, self.greeted = self.greeted, connections
        return greeted == connections

    # --- The end ---------------------------------------------------------------------------------------------

    def _check_left_over(self) -> None:
        for message in self.ahead:
            if message.get("type") in ("pair", "ready"):
                self.report.differences["C-retry"] += 1
            else:
                self._explain_extra(message)
        for message in self.said:
            if extra := _GREETINGS.get(message.get("type", "")):
                self.report.differences[extra] += 1
            else:
                self.report.problems.append(f"{self.connection.label}: said {message}, which was not recorded")

    def _check_end(self) -> None:
        """Whatever has happened, ours is still trying, and stops when it is told to."""
        driver = self.driver
        if any(isinstance(one, SessionEnded) for one in driver.events):
            self.report.problems.append(f"{self.connection.label}: has ended by itself")
            return
        if driver.link_open:
            self.report.same += 1  # still online
        driver.feed(Stop())
        for _ in range(8):
            for text in driver.take_sent():
                if text == signals.UNPAIR:
                    driver.receive(UNPAIRED)
            if driver.closing and driver.link_open:
                driver.lose_link(1000)
            if any(isinstance(one, SessionEnded) for one in driver.events):
                break
            driver.expire()
        ended = [one for one in driver.events if isinstance(one, SessionEnded)]
        if len(ended) != 1 or ended[0].cause is not Cause.LOCAL:
            self.report.problems.append(f"{self.connection.label}: does not stop: {driver.stage.value} {ended}")


def replay_session(recording: Recording, connection: Connection) -> Report:
    """Replay one connection of a recorded deep_io against `Session`."""
    return SessionReplay(recording, connection).run()


def _decode(row: Row) -> Any:
    data = restore_data(row)
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return None
