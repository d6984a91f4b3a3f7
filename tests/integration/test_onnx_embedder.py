"""The ONNX embedder over onnxruntime and tokenizers, with a model made here: a vector a word, nothing learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.common.errors import BadInput, Unavailable
from services.sync.embedders.onnx import OnnxEmbedder

pytest.importorskip("onnxruntime", reason="needs the extra: pip install 'earshot[onnx]'")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra: pip install 'earshot[onnx]'")

VOCABULARY = {"[UNK]": 0, "[PAD]": 1, "red": 2, "blue": 3}
TABLE = np.array([[0, 0, 1], [9, 9, 9], [2, 0, 0], [0, 2, 0]], "<f4")


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def tensor(name: str, kind: int, *dims: str) -> bytes:
    """A value of unknown sizes."""
    shape = b"".join(field(1, field(2, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def model() -> bytes:
    """Gather(table, input_ids), as an ONNX ModelProto."""
    table = (
        field(1, TABLE.shape[0])
        + field(1, TABLE.shape[1])
        + field(2, 1)
        + field(8, "table")
        + field(9, TABLE.tobytes())
    )
    node = field(1, "table") + field(1, "input_ids") + field(2, "out") + field(4, "Gather")
    graph = (
        field(1, node)
        + field(2, "g")
        + field(5, table)
        + field(11, tensor("input_ids", 7, "b", "s"))
        + field(12, tensor("out", 1, "b", "s", "d"))
    )
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


def directory(folder: Path, weights: bytes) -> Path:
    (folder / "model.onnx").write_bytes(weights)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    return folder


async def test_a_text_is_the_mean_of_its_words_whatever_stands_beside_it(tmp_path: Path) -> None:
    embedder = OnnxEmbedder(str(directory(tmp_path, model())))
    made = await embedder.embed(["red", "red blue", "red red red blue blue blue", "green"], 30)
    rows = np.frombuffer(made.vectors, "<f2").reshape(4, 3).astype(np.float32)
    assert np.allclose(rows[0], np.array([1, 0, 0]), atol=1e-3)
    assert np.allclose(rows[1], rows[2], atol=1e-3), "padding does not count"
    assert np.allclose(rows[3], np.array([0, 0, 1]), atol=1e-3)
    alone = await embedder.embed([], 30)
    assert (alone.model, alone.dim, alone.vectors) == (made.model, 3, b"")
    assert made.model.startswith("onnx:")
    await embedder.close()


async def test_a_directory_without_a_model_and_a_broken_one_say_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        OnnxEmbedder(str(tmp_path))
    assert refused.value.reason == "EMBED_MODEL_MISSING"
    embedder = OnnxEmbedder(str(directory(tmp_path, b"not a model")))
    with pytest.raises(Unavailable) as failed:
        await embedder.embed(["red"], 30)
    assert failed.value.reason == "EMBEDDER_FAILED"
    await embedder.close()
