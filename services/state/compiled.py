"""Getting this room's compiled code ready without making a request wait for it.

Until `warm_up` (call it in a thread at start) has imported the kernels, and where there is no numba, the
nouns compute in numpy: slower, never otherwise.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

CACHE_NAME = "earshot-numba"

kernels: Any = None
"""`services.state.kernels` once it is ready, else None."""


def warm_up(fallback: Path | None = None) -> None:
    """Load or compile the kernels; blocks for up to some seconds.

    Compiled code is kept in the user's cache directory, else in `fallback`, else not at all. Raises
    ImportError where numba is missing.
    """
    global kernels
    import numba  # half a second of import, and optional: only here

    # Kernels are compiled as their module is imported, so where to keep the result is decided before that.
    config: Any = numba.config  # its attributes are made at run time
    config.CACHE_DIR = config.CACHE_DIR or writable(_user_cache(), fallback)
    from services.state import kernels as ready  # compiles on import

    kernels = ready


def writable(*candidates: Path | None) -> str:
    """The first directory that only this user can write; "" where there is none."""
    for candidate in candidates:
        if candidate is None:
            continue
        try:
            candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=candidate):
                # Cached code is executed: a directory that somebody else may write is no place for it.
                status = candidate.stat()
                if status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    return str(candidate)
        except OSError:
            continue
    return ""


def _user_cache() -> Path | None:
    if root := os.environ.get("XDG_CACHE_HOME"):
        return Path(root) / CACHE_NAME
    try:
        return Path.home() / ".cache" / CACHE_NAME
    except RuntimeError:  # a user without a home directory
        return None
