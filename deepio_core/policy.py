"""Whom a session connects to, and how long it waits before it tries again."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from deepio_core.address import encode_segment
from deepio_core.config import positive
from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.config import PeerConfig
    from deepio_core.jsontext import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenForCallers:
    """Wait for other peers to connect, and accept each, one at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectTo:
    """Connect to one peer, as soon as it is there and free."""

    remote_id: str
    """Id of the remote peer, as the peer list shows it or before it is percent-encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectFirst:
    """Connect to the first free peer of the wanted types."""

    peer_types: tuple[str, ...] = ("stream_manager", "deep_input")
    """The types: `stream_manager` up to DEEP 0.10, `deep_input` in the current framework."""


Policy: TypeAlias = ListenForCallers | ConnectTo | ConnectFirst


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Settings of a `Session`. All times are seconds."""

    peer: PeerConfig
    """Settings of the peer underneath."""
    policy: Policy
    """Whom to connect to."""
    greets: bool = True
    """We are a camera: after every connection we say whose video to use, and what it shows. A stream manager says
    nothing first."""
    metadata: JSON = field(default=None, repr=False)
    """Describes the video source; sent after every connection, even if None (as deep_io does). Not in the repr:
    applications put URLs with passwords here."""
    source_id: str | None = None
    """Id of the peer whose video the stream manager is to use. None: our own if we called, and no `source` message
    if we were called, as deep_io does."""
    poll_interval: float = 1.0
    """Between two looks at the peer list, and before a busy or absent peer is called again (deep_io: 1 s)."""
    backoff_first: float = 0.5
    """The first delay after a failure."""
    backoff_max: float = 30.0
    """The longest delay; each failure doubles it up to here."""
    stable_after: float = 10.0
    """A connection that lasted this long makes the next delay the first again."""

    def __post_init__(self) -> None:
        for name in ("poll_interval", "backoff_first", "backoff_max", "stable_after"):
            positive(name, getattr(self, name))
        if self.backoff_max < self.backoff_first:
            raise LocalProtocolError("backoff_max must not be below backoff_first.")
        if isinstance(self.policy, ConnectTo) and encode_segment(self.policy.remote_id) == self.peer.peer_id:
            raise LocalProtocolError("A peer cannot connect to its own id.", remedy="Give the id of another peer.")


class Backoff:
    """Delays that double with each failure, jittered so that a site's cameras do not come back as one.

    Args:
        config: The settings.
        random: Gives a number in [0, 1).
    """

    def __init__(self, config: SessionConfig, random: Callable[[], float]) -> None:
        self._config = config
        self._random = random
        self.attempt = 0
        """Failures since the last lasting success."""

    def next(self) -> float:
        """The delay after one more failure, seconds."""
        # 2.0 ** attempt overflows after a thousand failures; the limit is reached long before 64.
        longest = self._config.backoff_first * 2.0 ** min(self.attempt, 64)
        self.attempt += 1
        return self._jittered(min(longest, self._config.backoff_max))

    def pause(self) -> float:
        """The delay when nothing has failed but the remote peer is busy or absent, seconds."""
        return self._jittered(self._config.poll_interval)

    def reset(self) -> None:
        """Forget the failures."""
        self.attempt = 0

    def _jittered(self, delay: float) -> float:
        return delay * (0.5 + 0.5 * self._random())
