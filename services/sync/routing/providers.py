"""Which providers there are, and in which order they answer: the file or JSON of EARSHOT_PROVIDERS, or the environment.

chain = ["letta", "openai", "cached", "markov", "offline"]

[[provider]]                       # in a chain: openai:gpt, or openai for all of them by weight
name = "gpt"
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"     # or api_key_file; never the key itself in a file that is shared
model = "gpt-4o-mini"
weight = 3

[budget.main]                      # a tenant; "*" = every other one
daily_tokens = 2_000_000
daily_usd = 5.0
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from services.common.errors import BadInput
from services.common.settings import Settings
from services.sync.routing.provider import Provider
from services.sync.runtimes.openai import DEFAULT_BASE_URL

# US dollars per million tokens of the model that is the default; others are said in the file.
KNOWN_PRICES = {"gpt-4o-mini": (0.15, 0.60)}
GROUP = "openai"


class _Provider(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str = msgspec.field()
    base_url: str = DEFAULT_BASE_URL
    api_key: str = ""
    api_key_env: str = ""
    api_key_file: str = ""
    model: str = "gpt-4o-mini"
    weight: float = 1.0
    max_tokens: int = 0
    temperature: float | None = None
    context_messages: int = 0
    context_tokens: int = 0
    price_prompt: float | None = None
    price_completion: float | None = None
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    vision: bool = False


class _Budget(msgspec.Struct, forbid_unknown_fields=True):
    daily_tokens: int = 0
    daily_usd: float = 0.0


class _File(msgspec.Struct, forbid_unknown_fields=True):
    chain: list[str] = []
    provider: list[_Provider] = []
    budget: dict[str, _Budget] = {}


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one tenant per UTC day; 0 = none."""

    tokens: int = 0
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Configured:
    """What is configured. budgets: by tenant, "*" = every other one."""

    chain: tuple[str, ...] = ()
    providers: tuple[Provider, ...] = ()
    budgets: Mapping[str, Budget] = field(default_factory=dict)


def configured(settings: Settings, environment: Mapping[str, str] = os.environ) -> Configured:
    """Providers of the settings. Raises BadInput that says what is wrong, never a key."""
    file = _read(settings.providers) if settings.providers else _File()
    providers = [_provider(one, environment) for one in file.provider]
    if settings.openai_base_url or settings.llm_provider == GROUP:
        providers.insert(0, _of_environment(settings))
    names = [one.name for one in providers]
    if len(set(names)) != len(names):
        raise BadInput("EARSHOT_PROVIDERS names a provider twice")
    budgets = {tenant: Budget(one.daily_tokens, one.daily_usd) for tenant, one in file.budget.items()}
    budgets.setdefault("*", Budget(settings.daily_tokens, settings.daily_usd))
    return Configured(tuple(file.chain), tuple(providers), budgets)


def _read(setting: str) -> _File:
    try:
        if setting.lstrip().startswith("{"):
            return msgspec.json.decode(setting, type=_File)
        text = Path(setting).read_text(encoding="utf-8")
        raw: Any = msgspec.json.decode(text) if setting.endswith(".json") else tomllib.loads(text)
        return msgspec.convert(raw, _File)
    except OSError as error:
        raise BadInput(f"EARSHOT_PROVIDERS cannot be read ({type(error).__name__})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"EARSHOT_PROVIDERS is not TOML ({type(error).__name__})") from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        # It names the field; values are not in it.
        raise BadInput(f"EARSHOT_PROVIDERS: {error}") from error


def _provider(raw: _Provider, environment: Mapping[str, str]) -> Provider:
    where = f"EARSHOT_PROVIDERS, provider {raw.name!r}"
    if not raw.name or not raw.name.replace("-", "").replace("_", "").isalnum() or len(raw.name) > 32:
        raise BadInput("EARSHOT_PROVIDERS: a provider's name has 1 to 32 letters, digits, - and _")
    if not raw.base_url.startswith(("http://", "https://")):
        raise BadInput(f"{where}: base_url needs http:// or https://")
    numbers = (raw.weight, raw.requests_per_minute, raw.tokens_per_minute, raw.context_tokens, raw.max_tokens)
    if not all(0 <= value < 1e12 for value in (*numbers, raw.context_messages)):
        raise BadInput(f"{where}: a number is negative or too large")
    known = KNOWN_PRICES.get(raw.model, (0.0, 0.0)) if raw.base_url == DEFAULT_BASE_URL else (0.0, 0.0)
    return Provider(
        f"{GROUP}:{raw.name}", raw.base_url, _key(raw, environment, where), raw.model, raw.weight, raw.max_tokens,
        raw.temperature, raw.context_messages, raw.context_tokens,
        known[0] if raw.price_prompt is None else raw.price_prompt,
        known[1] if raw.price_completion is None else raw.price_completion,
        raw.requests_per_minute, raw.tokens_per_minute, raw.vision,
    )  # fmt: skip


def _key(raw: _Provider, environment: Mapping[str, str], where: str) -> str:
    if raw.api_key_env:
        if not environment.get(raw.api_key_env):
            raise BadInput(f"{where}: the environment has no {raw.api_key_env}")
        return environment[raw.api_key_env]
    if raw.api_key_file:
        try:
            return Path(raw.api_key_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadInput(f"{where}: api_key_file cannot be read ({type(error).__name__})") from error
    return raw.api_key


def _of_environment(settings: Settings) -> Provider:
    base_url = settings.openai_base_url or DEFAULT_BASE_URL
    if base_url == DEFAULT_BASE_URL and not settings.openai_api_key:
        raise BadInput("LLM_PROVIDER=openai needs OPENAI_API_KEY, or EARSHOT_OPENAI_BASE_URL of a server of your own")
    prices = (settings.prompt_price, settings.completion_price)
    if base_url == DEFAULT_BASE_URL and not any(prices):
        prices = KNOWN_PRICES.get(settings.openai_model, prices)
    return Provider(
        GROUP, base_url, settings.openai_api_key, settings.openai_model, context_tokens=settings.context_tokens,
        price_prompt=prices[0], price_completion=prices[1], vision=settings.vision,
    )  # fmt: skip
