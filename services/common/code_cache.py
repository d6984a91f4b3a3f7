"""Where compiled code is kept between starts: a directory that only this user can write, since it is executed."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

NAME = "earshot-numba"


def keep_compiled(fallback: Path | None) -> None:
    """Say where numba keeps what it compiles: in the user's cache directory, else in `fallback`, else nowhere.

    Kernels are compiled as their module is imported: call this before. Raises ImportError where numba is missing.
    """
    import numba  # half a second of import, and optional: only here

    # An install may be read-only; without a place to write, numba would refuse a cached function altogether.
    config: Any = numba.config  # its attributes are made at run time
    config.CACHE_DIR = config.CACHE_DIR or writable(_user_cache(), fallback)


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
        return Path(root) / NAME
    try:
        return Path.home() / ".cache" / NAME
    except RuntimeError:  # a user without a home directory
        return None
