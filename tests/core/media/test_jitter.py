"""Frames out of packets: complete ones only, in order, as soon as they can be, whatever the network does."""

import random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core.media.jitter import CodedFrame, JitterBuffer, VideoPacket, begins_frame

STEP = 3000


class Sent(NamedTuple):
    timestamp: int
    data: bytes
    packets: list[VideoPacket]


def stream(
    sizes: list[int], *, sequence: int = 0, timestamp: int = 0, markers: bool = True, starts: bool = True
) -> list[Sent]:
    """Frames of so many packets each; every packet's data is its own."""
    frames = []
    for number, size in enumerate(sizes):
        at = (timestamp + number * STEP) % (1 << 32)
        parts = [f"[{number}.{part}]".encode() for part in range(size)]
        packets = [
            VideoPacket((sequence + part) % 65536, at, markers and part == size - 1, starts and part == 0, 97, data)
            for part, data in enumerate(parts)
        ]
        sequence += size
        frames.append(Sent(at, b"".join(parts), packets))
    return frames


def feed(
    buffer: JitterBuffer, packets: list[VideoPacket], now: float = 0.0, step: float = 0.0
) -> tuple[bool, list[CodedFrame]]:
    """Whether a keyframe was asked for, and the frames."""
    lost = False
    frames: list[CodedFrame] = []
    for packet in packets:
        asked, came = buffer.add(packet, now)
        lost |= asked
        frames += came
        now += step
    return lost, frames


def packets_of(frames: list[Sent]) -> list[VideoPacket]:
    return [packet for frame in frames for packet in frame.packets]


# --- Without losses ---


def test_a_frame_is_complete_with_its_marker() -> None:
    buffer = JitterBuffer()
    (one,) = stream([3])
    for at, packet in enumerate(one.packets[:-1]):
        assert buffer.add(packet, float(at)) == (False, [])
    lost, (frame,) = buffer.add(one.packets[-1], 2.0)
    assert not lost
    assert (frame.data, frame.timestamp, frame.payload_type, frame.packets) == (one.data, 0, 97, 3)
    assert (frame.first_at, frame.last_at, frame.discontinuity) == (0.0, 2.0, False)
    assert buffer.held == 0


def test_without_markers_the_next_frame_completes_it() -> None:
    sent = stream([2, 3, 1], markers=False)
    lost, frames = feed(JitterBuffer(), packets_of(sent))
    assert not lost
    assert [frame.data for frame in frames] == [frame.data for frame in sent[:2]]


def test_numbers_and_timestamps_wrap_around() -> None:
    sent = stream([3] * 6, sequence=65530, timestamp=(1 << 32) - STEP)
    _, frames = feed(JitterBuffer(), packets_of(sent))
    assert [frame.data for frame in frames] == [frame.data for frame in sent]
    start = (1 << 32) - STEP
    assert [frame.timestamp for frame in frames] == [start + STEP * number for number in range(6)]


def test_packets_out_of_order_are_put_in_order() -> None:
    sent = stream([1, 4, 3])
    packets = packets_of(sent)
    order = [0, 3, 1, 2, 5, 4, 7, 6]
    lost, frames = feed(JitterBuffer(), [packets[number] for number in order])
    assert not lost
    assert [(frame.data, frame.discontinuity) for frame in frames] == [(frame.data, False) for frame in sent]


def test_one_packet_may_complete_several_frames() -> None:
    sent = stream([1, 2, 1, 1])
    packets = packets_of(sent)
    missing = packets.pop(1)
    buffer = JitterBuffer()
    _, before = feed(buffer, packets)
    _, after = feed(buffer, [missing], now=0.1)
    assert [frame.data for frame in before] == [sent[0].data]
    assert [frame.data for frame in after] == [frame.data for frame in sent[1:]]
    assert (after[0].first_at, after[0].last_at) == (0.0, 0.1)


