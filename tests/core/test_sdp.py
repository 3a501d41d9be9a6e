"""Session descriptions: those that real peers have exchanged, and everything that is none."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepio_core.sdp import (
    MAX_DESCRIPTION_SIZE,
    MAX_MEDIA_LINES,
    Codec,
    Description,
    Direction,
    MediaLine,
    answer_problem,
    offer_problem,
    parse_description,
    without_mdns,
)

# Pairs of hyperpeer-py on aiortc 1.5, 1.9 and 1.16, and hyperpeer-js in Chromium, each in both roles.
PAIRS: dict[str, tuple[str, str]] = {
    row["name"]: (row["offer"], row["answer"])
    for row in map(json.loads, (Path(__file__).parent / "data" / "sdp" / "pairs.jsonl").read_text("utf-8").splitlines())
}
EITHER = [text for pair in PAIRS.values() for text in pair]


def describe(*media: str, fingerprint: bool = True, end: str = "\r\n") -> str:
    """A small description with these media lines, each a text that may hold its attributes."""
    head = ["v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0"]
    head += ["a=fingerprint:sha-256 00:11"] if fingerprint else []
    return "\r\n".join([*head, *media, ""]).replace("\r\n", end)


VIDEO = "m=video 9 UDP/TLS/RTP/SAVPF 96"
AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111"
DATA = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"
OLD_DATA = "m=application 9 DTLS/SCTP 5000\r\na=sctpmap:5000 webrtc-datachannel 65535"


# --- What real peers have exchanged ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_q11_takes_every_recorded_pair(name: str) -> None:
    offer, answer = PAIRS[name]
    assert offer_problem(offer) is None
    assert answer_problem(offer, answer) is None
    # As a relay or a library may have rewritten them.
    assert offer_problem(offer.replace("\r\n", "\n")) is None
    assert answer_problem(offer.replace("\r\n", "\n"), answer) is None
    assert answer_problem(offer, answer.replace("\r\n", "\n")) is None


@pytest.mark.parametrize("name", PAIRS)
def test_reads_every_recorded_pair(name: str) -> None:
    offer, answer = map(parse_description, PAIRS[name])
    for description in (offer, answer):
        assert description.has_fingerprint
        assert description.has_ice_credentials
        assert [line.mid for line in description.media] == [str(index) for index in range(len(description.media))]
        assert description.media[-1].kind == "application"
        assert description.media[-1].codecs == ()
        assert all(line.codecs and line.port for line in description.media[:-1])
    assert [line.kind for line in offer.media] == [line.kind for line in answer.media]
    assert offer.max_message_size in {65536, 262144}
    assert answer.max_message_size in {65536, 262144, None}


def test_q3_an_answer_to_another_offer_is_noticed() -> None:
    def shape(sdp: str) -> list[str]:
        return [line.kind for line in parse_description(sdp).media]

    offers = [offer for offer, _ in PAIRS.values()]
    answers = [answer for _, answer in PAIRS.values()]
    assert {len(shape(offer)) for offer in offers} == {1, 2, 3}
    for offer in offers:
        for answer in answers:
            assert (answer_problem(offer, answer) is None) == (shape(offer) == shape(answer))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("deepio-01-auto-connect-generic-listener", Codec(name="VP8", payload_type=97, fmtp="")),
        ("mix-06-aiortc1.16-connects-to-browser", Codec(name="VP8", payload_type=96, fmtp="")),
        (
            "js-31-h264-only-offer",
            Codec(
                name="H264",
                payload_type=99,
                fmtp="level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f",
            ),
        ),
        ("py-odd-data-binary-json", None),
    ],
)
def test_tells_the_negotiated_video_codec(name: str, codec: Codec | None) -> None:
    assert parse_description(PAIRS[name][1]).first_codec("video") == codec


def test_reads_an_old_data_line() -> None:
    media = parse_description(PAIRS["js-01-connects-no-stream-py-video"][1]).media
    assert [(line.kind, line.port, line.direction) for line in media] == [
        ("video", 9, Direction.RECVONLY),
        ("application", 9, Direction.SENDRECV),
    ]


# --- Facts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_reads_the_facts(end: str) -> None:
    lines = [
        "v=0",
        "a=max-message-size:x",
        "a=sendonly",
        "m=video 9/2 RTP/AVP 98 97 96 0 96x",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:97 H264/90000",
        "a=rtpmap:98 rtx/90000",
        "a=rtpmap:99 AV1/90000",
        "a=rtpmap:x VP9/90000",
        "a=rtpmap:0",
        "a=fmtp:98 apt=97",
        "a=fmtp:97 profile-level-id=42e01f; x=1",
        "a=mid:cam",
        "a=mid:other",
        "b=AS:1000",
        "m=audio 0 RTP/AVP 8",
        "a=rtpmap:8 PCMA/8000/1",
        "a=inactive",
        "m=application x",
        "a=max-message-size:262144",
        "a=ice-ufrag:abcd",
        "a=ice-pwd:secret",
        "",
    ]
    assert parse_description(end.join(lines)) == Description(
        media=(
            MediaLine(
                kind="video",
                mid="cam",
                port=9,
                direction=Direction.SENDONLY,
                codecs=(
                    Codec(name="rtx", payload_type=98, fmtp="apt=97"),
                    Codec(name="H264", payload_type=97, fmtp="profile-level-id=42e01f; x=1"),
                    Codec(name="VP8", payload_type=96, fmtp=""),
                ),
            ),
            MediaLine(
                kind="audio",
                mid=None,
                port=0,
                direction=Direction.INACTIVE,
                codecs=(Codec(name="PCMA", payload_type=8, fmtp=""),),
            ),
            MediaLine(kind="application", mid=None, port=0, direction=Direction.SENDONLY, codecs=()),
        ),
        max_message_size=262144,
        has_fingerprint=False,
        has_ice_credentials=True,
    )


def test_the_first_codec_is_of_a_line_in_use_and_carries_media() -> None:
    rejected = "m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000"
    auxiliary = "m=video 9 UDP/TLS/RTP/SAVPF 97 98\r\na=rtpmap:97 RTX/90000\r\na=rtpmap:98 red/90000"
    used = "m=video 9 UDP/TLS/RTP/SAVPF 99 100\r\na=rtpmap:99 rtx/90000\r\na=rtpmap:100 VP9/90000"
    description = parse_description(describe(DATA, rejected, auxiliary, used))
    assert description.first_codec("video") == Codec(name="VP9", payload_type=100, fmtp="")
    assert description.first_codec("audio") is None
    assert parse_description(describe(DATA, rejected, auxiliary)).first_codec("video") is None


def test_the_first_line_of_a_kind_is_one_in_use() -> None:
    rejected = VIDEO.replace(" 9 ", " 0 ")
    description = parse_description(describe(DATA, rejected, VIDEO))
    assert description.first("video") is description.media[2]
    assert description.first("audio") is None
    assert parse_description(describe(rejected)).first("video") is None


@pytest.mark.parametrize(
    ("direction", "sends", "receives"),
    [
        (Direction.SENDRECV, True, True),
        (Direction.SENDONLY, True, False),
        (Direction.RECVONLY, False, True),
        (Direction.INACTIVE, False, False),
    ],
)
def test_directions(direction: Direction, sends: bool, receives: bool) -> None:
    line = parse_description(describe(f"{VIDEO}\r\na={direction}")).media[0]
    assert (line.direction, line.sends, line.receives) == (direction, sends, receives)
    rejected = parse_description(describe(f"{VIDEO}\r\na={direction}".replace(" 9 ", " 0 "))).media[0]
    assert (rejected.sends, rejected.receives) == (False, False)


@pytest.mark.parametrize(
    ("value", "size"), [("0", 0), ("1000000", 1_000_000), ("-1", None), ("", None), ("9" * 99, None)]
)
def test_max_message_size(value: str, size: int | None) -> None:
    assert parse_description(describe(f"{DATA}\r\na=max-message-size:{value}")).max_message_size == size


def test_fingerprint_and_credentials_may_be_of_the_session() -> None:
    session = "a=ice-ufrag:abcd\r\na=ice-pwd:secret"
    description = parse_description(describe(session, DATA))
    assert description.has_fingerprint
    assert description.has_ice_credentials
    assert not parse_description(describe("a=ice-ufrag:abcd", DATA)).has_ice_credentials
    assert "secret" not in repr(description)


def test_media_lines_are_limited() -> None:
    assert len(parse_description(describe(*[VIDEO] * 1000)).media) == MAX_MEDIA_LINES


def test_candidates_with_local_names_are_left_out() -> None:
    kept = "a=candidate:1 1 udp 1 10.0.0.1 5000 typ host\r\n"
    name = "a=candidate:1 1 udp 1 0d3a9c1e-1111.local 5000 typ host generation 0\r\n"
    assert without_mdns(f"{kept}{name}{kept}a=mid:0\r\n") == f"{kept}{kept}a=mid:0\r\n"
    assert without_mdns(f"{kept}{name}".replace("\r", "")) == kept.replace("\r", "")
    for sdp in EITHER:
        assert without_mdns(sdp).count("a=candidate:") == sdp.count("a=candidate:") - sdp.count(".local ")


# --- Plausible or not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sdp", "problem"),
    [
        (describe(DATA), None),
        (describe(OLD_DATA), None),
        (describe(VIDEO, DATA, end="\n"), None),
        (describe(f"{DATA}\r\na=fingerprint:sha-256 00", fingerprint=False), None),
        (describe(*[VIDEO] * (MAX_MEDIA_LINES - 1), DATA), None),
        ("", "it is no session description"),
        ("x", "it is no session description"),
        ("\r\n" + describe(DATA), "it is no session description"),
        ("v=0", "it has no certificate fingerprint"),
        (describe(DATA, fingerprint=False), "it has no certificate fingerprint"),
        (describe("s=a=fingerprint:sha-256 00", DATA, fingerprint=False), "it has no certificate fingerprint"),
        (describe(), "it has no data channel"),
        (describe(VIDEO), "it has no data channel"),
        (describe("a=m=application 9"), "it has no data channel"),
        (describe(*[VIDEO] * MAX_MEDIA_LINES, DATA), "it has more than 64 media lines"),
        (describe(DATA, "a=x" * MAX_DESCRIPTION_SIZE), "it is longer than 262144 characters"),
    ],
    ids=lambda item: ascii(item)[-40:],
)
def test_offers(sdp: str, problem: str | None) -> None:
    assert offer_problem(sdp) == problem


TAGGED = (f"{VIDEO}\r\na=mid:0", f"{DATA}\r\na=mid:1")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (describe(*TAGGED), None),
        (describe(VIDEO, DATA), None),
        (describe(*TAGGED, end="\n"), None),
        (describe("m=video 0 UDP/TLS/RTP/SAVPF 96", DATA), None),
        (describe(f"{VIDEO}\r\na=inactive\r\na=mid:0", TAGGED[1]), None),
        ("v=0", "it has no certificate fingerprint"),
        ("x", "it is no session description"),
        (describe(*TAGGED, fingerprint=False), "it has no certificate fingerprint"),
        (describe(), "its media lines are not those of the offer"),
        (describe(DATA), "its media lines are not those of the offer"),
        (describe(DATA, VIDEO), "its media lines are not those of the offer"),
        (describe(AUDIO, DATA), "its media lines are not those of the offer"),
        (describe(*TAGGED, VIDEO), "its media lines are not those of the offer"),
        (
            describe(f"{VIDEO}\r\na=mid:1", f"{DATA}\r\na=mid:0"),
            "its media lines are tagged otherwise than in the offer",
        ),
        (describe(VIDEO, f"{DATA}\r\na=mid:data"), "its media lines are tagged otherwise than in the offer"),
        (
            describe(TAGGED[0], TAGGED[1].replace(" 9 ", " 0 ")),
            "it rejects the data channel",
        ),
        (describe(*TAGGED, "a=x" * MAX_DESCRIPTION_SIZE), "it is longer than 262144 characters"),
        (describe(*[VIDEO] * MAX_MEDIA_LINES, DATA), "it has more than 64 media lines"),
    ],
    ids=lambda item: ascii(item)[-40:],
)
def test_answers(answer: str, problem: str | None) -> None:
    assert answer_problem(describe(*TAGGED), answer) == problem


def test_one_data_channel_that_is_not_rejected_will_do() -> None:
    rejected = DATA.replace(" 9 ", " 0 ")
    assert answer_problem(describe(DATA, DATA), describe(rejected, DATA)) is None
    assert answer_problem(describe(DATA, DATA), describe(rejected, rejected)) == "it rejects the data channel"


# --- Anything --------------------------------------------------------------------------------------------------

sdp_lines = st.sampled_from(
    [line for text in EITHER for line in text.split("\r\n")]
    + ["m=", "m= ", "m=video", "a=", "a=:", "a=rtpmap:", "a=fmtp:", "a=mid:", "\r", "a=sendrecv:x", VIDEO, DATA]
)
sdp_texts = st.lists(sdp_lines | st.text(), max_size=30).map("\n".join) | st.sampled_from(EITHER).flatmap(
    lambda text: st.tuples(st.integers(0, len(text)), st.text()).map(lambda cut: text[: cut[0]] + cut[1])
)


@given(sdp_texts, sdp_texts)
@example("\nm=" * 10_000, "")
@example(describe("m= video 9 x", "m=application\r\na=x y"), describe("m= audio 9 x", "m=application\r\na=z y"))
@example("v=0\nm=video " + "9" * 5000 + " x 96\na=rtpmap:96 VP8/1", "")
@example("v=0\nm=video 9 x " + "96 " * 5000 + "\na=rtpmap:96 VP8/1", "\ud800")
def test_any_text_is_read_and_judged(first: str, second: str) -> None:
    for sdp in (first, second):
        description = parse_description(sdp)
        assert len(description.media) <= MAX_MEDIA_LINES
        assert len(without_mdns(sdp)) <= len(sdp)
        if offer_problem(sdp) is None:
            assert description.has_fingerprint
            assert any(line.kind == "application" for line in description.media)
    if answer_problem(first, second) is None:
        offered, answered = parse_description(first), parse_description(second)
        assert answered.has_fingerprint
        assert [line.kind for line in offered.media] == [line.kind for line in answered.media]
        assert any(line.kind == "application" for line in answered.media)


def test_ten_megabytes_take_no_time() -> None:
    for text in ("v=0\r\n" + "a=x:y\r\n" * 1_400_000, "v=0" + "\nm=video" * 1_000_000, "x" * 10_000_000):
        assert offer_problem(text)
        assert answer_problem(text, text)


# --- Who made it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_tells_who_made_a_recorded_description(name: str) -> None:
    for text in PAIRS[name]:
        by_aiortc = "IN IP4 0.0.0.0\r\n" in text.partition("\nm=")[0]
        assert parse_description(text).made_by_aiortc == by_aiortc
        assert parse_description(text.replace("\r\n", "\n")).made_by_aiortc == by_aiortc


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("- 4004341410 4004341410 IN IP4 0.0.0.0", True),
        ("- 4004341410 4004341411 IN IP4 0.0.0.0", False),
        ("- 4004341410 40043414101 IN IP4 0.0.0.0", False),
        ("- 400434141 0 IN IP4 0.0.0.0", False),
        ("- 4004341410 4004341410 IN IP4 127.0.0.1", False),
        ("mozilla...THIS_IS_SDPARTA-99.0 1 1 IN IP4 0.0.0.0", False),
    ],
)
def test_aiortc_is_known_by_its_origin(origin: str, expected: bool) -> None:
    text = describe(VIDEO).replace("o=- 1 2 IN IP4 127.0.0.1", f"o={origin}")
    assert parse_description(text).made_by_aiortc == expected
