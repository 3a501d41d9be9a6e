"""When a source that was lost is opened again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from deepio_adapters.reconnecting import Reconnector, ReconnectPolicy
from deepio_adapters.source_urls import SourceError
from deepio_core.errors import LocalProtocolError


class Stop(threading.Event):
    """Writes the waits down instead of waiting; is set after as many as are allowed."""

    def __init__(self, allowed: int = 1000) -> None:
        super().__init__()
        self.allowed = allowed
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        if len(self.waits) >= self.allowed:
            self.set()
        return self.is_set()


def failing(times: int) -> Callable[[], None]:
    left = iter(range(times))

    def reopen() -> None:
        if next(left, None) is not None:
            raise SourceError("Nothing answers.")

    return reopen


def test_waits_double_up_to_their_bound() -> None:
    stop = Stop()
    reconnector = Reconnector(ReconnectPolicy(first=0.5, longest=10.0), stop, draw=lambda: 1.0)
    gaps = list(reconnector.reconnect(SourceError("It broke off."), 1.0, failing(7)))
    assert stop.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert [gap.attempt for gap in gaps] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [gap.reason for gap in gaps] == ["It broke off."] + ["Nothing answers."] * 7


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_waits_are_drawn_from_the_upper_half(drawn: float, expected: float) -> None:
    stop = Stop()
    reconnector = Reconnector(ReconnectPolicy(first=1.0), stop, draw=lambda: drawn)
    assert len(list(reconnector.reconnect(SourceError("x"), 1.0, failing(0)))) == 1
    assert stop.waits == [expected]


@pytest.mark.parametrize(("lasted", "second"), [(9.9, 2.0), (10.0, 0.5)])
def test_waits_begin_anew_after_a_connection_that_lasted(lasted: float, second: float) -> None:
    stop = Stop()
    reconnector = Reconnector(ReconnectPolicy(), stop, draw=lambda: 1.0)
    list(reconnector.reconnect(SourceError("x"), 1.0, failing(1)))
    gaps = list(reconnector.reconnect(SourceError("x"), lasted, failing(0)))
    assert stop.waits == [0.5, 1.0, second]
    assert [gap.attempt for gap in gaps] == [1]


def test_the_last_failure_is_told_after_the_attempts_allowed() -> None:
    reconnector = Reconnector(ReconnectPolicy(attempts=2), Stop(), draw=lambda: 1.0)
    gaps = reconnector.reconnect(SourceError("It broke off."), 1.0, failing(9))
    assert [next(gaps).attempt, next(gaps).attempt] == [1, 2]
    with pytest.raises(SourceError, match="Nothing answers"):
        next(gaps)


def test_nothing_is_opened_once_the_source_is_closed() -> None:
    def reopen() -> None:
        raise AssertionError("it was opened")

    stop = Stop(allowed=1)
    reconnector = Reconnector(ReconnectPolicy(), stop)
    assert len(list(reconnector.reconnect(SourceError("x"), 1.0, reopen))) == 1
    assert list(reconnector.reconnect(SourceError("x"), 1.0, reopen)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"first": 0.0}, {"first": 2.0, "longest": 1.0}, {"longest": 1e9}, {"attempts": 0}, {"stable_after": -1.0}],
)
def test_policies_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        ReconnectPolicy(**wrong)  # type: ignore[arg-type]
    assert caught.value.remedy
