"""What the core and the engines have to know of session descriptions (SDP, RFC 8866; for WebRTC, RFC 9429).

Signals carry no sender, and a server may relay those of a former partner: so an offer is looked at before it is
answered, and an answer is held against the offer. Whether a description is correct is for the engine to find out.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from deepio_core.records import dataclass

MAX_DESCRIPTION_SIZE: Final = 256 * 1024
"""Longest description, characters. Chromium's largest with audio and video has 6,000."""
MAX_MEDIA_LINES: Final = 64
"""Most media lines in a description: each costs an engine a transport. Peers use three at most; a browser that adds
and removes cameras for hours piles up a few dozen."""

_CODEC: Final = re.compile(r"([0-9]{1,3}) ([^/\s]{1,64})/[0-9]")
_AIORTC_ORIGIN: Final = re.compile(r"^o=- ([0-9]{1,20}) \1 IN IP4 0\.0\.0\.0\r?$", re.MULTILINE)
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_MDNS_CANDIDATE: Final = re.compile(r"a=candidate:(?:\S+ ){4}\S+\.local\.? [^\r\n]*\r?\n?", re.IGNORECASE)

# They protect or repair what another codec has made (RFC 4588, 2198, 5109, 8627), or say that nothing is said.
_AUXILIARY_CODECS: Final = frozenset({"rtx", "red", "ulpfec", "flexfec-03", "cn", "telephone-event"})


class Direction(StrEnum):
    """Who sends on a media line, from the point of view of whoever made the description (RFC 8866 section 6.7)."""

    SENDRECV = "sendrecv"
    """Both."""
    SENDONLY = "sendonly"
    """Its maker only."""
    RECVONLY = "recvonly"
    """The far side only."""
    INACTIVE = "inactive"
    """Nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A codec of a media line."""

    name: str
    """Its name as it stands there, for instance `VP8` or `H264`; codec names have no case."""
    payload_type: int
    """Its number in RTP packets."""
    fmtp: str
    """Its parameters (`a=fmtp`); empty if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLine:
    """A media line (`m=`) with what belongs to it."""

    kind: str
    """`audio`, `video` or `application` (the data channel)."""
    mid: str | None
    """Identification tag (`a=mid`)."""
    port: int
    """Port; 0 in an answer: rejected."""
    direction: Direction
    """Who sends; `sendrecv` if it does not say."""
    codecs: tuple[Codec, ...]
    """Its codecs, the preferred one first. Payload types that are not described by `a=rtpmap` are left out."""

    @property
    def sends(self) -> bool:
        """Whether the maker of the description wants to send."""
        return self.port != 0 and self.direction in {Direction.SENDRECV, Direction.SENDONLY}

    @property
    def receives(self) -> bool:
        """Whether the maker of the description wants to receive."""
        return self.port != 0 and self.direction in {Direction.SENDRECV, Direction.RECVONLY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The facts of a session description."""

    media: tuple[MediaLine, ...]
    """Its media lines in their order, up to `MAX_MEDIA_LINES`."""
    max_message_size: int | None
    """Largest data-channel message that its maker takes (RFC 8841 section 6), bytes; 0: any; None: it does not say."""
    has_fingerprint: bool
    """Whether it names a DTLS certificate (RFC 8122), without which nothing can be encrypted."""
    has_ice_credentials: bool
    """Whether it has user name fragment and password for ICE (RFC 8839)."""
    made_by_aiortc: bool = False
    """Whether its origin is written as aiortc does it, in all versions: one number for session and version, and no
    address. Browsers write one of this machine or their name; Pion and GStreamer two numbers."""

    def first(self, kind: str) -> MediaLine | None:
        """The first media line of a kind that is not rejected."""
        return next((line for line in self.media if line.kind == kind and line.port), None)

    def first_codec(self, kind: str) -> Codec | None:
        """The codec that is sent if this is an answer: the preferred one of the first line of a kind in use.

        Args:
            kind: `audio` or `video`.
        """
        for line in self.media:
            if line.kind == kind and line.port:
                for codec in line.codecs:
                    if codec.name.lower() not in _AUXILIARY_CODECS:
                        return codec
        return None


def parse_description(sdp: str) -> Description:
    """Read the facts out of a session description.

    Args:
        sdp: Any text; lines end with CRLF or LF. What cannot be read is left out.
    """
    session, *sections = _split(sdp)
    inherited = _attributes(session)
    media = [_attributes(section) for section in sections]
    levels = [inherited, *media]
    return Description(
        media=tuple(
            _read_media_line(section, attributes, inherited)
            for section, attributes in zip(sections[:MAX_MEDIA_LINES], media, strict=False)
        ),
        max_message_size=next((size for level in media if (size := _read_message_size(level)) is not None), None),
        has_fingerprint=any("fingerprint" in level for level in levels),
        has_ice_credentials=any("ice-ufrag" in level and "ice-pwd" in level for level in levels),
        made_by_aiortc=_AIORTC_ORIGIN.search(session) is not None,
    )


