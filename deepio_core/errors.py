"""Errors that deep-io raises: each names the cause and, where there is one, the remedy."""

from __future__ import annotations


class DeepIOError(Exception):
    """Base of every error of deep-io.

    Args:
        message: What went wrong, as a sentence without secrets.
        remedy: What the reader can do about it, as a sentence; empty if nothing is known.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message = message
        """What went wrong."""
        self.remedy = remedy
        """What can be done about it; may be empty."""
        # Only what stands by position: copying and pickling call the class with it, and restore the attributes.
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message


class LocalProtocolError(DeepIOError):
    """The application asked for something that is not possible now; nothing has changed."""


class RemoteProtocolError(DeepIOError):
    """The far side sent something that cannot be understood."""


class AddressError(LocalProtocolError, ValueError):
    """A server address, peer type, peer id or key that no signaling URL can carry."""