def test_what_comes_twice_is_taken_once() -> None:
    sent = stream([2, 2])
    packets = packets_of(sent)
    buffer = JitterBuffer()
    lost, frames = feed(buffer, [packets[0], packets[0], packets[1], packets[1], packets[2], packets[0], packets[3]])
    assert not lost
    assert [frame.data for frame in frames] == [frame.data for frame in sent]
    assert buffer.late == 3


def test_padding_is_no_part_of_any_frame() -> None:
    one, two, three = stream([2, 2, 2], sequence=1)
    # With the timestamp of the frame before, and at the very start with one of its own.
    first = VideoPacket(0, 77, True, False, 97, b"")
    between = [packet._replace(sequence=packet.sequence + 2) for packet in two.packets]
    padding = [VideoPacket(number, one.timestamp, False, False, 97, b"") for number in (3, 4)]
    last = [packet._replace(sequence=packet.sequence + 2) for packet in three.packets]
    lost, frames = feed(JitterBuffer(), [first, *one.packets, *padding, *between, *last])
    assert not lost
    assert [(frame.data, frame.discontinuity) for frame in frames] == [
        (frame.data, False) for frame in (one, two, three)
    ]


def test_a_sender_that_marks_too_much_is_believed_once() -> None:
    sent = stream([3, 3, 3, 3])
    packets = [packet._replace(marker=True, starts=False) for packet in packets_of(sent)]
    packets[0] = packets[0]._replace(starts=True)
    _, frames = feed(JitterBuffer(), packets)
    # The rest of the first frame is left out, and what comes then waits for the frame after it.
    assert [(frame.data, frame.discontinuity) for frame in frames[1:]] == [
        (sent[1].data, True),
        (sent[2].data, False),
    ]


# --- Beginnings ---


def test_a_start_in_mid_frame_waits_for_the_next_frame() -> None:
    sent = stream([3, 2, 2], starts=False)
    lost, frames = feed(JitterBuffer(), packets_of(sent)[1:])
    assert not lost
    assert [(frame.data, frame.discontinuity) for frame in frames] == [(sent[1].data, True), (sent[2].data, False)]


def test_a_start_in_mid_frame_without_markers_waits_for_the_next_timestamp() -> None:
    sent = stream([3, 2, 2], starts=False, markers=False)
    _, frames = feed(JitterBuffer(), packets_of(sent)[1:])
    assert [frame.data for frame in frames] == [sent[1].data]


def test_a_sender_that_begins_anew_is_followed_at_its_second_packet() -> None:
    buffer = JitterBuffer()
    old, new = stream([1, 1], sequence=100), stream([2, 1], sequence=30_000, timestamp=5)
    _, before = feed(buffer, packets_of(old))
    lost, after = feed(buffer, packets_of(new))
    assert lost
    assert len(before) == 2
    assert [(frame.data, frame.discontinuity) for frame in after] == [(new[0].data, True), (new[1].data, False)]


def test_one_packet_from_far_away_changes_nothing() -> None:
    buffer = JitterBuffer()
    sent = stream([1] * 200)
    packets = packets_of(sent)
    lost, frames = feed(buffer, [*packets, packets[3], packets[9]])
    assert not lost
    assert len(frames) == 200
    assert buffer.late == 2


def test_another_stream_begins_after_a_reset() -> None:
    buffer = JitterBuffer()
    old, new = stream([2]), stream([2, 1], sequence=7, timestamp=99)
    feed(buffer, old[0].packets[:1])
    buffer.reset()
    assert buffer.held == 0
    lost, frames = feed(buffer, packets_of(new))
    assert not lost
    assert [(frame.data, frame.discontinuity) for frame in frames] == [(new[0].data, True), (new[1].data, False)]


