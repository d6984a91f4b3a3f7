"""One example of the main operations, request and answer, for the published contract. Tests decode and send them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """A body and the answer to it; None where there is no body."""

    body: Any
    answer: Any


_WORLD = "4f9e2a8c-0000-4000-8000-1234567890ab"
_MARA = {
    "id": "mara",
    "kind": "npc",
    "name": "Mara",
    "position": {"x": 0, "y": 0, "z": 0},
    "health": {"current": 90, "max": 100},
    "action": "Sweeping",
    "location": "lantern",
}
_ADA = {"id": "962483389", "kind": "player", "name": "Ada", "position": [2, 0, 1], "health": 100}
_POSITIONS = [{"id": "mara", "x": 0.0, "y": 0.0, "z": 0.0}, {"id": "962483389", "x": 2.0, "y": 0.0, "z": 1.0}]
_CLUSTER = {
    "id": "c1",
    "members": ["mara", "962483389"],
    "npcs": 1,
    "players": 1,
    "positions": _POSITIONS,
}
_FORMED = {"type": "formed", "cluster": "c1", "members": ["mara", "962483389"]}
_SENTENCE = {
    "type": "utterance",
    "seq": 7,
    "at": 1763675000.25,
    "revision": 12,
    "conversation_id": "c1",
    "utterance_id": "u7",
    "speaker": {"id": "mara", "name": "Mara", "kind": "npc"},
    "text": "Sit, the soup is hot.",
    "audience": ["962483389"],
    "cause_user_id": "962483389",
    "ai": True,
    "expires_at": 1763675030.25,
    "turn_id": "t3",
    "sentence": 0,
}
_SESSION = {
    "session_id": "9c56cc51b374c3ba",
    "token": "es_...",
    "expires_at": 1763678600.0,
    "world": _WORLD,
    "epoch": 1,
    "revision": 0,
    "hold_s": 20.0,
    "cursor": 0,
    "limits": {
        "body_bytes": 524288,
        "body_bytes_compressed": 65536,
        "entities": 500,
        "utterances": 16,
        "text_characters": 200,
        "requests_per_minute": 500,
    },
}
_ROSTER_KEPT = {"roster_version": 1, "npcs": 1, "locations": 1, "players": 1, "refused": []}

EXAMPLES: dict[str, Example] = {
    "POST /v1/sessions": Example({"job": _WORLD, "boot": "7d1c2f64"}, _SESSION),
    "POST /v1/sessions/current": Example(None, _SESSION),
    "DELETE /v1/sessions/current": Example(None, {"closed": True}),
    "POST /v1/sync": Example(
        {
            "seq": 1,
            "timestamp": 1763675000,
            "entities": [_MARA, _ADA],
            "utterances": [{"player_id": "962483389", "player_name": "Ada", "text": "Mara, is there soup?"}],
            "action_results": [{"action_id": "a1", "npc_id": "mara", "success": True}],
            "metrics": {"requests": 14, "failures": 0, "round_trip_ms": 48.5},
            "cursor": 6,
        },
        {
            "world": _WORLD,
            "epoch": 1,
            "seq": 1,
            "revision": 12,
            "outcome": "applied",
            "refused": [],
            "clusters": [_CLUSTER],
            "transitions": [_FORMED],
            "utterances": [{"outcome": "accepted", "utterance_id": "u6"}],
            "events": [_SENTENCE],
            "cursor": 7,
        },
    ),
    "GET /v1/events": Example(None, {"events": [_SENTENCE], "cursor": 7}),
    "POST /v1/snapshots": Example(
        {"world": "plaza", "timestamp": 1763675000, "entities": [_MARA, _ADA]},
        {
            "world": "plaza",
            "revision": 12,
            "outcome": "applied",
            "clusters": [_CLUSTER],
            "transitions": [_FORMED],
            "refused": [],
        },
    ),
    "POST /v1/messages": Example(
        {"world": "plaza", "player_id": "962483389", "player_name": "Ada", "text": "Mara, is there soup?"},
        {
            "utterance_id": "u6",
            "conversation_id": "c1",
            "revision": 12,
            "outcome": "replied",
            "replies": [
                {
                    "turn_id": "t3",
                    "npc_id": "mara",
                    "npc_name": "Mara",
                    "text": "Sit, the soup is hot.",
                    "actions": [{"action_id": "a2", "type": "emote", "data": {"emote": "wave"}}],
                    "revision": 12,
                    "ai": True,
                }
            ],
        },
    ),
    "PUT /v1/npcs": Example(
        {
            "npcs": [
                {
                    "id": "mara",
                    "display_name": "Mara",
                    "aliases": ["barkeep"],
                    "persona": "You are Mara, who keeps the Lantern tavern. Warm, dry, knows everyone.",
                    "talkativeness": 0.6,
                    "lines": ["Sit, the soup is hot."],
                }
            ],
            "locations": [{"slug": "lantern", "name": "the Lantern tavern", "coordinates": [0, 0, 0]}],
            "players": [{"id": "962483389", "name": "Ada", "description": "Wears a red scarf."}],
        },
        _ROSTER_KEPT,
    ),
    "PUT /v1/locations": Example(
        {"locations": [{"slug": "lantern", "name": "the Lantern tavern", "coordinates": {"x": 0, "y": 0, "z": 0}}]},
        {**_ROSTER_KEPT, "npcs": 0, "players": 0},
    ),
}
