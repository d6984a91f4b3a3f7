"""The token bucket: what it lets through, what is taken ahead, what a provider's headers teach it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from services.sync.routing.bucket import Bucket


def test_a_bucket_without_a_limit_is_always_ready() -> None:
    bucket = Bucket()
    assert bucket.take(1e9, 5.0) == 5.0
    assert bucket.level(5.0) == math.inf


def test_it_empties_and_refills() -> None:
    bucket = Bucket(rate=2.0, burst=3.0)
    assert [bucket.take(1, 10.0) for _ in range(3)] == [10.0, 10.0, 10.0]
    assert bucket.ready_at(1, 10.0) == 10.5
    assert bucket.level(11.0) == 2.0
    assert bucket.level(100.0) == 3.0


def test_what_is_taken_ahead_has_each_its_own_time_and_can_be_given_back() -> None:
    bucket = Bucket(rate=1.0, burst=1.0)
    assert [bucket.take(1, 0.0) for _ in range(3)] == [0.0, 1.0, 2.0]
    bucket.give_back(1)
    assert bucket.ready_at(1, 0.0) == 2.0


def test_more_than_the_burst_waits_for_a_full_bucket() -> None:
    bucket = Bucket(rate=1.0, burst=10.0)
    assert bucket.ready_at(50, 0.0) == 0.0
    bucket.take(4, 0.0)
    assert bucket.ready_at(50, 0.0) == 4.0


def test_a_rate_of_zero_is_never_ready() -> None:
    bucket = Bucket(rate=0.0, burst=1.0)
    bucket.take(1, 0.0)
    assert bucket.ready_at(1, 0.0) == math.inf


def test_it_learns_from_what_the_other_side_says() -> None:
    bucket = Bucket()
    bucket.learn(limit=60, remaining=59, reset_s=1.0, now=100.0)
    assert (bucket.burst, bucket.rate, bucket.level(100.0)) == (60, 1.0, 59)
    bucket.learn(limit=60, remaining=0, reset_s=60.0, now=200.0, pending=2)
    assert bucket.ready_at(1, 200.0) == 203.0
    bucket.learn(limit=0, remaining=0, reset_s=0, now=201.0)  # says nothing
    assert bucket.burst == 60
    fresh = Bucket()
    fresh.learn(limit=120, remaining=120, reset_s=0.0, now=0.0)
    assert (fresh.rate, fresh.level(0.0)) == (2.0, 120)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 4)), max_size=40), st.floats(0.1, 10), st.floats(1, 20))
def test_never_more_than_burst_plus_rate_times_time(
    steps: list[tuple[float, float]], rate: float, burst: float
) -> None:
    bucket, now, used = Bucket(rate, burst), 0.0, 0.0
    for wait, amount in steps:
        now += wait
        if amount <= burst and bucket.ready_at(amount, now) <= now:
            bucket.take(amount, now)
            used += amount
        assert used <= burst + rate * now + 1e-6
