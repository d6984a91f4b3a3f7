"""No model: NPCs that answer from what they know. Deterministic, in character, and labelled as what it is.

It is what runs when nothing else is configured, and the last resort when everything else failed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from services.sync.runtimes.local import KeepsAgents, LocalAgents, NoShelf, Shelf
from services.sync.runtimes.offline_lines import compose
from services.sync.runtimes.port import (
    Capabilities,
    Completion,
    Delta,
    End,
    Health,
    Rejected,
    Scene,
    TextDelta,
    ToolCall,
    ToolResult,
    Turn,
    TurnState,
)


class OfflineRuntime(KeepsAgents):
    """Implements `port.Runtime`."""

    name = "offline"
    capabilities = Capabilities(stateful=False, remote=False, model=False)

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._agents = LocalAgents(self.name, shelf or NoShelf())

    async def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        """The same turn id always gets the same answer."""
        agent = self._agents.get(agent_id)
        scene = turn.scene or Scene(agent.name)
        reply = compose(scene, frozenset(tool.name for tool in turn.tools), seed=turn.turn_id)
        if reply.text:
            yield TextDelta(reply.text)
        if reply.call is not None:
            yield ToolCall(f"call_{turn.turn_id}", *reply.call)
        yield End("offline", tools=reply.call is not None)

    async def answer(
        self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float
    ) -> AsyncIterator[Delta]:
        self._agents.get(agent_id)
        if any(not result.ok for result in results):
            yield TextDelta("I am afraid I cannot do that just now.")
        yield End("offline")

    async def look_up(self, agent_id: str, turn_id: str, timeout: float) -> TurnState:
        return TurnState.ABSENT

    async def settle(self, agent_id: str, timeout: float) -> None: ...

    async def reset_messages(self, agent_id: str, timeout: float) -> None: ...

    async def complete(self, system: str, text: str, image_url: str, max_tokens: int, timeout: float) -> Completion:
        raise Rejected("the offline runtime has no model")

    async def check(self, timeout: float) -> Health:
        return Health(True, "no model; answers are composed from the scene")

    async def close(self) -> None: ...
