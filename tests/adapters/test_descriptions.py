"""The facts that engines read from session descriptions, and what they leave out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_adapters.descriptions import Description, MediaLine, without_mdns

SDP = """v=0
o=- 0 0 IN IP4 0.0.0.0
s=-
t=0 0
m=audio 9 UDP/TLS/RTP/SAVPF 111 0
a=rtpmap:111 opus/48000/2
a=rtpmap:0 PCMU/8000
a=sendonly
a=fingerprint:sha-256 00
m=video 0 UDP/TLS/RTP/SAVPF 97 99
a=rtpmap:99 H264/90000
a=rtpmap:97 VP8/90000
a=inactive
a=fingerprint:sha-256 00
m=video 9 UDP/TLS/RTP/SAVPF 99
a=rtpmap:99 H264/90000
a=fingerprint:sha-256 00
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
a=max-message-size:65536
a=fingerprint:sha-256 00
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_media_sections_are_read(end: str) -> None:
    description = Description.parse(SDP.replace("\n", end))
    assert description.media == (
        MediaLine(kind="audio", port=9, direction="sendonly", codec="opus"),
        MediaLine(kind="video", port=0, direction="inactive", codec="VP8"),
        MediaLine(kind="video", port=9, direction="sendrecv", codec="H264"),
        MediaLine(kind="application", port=9, direction="sendrecv", codec=None),
    )
    assert description.has_fingerprint
    assert description.max_message_size == 65536


def test_the_first_section_that_is_not_rejected_counts() -> None:
    description = Description.parse(SDP)
    assert description.first("video") == description.media[2]
    assert description.first("text") is None
    audio, rejected, video, _ = description.media
    assert (audio.sends, audio.receives) == (True, False)
    assert (rejected.sends, rejected.receives) == (False, False)
    assert (video.sends, video.receives) == (True, True)


def test_every_section_needs_a_fingerprint_unless_the_session_has_one() -> None:
    bare = SDP.replace("a=fingerprint:sha-256 00\n", "", 1)
    assert not Description.parse(bare).has_fingerprint
    assert Description.parse(bare.replace("t=0 0\n", "t=0 0\na=fingerprint:sha-256 00\n")).has_fingerprint


def test_what_is_not_there_is_not_made_up() -> None:
    description = Description.parse("v=0\nm=video x\nm=\nm=video 9 P 97\n")
    assert description.max_message_size is None
    assert [line.port for line in description.media] == [0, 0, 9]
    assert description.media[2].codec is None


@given(st.text() | st.lists(st.sampled_from([*SDP.splitlines(), "m=", "a=", "m=video"])).map("\n".join))
def test_nothing_makes_it_raise(sdp: str) -> None:
    Description.parse(sdp)
    without_mdns(sdp)


def test_candidates_with_local_names_are_left_out() -> None:
    kept = "a=candidate:1 1 udp 1 10.0.0.1 5000 typ host\r\n"
    name = "a=candidate:1 1 udp 1 0d3a9c1e-1111.local 5000 typ host generation 0\r\n"
    assert without_mdns(f"{kept}{name}{kept}a=mid:0\r\n") == f"{kept}{kept}a=mid:0\r\n"
    assert without_mdns(SDP) == SDP
