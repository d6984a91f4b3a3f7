"""What an NPC witnessed, as the lines of its next turn: within a budget, and without those whose session has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.chat.context_budget import cost
from services.chat.conversation import Session
from services.chat.events import Event, Noticed, Said

# A joiner is told the last lines from before it came, in one notice.
GIST_LINES = 3
GIST_CHARS = 80


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log as the NPC witnessed it."""

    seq: int
    speaker_id: str
    speaker_name: str
    kind: str
    text: str
    at_ms: int
    own: bool = False
    notice: bool = False
    turn_id: str = ""
    degraded: str = ""


def witnessed(
    log: Sequence[Event], npc_id: str, conversation_id: str, sessions: Mapping[str, Session], tokens: int
) -> list[Line]:
    """Lines for one NPC, oldest first, the newest that fit `tokens`; a gist of what it missed before them."""
    lines = heard(log, npc_id, sessions)
    kept: list[Line] = []
    left = tokens
    for line in reversed(lines):
        left -= cost(line.text)
        if left < 0 and kept:
            break
        kept.append(line)
    kept.reverse()
    missed = _gist(log, npc_id, conversation_id, sessions)
    return [missed, *kept] if missed is not None and len(kept) == len(lines) else kept


def heard(log: Sequence[Event], npc_id: str, sessions: Mapping[str, Session]) -> list[Line]:
    """All lines that one NPC witnessed and may still remember, oldest first."""
    return [line for event in log if (line := _line(event, npc_id, sessions)) is not None]


def _line(event: Event, npc_id: str, sessions: Mapping[str, Session]) -> Line | None:
    body = event.body
    if isinstance(body, Noticed) and npc_id in body.hearers and _current(event.seq, body.persons, sessions):
        return Line(event.seq, "", "", "", body.text, event.at_ms, notice=True)
    if isinstance(body, Said) and npc_id in body.hearers and _is_remembered(event.seq, body, sessions):
        own = body.speaker_id == npc_id
        return Line(
            event.seq, body.speaker_id, body.speaker_name, body.speaker_kind, body.text, event.at_ms,
            own=own, turn_id=body.turn_id, degraded=body.degraded,
        )  # fmt: skip
    return None


def _gist(log: Sequence[Event], npc_id: str, conversation_id: str, sessions: Mapping[str, Session]) -> Line | None:
    """What was said here just before the NPC came; None when it missed nothing that it may know."""
    missed: list[Said] = []
    seq, at_ms = 0, 0
    for event in log:
        body = event.body
        if event.conversation_id != conversation_id or not isinstance(body, Said):
            continue
        if npc_id in body.hearers:
            break
        if body.hearers and _is_remembered(event.seq, body, sessions):
            missed.append(body)
            seq, at_ms = event.seq, event.at_ms
    if not missed:
        return None
    told = "; ".join(f"{said.speaker_name}: {_short(said.text)}" for said in missed[-GIST_LINES:])
    return Line(seq, "", "", "", f"[SYSTEM] Before you came: {told}", at_ms, notice=True)


def _is_remembered(seq: int, said: Said, sessions: Mapping[str, Session]) -> bool:
    return not said.owner or _current(seq, (said.owner,), sessions)


def _current(seq: int, players: Iterable[str], sessions: Mapping[str, Session]) -> bool:
    """Whether all these players are still in the session in which it was said."""
    return all(player in sessions and sessions[player].number <= seq for player in players)


def _short(text: str) -> str:
    return text if len(text) <= GIST_CHARS else text[: GIST_CHARS - 1].rstrip() + "…"
