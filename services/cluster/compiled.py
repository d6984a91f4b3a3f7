"""Getting compiled code ready without making a request wait for it.

`CompiledMethod` answers in pure Python until `warm_up` (call it in a thread at start) has imported the
kernels, which compiles them (seconds, once) or loads them from the disk cache (a tenth of a second). A
process that can neither compile nor cache still answers, only slower.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from services.cluster.proximity import Batch, Rows, components_in_python
from services.common.code_cache import keep_compiled


class CompiledMethod:
    """A `proximity.Method` that becomes fast once warmed up; safe to call from any thread at any time."""

    __slots__ = ("_kernel",)

    def __init__(self) -> None:
        self._kernel: Callable[[Batch], Rows] | None = None

    @property
    def ready(self) -> bool:
        """Whether answers come from compiled code."""
        return self._kernel is not None

    def __call__(self, batch: Batch) -> Rows:
        """Label every row with the smallest row of its component (see `proximity.Method`)."""
        kernel = self._kernel
        return components_in_python(batch) if kernel is None else kernel(batch)

    def warm_up(self, fallback: Path | None = None) -> None:
        """Load or compile the kernels; blocks for up to some seconds.

        Compiled code is kept in the user's cache directory, else in `fallback`, else not at all. Raises
        ImportError where numba is missing.
        """
        self._kernel = _load(fallback)


def _load(fallback: Path | None) -> Callable[[Batch], Rows]:
    keep_compiled(fallback)
    from services.cluster import kernels  # compiles on import

    compiled: Any = kernels.components  # its type is the plain function's, its signature the compiled one's

    def components(batch: Batch) -> Rows:
        label = np.empty(len(batch.x), np.int32)
        compiled(*batch.columns, kernels.BRUTE_FORCE_LIMIT, label)
        return label

    return components
