"""Why a WebSocket connection did not open: from what websockets and TLS raise to a cause, a sentence and a remedy."""

from __future__ import annotations

import os
import socket
import ssl
import urllib.parse
from typing import TYPE_CHECKING, Final

from websockets.exceptions import (
    ConnectionClosed,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)

from deepio_adapters.link import LinkError
from deepio_adapters.tls import (
    DEEP_DEFAULT_FINGERPRINT,
    ENV_CA,
    ENV_FINGERPRINT,
    PinMismatchError,
    certificate_fingerprint,
)
from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from websockets.http11 import Response

    from deepio_core.address import SignalingAddress

CHECK_ADDRESS: Final = "Check the address and the port of the server."
"""The remedy where nothing better is known."""

_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
"""What OpenSSL calls bytes that are no TLS (`ssl.SSLError.reason`)."""


def wants_probe(exc: BaseException, address: SignalingAddress) -> bool:
    """Whether a look at the server's certificate would explain the failure better."""
    if address.secure:
        return isinstance(exc, ssl.SSLCertVerificationError) and not isinstance(exc, PinMismatchError)
    # A TLS server drops a plain request, answers it with a TLS alert, or with status 400.
    if isinstance(exc, InvalidStatus):
        return exc.response.status_code == 400
    return isinstance(exc, InvalidMessage | ConnectionClosed)


def explain(
    exc: BaseException, *, address: SignalingAddress, proxy: str | None, certificate: bytes | None
) -> LinkError:
    """The error that tells why a connection did not open, without secrets.

    Args:
        exc: What was raised.
        address: Where to.
        proxy: URL of the proxy on the way, if any.
        certificate: What a probe saw, DER; see `wants_probe`.
    """
    if proxy is not None:
        failure = _proxy_failure(exc, proxy=_redacted_proxy(proxy), certificate=certificate)
        if failure is not None:
            return failure
    if isinstance(exc, ssl.SSLError):
        return _tls_failure(exc, address=address, certificate=certificate)
    if isinstance(exc, OSError | UnicodeError):
        return _network_failure(exc, address=address)
    if certificate is not None:
        return LinkError(
            f"{address.redacted} speaks TLS.", cause=Cause.NOT_SIGNALING, remedy="Use wss:// instead of ws://."
        )
    if isinstance(exc, InvalidStatus):
        return _status_failure(exc.response, address=address)
    if isinstance(exc, ConnectionClosed) or isinstance(exc.__cause__, EOFError):
        return LinkError(
            f"{address.redacted} closed the connection without an answer.",
            cause=Cause.UNREACHABLE,
            remedy=f"The server may be starting, or end at once. {CHECK_ADDRESS}",
        )
    return LinkError(
        f"{address.redacted} answers, but it is no WebSocket server.",
        cause=Cause.NOT_SIGNALING,
        remedy=CHECK_ADDRESS,
    )


def _redacted_proxy(proxy: str) -> str:
    # Without user name and password, and also without what urlsplit cannot make sense of.
    parts = urllib.parse.urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _proxy_failure(exc: BaseException, *, proxy: str, certificate: bytes | None) -> LinkError | None:
    remedy = "Check the proxy setting (proxy=..., or HTTPS_PROXY and NO_PROXY); proxy=None uses none."
    cause = Cause.UNREACHABLE
    if isinstance(exc, InvalidProxy):
        problem = f"cannot be used: {exc.msg}"
    elif isinstance(exc, ImportError):
        problem = "needs a library that is not installed"
        remedy = f"Install python-socks. {remedy}"
    elif isinstance(exc, InvalidProxyStatus):
        problem = f"refused the connection (HTTP {exc.response.status_code})"
        if exc.response.status_code == 407:
            remedy = "Give its user name and password in its URL: http://user:password@host:port."
    elif isinstance(exc, ProxyError):
        problem = "answers, but not as a proxy does"
    elif isinstance(exc, socket.gaierror | UnicodeError):
        problem, cause = "has an unknown host name", Cause.UNKNOWN_HOST
    elif isinstance(exc, ssl.SSLCertVerificationError) and certificate is None:
        # The server's own would have been seen.
        problem, cause = f"has a certificate that is not trusted: {_verification(exc)}", Cause.CERTIFICATE_REFUSED
    elif isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) and not _timed_out(exc):
        problem = f"cannot be reached: {_reason(exc)}"
    else:
        return None
    return LinkError(f"The proxy {proxy} {problem}.", cause=cause, remedy=remedy)


