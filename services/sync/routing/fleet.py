"""The runtimes of a process, made as they are configured, and the chain of those whose profile names none."""

from __future__ import annotations

from services.common.errors import BadInput
from services.common.settings import Settings
from services.sync.routing.chain import AFTER_MODELS, names
from services.sync.routing.providers import GROUP, Configured
from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.local import LocalAgents, Shelf
from services.sync.runtimes.offline import OfflineRuntime
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import Rejected, Runtime


def default_chain(settings: Settings, found: Configured) -> tuple[str, ...]:
    """EARSHOT_RUNTIMES, else the file's chain, else LLM_PROVIDER before what is configured. Raises BadInput."""
    chosen: tuple[str, ...] = tuple(settings.runtimes.split(",")) if settings.runtimes.strip() else found.chain
    first = settings.llm_provider.strip().lower()
    if not chosen and first:
        chosen = (first, *AFTER_MODELS) if first != "offline" else (first,)
    known = [provider.name for provider in found.providers]
    return names(chosen, letta=bool(settings.letta_base_url), openai=known)


def make_runtimes(settings: Settings, found: Configured, shelf: Shelf) -> dict[str, Runtime]:
    """Every runtime that is configured, by name: a profile's chain may name any of them. Raises BadInput."""
    made: dict[str, Runtime] = {}
    if settings.letta_base_url:
        made["letta"] = _letta(settings)
    # One home: an agent's blocks are written once, whichever of them is asked.
    agents = LocalAgents(GROUP, shelf) if found.providers else None
    for provider in found.providers:
        made[provider.name] = OpenAIRuntime(
            provider.base_url, provider.api_key, provider.model, name=provider.name, agents=agents
        )
    made["offline"] = OfflineRuntime(shelf)
    return made


def _letta(settings: Settings) -> Runtime:
    try:
        return LettaRuntime(
            settings.letta_base_url,
            settings.letta_api_key,
            model=settings.letta_model,
            embedding=settings.letta_embedding,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
        )
    except Rejected as error:
        raise BadInput(error.message) from error
