"""Numbers that nouns and their compiled twins share: kinds of entities, bands of distance and of health.

Imports nothing of the room, so that the kernels depend on no noun that waits for them.
"""

from __future__ import annotations

NPC, PLAYER = 1, 2  # earshot.type.v1.EntityKind

# No place is known.
UNKNOWN = -1
# Bands of the nearest place: enter at most, leave beyond, in studs.
AT, NEAR, FAR = 1, 2, 3
AT_ENTER, AT_LEAVE = 5.0, 6.0
NEAR_ENTER, NEAR_LEAVE = 30.0, 33.0
# Another place must be nearer by this to become the nearest.
PLACE_BAND = 3.0

# Health shown in tens keeps its value until the exact one is farther than this from it, in percent.
HEALTH_BAND = 7.0
# A fall of this much of the maximum since the last alarm is one (C4), in percent.
ALARM = 10.0
