"""Signaling addresses: what people configure, what goes into the URL, and what must not come out again."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from deepio_core.address import (
    MAX_SEGMENT,
    SEGMENT_CHARACTERS,
    PeerPath,
    SignalingAddress,
    build_address,
    encode_segment,
    is_segment,
    parse_path,
    redact,
)
from deepio_core.errors import AddressError

segments = st.text(alphabet=sorted(SEGMENT_CHARACTERS), min_size=1, max_size=40)
odd_texts = st.text() | st.text(alphabet="ws:/[]@.%?#x1é \t")


def build(address: str = "deep.example", port: str | int | None = None, **settings: Any) -> SignalingAddress:
    return build_address(address, port, **{"peer_type": "t", "peer_id": "a"} | settings)


# --- Segments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("cam1", "cam1"),
        ("a-b_c~d", "a-b_c~d"),
        ("a.b", "a%2Eb"),
        ("a b/c", "a%20b%2Fc"),
        ("café", "caf%C3%A9"),
        ("caf%C3%A9", "caf%C3%A9"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("😀", "%F0%9F%98%80"),
        ("\x00", "%00"),
        ("x" * MAX_SEGMENT, "x" * MAX_SEGMENT),
    ],
)
def test_encodes_what_the_server_would_die_of(text: str, encoded: str) -> None:
    assert encode_segment(text) == encoded


@pytest.mark.parametrize(
    "text", ["", "x" * (MAX_SEGMENT + 1), "é" * 43, "\ud800", "x" * 10_000_000], ids=lambda text: ascii(text[:5])
)
def test_refuses_segments(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        encode_segment(text)
    assert caught.value.remedy
    assert "x" * 9 not in str(caught.value)


@pytest.mark.parametrize("text", ["a", "caf%C3%A9", "%zz", "-_~", "x" * MAX_SEGMENT])
def test_is_a_segment(text: str) -> None:
    assert is_segment(text)


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a.b", "café", "\ud800", "x" * (MAX_SEGMENT + 1)], ids=ascii)
def test_is_none(text: str) -> None:
    assert not is_segment(text)


@given(st.text())
def test_any_text_is_a_segment_or_the_documented_error(text: str) -> None:
    try:
        encoded = encode_segment(text)
    except AddressError:
        return
    assert set(encoded) <= SEGMENT_CHARACTERS
    assert encode_segment(encoded) == encoded
    assert parse_path(f"/t/{encoded}").peer_id == encoded


# --- Addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "port", "start"),
    [
        ("deep.example", None, "wss://deep.example:443/"),
        ("deep.example", 8000, "wss://deep.example:8000/"),
        ("deep.example", "8000", "wss://deep.example:8000/"),
        ("deep.example", " 8000 ", "wss://deep.example:8000/"),
        ("deep.example:8000", None, "wss://deep.example:8000/"),
        ("deep.example:8000", "8000", "wss://deep.example:8000/"),
        ("wss://deep.example:08000", 8000, "wss://deep.example:8000/"),
        (" wss://deep.example/ ", None, "wss://deep.example:443/"),
        ("ws://deep.example", None, "ws://deep.example:80/"),
        ("WS://Deep.Example", None, "ws://deep.example:80/"),
        ("http://deep.example", 65535, "ws://deep.example:65535/"),
        ("https://deep.example", 1, "wss://deep.example:1/"),
        ("deep_io-1", 8000, "wss://deep_io-1:8000/"),
        ("deep.example.", 8000, "wss://deep.example.:8000/"),
        ("Bücher.example", 8000, "wss://xn--bcher-kva.example:8000/"),
        ("192.0.2.7", 8000, "wss://192.0.2.7:8000/"),
        ("ws://192.0.2.7:8000", None, "ws://192.0.2.7:8000/"),
        ("2001:DB8::0:1", 8000, "wss://[2001:db8::1]:8000/"),
        ("[2001:db8::1]", 8000, "wss://[2001:db8::1]:8000/"),
        ("ws://[2001:db8::1]:8000/", None, "ws://[2001:db8::1]:8000/"),
        ("ws://2001:db8::1", None, "ws://[2001:db8::1]:80/"),
    ],
)
def test_takes_addresses_as_people_write_them(address: str, port: str | int | None, start: str) -> None:
    assert build(address, port).url == f"{start}t/a"


@pytest.mark.parametrize(
    ("address", "port", "cause"),
    [
        ("", None, "host name"),
        ("   ", None, "host name"),
        ("wss://", None, "host name"),
        ("ws://:8000", None, "host name"),
        ("deep example", None, "host name"),
        ("deep..example", None, "host name"),
        (".example", None, "host name"),
        ("-deep.example", None, "host name"),
        ("x" * 64, None, "host name"),
        (".".join(["x" * 60] * 5), None, "host name"),
        ("é" * 100, None, "host name"),
        ("deep\n.example", None, "host name"),
        ("deep.example\x00", None, "host name"),
        ("\ud800.example", None, "host name"),
        ("bücher..example", None, "host name"),
        ("deep,example", None, "host name"),
        ("deep]", None, "host name"),
        ("999.0.0.1", None, "IP address"),
        ("192.0.2", None, "IP address"),
        ("2130706433", None, "IP address"),
        ("2001:db8::1::2", None, "IP address"),
        ("fe80::1%eth0", None, "IP address"),
        ("[deep.example]", None, "brackets"),
        ("[2001:db8::1", None, "brackets"),
        ("[2001:db8::1]8000", None, "brackets"),
        ("[x:y]", None, "IP address"),
        ("deep.example:", None, "port"),
        ("deep.example:http", None, "port"),
        ("[2001:db8::1]:", None, "port"),
        ("deep.example", "", "port"),
        ("deep.example", 0, "port"),
        ("deep.example", -1, "port"),
        ("deep.example", 65536, "port"),
        ("deep.example", "8e3", "port"),
        ("deep.example", "٨٠", "port"),
        ("deep.example", "1" * 10_000, "port"),
        ("deep.example", True, "port"),
        ("deep.example:8000", 8001, "another port"),
        ("deep.example/deep", None, "goes on"),
        ("wss://deep.example:8000/stream_manager/x", None, "goes on"),
        ("wss://deep.example?x=1", None, "goes on"),
        ("wss://deep.example#x", None, "goes on"),
        ("rtsp://camera.example", None, "no WebSocket address"),
        ("://deep.example", None, "no WebSocket address"),
    ],
    ids=lambda item: ascii(item)[:30],
)
def test_refuses_addresses_that_no_url_can_carry(address: str, port: str | int | None, cause: str) -> None:
    with pytest.raises(AddressError, match=cause):
        build(address, port)


@pytest.mark.parametrize(
    "address",
    [
        "user:hunter2@deep.example",
        "wss://user:hunter2@deep.example:8000",
        "wss://user:hun/ter2@deep.example",
        "wss://hunter2@",
        "wss://deep.example/hunter2",
        "deep.example:hunter2",
        "hunter2://deep.example",
        "[hunter2]",
    ],
)
def test_a_refusal_quotes_nothing(address: str) -> None:
    with pytest.raises(AddressError) as caught:
        build(address)
    assert "hunter2" not in repr(caught.value)
    assert "ter2" not in str(caught.value)


def test_user_and_password_are_refused_with_the_remedy() -> None:
    with pytest.raises(AddressError, match="user name") as caught:
        build("wss://user:password@deep.example")
    assert "key" in caught.value.remedy


def test_a_bare_host_is_what_the_caller_says() -> None:
    assert build().scheme == "wss"
    assert build(secure_default=False).url == "ws://deep.example:80/t/a"
    assert build("wss://deep.example", secure_default=False).scheme == "wss"
    assert build("ws://deep.example", secure_default=True).scheme == "ws"


def test_encodes_type_id_and_key() -> None:
    address = build(peer_type="t.x", peer_id="café", key="k/1", port=8000)
    assert address.peer_type == "t%2Ex"
    assert address.peer_id == "caf%C3%A9"
    assert address.key == "k%2F1"
    assert address.url == "wss://deep.example:8000/t%2Ex/caf%C3%A9/k%2F1"


@pytest.mark.parametrize("settings", [{"peer_type": ""}, {"peer_id": ""}, {"key": ""}, {"key": "x" * 257}], ids=str)
def test_q14_refuses_what_does_not_fit_into_the_url(settings: dict[str, str]) -> None:
    with pytest.raises(AddressError, match="peer type, id or key"):
        build(**settings)


def test_the_key_is_in_the_url_and_nowhere_else() -> None:
    address = build(key="hunter2", port=8000)
    assert address.url == "wss://deep.example:8000/t/a/hunter2"
    assert address.redacted == "wss://deep.example:8000/t/a/***"
    assert repr(address) == "SignalingAddress('wss://deep.example:8000/t/a/***')"
    assert str(address) == repr(address)
    assert build(port=8000).redacted == build(port=8000).url == "wss://deep.example:8000/t/a"


def test_secure() -> None:
    assert build("wss://deep.example").secure
    assert not build("ws://deep.example").secure


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.255.1.2", True),
        ("::1", True),
        ("[0:0::1]", True),
        ("0.0.0.0", False),
        ("192.0.2.7", False),
        ("2001:db8::1", False),
        ("deep.example", False),
        ("localhost.example", False),
        ("127.example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert build(host).loopback is loopback


@given(odd_texts, odd_texts | st.integers() | st.none(), st.text(), st.text(), st.text() | st.none())
@example("[::1%\r\nX: y]", None, "t", "a", None)
@example("deep.example\u2028", "\uff11", "t", "a", None)
def test_any_setting_is_an_address_or_the_documented_error(
    server: str, port: str | int | None, peer_type: str, peer_id: str, key: str | None
) -> None:
    try:
        address = build_address(server, port, peer_type=peer_type, peer_id=peer_id, key=key)
    except AddressError as error:
        refused = error
    else:
        assert re.fullmatch(r"wss?://[a-z0-9_.:\[\]-]+/[A-Za-z0-9/_~%-]+", address.url)
        parts = urlsplit(address.url)
        assert (parts.scheme, parts.hostname, parts.port) == (address.scheme, address.host, address.port)
        assert parse_path(parts.path) == PeerPath(peer_type=address.peer_type, peer_id=address.peer_id, key=address.key)
        return
    assert refused.message


# --- The path, for a server ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/t", ("t", None, None)),
        ("/t/a", ("t", "a", None)),
        ("/t/a/k", ("t", "a", "k")),
        ("/t/a?x=1", ("t", "a", None)),
        ("/t/a/k?x=/y?z", ("t", "a", "k")),
        ("/t/caf%C3%A9", ("t", "caf%C3%A9", None)),
        ("/t/%zz", ("t", "%zz", None)),
        ("/A-Z_~%/09", ("A-Z_~%", "09", None)),
        ("/t/" + "x" * 2000, ("t", "x" * 2000, None)),
    ],
    ids=lambda item: str(item)[:30],
)
def test_reads_paths_and_does_not_decode_them(path: str, parts: tuple[str, str | None, str | None]) -> None:
    peer_type, peer_id, key = parts
    assert parse_path(path) == PeerPath(peer_type=peer_type, peer_id=peer_id, key=key)


@pytest.mark.parametrize(
    "path",
    # All that ended the recorded server, and a few more.
    ["", "/", "/t/", "/t/a/", "/t/a/k/", "/t/a/k/more", "//a", "/t//k", "t/a", "?/t/a", "/t/a\n", "/t/a#x"]
    + [f"/t/a{character}b" for character in ".:@+=,!()'*&;$\"|<>{}[]^`\\ \x00é٣"],
    ids=ascii,
)
def test_refuses_paths(path: str) -> None:
    with pytest.raises(AddressError, match="path") as caught:
        parse_path(path)
    assert caught.value.remedy


@given(segments, segments, segments | st.none())
def test_reads_the_path_of_every_address(peer_type: str, peer_id: str, key: str | None) -> None:
    address = build(peer_type=peer_type, peer_id=peer_id, key=key)
    parsed = parse_path(urlsplit(address.url).path)
    assert (parsed.peer_type, parsed.peer_id, parsed.key) == (peer_type, peer_id, key)
    assert repr(parsed) == f"PeerPath(peer_type={peer_type!r}, peer_id={peer_id!r})"


# --- Redaction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("", ""),
        ("no address at all, a@b", "no address at all, a@b"),
        ("open rtsp://user:pass@cam/1 now", "open rtsp://***@cam/1 now"),
        ("rtsp://user:p@ss/w:rd@cam/1", "rtsp://***@cam/1"),
        ("'RTSP://user:p\"ss@cam'", "'RTSP://***@cam'"),
        ("rtsp://user@cam", "rtsp://***@cam"),
        ("rtsp://cam/1 me@x rtsp://u:p@cam2", "rtsp://cam/1 me@x rtsp://***@cam2"),
        ("me@x,rtsp://cam/1", "me@x,rtsp://cam/1"),
        ("wss://h:1/t/a/key", "wss://h:1/t/a/***"),
        ("(WS://h/t/a/key?x=1) twice ws://h/t/a/k.e/y", "(WS://h/t/a/*** twice ws://h/t/a/***"),
        ('{"url":"ws://u:p@h/t/a/key"}', '{"url":"ws://***@h/t/a/***"}'),
        ("wss://h:1/t/a wss://h:1/t/a/ ws://h", "wss://h:1/t/a wss://h:1/t/a/ ws://h"),
        ("https://h/api/stream_1/start", "https://h/api/stream_1/start"),
    ],
)
def test_redacts(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@given(st.text(), segments, st.text(alphabet=st.characters(exclude_categories=["Z", "C"]), min_size=8), st.text())
def test_no_secret_survives(before: str, host: str, secret: str, after: str) -> None:
    assume(secret not in before + after + host and "@" not in secret)
    assert secret not in redact(f"{before} rtsp://user:{secret}@{host} {after}").replace("***", "")


@given(segments, segments, st.text(alphabet=sorted(SEGMENT_CHARACTERS - set("t-")), min_size=8, max_size=40))
def test_no_key_survives(peer_type: str, peer_id: str, key: str) -> None:
    assume(key not in peer_type and key not in peer_id)
    address = build("h", peer_type=peer_type, peer_id=peer_id, key=key)
    assert redact(f"cannot open {address.url}: refused") == f"cannot open {address.redacted} refused"
    assert redact(address.redacted) == address.redacted
    assert key not in repr(address)


def test_long_texts_take_no_time() -> None:
    # Quadratic patterns would take hours.
    for text in ("://" * 300_000, "ws://a/" * 200_000, "a" * 1_000_000 + "://", "@" * 1_000_000 + "://"):
        assert redact(text)
