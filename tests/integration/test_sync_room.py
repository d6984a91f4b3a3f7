"""The sync room in a process of its own, over real gRPC, with each runtime; killed and started again.

State is the unit tests' fake behind a socket. The letta tests need LETTA_BASE_URL and EARSHOT_FAKE_MODEL_URL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.common.clock import SystemClock
from services.common.errors import from_rpc
from services.common.interceptors import RoomInterceptor
from services.common.telemetry import Metrics
from tests.fakes.fake_letta import FakeLetta, Fault
from tests.fakes.fake_model import FakeModel
from tests.integration.test_runtimes import Model
from tests.unit.sync.fake_runtime import mark_of
from tests.unit.sync.fake_state import FakeState
from tests.unit.sync.room import Heard, Room

ROOT = Path(__file__).parents[2]
LETTA = pytest.param("letta", marks=pytest.mark.letta)
PROCESS = """
import asyncio
from services.common.app import App
from services.common.settings import Settings
from services.sync import server

async def main():
    app = App(Settings(), ("sync",), network=True)
    await server.bind(app)
    async with app:
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port


class Stage:
    """The process, its stub, the state that it watches and the model that it asks."""

    def __init__(self, environment: dict[str, str], state: FakeState, model: Model | None, port: int) -> None:
        self.state = state
        self.model = model
        self.world = f"world/{uuid.uuid4().hex[:10]}"
        self.environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub: Any = sync_pb2_grpc.SyncServiceStub(self._channel)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-c",
            PROCESS,
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            assert (await self._process.stdout.readline()).strip() == b"ready"

    async def interrupt(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self, number: int = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()

    async def close(self) -> None:
        await self.end()
        await self._channel.close()

    def put(self, npc: str = "mara", **fields: Any) -> int:
        return self.state.put(npc, world=self.world, **fields)

    def request(self, text: str, npc: str = "mara", **fields: Any) -> sync_pb2.ConverseRequest:
        self.state.turns += 1
        line = sync_pb2.Line(
            log_seq=self.state.turns, speaker_id="id-Ada", speaker_name="Ada",
            speaker_kind=type_pb2.ENTITY_KIND_PLAYER, text=text,
        )  # fmt: skip
        values: dict[str, Any] = {
            "npc": FakeState.key(npc, self.world), "turn_id": str(uuid.uuid4()), "lines": [line], "speech": True,
            "min_revision": self.state.world(self.world).revision, "actions": True, "player_ids": ["id-Ada"],
        } | fields  # fmt: skip
        return sync_pb2.ConverseRequest(**values)

    async def converse(self, text: str, npc: str = "mara", **fields: Any) -> Heard:
        return await Room.hear(self.stub.Converse(self.request(text, npc, **fields), timeout=20, wait_for_ready=True))

    async def statuses(self, npc: str = "mara") -> list[sync_pb2.NpcSyncStatus]:
        """None of an NPC that nothing was heard of yet."""
        request = sync_pb2.GetSyncStatusRequest(world=FakeState.key(npc, self.world).world, npc_ids=[npc])
        response = await self.stub.GetSyncStatus(request, timeout=5, wait_for_ready=True)
        return list(response.npcs)

    async def status(self, npc: str = "mara") -> sync_pb2.NpcSyncStatus:
        (status,) = await self.statuses(npc)
        return status

    async def until(self, condition: Any, seconds: float = 15.0) -> None:
        """Wait until an async condition holds."""
        for _ in range(round(seconds / 0.1)):
            if await condition():
                return
            await asyncio.sleep(0.1)
        raise AssertionError("it never came to hold")


@asynccontextmanager
async def staged(kind: str | FakeLetta, tmp_path: Path, **extra: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        state = FakeState(SystemClock())  # type: ignore[abstract]  # a fake of part of the service
        server = grpc.aio.server(interceptors=[RoomInterceptor(Metrics())])
        state_pb2_grpc.add_StateServiceServicer_to_server(state, server)
        state_port, sync_port = server.add_insecure_port("127.0.0.1:0"), free_port()
        await server.start()
        stack.push_async_callback(server.stop, None)
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("EARSHOT_", "LETTA_", "OPENAI_", "LLM_"))
        }
        environment |= {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "EARSHOT_DATA": str(tmp_path / "data"),
            "EARSHOT_STATE_ADDR": f"127.0.0.1:{state_port}", "EARSHOT_SYNC_ADDR": f"127.0.0.1:{sync_port}",
        }  # fmt: skip
        model: Model | None = None
        if kind == "openai":
            fake = await stack.enter_async_context(FakeModel())
            model = Model(fake.url)
            environment |= {"EARSHOT_OPENAI_BASE_URL": fake.base_url, "OPENAI_API_KEY": "sk-test-canary"}
        elif kind == "letta":
            model = Model(os.environ["EARSHOT_FAKE_MODEL_URL"])
            environment |= {
                "LETTA_BASE_URL": os.environ["LETTA_BASE_URL"],
                "EARSHOT_LETTA_MODEL": "openai-proxy/gpt-4o-mini",
            }
        if isinstance(kind, FakeLetta):
            environment |= {"LETTA_BASE_URL": kind.url}
        if model is not None:
            stack.push_async_callback(model.close)
        stage = Stage(environment | extra, state, model, sync_port)
        stack.push_async_callback(stage.close)
        await stage.start()
        yield stage


