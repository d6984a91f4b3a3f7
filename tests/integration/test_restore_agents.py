"""A backup of agents that live in a real Letta, and the way back when Letta has lost them: in Letta, or without it.

Needs LETTA_BASE_URL and EARSHOT_FAKE_MODEL_URL: `make test-letta`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from services.cli.commands import main
from tests.fakes.fake_model import FakeModel
from tests.integration.test_sync_room import staged

pytestmark = pytest.mark.letta

# What the agent has come to write itself: no other copy of it exists.
DIARY = "The mill burnt the night that Ada came."


async def earshot(*arguments: str) -> int:
    """Run the command, beside the process of sync or without it."""
    return await asyncio.to_thread(main, list(arguments))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in letta", "in another runtime"])
async def test_agents_that_letta_lost_are_made_anew_with_what_they_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], elsewhere: bool
) -> None:
    import letta_client

    client = letta_client.AsyncLetta(base_url=os.environ["LETTA_BASE_URL"], api_key="none", max_retries=0)
    async with client, FakeModel() as model, staged("letta", tmp_path) as stage:
        stage.state.profile("mara", blocks={"diary": "Nothing yet."})
        stage.put(place="the Lantern", players=["Ada"])
        await stage.converse("SAY:Well met.")
        before = (await stage.status()).agent_id
        await client.agents.blocks.update("diary", agent_id=before, value=DIARY)
        data, kept = ("--data", str(tmp_path / "data")), str(tmp_path / "kept")
        assert await earshot("backup", kept, *data) == 0
        assert "1 agents' blocks" in capsys.readouterr().out
        await stage.end(signal.SIGTERM)
        await client.agents.delete(before)
        assert await earshot("restore", kept, *data, "--force", "--new-runtime") == 0
        assert "blocks of 1 agents are kept for them" in capsys.readouterr().out
        if elsewhere:
            stage.environment |= {
                "EARSHOT_RUNTIMES": "openai,offline",
                "EARSHOT_OPENAI_BASE_URL": model.base_url,
                "OPENAI_API_KEY": "sk-test-canary",
                "EARSHOT_FIRST_SENTENCE_S": "60",
                "EARSHOT_PATIENCE_S": "60",
            }
        await stage.start()
        heard = await stage.converse("RECITE:diary")
        assert DIARY in " ".join(heard.sentences)
        assert heard.finished is not None
        assert heard.finished.runtime == ("openai" if elsewhere else "letta")
        after = (await stage.status()).agent_id
        assert after != before
        if not elsewhere:
            held = {block.label: block.value async for block in client.agents.blocks.list(after)}
            assert held["diary"] == DIARY
            assert "Lantern" in held["situation"], "what Earshot renders is rendered, not restored"
            await client.agents.delete(after)
