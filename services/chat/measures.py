"""The room's metrics: what was logged, how long turns waited, how deep the queues are."""

from __future__ import annotations

from collections.abc import Iterable

from services.chat.conversation import CONVERSATION, URGENT, World
from services.chat.effects import Ask
from services.chat.events import Event, Turned
from services.chat.floor import QUEUED
from services.common.telemetry import Metrics

# Reasons are words of ours and of errors; anything longer is somebody's text.
REASON_MAX = 40


def logged(metrics: Metrics, log: Iterable[Event], revision: int) -> None:
    """Entries that were appended while the world was known up to `revision`."""
    for event in log:
        body = event.body
        if event.revision > revision:
            metrics.notices_early.inc()
        metrics.events.labels(type(body).__name__.lower()).inc()
        if not isinstance(body, Turned):
            continue
        metrics.turns.labels(body.phase, reason(body.reason)).inc()
        if body.phase == "ended":
            metrics.turn_seconds.labels("end").observe(body.total_ms / 1000)
            if body.first_sentence_ms:
                metrics.turn_seconds.labels("first_sentence").observe(body.first_sentence_ms / 1000)


def reason(text: str) -> str:
    """A turn's reason as a label: a word in lower case, whatever room or runtime it came from."""
    return text.lower() if text and len(text) <= REASON_MAX and text.replace("_", "").isalnum() else "other"


def asked(metrics: Metrics, world: World, ask: Ask, now_ms: int) -> int:
    """How long a turn waited for a worker, and its player for the model to be asked; since when the player waits."""
    conversation = world.conversations.get(ask.conversation_id)
    turn = conversation.floor if conversation else None
    if turn is None or turn.id != ask.turn_id:
        return now_ms
    metrics.queue_wait_seconds.labels(turn.lane).observe(turn.stages.get("queue", 0) / 1000)
    cause = world.open.get(turn.causes[-1]) if turn.causes else None
    if cause is not None:
        metrics.observe_whole("utterance_to_model", (now_ms - cause.at_ms) / 1000)
    return now_ms if cause is None else cause.at_ms


def queued(metrics: Metrics, before: World, after: World) -> None:
    """Turns of a world that wait for a worker."""
    for lane in (URGENT, CONVERSATION):
        change = _waiting(after, lane) - _waiting(before, lane)
        if change:
            metrics.queue_depth.labels(lane).inc(change)


def _waiting(world: World, lane: str) -> int:
    floors = [conversation.floor for conversation in world.conversations.values() if conversation.floor is not None]
    return sum(turn.lane == lane and turn.phase == QUEUED for turn in floors)
