"""The port to whatever thinks for an NPC: agents with blocks, turns as streams of typed deltas.

An agent is an id inside a runtime. Every call takes the seconds it may last; who calls keeps one message per agent and
one write per block in flight, because no runtime does (measured on Letta 0.16.8: concurrent messages lose turns).
Ids, names and texts are clean when they come here (see hygiene).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the rest of sync must know about a runtime.

    stateful: it keeps messages, so a turn that timed out can still land, and only new lines are sent.
    remote: blocks travel over a network, so a write can time out with its outcome unknown.
    model: it asks a model; without one its answers are marked degraded.
    completes: it can run a completion without an agent.
    """

    stateful: bool
    remote: bool
    model: bool = True
    completes: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One labelled text that an agent always sees. `limit` in characters; the text fits it."""

    label: str
    text: str
    limit: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What a new agent is made of. `tag` is unique per (world, npc) and finds the agent again.

    adopt: id of an agent that exists; it gets the blocks whose labels it lacks and keeps its own text.
    model: handle that overrides the runtime's; settings: the profile's own, passed to the model as they are.
    """

    tag: str
    name: str
    instructions: str
    blocks: tuple[Block, ...] = ()
    adopt: str = ""
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that the game executes; `parameters` is its JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


class Role(Enum):
    """Who a message is from. Player text is only ever USER."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a turn."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Scene:
    """The turn's facts as typed values, for runtimes without a model to read the blocks."""

    name: str
    persona: str = ""
    lines: tuple[str, ...] = ()
    place: str = ""
    action: str = ""
    combat: bool = False
    health_percent: int = -1
    players: tuple[str, ...] = ()
    npcs: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    happened: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    speaker: str = ""
    speaker_is_player: bool = True
    said: str = ""
    own_lines: tuple[str, ...] = ()
    reason: str = "reply"


@dataclass(frozen=True, slots=True)
class Turn:
    """One question to the model.

    instructions: what an NPC is told once (runtimes that keep no messages repeat it). system: what holds for this turn
    only. messages: oldest first, for a stateful runtime those that its agent has not seen.
    """

    turn_id: str
    instructions: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int = 150
    temperature: float = 0.7
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scene: Scene | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of what the NPC says."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call; `arguments` is the model's JSON text, not validated."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class UsageDelta:
    """Tokens of one call to the model."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Limit:
    """An allowance as the provider's headers tell it: full again in `reset_s` seconds."""

    limit: float
    remaining: float
    reset_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the key may still ask for; None = not told."""

    requests: Limit | None = None
    tokens: Limit | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The stream is complete. tools: the calls of this stream wait for `answer`."""

    model: str = ""
    tools: bool = False


Delta = TextDelta | ToolCall | UsageDelta | Limits | End


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What became of a tool call: a short sentence for the model."""

    call: ToolCall
    text: str
    ok: bool = True


class TurnState(Enum):
    """What a look-up finds: still running, executed, or never seen by the agent."""

    RUNNING = "running"
    DONE = "done"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Health:
    """Answer of a check; `detail` names a version or the fault, never a secret."""

    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """Text of a completion without an agent."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    limits: Limits | None = None


class RuntimeFault(Exception):
    """Base of what a runtime may raise. `message` is safe to log: it never holds prompts, answers or keys.

    retryable: the same call may pass later. unknown: nobody knows whether it took effect.

    RuntimeFault
    ├── Unreachable    connection refused or reset before anything was sent: surely without effect
    ├── TimedOut       no answer in time: outcome unknown
    ├── ServerFault    5xx, or the model behind the runtime failed
    ├── RateLimited    429; retry_after_s when the runtime said
    ├── Raced          409 on a block that another write changed
    ├── Busy           the agent executes another message
    ├── Missing        no such agent or label
    ├── Rejected       4xx: sending it again changes nothing
    └── Garbled        an answer that is no answer: wrong JSON, too large, empty
    """

    default_retryable: ClassVar[bool] = True
    default_unknown: ClassVar[bool] = False
    # The endpoint itself failed: counts for its circuit breaker.
    trips: ClassVar[bool] = False

    def __init__(self, message: str, *, retryable: bool | None = None, unknown: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retryable = self.default_retryable if retryable is None else retryable
        self.unknown = self.default_unknown if unknown is None else unknown


class Unreachable(RuntimeFault):
    """The connection was refused, or lost before the request was sent."""

    trips = True


class TimedOut(RuntimeFault):
    """No answer within the time given; what was sent may still take effect."""

    default_unknown = True
    trips = True


class ServerFault(RuntimeFault):
    """The runtime, or the model behind it, failed."""

    trips = True


class RateLimited(RuntimeFault):
    """Too many requests; `retry_after_s` is 0 when the runtime did not say. limits: what its headers told."""

    def __init__(self, message: str, retry_after_s: float = 0.0, limits: Limits | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.limits = limits


class Raced(RuntimeFault):
    """Another write changed the block at the same moment; nothing was written."""


class Busy(RuntimeFault):
    """The agent executes another message now."""


class Missing(RuntimeFault):
    """There is no such agent, or it has no block of that label."""

    default_retryable = False


class Rejected(RuntimeFault):
    """The request is refused as it is."""

    default_retryable = False


class Garbled(RuntimeFault):
    """The answer cannot be used; whether the turn was executed is not known."""

    default_unknown = True
    trips = True


class Runtime(Protocol):
    """What sync asks of a runtime. Every method may raise any RuntimeFault; cancelling one frees the caller at once."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def create_agent(self, spec: AgentSpec, timeout: float) -> str:
        """Make (or adopt) an agent with these blocks; answers its id."""
        ...

    async def find_agents(self, tag: str, timeout: float) -> list[str]:
        """Ids of the agents with this tag, oldest first."""
        ...

    async def delete_agent(self, agent_id: str, tag: str, timeout: float) -> None:
        """Delete an agent, its messages and those of its blocks that came with it. One that is not there is deleted."""
        ...

    async def read_blocks(self, agent_id: str, timeout: float) -> dict[str, str]:
        """Label -> text of every block of the agent."""
        ...

    async def write_block(self, agent_id: str, block: Block, timeout: float) -> None:
        """Replace a block's text."""
        ...

    def send(self, agent_id: str, turn: Turn, timeout: float) -> AsyncIterator[Delta]:
        """Ask the model. Ends with one End. Closing the iterator frees the caller; a stateful runtime may go on."""
        ...

    def answer(self, agent_id: str, turn: Turn, results: Sequence[ToolResult], timeout: float) -> AsyncIterator[Delta]:
        """Give the results of the tool calls of this turn's `send`; the model may say more. Ends with one End."""
        ...

    async def look_up(self, agent_id: str, turn_id: str, timeout: float) -> TurnState:
        """Whether a turn whose outcome is unknown was executed."""
        ...

    async def settle(self, agent_id: str, timeout: float) -> None:
        """Leave no tool call of the agent pending: what waits is answered `cancelled`, what is said then is dropped."""
        ...

    async def reset_messages(self, agent_id: str, timeout: float) -> None:
        """Let the agent forget every message; its blocks stay."""
        ...

    async def complete(self, system: str, text: str, image_url: str, max_tokens: int, timeout: float) -> Completion:
        """Run a completion without an agent; Rejected where capabilities.completes is false."""
        ...

    async def check(self, timeout: float) -> Health:
        """Whether the runtime answers. Never raises a RuntimeFault."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
