"""Opening a live source again that was lost: with growing delays, for as long as it takes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from deepio_adapters.media import SourceGap
from deepio_adapters.source_urls import SourceError
from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

__all__ = ["ReconnectPolicy", "Reconnector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """When a live source that was lost is opened again.

    Raises:
        LocalProtocolError: A value is out of bounds.
    """

    first: float = 0.5
    """Seconds before the first attempt at most. Each wait is drawn from the upper half of its bound, so that the
    cameras of a site do not come back as one."""
    longest: float = 10.0
    """Seconds between two attempts at most; the bound doubles with each failure until then."""
    attempts: int | None = None
    """How many attempts in a row may fail before the source is given up; None: no limit."""
    stable_after: float = 10.0
    """Seconds that a connection must have lasted for the waits to begin anew: a camera that dies of every client is
    not to be tried twice a second."""

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest <= 3600:
            raise LocalProtocolError("The waits do not fit together.", remedy="0 < first <= longest <= 3600 seconds.")
        if self.attempts is not None and self.attempts < 1:
            raise LocalProtocolError(
                f"{self.attempts} attempts are not possible.", remedy="Give 1 or more, None for no limit."
            )
        if self.stable_after < 0:
            raise LocalProtocolError("stable_after must not be below 0.", remedy="Give seconds.")


class Reconnector:
    """Opens one source again as often as it is lost.

    Args:
        policy: When.
        stop: Ends the waiting.
        draw: Gives a number in [0, 1).
    """

    def __init__(
        self, policy: ReconnectPolicy, stop: threading.Event, draw: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._stop = stop
        self._draw = draw
        self._failures = 0

    def reconnect(self, fault: SourceError, lasted: float, reopen: Callable[[], object]) -> Iterator[SourceGap]:
        """Tries until `reopen` succeeds or the source is closed, as who reads on will find; yields before each attempt.

        Args:
            fault: Why the source was lost.
            lasted: Seconds that it was there.
            reopen: Opens it; blocks. Its SourceError is a failure, but for a closed source it is passed on.

        Raises:
            SourceError: The last of the attempts that the policy allows has failed.
        """
        if lasted >= self._policy.stable_after:
            self._failures = 0
        attempt = 0
        while not self._stop.is_set():
            if attempt == self._policy.attempts:
                raise fault
            attempt += 1
            yield SourceGap(reason=fault.message, attempt=attempt)
            if self._stop.wait(self._next_wait()):
                return
            try:
                reopen()
            except SourceError as error:
                fault = error
            else:
                return

    def _next_wait(self) -> float:
        # 2.0 ** failures overflows after a thousand; the bound is reached long before 64.
        bound = min(self._policy.first * 2.0 ** min(self._failures, 64), self._policy.longest)
        self._failures += 1
        return bound * (0.5 + 0.5 * self._draw())
