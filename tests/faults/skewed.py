"""`earshot up` whose wall clock stands where a file says: seconds ahead of (or behind) the true one (R8).

CLOCK=FILE python -m tests.faults.skewed up --target all
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from services.cli import main
from services.common.clock import SystemClock

_file = Path(os.environ["CLOCK"])
_true_ns, _true = time.time_ns, time.time


def _ahead() -> float:
    return float(_file.read_text() or 0)


def _now_ms(self: SystemClock) -> int:
    return _true_ns() // 1_000_000 + round(_ahead() * 1000)


if __name__ == "__main__":
    # Rooms read the clock; the libraries beside them the system's.
    SystemClock.now_ms = _now_ms  # type: ignore[method-assign] # on purpose: the product has no seam for it
    time.time = lambda: _true() + _ahead()
    time.time_ns = lambda: _true_ns() + round(_ahead() * 1e9)
    sys.exit(main())