def without_mdns(sdp: str) -> str:
    """Leave out candidates with `.local` names.

    To resolve one takes a second if nobody answers, during which an engine does nothing else, and a multicast that
    local networks often swallow. The connection comes up without: the checks of who hides behind such a name reach us.
    """
    return _MDNS_CANDIDATE.sub("", sdp)


def offer_problem(sdp: str) -> str | None:
    """Say why a text cannot be the offer of a hyperpeer session.

    Returns:
        The reason, quoting nothing; None for a plausible offer.
    """
    return _problem(sdp) or (None if "\nm=application " in sdp else "it has no data channel")


def answer_problem(offer_sdp: str, answer_sdp: str) -> str | None:
    """Say why a text cannot be the answer to an offer: it has the same media lines in the same order (RFC 3264).

    Args:
        offer_sdp: Our offer.
        answer_sdp: What came for an answer.

    Returns:
        The reason, quoting nothing; None for a plausible answer.
    """
    if problem := _problem(answer_sdp):
        return problem
    offered, answered = _outlines(offer_sdp), _outlines(answer_sdp)
    if [line.kind for line in offered] != [line.kind for line in answered]:
        return "its media lines are not those of the offer"
    # Tags are optional in SDP; where both sides give one, it has to be the same (RFC 5888 section 9.1).
    if any(ours.mid != theirs.mid for ours, theirs in zip(offered, answered, strict=True) if ours.mid and theirs.mid):
        return "its media lines are tagged otherwise than in the offer"
    if all(line.port == "0" for line in answered if line.kind == "application"):
        return "it rejects the data channel"
    return None


def _problem(sdp: str) -> str | None:
    """What is wrong with any description; runs for each one that arrives and so only searches."""
    if len(sdp) > MAX_DESCRIPTION_SIZE:
        return f"it is longer than {MAX_DESCRIPTION_SIZE} characters"
    if not sdp.startswith("v="):
        return "it is no session description"
    if sdp.count("\nm=") > MAX_MEDIA_LINES:
        return f"it has more than {MAX_MEDIA_LINES} media lines"
    if "\na=fingerprint:" not in sdp:
        return "it has no certificate fingerprint"
    return None


class _Outline(NamedTuple):
    """As much of a media line as an answer repeats."""

    kind: str
    port: str
    mid: str


def _outlines(sdp: str) -> list[_Outline]:
    outlines: list[_Outline] = []
    for section in _split(sdp)[1:]:
        kind, port, *_ = _words(section)
        mid = section.partition("\na=mid:")[2].partition("\n")[0]
        outlines.append(_Outline(kind, port, mid.strip()))
    return outlines


def _split(sdp: str) -> list[str]:
    """Split into the session's part and one for each media line, which begins after its `m=`."""
    return sdp.split("\nm=")


def _words(section: str) -> list[str]:
    """What stands on the media line: kind, port, protocol, formats. The first two are there even if empty."""
    return [*section.partition("\n")[0].split(), "", ""]


def _attributes(section: str) -> dict[str, list[str]]:
    """All attributes of a section: the values of each name, in their order."""
    attributes: dict[str, list[str]] = {}
    for line in section.split("\n"):
        if line.startswith("a="):
            name, _, value = line[2:].strip().partition(":")
            attributes.setdefault(name, []).append(value)
    return attributes


def _read_media_line(section: str, attributes: dict[str, list[str]], inherited: dict[str, list[str]]) -> MediaLine:
    kind, port, *rest = _words(section)
    direction = next(
        (direction for level in (attributes, inherited) for direction in Direction if direction in level),
        Direction.SENDRECV,
    )
    return MediaLine(
        kind=kind,
        mid=attributes.get("mid", [None])[0],
        port=int(number[0]) if (number := _NUMBER.match(port)) else 0,
        direction=direction,
        codecs=_read_codecs(rest, attributes),
    )


def _read_codecs(payload_types: list[str], attributes: dict[str, list[str]]) -> tuple[Codec, ...]:
    names = {match[1]: match[2] for value in attributes.get("rtpmap", ()) if (match := _CODEC.match(value))}
    fmtp = (value.partition(" ") for value in attributes.get("fmtp", ()))
    parameters = {number: text for number, _, text in fmtp}
    return tuple(
        Codec(name=names[number], payload_type=int(number), fmtp=parameters.get(number, ""))
        for number in payload_types
        if number in names
    )


def _read_message_size(attributes: dict[str, list[str]]) -> int | None:
    values = attributes.get("max-message-size", ())
    return next((int(value) for value in values if _NUMBER.fullmatch(value)), None)
