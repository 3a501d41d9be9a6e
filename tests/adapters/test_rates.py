"""Rates from counters."""

import pytest

from deepio_adapters.rates import SAMPLES, RateMeter


def test_without_two_samples_there_is_no_rate():
    meter = RateMeter()
    assert meter.rate(0) == 0.0
    meter.sample(1.0, 100)
    assert meter.rate(0) == 0.0


def test_the_rate_is_the_mean_between_the_oldest_and_the_newest_sample():
    meter = RateMeter()
    meter.sample(10.0, 0, 5)
    meter.sample(11.0, 30, 5)
    assert (meter.rate(0), meter.rate(1)) == (30.0, 0.0)
    meter.sample(12.0, 40, 25)
    assert (meter.rate(0), meter.rate(1)) == (20.0, 10.0)


def test_old_samples_are_forgotten():
    meter = RateMeter()
    for second in range(SAMPLES + 3):
        meter.sample(float(second), 1000 if second < 3 else 1000 + 10 * (second - 3))
    assert meter.rate(0) == pytest.approx(10.0)


def test_two_samples_at_the_same_time_are_no_rate():
    meter = RateMeter()
    meter.sample(1.0, 0)
    meter.sample(1.0, 50)
    assert meter.rate(0) == 0.0
