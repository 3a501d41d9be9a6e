"""The queue of packets: in order, bounded, and never with a hole that decoding would fall into."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.packet_queue import PacketQueue
from deepio_adapters.slots import SlotClosedError
from deepio_core.media.stream import StreamFormat

FORMAT = StreamFormat(codec="h264", width=64, height=48)
BOUND = 10.0


def packet(number: int, keyframe: bool = False, size: int = 1) -> SourcePacket:
    return SourcePacket(
        data=bytes(size),
        stream=FORMAT,
        keyframe=keyframe,
        pts=float(number),
        captured_at=float(number),
        interval=1.0,
    )


def gap(attempt: int) -> SourceGap:
    return SourceGap(reason="gone", attempt=attempt)


def fill(queue: PacketQueue, pattern: str) -> None:
    """Puts a packet for each letter: K a keyframe, p another, G a gap; numbers are places in the pattern."""
    for number, letter in enumerate(pattern):
        queue.put(gap(number) if letter == "G" else packet(number, letter == "K"))


def numbers(queue: PacketQueue) -> list[float]:
    return [item.attempt if isinstance(item, SourceGap) else item.pts for item in queue.take_all()]


@pytest.mark.parametrize(
    ("pattern", "left", "dropped"),
    [
        ("", [], 0),
        ("pppKpp", [3, 4, 5], 0),
        ("KppKpp", [0, 1, 2, 3, 4, 5], 0),
        ("KppKppK", [3, 4, 5, 6], 3),
        ("KpppppK", [6], 6),
        ("Kpppppp", [], 7),
        ("KpppppppKp", [8, 9], 8),
        ("GppKG", [0, 3, 4], 0),
        ("KpGGKpp", [0, 1, 3, 4, 5, 6], 0),
        ("KpGGKppp", [3, 4, 5, 6, 7], 2),
        ("GKpppppp", [0], 7),
        ("GKppppKp", [0, 6, 7], 5),
    ],
)
def test_what_is_too_much_is_dropped_up_to_a_keyframe(pattern: str, left: list[float], dropped: int) -> None:
    queue = PacketQueue(max_packets=6)
    fill(queue, pattern)
    assert numbers(queue) == left
    assert queue.dropped == dropped
    assert queue.take_all() == []


def test_bytes_are_bounded_too() -> None:
    queue = PacketQueue(max_bytes=100)
    for number in range(3):
        queue.put(packet(number, keyframe=True, size=40))
    assert numbers(queue) == [1, 2]
    assert queue.dropped == 1
    for number in (5, 6, 7):
        queue.put(packet(number, keyframe=True, size=50))
    assert isinstance(first := queue.get(), SourcePacket)
    assert first.pts == 6
    queue.put(packet(8, size=50))
    assert numbers(queue) == [7, 8]


def test_one_packet_may_be_as_large_as_it_likes() -> None:
    queue = PacketQueue(max_bytes=100)
    queue.put(gap(1))
    for number in range(3):
        queue.put(packet(number, keyframe=True, size=1000))
    assert numbers(queue) == [1, 2]
    queue.put(packet(3, keyframe=True, size=1000))
    queue.put(packet(4, size=1000))
    assert numbers(queue) == []
    assert queue.dropped == 4
    queue.put(packet(5))
    assert queue.dropped == 5


def test_it_can_follow_on_from_what_came_before() -> None:
    queue = PacketQueue(follows=True)
    fill(queue, "ppK")
    assert numbers(queue) == [0, 1, 2]


@pytest.mark.parametrize(
    ("pattern", "left", "dropped"), [("KppKp", [3, 4, 9, 10], 3), ("Kpp", [10], 4), ("KK", [1, 9, 10], 1)]
)
def test_a_consumer_that_is_late_skips(pattern: str, left: list[float], dropped: int) -> None:
    queue = PacketQueue()
    fill(queue, pattern)
    queue.get()
    queue.skip()
    queue.put(packet(9))
    queue.put(packet(10, keyframe=True))
    assert numbers(queue) == left
    assert queue.dropped == dropped


def test_the_end_comes_after_what_waits() -> None:
    queue = PacketQueue()
    fill(queue, "Kp")
    queue.close(OSError("broken"))
    queue.close()
    assert queue.closed
    assert not queue.put(packet(2))
    assert isinstance(queue.get(), SourcePacket)
    assert numbers(queue) == [1]
    for take in (queue.take_all, queue.get):
        with pytest.raises(SlotClosedError) as end:
            take()
        assert str(end.value.error) == "broken"


def test_who_leaves_discards() -> None:
    queue = PacketQueue()
    fill(queue, "Kp")
    queue.close(discard=True)
    with pytest.raises(SlotClosedError) as end:
        queue.take_all()
    assert end.value.error is None


def test_a_consumer_is_told_once_for_all_that_waits() -> None:
    told: list[int] = []
    queue = PacketQueue()
    queue.set_on_item(lambda: told.append(len(told)))
    queue.put(packet(0))
    assert told == []
    fill(queue, "KppK")
    assert told == [0]
    queue.take_all()
    fill(queue, "G")
    assert told == [0, 1]
    queue.close()
    assert told == [0, 1, 2]
    queue.set_on_item(None)
    queue.set_on_item(lambda: told.append(-1))
    assert told == [0, 1, 2, -1]


def test_nothing_is_told_of_a_packet_that_is_too_much() -> None:
    told: list[int] = []
    queue = PacketQueue(max_bytes=10)
    queue.put(packet(0, keyframe=True, size=11))
    queue.set_on_item(lambda: told.append(1))
    assert told == [1]
    queue.put(packet(1, size=11))
    queue.put(packet(2, size=11))
    assert told == [1]
    assert queue.take_all() == []


def test_a_waiting_thread_gets_the_next_packet_and_the_end() -> None:
    queue = PacketQueue()
    got: list[SourcePacket | SourceGap | str] = []

    def consume() -> None:
        try:
            while True:
                got.append(queue.get())
        except SlotClosedError:
            got.append("end")

    thread = threading.Thread(target=consume)
    thread.start()
    items: list[SourcePacket | SourceGap] = [packet(0, keyframe=True), packet(1), gap(1)]
    for item in items:
        queue.put(item)
    queue.close()
    thread.join(BOUND)
    assert got == [*items, "end"]


@given(st.lists(st.sampled_from("KpppGts"), max_size=200))
def test_a_decoder_never_meets_a_hole(acts: list[str]) -> None:
    queue = PacketQueue(max_packets=8)
    decodable, put, taken = False, -1, 0

    def decode(item: SourcePacket | SourceGap) -> None:
        nonlocal decodable, put, taken
        if isinstance(item, SourcePacket):
            assert item.keyframe or (decodable and item.pts == put + 1)
            decodable, put = True, round(item.pts)
            taken += 1

    number = packets = 0
    for act in acts:
        if act == "t":
            for item in queue.take_all():
                decode(item)
        elif act == "s":
            queue.skip()
            packets += 1  # the one taken before counts as dropped
            decodable = False
        elif act == "G":
            queue.put(gap(1))
        else:
            queue.put(packet(number, act == "K"))
            number, packets = number + 1, packets + 1
    for item in queue.take_all():
        decode(item)
    assert taken + queue.dropped <= packets
