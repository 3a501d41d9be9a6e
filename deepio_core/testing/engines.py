"""Engines without media: their descriptions say whose they are, and two that have exchanged them are connected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from deepio_core import inputs
from deepio_core.outputs import Cause
from deepio_core.signals import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.testing.wires import Wire

BEAT: Final = 2.0
"""Seconds between two reports of `Activity`: the longest that `PeerConfig.silence_timeout` counts with."""

_TAG: Final = re.compile(r"a=x-engine:([0-9]+)(?: answers ([0-9]+))?")
_CANDIDATE_TAG: Final = re.compile(r"candidate:([0-9]+) ")


def make_description(serial: int, answers: int | None = None) -> str:
    """A session description with nothing but a data channel, and the tag of its maker.

    Args:
        serial: Serial number of the engine that makes it; 0 for nobody's.
        answers: Serial number of the engine whose offer this answers; None for an offer.
    """
    tag = f"a=x-engine:{serial}" if answers is None else f"a=x-engine:{serial} answers {answers}"
    setup = "actpass" if answers is None else "active"
    lines = (
        "v=0",
        f"o=- {serial} 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        tag,
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 127.0.0.1",
        "a=mid:0",
        "a=ice-ufrag:test",
        "a=ice-pwd:testtesttesttesttesttest",
        "a=fingerprint:sha-256 " + ":".join(["00"] * 32),
        f"a=setup:{setup}",
        "a=sctp-port:5000",
        "",
    )
    return "\r\n".join(lines)


def make_candidate(serial: int) -> Candidate:
    """A candidate with the tag of its maker."""
    text = f"candidate:{serial} 1 udp 2130706431 127.0.0.1 9 typ host"
    return Candidate(candidate=text, sdp_mid="0", sdp_mline_index=0)


class EngineOwner(Protocol):
    """Whoever has started an engine."""

    def take_report(self, report: inputs.EngineReport) -> None:
        """Take what the engine reports."""
        ...


class EngineRoom:
    """All engines of a world, by their serial numbers.

    Args:
        complain: Called when an engine is fed what is not meant for it, with a sentence that says so.
        loses: Asked for each data-channel message whether it is lost.
    """

    def __init__(self, complain: Callable[[str], None], loses: Callable[[], bool]) -> None:
        self.engines: list[FakeEngine] = []
        """Every engine that was ever started; the first one has the serial number 1."""
        self.complain = complain
        """Called with what is wrong."""
        self.loses = loses
        """Asked for each data-channel message whether it is lost."""

    def find(self, pattern: re.Pattern[str], text: str) -> tuple[FakeEngine | None, int | None]:
        """The engine whose tag a text carries, and whom it answers; None for nobody's."""
        found = pattern.search(text)
        if found is None or int(found[1]) == 0:
            return None, None
        # A candidate's tag has no second part.
        answers = found[2] if pattern.groups > 1 else None
        return self.engines[int(found[1]) - 1], None if answers is None else int(answers)


