"""What an NPC is reminded of, as one message: older lines that it witnessed, apart from what is said now. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from services.sync.hygiene import clean, clean_name
from services.sync.runtimes.port import Message, Role
from services.sync.speech.prompt import LINE_MAX, Line


def memories(recalled: Sequence[Line], shown: Sequence[Line]) -> Message | None:
    """The lines that are not shown anyway, in the user role: they hold what players said. None when there are none."""
    seen = {line.seq for line in shown}
    said = [
        {"speaker": "you" if line.own else clean_name(line.speaker), "text": clean(line.text, LINE_MAX)}
        for line in recalled
        if line.seq not in seen
    ]
    return Message(Role.USER, json.dumps({"memories": said}, ensure_ascii=False)) if said else None
