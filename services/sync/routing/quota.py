"""What one key and model may be asked for: allowances learnt from answers' headers, and rest after a 429 (G1). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.sync.routing.bucket import Bucket
from services.sync.runtimes.port import Limits

# How long a key and model rest after a 429 that does not say.
REST_S = 1.0


@dataclass(slots=True)
class Quota:
    """Requests and tokens. A 429 holds this key and model, and nothing else. Times are loop time."""

    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    held_until: float = 0.0
    _pending: int = 0
    _pending_tokens: float = 0.0

    def ready_at(self, tokens: float, now: float) -> float:
        """When a call of so many tokens may go out; inf = never."""
        return max(self.held_until, self.requests.ready_at(1, now), self.tokens.ready_at(tokens, now), now)

    def take(self, tokens: float, now: float) -> float:
        """Take the place of one call; when it may go out."""
        self._pending += 1
        self._pending_tokens += tokens
        return max(self.held_until, self.requests.take(1, now), self.tokens.take(tokens, now), now)

    def give_back(self, tokens: float) -> None:
        """The call was not made."""
        self.ended(tokens)
        self.requests.give_back(1)
        self.tokens.give_back(tokens)

    def ended(self, tokens: float) -> None:
        """The call is over, or its answer has begun: the other side has counted it."""
        self._pending -= 1
        self._pending_tokens -= tokens

    def learn(self, limits: Limits, now: float) -> None:
        """What an answer says is left. Calls whose answers are still out may not be counted in it yet."""
        if limits.requests is not None:
            told = limits.requests
            self.requests.learn(told.limit, told.remaining, told.reset_s, now, float(self._pending))
        if limits.tokens is not None:
            told = limits.tokens
            self.tokens.learn(told.limit, told.remaining, told.reset_s, now, self._pending_tokens)

    def rest(self, seconds: float, now: float) -> None:
        """429: leave it alone for so long."""
        self.held_until = max(self.held_until, now + (seconds or REST_S))