def _tls_failure(exc: ssl.SSLError, *, address: SignalingAddress, certificate: bytes | None) -> LinkError:
    if isinstance(exc, PinMismatchError):
        return LinkError(
            f"The certificate of {address.redacted} has the SHA-256 fingerprint {exc.seen},"
            f" but {exc.pinned} is pinned.{_default_certificate(exc.seen)}",
            cause=Cause.CERTIFICATE_REFUSED,
            remedy="The server has a new certificate, or somebody is in between. Compare with the server's own"
            f" certificate; if it is this one, {_pin(exc.seen)}.",
            fingerprint=exc.seen,
        )
    if isinstance(exc, ssl.SSLCertVerificationError):
        seen = None if certificate is None else certificate_fingerprint(certificate)
        known = "" if seen is None else f" Its SHA-256 fingerprint is {seen}.{_default_certificate(seen)}"
        pin = "" if seen is None else f"If that is your server's own, {_pin(seen)}. "
        return LinkError(
            f"The certificate of {address.redacted} is not trusted: {_verification(exc)}.{known}",
            cause=Cause.CERTIFICATE_REFUSED,
            remedy=f'{pin}To trust an authority, give tls_ca="ca.pem" or set {ENV_CA}=ca.pem.',
            fingerprint=seen,
        )
    if exc.reason in _NOT_TLS:
        return LinkError(
            f"{address.redacted} answers without TLS.",
            cause=Cause.NOT_SIGNALING,
            remedy="Use ws:// instead of wss://, or the server's port for TLS.",
        )
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _closed_in_handshake(address)
    return LinkError(
        f"The TLS handshake with {address.redacted} failed: {exc.reason or exc.strerror}.",
        cause=Cause.NOT_SIGNALING,
        remedy="Server and client have no TLS version or cipher in common, or the server wants a client certificate"
        " (ssl_context).",
    )


def _closed_in_handshake(address: SignalingAddress) -> LinkError:
    return LinkError(
        f"{address.redacted} closed the connection during the TLS handshake.",
        cause=Cause.UNREACHABLE,
        remedy="If the server has no TLS, use ws://. It may also be starting, or end at once.",
    )


def _network_failure(exc: OSError | UnicodeError, *, address: SignalingAddress) -> LinkError:
    if isinstance(exc, socket.gaierror | UnicodeError):
        why = f": {exc.strerror}" if isinstance(exc, OSError) else ""
        return LinkError(
            f"The host name {address.host} of {address.redacted} cannot be resolved{why}.",
            cause=Cause.UNKNOWN_HOST,
            remedy="Check the address of the server, and this machine's network and DNS.",
        )
    if _timed_out(exc):
        return LinkError(
            f"{address.redacted} did not answer in time.",
            cause=Cause.UNREACHABLE,
            remedy=f"{CHECK_ADDRESS} A firewall on the way may drop what is sent.",
        )
    if address.secure and isinstance(exc, ConnectionResetError | BrokenPipeError):
        return _closed_in_handshake(address)
    return LinkError(
        f"{address.redacted} cannot be reached: {_reason(exc)}.",
        cause=Cause.UNREACHABLE,
        remedy=f"Is the server running? {CHECK_ADDRESS}",
    )


def _status_failure(response: Response, *, address: SignalingAddress) -> LinkError:
    status = response.status_code
    if status in {401, 403}:
        given = address.key is not None
        return LinkError(
            f"{address.redacted} {'refused the key' if given else 'wants a key'} (HTTP {status}).",
            cause=Cause.KEY_REFUSED,
            remedy="Give the key that the server expects for this type and id (key=...).",
        )
    if status == 400:
        return LinkError(
            f"{address.redacted} refused the peer type or id (HTTP 400).",
            cause=Cause.ADDRESS_REFUSED,
            remedy="Choose another peer type and id.",
        )
    if status == 409:
        return LinkError(
            f"{address.redacted} has a peer with this id already (HTTP 409).",
            cause=Cause.ID_IN_USE,
            remedy="Choose another peer id, or wait until the server notices that the old connection is dead.",
        )
    if status in {429, 503}:
        return LinkError(
            f"{address.redacted} takes no more peers now (HTTP {status}).",
            cause=Cause.SERVER_FULL,
            remedy="Try again later.",
        )
    if status in {502, 504}:
        return LinkError(
            f"The proxy in front of {address.redacted} does not reach the server (HTTP {status}).",
            cause=Cause.UNREACHABLE,
            remedy="Is the server behind it running?",
        )
    target = _redirection(response)
    return LinkError(
        f"{address.redacted} is no hyperpeer server (HTTP {status}{target and f', it redirects to {target}'}).",
        cause=Cause.NOT_SIGNALING,
        remedy=f"Use {target} as the address of the server." if target else CHECK_ADDRESS,
    )


def _redirection(response: Response) -> str:
    """Scheme, host and port of a redirection; its path repeats ours, with the key."""
    if not 300 <= response.status_code < 400:
        return ""
    target = urllib.parse.urlsplit(response.headers.get("Location", ""))
    return f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else ""


def _pin(fingerprint: str) -> str:
    return f'trust it with tls_fingerprint="{fingerprint}" or by setting {ENV_FINGERPRINT}={fingerprint}'


def _default_certificate(fingerprint: str) -> str:
    if fingerprint != DEEP_DEFAULT_FINGERPRINT:
        return ""
    return (
        " That is the default certificate of the DEEP Framework, whose key is public: anyone can pass for that server."
    )


def _verification(exc: ssl.SSLCertVerificationError) -> str:
    return exc.verify_message.rstrip(".")


def _timed_out(exc: BaseException) -> bool:
    return isinstance(exc, TimeoutError)


def _reason(exc: OSError) -> str:
    """The operating system's words, of the first address of the host if all have failed."""
    # trio tells of all addresses in a group, asyncio in a text.
    causes: tuple[BaseException, ...] = getattr(exc.__cause__, "exceptions", ())
    error = next((cause for cause in causes if isinstance(cause, OSError)), exc)
    return str(exc) if error.errno is None else os.strerror(error.errno).lower()
