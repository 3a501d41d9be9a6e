"""Named deadlines: which comes first, and what is left when it has passed."""

from hypothesis import given
from hypothesis import strategies as st

from deepio_core.timers import Timer, Timers


def test_new_timers_do_not_run() -> None:
    timers = Timers()
    assert timers.next() is None
    assert timers.pop_expired(1e9) is None
    assert not any(timers.runs(timer) for timer in Timer)


def test_the_first_is_told() -> None:
    timers = Timers()
    timers.set(Timer.LEAVE, 5.0)
    timers.set(Timer.LIST, 2.0)
    timers.set(Timer.POLL, 9.0)
    assert timers.next() == (Timer.LIST, 2.0)
    assert timers.runs(Timer.POLL)


def test_a_timer_has_one_deadline() -> None:
    timers = Timers()
    timers.set(Timer.SILENCE, 1.0)
    timers.set(Timer.SILENCE, 6.0)
    assert timers.pop_expired(5.9) is None
    assert timers.pop_expired(6.0) is Timer.SILENCE
    assert timers.next() is None


def test_stopping() -> None:
    timers = Timers()
    timers.stop(Timer.OPEN)
    timers.set(Timer.OPEN, 1.0)
    timers.set(Timer.LIST, 2.0)
    timers.stop(Timer.OPEN)
    assert timers.next() == (Timer.LIST, 2.0)
    timers.clear()
    assert timers.next() is None


@given(st.dictionaries(st.sampled_from(Timer), st.floats(0, 100)), st.floats(0, 100))
def test_what_has_passed_comes_out_in_its_order(deadlines: dict[Timer, float], now: float) -> None:
    timers = Timers()
    for timer, at in deadlines.items():
        timers.set(timer, at)
    passed: list[float] = []
    while (expired := timers.pop_expired(now)) is not None:
        passed.append(deadlines.pop(expired))
    assert passed == sorted(passed)
    assert all(at <= now for at in passed)
    assert all(at > now for at in deadlines.values())
    assert all(timers.runs(timer) is (timer in deadlines) for timer in Timer)
