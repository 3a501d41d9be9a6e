"""VP8 frames: keyframes, their sizes, and payloads (held against aiortc's in tests/adapters/test_packetizing.py)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core.media.rtp import payload_of
from deepio_core.media.vp8 import frame_size, is_keyframe, packetize

# As libvpx wrote them: 640x360, and the frame after it.
KEYFRAME = bytes.fromhex("10020d9d012a8002680101078885858899848820020205d6")
DELTA = bytes.fromhex("310100021110600000001004a7fe5b")


def test_a_keyframe_tells_its_size() -> None:
    assert is_keyframe(KEYFRAME)
    assert frame_size(KEYFRAME) == (640, 360)
    # The bits above the 14 of each side say how to scale.
    scaled = KEYFRAME[:7] + bytes([KEYFRAME[7] | 0x40, KEYFRAME[8], KEYFRAME[9] | 0x80]) + KEYFRAME[10:]
    assert frame_size(scaled) == (640, 360)


@pytest.mark.parametrize(
    "frame",
    [b"", DELTA, KEYFRAME[:9], b"\x11" + KEYFRAME[1:], KEYFRAME[:3] + b"\x9d\x01\x2b" + KEYFRAME[6:]],
    ids=["nothing", "delta", "breaks off", "says it is none", "no start code"],
)
def test_everything_else_is_no_keyframe(frame: bytes) -> None:
    assert not is_keyframe(frame)
    assert frame_size(frame) is None


@pytest.mark.parametrize("sides", ["0000 6801", "8002 0000", "0040 6801"])
def test_a_picture_without_pixels_has_no_size(sides: str) -> None:
    frame = KEYFRAME[:6] + bytes.fromhex(sides)
    assert is_keyframe(frame)
    assert frame_size(frame) is None


def payloads_of(frame: bytes, picture_id: int) -> list[bytes]:
    return [payload_of(frame, payload) for payload in packetize(frame, picture_id)]


@given(st.binary(max_size=64), st.integers())
def test_any_bytes_are_taken(frame: bytes, picture_id: int) -> None:
    for data in (frame, KEYFRAME[:6] + frame):
        assert (frame_size(data) is None) or is_keyframe(data)
        assert b"".join(payload[4:] for payload in payloads_of(data, picture_id)) == data


@pytest.mark.parametrize(
    ("size", "lengths"), [(0, []), (1, [5]), (1296, [1300]), (1297, [1300, 5]), (3000, [1300, 1300, 412])]
)
def test_payloads_are_filled_one_after_the_other(size: int, lengths: list[int]) -> None:
    payloads = payloads_of(b"v" * size, 0x4321)
    assert [len(payload) for payload in payloads] == lengths
    heads = [payload[:4] for payload in payloads]
    assert heads == [b"\x90\x80\xc3\x21", *[b"\x80\x80\xc3\x21"] * 2][: len(lengths)]


def test_picture_ids_begin_anew_after_15_bits() -> None:
    assert payloads_of(b"v", 0x7FFF)[0][:4] == b"\x90\x80\xff\xff"
    assert payloads_of(b"v", 0x8000) == payloads_of(b"v", 0)
