"""Which runtimes an NPC may be answered by, in order of preference (G1, G2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.common.errors import BadInput
from services.sync.context import Profile
from services.sync.endpoint import Endpoint

KINDS = ("letta", "openai", "offline")


def names(setting: str, *, letta: bool, openai: bool) -> tuple[str, ...]:
    """The default chain. Empty: what is configured, then offline as the last resort. Raises BadInput."""
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in setting.split(",") if part.strip()))
    for name in chosen:
        if name not in KINDS:
            raise BadInput(f"EARSHOT_RUNTIMES names an unknown runtime; known are {', '.join(KINDS)}")
    if "letta" in chosen and not letta:
        raise BadInput("EARSHOT_RUNTIMES names letta, which needs LETTA_BASE_URL")
    if chosen:
        return chosen
    return (*(("letta",) if letta else ()), *(("openai",) if openai else ()), "offline")


class Chain:
    """Endpoints by name, and the default order."""

    def __init__(self, endpoints: Mapping[str, Endpoint], default: Sequence[str]) -> None:
        self.endpoints = dict(endpoints)
        self._default = tuple(endpoints[name] for name in default)

    def of(self, profile: Profile) -> tuple[Endpoint, ...]:
        """The profile's own chain as far as it is configured here, else the default. Never empty.

        A profile that names an existing agent starts where agents keep their own text.
        """
        own = tuple(self.endpoints[name] for name in profile.runtimes if name in self.endpoints)
        return own or self._default

    def get(self, name: str) -> Endpoint | None:
        return self.endpoints.get(name)
