"""Which runtimes an NPC may be answered by, in order of preference (G1, G2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import BadInput
from services.sync.context import Profile
from services.sync.routing.endpoint import Endpoint

KINDS = ("letta", "openai", "cached", "markov", "canned", "offline")
# They need no agent: what is said when no model answers (see `voices`).
VOICES = frozenset(("cached", "markov", "canned"))
AFTER_MODELS = ("cached", "markov", "offline")


def names(setting: Sequence[str], *, letta: bool, openai: Sequence[str]) -> tuple[str, ...]:
    """The default chain. Empty: what is configured, then what needs no model. openai: endpoints. Raises BadInput."""
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in setting if part.strip()))
    for name in chosen:
        if name not in KINDS and name not in openai:
            known = ", ".join(dict.fromkeys((*KINDS, *openai)))
            raise BadInput(f"the chain names an unknown runtime {name[:40]!r}; known are {known}")
    if "letta" in chosen and not letta:
        raise BadInput("the chain names letta, which needs LETTA_BASE_URL")
    if "openai" in chosen and not openai:
        raise BadInput("the chain names openai, which needs EARSHOT_OPENAI_BASE_URL or EARSHOT_PROVIDERS")
    if chosen:
        # Blocks need somebody who holds them.
        return chosen if any(name not in VOICES for name in chosen) else (*chosen, "offline")
    models = (*(("letta",) if letta else ()), *(("openai",) if openai else ()))
    return (*models, *AFTER_MODELS) if models else ("offline",)


@dataclass(frozen=True, slots=True)
class Tier:
    """One step of a chain: endpoints that share the load, or a voice (no endpoints)."""

    name: str
    endpoints: tuple[Endpoint, ...] = ()


class Chain:
    """Endpoints by name, and the default order."""

    def __init__(self, endpoints: Mapping[str, Endpoint], default: Sequence[str]) -> None:
        self.endpoints = dict(endpoints)
        self.homes: dict[str, Endpoint] = {}
        for endpoint in self.endpoints.values():
            self.homes.setdefault(endpoint.home, endpoint)
        self._default = self._tiers(default)
        self._primary = next(tier.endpoints[0] for tier in self._default if tier.endpoints)

    def of(self, profile: Profile) -> tuple[Tier, ...]:
        """The profile's own chain as far as it is configured here, else the default. Never empty."""
        return self._tiers(profile.runtimes) or self._default if profile.runtimes else self._default

    def primary(self, profile: Profile) -> Endpoint:
        """Where its agent is kept fresh: the first of the chain that has agents."""
        return next((tier.endpoints[0] for tier in self.of(profile) if tier.endpoints), self._primary)

    def home(self, name: str) -> Endpoint | None:
        """Who reads and writes the agents that are kept under this name."""
        return self.homes.get(name)

    def _tiers(self, chosen: Sequence[str]) -> tuple[Tier, ...]:
        """An endpoint that was named by itself before is not in its group again."""
        tiers: list[Tier] = []
        named: set[str] = set()
        for name in dict.fromkeys(chosen):
            group = tuple(one for one in self.endpoints.values() if name in (one.name, one.home))
            exact = tuple(one for one in group if one.name == name and one.home != name)
            left = tuple(one for one in exact or group if one.name not in named)
            if left or name in VOICES:
                tiers.append(Tier(name, left))
                named.update(one.name for one in left)
        return tuple(tiers)