@pytest.mark.parametrize("kind", ["offline", "openai", LETTA])
async def test_the_agent_answers_about_the_world_in_which_it_was_spoken_to(kind: str, tmp_path: Path) -> None:
    async with staged(kind, tmp_path) as stage:
        first = stage.put(place="the Lantern", players=["Ada"])
        heard = await stage.converse("Where are we, and who is here?")
        assert heard.sentences
        assert heard.started[0].revision >= first
        assert heard.finished is not None
        assert heard.finished.runtime == kind
        assert heard.finished.degraded == ("offline" if kind == "offline" else "")
        second = stage.put(place="the Old Harbour", players=["Ada", "Pzora"])
        heard = await stage.converse("And where are we now, and who is with us?")
        assert heard.started[0].revision >= second
        assert heard.sentences
        if stage.model is None:
            assert "Old Harbour" in " ".join(heard.sentences)
            return
        asked = (await stage.model.requests("And where are we now"))[-1]
        system = "\n".join(m["content"] for m in asked["messages"] if m["role"] == "system")
        assert "I am at the Old Harbour." in system
        assert "Pzora, a player" in system
        assert "the Lantern" not in system
        assert json.loads([m["content"] for m in asked["messages"] if m["role"] == "user"][-1])["speaker"] == "Ada"
        recited = await stage.converse("RECITE:situation")
        assert "Old Harbour" in " ".join(recited.sentences)


@pytest.mark.parametrize("kind", ["openai", LETTA])
async def test_actions_come_as_data_and_no_agent_is_left_pending(kind: str, tmp_path: Path) -> None:
    async with staged(kind, tmp_path) as stage:
        stage.state.locations = [type_pb2.Location(slug="mill", name="the Mill", position=type_pb2.Vector3(x=1))]
        stage.put(place="the Lantern", players=["Ada"])
        heard = await stage.converse('CALL:follow {"target": "ada"} CALL:navigate {"location": "moon"} SAY:Coming.')
        assert heard.sentences == ["Coming."]
        assert [action.type for action in heard.actions] == ["follow"]
        assert json.loads(heard.actions[0].data)["target_id"] == "id-Ada"
        heard = await stage.converse('CALL:navigate {"location": "mill"}')
        assert [action.type for action in heard.actions] == ["navigate"]
        assert heard.sentences  # the continuation
        assert (await stage.converse("SAY:Still here.")).sentences == ["Still here."]
        assert (await stage.converse("PASS:")).finished.outcome == sync_pb2.CONVERSE_OUTCOME_PASSED  # type: ignore[union-attr]  # it finished

        async def expected() -> bool:
            return len(stage.state.observations) == 2

        await stage.until(expected)
        assert [one.status.action for one in stage.state.observations] == ["Following", "Moving"]


