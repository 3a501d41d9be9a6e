"""Engines without media: when the channel opens, what arrives, and that a wrong description is noticed."""

import pytest

from deepio_core import inputs, signals
from deepio_core.outputs import Cause
from deepio_core.sdp import answer_problem, offer_problem
from deepio_core.testing.engines import BEAT, EngineRoom, FakeEngine, make_candidate, make_description
from deepio_core.testing.wires import Wire


class Bench:
    """A room, and what its engines have reported."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.loses = False
        self.room = EngineRoom(self.complaints.append, lambda: self.loses)
        self.reports: list[inputs.EngineReport] = []

    def take_report(self, report: inputs.EngineReport) -> None:
        self.reports.append(report)

    def start(self, *, offerer: bool = False, pairing: int | None = 1) -> FakeEngine:
        negotiation = len(self.room.engines) + 1
        return FakeEngine(self.room, self, Wire(), negotiation, offerer=offerer, pairing=pairing)

    def drain(self) -> list[inputs.EngineReport]:
        for engine in self.room.engines:
            while engine.reports.deliveries:
                engine.reports.deliver()
        reports, self.reports = self.reports, []
        return reports

    def sdp(self) -> str:
        [report] = self.drain()
        assert isinstance(report, inputs.LocalOffer | inputs.LocalAnswer)
        return report.sdp

    def connect(self) -> tuple[FakeEngine, FakeEngine]:
        offerer, answerer = self.start(offerer=True), self.start()
        answerer.apply_offer(self.sdp())
        offerer.apply_answer(self.sdp(), 10.0)
        assert len(self.drain()) == 2
        assert offerer.connected
        assert answerer.connected
        assert not self.complaints
        return offerer, answerer


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_descriptions_are_plausible() -> None:
    offer = make_description(1)
    assert offer_problem(offer) is None
    assert answer_problem(offer, make_description(2, 1)) is None
    text = signals.candidate_text(make_candidate(3))
    assert isinstance(signals.parse_signal(text, max_size=1000), signals.RemoteCandidate)


def test_the_channel_opens_when_both_descriptions_are_applied(bench: Bench) -> None:
    offerer, answerer = bench.start(offerer=True), bench.start()
    answerer.apply_offer(bench.sdp())
    assert not offerer.connected
    answer = bench.sdp()
    offerer.apply_answer(answer, 10.0)
    assert bench.drain() == [
        inputs.ChannelOpened(negotiation=1, max_message_size=65536),
        inputs.ChannelOpened(negotiation=2, max_message_size=65536),
    ]
    assert offerer.healthy
    assert offerer.next_beat == 10.0 + BEAT


def test_data_and_signs_of_life(bench: Bench) -> None:
    offerer, answerer = bench.connect()
    offerer.send("hello")
    answerer.beat(12.0)
    assert bench.drain() == [inputs.ChannelReceived(negotiation=2, data="hello"), inputs.Activity(negotiation=2)]
    bench.loses = True
    offerer.send("lost")
    assert bench.drain() == []


def test_nothing_arrives_from_a_mute_engine(bench: Bench) -> None:
    offerer, answerer = bench.connect()
    offerer.lose_network()
    assert offerer.connected
    assert not offerer.healthy
    assert not answerer.healthy
    offerer.send("hello")
    answerer.beat(12.0)
    offerer.close()
    assert bench.drain() == [inputs.EngineClosed(negotiation=1)]
    assert not answerer.ended


def test_without_a_partner_there_is_nothing_to_send_or_hear(bench: Bench) -> None:
    engine = bench.start()
    engine.send("hello")
    engine.beat(1.0)
    assert bench.drain() == []
    assert not engine.healthy
    engine.close()
    assert bench.drain() == [inputs.EngineClosed(negotiation=1)]


def test_closing_ends_both_once(bench: Bench) -> None:
    offerer, answerer = bench.connect()
    offerer.close()
    answerer.close()
    offerer.fail()
    offerer.gather()
    assert bench.drain() == [inputs.EngineClosed(negotiation=1), inputs.EngineClosed(negotiation=2)]
    assert offerer.reports.retired


def test_an_answer_for_an_engine_that_has_ended_opens_nothing(bench: Bench) -> None:
    offerer, answerer = bench.start(offerer=True), bench.start()
    answerer.apply_offer(bench.sdp())
    answer = bench.sdp()
    answerer.close()
    offerer.apply_answer(answer, 1.0)
    assert bench.drain() == [inputs.EngineClosed(negotiation=2)]
    assert not offerer.connected


def test_a_late_candidate_and_an_early_one(bench: Bench) -> None:
    engine = bench.start(offerer=True)
    engine.gather()
    engine.gather(early=True)
    kinds = [type(report) for report in bench.drain()]
    assert kinds == [inputs.LocalCandidate, inputs.LocalOffer, inputs.LocalCandidate]


def test_a_failure_takes_the_place_of_what_was_to_be_reported(bench: Bench) -> None:
    bench.start(offerer=True).fail(Cause.SOURCE_ENDED, "end of file")
    assert bench.drain() == [inputs.EngineFailed(negotiation=1, cause=Cause.SOURCE_ENDED, detail="end of file")]


def test_who_vanishes_tells_nobody(bench: Bench) -> None:
    offerer, answerer = bench.connect()
    offerer.vanish()
    assert bench.drain() == []
    assert not answerer.connected
    assert not answerer.ended


def test_another_session_is_noticed(bench: Bench) -> None:
    old, new = bench.start(offerer=True, pairing=1), bench.start(pairing=2)
    new.apply_offer(bench.sdp())
    new.apply_candidate(make_candidate(old.serial))
    assert len(bench.complaints) == 2
    assert "engine 2 of pairing 2 was fed an offer of engine 1 of pairing 1" in bench.complaints[0]


def test_the_answer_to_another_offer_is_noticed(bench: Bench) -> None:
    first, answerer, second = bench.start(offerer=True), bench.start(), bench.start(offerer=True)
    first_offer, _ = bench.drain()
    assert isinstance(first_offer, inputs.LocalOffer)
    answerer.apply_offer(first_offer.sdp)
    second.apply_answer(bench.sdp(), 1.0)
    assert bench.complaints == [f"engine {second.serial} was fed the answer to the offer of engine {first.serial}"]


def test_an_answer_for_an_offer_is_noticed(bench: Bench) -> None:
    bench.start(offerer=True)
    bench.start().apply_offer(make_description(1, 2))
    assert bench.complaints == ["an engine was fed an answer for an offer"]


def test_forgeries_are_nobodys(bench: Bench) -> None:
    engine = bench.start(pairing=None)
    engine.apply_candidate(None)
    engine.apply_candidate(make_candidate(0))
    engine.apply_offer("anything")
    assert "a=x-engine:1 answers 0" in bench.sdp()
    engine.apply_answer(make_description(0, 1), 1.0)
    other = bench.start(pairing=5)
    other.apply_candidate(make_candidate(engine.serial))
    assert bench.complaints == []
    assert not engine.connected
