"""What an embedder does: texts in, unit vectors out, named by the model that made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from services.common.errors import BadInput, Unavailable

TEXTS_MAX = 128


@dataclass(frozen=True, slots=True)
class Embedded:
    """model: name and dimension, "name@384". vectors: float16 little-endian, dim values a text, unit length."""

    model: str
    dim: int
    vectors: bytes


class Embedder(Protocol):
    """Port. Raises EarshotError: BadInput EMBED_REFUSED for what no repetition helps, Unavailable otherwise."""

    async def embed(self, texts: Sequence[str], timeout: float) -> Embedded:
        """Vectors in the order of the texts; none = only the model."""
        ...

    async def close(self) -> None: ...


class NoEmbedder:
    """There is none, and it says so."""

    async def embed(self, texts: Sequence[str], timeout: float) -> Embedded:
        raise Unavailable("no embedder is configured", reason="NO_EMBEDDER", retryable=False)

    async def close(self) -> None: ...


def unit(rows: Any, model: str) -> Embedded:
    """Rows as unit vectors of half precision. Raises BadInput for a row that is not finite or empty."""
    matrix = np.asarray(rows, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or not np.isfinite(matrix).all():
        raise BadInput("the embedder answered no vectors", reason="EMBED_REFUSED")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    halves = (matrix / np.where(lengths == 0, 1, lengths)).astype("<f2")
    return Embedded(f"{model}@{matrix.shape[1]}", int(matrix.shape[1]), halves.tobytes())