@pytest.mark.parametrize(
    ("codec", "payload", "expected"),
    [
        ("VP8", "", False),
        ("VP8", "10", True),
        ("VP8", "90800a00", True),
        ("VP8", "80800a00", False),  # goes on with a partition
        ("VP8", "91800a00", False),  # begins the second one
        ("H264", "6742c01f00", True),  # sequence parameter set
        ("H264", "09f0000000", True),  # access unit delimiter
        ("H264", "68ce3c8000", True),  # picture parameter set
        ("H264", "0605ffffff", True),  # supplemental message
        ("H264", "6588840000", True),  # slice with the first macroblock
        ("H264", "4188840000", True),
        ("H264", "4108840000", False),  # a later slice
        ("H264", "7c85888400", True),  # FU-A, first fragment of such a slice
        ("H264", "7c85088400", False),
        ("H264", "7c05888400", False),  # goes on
        ("H264", "7c45888400", False),  # ends
        ("H264", "7800046742c01f", True),  # STAP-A
        ("H264", "78000441083c80", False),
        ("H264", "41888400", False),  # too short to tell
        ("AV1", "0a0b000000", False),
    ],
)
def test_some_packets_show_that_they_begin_a_frame(codec: str, payload: str, *, expected: bool) -> None:
    assert begins_frame(codec, bytes.fromhex(payload)) is expected


def test_what_follows_in_the_same_frame_does_not_begin_one() -> None:
    one, two = stream([3, 2], starts=False)
    # As the slice with the first macroblock does, behind a parameter set that was not seen to begin a frame.
    one.packets[1] = one.packets[1]._replace(starts=True)
    _, frames = feed(JitterBuffer(), packets_of([one, two]))
    assert [frame.data for frame in frames] == [two.data]


# --- Losses ---


@pytest.mark.parametrize("missing", [2, 3, 4])
def test_a_hole_is_waited_for_and_then_left_out(missing: int) -> None:
    sent = stream([2, 3, 2, 2])
    packets = packets_of(sent)
    del packets[missing]
    buffer = JitterBuffer(patience=0.05)
    asked, frames = feed(buffer, packets[:-1])
    assert not asked
    assert len(frames) == 1
    asked, frames = feed(buffer, packets[-1:], now=0.06)
    assert asked
    assert buffer.lost == 1
    assert [(frame.data, frame.discontinuity) for frame in frames] == [(sent[2].data, True), (sent[3].data, False)]


def test_what_cannot_be_told_apart_from_a_hole_is_left_out_too() -> None:
    sent = stream([2, 3, 2, 2], starts=False)
    packets = packets_of(sent)
    del packets[4]  # with its marker: what follows may belong to it, for all that can be seen
    packets[0] = packets[0]._replace(starts=True)
    _, frames = feed(JitterBuffer(patience=0.0), packets, step=0.1)
    assert [frame.data for frame in frames] == [sent[0].data, sent[3].data]


def test_two_holes_are_given_up_one_after_the_other() -> None:
    sent = stream([1, 2, 2, 2, 1])
    packets = packets_of(sent)
    del packets[5], packets[1]
    buffer = JitterBuffer(patience=0.2)
    _, frames = feed(buffer, packets, step=0.1)
    assert [frame.data for frame in frames] == [sent[0].data, sent[2].data]
    assert buffer.lost == 1
    _, frames = feed(buffer, [stream([1], sequence=8, timestamp=5 * STEP)[0].packets[0]], now=1.0)
    assert [frame.discontinuity for frame in frames] == [True, False]
    assert buffer.lost == 2


def test_a_hole_larger_than_the_buffer_is_given_up_at_once() -> None:
    buffer = JitterBuffer(capacity=64)
    sent = stream([1, 2, 100, 2, 1])
    packets = packets_of(sent)
    asked, frames = feed(buffer, packets[:2] + packets[103:])
    assert asked
    assert [(frame.data, frame.discontinuity) for frame in frames] == [
        (sent[0].data, False),
        (sent[3].data, True),
        (sent[4].data, False),
    ]


