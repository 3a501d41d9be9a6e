"""Source addresses: the kind of each, the protocols FFmpeg may use for it, and how it is shown without secrets."""

from __future__ import annotations

import re
from dataclasses import field
from enum import Enum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deepio_core.errors import DeepIOError
from deepio_core.records import dataclass

__all__ = ["SourceError", "SourceKind", "SourceUrl", "redact"]

# Two letters at least: `C:\clip.mp4` is a path.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_USERINFO = re.compile(r"(?<=//)[^/?#]*@")
# Every value, whatever its key: which keys hold secrets differs from camera to camera.
_QUERY_VALUE = re.compile(r"([?&;][^=&;#]*=)[^&;#]*")


class SourceError(DeepIOError):
    """A source cannot be opened, or broke off; the message names it without secrets."""


class SourceKind(Enum):
    """What FFmpeg is asked to open."""

    FILE = "file"
    HTTP = "http"
    RTSP = "rtsp"
    DEVICE = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class _KindFacts:
    protocols: str
    options: dict[str, str] = field(default_factory=dict[str, str])
    read_timeout: float = 15.0


# What FFmpeg may reach from a source of each kind. Playlists name further resources, so this is what keeps a
# local playlist off the network and a remote one off the disk. `crypto` decrypts HLS segments, `data` is
# inline, `httpproxy` obeys http_proxy. Read timeouts: an IP camera that is silent for 5 s is lost; HLS rests
# for a whole segment, up to 10 s.
_FACTS = {
    SourceKind.FILE: _KindFacts(protocols="file,crypto,data"),
    SourceKind.HTTP: _KindFacts(protocols="http,https,httpproxy,tcp,tls,crypto,data"),
    SourceKind.RTSP: _KindFacts(
        protocols="rtsp,rtsps,rtp,srtp,udp,tcp,tls",
        options={
            "rtsp_transport": "tcp",  # over UDP the bursts of large keyframes lose packets
            "fpsprobesize": "0",  # opening takes 0.6 s instead of 1.4 s: the rate need not be measured for so long
        },
        read_timeout=5.0,
    ),
    SourceKind.DEVICE: _KindFacts(protocols="file", read_timeout=5.0),
}
_OPEN_TIMEOUT = 10.0  # seconds; a camera that wakes up takes a few

_KIND_OF_SCHEME = {
    "http": SourceKind.HTTP,
    "https": SourceKind.HTTP,
    "rtsp": SourceKind.RTSP,
    "rtsps": SourceKind.RTSP,
    "file": SourceKind.FILE,
}

# FFmpeg's capture devices (libavdevice), by the names that its -f option takes.
_DEVICE_FORMATS = frozenset(
    {
        "v4l2",
        "video4linux2",
        "avfoundation",
        "dshow",
        "vfwcap",
        "gdigrab",
        "x11grab",
        "fbdev",
        "kmsgrab",
        "decklink",
        "lavfi",
    }
)


def redact(source: str) -> str:
    """Returns `source` with user, password and the values of the query replaced by `***`."""
    if "://" not in source:
        return source
    return _QUERY_VALUE.sub(r"\1***", _USERINFO.sub("***@", source))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUrl:
    """A source that FFmpeg opens."""

    kind: SourceKind
    """What it is."""
    target: str = field(repr=False)
    """What FFmpeg is given: a URL with its secrets, `file:` and a path, or a device name."""
    name: str
    """What people are shown."""
    format: str | None = None
    """FFmpeg's input format, when the user named one or the kind needs one."""

    @classmethod
    def parse(cls, source: str | Path, format: str | None = None) -> SourceUrl:  # noqa: A002 - the documented name
        """Tells the kind of a source by its looks alone.

        Raises:
            SourceError: It is empty, or names a protocol that is not allowed.
        """
        text = str(source)
        if not text.strip() or "\0" in text:
            raise SourceError("The source is empty.", remedy="Give a path, a URL, a camera device or test:")
        if format in _DEVICE_FORMATS:
            return cls(kind=SourceKind.DEVICE, target=text, name=redact(text), format=format)
        scheme = None if isinstance(source, Path) else _SCHEME.match(text)
        if scheme is None:
            if text.startswith("/dev/video") and format is None:
                return cls(kind=SourceKind.DEVICE, target=text, name=text, format="v4l2")
            # With `file:` in front FFmpeg does not look for protocols in the path itself.
            return cls(kind=SourceKind.FILE, target=f"file:{text}", name=text, format=format)
        return cls._of_scheme(scheme[1].lower(), text, format)

    @classmethod
    def _of_scheme(cls, scheme: str, text: str, format: str | None) -> SourceUrl:  # noqa: A002
        kind = _KIND_OF_SCHEME.get(scheme)
        if kind is None:
            raise SourceError(
                f"The protocol {scheme}: is not allowed as a source.",
                remedy=f"Use one of {', '.join(_KIND_OF_SCHEME)}, test:, or a path (with a colon in it: ./path).",
            )
        if kind is SourceKind.FILE:
            rest = text[len("file:") :]
            path = unquote(urlsplit(text).path) if rest.startswith("//") else rest
            if not path:
                raise SourceError(
                    f"{redact(text)} names no file.", remedy="Write file:///path/to/file or the plain path."
                )
            return cls(kind=kind, target=f"file:{path}", name=path, format=format)
        try:
            host = urlsplit(text).hostname
        except ValueError:
            host = None
        if not host:
            raise SourceError(f"{redact(text)} names no host.", remedy=f"Write {scheme}://host/path.")
        return cls(kind=kind, target=text, name=redact(text), format=format)

    @property
    def default_options(self) -> dict[str, str]:
        """FFmpeg's options for this kind of source, among them the protocols it may use."""
        facts = _FACTS[self.kind]
        return {"protocol_whitelist": facts.protocols, **facts.options}

    @property
    def options_without_audio(self) -> dict[str, str]:
        """FFmpeg's options that keep sound from being sent to nobody."""
        return {"allowed_media_types": "video"} if self.kind is SourceKind.RTSP else {}

    @property
    def default_timeout(self) -> tuple[float, float]:
        """Seconds to wait for the opening, and for more data."""
        return _OPEN_TIMEOUT, _FACTS[self.kind].read_timeout
