"""The observed record: what one agent was last confirmed to hold and to have heard. Pure; replaced, never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from services.sync.blocks.desired import Desired, digest
from services.sync.context import Key
from services.sync.runtimes.port import Block

# After a write whose outcome is unknown it may still land for this long.
SUSPECT_S = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """One block: the digest that was confirmed and the revision it is as of.

    sent: the highest revision of which a text was ever sent. writing: a write may still be under way, so nobody knows
    what the agent holds.
    """

    digest: str = ""
    revision: int = 0
    sent: int = 0
    writing: bool = False

    def needs(self, text: str, revision: int) -> bool:
        """Whether this text is to be written: not confirmed, and nothing newer was ever sent (C6)."""
        if revision < self.sent:
            return False
        return self.writing or self.digest != digest(text)

    def is_as_of(self, text: str, revision: int) -> bool:
        """Whether what the agent holds is at least as new as this text of this revision."""
        return not self.writing and (self.digest == digest(text) or self.revision >= revision)


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """One agent. agent_id "" = it is being made. upto: last log line it was told. generation: of its history.

    asked: it has messages of ours. cut: its last answer was not heard to the end. adopted: it existed before and keeps
    its own text.
    """

    key: Key
    runtime: str
    agent_id: str = ""
    adopted: bool = False
    upto: int = 0
    generation: int = 0
    asked: bool = False
    cut: bool = False
    turn: str = ""
    blocks: Mapping[str, Held] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return tag_of(self.key)

    def stale(self, desired: Desired) -> list[Block]:
        """Blocks of `desired` that are to be written."""
        return [block for block in desired.blocks if self.needs(block, desired.revision)]

    def needs(self, block: Block, revision: int) -> bool:
        """Whether this block is to be written."""
        held = self.blocks.get(block.label)
        return held is None or held.needs(block.text, revision)

    def missing(self, desired: Desired) -> list[Block]:
        """Blocks that the agent does not surely hold as of `desired` or newer."""
        return [
            block
            for block in desired.blocks
            if (held := self.blocks.get(block.label)) is None or not held.is_as_of(block.text, desired.revision)
        ]

    def begun(self, label: str, revision: int) -> AgentRecord:
        """A write of the block goes out."""
        held = self.blocks.get(label) or Held()
        return self._with(label, replace(held, sent=max(held.sent, revision), writing=True))

    def confirmed(self, label: str, text: str, revision: int) -> AgentRecord:
        """The runtime holds this text."""
        held = self.blocks.get(label) or Held()
        return self._with(label, Held(digest(text), revision, max(held.sent, revision)))

    def failed(self, label: str) -> AgentRecord:
        """The write surely did not happen."""
        held = self.blocks.get(label)
        return self if held is None else self._with(label, replace(held, writing=False))

    def observed(self, label: str, text: str | None) -> AgentRecord:
        """Read back: what the runtime holds, None = no such block. An unexpected text is of no known revision."""
        held = self.blocks.get(label) or Held()
        if text is None:
            return self._with(label, Held(sent=held.sent))
        if held.digest == digest(text):
            return self._with(label, replace(held, writing=False))
        return self._with(label, Held(digest(text), 0, held.sent))

    def as_of(self, desired: Desired) -> AgentRecord:
        """Equal text needs no write: blocks that hold it already count as of the newer revision."""
        newer = {}
        for block in desired.blocks:
            held = self.blocks.get(block.label)
            if held and not held.writing and held.sent < desired.revision and held.digest == digest(block.text):
                newer[block.label] = replace(held, revision=desired.revision, sent=desired.revision)
        return replace(self, blocks={**self.blocks, **newer}) if newer else self

    def revision(self, labels: tuple[str, ...]) -> int:
        """The revision that all of these blocks are at least as of; 0 when one is not confirmed."""
        helds = [self.blocks.get(label) for label in labels]
        return min((held.revision if held and not held.writing else 0 for held in helds), default=0)

    def rewound(self) -> AgentRecord:
        """The world counts from a lower revision again (its store was lost): what is confirmed counts for nothing."""
        return replace(self, blocks={label: Held(held.digest) for label, held in self.blocks.items()})

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
