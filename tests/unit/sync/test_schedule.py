"""When things are due, who is served next, and when an endpoint is left alone."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput
from services.common.telemetry import Metrics
from services.sync.agents.record import AgentRecord, Held, key_of, tag_of
from services.sync.blocks.desired import Desired
from services.sync.blocks.situation import NO_BANDS
from services.sync.context import Key, Profile
from services.sync.routing.aimd import Aimd
from services.sync.routing.breaker import OPEN_MAX_S, OPEN_MIN_S, Breaker, Ticket
from services.sync.routing.chain import Chain, names
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.gate import Gate
from services.sync.runtimes.port import Block, RateLimited, TimedOut
from services.sync.schedule.due import Dirty, Lane, due_at, merge, schedules
from services.sync.schedule.lanes import MEDIUM_PER_LOW, Lanes
from tests.unit.sync.fake_runtime import FakeRuntime

times = st.floats(0, 1000)
dirties = st.builds(
    lambda lane, first, gap, *rest: Dirty(lane, first, first + gap, *rest),
    st.sampled_from(Lane), times, st.floats(0, 100), st.booleans(), st.booleans(), st.booleans(),
    st.none() | times,
)  # fmt: skip


# -- due ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "lane", "heard", "combat", "due"),
    [
        ("lazy", Lane.HIGH, True, False, 100.0),
        ("lazy", Lane.HIGH, False, True, 100.0),
        ("lazy", Lane.MEDIUM, True, False, 400.0),
        ("lazy", Lane.MEDIUM, True, True, 400.0),
        ("lazy", Lane.MEDIUM, False, False, None),
        ("lazy", Lane.LOW, True, False, None),
        ("documented", Lane.HIGH, False, False, 100.0),
        ("documented", Lane.MEDIUM, True, False, 107.0),
        ("documented", Lane.MEDIUM, True, True, 103.0),
        ("documented", Lane.LOW, True, False, 130.0),
        ("documented", Lane.LOW, False, False, 160.0),
    ],
)
def test_the_table(schedule: str, lane: Lane, heard: bool, combat: bool, due: float | None) -> None:
    assert due_at(schedules()[schedule], Dirty(lane, 100.0, 102.0, heard, combat)) == due


@settings(max_examples=150, deadline=None)
@given(dirties, dirties, st.sampled_from(["lazy", "documented"]))
def test_news_never_postpones_what_was_due_for_longer_than_the_limit(old: Dirty, new: Dirty, name: str) -> None:
    schedule = schedules()[name]
    both = merge(old, new)
    assert both.lane == min(old.lane, new.lane)
    assert both.first_at == min(old.first_at, new.first_at)
    assert both.forced == (old.forced or new.forced)
    due = due_at(schedule, both)
    if both.forced:
        assert due == both.first_at
    elif due is not None and both.wrote_at is None:
        assert due <= both.first_at + 300


def test_a_second_alarm_waits_a_second() -> None:
    assert due_at(schedules()["lazy"], Dirty(Lane.HIGH, 100.0, 100.0, wrote_at=99.5)) == 100.5
    assert due_at(schedules()["documented"], Dirty(Lane.HIGH, 100.0, 100.0, wrote_at=99.5)) == 100.0


# -- lanes -------------------------------------------------------------------------------------------------------------


def test_high_first_and_low_not_starved() -> None:
    lanes: Lanes[str] = Lanes()
    for number in range(20):
        lanes.put(f"m{number}", Lane.MEDIUM, 0.0)
        lanes.put(f"l{number}", Lane.LOW, 0.0)
    lanes.put("h", Lane.HIGH, 0.0)
    served = [item[0] for _ in range(11) if (item := lanes.pop(1.0))]
    assert served[0] == "h"
    assert sum(name.startswith("l") for name in served) == 10 // (MEDIUM_PER_LOW + 1)
    assert lanes.pop(1.0, high_only=True) is None


def test_a_key_is_queued_once_where_it_was_put_last() -> None:
    lanes: Lanes[str] = Lanes()
    lanes.put("a", Lane.LOW, 0.0)
    lanes.put("a", Lane.HIGH, 5.0)
    assert (len(lanes), lanes.count(Lane.LOW), lanes.count(Lane.HIGH)) == (1, 0, 1)
    assert lanes.pop(1.0) is None
    assert lanes.next_due() == 5.0
    assert lanes.next_due(high_only=True) == 5.0
    assert lanes.pop(5.0) == ("a", Lane.HIGH)
    assert lanes.pop(5.0) is None
    lanes.put("b", Lane.LOW, 0.0)
    lanes.drop("b")
    assert lanes.next_due() is None


# -- breaker, limit, gate ----------------------------------------------------------------------------------------------


def test_the_breaker_opens_at_ten_calls_and_half_of_them_failed() -> None:
    breaker = Breaker()
    for number in range(9):
        breaker.record(number * 0.1, Ticket.CALL, failed=number % 4 != 3)
    assert breaker.state(1.0) == "closed"
    breaker.record(1.0, Ticket.CALL, failed=True)
    assert breaker.state(1.0) == "open"
    assert breaker.allow(1.0 + OPEN_MIN_S - 0.1) is None
    assert breaker.retry_at(1.0) == 1.0 + OPEN_MIN_S
    few = Breaker()
    for number in range(40):
        few.record(number * 0.1, Ticket.CALL, failed=number % 5 > 2)
    assert few.state(4.0) == "closed"


def test_the_breaker_opens_at_five_failures_in_a_row_however_rare_the_calls() -> None:
    breaker = Breaker()
    for number in range(4):
        breaker.record(number * 60.0, Ticket.CALL, failed=True)
    breaker.record(230.0, Ticket.CALL, failed=False)
    for number in range(4):
        breaker.record(240.0 + number * 60.0, Ticket.CALL, failed=True)
    assert breaker.state(500.0) == "closed"
    breaker.record(500.0, Ticket.CALL, failed=True)
    assert breaker.state(500.0) == "open"


def test_one_probe_at_a_time_and_two_must_pass() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.record(0.0, Ticket.CALL, failed=True)
    assert breaker.allow(6.0) is Ticket.PROBE
    assert breaker.allow(6.0) is None
    breaker.record(6.0, Ticket.CALL, failed=False)  # went out before it opened
    assert breaker.state(6.0) == "half_open"
    breaker.record(6.0, Ticket.PROBE, failed=True)
    assert breaker.retry_at(6.0) == 6.0 + 2 * OPEN_MIN_S
    breaker.healed(7.0)
    assert breaker.allow(7.0) is None  # a check that passes does not make probes that fail more frequent
    assert breaker.retry_at(7.0) == 6.0 + OPEN_MIN_S
    for _ in range(2):
        ticket = breaker.allow(11.0)
        assert ticket is Ticket.PROBE
        breaker.release(ticket)
        assert breaker.allow(11.0) is Ticket.PROBE
        breaker.record(11.0, Ticket.PROBE, failed=False)
    assert breaker.state(11.0) == "closed"
    assert breaker.allow(11.0) is Ticket.CALL


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 8), st.booleans(), st.floats(0, 1)), max_size=120))
def test_who_stays_dead_is_probed_once_in_five_seconds(steps: list[tuple[float, bool, float]]) -> None:
    """Whenever its checks pass and whenever somebody wants to call."""
    breaker, now, probes = Breaker(), 0.0, list[float]()
    for _ in range(10):
        breaker.record(0.0, Ticket.CALL, failed=True)
    for wait, well, jitter in steps:
        now += wait
        if well:
            breaker.healed(now)
        ticket = breaker.allow(now)
        if ticket is not None:
            assert ticket is Ticket.PROBE
            probes.append(now)
            breaker.record(now, ticket, failed=True, jitter=jitter)
    assert all(later - earlier >= OPEN_MIN_S - 1e-6 for earlier, later in pairwise([0.0, *probes]))


def test_the_wait_doubles_up_to_its_end() -> None:
    breaker = Breaker()
    for _ in range(10):
        breaker.record(0.0, Ticket.CALL, failed=True)
    now = 0.0
    for _ in range(8):
        now = breaker.retry_at(now)
        assert breaker.allow(now) is Ticket.PROBE
        breaker.record(now, Ticket.PROBE, failed=True, jitter=1.0)
    assert OPEN_MAX_S <= breaker.retry_at(now) - now <= 1.2 * OPEN_MAX_S


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=80), st.integers(1, 32))
def test_the_limit_stays_in_bounds(outcomes: list[bool], maximum: int) -> None:
    aimd = Aimd(maximum)
    for good in outcomes:
        aimd.succeeded() if good else aimd.slow_down()
        assert 1 <= aimd.limit <= maximum
    aimd.slow_down()
    low = aimd.limit
    for _ in range(maximum * maximum * 2):
        aimd.succeeded()
    assert aimd.limit == maximum
    assert low <= max(1, maximum // 2 + 1)


async def test_the_gate_lets_the_urgent_first_and_closes_for_rest() -> None:
    gate, order = Gate(1), []

    async def enter(name: str, lane: Lane) -> None:
        async with gate.slot(lane, 100.0):
            order.append(name)
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(enter("first", Lane.LOW))
        await asyncio.sleep(0.1)
        for name, lane in (("low", Lane.LOW), ("medium", Lane.MEDIUM), ("high", Lane.HIGH)):
            group.create_task(enter(name, lane))
    assert order == ["first", "high", "medium", "low"]
    assert gate.in_flight == 0
    start = asyncio.get_running_loop().time()
    gate.rest(5.0)
    with pytest.raises(RateLimited):
        async with gate.slot(Lane.HIGH, 1.0):
            pass
    async with gate.slot(Lane.HIGH, 10.0):
        assert asyncio.get_running_loop().time() - start == pytest.approx(5.0)
    async with gate.slot(Lane.HIGH, 1.0):
        with pytest.raises(TimedOut) as caught:
            async with gate.slot(Lane.HIGH, 1.0):
                pass
        assert not caught.value.unknown


async def test_a_waiter_that_is_cancelled_gives_its_place_back() -> None:
    gate = Gate(1)
    async with gate.slot(Lane.LOW, 1.0):
        waiting = asyncio.ensure_future(gate.slot(Lane.HIGH, 10.0).__aenter__())
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.sleep(0)
    assert gate.in_flight == 0
    async with gate.slot(Lane.LOW, 1.0):
        assert gate.in_flight == 1


# -- chain -------------------------------------------------------------------------------------------------------------


def test_which_runtimes_answer() -> None:
    gpt = ("openai:gpt",)
    assert names((), letta=False, openai=()) == ("offline",)
    assert names((), letta=True, openai=gpt) == ("letta", "openai", "cached", "markov", "offline")
    assert names((" openai:gpt ", "Offline"), letta=False, openai=gpt) == ("openai:gpt", "offline")
    # Somebody has to hold the blocks.
    assert names(("markov",), letta=False, openai=()) == ("markov", "offline")
    with pytest.raises(BadInput, match="unknown runtime"):
        names(("gpt",), letta=False, openai=gpt)
    with pytest.raises(BadInput, match="LETTA_BASE_URL"):
        names(("letta",), letta=False, openai=())
    with pytest.raises(BadInput, match="EARSHOT_PROVIDERS"):
        names(("openai",), letta=False, openai=())


def test_a_profile_chooses_among_what_is_configured() -> None:
    homes = {"one": "", "openai:a": "openai", "openai:b": "openai"}
    endpoints = {
        name: Endpoint(FakeRuntime(name), 8, Metrics(), random.Random(1), home=home) for name, home in homes.items()
    }
    chain = Chain(endpoints, ["one", "cached", "openai"])

    def chosen(*runtimes: str) -> list[tuple[str, list[str]]]:
        tiers = chain.of(Profile("x", runtimes=runtimes))
        return [(tier.name, [endpoint.name for endpoint in tier.endpoints]) for tier in tiers]

    everything = [("one", ["one"]), ("cached", []), ("openai", ["openai:a", "openai:b"])]
    assert chosen() == everything
    assert chosen("openai:b", "gone", "canned") == [("openai:b", ["openai:b"]), ("canned", [])]
    assert chosen("gone") == everything
    # Named by itself it is not in its group once more: nobody is asked twice for one turn.
    assert chosen("openai:b", "openai") == [("openai:b", ["openai:b"]), ("openai", ["openai:a"])]
    # Where the agent is kept fresh.
    assert chain.primary(Profile("x", runtimes=("cached", "openai:b"))).home == "openai"
    assert chain.primary(Profile("x", runtimes=("markov",))).name == "one"


# -- what an agent holds -----------------------------------------------------------------------------------------------


def desired(revision: int, text: str) -> Desired:
    return Desired(revision, 0, 0, (Block("situation", text, 100),), NO_BANDS)


steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "fail", "late", "observe", "equal"]), st.integers(1, 30), st.sampled_from("abc")
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_nothing_older_is_ever_sent_and_nothing_unsure_counts(history: list[tuple[str, int, str]]) -> None:
    record = AgentRecord(Key("t", "w", "n"), "fake", "a")
    sent = 0
    for kind, revision, text in history:
        wanted = desired(revision, text)
        if kind == "observe":
            record = record.observed("situation", text)
        elif kind == "equal":
            record = record.as_of(wanted)
        elif record.needs(wanted.blocks[0], revision):
            assert revision >= sent
            sent = revision
            record = record.begun("situation", revision)
            assert record.missing(wanted)
            assert record.revision(("situation",)) == 0
            if kind == "write":
                record = record.confirmed("situation", text, revision)
                assert record.missing(wanted) == []
                assert record.stale(wanted) == []
            elif kind == "fail":
                record = record.failed("situation")
        held = record.blocks.get("situation", Held())
        assert held.sent >= held.revision
        sent = max(sent, held.sent)


def test_equal_text_counts_as_of_the_newer_revision() -> None:
    record = AgentRecord(Key("t", "w", "n"), "fake").confirmed("situation", "a", 3)
    assert record.as_of(desired(9, "a")).revision(("situation",)) == 9
    assert record.as_of(desired(9, "b")).revision(("situation",)) == 3
    assert record.rewound().needs(Block("situation", "b", 9), 1)
    assert record.revision(("situation", "other")) == 0


@settings(max_examples=60, deadline=None)
@given(st.builds(Key, *[st.text(min_size=1, max_size=20)] * 3), st.builds(Key, *[st.text(min_size=1, max_size=20)] * 3))
def test_tags_are_unique_and_can_be_read(one: Key, other: Key) -> None:
    assert key_of(tag_of(one)) == one
    assert (tag_of(one) == tag_of(other)) == (one == other)
    with pytest.raises(ValueError, match="not a tag"):
        key_of("npc:x")
