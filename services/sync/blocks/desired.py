"""The blocks that an agent should hold at a revision: the desired side of the reconciler.

Earshot owns exactly these labels; no other label of an agent is ever written (C7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from services.sync.blocks.human import human_lines
from services.sync.blocks.memory import memory_lines
from services.sync.blocks.notes import Note, note_lines
from services.sync.blocks.page import Line, compose
from services.sync.blocks.persona import persona_lines
from services.sync.blocks.situation import Bands, group_lines, settle_bands, status_lines
from services.sync.context import Context
from services.sync.runtimes.port import Block

DESCRIPTIONS: Mapping[str, str] = {
    "persona": "Who I am and how I speak.",
    "situation": "What is true around me now: where I am, how I fare, who hears me. Newer than anything said before.",
    "status": "What is true of me now: where I am, what I do, how I fare. Newer than anything said before.",
    "group_members": "Who hears me now. Newer than anything said before.",
    "human": "What I know of the players who are here.",
    "memory": "What happened lately around me.",
    "notes": "What I noted about somebody or something.",
}
# Those that urgent news are in, and those that only a turn needs.
URGENT = ("situation", "status")
LEISURELY = ("persona", "human", "memory", "notes")


@dataclass(frozen=True, slots=True)
class Desired:
    """All blocks of one revision, with the bands that made the text."""

    revision: int
    revision_ms: int
    age_ms: int
    blocks: tuple[Block, ...]
    bands: Bands

    def get(self, label: str) -> Block | None:
        return next((block for block in self.blocks if block.label == label), None)

    def only(self, labels: Collection[str]) -> Desired:
        """These blocks of it."""
        return replace(self, blocks=tuple(block for block in self.blocks if block.label in labels))

    def without(self, labels: Collection[str]) -> Desired:
        """The other blocks of it."""
        return replace(self, blocks=tuple(block for block in self.blocks if block.label not in labels))


def render(
    context: Context, *, split: bool, limit: int, bands: Bands, notes: Sequence[Note] = (), adopted: bool = False
) -> Desired:
    """Blocks of the context. split: `status` and `group_members` instead of `situation`.

    adopted: the agent keeps its own persona. Blocks that the profile declares are written only when they are made.
    """
    settled = settle_bands(context.members, bands)
    status, group = status_lines(context), group_lines(context, settled)
    texts: dict[str, list[Line]] = {}
    if not adopted:
        texts["persona"] = persona_lines(context.profile)
    if split:
        texts |= {"status": status, "group_members": group}
    else:
        texts["situation"] = [*status, *group]
    texts["human"] = human_lines(context)
    texts["memory"] = memory_lines(context)
    texts["notes"] = note_lines(notes)
    # The persona is the author's text: it has twice the room.
    rooms = {label: 2 * limit if label == "persona" else limit for label in texts}
    blocks = tuple(
        Block(label, compose(lines, rooms[label]), rooms[label], DESCRIPTIONS[label]) for label, lines in texts.items()
    )
    return Desired(context.revision, context.revision_ms, context.age_ms, blocks, settled)


def declared(context: Context, limit: int, seed: Mapping[str, str] = MappingProxyType({})) -> tuple[Block, ...]:
    """The profile's own blocks with their first text: the agent's from then on. seed: texts of a lost agent."""
    return tuple(
        Block(label, text[:limit], limit, "")
        for label, text in {**dict(context.profile.blocks), **seed}.items()
        if label and "/" not in label and label not in DESCRIPTIONS
    )


def digest(text: str) -> str:
    """First 16 hex digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
