"""The numbers a conversation is held by. They travel in the input log, so a replay uses those of its time."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.settings import Settings


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in milliseconds, thresholds as probabilities, counts as written (D2, D3, D5)."""

    tau: float = 0.5
    # The threshold falls by this share of itself times the share of players among those who could speak next.
    tau_crowd: float = 0.3
    tau_silence: float = 0.3
    # From the soft limit on an NPC needs this much more to go on without a player.
    soft_margin: float = 0.2
    silence_ms: int = 7_000
    turns_soft: int = 2
    turns_hard: int = 3
    calls_per_message: int = 2
    # Where several players talk: calls per line of theirs that NPCs settle at, apart from those they are obliged to.
    calls_mean: float = 0.6
    addressed_max: int = 2
    # NPC turns that one player may cause, and time it may talk to NPCs, in a UTC day; 0 = no cap.
    player_turns_day: int = 0
    player_talk_day_ms: int = 0
    # From a player's line to its next no more than this counts as talking.
    talk_gap_ms: int = 60_000
    # A pair that alternated this often hears the others first: their score falls by the penalty.
    dyad_alternations: int = 5
    dyad_penalty: float = 1.5
    # Sharper than the model when it picks among NPCs; 0 = always the first.
    sharpness: float = 2.0
    pair_turns: int = 3
    pair_window_ms: int = 60_000
    cooldown_npc_ms: int = 0
    cooldown_greeting_ms: int = 120_000
    cooldown_decide_ms: int = 10_000
    greetings: bool = True
    # A player who arrives and speaks, or whom the game announces, needs no greeting of its own.
    greeting_delay_ms: int = 1_000
    npc_to_npc: bool = False
    urgent_workers: int = 5
    urgent_wait_ms: int = 500
    conversation_workers: int = 3
    conversation_wait_ms: int = 2_000
    gather_ms: int = 100
    same_text_ms: int = 1_000
    # How often in a row players may cancel a turn that has said nothing yet; then it stands, or nobody ever speaks.
    cancels_max: int = 2
    # An addressed NPC whose agent is busy is asked again for this long.
    busy_retry_ms: int = 500
    busy_patience_ms: int = 8_000
    utterance_ttl_ms: int = 30_000
    absence_ms: int = 300_000
    # Lines of people who are in no game are shown to those who are.
    outside_in_game: bool = False
    # After a restart an utterance this fresh is still decided.
    resume_ms: int = 10_000


def from_settings(settings: Settings) -> Rules:
    """The rules that the process's settings ask for."""
    return Rules(
        tau=settings.tau,
        tau_silence=settings.tau_silence,
        silence_ms=round(settings.awkward_silence_s * 1000),
        turns_soft=settings.npc_turns_soft,
        turns_hard=settings.npc_turns_hard,
        calls_mean=settings.calls_per_message_mean,
        player_turns_day=settings.player_turns_per_day,
        player_talk_day_ms=round(settings.player_minutes_per_day * 60_000),
        pair_turns=settings.pair_turns,
        pair_window_ms=round(settings.pair_window_s * 1000),
        cooldown_npc_ms=round(settings.cooldown_npc_s * 1000),
        cooldown_greeting_ms=round(settings.cooldown_greeting_s * 1000),
        greetings=settings.greetings,
        npc_to_npc=settings.npc_to_npc,
        urgent_workers=settings.urgent_workers,
        urgent_wait_ms=round(settings.urgent_wait_s * 1000),
        conversation_workers=settings.conversation_workers,
        conversation_wait_ms=round(settings.conversation_wait_s * 1000),
        gather_ms=settings.gather_ms,
        utterance_ttl_ms=round(settings.utterance_ttl_s * 1000),
        absence_ms=round(settings.session_absence_s * 1000),
        outside_in_game=settings.discord_in_game,
    )


def of_places(settings: Settings) -> dict[str, Rules]:
    """The rules of places that have settings of their own, by slug of the location."""
    return {
        slug: from_settings(settings.model_copy(update=given.model_dump(exclude_none=True)))
        for slug, given in settings.places.items()
    }
