"""Chunks of a chat completion, as servers write them and as broken ones do."""

from __future__ import annotations

from typing import Any

import pytest

from services.sync.runtimes.chat_stream import ChatReading
from services.sync.runtimes.port import Delta, End, Garbled, TextDelta, UsageDelta


def read(*chunks: Any) -> list[Delta]:
    reading = ChatReading()
    found = [delta for chunk in chunks for delta in reading.take(chunk)]
    return [*found, *reading.finish()]


def said(text: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"delta": {"content": text}, "finish_reason": None}]}


END = {"model": "m", "choices": [{"delta": {}, "finish_reason": "stop"}]}


def test_text_and_usage() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    assert read(said("Well"), said(None), said(" met."), END, usage) == [
        TextDelta("Well"), TextDelta(" met."), UsageDelta(7, 2), End("m", tools=False),
    ]  # fmt: skip


def test_numbers_that_are_none_count_as_nothing() -> None:
    assert UsageDelta(0, 0) in read(said("Yes."), END, {"usage": {"prompt_tokens": "many", "completion_tokens": None}})


@pytest.mark.parametrize("chunk", ["text", 7, ["list"], said(7), said(["a"]), {"model": 5, "choices": []}])
def test_what_is_no_chunk_is_garbled(chunk: Any) -> None:
    with pytest.raises(Garbled):
        read(chunk)


@pytest.mark.parametrize("delta", [None, {}, {"content": ""}, {"role": "assistant"}])
def test_empty_deltas_say_nothing(delta: Any) -> None:
    assert read({"choices": [{"delta": delta, "finish_reason": "stop"}]}) == [End("", tools=False)]
