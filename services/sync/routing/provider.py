"""What is particular to one provider's key and model: address, share of the load, limits, prices (G1, G4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.sync.routing.bucket import Bucket
from services.sync.routing.quota import Quota

MINUTE_S = 60.0
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Provider:
    """One endpoint of a chain. 0 = not said: the common setting, or no limit.

    Prices in US dollars per million tokens; allowances hold until the answers' headers say others.
    """

    name: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)
    model: str = ""
    weight: float = 1.0
    max_tokens: int = 0
    temperature: float | None = None
    context_messages: int = 0
    context_tokens: int = 0
    price_prompt: float = 0.0
    price_completion: float = 0.0
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    vision: bool = False

    def quota(self) -> Quota:
        """A fresh allowance of the key."""
        return Quota(_per_minute(self.requests_per_minute), _per_minute(self.tokens_per_minute))

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Estimated US dollars."""
        return (prompt_tokens * self.price_prompt + completion_tokens * self.price_completion) / MILLION


def _per_minute(amount: float) -> Bucket:
    return Bucket(amount / MINUTE_S, amount) if amount > 0 else Bucket()