def test_a_frame_larger_than_the_buffer_is_left_out() -> None:
    buffer = JitterBuffer(capacity=16)
    sent = stream([1, 40, 2])
    held = 0
    asked = False
    frames: list[CodedFrame] = []
    for packet in packets_of(sent):
        lost, came = buffer.add(packet, 0.0)
        asked |= lost
        frames += came
        held = max(held, buffer.held)
    assert asked
    assert held <= 16
    assert [(frame.data, frame.discontinuity) for frame in frames] == [(sent[0].data, False), (sent[2].data, True)]


def test_the_oldest_of_many_holes_is_given_up_to_make_room() -> None:
    buffer = JitterBuffer(capacity=8)
    sent = stream([2] * 12)
    # The first packet of each frame is missing.
    packets = [frame.packets[1] for frame in sent]
    asked, frames = feed(buffer, packets)
    assert asked
    assert not frames
    assert buffer.held <= 8


# --- Whatever comes ---


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Sent], list[tuple[VideoPacket, float]], int]:
    """Frames, their packets as they arrive, and the capacity of the buffer."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=30))
    sent = stream(
        sizes,
        sequence=draw(st.sampled_from([0, 1000, 65500])),
        timestamp=draw(st.sampled_from([0, (1 << 32) - 5 * STEP])),
        markers=draw(st.booleans()),
        starts=draw(st.booleans()),
    )
    chance = random.Random(draw(st.integers(0, 2**32)))
    loss, repeat, spread = draw(st.tuples(st.floats(0, 0.4), st.floats(0, 0.3), st.floats(0, 30)))
    arrivals = []
    for number, packet in enumerate(packets_of(sent)):
        if chance.random() >= loss:
            arrivals += [(number + chance.random() * spread, packet)] * (1 + (chance.random() < repeat))
    arrivals.sort(key=lambda arrival: arrival[0])
    return sent, [(packet, at * 0.005) for at, packet in arrivals], draw(st.sampled_from([4, 16, 64, 1024]))


@given(networks())
def test_no_broken_frame_and_none_out_of_order_ever(network: tuple) -> None:
    sent, arrivals, capacity = network
    whole = {frame.data: number for number, frame in enumerate(sent)}
    buffer = JitterBuffer(capacity=capacity, patience=0.05)
    came: list[CodedFrame] = []
    for packet, now in arrivals:
        lost = buffer.lost
        asked, frames = buffer.add(packet, now)
        came += frames
        assert asked == (buffer.lost != lost)
        assert buffer.held <= capacity
    numbers = [whole[frame.data] for frame in came]  # fails for one that is broken
    assert numbers == sorted(set(numbers))
    assert [frame.timestamp % (1 << 32) for frame in came] == [sent[number].timestamp for number in numbers]
    for before, frame, number in zip([-1, *numbers], came, numbers, strict=False):
        # One that follows on the frame before says so; the very first one may have missed what nobody saw.
        assert frame.discontinuity == (number != before + 1) or before == -1


@given(networks())
def test_all_is_lost_only_if_something_was(network: tuple) -> None:
    sent, _, _ = network
    buffer = JitterBuffer()
    first = sent[0].packets[0]
    packets = [packet._replace(starts=True) if packet is first else packet for packet in packets_of(sent)]
    _, frames = feed(buffer, packets)
    given_out = [frame.data for frame in frames]
    assert given_out in ([frame.data for frame in sent], [frame.data for frame in sent[:-1]])
    assert buffer.lost == 0


@given(
    st.lists(
        st.builds(
            VideoPacket,
            st.integers(0, 65535) | st.integers(0, 40),
            st.integers(0, 2**32 - 1) | st.integers(0, 3),
            st.booleans(),
            st.booleans(),
            st.just(97),
            st.binary(max_size=2),
        ),
        max_size=80,
    )
)
def test_nonsense_does_no_harm(packets: list[VideoPacket]) -> None:
    buffer = JitterBuffer(capacity=16, patience=0.02)
    for number, packet in enumerate(packets):
        buffer.add(packet, number * 0.01)
        assert buffer.held <= 16
