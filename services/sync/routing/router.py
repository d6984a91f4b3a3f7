"""Which endpoint is asked next: who may be asked, tiers first, the better of two by latency x load / weight (G1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.sync.chance import Chance
from services.sync.routing.bucket import Bucket
from services.sync.routing.chain import Tier
from services.sync.routing.endpoint import Endpoint

# Calls beyond the first to one endpoint within a turn, as a share of all turns; some are there from the start.
RETRY_SHARE = 0.1
RETRIES_KEPT = 10.0
RETRIES_PER_S = 0.1
# A key whose allowance is used up is waited for at most this long, and only when no other can be asked.
WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One attempt of a turn: an endpoint, or a voice (None). ready_at: loop time."""

    tier: str
    endpoint: Endpoint | None = None
    ready_at: float = 0.0

    @property
    def model(self) -> bool:
        return self.endpoint is not None and self.endpoint.capabilities.model


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one turn in order. skipped: why endpoints are not among them, by name."""

    steps: tuple[Step, ...]
    skipped: dict[str, str]


def plan(tiers: Sequence[Tier], *, model: str, tokens: float, now: float, first_by: float, rng: Chance) -> Plan:
    """Steps of a turn whose first words are wanted by `first_by`. Never empty.

    model: the profile's own, "" = each provider's. Endpoints that rest, are used up or broken are left out; so are
    those too slow for the deadline, or with too long a queue, as long as another one is not.
    """
    skipped: dict[str, str] = {}
    steps: list[Step] = []
    waiting: list[Step] = []
    slow: list[Step] = []
    for tier in tiers:
        if not tier.endpoints:
            steps.append(Step(tier.name))
            continue
        ready: list[Step] = []
        for endpoint in tier.endpoints:
            step, reason = _judged(tier.name, endpoint, model, tokens, now, first_by)
            {"": ready, "ALLOWANCE": waiting, "SLOW": slow}.get(reason, []).append(step)
            if reason:
                skipped[endpoint.name] = reason
        steps += _drawn(ready, rng)
    if slow and not any(step.model for step in steps):
        # Better late than a degraded reply, when no other model is to be had.
        steps = _before_degraded(steps, slow)
    in_time = sorted((one for one in waiting if one.ready_at <= min(now + WAIT_S, first_by)), key=_when)
    steps = _before_degraded(steps, in_time)
    if not steps:
        steps = [min(_all(tiers, model, tokens, now), key=_when)]
    return Plan(tuple(steps), skipped)


def _judged(tier: str, endpoint: Endpoint, model: str, tokens: float, now: float, first_by: float) -> tuple[Step, str]:
    broken_until = endpoint.broken_until(now)
    ready_at = endpoint.quota(model).ready_at(tokens, now)
    if broken_until > now:
        return Step(tier, endpoint, broken_until), "BROKEN"
    if ready_at > now:
        return Step(tier, endpoint, ready_at), "ALLOWANCE"
    p95 = endpoint.latency.p95(now)
    if now + endpoint.queue_s + (p95 or 0.0) > first_by:
        return Step(tier, endpoint, now), "SLOW"
    return Step(tier, endpoint, now), ""


def _drawn(ready: Sequence[Step], rng: Chance) -> list[Step]:
    """Power of two choices, again and again until none is left."""
    rest, drawn = list(ready), []
    while rest:
        pair = rng.sample(rest, 2) if len(rest) > 1 else rest
        best = min(pair, key=lambda step: step.endpoint.cost if step.endpoint is not None else math.inf)
        rest.remove(best)
        drawn.append(best)
    return drawn


def _before_degraded(steps: list[Step], more: Sequence[Step]) -> list[Step]:
    """`more` after the last model, before what is said without one."""
    at = max((index + 1 for index, step in enumerate(steps) if step.model), default=0)
    return [*steps[:at], *more, *steps[at:]]


def _all(tiers: Sequence[Tier], model: str, tokens: float, now: float) -> list[Step]:
    return [Step(tier.name, one, one.ready_at(model, tokens, now)) for tier in tiers for one in tier.endpoints]


def _when(step: Step) -> float:
    return step.ready_at


class RetryBudget:
    """Second calls to one endpoint within a turn: a share of the turns, so that retries never make a storm."""

    def __init__(self) -> None:
        self._bucket = Bucket(RETRIES_PER_S, RETRIES_KEPT)

    def turn(self) -> None:
        """A turn is under way."""
        self._bucket.give_back(RETRY_SHARE)

    def take(self, now: float) -> bool:
        """Whether one more retry is allowed."""
        if self._bucket.level(now) < 1:
            return False
        self._bucket.take(1, now)
        return True
