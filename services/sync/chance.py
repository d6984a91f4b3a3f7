"""What a noun may ask of chance; `random.Random` fits. Who seeds it is the caller's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Chance(Protocol):
    """A source of random choices."""

    def choice(self, seq: Sequence[T], /) -> T: ...

    def choices(self, population: Sequence[T], weights: Sequence[float], /) -> list[T]: ...

    def sample(self, population: Sequence[T], k: int, /) -> list[T]: ...
