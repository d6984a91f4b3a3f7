"""Why the text about a row could differ: bits of a column, and what each asks for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Causes = npt.NDArray[np.uint16]

ALARMED = 1 << 0  # death, or a fall of a tenth of the maximum
COMBAT = 1 << 1  # entered or left
URGENT = 1 << 2  # a critical result of an action
PLACE = 1 << 3  # another nearest place or band
ACTED = 1 << 4
LOCATED = 1 << 5  # the game names another location
NEW = 1 << 6
TOUCHED = 1 << 7  # a transition of its lineage, or alone now
TENS = 1 << 8  # health in tens
RENAMED = 1 << 9  # called or described otherwise
FADED = 1 << 10  # a member is called or looks different, or a departure is forgotten
EVENTFUL = 1 << 11
PROFILE = 1 << 12

# By urgency, the highest that applies counts,
HIGH = ALARMED | COMBAT | URGENT
MEDIUM = PLACE | ACTED | LOCATED | NEW | TOUCHED
LOW = TENS | RENAMED | FADED | EVENTFUL | PROFILE
# and by what the text is about.
STATUS = HIGH | PLACE | ACTED | LOCATED | NEW | TENS | RENAMED | PROFILE
GROUP = TOUCHED | FADED | NEW
EVENTS = EVENTFUL | NEW
