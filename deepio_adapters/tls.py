"""How the server's TLS certificate is checked: by the system, a CA file, its SHA-256 fingerprint, or not at all.

The original deep_io checks nothing. Here the system's certificate authorities decide unless told otherwise; each
other way can also be chosen by environment variable, so that a program needs no change for it.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from functools import cache
from typing import TYPE_CHECKING, Final

from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV_CA: Final = "DEEPIO_TLS_CA"
"""Environment variable with the path of a PEM file: `TLSOptions.ca_file`."""
ENV_FINGERPRINT: Final = "DEEPIO_TLS_FINGERPRINT"
"""Environment variable with a SHA-256 fingerprint: `TLSOptions.fingerprint`."""
ENV_INSECURE: Final = "DEEPIO_TLS_INSECURE"
"""Environment variable, 1 or 0: `TLSOptions.insecure`."""
ENV_ALLOW_PLAIN: Final = "DEEPIO_ALLOW_PLAIN"
"""Environment variable, 1 or 0: allow `ws://` to other machines."""
DEEP_DEFAULT_FINGERPRINT: Final = (
    "6B:83:06:6D:05:67:EA:13:84:CF:4C:50:9F:F4:4D:8A:3B:3B:71:F9:F5:F5:63:11:DF:44:BA:68:38:2B:A1:01"
)
"""SHA-256 of the certificate that the DEEP Framework installs by default. Its private key is published with the
framework, so that anyone can pass for a server that uses it."""

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """How the server's certificate is checked; at most one field is set, none: by the system's authorities.

    Raises:
        LocalProtocolError: More than one field is set, or the fingerprint is none.
    """

    ssl_context: ssl.SSLContext | None = None
    """Used as it is: whatever it checks."""
    ca_file: str | os.PathLike[str] | None = None
    """PEM file with certificates to trust instead of the system's: authorities, or the server's own. The name in the
    certificate must still be that of the server."""
    fingerprint: str | None = None
    """SHA-256 of the server's certificate (DER): 64 hexadecimal digits, colons allowed. Nothing else is checked."""
    insecure: bool = False
    """Check nothing: anyone on the way can read and change everything. Warned of at every connection."""

    def __post_init__(self) -> None:
        ways = [
            name
            for name, given in (
                ("ssl_context", self.ssl_context is not None),
                ("tls_ca", self.ca_file is not None),
                ("tls_fingerprint", self.fingerprint is not None),
                ("tls_insecure", self.insecure),
            )
            if given
        ]
        if len(ways) > 1:
            raise LocalProtocolError(
                f"{' and '.join(ways)} are given, but a certificate is checked in one way.",
                remedy="Keep one of them.",
            )
        if self.fingerprint is not None:
            normalized_fingerprint(self.fingerprint)

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str],
        *,
        ssl_context: ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        fingerprint: str | None = None,
        insecure: bool | None = None,
    ) -> TLSOptions:
        """The options that were given or, when none was, those in DEEPIO_TLS_CA, _FINGERPRINT and _INSECURE.

        Args:
            environ: The environment, such as `os.environ`; an empty variable counts as none.
            ssl_context: See `TLSOptions`.
            ca_file: See `TLSOptions`.
            fingerprint: See `TLSOptions`.
            insecure: See `TLSOptions`; False, other than None, also overrules the environment.

        Raises:
            LocalProtocolError: As `TLSOptions`; also a variable that is neither yes nor no.
        """
        given = ssl_context is None and ca_file is None and fingerprint is None and insecure is None
        if not given:
            return cls(ssl_context=ssl_context, ca_file=ca_file, fingerprint=fingerprint, insecure=bool(insecure))
        return cls(
            ca_file=environ.get(ENV_CA) or None,
            fingerprint=environ.get(ENV_FINGERPRINT) or None,
            insecure=_flag(environ, ENV_INSECURE),
        )

    def make_context(self) -> ssl.SSLContext:
        """The client context that checks as these options say; it may be shared: do not change it.

        A pinned certificate is checked at the end of the TLS handshake, before anything is sent over it.

        Raises:
            LocalProtocolError: The CA file cannot be read, or holds no certificate.
        """
        if self.ssl_context is not None:
            return self.ssl_context
        if self.ca_file is not None:
            return _ca_context(self.ca_file)
        if self.fingerprint is not None:
            return _pinning_context(normalized_fingerprint(self.fingerprint))
        return _unverified_context() if self.insecure else _system_context()


