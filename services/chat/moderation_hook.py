"""A moderation service of one's own, over HTTP: the adapter behind EARSHOT_MODERATION_URL.

POST {"stage": "before" | "after", "text"} answers {"allowed": bool, "instead": text}. Nothing else is sent: no names,
no ids. Whatever goes wrong is raised: `check_before` and `check_after` decide what that means.
"""

from __future__ import annotations

import httpx

from services.chat.moderation import HOOK_TIMEOUT_S, Verdict

INSTEAD_MAX = 200


class HttpModerator:
    """Asks a service about every line and sentence."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._url = url
        self._client = httpx.AsyncClient(timeout=HOOK_TIMEOUT_S, transport=transport)

    async def before(self, text: str) -> Verdict:
        return await self._ask("before", text)

    async def after(self, text: str) -> Verdict:
        return await self._ask("after", text)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _ask(self, stage: str, text: str) -> Verdict:
        response = await self._client.post(self._url, json={"stage": stage, "text": text})
        response.raise_for_status()
        answer = response.json()
        if not isinstance(answer, dict) or not isinstance(answer.get("allowed"), bool):
            raise TypeError("a verdict is {allowed, instead}")
        return Verdict(answer["allowed"], str(answer.get("instead") or "")[:INSTEAD_MAX])
