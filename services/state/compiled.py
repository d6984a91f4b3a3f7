"""Getting this room's compiled code ready without making a request wait for it.

Until `warm_up` (call it in a thread at start) has imported the kernels, and where there is no numba, the
nouns compute in numpy: slower, never otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from services.common.code_cache import keep_compiled

kernels: Any = None
"""`services.state.kernels` once it is ready, else None."""


def warm_up(fallback: Path | None = None) -> None:
    """Load or compile the kernels; blocks for up to some seconds.

    Compiled code is kept in the user's cache directory, else in `fallback`, else not at all. Raises
    ImportError where numba is missing.
    """
    global kernels
    keep_compiled(fallback)
    from services.state import kernels as ready  # compiles on import

    kernels = ready
