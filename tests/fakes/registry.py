"""A registry without a store: who serves what, how long leases last, and what becomes of asking."""

from __future__ import annotations

from dataclasses import dataclass

from services.common.errors import EarshotError
from services.common.registry import Registry


@dataclass
class FakeRegistry(Registry):
    """What a directory looks at. served: address by partition; leases: ms by address; failure: instead of an answer."""

    served: dict[int, str]
    leases: dict[str, int]
    failure: EarshotError | None = None
    looks: int = 0

    async def look(self) -> tuple[dict[int, str], dict[str, int]]:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return dict(self.served), dict(self.leases)
