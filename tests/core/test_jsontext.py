"""JSON texts: what is read, what is refused and how, and that everything written can be read again."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepio_core import jsontext
from deepio_core.errors import LocalProtocolError, RemoteProtocolError
from deepio_core.jsontext import MAX_DEPTH, decode, encode, encode_again, utf8_size

MIB = 1024 * 1024

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text(alphabet='[]{}"\\,:eE+0019 ')
    # Lone surrogates, one at a time: two of them in a row are one character to every JSON reader.
    | st.text().map("{}\ud800".format)
    | st.text().map("\udfff{}".format)
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@given(values)
def test_what_is_encoded_can_be_sent_and_decodes_to_the_same(value: Any) -> None:
    text = encode(value)
    assert decode(text.encode(), max_size=utf8_size(text)) == value


@given(values)
def test_what_was_decoded_is_encoded_again_as_ever(value: Any) -> None:
    text = encode(value)
    assert encode_again(decode(text, max_size=utf8_size(text))) == text


@given(values, st.booleans())
def test_decodes_as_the_standard_library_does(value: Any, ensure_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=1)
    if text.isascii():
        assert decode(text, max_size=MIB) == json.loads(text)


@given(st.text() | st.text(alphabet='[]{}"\\,:eE+-0123456789tfn \ud800') | st.binary())
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example("]" * 100_000)
@example("NaN")
@example("1" * 5000)
def test_any_text_is_a_value_or_the_documented_error(text: str | bytes) -> None:
    try:
        value = decode(text, max_size=MIB)
    except RemoteProtocolError:
        return
    assert decode(encode(value), max_size=8 * MIB) == value
    assert value == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\ufeff{}",
        "hello",
        "{",
        "[1,]",
        "{'a':1}",
        '{"a":1}x',
        '{"a":1} x ',
        "\u00a0{}",
        '"\x00"',
        r'"\x"',
        "NaN",
        "[-Infinity]",
        '{"a":Infinity}',
        "1" * 5000,
        "1e400",
        "[1E400]",
        "-1e+400",
        "9" * 310 + ".0",
        "1" + "0" * 250 + "e99",
        b"\xff",
        b'"\xed\xa0\x80"',
        '"\ud800"',
        "[" * 5000,
        "[1, 2",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_refuses(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(text, max_size=MIB)
    # What failed below holds the whole text, which may be SDP.
    assert caught.value.__context__ is None


@given(
    mantissa=st.builds(lambda digit, count: digit * count, st.sampled_from("019"), st.integers(1, 400)),
    fraction=st.sampled_from(["", ".0", "." + "9" * 300]),
    exponent=st.integers(-400, 400) | st.integers(90, 110),
    mark=st.sampled_from(["e", "E", "e+", "E+00"]),
)
@example(mantissa="9" * 210, fraction="", exponent=99, mark="e")
@example(mantissa="9" * 209, fraction=".9", exponent=99, mark="e")
def test_no_number_becomes_infinite(mantissa: str, fraction: str, exponent: int, mark: str) -> None:
    text = f"{mantissa}{fraction}{mark if exponent >= 0 else 'e'}{exponent}"
    try:
        expected = json.loads(text)
    except json.JSONDecodeError:
        expected = math.inf  # two zeros in front
    if math.isfinite(expected):
        assert decode(text, max_size=MIB) == expected
    else:
        with pytest.raises(RemoteProtocolError):
            decode(text, max_size=MIB)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1,"a":2}', {"a": 2}),
        (' \r\n\t{"a" : [ 1 , 2.5 , -0 , true, null ] } ', {"a": [1, 2.5, 0, True, None]}),
        (b'"\xc3\xa9\xf0\x9f\x98\x80"', "é😀"),
        (r'"\ud83d\ude00 \ud800"', "😀 \ud800"),
        ("12345678901234567890", 12345678901234567890),
        ("9" * 4300, int("9" * 4300)),
        ("1e308", 1e308),
        ("1E-400", 0.0),
        ("0." + "0" * 400 + "1e300", 1e-101),
        ('["de000de", 1.5]', ["de000de", 1.5]),
    ],
    ids=lambda item: ascii(item)[:12] if isinstance(item, str | bytes) else "",
)
def test_decodes(text: str | bytes, value: Any) -> None:
    assert decode(text, max_size=MIB) == value


def test_the_error_quotes_nothing_of_the_text() -> None:
    secret = "hunter2"
    for text in (secret, f'{{"key":"{secret}"', f'"\\{secret}"', f'["{secret}", 1e999]', "[" * 99 + secret):
        with pytest.raises(RemoteProtocolError) as caught:
            decode(text, max_size=MIB)
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)


@pytest.mark.parametrize("text", ['"12345678"', '"1234é67"', b'"12345678"', '"1234é67"'.encode()])
def test_size_counts_bytes_of_utf8(text: str | bytes) -> None:
    assert decode(text, max_size=10) in {"12345678", "1234é67"}
    with pytest.raises(RemoteProtocolError, match="larger than 9 bytes"):
        decode(text, max_size=9)


def test_ten_megabytes_are_refused_or_read_as_the_limit_says() -> None:
    text = json.dumps({"type": "data", "data": "x" * 10_000_000})
    with pytest.raises(RemoteProtocolError, match="larger"):
        decode(text, max_size=MIB)
    assert decode(text, max_size=11_000_000) == json.loads(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"\\"]":'])
def test_depth_is_limited_at_any_size(opening: str) -> None:
    bomb = opening * 300_000
    with pytest.raises(RemoteProtocolError, match="deeper than 64"):
        decode(bomb, max_size=len(bomb))


def test_depth_limit_is_exact() -> None:
    assert decode(json.dumps(nested(MAX_DEPTH)), max_size=MIB) == nested(MAX_DEPTH)
    with pytest.raises(RemoteProtocolError, match="deeper"):
        decode(json.dumps(nested(MAX_DEPTH + 1)), max_size=MIB)
    assert decode(json.dumps(nested(5)), max_size=MIB, max_depth=5) == nested(5)
    with pytest.raises(RemoteProtocolError, match="deeper than 4"):
        decode(json.dumps(nested(5)), max_size=MIB, max_depth=4)


@pytest.mark.parametrize("opening", ["[", '{"":', r'["\\",', r'["\"",', r'["[\\\"]",', '["]","",'], ids=repr)
def test_strings_do_not_hide_depth(opening: str) -> None:
    def text(depth: int) -> str:
        return opening * depth + "1" + ("}" if opening[0] == "{" else "]") * depth

    assert decode(text(MAX_DEPTH), max_size=MIB) == json.loads(text(MAX_DEPTH))
    with pytest.raises(RemoteProtocolError, match="deeper"):
        decode(text(MAX_DEPTH + 1), max_size=MIB)


@given(values, st.integers(1, 6))
def test_depth_is_that_of_the_value_not_of_its_strings(value: Any, max_depth: int) -> None:
    text = json.dumps(value)
    if depth_of(value) <= max_depth:
        assert decode(text, max_size=MIB, max_depth=max_depth) == json.loads(text)
    else:
        with pytest.raises(RemoteProtocolError, match="deeper"):
            decode(text, max_size=MIB, max_depth=max_depth)


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


def test_many_brackets_in_little_depth_are_no_matter() -> None:
    value = [{"points": [[0.5, 0.5, "tag [}"]] * 20, "quote": '\\"['}] * 200
    assert decode(json.dumps(value), max_size=MIB) == value


def test_strings_that_end_in_a_backslash_are_no_matter() -> None:
    value = [["C:\\"]] * 101
    assert decode(json.dumps(value), max_size=MIB) == value


def test_more_depth_than_the_interpreter_has_stack_is_refused_too() -> None:
    text = "[" * 500_000 + "]" * 500_000
    with pytest.raises(RemoteProtocolError, match="too deep"):
        decode(text, max_size=MIB, max_depth=500_000)


def test_encodes_compact_and_readable() -> None:
    assert encode({"a": [1, 2.5, None, True], "é": "\n😀"}) == '{"a":[1,2.5,null,true],"é":"\\n😀"}'


def test_escapes_lone_surrogates_only() -> None:
    assert encode({"\udc00": "é\ud800"}) == '{"\\udc00":"é\\ud800"}'


def test_tuples_are_arrays() -> None:
    shape: Any = {"shape": (480, 640, 3)}
    assert encode(shape) == '{"shape":[480,640,3]}'


def holding_itself() -> Any:
    value: list[Any] = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "NaN"),
        ([math.inf], "infinity"),
        ({"a": -math.inf}, "infinity"),
        (10**5000, "digits"),
        ({1: 2}, "key"),
        ([{"a": ({None: 2},)}], "key"),
        ({"a": {1, 2}}, "set"),
        (b"bytes", "bytes"),
        (holding_itself(), "itself"),
        (nested(MAX_DEPTH + 1), "deeper"),
        ({"a": nested(MAX_DEPTH)}, "deeper"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_does_not_encode(value: Any, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason) as caught:
        encode(value)
    assert caught.value.remedy


def test_encodes_what_is_just_not_too_deep() -> None:
    text = encode(nested(MAX_DEPTH))
    assert decode(text, max_size=MIB) == nested(MAX_DEPTH)


@given(st.text())
def test_utf8_size(text: str) -> None:
    assert utf8_size(text) == len(text.encode())


def test_the_alias_covers_all_that_json_has() -> None:
    values: list[jsontext.JSON] = [None, True, 1, 1.5, "", [], {}]
    assert [decode(encode(value), max_size=MIB) for value in values] == values
