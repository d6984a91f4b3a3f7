"""Any server of the OpenAI-compatible /v1/embeddings: OpenAI, vLLM, Ollama, llama.cpp, text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from services.common.errors import BadInput, Unavailable
from services.sync.embedders.port import Embedded, unit

# What a status of the endpoint that is no failure of the service means: the same texts would be refused again.
REFUSED = (400, 413, 422)


class OpenAIEmbedder:
    """One POST a batch; no retries of its own: the queue behind it repeats."""

    def __init__(self, base_url: str, api_key: str, model: str, *, client: httpx.AsyncClient | None = None) -> None:
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._key = api_key
        self._model = model
        self._client = client
        self._dim = 0

    async def embed(self, texts: Sequence[str], timeout: float) -> Embedded:
        # The dimension names the vectors: before anything is embedded one word finds it out.
        rows = await self._rows(texts or (["hello"] if not self._dim else []), timeout)
        if not texts:
            return Embedded(f"{self._model}@{self._dim}", self._dim, b"")
        return unit(rows, self._model)

    async def _rows(self, texts: Sequence[str], timeout: float) -> list[list[float]]:
        if not texts:
            return []
        client = self._client = self._client or httpx.AsyncClient()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        try:
            response = await client.post(self._url, json=body, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise Unavailable("the embeddings endpoint cannot be reached", reason="EMBEDDER_UNREACHABLE") from error
        if response.status_code in REFUSED:
            raise BadInput("the embeddings endpoint refuses these texts", reason="EMBED_REFUSED")
        if response.status_code != 200:
            raise Unavailable(
                f"the embeddings endpoint answers {response.status_code}", reason="EMBEDDER_FAILED",
                retry_after_ms=_retry_ms(response),
            )  # fmt: skip
        try:
            items = sorted(response.json()["data"], key=lambda item: item["index"])
            rows = [[float(value) for value in item["embedding"]] for item in items]
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable("the embeddings endpoint answers something else", reason="EMBEDDER_FAILED") from error
        if len(rows) != len(texts) or len({len(row) for row in rows}) != 1:
            raise Unavailable("the embeddings endpoint answers too little", reason="EMBEDDER_FAILED")
        self._dim = len(rows[0])
        return rows

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _retry_ms(response: httpx.Response) -> int:
    try:
        return min(round(float(response.headers.get("retry-after", "0")) * 1000), 600_000)
    except ValueError:
        return 0
