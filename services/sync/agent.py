"""The observed record: what one agent was last confirmed to hold and to have heard. Pure; replaced, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from services.sync.blocks import Desired, digest
from services.sync.context import Key
from services.sync.runtimes.port import Block

# After a write whose outcome is unknown it may still land for this long (DESIGN 4).
SUSPECT_S = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """One block: the digest that was confirmed, as of which revision. writing: a write of it may be under way."""

    digest: str
    revision: int
    writing: bool = False


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One agent. agent_id "" = it is being made. upto: last log line it was told. generation: of its history.

    cut: its last answer was not heard to the end. adopted: it existed before and keeps its own text.
    """

    key: Key
    runtime: str
    agent_id: str = ""
    adopted: bool = False
    upto: int = 0
    generation: int = 0
    cut: bool = False
    blocks: Mapping[str, Held] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return tag_of(self.key)

    def stale(self, desired: Desired) -> list[Block]:
        """Blocks of `desired` to write: another text than confirmed, and nothing newer is confirmed (C6)."""
        waiting = []
        for block in desired.blocks:
            held = self.blocks.get(block.label)
            if held is None or held.writing:
                waiting.append(block)
            elif held.digest != digest(block.text) and held.revision <= desired.revision:
                waiting.append(block)
        return waiting

    def begun(self, label: str) -> AgentRecord:
        """A write of the block goes out."""
        held = self.blocks.get(label) or Held("", 0)
        return self._with(label, replace(held, writing=True))

    def confirmed(self, label: str, text: str, revision: int) -> AgentRecord:
        """The runtime holds this text."""
        return self._with(label, Held(digest(text), revision))

    def failed(self, label: str) -> AgentRecord:
        """The write surely did not happen."""
        held = self.blocks.get(label)
        if held is None or not held.digest:
            return replace(self, blocks={name: one for name, one in self.blocks.items() if name != label})
        return self._with(label, replace(held, writing=False))

    def as_of(self, desired: Desired) -> AgentRecord:
        """Equal text needs no write: blocks that hold it already count as of the newer revision."""
        blocks = dict(self.blocks)
        for block in desired.blocks:
            held = blocks.get(block.label)
            if held and not held.writing and held.revision < desired.revision and held.digest == digest(block.text):
                blocks[block.label] = replace(held, revision=desired.revision)
        return replace(self, blocks=blocks)

    def revision(self, labels: tuple[str, ...]) -> int:
        """The revision that all of these blocks are at least as of; 0 when one is not confirmed."""
        helds = [self.blocks.get(label) for label in labels]
        return min((held.revision if held and not held.writing else 0 for held in helds), default=0)

    def _with(self, label: str, held: Held) -> AgentRecord:
        return replace(self, blocks={**self.blocks, label: held})


def tag_of(key: Key) -> str:
    """earshot:{tenant}:{world}:{npc}, each part percent-encoded: finds the agent after a crash."""
    return "earshot:" + ":".join(quote(part, safe="") for part in key)


def key_of(tag: str) -> Key:
    """The key of a tag. Raises ValueError."""
    prefix, *parts = tag.split(":")
    if prefix != "earshot" or len(parts) != 3:
        raise ValueError("not a tag of ours")
    return Key(*map(unquote, parts))
