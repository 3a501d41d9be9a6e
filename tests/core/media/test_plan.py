"""The plan: what is copied and what is encoded, and when one becomes the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deepio_core.media import plan as module
from deepio_core.media.choice import Choice
from deepio_core.media.far import FarVideo
from deepio_core.media.options import VideoOptions
from deepio_core.media.plan import HOLD, QUIET, Mode, VideoPlan

YES = Choice(copy=True, reason="yes")
NO = Choice(copy=False, reason="no")
INTERVAL = 0.04
SIZE = 10_000  # of a packet: 2 Mbit/s


class Source:
    """A plan and a source of 25 frames per second, whose time is that of its packets."""

    def __init__(self, gop: int = 50, **options: Any) -> None:
        self.spare = True
        self.plan = VideoPlan(VideoOptions(**options), FarVideo(codec="H264", lenient=True), lambda: self.spare)
        self.gop = gop
        self.number = 0
        self.keyframe_size = SIZE

    @property
    def now(self) -> float:
        return 1000 + self.number * INTERVAL

    def mode(self) -> Mode:
        return self.plan.mode

    def begin(self, choice: Choice = YES, *, keyframe_at: float | None = None, gop: float | None = None) -> Source:
        self.plan.begin(choice, keyframe_at=keyframe_at, gop=gop, now=self.now)
        return self

    def packet(self, *, pts: float | None = None) -> bool:
        """The next packet; whether it is to be sent."""
        keyframe = self.number % self.gop == 0
        now = self.now
        self.number += 1
        if self.plan.deadline is not None and now >= self.plan.deadline:
            self.plan.handle_timeout(now=now)
        return self.plan.packet(
            keyframe=keyframe,
            size=self.keyframe_size if keyframe else SIZE,
            interval=INTERVAL,
            pts=now if pts is None else pts,
            captured_at=now,
            now=now,
        )

    def packets(self, count: int) -> Source:
        for _ in range(count):
            self.packet()
        return self

    def seconds(self, seconds: float, each: Callable[[], object] = lambda: None) -> Source:
        """Packets for so long; `each` once a second."""
        for number in range(round(seconds / INTERVAL)):
            if number % 25 == 0:
                each()
            self.packet()
        return self

    def until_keyframe(self) -> Source:
        return self.packets(-self.number % self.gop)

    def loss(self, part: float) -> Callable[[], None]:
        return lambda: self.plan.reported(part, now=self.now)

    def estimate(self, bitrate: int) -> Callable[[], None]:
        return lambda: self.plan.estimated(bitrate, now=self.now)


def source_in(mode: Mode) -> Source:
    """A source two packets into a GOP, and a plan in this mode."""
    source = Source().begin()
    if mode is Mode.WAITING:
        source.packets(2)
        source.plan.lost()
        return source
    source.packets(52)
    match mode:
        case Mode.BRIDGE:
            source.plan.keyframe_requested(now=source.now + QUIET)
        case Mode.ENCODE:
            source.plan.reported(0.5, now=source.now - 4)
            source.plan.reported(0.5, now=source.now)
        case _:
            pass
    assert source.mode() is mode
    return source


def packet(source: Source) -> None:
    source.packet()


def keyframe(source: Source) -> None:
    source.until_keyframe().packet()


def late_keyframe(source: Source) -> None:
    source.seconds(HOLD + 1).until_keyframe().packet()


def lost(source: Source) -> None:
    source.plan.lost()


def request(source: Source) -> None:
    source.plan.keyframe_requested(now=source.now + QUIET)


def big_keyframe(source: Source) -> None:
    source.keyframe_size = 600_000
    source.until_keyframe().packet()


def long_gop(source: Source) -> None:
    source.until_keyframe()
    source.packet()
    source.gop = 10_000
    source.seconds(10.1)


def b_frame(source: Source) -> None:
    source.until_keyframe().packets(2)
    source.packet(pts=source.now - 3 * INTERVAL)


def losses(source: Source) -> None:
    source.until_keyframe().seconds(4, source.loss(0.2))


def narrow(source: Source) -> None:
    source.until_keyframe().seconds(12, source.estimate(1_000_000))


def other_format(source: Source) -> None:
    source.plan.format_changed(YES)


def wrong_format(source: Source) -> None:
    source.plan.format_changed(NO)


def broken_encoder(source: Source) -> None:
    source.plan.encoder_failed("broken")


TABLE: dict[Callable[[Source], None], str] = {
    packet: "WAITING COPY BRIDGE ENCODE",
    keyframe: "COPY COPY COPY ENCODE",
    late_keyframe: "COPY COPY COPY COPY",
    lost: "WAITING WAITING WAITING ENCODE",
    request: "WAITING BRIDGE BRIDGE ENCODE",
    big_keyframe: "ENCODE ENCODE ENCODE ENCODE",
    long_gop: "ENCODE ENCODE ENCODE ENCODE",
    b_frame: "ENCODE ENCODE ENCODE ENCODE",
    losses: "ENCODE ENCODE ENCODE ENCODE",
    narrow: "ENCODE ENCODE ENCODE ENCODE",
    other_format: "WAITING COPY BRIDGE ENCODE",
    wrong_format: "ENCODE ENCODE ENCODE ENCODE",
    broken_encoder: "WAITING COPY WAITING WAITING",
}
"""What becomes of the modes in their order with each event."""


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("event", TABLE)
def test_transitions(event: Callable[[Source], None], mode: Mode) -> None:
    source = source_in(mode)
    before = source.plan.reason
    event(source)
    assert source.plan.mode.name == TABLE[event].split()[list(Mode).index(mode)]
    assert source.mode() is mode or source.plan.reason != before


@pytest.mark.parametrize("mode", Mode)
def test_only_copies_are_sent_from_the_source(mode: Mode) -> None:
    assert source_in(mode).packet() is (mode is Mode.COPY)


def test_copying_begins_with_the_first_keyframe() -> None:
    source = Source()
    assert source.mode() is Mode.WAITING
    assert source.plan.bitrate == 0
    source.begin()
    assert (source.mode(), source.plan.deadline) == (Mode.WAITING, None)
    assert source.packet()
    assert (source.mode(), source.plan.reason) == (Mode.COPY, "yes")
    assert all(source.packet() for _ in range(1000))
    assert source.plan.bitrate == pytest.approx(2_000_000)


@pytest.mark.parametrize("mode", ["auto", "encode"])
def test_what_cannot_be_copied_is_encoded(mode: str) -> None:
    source = Source(mode=mode).begin(NO)
    assert (source.mode(), source.plan.reason) == (Mode.ENCODE, "no")
    assert source.plan.mode.encodes
    assert not source.packets(100).packet()
    source.plan.lost()
    assert source.mode() is Mode.ENCODE
    assert not source.plan.hopeless


def test_a_connection_in_the_middle_of_a_gop_begins_with_encoded_pictures() -> None:
    source = Source()
    source.packets(20)
    source.begin(keyframe_at=1000, gop=2)
    assert source.mode() is Mode.BRIDGE
    source.until_keyframe()
    assert source.mode() is Mode.BRIDGE
    assert source.packet()


@pytest.mark.parametrize(("gop", "since"), [(2.0, 1.95), (2.0, 5.0)])
def test_a_connection_waits_a_moment_for_a_keyframe_that_may_be_near(gop: float, since: float) -> None:
    source = Source().begin(keyframe_at=1000 - since, gop=gop)
    assert source.mode() is Mode.WAITING
    assert source.plan.deadline == 1000.1
    source.plan.handle_timeout(now=1000.05)
    assert source.mode() is Mode.WAITING
    source.plan.handle_timeout(now=1000.1)
    assert source.mode() is Mode.BRIDGE
    source.plan.handle_timeout(now=1001)
    assert source.packet()


def test_a_connection_does_not_wait_for_keyframes_whose_rhythm_is_unknown() -> None:
    source = Source().begin(keyframe_at=999, gop=None)
    assert source.mode() is Mode.BRIDGE


def test_without_patience_nothing_is_waited_for() -> None:
    source = Source(keyframe_wait=0).begin().packets(10)
    assert not source.plan.keyframe_requested(now=source.now)
    assert source.mode() is Mode.BRIDGE


def test_a_keyframe_that_comes_in_time_answers_a_request() -> None:
    source = Source().begin().packets(90)
    assert not source.plan.keyframe_requested(now=source.now)
    assert source.mode() is Mode.COPY
    assert source.plan.deadline == pytest.approx(source.now + 0.5)
    assert not source.plan.keyframe_requested(now=source.now + 0.1)
    assert source.plan.deadline == pytest.approx(source.now + 0.5)
    assert all(source.packet() for _ in range(100))
    assert source.plan.deadline is None


def test_a_request_with_an_unknown_rhythm_waits_until_it_is_too_late() -> None:
    source = Source().begin().packets(10)
    source.plan.keyframe_requested(now=source.now)
    assert source.mode() is Mode.COPY
    assert [source.packet() for _ in range(14)] == [True] * 13 + [False]
    assert source.mode() is Mode.BRIDGE


def test_a_request_that_follows_a_keyframe_was_on_its_way_when_that_was_sent() -> None:
    source = Source(gop=50).begin().packets(51)
    assert not source.plan.keyframe_requested(now=source.now)
    assert (source.mode(), source.plan.deadline) == (Mode.COPY, None)
    assert not source.plan.keyframe_requested(now=source.now + QUIET)
    assert source.mode() is Mode.BRIDGE
    assert source.plan.keyframe_requested(now=source.now + QUIET)
    source.plan.encoded_keyframe(now=source.now + QUIET)
    assert not source.plan.keyframe_requested(now=source.now + QUIET)
    assert source.plan.keyframe_requested(now=source.now + 3 * QUIET)


def test_a_source_that_is_away_can_leave_its_last_picture() -> None:
    source = Source(while_away="last").begin().packets(10)
    source.plan.lost()
    assert source.mode() is Mode.BRIDGE
    keyframe(source)
    assert source.mode() is Mode.COPY


def test_after_a_loss_a_request_waits_for_the_source() -> None:
    source = Source().begin().packets(90)
    source.plan.keyframe_requested(now=source.now)
    source.plan.lost()
    assert source.plan.deadline is None
    assert not source.plan.keyframe_requested(now=source.now)
    assert source.mode() is Mode.WAITING


def test_losses_that_pass_are_borne() -> None:
    source = Source().begin().seconds(10)
    source.loss(0.3)()
    source.seconds(1)
    source.loss(0.05)()
    source.seconds(10, source.loss(0.05))
    source.loss(0.3)()
    assert source.mode() is Mode.COPY
    source.seconds(4, source.loss(0.3))
    assert source.mode() is Mode.ENCODE
    assert "30%" in source.plan.reason


def test_estimates_that_recover_are_borne() -> None:
    source = Source().begin().seconds(3)
    source.seconds(9, source.estimate(1_300_000))
    source.estimate(1_500_000)()
    source.seconds(9, source.estimate(1_300_000))
    assert source.mode() is Mode.COPY
    source.seconds(2.5, source.estimate(1_300_000))
    assert source.mode() is Mode.ENCODE
    assert source.plan.reason == "the path carries 1.3 Mbit/s, and the source has 2.0"


def test_copying_is_tried_again_when_the_path_carries_it_and_each_time_later() -> None:
    source = Source().begin().seconds(2)
    for hold in (10, 20, 40, 80, 160, 320, 320):
        source.seconds(11, source.estimate(1_000_000))
        assert source.mode() is Mode.ENCODE
        fell = source.now - 1
        source.estimate(2_100_000)()
        while source.mode() is Mode.ENCODE:
            source.packet()
            if source.now - fell > hold + 3:
                source.estimate(2_300_000)()
            assert source.now - fell < hold + 8
        assert source.now - fell > hold + 2


def test_an_estimate_as_high_as_we_ever_send_is_enough() -> None:
    source = Source(max_bitrate=1_600_000).begin().seconds(2)
    source.seconds(4, source.loss(0.2))
    source.estimate(1_650_000)()
    source.seconds(15)
    assert source.mode() is Mode.COPY


def test_copying_is_not_tried_while_packets_are_lost() -> None:
    source = Source().begin().seconds(2)
    source.seconds(4, source.loss(0.2))
    source.seconds(60, source.loss(0.03))
    assert source.mode() is Mode.ENCODE
    source.seconds(13, source.loss(0.01))
    assert source.mode() is Mode.COPY


def test_a_large_keyframe_holds_copying_off_for_as_long_as_others_come() -> None:
    source = Source(max_keyframe=50_000).begin().packets(10)
    source.keyframe_size = 50_001
    assert not source.until_keyframe().packet()
    assert source.plan.reason == "a keyframe has 50001 bytes, more than the 50000 that the far side holds"
    source.seconds(30)
    assert source.mode() is Mode.ENCODE
    source.keyframe_size = 50_000
    source.seconds(9)
    assert source.mode() is Mode.ENCODE
    source.seconds(4)
    assert source.mode() is Mode.COPY


def test_copy_or_nothing() -> None:
    source = Source(mode="copy").begin(NO)
    assert (source.mode(), source.plan.reason) == (Mode.WAITING, "no")
    assert source.plan.hopeless
    assert not source.packet()
    source.plan.format_changed(YES)
    assert not source.plan.hopeless
    source.until_keyframe().packet()
    assert source.mode() is Mode.COPY
    source.packets(60)
    source.plan.keyframe_requested(now=source.now)
    source.seconds(8, source.loss(0.9))
    source.seconds(12, source.estimate(20_000))
    assert (source.mode(), source.plan.deadline) == (Mode.COPY, None)
    b_frame(source)
    assert source.mode() is Mode.WAITING
    assert "B-frames" in source.plan.reason
    source.plan.lost()
    assert source.plan.reason == "the source is away"
    source.begin(keyframe_at=source.now - 0.1, gop=2)
    assert source.plan.deadline is None


def test_without_an_encoder_what_cannot_be_copied_is_hopeless() -> None:
    source = Source().begin(NO)
    source.plan.encoder_failed("broken")
    assert (source.mode(), source.plan.reason) == (Mode.WAITING, "broken")
    assert source.plan.hopeless


def test_a_new_format_can_end_and_begin_copying() -> None:
    source = Source().begin().packets(60)
    source.plan.format_changed(NO)
    assert not source.packet()
    source.plan.format_changed(YES)
    assert source.mode() is Mode.BRIDGE
    assert source.until_keyframe().packet()
    b_frame(source)
    source.plan.format_changed(YES)
    assert source.until_keyframe().packet()


def test_a_request_waits_for_the_source_while_no_encoder_can_be_spared() -> None:
    source = Source(gop=250).begin().packets(30)
    source.spare = False
    source.plan.keyframe_requested(now=source.now)
    source.packets(25)
    assert source.mode() is Mode.COPY
    source.spare = True
    source.packets(6)  # it is asked again
    assert source.mode() is Mode.BRIDGE
    assert source.plan.optional
    source.until_keyframe().packets(1)
    assert source.mode() is Mode.COPY
    assert not source.plan.optional


def test_a_new_connection_waits_for_the_source_while_no_encoder_can_be_spared() -> None:
    source = Source()
    source.spare = False
    source.begin(keyframe_at=source.now - 0.5, gop=2.0).packets(0)
    assert source.mode() is Mode.WAITING
    source.packets(1)
    assert source.mode() is Mode.COPY


def test_no_encoder_is_spared_for_the_last_picture() -> None:
    source = Source(while_away="last").begin().packets(10)
    source.spare = False
    source.plan.lost()
    assert source.mode() is Mode.WAITING


def test_a_path_that_loses_packets_is_no_reason_while_no_encoder_can_be_spared() -> None:
    source = Source().begin().packets(10)
    source.spare = False
    source.seconds(6, source.loss(0.5))
    assert source.mode() is Mode.COPY
    source.spare = True
    source.seconds(2, source.loss(0.5))
    assert source.mode() is Mode.ENCODE
    assert source.plan.optional
    source.spare = False
    source.seconds(30, source.loss(0.5))
    assert source.mode() is Mode.ENCODE, "which has its encoder"


def test_what_cannot_be_copied_is_encoded_whether_an_encoder_can_be_spared_or_not() -> None:
    source = Source()
    source.spare = False
    assert source.begin(NO).mode() is Mode.ENCODE
    assert not source.plan.optional
    other = Source().begin().packets(10)
    other.spare = False
    other.packet(pts=0.0)
    assert other.mode() is Mode.ENCODE
    assert not other.plan.optional


def test_the_bounds_keep_their_order() -> None:
    assert module.LOW_LOSS < module.HIGH_LOSS
    assert module.SHORT_OF < 1 < module.SPARE