@pytest.mark.parametrize("kind", ["offline", "openai", LETTA])
async def test_kill_9_loses_no_agent_and_rewrites_nothing(kind: str, tmp_path: Path) -> None:
    async with staged(kind, tmp_path) as stage:
        stage.put(place="the Lantern", players=["Ada"])
        request = stage.request("SAY:I remember.")
        await Room.hear(stage.stub.Converse(request, timeout=20))
        before = await stage.status()
        assert before.agent_id
        await stage.end(signal.SIGKILL)
        await stage.start()
        after = await stage.status()
        assert (after.agent_id, after.confirmed_revision) == (before.agent_id, before.confirmed_revision)
        # The turn was executed: its id is refused, over a restart too.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Room.hear(stage.stub.Converse(request, timeout=20, wait_for_ready=True))
        assert from_rpc(caught.value).reason == "TURN_EXECUTED"
        heard = await stage.converse("SAY:And I go on.")
        assert heard.sentences
        assert not any(block.written for block in heard.started[0].blocks)
        if stage.model is not None:
            asked = (await stage.model.requests("SAY:And I go on."))[-1]
            assert "I am at the Lantern." in json.dumps(asked)


@pytest.mark.parametrize("kind", ["openai", LETTA])
async def test_cancelling_over_the_wire_frees_the_caller(kind: str, tmp_path: Path) -> None:
    async with staged(kind, tmp_path) as stage:
        stage.put(players=["Ada"])
        await stage.converse("SAY:First.")
        call = stage.stub.Converse(stage.request("DELAY:2500 SAY:Nobody hears this."), timeout=20)
        async for event in call:
            assert event.WhichOneof("event") == "started"
            break
        call.cancel()
        started = asyncio.get_running_loop().time()
        if kind == "openai":
            # Nothing is kept there: the next turn is answered at once.
            assert (await stage.converse("SAY:Next.")).sentences == ["Next."]
            assert asyncio.get_running_loop().time() - started < 2
            return
        # The agent still executes the turn and is asked nothing more; another runtime answers for it.
        spare = await Room.hear(stage.stub.Converse(stage.request("SAY:Too soon."), timeout=2))
        assert spare.started[0].runtime == "offline"
        assert stage.model is not None
        assert not await stage.model.requests("SAY:Too soon.")

        async def free() -> bool:
            return not (await stage.status()).in_flight

        await stage.until(free)
        assert (await stage.converse("SAY:Next.")).sentences == ["Next."]
        system = json.dumps((await stage.model.requests("SAY:Next."))[-1])
        assert "Your last answer was cut off; nobody heard it." in system


@pytest.mark.parametrize("kind", ["fake_letta", LETTA])
async def test_blocks_that_somebody_else_changed_in_letta_are_repaired_alone(kind: str, tmp_path: Path) -> None:
    import letta_client

    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeLetta()) if kind == "fake_letta" else None
        stage = await stack.enter_async_context(staged(fake or kind, tmp_path, EARSHOT_DRIFT_EVERY_S="0.5"))
        url = fake.url if fake is not None else os.environ["LETTA_BASE_URL"]
        client = letta_client.AsyncLetta(base_url=url, api_key="none", max_retries=0)
        await stack.enter_async_context(client)
        stage.put(place="the Lantern", players=["Ada"])
        agent_id = ""

        async def made() -> bool:
            nonlocal agent_id
            agent_id = next((one.agent_id for one in await stage.statuses()), "")
            return agent_id != ""

        await stage.until(made, 60)

        async def held() -> dict[str, str]:
            return {str(block.label): str(block.value) async for block in client.agents.blocks.list(agent_id)}

        before = await held()
        # News that wait for their turn: the sample neither passes the agent by nor writes them.
        stage.put(lane=type_pb2.LANE_LOW, place="the Mill")
        await client.agents.blocks.update("persona", agent_id=agent_id, value="Somebody else's hand was here.")

        async def repaired() -> bool:
            return (await held())["persona"] == before["persona"]

        await stage.until(repaired, 60)
        assert await held() == before
        assert (await stage.status()).dirty
        await client.agents.blocks.update("situation", agent_id=agent_id, value="Somebody else's hand was here.")

        async def newest() -> bool:
            return "the Mill" in (await held())["situation"]

        await stage.until(newest, 60)
        # An agent that somebody deleted is made anew, without a turn.
        await client.agents.delete(agent_id)

        async def made_anew() -> bool:
            return (await stage.status()).agent_id not in ("", agent_id)

        await stage.until(made_anew, 60)


