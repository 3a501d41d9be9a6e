"""Signaling addresses: `<server>/<type>/<id>[/<key>]`, all that hyperpeer exchanges when a peer connects.

hyperpeer-node takes letters, digits and `-_~%` in a segment, does not decode escapes, and dies of anything else. So
everything is checked and percent-encoded here, and the encoded id is the id: it is what the peer list shows.
"""

from __future__ import annotations

import re
from dataclasses import field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from deepio_core.errors import AddressError
from deepio_core.records import dataclass

MAX_SEGMENT: Final = 256
"""Longest type, id or key, characters after encoding. Servers take more, but names stand in peer lists and logs; a
UUID has 36, a signed token fits."""

SEGMENT_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~%")
"""All that hyperpeer-node takes in a type, an id or a key. (Its pattern takes a space too, but HTTP does not.)"""

_SEGMENT: Final = r"[A-Za-z0-9_~%-]+"
_PATH: Final = re.compile(rf"/({_SEGMENT})(?:/({_SEGMENT}))?(?:/({_SEGMENT}))?")

_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}

# RFC 1123 section 2.1, and the underscore that names of containers have.
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?"
)
_PORT: Final = re.compile(r"[0-9]{1,5}")

_KEY_IN_URL: Final = re.compile(r"""(wss?://[^/\s]*/[^/\s]+/[^/\s]+/)[^\s"'<>]+""", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SignalingAddress:
    """Where and as whom a peer connects. Made by `build_address`; its repr does not show the key."""

    scheme: str
    """`ws` or `wss`."""
    host: str
    """Name in lower case, or IP address; IPv6 without brackets."""
    port: int
    """TCP port."""
    peer_type: str
    """The peer's type, percent-encoded."""
    peer_id: str
    """The peer's id, percent-encoded: the form in which peers see it."""
    key: str | None
    """The peer's key, percent-encoded. Nobody but the server sees it."""

    @property
    def url(self) -> str:
        """The URL to connect to, with the key: not for logs."""
        return self._url if self.key is None else f"{self._url}/{self.key}"

    @property
    def redacted(self) -> str:
        """The URL with `***` for the key."""
        return self._url if self.key is None else f"{self._url}/***"

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "wss"

    @property
    def loopback(self) -> bool:
        """Whether the server is on this very machine, going by 127.0.0.0/8, ::1 or the name localhost."""
        if self.host == "localhost":
            return True
        address = _read_ip(self.host)
        return address is not None and address.is_loopback

    @property
    def _url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{self.peer_type}/{self.peer_id}"

    def __repr__(self) -> str:
        return f"SignalingAddress({self.redacted!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPath:
    """What the path of a signaling URL says, as it stands there: escapes are not decoded."""

    peer_type: str
    """The peer's type."""
    peer_id: str | None
    """The peer's id; None if the server is to choose one."""
    key: str | None = field(repr=False)
    """The peer's key. A key cannot come without an id: of two segments the second is the id."""


def encode_segment(text: str) -> str:
    """Percent-encode a type, an id or a key for a signaling URL.

    What is encoded already stays as it is, since `%` does.

    Args:
        text: Any text that is not empty.

    Returns:
        The text with every UTF-8 byte that is not in `A-Za-z0-9-_~%` as `%XX`.

    Raises:
        AddressError: The text is empty, longer than `MAX_SEGMENT` after encoding, or not Unicode.
    """
    try:
        data = text.encode()
    except UnicodeError:
        data = b""
    characters = map(chr, data[: MAX_SEGMENT + 1])
    encoded = "".join(c if c in SEGMENT_CHARACTERS else f"%{ord(c):02X}" for c in characters)
    if not 0 < len(encoded) <= MAX_SEGMENT:
        # Not quoted: it may be the key.
        raise AddressError(
            "A peer type, id or key is empty, too long, or not Unicode.",
            remedy=f"Use 1 to {MAX_SEGMENT} letters or digits; other characters count three or more.",
        )
    return encoded


def is_segment(text: str) -> bool:
    """Tell whether a text is a type, an id or a key as it stands in a signaling URL, and not longer than ours."""
    return 0 < len(text) <= MAX_SEGMENT and SEGMENT_CHARACTERS.issuperset(text)


def build_address(
    server_address: str,
    server_port: str | int | None,
    *,
    peer_type: str,
    peer_id: str,
    key: str | None = None,
    secure_default: bool = True,
) -> SignalingAddress:
    """Make the signaling address from what a person configured.

    Args:
        server_address: Host name or IP address (IPv6 with or without brackets), optionally with a port, optionally
            with `ws://`, `wss://`, `http://` (taken for `ws`) or `https://` (taken for `wss`) before it.
        server_port: The port, if not in the address; None for that of the scheme.
        peer_type: The peer's type; encoded here.
        peer_id: The peer's id; encoded here. Never left to the server, which would not tell it.
        key: The peer's key, if the server asks for one; encoded here.
        secure_default: Whether an address without a scheme means `wss` (as deep_io takes it) or `ws`.

    Raises:
        AddressError: No signaling URL can be made of it. The message quotes neither address nor key.
    """
    if "@" in server_address:
        raise AddressError(
            "The server address holds a user name, which signaling has no use for.",
            remedy="Leave out everything up to the @ and pass the peer's key as `key`.",
        )
    scheme, authority = _split_address(server_address.strip(), "wss" if secure_default else "ws")
    host, port_in_address = _split_authority(authority)
    ports = {_read_port(port) for port in (port_in_address, server_port) if port is not None}
    if len(ports) > 1:
        raise AddressError(
            "The server address names another port than the server port.",
            remedy="Give the port once.",
        )
    return SignalingAddress(
        scheme=scheme,
        host=_read_host(host),
        port=ports.pop() if ports else _DEFAULT_PORTS[scheme],
        peer_type=encode_segment(peer_type),
        peer_id=encode_segment(peer_id),
        key=None if key is None else encode_segment(key),
    )


def parse_path(path: str) -> PeerPath:
    """Read the path of a request to a signaling server, by the pattern of hyperpeer-node.

    Args:
        path: The request target; a query is ignored.

    Raises:
        AddressError: It is not `/type`, `/type/id` or `/type/id/key`. The message does not quote it.
    """
    match = _PATH.fullmatch(path.partition("?")[0])
    if match is None:
        raise AddressError(
            "The path is not /type/id or /type/id/key.",
            remedy="Percent-encode all characters but letters, digits and -_~ of each part.",
        )
    peer_type, peer_id, key = match.groups()
    return PeerPath(peer_type=peer_type, peer_id=peer_id, key=key)


def redact(text: str) -> str:
    """Take the secrets out of all URLs in a text: user and password, and the keys of signaling URLs.

    Rather too much than too little: all that stands between `://` and the last `@` of a word goes, since passwords
    hold any character.
    """
    if "://" not in text:
        return text
    return _KEY_IN_URL.sub(r"\1***", re.sub(r"\S+", _redact_user, text))


def _redact_user(match: re.Match[str]) -> str:
    word = match[0]
    start, end = word.find("://"), word.rfind("@")
    return f"{word[: start + 3]}***{word[end:]}" if -1 < start < end else word


def _split_address(address: str, default_scheme: str) -> tuple[str, str]:
    """Split into `ws` or `wss`, and host with port."""
    head, separator, rest = address.partition("://")
    scheme = _SCHEMES.get(head.lower()) if separator else default_scheme
    if scheme is None:
        raise AddressError(
            "The server address is no WebSocket address.",
            remedy="Start it with wss:// or ws://, or with the host name.",
        )
    authority, slash, path = (rest if separator else address).partition("/")
    if path or "?" in authority or "#" in authority:
        raise AddressError(
            f"The server address goes on after the host{slash and ' and the slash'}.",
            remedy="hyperpeer takes type, id and key there and nothing else: end the address with the port.",
        )
    return scheme, authority


def _split_authority(authority: str) -> tuple[str, str | None]:
    """Split into host and port; more than one colon without brackets is an IPv6 address."""
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise AddressError("The brackets in the server address hold no IPv6 address.")
        return host, rest[1:] if rest else None
    if authority.count(":") > 1:
        return authority, None
    host, colon, port = authority.partition(":")
    return host, port if colon else None


def _read_port(port: str | int) -> int:
    text = str(port).strip()
    if not _PORT.fullmatch(text) or not 0 < int(text) <= 65535:
        raise AddressError("The server port is no number from 1 to 65535.")
    return int(text)


def _read_host(host: str) -> str:
    if ":" in host or host.rpartition(".")[2].isdecimal():
        address = _read_ip(host)
        if address is None:
            raise AddressError("The IP address of the server is not valid.")
        return str(address)
    try:
        name = host.lower() if host.isascii() else host.encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if not _HOST_NAME.fullmatch(name):
        raise AddressError(
            "The server address holds no valid host name.",
            remedy="Give it as name, name:port or wss://name:port.",
        )
    return name


def _read_ip(host: str) -> IPv4Address | IPv6Address | None:
    if "%" in host:
        # A zone (RFC 4007) means something to one machine only, and no URL standard that is in force carries it.
        return None
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except ValueError:
        return None