class FakeEngine:
    """The WebRTC of one negotiation: no network, no media, and a data channel that always opens.

    Args:
        room: Where its kind lives.
        owner: Whoever has started it.
        wire: What carries its reports.
        negotiation: The owner's number for it.
        offerer: Whether it makes the offer.
        pairing: Number of the pairing that it was started for; None if nobody knows.
    """

    def __init__(
        self, room: EngineRoom, owner: EngineOwner, wire: Wire, negotiation: int, *, offerer: bool, pairing: int | None
    ) -> None:
        room.engines.append(self)
        self.serial = len(room.engines)
        """Its number in the room: the tag of its descriptions and candidates."""
        self.negotiation = negotiation
        """The owner's number for it."""
        self.pairing = pairing
        """Number of the pairing that it was started for; None if nobody knows."""
        self.reports = wire
        """What it has reported and the owner has not seen."""
        self.partner: FakeEngine | None = None
        """The engine at the other end of the data channel, once it is open."""
        self.ended = False
        """It has closed, or died."""
        self.mute = False
        """Nothing that it sends arrives any more, signs of life included: the network is gone."""
        self.next_beat: float | None = None
        """When it reports `Activity` next."""
        self._room = room
        self._owner = owner
        self._offer_of: int | None = None
        if offerer:
            self._report(inputs.LocalOffer(negotiation=negotiation, sdp=make_description(self.serial)))

    @property
    def connected(self) -> bool:
        """Whether the data channel is open at both ends."""
        return self.partner is not None and not (self.ended or self.partner.ended)

    @property
    def healthy(self) -> bool:
        """Whether what is sent over the data channel arrives, at both ends."""
        return self.partner is not None and self.connected and not (self.mute or self.partner.mute)

    # --- Effects ---------------------------------------------------------------------------------------------

    def apply_offer(self, sdp: str) -> None:
        """Take the remote peer's offer and make the answer."""
        maker, answers = self._room.find(_TAG, sdp)
        self._check(maker, "an offer")
        if maker is not None and answers is not None:
            self._room.complain("an engine was fed an answer for an offer")
        self._offer_of = 0 if maker is None else maker.serial
        sdp = make_description(self.serial, self._offer_of)
        self._report(inputs.LocalAnswer(negotiation=self.negotiation, sdp=sdp))

    def apply_answer(self, sdp: str, now: float) -> None:
        """Take the remote peer's answer: the data channel opens, if the other engine still lives."""
        maker, answers = self._room.find(_TAG, sdp)
        if maker is None:
            return  # somebody else's description: ICE finds nobody
        self._check(maker, "an answer")
        if maker.pairing is not None and answers not in {0, self.serial}:
            self._room.complain(f"engine {self.serial} was fed the answer to the offer of engine {answers}")
        if not maker.ended and not self.ended:
            self.partner, maker.partner = maker, self
            for engine in (self, maker):
                engine.next_beat = now + BEAT
                engine._report(inputs.ChannelOpened(negotiation=engine.negotiation, max_message_size=65536))

    def apply_candidate(self, candidate: Candidate | None) -> None:
        """Take a candidate of the remote peer."""
        if candidate is not None:
            self._check(self._room.find(_CANDIDATE_TAG, candidate.candidate)[0], "a candidate")

    def send(self, text: str) -> None:
        """Send a message over the data channel, which may lose it."""
        if self.partner is not None and not self.mute and not self._room.loses():
            self.partner.receive(text)

    def close(self) -> None:
        """Close the peer connection, which the engine at the other end notices."""
        self._end()
        if self.partner is not None and not self.mute:
            self.partner._end()

    # --- What befalls it -------------------------------------------------------------------------------------

    def receive(self, data: str | bytes) -> None:
        """A message arrives over the data channel, from the partner or from a test."""
        self._report(inputs.ChannelReceived(negotiation=self.negotiation, data=data))

    def gather(self, *, early: bool = False) -> None:
        """Find a candidate that is not in the description.

        Args:
            early: Report it before all that is on its way, the description too.
        """
        if self.ended:
            return
        self._report(inputs.LocalCandidate(negotiation=self.negotiation, candidate=make_candidate(self.serial)))
        if early:
            self.reports.deliveries.rotate()

    def beat(self, now: float) -> None:
        """Report a sign of life of the partner."""
        self.next_beat = now + BEAT
        if self.partner is not None and not self.partner.mute:
            self._report(inputs.Activity(negotiation=self.negotiation))

    def fail(self, cause: Cause = Cause.ENGINE, detail: str = "a fault of the test") -> None:
        """Go wrong, and wait to be closed. What was on its way to the owner does not come any more."""
        if not self.ended:
            self.reports.keep(0)
        self._report(inputs.EngineFailed(negotiation=self.negotiation, cause=cause, detail=detail))

    def lose_network(self) -> None:
        """Nothing that it sends arrives any more: the partner hears no sign of life."""
        self.mute = True

    def vanish(self) -> None:
        """Die with its process: nobody is told."""
        self.ended = self.mute = True
        self.next_beat = None
        self.reports.retire()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.next_beat = None
            self.reports.put(self._report_end)

    def _report_end(self) -> None:
        self.reports.retire()
        self._owner.take_report(inputs.EngineClosed(negotiation=self.negotiation))

    def _report(self, report: inputs.EngineReport) -> None:
        if not self.ended:
            self.reports.put(lambda: self._owner.take_report(report))

    def _check(self, maker: FakeEngine | None, what: str) -> None:
        """A description has to come from the engine that was started for the same pairing."""
        if maker is None or maker.pairing is None or self.pairing is None:
            return
        if maker.pairing != self.pairing or maker is self:
            self._room.complain(
                f"engine {self.serial} of pairing {self.pairing} was fed {what} of engine {maker.serial} "
                f"of pairing {maker.pairing}"
            )