@pytest.mark.letta
async def test_a_dead_letta_is_replaced_and_its_agent_comes_back(tmp_path: Path) -> None:
    async with staged("letta", tmp_path) as stage:
        assert stage.model is not None
        stage.put(place="the Lantern", players=["Ada"])
        await stage.converse("SAY:First.")
        mark = uuid.uuid4().hex
        await stage.model.fault(mode="status", status=500, count=9, match=mark)
        heard = await stage.converse(f"Who are you? {mark}")
        assert heard.finished is not None
        assert (heard.finished.runtime, heard.finished.degraded) == ("offline", "offline")
        assert "Mara" in " ".join(heard.sentences)
        heard = await stage.converse("SAY:Back.")
        assert heard.finished is not None
        assert (heard.finished.runtime, heard.sentences) == ("letta", ["Back."])


@pytest.mark.letta
async def test_letta_forgets_what_may_not_stay_and_deletes_what_is_closed(tmp_path: Path) -> None:
    async with staged("letta", tmp_path) as stage:
        assert stage.model is not None
        stage.put(place="the Lantern", players=["Ada"])
        await stage.converse("SAY:Noted. xyzzy", history_generation=1)
        await stage.converse("SAY:After the end of a session.", history_generation=2)
        asked = (await stage.model.requests("After the end of a session."))[-1]
        assert "xyzzy" not in json.dumps(asked)
        before = await stage.status()
        request = sync_pb2.ErasePlayerRequest(tenant="t", player_id="id-Ada", npcs=[FakeState.key("mara", stage.world)])
        response = await stage.stub.ErasePlayer(request, timeout=20)
        (receipt,) = [one for one in response.receipts if one.store == "sync.agents.letta"]
        assert receipt.removed == 1
        assert receipt.not_erasable

        async def made_anew() -> bool:
            return (await stage.status()).agent_id not in ("", before.agent_id)

        await stage.until(made_anew)
        import letta_client

        client = letta_client.AsyncLetta(base_url=os.environ["LETTA_BASE_URL"], api_key="none", max_retries=0)
        tag = f"earshot:t:{stage.world.replace('/', '%2F')}:mara"
        async with client:
            with pytest.raises(letta_client.NotFoundError):
                await client.agents.retrieve(before.agent_id)
            stage.state.close(stage.world)

            async def gone() -> bool:
                agents = [agent.id async for agent in client.agents.list(tags=[tag])]
                blocks = [block.id async for block in client.blocks.list(tags=[tag])]
                return agents == [] and blocks == []

            await stage.until(gone)


