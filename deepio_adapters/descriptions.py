"""The facts of a session description (RFC 8866) that an engine needs before or beside its WebRTC library."""

from __future__ import annotations

import re
from typing import Final

from deepio_core.records import dataclass

__all__ = ["Description", "MediaLine", "without_mdns"]

_DIRECTIONS: Final = frozenset({"sendrecv", "sendonly", "recvonly", "inactive"})
_MDNS_CANDIDATE: Final = re.compile(r"a=candidate:(?:\S+ ){4}\S+\.local\.? [^\r\n]*\r?\n?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLine:
    """One media section."""

    kind: str
    """"video", "audio" or "application"."""
    port: int
    """0: the section is rejected (RFC 8866 section 5.14)."""
    direction: str
    """As the sender of the description sees it; "sendrecv" if it does not say."""
    codec: str | None
    """Name of the first codec, which is the one that a sender should use; None for "application"."""

    @property
    def sends(self) -> bool:
        """True if who wrote the description wants to send."""
        return self.port != 0 and self.direction in ("sendrecv", "sendonly")

    @property
    def receives(self) -> bool:
        """True if who wrote the description wants to receive."""
        return self.port != 0 and self.direction in ("sendrecv", "recvonly")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A session description, as far as we look into it."""

    media: tuple[MediaLine, ...]
    """The media sections in order."""
    has_fingerprint: bool
    """It names the certificate of its sender; without, nobody knows whom we talk to."""
    max_message_size: int | None
    """`a=max-message-size` (RFC 8841 section 6), 0 for any size; None if it does not say."""

    def first(self, kind: str) -> MediaLine | None:
        """The first media section of a kind that is not rejected."""
        return next((line for line in self.media if line.kind == kind and line.port), None)

    @classmethod
    def parse(cls, sdp: str) -> Description:
        """Reads a description; what it does not understand, it leaves out."""
        session, *sections = re.split(r"(?m)^(?=m=)", sdp)
        size = re.search(r"(?m)^a=max-message-size:(\d{1,12})\s*$", sdp)
        return cls(
            media=tuple(_media_line(section) for section in sections),
            has_fingerprint=all("\na=fingerprint:" in text for text in sections) or "\na=fingerprint:" in session,
            max_message_size=int(size[1]) if size else None,
        )


def _media_line(section: str) -> MediaLine:
    lines = section.splitlines()
    # m=video 9 UDP/TLS/RTP/SAVPF 97 98
    kind, port, _, *formats = [*lines[0].removeprefix("m=").split(), "", "", ""]
    codec = None
    if kind in ("video", "audio") and formats:
        found = re.search(rf"(?m)^a=rtpmap:{re.escape(formats[0])} ([^/\s]+)/", section)
        codec = found[1] if found else None
    direction = next((line[2:] for line in lines if line[:2] == "a=" and line[2:] in _DIRECTIONS), "sendrecv")
    return MediaLine(kind=kind, port=int(port) if port.isdecimal() else 0, direction=direction, codec=codec)


def without_mdns(sdp: str) -> str:
    """Drops candidates with `.local` names.

    To resolve one takes a second if nobody answers, during which nothing else goes on, and a multicast that local
    networks often swallow. The connection comes up without: the checks of who hides behind such a name reach us.
    """
    return _MDNS_CANDIDATE.sub("", sdp)
