"""JSON texts (RFC 8259), as signaling and data channel carry them: limits in, plain UTF-8 out.

Peers serialise with JavaScript and Python. What a text may not do here: be larger or deeper than agreed, hold
NaN or infinity (Python's encoder writes them, no browser reads them), or numbers that do not fit. Of equal
keys the last one counts, as in both languages.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

from deepio_core.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

JSON: TypeAlias = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None
"""A JSON value. What `decode` returns is made of exactly these types."""

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other. DEEP messages nest up to 6 deep; metadata of applications may go
further, but a text much deeper than this is meant to exhaust a stack."""

# For the depth only quotes and brackets count, and objects count as arrays.
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b'[]{}"'))

# To leave the range of a double, 1e309 on, it takes an exponent of three digits, or 210 digits in a row: with fewer
# the exponent of two digits that may follow reaches 1e308 at most.
_DIGITS: Final = bytes.maketrans(b"123456789E", b"000000000e")
_RANGE_DIGITS: Final = b"0" * 210

_WHITESPACE: Final = " \t\n\r"
"""What may stand before and after a value (RFC 8259 section 2)."""

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _refuse_constant(name: str) -> NoReturn:
    raise RemoteProtocolError(f"Not JSON: {name} is no JSON number.")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if value - value != 0.0:
        raise RemoteProtocolError("A number in the message is too large.")
    return value


# Made once: json.loads() with options makes a decoder each time.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_CAREFUL_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def utf8_size(text: str) -> int:
    """Size of a text in UTF-8, bytes.

    Args:
        text: A text without lone surrogates, for instance one made by `encode`.
    """
    return len(text) if text.isascii() else len(text.encode())


def decode(text: str | bytes, *, max_size: int, max_depth: int = MAX_DEPTH) -> JSON:
    """Decode a JSON text from the far side.

    Args:
        text: The text, or its UTF-8 bytes.
        max_size: Largest size, bytes of UTF-8.
        max_depth: How deep arrays and objects may nest.

    Returns:
        The value. All numbers are finite; strings may hold lone surrogates, which JSON can escape.

    Raises:
        RemoteProtocolError: It is no JSON text, or breaks a limit. The message quotes nothing of the text.
    """
    if len(text) > max_size:
        raise RemoteProtocolError(f"The message is larger than {max_size} bytes.")
    # The reason leaves the handler before we raise: the original exception holds the text, which may be SDP.
    try:
        if isinstance(text, str):
            data = text.encode()
        else:
            data, text = text, text.decode()
    except UnicodeError:
        reason = "it is not UTF-8"
    else:
        if len(data) > max_size:
            raise RemoteProtocolError(f"The message is larger than {max_size} bytes.")
        if data.count(b"[") + data.count(b"{") > max_depth and _is_deeper(data, max_depth):
            raise RemoteProtocolError(f"The message nests deeper than {max_depth}, or its brackets do not match.")
        try:
            stripped = text.strip(_WHITESPACE)
            value: JSON
            value, end = _decoder_for(data).raw_decode(stripped)
        except json.JSONDecodeError as error:
            reason = f"wrong at character {error.pos}"
        except ValueError:
            # int() refuses more than 4300 digits (see sys.set_int_max_str_digits).
            reason = "a number has too many digits"
        except RecursionError:
            # Only where the caller allows more depth than the interpreter has stack.
            reason = "it nests too deep"
        else:
            if end == len(stripped):
                return value
            reason = f"more after character {end}"
    raise RemoteProtocolError(f"Not JSON: {reason}.")


def encode(value: JSON) -> str:
    """Encode a value as compact JSON text that every JSON reader takes and `decode` gives back.

    Args:
        value: A JSON value; tuples count as arrays.

    Returns:
        A text that can always be written as UTF-8: a lone surrogate is escaped, everything else is itself.

    Raises:
        LocalProtocolError: The value holds itself, nests deeper than `MAX_DEPTH`, or holds NaN, infinity, a
            number of more than 4300 digits, a key that is no string, or an object that JSON does not know.
    """
    reason = _find_flaw(value, MAX_DEPTH) if isinstance(value, (dict, list, tuple)) else ""
    if not reason:
        try:
            text = _ENCODER.encode(value)
        except TypeError as error:
            # "Object of type X is not JSON serializable": names the type only.
            reason = str(error)
        except ValueError:
            reason = "NaN, infinity or a number of too many digits has no place in JSON"
        else:
            # Nothing but a string holds surrogates, so that an escape is right wherever one is found.
            return _sendable(text)
    raise LocalProtocolError(
        f"The message cannot be sent as JSON: {reason}.",
        remedy="Use dict with str keys, list, str, int, float, bool and None.",
    )


def encode_again(value: JSON) -> str:
    """Encode what `decode` has returned: the text that `encode` makes of it, without looking for flaws.

    Args:
        value: A value from `decode`, or made of strings alone and not deeper than that allows.
    """
    return _sendable(_ENCODER.encode(value))


def _sendable(text: str) -> str:
    return text if text.isascii() else _LONE_SURROGATE.sub(_escape, text)


def _decoder_for(data: bytes) -> json.JSONDecoder:
    """The decoder that checks every float, which costs half as much again, if one may be too large."""
    digits = data.translate(_DIGITS)
    exponent = b"0e" in digits and (b"0e000" in digits or b"0e+000" in digits)
    if exponent or (len(digits) > len(_RANGE_DIGITS) and _RANGE_DIGITS in digits):
        return _CAREFUL_DECODER
    return _DECODER


def _is_deeper(data: bytes, max_depth: int) -> bool:
    """Tell whether brackets outside of strings nest deeper, or are left open."""
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    # Two quotes that meet can go wherever they stand: what comes after stays inside, or outside, of a string.
    skeleton = data.translate(_BRACKETS, _NOT_BRACKETS).replace(b'""', b"")
    if b'"' in skeleton:
        skeleton = b"".join(skeleton.split(b'"')[::2])
    # Each round takes away the innermost pairs, wherever they stand: one level of depth.
    for _ in range(max_depth):
        size = len(skeleton)
        skeleton = skeleton.replace(b"[]", b"")
        if len(skeleton) == size:
            break
    return b"[" in skeleton


def _find_flaw(container: dict[str, JSON] | list[JSON], depth: int) -> str:
    """Find what the encoder would let pass: keys that it turns into strings, and depth without a limit."""
    if depth == 0:
        return f"it nests deeper than {MAX_DEPTH}, or holds itself"
    items: Iterable[JSON] = container
    if isinstance(container, dict):
        if not all(map(_is_string, container)):
            return "a key is no string"
        items = container.values()
    for item in items:
        if isinstance(item, (dict, list, tuple)) and (flaw := _find_flaw(item, depth - 1)):
            return flaw
    return ""


def _is_string(key: object) -> bool:
    return isinstance(key, str)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
