"""An NPC keeps talking: the next runtime in time, degraded replies that say so, nothing executed twice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from earshot.sync.v1 import sync_pb2

from services.sync.context import Key
from services.sync.crew import Crew
from services.sync.routing.breaker import OPEN_MIN_S
from services.sync.routing.provider import Provider
from services.sync.routing.providers import Budget, Configured
from services.sync.runtimes.port import (
    Completion,
    Garbled,
    RateLimited,
    RuntimeFault,
    ServerFault,
    TimedOut,
    Unreachable,
)
from services.sync.speech.prompt import Line
from services.sync.summary import Summaries
from tests.unit.sync.fake_runtime import FakeRuntime, Plan, words
from tests.unit.sync.fake_state import FakeState
from tests.unit.sync.room import Heard, Room, room
from tests.unit.sync.test_turns import failure


def line(seq: int, text: str, **fields: Any) -> sync_pb2.Line:
    own = fields.get("own", False)
    return sync_pb2.Line(log_seq=seq, speaker_name="Mara" if own else "Ada", text=text, **fields)


def ended(heard: Heard) -> tuple[str, str, str]:
    assert heard.finished is not None
    return heard.finished.runtime, heard.finished.degraded, heard.finished.degraded_reason


def metric(sync: Room, name: str, **labels: str) -> float:
    return sync.app.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan(fault=Unreachable("refused")), "RUNTIME_FAILED"),
        (Plan(fault=ServerFault("500")), "RUNTIME_FAILED"),
        (Plan(fault=Garbled("no JSON")), "RUNTIME_FAILED"),
        (Plan(fault=RateLimited("429", 30.0)), "RUNTIME_RATE_LIMITED"),
        (Plan(hang=True, lands=None), "TURN_TIMEOUT"),
    ],
)
@pytest.mark.parametrize("stateful", [True, False])
async def test_the_next_model_answers_within_two_seconds(plan: Plan, reason: str, stateful: bool) -> None:
    first = FakeRuntime("one", stateful=stateful, remote=stateful)
    second = FakeRuntime("two", stateful=False, remote=False)
    async with room(first, second, chain=("one", "two", "canned")) as sync:
        sync.state.put(players=["Ada"])
        first.plan("send", plan)
        before = asyncio.get_running_loop().time()
        heard = await sync.converse()
        assert ended(heard) == ("two", "", "")
        assert asyncio.get_running_loop().time() - before <= 2.0
        # And when that one fails too, the reply is marked and says why.
        second.plan("send", plan, plan)
        first.down = True
        heard = await sync.converse()
        assert ended(heard) == ("canned", "canned", reason)
        assert heard.started[-1].degraded == "canned"
        assert heard.started[-1].degraded_reason == reason
        assert heard.sentences


async def test_a_429_is_not_asked_again_before_its_time() -> None:
    first, second = FakeRuntime("one", stateful=False, remote=False), FakeRuntime("two", stateful=False, remote=False)
    async with room(first, second, chain=("one", "two")) as sync:
        sync.state.put()
        first.plan("send", Plan(fault=RateLimited("429", 30.0)))
        for _ in range(5):
            assert ended(await sync.converse())[0] == "two"
            await asyncio.sleep(5)
        assert first.count("send") == 1
        await asyncio.sleep(6)
        assert ended(await sync.converse())[0] == "one"


async def test_an_agent_is_told_later_what_was_said_for_it() -> None:
    first, second = FakeRuntime("one"), FakeRuntime("two", stateful=False, remote=False)
    async with room(first, second, chain=("one", "two", "canned")) as sync:
        sync.state.put(players=["Ada"])
        await sync.converse(text="Hello?", seq=10)
        first.down = True
        said = await sync.converse(text="And now?", turn_id="for-it", lines=[
            line(10, "Hello?"), line(11, "Hello there.", own=True, turn_id="turn-1"), line(12, "And now?"),
        ])  # fmt: skip
        assert ended(said)[0] == "two"
        second.down = True
        rote = await sync.converse(text="Still?", lines=[line(14, "Still?")], turn_id="rote")
        assert ended(rote)[0] == "canned"
        first.down = False
        await asyncio.sleep(10)
        heard = await sync.converse(text="Back?", lines=[
            line(10, "Hello?"),
            line(11, "Hello there.", own=True, turn_id="turn-1"),
            line(12, "And now?"),
            line(13, "I am well.", own=True, turn_id="for-it"),
            line(14, "Still?"),
            line(15, rote.sentences[0], own=True, turn_id="rote", degraded="canned"),
            line(16, "Back?"),
        ])  # fmt: skip
        assert ended(heard)[0] == "one"
        told = words(first.asked[-1].turn.messages)
        assert "And now?" in told
        assert "I am well." in told
        assert "Still?" in told
        assert "Hello there." not in told  # that it said itself
        assert rote.sentences[0] not in told  # said by rote: it must not think that it did
        assert first.violations == second.violations == []


async def test_which_answer_was_its_own_outlives_the_process(tmp_path: Any) -> None:
    state: FakeState | None = None
    runtime = FakeRuntime("one")
    for _ in range(2):
        async with room(runtime, state=state, data=str(tmp_path)) as sync:
            state = sync.state
            state.put(players=["Ada"])
            if not runtime.asked:
                await sync.converse(seq=10, turn_id="mine")
                continue
            await sync.converse(lines=[
                line(11, "Said by itself.", own=True, turn_id="mine"),
                line(12, "Said for it.", own=True, turn_id="another"),
                line(13, "And?"),
            ])  # fmt: skip
    told = words(runtime.asked[-1].turn.messages)
    assert "Said for it." in told
    assert "Said by itself." not in told


async def test_a_turn_that_began_to_speak_is_never_answered_by_another() -> None:
    class Breaks(FakeRuntime):
        async def send(self, agent_id: str, turn: Any, timeout: float) -> Any:
            async for delta in super().send(agent_id, turn, timeout):
                yield delta
                if getattr(delta, "text", "").startswith("well"):
                    raise ServerFault("reset", unknown=True)

    first, second = Breaks("one", stateful=False, remote=False), FakeRuntime("two", stateful=False, remote=False)
    async with room(first, second, chain=("one", "two", "canned")) as sync:
        sync.state.put()
        first.plan("send", Plan(reply="Hello there. I am well. Or not."))
        error = await failure(sync.stub.Converse(sync.request(), timeout=10))
        assert error.reason == "RUNTIME_FAILED"
        assert second.asked == []


async def test_endpoints_of_one_home_share_their_agents_and_writes() -> None:
    first, second = (
        FakeRuntime("openai:a", stateful=False, remote=False),
        FakeRuntime("openai:b", stateful=False, remote=False),
    )
    second.agents = first.agents
    providers = (Provider("openai:a", model="x"), Provider("openai:b", model="y", max_tokens=40, temperature=0.1))
    async with room(first, second, chain=("openai",), found=Configured((), providers, {})) as sync:
        sync.state.put(players=["Ada"])
        seen = set()
        for _ in range(3):
            heard = await sync.converse()
            seen.add(ended(heard)[0])
            (first if ended(heard)[0] == "openai:a" else second).down = True
            if len(seen) == 2:
                break
        assert seen == {"openai:a", "openai:b"}
        assert len(first.agents) == 1
        assert first.count("create") + second.count("create") == 1
        asked = second.asked[-1].turn
        assert (asked.max_tokens, asked.temperature) == (40, 0.1)


async def test_a_spent_budget_is_a_degraded_reply_and_no_call() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    found = Configured((), (Provider("one", price_prompt=1e6),), {"t": Budget(tokens=30)})
    async with room(runtime, chain=("one", "canned"), found=found) as sync:
        sync.state.put(players=["Ada"])
        for _ in range(2):
            assert ended(await sync.converse()) == ("one", "", "")
        heard = await sync.converse()
        assert ended(heard) == ("canned", "canned", "BUDGET_SPENT")
        assert len(runtime.asked) == 2
        assert metric(sync, "earshot_tenant_tokens_total", tenant="t", runtime="one", kind="prompt") == 20
        assert metric(sync, "earshot_tenant_cost_dollars_total", tenant="t", runtime="one") == pytest.approx(20.0)
        assert metric(sync, "earshot_budget_used_ratio", tenant="t") == pytest.approx(1.0)
        assert metric(sync, "earshot_budget_refused_total", tenant="t") == 1
        assert metric(sync, "earshot_replies_total", runtime="canned", mode="canned") == 1
        # Tomorrow is another day.
        await asyncio.sleep(24 * 3600)
        sync.state.put()
        assert ended(await sync.converse())[0] == "one"


async def test_a_spent_budget_without_a_voice_says_so_and_outlives_the_process(tmp_path: Any) -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    found = Configured((), (), {"*": Budget(tokens=15)})
    state: FakeState | None = None
    for number in range(2):
        async with room(runtime, state=state, found=found, data=str(tmp_path)) as sync:
            state = sync.state
            state.put()
            if number == 0:
                await sync.converse()
            error = await failure(sync.stub.Converse(sync.request(), timeout=10))
            assert (error.reason, error.retryable) == ("BUDGET_SPENT", False)
    assert len(runtime.asked) == 1


async def test_tokens_that_nobody_reports_are_estimated() -> None:
    class Silent(FakeRuntime):
        async def send(self, agent_id: str, turn: Any, timeout: float) -> Any:
            async for delta in super().send(agent_id, turn, timeout):
                if type(delta).__name__ != "UsageDelta":
                    yield delta

    async with room(Silent("one", stateful=False, remote=False)) as sync:
        sync.state.put()
        await sync.converse()
        assert metric(sync, "earshot_tenant_tokens_total", tenant="t", runtime="one", kind="prompt") > 100
        assert 5 <= metric(sync, "earshot_tenant_tokens_total", tenant="t", runtime="one", kind="completion") <= 12


async def test_what_left_the_window_is_summed_up_within_the_memory_scope() -> None:
    class Sums(FakeRuntime):
        texts: list[str]

        async def complete(self, system: str, text: str, image: str, most: int, timeout: float) -> Completion:
            self.texts = [*getattr(self, "texts", []), text]
            return Completion("Ada promised to bring back the lantern.", 50, 9)

    runtime = Sums("one", stateful=False, remote=False)
    runtime.capabilities = type(runtime.capabilities)(stateful=False, remote=False, completes=True)
    async with room(runtime, context_messages=4) as sync:
        sync.state.put(players=["Ada"])
        lines = [line(number, f"Word {number}.") for number in range(1, 14)]
        await sync.converse(lines=lines, history_generation=1)
        await asyncio.sleep(1)
        assert len(runtime.texts) == 1
        assert "Word 9." in runtime.texts[0]
        assert "Word 10." not in runtime.texts[0]
        await sync.converse(lines=[*lines, line(14, "And then?")], history_generation=1)
        told = words(runtime.asked[-1].turn.messages)
        assert told.startswith('{"earlier": "Ada promised to bring back the lantern."}')
        assert "promised" not in runtime.asked[-1].turn.system
        assert metric(sync, "earshot_tenant_tokens_total", tenant="t", runtime="one", kind="prompt") == 50 + 2 * 10
        # Somebody's session is over: what was made of their words goes with it.
        await sync.converse(lines=[line(14, "And then?")], history_generation=2)
        assert "promised" not in words(runtime.asked[-1].turn.messages)
        await sync.converse(lines=[line(15, "Well?")], history_generation=1)
        assert "promised" not in words(runtime.asked[-1].turn.messages)


async def test_a_summary_goes_with_its_world_also_one_that_is_being_made() -> None:
    class Sums(FakeRuntime):
        slow_s = 0.0

        async def complete(self, system: str, text: str, image: str, most: int, timeout: float) -> Completion:
            self.calls.append("complete")
            await asyncio.sleep(self.slow_s)
            return Completion("Ada promised to bring back the lantern.", 50, 9)

    runtime = Sums("one", stateful=False, remote=False)
    runtime.capabilities = type(runtime.capabilities)(stateful=False, remote=False, completes=True)
    async with room(runtime, context_messages=4) as sync:
        lines = [line(number, f"Word {number}.") for number in range(1, 14)]
        for world, slow_s, kept in (("w", 0.0, 1), ("v", 3.0, 0)):
            sync.state.put(world=world, players=["Ada"])
            runtime.slow_s = slow_s
            await sync.converse(lines=lines, history_generation=1, world=world)
            await asyncio.sleep(1)
            assert len(list(sync.store.load_summaries())) == kept
            sync.state.close(world)
            await asyncio.sleep(5)
            assert list(sync.store.load_summaries()) == []
        assert runtime.count("complete") == 2


async def test_a_summary_that_is_forgotten_while_it_is_written_is_not_kept() -> None:
    class Slow:
        """A store that takes a second."""

        rows: dict[Key, str]

        async def keep_summary(self, key: Key, generation: int, upto: int, text: str) -> None:
            await asyncio.sleep(1)
            self.rows = {key: text}

        async def drop_summary(self, key: Key) -> None:
            self.rows.pop(key, None)

    class Told:
        @staticmethod
        def possible() -> bool:
            return True

        @staticmethod
        async def run(*_: object, **__: object) -> SimpleNamespace:
            return SimpleNamespace(completion=Completion("Ada lives in Oak Lane.", 50, 9))

    store, crew, key = Slow(), Crew(), Key("t", "w", "mara")
    summaries = Summaries(store, Told(), crew)  # type: ignore[arg-type]  # what it uses of them
    said = [Line(number, "Ada", f"Word {number}.") for number in range(1, 14)]
    summaries.consider(key, 1, said, 4, "Mara")
    await asyncio.sleep(0.5)
    await summaries.forget([key])
    await asyncio.sleep(1)
    assert store.rows == {}
    assert summaries.text(key, 1, 500) == ""
    await crew.close(1)


@pytest.mark.parametrize("fault", [Garbled("the completion is empty"), ServerFault("500"), TimedOut("late")])
async def test_summaries_that_fail_silence_nobody(fault: RuntimeFault) -> None:
    class Speaks(FakeRuntime):
        async def complete(self, system: str, text: str, image: str, most: int, timeout: float) -> Completion:
            self.calls.append("complete")
            raise fault

    runtime = Speaks("one", stateful=False, remote=False)
    runtime.capabilities = type(runtime.capabilities)(stateful=False, remote=False, completes=True)
    async with room(runtime, context_messages=4) as sync:
        npcs = [f"npc-{number}" for number in range(40)]
        for npc in npcs:
            sync.state.put(npc=npc, players=["Ada"])
        lines = [line(number, f"Word {number}.") for number in range(1, 14)]
        heard = await asyncio.gather(*(sync.converse(npc, lines=lines) for npc in npcs))
        await asyncio.sleep(1)
        heard += await asyncio.gather(*(sync.converse(npc, lines=lines) for npc in npcs))
        assert [ended(one) for one in heard] == [("one", "", "")] * 80
        # And they are left alone for a while, as an endpoint that fails is.
        assert 5 <= runtime.count("complete") <= 40
        await asyncio.sleep(OPEN_MIN_S * 1.3)
        asked = runtime.count("complete")
        await sync.converse(npcs[0], lines=lines)
        await asyncio.sleep(1)
        assert runtime.count("complete") == asked + 1


async def test_an_endpoint_that_fails_is_asked_for_no_summaries() -> None:
    class Sums(FakeRuntime):
        async def complete(self, system: str, text: str, image: str, most: int, timeout: float) -> Completion:
            self.calls.append("complete")
            return Completion("Nothing much.", 50, 9)

    runtime, spare = Sums("one", stateful=False, remote=False), FakeRuntime("two", stateful=False, remote=False)
    runtime.capabilities = type(runtime.capabilities)(stateful=False, remote=False, completes=True)
    async with room(runtime, spare, chain=("one", "two"), context_messages=4) as sync:
        sync.state.put(players=["Ada"])
        runtime.plan("send", *[Plan(fault=ServerFault("500"))] * 5)
        for _ in range(6):
            assert ended(await sync.converse())[0] == "two"
        assert runtime.count("send") == 5  # its breaker is open
        lines = [line(number, f"Word {number}.") for number in range(1, 14)]
        await sync.converse(lines=lines)
        await asyncio.sleep(1)
        assert runtime.count("complete") == 0
        await asyncio.sleep(OPEN_MIN_S * 1.3)
        await sync.converse(lines=lines)
        await asyncio.sleep(1)
        assert runtime.count("complete") == 1


async def test_a_small_window_is_kept() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    found = Configured((), (Provider("one", context_tokens=1200),), {})
    async with room(runtime, found=found) as sync:
        sync.state.put()
        await sync.converse(lines=[line(number, "So it was said. " * 12) for number in range(1, 11)])
        turn = runtime.asked[-1].turn
        assert 1 <= len(turn.messages) < 10
        said = sum(len(message.text) for message in turn.messages) + sum(
            len(t) for t in runtime.asked[-1].blocks.values()
        )
        assert (said + len(turn.instructions) + len(turn.system)) / 3.5 + turn.max_tokens < 1300


async def test_one_question_at_a_time_and_the_same_answer_to_another_cluster() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one", "cached", "canned")) as sync:
        sync.state.profile("mara", model_settings=b'{"cacheable": ["greeting", "shop"]}')
        for world in ("w", "v", "u"):
            sync.state.put(world=world, players=["Ada"])
        runtime.chooser = lambda operation: Plan(wait=0.5 if operation == "send" else 0.0, reply="Welcome in.")
        ask: dict[str, Any] = {"conversation_id": "c1"}
        answers = await asyncio.gather(
            *(sync.converse(text="Hello, Mara!", world=world, **ask) for world in ("w", "v", "u"))
        )
        assert [answer.sentences for answer in answers] == [["Welcome in."]] * 3
        assert runtime.count("send") == 1
        assert sorted(ended(answer)[1] for answer in answers) == ["", "cached", "cached"]
        # The same cluster does not hear it again; the model gives another one.
        runtime.chooser = lambda operation: Plan(reply="Ah, a guest.")
        again = await sync.converse(text="hello mara", **ask)
        assert (again.sentences, ended(again)[1]) == (["Ah, a guest."], "")
        # Both are there when no model is, for who has not heard them: rather an old one than none.
        await asyncio.sleep(700)
        runtime.down = True
        for expected in ("Welcome in.", "Ah, a guest."):
            heard = await sync.converse(text="Hello!", **ask)
            assert (heard.sentences, ended(heard)[:2]) == ([expected], ("cached", "cached"))
        assert ended(await sync.converse(text="Hello!", **ask))[0] == "canned"


async def test_a_reply_that_names_somebody_is_given_to_nobody_else() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one", "canned")) as sync:
        sync.state.profile("mara", model_settings=b'{"cacheable": ["greeting"]}')
        sync.state.put(players=["Ada"])
        sync.state.put(world="v", players=["Ben"])
        runtime.chooser = lambda operation: Plan(reply="Welcome, Ada!")
        await sync.converse(text="Hello!", conversation_id="c1")
        runtime.chooser = lambda operation: Plan(reply="Welcome.")
        heard = await sync.converse(text="Hello!", world="v", conversation_id="c2")
        assert (heard.sentences, ended(heard)[1]) == (["Welcome."], "")


async def test_another_state_or_persona_is_another_question() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one",)) as sync:
        sync.state.profile("mara", model_settings=b'{"cacheable": ["directions"]}', version=1)
        sync.state.put(players=["Ada"], place="the Lantern")
        sync.state.put(world="v", players=["Ada"], place="the Harbour")
        sync.state.put(world="u", players=["Ada"], place="the Lantern")
        for world in ("w", "v", "u"):
            await sync.converse(text="Where is the mill?", world=world, conversation_id="c")
        assert runtime.count("send") == 2  # the third stands where the first stood
        sync.state.profile("mara", model_settings=b'{"cacheable": ["directions"]}', version=2, persona="You are rude.")
        sync.state.put(world="u", players=["Ada"])
        await asyncio.sleep(1)
        await sync.converse(text="Where is the mill?", world="u", conversation_id="d")
        assert runtime.count("send") == 3


MIXED = [
    f"{who} {does} {what}."
    for who in ("The harbour", "My lantern", "An old sailor", "The baker", "Our captain", "The lighthouse", "Rain")
    for does in ("sleeps beside", "hums about", "waits behind", "never leaves", "remembers", "dreams of")
    for what in ("the mill", "the tide", "the bridge", "silver bells", "the winter road", "the quiet square")
]


LINES = [text for number, text in enumerate(MIXED) if number % 5]


async def learnt(sync: Room, count: int) -> None:
    """Let the NPC have said so many lines, as the log tells it."""
    for start in range(0, count, 100):
        own = [
            line(1000 + 2 * start + n, LINES[n], own=True, turn_id=f"old-{n}")
            for n in range(start, min(start + 100, count))
        ]
        await sync.converse(lines=[*own, line(1000 + 2 * start + 199, "Hm?")])


async def test_markov_speaks_when_no_model_does() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one", "markov")) as sync:
        sync.state.put(players=["Ada"])
        await learnt(sync, len(LINES))
        runtime.down = True
        seen = set()
        for _ in range(20):
            heard = await sync.converse(text="Tell me of the captain and the bells!")
            kind = ended(heard)[1]
            assert kind in ("markov", "canned")
            if kind == "markov":
                text = " ".join(heard.sentences)
                seen.add(text)
                assert text not in LINES
        assert len(seen) >= 5
        assert any("bells" in text or "captain" in text for text in seen)


async def test_below_200_lines_the_lines_are_canned() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one", "markov")) as sync:
        sync.state.profile("mara", lines=["Mind the step.", "Welcome to the Lantern!"])
        sync.state.put(players=["Ada"])
        await learnt(sync, 100)
        runtime.down = True
        heard = await sync.converse(text="Hello, Mara!")
        assert (heard.sentences, ended(heard)[1]) == (["Welcome to the Lantern!"], "canned")
        assert metric(sync, "earshot_markov_declined_total", reason="few_lines") == 1


async def test_deleted_messages_leave_markov_and_the_cache() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one", "markov")) as sync:
        sync.state.profile("mara", model_settings=b'{"cacheable": ["greeting"]}')
        sync.state.put(players=["Ada"])
        await learnt(sync, 200)
        runtime.chooser = lambda operation: Plan(reply="Welcome in.")
        await sync.converse(text="Hello!", conversation_id="c", turn_id="greeted")
        request = sync_pb2.ErasePlayerRequest(tenant="t", texts=[LINES[5].upper()], turn_ids=["old-7", "greeted"])
        response = await sync.stub.ErasePlayer(request, timeout=10)
        removed = {receipt.store: receipt.removed for receipt in response.receipts}
        assert removed == {"sync.notes": 0, "sync.markov": 2, "sync.replies": 1, "sync.summaries": 0}
        runtime.down = True
        # 198 are left.
        assert ended(await sync.converse(text="The mill?"))[1] == "canned"
        runtime.down = False
        await asyncio.sleep(30)
        # And a player's erasure removes what these NPCs said where they heard that player.
        erase = sync_pb2.ErasePlayerRequest(tenant="t", player_id="id-Ada", npcs=[FakeState.key()])
        response = await sync.stub.ErasePlayer(erase, timeout=10)
        assert {r.store: r.removed for r in response.receipts}["sync.markov"] == 198


@pytest.mark.parametrize("fields", [{}, {"player_id": "a", "texts": ["b"]}, {"texts": ["x"] * 1001}])
async def test_an_erasure_names_a_player_or_messages(fields: dict[str, Any]) -> None:
    async with room() as sync:
        call = sync.stub.ErasePlayer(sync_pb2.ErasePlayerRequest(tenant="t", **fields), timeout=5)
        with pytest.raises(Exception, match=r"needed|at most"):
            await call


async def test_the_only_model_is_waited_for_longer_than_the_target() -> None:
    runtime = FakeRuntime("one", stateful=False, remote=False)
    async with room(runtime, chain=("one", "canned")) as sync:
        sync.state.put()
        runtime.plan("send", Plan(wait=5.0), Plan(hang=True))
        assert ended(await sync.converse())[0] == "one"
        before = asyncio.get_running_loop().time()
        assert ended(await sync.converse()) == ("canned", "canned", "TURN_TIMEOUT")
        assert asyncio.get_running_loop().time() - before == pytest.approx(8.0, abs=0.2)


async def test_all_dead_is_a_degraded_reply_at_once() -> None:
    first, second = FakeRuntime("one"), FakeRuntime("two", stateful=False, remote=False)
    async with room(first, second, chain=("one", "two", "canned")) as sync:
        sync.state.put()
        first.plan("send", *[Plan(hang=True, lands=None)] * 20)
        second.plan("send", *[Plan(fault=ServerFault("500"))] * 20)
        for _ in range(12):
            assert ended(await sync.converse())[1] == "canned"
            await asyncio.sleep(0.1)
        before = asyncio.get_running_loop().time()
        assert ended(await sync.converse())[1] == "canned"
        assert asyncio.get_running_loop().time() - before < 0.1
