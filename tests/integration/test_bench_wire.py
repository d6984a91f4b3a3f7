"""The model that benches talk to answers whatever the runtime asks: one that fails a call would be what is measured."""

from __future__ import annotations

import asyncio

from bench.wire import SAID, Model
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import AgentSpec, Message, Role, TextDelta, Turn


async def test_the_model_of_benches_answers_turns_and_summaries() -> None:
    async with Model(1.0) as model:
        runtime = OpenAIRuntime(model.base_url, "", "m")
        agent = await runtime.create_agent(AgentSpec("tag", "Mara", "You are Mara."), 5.0)
        turn = Turn("turn-1", "You are Mara.", "", (Message(Role.USER, "What of #7?"),))
        said = [delta.text async for delta in runtime.send(agent, turn, 5.0) if isinstance(delta, TextDelta)]
        done = await runtime.complete("Sum up.", "#8 was said.", "", 100, 5.0)
        health = await runtime.check(5.0)
        await runtime.close()
        before = asyncio.get_running_loop().time()
    assert "".join(said) == SAID == done.text
    assert health.ok
    assert (model.calls, model.summaries) == (1, 1)
    assert model.asked.keys() == {7}
    assert 0 < model.asked[7] <= before
