"""A sentence encoder in a directory of one's own, run by onnxruntime: nothing is bundled, nothing is downloaded.

The directory holds model.onnx (or onnx/model.onnx) and tokenizer.json. Inputs by name: input_ids, attention_mask and
token_type_ids, whichever the model takes. Output: token vectors (batch, tokens, dim), pooled by their mean over the
mask as sentence-transformers does, or one vector a text (batch, dim), taken as it is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from services.common.errors import BadInput, Unavailable
from services.sync.embedders.port import Embedded, unit

TOKENS_MAX = 256


class OnnxEmbedder:
    """One thread: the model's own threads share the cores already."""

    def __init__(self, directory: str) -> None:
        folder = Path(directory)
        self._model_path = next(
            (p for p in (folder / "model.onnx", folder / "onnx" / "model.onnx") if p.is_file()), None
        )
        self._tokenizer_path = folder / "tokenizer.json"
        if self._model_path is None or not self._tokenizer_path.is_file():
            raise BadInput(f"{directory} holds no model.onnx with a tokenizer.json", reason="EMBED_MODEL_MISSING")
        try:
            import onnxruntime  # noqa: F401 - only whether the extra is there
            import tokenizers  # noqa: F401 - likewise
        except ImportError as error:
            raise BadInput(
                "EARSHOT_EMBED_MODEL_DIR needs pip install 'earshot[onnx]'", reason="EXTRA_NEEDED"
            ) from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync.embedder")
        self._loaded: tuple[Any, Any, str] | None = None

    async def embed(self, texts: Sequence[str], timeout: float) -> Embedded:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            return await loop.run_in_executor(self._thread, self._embed, list(texts))

    def _embed(self, texts: list[str]) -> Embedded:
        try:
            session, tokenizer, name = self._load()
            rows = _pooled(session, tokenizer, texts or ["hello"])
        except Exception as error:  # a model of one's own may fail in any way
            raise Unavailable("the embedding model failed", reason="EMBEDDER_FAILED") from error
        found = unit(rows, name)
        return found if texts else Embedded(found.model, found.dim, b"")

    def _load(self) -> tuple[Any, Any, str]:
        if self._loaded is None:
            import onnxruntime
            from tokenizers import Tokenizer

            assert self._model_path is not None, "looked for when it was made"
            data = self._model_path.read_bytes()
            tokenizer = Tokenizer.from_file(str(self._tokenizer_path))
            tokenizer.enable_truncation(TOKENS_MAX)
            tokenizer.enable_padding()
            session = onnxruntime.InferenceSession(str(self._model_path), providers=["CPUExecutionProvider"])
            # The weights name the vectors: two models in directories of one name are never mixed.
            name = f"onnx:{hashlib.blake2b(data, digest_size=6).hexdigest()}"
            self._loaded = (session, tokenizer, name)
        return self._loaded

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)


def _pooled(session: Any, tokenizer: Any, texts: list[str]) -> Any:
    encodings = tokenizer.encode_batch(texts)
    mask = np.array([one.attention_mask for one in encodings], np.int64)
    given = {
        "input_ids": np.array([one.ids for one in encodings], np.int64),
        "attention_mask": mask,
        "token_type_ids": np.array([one.type_ids for one in encodings], np.int64),
    }
    wanted = {one.name for one in session.get_inputs()}
    (output, *_) = session.run(None, {name: value for name, value in given.items() if name in wanted})
    if output.ndim == 2:
        return output
    weights = mask[:, :, None].astype(np.float32)
    return (output * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
