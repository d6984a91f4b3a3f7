"""Which endpoint is asked: breakers, allowances, latency against the deadline, the better of two, retries by budget."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from services.common.telemetry import Metrics
from services.sync.routing.breaker import IN_A_ROW, Ticket
from services.sync.routing.chain import Tier
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.latency import Latency
from services.sync.routing.provider import Provider
from services.sync.routing.quota import Quota
from services.sync.routing.router import RetryBudget, Step, plan
from services.sync.runtimes.port import (
    Capabilities,
    Delta,
    End,
    Limit,
    Limits,
    ServerFault,
    TextDelta,
    Turn,
)
from tests.unit.sync.fake_key import Key, storm
from tests.unit.sync.fake_runtime import FakeRuntime

RNG = random.Random(7)


def endpoint(name: str, *, weight: float = 1.0, model: bool = True, **provider: float) -> Endpoint:
    runtime = FakeRuntime(name, stateful=False, remote=False)
    runtime.capabilities = Capabilities(stateful=False, remote=False, model=model)
    made = Provider(name, weight=weight, **provider)  # type: ignore[arg-type]  # only numbers here
    return Endpoint(runtime, 8, Metrics(), random.Random(3), provider=made)


def names(*tiers: Tier, tokens: float = 100.0, in_s: float = 2.0) -> list[str]:
    now = asyncio.get_running_loop().time()
    found = plan(tiers, model="", tokens=tokens, now=now, first_by=now + in_s, rng=RNG)
    return [step.endpoint.name if step.endpoint is not None else step.tier for step in found.steps]


def broken(one: Endpoint) -> None:
    now = asyncio.get_running_loop().time()
    for _ in range(IN_A_ROW):
        one._breaker.record(now, Ticket.CALL, failed=True)


async def test_tiers_first_and_who_cannot_be_asked_is_left_out() -> None:
    letta, gpt, local, offline = endpoint("letta"), endpoint("gpt"), endpoint("local"), endpoint("offline", model=False)
    chain = (Tier("letta", (letta,)), Tier("openai", (gpt, local)), Tier("markov"), Tier("offline", (offline,)))
    assert names(*chain)[0] == "letta"
    assert names(*chain)[3:] == ["markov", "offline"]
    broken(letta)
    assert set(names(*chain)[:2]) == {"gpt", "local"}
    gpt.quota().rest(30.0, asyncio.get_running_loop().time())
    assert names(*chain) == ["local", "markov", "offline"]
    await asyncio.sleep(31.0)
    assert set(names(*chain)) == {"letta", "gpt", "local", "markov", "offline"}


async def test_a_429_holds_that_key_and_that_model_only() -> None:
    one = endpoint("one")
    now = asyncio.get_running_loop().time()
    one.quota("big").rest(30.0, now)
    assert one.ready_at("big", 10, now) == now + 30.0
    assert one.ready_at("", 10, now) == now


async def test_the_one_that_is_left_is_asked_although_it_rests() -> None:
    one, two = endpoint("one"), endpoint("two")
    now = asyncio.get_running_loop().time()
    one.quota().rest(60.0, now)
    two.quota().rest(30.0, now)
    assert names(Tier("all", (one, two))) == ["two"]
    # A rest that is over in a moment is waited for, before a degraded reply.
    two.quota().held_until = now + 0.5
    assert names(Tier("all", (one, two)), Tier("canned")) == ["two", "canned"]
    two.quota().held_until = now + 1.5
    assert names(Tier("all", (one, two)), Tier("canned")) == ["canned"]


async def test_who_is_too_slow_for_the_deadline_is_asked_only_when_no_other_model_is() -> None:
    slow, quick = endpoint("slow"), endpoint("quick")
    now = asyncio.get_running_loop().time()
    for _ in range(10):
        slow.latency.observe(3.0, now)
    assert names(Tier("slow", (slow,)), Tier("quick", (quick,)), Tier("canned")) == ["quick", "canned"]
    broken(quick)
    assert names(Tier("slow", (slow,)), Tier("quick", (quick,)), Tier("canned")) == ["slow", "canned"]
    # A minute later nobody knows whether it still is.
    await asyncio.sleep(61.0)
    assert names(Tier("slow", (slow,)), Tier("quick", (quick,)))[0] == "slow"


async def test_the_better_of_two_by_latency_load_and_weight() -> None:
    heavy, light = endpoint("heavy", weight=3.0), endpoint("light")
    assert Counter(names(Tier("t", (heavy, light)))[0] for _ in range(50)) == {"heavy": 50}
    now = asyncio.get_running_loop().time()
    for _ in range(10):
        heavy.latency.observe(1.2, now)
        light.latency.observe(0.2, now)
    assert Counter(names(Tier("t", (heavy, light)))[0] for _ in range(50)) == {"light": 50}
    many = tuple(endpoint(f"e{number}") for number in range(4))
    for number, one in enumerate(many):
        for _ in range(10):
            one.latency.observe(0.1 * (number + 1), now)
    drawn = Counter(names(Tier("t", many))[0] for _ in range(2000))
    # Two are drawn of four: the best wins half of the time, the worst never.
    assert drawn["e0"] > drawn["e1"] > drawn["e2"] > drawn["e3"] == 0
    assert 0.4 < drawn["e0"] / 2000 < 0.6


def test_latency_needs_samples_and_forgets() -> None:
    latency = Latency()
    for number in range(4):
        latency.observe(0.1, float(number))
    assert latency.p95(4.0) is None
    for number in range(60):
        latency.observe(0.1 + number / 100, 5.0)
    tail = latency.p95(5.0)
    assert tail is not None
    assert 0.6 < tail < 0.7
    assert latency.p95(70.0) is None


def test_a_quota_learns_and_waits() -> None:
    quota = Quota()
    assert quota.ready_at(1e6, 5.0) == 5.0
    assert quota.take(100, 5.0) == 5.0
    quota.ended(100)
    quota.learn(Limits(Limit(60, 0, 60.0), Limit(1000, 900, 6.0)), 5.0)
    assert quota.ready_at(10, 5.0) == 6.0
    assert quota.take(10, 5.0) == 6.0
    quota.give_back(10)
    assert quota.ready_at(10, 5.0) == 6.0
    quota.rest(0.0, 5.0)
    assert quota.held_until == 6.0


async def test_retries_are_a_share_of_the_turns() -> None:
    budget, now, granted = RetryBudget(), 0.0, 0
    for _ in range(10_000):
        budget.turn()
        now += 0.01
        granted += budget.take(now)
    assert 1000 <= granted <= 1000 + 10 + 0.1 * now + 1


# -- an endpoint as it is called ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [True, False])
async def test_ten_times_the_allowance_never_calls_a_key_before_its_time(headers: bool) -> None:
    key = Key(rate=5.0, burst=10.0, headers=headers)
    answered = await storm(key, seconds=60.0, times=10.0)
    assert key.too_early == 0
    assert answered >= 0.95 * key.allowance(60.0)
    if headers:
        assert key.refused <= 3  # what was on its way before anything was learnt


async def test_late_first_words_count_as_a_failure_whoever_listens() -> None:
    one = endpoint("one")
    asked = 0

    async def slow(left: float) -> AsyncIterator[Delta]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(5.0)
        yield TextDelta("late")
        yield End("m")

    async def turn() -> None:
        now = asyncio.get_running_loop().time()
        deltas = one.stream("send", slow, timeout=20.0, first_by=now + 1.0)
        assert [type(delta) async for delta in deltas] == [TextDelta, End]

    for _ in range(IN_A_ROW):
        await turn()
    assert one.breaker() == "open"
    assert asked == IN_A_ROW
    assert one.latency.average == pytest.approx(1.0)


async def test_a_turn_that_waits_for_the_allowance_gives_it_back_when_it_leaves() -> None:
    one = endpoint("one", requests_per_minute=60)
    quota = one.quota()
    now = asyncio.get_running_loop().time()
    for _ in range(60):
        quota.take(0, now)
        quota.ended(0)

    async def turn() -> None:
        async for _ in one.stream(
            "send", lambda left: one.runtime.send("a", Turn("t", "", "", ()), left), timeout=10.0
        ):
            pass

    waiting = asyncio.ensure_future(turn())
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert quota.ready_at(0, now) == pytest.approx(now + 1.0)


async def test_what_earshot_holds_itself_is_written_however_the_model_fares() -> None:
    from services.sync.schedule.due import Lane

    one = endpoint("one")
    broken(one)

    async def step(left: float) -> str:
        return "written"

    assert await one.call("write", step, lane=Lane.LOW, timeout=1.0) == "written"

    async def fails(left: float) -> str:
        raise ServerFault("500")

    with pytest.raises(ServerFault):
        await one.call("write", fails, lane=Lane.LOW, timeout=1.0)
    assert one.breaker() == "open"


def test_a_step_of_a_voice_is_no_model() -> None:
    assert not Step("cached").model
    assert not Step("offline", endpoint("offline", model=False)).model
    assert Step("gpt", endpoint("gpt")).model
