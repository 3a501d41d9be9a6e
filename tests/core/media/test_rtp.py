"""RTP headers, times and retransmission, by the letter; tests/adapters/test_packetizing.py asks aiortc too."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core.errors import LocalProtocolError
from deepio_core.media.rtp import HeaderTemplate, abs_send_time, ntp_time, payload_of, rtx_payload


def test_a_header_with_both_extensions() -> None:
    template = HeaderTemplate(payload_type=99, ssrc=0x01020304, mid="0", mid_id=1, abs_send_time_id=2)
    header = template.header(0x1234, 0x56789ABC, marker=True, abs_send_time=0xABCDEF)
    assert header == bytes.fromhex("90e3 1234 56789abc 01020304  bede 0002  10 30  22 abcdef  0000")
    assert template.size == len(header) == 24
    plain = template.header(0x1234, 0x56789ABC, marker=False, abs_send_time=0xABCDEF)
    assert plain == header[:1] + b"\x63" + header[2:]


@pytest.mark.parametrize(
    ("agreed", "rest"),
    [
        ({}, ""),
        ({"mid": "0"}, ""),
        ({"mid": "0", "mid_id": 0, "abs_send_time_id": 0}, ""),
        ({"mid_id": 1}, ""),
        ({"mid": "video", "mid_id": 1}, "bede 0002  14 766964656f  0000"),
        ({"abs_send_time_id": 3}, "bede 0001  32 000007"),
        ({"mid": "0", "mid_id": 15, "abs_send_time_id": 2}, "1000 0002  0f01 30  0203 000007"),
        ({"mid": "", "mid_id": 1}, "1000 0001  0100  0000"),
        ({"mid": "m" * 17, "mid_id": 1}, "1000 0005  0111" + "6d" * 17 + "00"),
    ],
)
def test_only_what_is_agreed_is_sent(agreed: dict[str, Any], rest: str) -> None:
    template = HeaderTemplate(payload_type=0, ssrc=1, **agreed)
    header = template.header(1, 2, marker=False, abs_send_time=7)
    first = "90" if rest else "80"
    assert header == bytes.fromhex(first + "00 0001 00000002 00000001" + rest)
    assert template.size == len(header)


def test_the_last_packet_of_a_frame_has_the_marker_and_numbers_go_round() -> None:
    template = HeaderTemplate(payload_type=99, ssrc=1, mid="0", mid_id=1, abs_send_time_id=2)
    headers = template.headers(3, 0xFFFF, 1 << 32 | 5, 1 << 24 | 6)
    assert headers == [
        template.header(number, 5, marker=number == 1, abs_send_time=6) for number in (0xFFFF, 0x10000, 1)
    ]
    assert template.headers(1, 8, 5, 6) == [template.header(8, 5, marker=True, abs_send_time=6)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"payload_type": 128},
        {"payload_type": -1},
        {"ssrc": 1 << 32},
        {"ssrc": -1},
        {"mid": "m" * 256},
        {"mid_id": 256},
        {"abs_send_time_id": -1},
    ],
)
def test_what_no_header_can_hold_is_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"payload_type": 99, "ssrc": 1, "mid": "0", "mid_id": 1}
    with pytest.raises(LocalProtocolError, match="No RTP header holds"):
        HeaderTemplate(**(right | wrong))


def test_a_tag_that_is_no_text_is_sent_somehow() -> None:
    template = HeaderTemplate(payload_type=99, ssrc=1, mid="\ud800", mid_id=1)
    assert template.header(0, 0, marker=False, abs_send_time=0).endswith(b"\x10?\0\0")


@given(st.floats(0, 4e9))
def test_times_run_on(now: float) -> None:
    ntp = ntp_time(now)
    assert ntp == (int(now * 2**32) + 2_208_988_800 * 2**32) % 2**64
    # The extension holds the middle bits of it.
    assert abs_send_time(now) == (ntp >> 14) % 2**24


def test_times_by_the_book() -> None:
    assert ntp_time(0.0) == 2_208_988_800 << 32
    assert ntp_time(0.5) == 2_208_988_800 << 32 | 0x8000_0000
    assert ntp_time(2**32 - 2_208_988_800 + 1.0) == 1 << 32  # 2036
    assert abs_send_time(64.25) == 1 << 16


def test_a_retransmission_begins_with_the_number_of_the_packet() -> None:
    assert rtx_payload(0x1234, b"payload") == b"\x12\x34payload"
    assert rtx_payload(0x11234, b"") == b"\x12\x34"


def test_a_payload_is_what_comes_first_and_a_part_of_the_frame() -> None:
    assert payload_of(b"0123456789", (b"ab", 3, 6)) == b"ab345"
    assert payload_of(b"0123456789", (b"", 0, 10)) == b"0123456789"
    assert payload_of(b"0123456789", (b"alone", 0, 0)) == b"alone"