async def test_settings_that_cannot_work_are_said_at_the_start(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "EARSHOT_DATA": str(tmp_path), "EARSHOT_RUNTIMES": "letta",
        "LETTA_BASE_URL": "", "EARSHOT_LETTA_BASE_URL": "",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode != 0
    assert b"needs LETTA_BASE_URL" in errors


async def test_the_next_provider_answers_and_all_dead_is_marked(tmp_path: Path) -> None:
    async with FakeModel(reply="Here I am.") as spare:
        providers = json.dumps({
            "chain": ["openai:first", "openai:spare", "canned"],
            "provider": [
                {"name": "first", "base_url": "http://127.0.0.1:9/v1"},
                {"name": "spare", "base_url": spare.base_url, "model": "spare-model", "max_tokens": 33},
            ],
        })  # fmt: skip
        async with staged("offline", tmp_path, EARSHOT_PROVIDERS=providers) as stage:
            stage.put(place="the Lantern", players=["Ada"])
            heard = await stage.converse("Are you there?")
            assert heard.finished is not None
            assert (heard.finished.runtime, heard.finished.degraded, heard.sentences) == (
                "openai:spare",
                "",
                ["Here I am."],
            )
            asked = spare.requests[-1]
            assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("spare-model", 33, 0.7)
            async with spare.refusing():
                heard = await stage.converse("And now?")
            assert heard.finished is not None
            assert (heard.finished.degraded, heard.finished.degraded_reason) == ("canned", "RUNTIME_FAILED")
            assert heard.started[-1].degraded == "canned"
            assert heard.sentences


async def test_a_process_that_was_stopped_for_a_while_writes_nothing_old_when_it_goes_on(tmp_path: Path) -> None:
    """Stopped in the middle of a write and of a turn, as by a suspended machine (R7): the newest value is the last."""
    async with FakeLetta() as letta, staged(letta, tmp_path) as stage:
        stage.put(health=100)

        def held() -> str:
            return next((agent.blocks["situation"].value for agent in letta.agents.values()), "")

        async def made() -> bool:
            return bool(held())

        await stage.until(made)
        letta.faults["*"] = Fault("slow", ms=400)
        turn = asyncio.ensure_future(stage.converse("Hello?"))
        stage.put(lane=type_pb2.LANE_HIGH, combat=True, health=80)
        calls = letta.calls["write"]

        async def writing() -> bool:
            return letta.calls["write"] > calls

        await stage.until(writing)
        await stage.interrupt(signal.SIGSTOP)
        for health in (60, 40, 20):
            newest = stage.put(lane=type_pb2.LANE_HIGH, combat=True, health=health)
            await asyncio.sleep(1.0)
        letta.faults.clear()
        await stage.interrupt(signal.SIGCONT)

        async def told() -> bool:
            return f"mark {newest}." in held()

        await stage.until(told, 30)
        await asyncio.gather(turn, return_exceptions=True)
        (block,) = (agent.blocks["situation"] for agent in letta.agents.values())
        marks = [mark_of(text) for text in block.history]
        assert marks == sorted(marks)
        assert marks[-1] == newest
        assert letta.violations == []
        assert (await stage.status()).confirmed_revision >= newest


async def test_completions_and_refresh_over_the_wire(tmp_path: Path) -> None:
    async with staged("openai", tmp_path) as stage:
        stage.put(place="the Lantern")
        request = sync_pb2.CompleteRequest(tenant="t", purpose="summary", system="Be brief.", text="SAY:All is well.")
        response = await stage.stub.Complete(request, timeout=10)
        assert (response.text, response.runtime) == ("All is well.", "openai")
        refresh = sync_pb2.RefreshRequest(npcs=[FakeState.key("mara", stage.world)], wait=True)
        (result,) = (await stage.stub.Refresh(refresh, timeout=10)).results
        assert result.outcome == sync_pb2.REFRESH_OUTCOME_CONFIRMED
        status = await stage.stub.GetSyncStatus(
            sync_pb2.GetSyncStatusRequest(world=FakeState.key("mara", stage.world).world), timeout=5
        )
        assert [one.name for one in status.runtimes] == ["openai", "offline"]
        assert isinstance(stage.state.key(), state_pb2.NpcKey)


async def test_erasing_leaves_no_byte_in_the_store(tmp_path: Path) -> None:
    def kept(word: bytes) -> bool:
        return any(word in path.read_bytes() for path in tmp_path.rglob("sync.db*"))

    async with staged("openai", tmp_path) as stage:
        stage.put(place="the Lantern", players=["Ada"])
        await stage.converse("SAY:Noted. marzipan")
        assert kept(b"Ada")
        stage.put(place="the Lantern", players=[])
        request = sync_pb2.ErasePlayerRequest(tenant="t", player_id="id-Ada", npcs=[FakeState.key("mara", stage.world)])
        await stage.stub.ErasePlayer(request, timeout=20)
        for word in (b"marzipan", b"Ada"):
            assert not kept(word)
