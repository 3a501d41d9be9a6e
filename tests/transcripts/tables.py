"""Replays the files that hold a table: odd signals that were sent to real clients, and odd paths sent to real servers.

Each signal is sent to our client as in the recordings: while connected, instead of the answer, instead of the offer.
Hyperpeer-py lost its reader to many of them; ours has to go on, or to leave in due form where the signal says that the
partner has gone. Each path ended the original server; ours has to refuse it and to serve the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from deepio_core import closecodes, inputs, outputs
from deepio_core.address import parse_path
from deepio_core.config import PeerConfig
from deepio_core.errors import AddressError
from deepio_core.peer import Peer
from deepio_core.server import PeerArrived, PeerSent, RefusePeer, SendTo, ServerConfig, SignalingServer
from deepio_core.states import Stage
from tests.transcripts.driving import UNPAIRED, Driver
from tests.transcripts.recording import Recording, Row
from tests.transcripts.report import Report

_SECTION = (
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sctp-port:5000\r\n"
    "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=fingerprint:sha-256 00:11\r\na=setup:actpass\r\n"
)
DESCRIPTION = f"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{_SECTION}"
"""Enough of a description for an offer and for its answer."""

_ENDINGS = frozenset({Stage.DRAINING, Stage.LEAVING, Stage.UNPAIRING, Stage.ONLINE})


def replay_table(recording: Recording) -> Report | None:
    """Replay a table; None if it holds neither signals nor paths, so that there is nothing for the core in it."""
    report = Report()
    signals = [row for row in recording.table if "signal" in row and "json" in row]
    paths = [row for row in recording.table if "path" in row]
    for row in signals:
        for name, driver, proceed in _situations():
            _try_signal(report, name, row, driver, proceed)
    for row in paths:
        _try_path(report, str(row["path"]))
    return report if signals or paths else None


def _paired(remote_id: str) -> str:
    return json.dumps({"type": "status", "status": "paired", "remotePeerId": remote_id})


def _description(kind: str) -> str:
    return json.dumps({"type": kind, "sdp": DESCRIPTION})


def _online() -> Driver:
    driver = Driver(Peer(PeerConfig(peer_id="ours"), now=0.0), 0.0)
    driver.feed(inputs.SignalingOpened())
    return driver


def _listening() -> Driver:
    """A listener whose offer is out."""
    driver = _online()
    driver.feed(inputs.Listen())
    driver.receive(_paired("theirs"))
    driver.feed(inputs.Accept())
    driver.report(inputs.LocalOffer, sdp=DESCRIPTION)
    assert driver.stage is Stage.AWAITING_ANSWER, "the way there is not what is tried here"
    return driver


def _calling() -> Driver:
    """A caller that awaits the offer."""
    driver = _online()
    driver.feed(inputs.Connect(remote_id="theirs"))
    driver.receive(_paired("theirs"))
    assert driver.stage is Stage.AWAITING_OFFER, "the way there is not what is tried here"
    return driver


def _answered(driver: Driver) -> None:
    driver.receive(_description("answer"))
    driver.open_channel()


def _offered(driver: Driver) -> None:
    driver.receive(_description("offer"))
    driver.report(inputs.LocalAnswer, sdp=DESCRIPTION)
    driver.open_channel()


def _situations() -> Iterator[tuple[str, Driver, Any]]:
    """Where a signal is tried, a peer that is there, and what makes it connected from there."""
    yield "instead_of_answer", _listening(), _answered
    yield "instead_of_offer", _calling(), _offered
    for begin, proceed in ((_listening, _answered), (_calling, _offered)):
        driver = begin()
        proceed(driver)
        yield "after_connection", driver, lambda _driver: None


def _try_signal(report: Report, name: str, row: Row, driver: Driver, proceed: Any) -> None:
    where = f"{row['signal']} {name}"
    driver.take_sent()
    driver.receive(json.dumps(row["json"]))
    if driver.stage in _ENDINGS:
        # It said that the partner has gone: nothing else may end a session.
        if not _says_that_it_is_over(row["json"]):
            report.problems.append(f"{where}: ends the session")
        driver.receive(UNPAIRED)
    else:
        proceed(driver)
        if driver.stage is not Stage.CONNECTED:
            report.problems.append(f"{where}: {driver.stage.value} afterwards")
        driver.report(inputs.ChannelReceived, data='{"type":"x"}')
        if not any(isinstance(one, outputs.DataReceived) for one in driver.events):
            report.problems.append(f"{where}: no data afterwards")
        driver.receive(UNPAIRED)  # the reader of hyperpeer-py would not get this any more
    if driver.stage is not Stage.ONLINE or not driver.attempt(inputs.Listen()):
        report.problems.append(f"{where}: {driver.stage.value} at the end")
    report.same += 1


def _says_that_it_is_over(signal: Any) -> bool:
    match signal:
        case {"type": "status", "status": "unpaired" | "paired"} | {"type": "error", "code": "ERR_BAD_STATE"}:
            return True
        case _:
            return False


def _try_path(report: Report, path: str) -> None:
    try:
        parse_path(path)
    except AddressError:
        report.same += 1
    else:
        report.problems.append(f"the path {path!r} is taken for an address")
    server = SignalingServer(ServerConfig(), lambda: "assigned")
    server.handle(PeerArrived(conn=1, path="/t/bystander"), now=0.0)
    server.handle(PeerArrived(conn=2, path=path), now=0.0)
    server.handle(PeerSent(conn=1, text='{"type":"listPeers"}'), now=0.0)
    effects = list(iter(server.poll, None))
    refusals = [one.code for one in effects if isinstance(one, RefusePeer) and one.conn == 2]
    lists = [one.conn for one in effects if isinstance(one, SendTo)]
    if refusals != [closecodes.ADDRESS_REFUSED] or lists != [1]:
        report.problems.append(f"the path {path!r}: {effects}")
    report.differences["S-bad-path"] += 1
