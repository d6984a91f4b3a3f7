"""What Letta's API takes, from the port's values. No SDK here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from services.sync.runtimes.port import Block, Message

_UNFIT = re.compile(r"[^\w '\-]+", re.UNICODE)


def fit_name(name: str) -> str:
    """A name that Letta takes: letters, digits, blanks, hyphens, underscores, apostrophes; never empty."""
    return " ".join(_UNFIT.sub(" ", name).split())[:60] or "npc"


def model_settings(handle: str, own: Mapping[str, Any], max_tokens: int, temperature: float) -> dict[str, Any]:
    """Settings in the form of the handle's provider; of other providers Letta's own defaults stay."""
    provider = handle.split("/", 1)[0]
    kind = "openai" if provider in ("openai", "openai-proxy") else provider
    if kind not in ("openai", "anthropic"):
        return {}
    settings: dict[str, Any] = {
        "provider_type": kind,
        "max_output_tokens": int(_number(own.get("max_tokens"), max_tokens)),
        "temperature": float(_number(own.get("temperature"), temperature)),
        # Without it Letta stores only the first of several calls.
        "parallel_tool_calls": True,
    }
    if kind == "openai":
        # Strict schemas allow no optional arguments; what comes is validated here anyway.
        settings["strict"] = False
    return settings


def _number(value: object, default: float) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def block_param(block: Block, tag: str) -> dict[str, Any]:
    """A block to be created, marked as ours by the agent's tag."""
    return {
        "label": block.label,
        "value": block.text,
        "limit": block.limit,
        "description": block.description,
        # Written from typed fields by Earshot only; the agent reads.
        "read_only": True,
        "tags": [tag],
    }


def message_param(message: Message) -> dict[str, Any]:
    """One message of a turn."""
    return {"role": message.role.value, "content": message.text}


def approval(call_id: str, text: str, status: str) -> dict[str, Any]:
    """The result of one client-side tool call; status is success or error."""
    return {"type": "tool", "tool_call_id": call_id, "tool_return": text, "status": status}
