"""`earshot runtimes check`: tries every configured runtime with one short turn, and says what is missing."""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import EarshotError
from services.common.settings import Settings
from services.sync.routing.fleet import default_chain, make_runtimes
from services.sync.routing.provider import Provider
from services.sync.routing.providers import configured
from services.sync.runtimes.local import NoShelf
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import (
    AgentSpec,
    Block,
    End,
    Limits,
    Message,
    Role,
    Runtime,
    RuntimeFault,
    Scene,
    TextDelta,
    ToolCall,
    ToolSpec,
    Turn,
    UsageDelta,
)

TIMEOUT_S = 30.0
CHECK_S = 5.0
WAVE = ToolSpec(
    "emote",
    "Make a gesture.",
    {"type": "object", "properties": {"type": {"type": "string", "enum": ["wave"]}}, "required": ["type"]},
)
ASK = '{"speaker": "Ada", "text": "Hello! Wave at me with your function, and tell me who you are."}'


@dataclass
class Tried:
    """What one runtime did. Times in milliseconds; None = it did not come to that."""

    name: str
    health: str = ""
    well: bool = False
    check_ms: float = 0.0
    first_ms: float | None = None
    total_ms: float | None = None
    model: str = ""
    fault: str = ""
    does: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.fault


def add(commands: Any) -> None:
    """Add the subcommand to a parser's subcommands."""
    runtimes = commands.add_parser("runtimes", help="what answers for NPCs")
    verbs = runtimes.add_subparsers(required=True, metavar="COMMAND")
    check = verbs.add_parser("check", help="try each configured runtime with one short turn (costs a few tokens)")
    check.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """0 when the first runtime of the chain answered, else 1. Raises BadInput."""
    return asyncio.run(check(Settings()))


async def check(settings: Settings) -> int:
    """Print the chain and what each runtime did."""
    found = configured(settings)
    chain = default_chain(settings, found)
    runtimes = make_runtimes(settings, found, NoShelf())
    providers = {provider.name: provider for provider in found.providers}
    print(f"Chain: {' -> '.join(chain)}\n")
    tried = []
    for name, runtime in runtimes.items():
        try:
            one = await attempt(name, runtime, providers.get(name), settings)
        finally:
            await runtime.close()
        tried.append(one)
        if not any(link in (name, name.split(":")[0]) for link in chain):
            one.lacks.append("it is not in the chain: only profiles that name it use it")
        print("\n".join(lines(one)), flush=True)
    if len(tried) == 1:
        print("\nNo model is configured: NPCs answer from what they know. See docs/runtimes.md.")
    first = next((one for one in tried if chain[0] in (one.name, one.name.split(":")[0])), None)
    return 0 if first is None or first.ok else 1


async def attempt(name: str, runtime: Runtime, provider: Provider | None, settings: Settings) -> Tried:
    """One check and one turn; the agent is deleted again."""
    tried = Tried(name)
    await runtime.check(CHECK_S)  # the first one also imports the client's package
    began = time.perf_counter()
    health = await runtime.check(CHECK_S)
    tried.check_ms, tried.well, tried.health = _ms(began), health.ok, health.detail
    tag = f"earshot:check:{uuid.uuid4().hex}:npc"
    agent_id = ""
    try:
        block = Block("situation", "You stand at the Lantern. Ada, a player, is near.", 500)
        agent_id = await runtime.create_agent(
            AgentSpec(tag, "Mara", "You are Mara, an innkeeper. Answer in one short sentence.", (block,)), TIMEOUT_S
        )
        await _turn(tried, runtime, agent_id, settings)
    except RuntimeFault as fault:
        tried.fault = f"{type(fault).__name__}: {fault.message}"
    except EarshotError as error:
        tried.fault = error.message
    finally:
        if agent_id:
            try:
                await runtime.delete_agent(agent_id, tag, TIMEOUT_S)
            except RuntimeFault as fault:
                tried.lacks.append(f"its trial agent could not be deleted ({type(fault).__name__})")
    _judge(tried, runtime, provider, settings)
    return tried


async def _turn(tried: Tried, runtime: Runtime, agent_id: str, settings: Settings) -> None:
    scene = Scene("Mara", persona="I keep the Lantern.", speaker="Ada", said="Hello! Wave at me. Who are you?")
    turn = Turn(
        f"check-{uuid.uuid4()}", "You are Mara, an innkeeper. Answer in one short sentence.", "Answer Ada.",
        (Message(Role.USER, ASK),), (WAVE,), settings.max_tokens, settings.temperature, scene=scene,
    )  # fmt: skip
    began = time.perf_counter()
    kinds: set[type] = set()
    async for delta in runtime.send(agent_id, turn, TIMEOUT_S):
        kinds.add(type(delta))
        if tried.first_ms is None and isinstance(delta, TextDelta | ToolCall):
            tried.first_ms = _ms(began)
        if isinstance(delta, End):
            tried.model = delta.model
    tried.total_ms = _ms(began)
    words = {TextDelta: "text", ToolCall: "functions", UsageDelta: "usage", Limits: "its limits"}
    tried.does = [word for kind, word in words.items() if kind in kinds]
    await runtime.settle(agent_id, TIMEOUT_S)


def _judge(tried: Tried, runtime: Runtime, provider: Provider | None, settings: Settings) -> None:
    """What a game developer should know about it."""
    if not tried.ok or not runtime.capabilities.model:
        return
    if isinstance(runtime, OpenAIRuntime) and "tools" in runtime.refused:
        tried.lacks.append("it takes no functions: NPCs speak but do not act")
    elif "functions" not in tried.does:
        tried.lacks.append("it called no function when asked to: actions may be rare")
    if "usage" not in tried.does:
        tried.lacks.append("it reports no token usage: costs are estimated")
    if tried.first_ms is not None and tried.first_ms > 1000 * settings.first_sentence_s:
        tried.lacks.append(
            f"slower than EARSHOT_FIRST_SENTENCE_S={settings.first_sentence_s:g}: skipped while another model is there"
        )
    if provider is not None and not (provider.price_prompt or provider.price_completion):
        tried.lacks.append("no price is set: its cost counts as 0")


def lines(tried: Tried) -> list[str]:
    """What is printed of one runtime."""
    head = f"{tried.name:16} {'ok' if tried.ok else 'FAILED':7}"
    timing = f"check {tried.check_ms:.0f} ms"
    if tried.first_ms is not None:
        timing += f", first words {tried.first_ms:.0f} ms"
    if tried.total_ms is not None:
        timing += f", whole turn {tried.total_ms:.0f} ms"
    said = [f"{head} {timing}"]
    if tried.model or tried.does:
        said.append(f"{'':16} model {tried.model or 'not told'}; gives {', '.join(tried.does) or 'nothing'}")
    if not tried.well:
        said.append(f"{'':16} its check failed: {tried.health}")
    if tried.fault:
        said.append(f"{'':16} {tried.fault}")
    return [*said, *(f"{'':16} missing: {one}" for one in tried.lacks)]


def _ms(began: float) -> float:
    return 1000 * (time.perf_counter() - began)