class PinMismatchError(ssl.SSLCertVerificationError):
    """The server's certificate is not the pinned one.

    Attributes:
        seen: SHA-256 fingerprint of the server's certificate.
        pinned: SHA-256 fingerprint that was expected.
    """

    def __init__(self, seen: str, pinned: str) -> None:
        # The number is SSL_ERROR_SSL: event loops expect an OSError with number and text.
        super().__init__(1, f"the certificate is {seen}, not {pinned}")
        self.seen = seen
        self.pinned = pinned


class CertificateSeen(ssl.SSLError):
    """The handshake of a probe is complete; `certificate` is the server's, DER, unverified."""

    def __init__(self, certificate: bytes) -> None:
        super().__init__(1, "the certificate has been seen")
        self.certificate = certificate


def plain_allowed(environ: Mapping[str, str]) -> bool:
    """Whether DEEPIO_ALLOW_PLAIN allows `ws://` to other machines.

    Raises:
        LocalProtocolError: The variable is neither yes nor no.
    """
    return _flag(environ, ENV_ALLOW_PLAIN)


def normalized_fingerprint(text: str) -> str:
    """A SHA-256 fingerprint as `AA:BB:...`, from digits with or without colons, or from the output of openssl.

    Raises:
        LocalProtocolError: It is none.
    """
    # `openssl x509 -noout -fingerprint -sha256` prints "sha256 Fingerprint=AA:BB:...".
    digits = re.sub(r"[\s:]", "", text.rpartition("=")[2]).upper()
    if not re.fullmatch(r"[0-9A-F]{64}", digits):
        sha1 = " It has the length of a SHA-1 fingerprint." if len(digits) == 40 else ""
        raise LocalProtocolError(
            f"{text!r} is no SHA-256 fingerprint.{sha1}",
            remedy="Give 64 hexadecimal digits, as `openssl x509 -noout -fingerprint -sha256 -in cert.pem` prints.",
        )
    return ":".join(digits[i : i + 2] for i in range(0, 64, 2))


def certificate_fingerprint(certificate: bytes) -> str:
    """SHA-256 fingerprint of a DER certificate as `AA:BB:...`."""
    return normalized_fingerprint(hashlib.sha256(certificate).hexdigest())


def probe_context() -> ssl.SSLContext:
    """A context whose handshake always ends in `CertificateSeen`: it reads a certificate and sends nothing."""

    class Probe(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raise CertificateSeen(_certificate_of(self))

    context = _unverified_context()
    context.sslobject_class = Probe
    return context


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise LocalProtocolError(f"{name} is {value!r}.", remedy="Set it to 1 or 0.")


@cache
def _system_context() -> ssl.SSLContext:
    # Made once: reading the system's authorities takes some 30 ms, and every reconnection would stop the loop for it.
    return ssl.create_default_context()


def _ca_context(ca_file: str | os.PathLike[str]) -> ssl.SSLContext:
    path = os.fspath(ca_file)
    try:
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        reason, remedy = "holds no certificate", "Give a file in PEM format."
    except OSError as exc:
        reason = f"cannot be read: {exc.strerror or exc}"
        remedy = f"Correct tls_ca or the environment variable {ENV_CA}."
    else:
        # A file names what is trusted, be it a root, an intermediate or the server's own certificate...
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # ...and small sites make theirs with few extensions. Python 3.13 turned strictness on by default; the same
        # file should be good for every version of Python.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context
    raise LocalProtocolError(f"The CA file {path} {reason}.", remedy=remedy)


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _pinning_context(pinned: str) -> ssl.SSLContext:
    def check(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        seen = certificate_fingerprint(_certificate_of(connection))
        if seen != pinned:
            raise PinMismatchError(seen, pinned)

    # The event loops do TLS in memory, over SSLObject; SSLSocket is guarded as well so that the context can never
    # be used unchecked.
    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            check(self)

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            check(self)

    context = _unverified_context()
    context.sslobject_class = PinnedObject
    context.sslsocket_class = PinnedSocket
    return context


def _certificate_of(connection: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    # Cipher suites without certificate are not among those of a client context.
    certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None, "a completed client handshake has a certificate"
    return certificate
