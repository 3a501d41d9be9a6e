"""What PyAV's errors mean to who gave the source: a sentence and a remedy, without the secrets in the URL."""

from __future__ import annotations

import errno
import os
import socket
from urllib.parse import urlsplit

import av.error

from deepio_adapters.source_urls import SourceError, SourceKind, SourceUrl

__all__ = ["open_fault", "read_fault"]

_MORE_TIME = "Check the address and that the source is running, or allow more time with timeout=(open, read)."
_CREDENTIALS = "Put them in the URL, percent-encoded: rtsp://user:password@host/path."

# By the kind of source, for errors whose meaning depends on it.
_NETWORK = {SourceKind.HTTP, SourceKind.RTSP}

# The most special class first. {0} is the name of the source.
_SENTENCES: list[tuple[type[Exception], str, str]] = [
    (av.error.HTTPUnauthorizedError, "{0} asks for another user name and password (401).", _CREDENTIALS),
    (av.error.HTTPForbiddenError, "The server forbids access to {0} (403).", "Ask its owner for access."),
    (av.error.HTTPNotFoundError, "The server has nothing at {0} (404).", "Check the path of the URL."),
    (av.error.HTTPBadRequestError, "The server does not understand the request for {0} (400).", "Check the URL."),
    (av.error.HTTPTooManyRequestsError, "{0} gets too many requests (429).", "Try again later."),
    (av.error.HTTPClientError, "The server refuses {0} (4xx).", "Check the URL; for RTSP also option rtsp_transport."),
    (av.error.HTTPServerError, "The server of {0} failed (5xx).", "Look into its log, or try again later."),
    (av.error.ConnectionRefusedError, "Nothing answers at {0}: connection refused.", "Check host and port."),
    (av.error.ConnectionResetError, "The server of {0} broke the connection off.", "Check port and protocol."),
    (av.error.EOFError, "The server of {0} closed without an answer.", "Check port and protocol."),
    (av.error.IsADirectoryError, "{0} is a directory.", "Name the file in it."),
    (av.error.DecoderNotFoundError, "{0} is in a codec that this FFmpeg does not decode.", "Convert it first."),
    (av.error.ProtocolNotFoundError, "This FFmpeg does not speak the protocol of {0}.", "Use another one."),
    (av.error.ArgumentError, "FFmpeg refuses {0}, or what it refers to: invalid argument.", "Check the options."),
]

_SENTENCES_OF_KIND: dict[tuple[SourceKind, type[Exception]], tuple[str, str]] = {
    (SourceKind.FILE, av.error.FileNotFoundError): ("There is no file {0}.", "Check the path."),
    (SourceKind.FILE, av.error.PermissionError): ("This user may not read {0}.", "Change its permissions."),
    (SourceKind.FILE, av.error.InvalidDataError): ("{0} is not a media file, or is damaged.", "Try to play it."),
    (SourceKind.HTTP, av.error.InvalidDataError): ("{0} delivers no video that FFmpeg knows.", "Check the URL."),
    (SourceKind.RTSP, av.error.InvalidDataError): (
        "What answers at {0} does not speak RTSP, or broke off.",
        "Check the port; cameras mostly use 554.",
    ),
    (SourceKind.DEVICE, av.error.FileNotFoundError): ("There is no device {0}.", "Is the camera plugged in?"),
    (SourceKind.DEVICE, av.error.PermissionError): (
        "This user may not use {0}.",
        "On Linux, add the user to the group video.",
    ),
}

_NOT_A_CAMERA = ("{0} is not a camera that FFmpeg can use.", "Check the device and its format.")
_DEVICE_ERRNO = {
    errno.ENOTTY: _NOT_A_CAMERA,
    errno.ENODEV: _NOT_A_CAMERA,
    errno.EBUSY: ("{0} is in use by another program.", "Close that one."),
}


def open_fault(url: SourceUrl, fault: Exception, *, waited: float, limit: float) -> SourceError:
    """Says why `url` cannot be opened. May look the host's name up: call it in the source's thread.

    Args:
        url: What was opened.
        fault: What PyAV raised.
        waited: Seconds until then.
        limit: Seconds after which the opening is broken off.
    """
    if _is_timeout(fault, waited, limit):
        return SourceError(f"{url.name} did not answer within {limit:g} s.", remedy=_MORE_TIME)
    if not isinstance(fault, av.error.FFmpegError):
        return SourceError(f"There is no input format {url.format!r}.", remedy="Leave format out to detect it.")
    sentence, remedy = _explain(url, fault)
    return SourceError(sentence.format(url.name), remedy=remedy)


def read_fault(url: SourceUrl, fault: Exception, *, waited: float, limit: float) -> SourceError:
    """Says why reading from `url` ended; arguments as in `open_fault`, for the one read that failed."""
    if _is_timeout(fault, waited, limit):
        return SourceError(f"{url.name} delivered nothing for {limit:g} s.", remedy=_MORE_TIME)
    return SourceError(f"{url.name} broke off: {_strerror(fault)}.", remedy="Check the source and the network.")


def _is_timeout(fault: Exception, waited: float, limit: float) -> bool:
    # FFmpeg disguises a read that was broken off as all kinds of errors; and where it tolerated one while it opened, it
    # gives it out later, as soon as what it has read until then is used up.
    return waited >= limit or isinstance(fault, av.error.ExitError)


def _explain(url: SourceUrl, fault: av.error.FFmpegError) -> tuple[str, str]:
    for (kind, error), sentence in _SENTENCES_OF_KIND.items():
        if kind is url.kind and isinstance(fault, error):
            if error is av.error.InvalidDataError and _is_empty_file(url):
                return "{0} is empty.", "Was the recording ended cleanly?"
            return sentence
    for error, text, remedy in _SENTENCES:
        if isinstance(fault, error):
            return text, remedy
    if url.kind is SourceKind.DEVICE and fault.errno in _DEVICE_ERRNO:
        return _DEVICE_ERRNO[fault.errno]
    if url.kind in _NETWORK and fault.errno == errno.EIO:
        return _network_fault(url)
    return "{0} cannot be opened: " + _strerror(fault) + ".", ""


def _is_empty_file(url: SourceUrl) -> bool:
    try:
        return url.kind is SourceKind.FILE and os.path.getsize(url.target.removeprefix("file:")) == 0
    except OSError:
        return False


def _network_fault(url: SourceUrl) -> tuple[str, str]:
    # FFmpeg says "input/output error" for unknown hosts and for failed TLS handshakes alike.
    parts = urlsplit(url.target)
    try:
        socket.getaddrinfo(parts.hostname, None)
    except OSError:
        return "The host of {0} is not known.", "Check its name, or use its address."
    if parts.scheme in {"https", "rtsps"}:
        return "No secure connection with the host of {0}.", "Check that it speaks TLS at this port."
    return "The connection with the host of {0} failed.", "Check the network."


def _strerror(fault: Exception) -> str:
    # Never str(fault): that holds the whole URL.
    text = fault.strerror if isinstance(fault, av.error.FFmpegError) else type(fault).__name__
    return text or type(fault).__name__
