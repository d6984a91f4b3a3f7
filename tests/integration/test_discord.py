"""The Discord edge against a small Discord on loopback, with the real state, cluster and chat behind it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc
from earshot.sync.v1 import sync_pb2, sync_pb2_grpc
from earshot.type.v1 import type_pb2

from services.chat import server as chat_room
from services.cluster import server as cluster_room
from services.common.app import App
from services.common.errors import BadInput, Unavailable
from services.common.settings import Settings
from services.common.store import Database
from services.discord import server as discord_room
from services.discord.binding import Binding
from services.discord.store import SCHEMA, DiscordStore
from services.discord.talk import Heard, Talk
from services.edge.event import page
from services.state import server as state_room
from services.sync import server as sync_room
from tests.fakes.fake_model import FakeModel
from tests.unit.chat.neighbours import FakeSync, Line, Script

pytest.importorskip("discord", reason="needs the extra: pip install 'earshot[discord]'")

from tests.fakes.discord_server import BOT, MODERATOR, ROLE, FakeDiscord, discord

CHANNEL, CELLAR = 100, 101
# The client's own library still uses what newer Pythons and aiohttp warn of.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
    # It tells that it is ready a while after it is, also when it was closed meanwhile.
    pytest.mark.filterwarnings("ignore:.*Client._run_event:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*Client._run_event.*:RuntimeWarning"),
]


class Rooms:
    """The rooms, and Discord beside them."""

    def __init__(self, fake: FakeDiscord, app: App, sync: FakeSync) -> None:
        self.discord = fake
        self.app = app
        self.sync = sync
        self.chat: Any = chat_pb2_grpc.ChatServiceStub(app.channels.to("chat"))
        self.state: Any = state_pb2_grpc.StateServiceStub(app.channels.to("state"))

    async def bind(self, channel: int = CHANNEL, **options: Any) -> str:
        (told,) = await self.discord.command(channel, 5, "bind", permissions=MODERATOR, **{"npcs": "mara", **options})
        return told

    async def said(self, count: int, channel: int = CHANNEL) -> list[tuple[str, str]]:
        """What NPCs said in the channel, once there are so many messages of them."""

        def theirs() -> list[tuple[str, str]]:
            return [one for one in self.discord.lines(channel) if one[0] in ("Mara", "Brom")]

        await self.discord.until(lambda: len(theirs()) >= count)
        return theirs()

    async def log(self, world: str) -> list[chat_pb2.Event]:
        request = chat_pb2.ListEventsRequest(world=ref(world), page_size=500)
        return list((await self.chat.ListEvents(request, timeout=5)).events)

    async def game(self, world: str) -> list[dict[str, Any]]:
        """A world's log as a game server reads it."""
        told, _ = page(await self.log(world), 0)
        return [json.loads(bytes(one)) for one in told]

    async def utterances(self, world: str, count: int = 0) -> list[str]:
        """Texts of people in a world's log, once there are so many."""
        for _ in range(200):
            told = [one.utterance.text for one in await self.log(world) if one.utterance.text and not one.utterance.ai]
            if len(told) >= count:
                return told
            await asyncio.sleep(0.05)
        raise AssertionError(f"{told} are fewer than {count}")


OWN = f"discord:77:{CHANNEL}"


def ref(world: str) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant="local", world=world)


def echo(request: sync_pb2.ConverseRequest) -> Line:
    """Every answer tells which line it answers."""
    heard = [line.text for line in request.lines if not line.own and not line.notice]
    return Line((f"To that: {heard[-1]}" if heard else "Well met.",), first_s=0.01, each_s=0.01)


@asynccontextmanager
async def rooms(
    fake: FakeDiscord, data: Path, script: Script | None = echo, *, content: bool = True, **settings: Any
) -> AsyncIterator[Rooms]:
    """script: what NPCs say; None = the real sync room speaks."""
    configured = Settings(
        _env_file=None, data=str(data), greetings=False, shutdown_s=0.5, discord_token="good", discord_api=fake.api,
        discord_message_content=content, player_messages_per_10s=1000, **settings,
    )  # fmt: skip
    app = App(configured, ("cluster", "state", "sync", "chat", "discord"))
    sync = FakeSync(script or echo)  # type: ignore[abstract]  # a fake of the part that chat calls
    await cluster_room.bind(app)
    await state_room.bind(app)
    if script is None:
        await sync_room.bind(app)
    else:
        app.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, sync, "earshot.sync.v1.SyncService")
    await chat_room.bind(app)
    await discord_room.bind(app)
    identified = fake.identified
    async with app:
        made = Rooms(fake, app, sync)
        npcs = [
            type_pb2.NpcProfile(
                id=npc,
                display_name=npc.title(),
                model_settings=b'{"avatar_url": "https://pictures.invalid/%b.png"}' % npc.encode(),
            )
            for npc in ("mara", "brom")
        ]
        await made.state.ImportRoster(state_pb2.ImportRosterRequest(tenant="local", npcs=npcs), timeout=5)
        await fake.until(lambda: fake.identified > identified)
        yield made


async def test_a_bound_channel_is_a_conversation(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        assert [one["name"] for one in fake.commands] == ["earshot"]
        assert "Bound to world" in await there.bind()
        (notice,) = fake.lines(CHANNEL)
        assert "They are AI" in notice[1]
        await fake.write(CHANNEL, 7, "Ada", f"<@{BOT['id']}> what is cooking?")
        assert await there.said(1) == [("Mara", "To that: what is cooking?")]
        (_, body), *_ = [one for one in fake.posted if one[0].endswith("/hook")]
        assert body["allowed_mentions"] == {"parse": []}, "nobody is ever pinged"
        assert body["avatar_url"] == "https://pictures.invalid/mara.png"
        # The line stands in the channel a moment before it is noted here which turn it was.
        for _ in range(100):
            why = await fake.command(CHANNEL, 7, "why")
            if not why[0].startswith("no NPC"):
                break
        assert why[0].startswith("**Mara**")
        assert "they hear" in (await there.discord.command(CHANNEL, 7, "status"))[0]
        event = next(one.utterance for one in await there.log(OWN) if one.utterance.text == "what is cooking?")
        assert (event.speaker_id, event.speaker_name) == ("discord:7", "Ada")


async def test_lines_of_npcs_bots_and_strangers_are_never_heard(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind(every_message=True)
        await fake.write(CHANNEL, 7, "Ada", "Mara, hello there")
        await there.said(1)
        line = fake.messages[str(CHANNEL)][-1]
        await fake.dispatch("MESSAGE_CREATE", {**line, "guild_id": "77"})
        await fake.write(CHANNEL, 8, "Robot", "Mara, I am a bot", type=0)
        fake.messages[str(CHANNEL)][-1]["author"]["bot"] = True
        await fake.dispatch(
            "MESSAGE_CREATE", {**fake.messages[str(CHANNEL)][-1], "guild_id": "77", "id": fake.snowflake()}
        )
        await fake.write(CHANNEL, 7, "Ada", "pins", type=6)
        await fake.write(CHANNEL, 7, "Ada", "Mara, goodbye now")
        texts = await there.utterances(OWN, 3)
        assert texts == ["Mara, hello there", "Mara, I am a bot", "Mara, goodbye now"]


async def test_two_rate_limits_delay_a_line_and_neither_lose_nor_double_it(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind()
        await fake.write(CHANNEL, 7, "Ada", "Mara, one?")
        await there.said(1)
        fake.limits = {"/webhooks/": 2}
        await fake.write(CHANNEL, 7, "Ada", "Mara, two?")
        # One answer may serve two lines that come together: the next is written when the first has been answered.
        await there.said(2)
        await fake.write(CHANNEL, 7, "Ada", "Mara, three?")
        told = await there.said(3)
        assert fake.limited == 2
        assert [text for _, text in told] == ["To that: Mara, one?", "To that: Mara, two?", "To that: Mara, three?"]


async def test_a_dropped_gateway_is_resumed_and_nothing_is_answered_twice(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind()
        await fake.write(CHANNEL, 7, "Ada", "Mara, before?")
        await there.said(1)
        fake.muted = True
        await fake.write(CHANNEL, 7, "Ada", "Mara, in between?")
        fake.muted = False
        await fake.drop()
        await fake.until(lambda: fake.resumed == 1)
        await there.said(2)
        await fake.write(CHANNEL, 7, "Ada", "Mara, after?")
        told = await there.said(3)
        assert [text for _, text in told] == [f"To that: Mara, {when}?" for when in ("before", "in between", "after")]
        assert fake.identified == 1


async def test_a_lost_session_is_made_up_for_from_the_channels_history(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind()
        await fake.write(CHANNEL, 7, "Ada", "Mara, before?")
        await there.said(1)
        fake.muted = True
        await fake.write(CHANNEL, 7, "Ada", "Mara, in between?")
        fake.muted = False
        await fake.drop(resumable=False)
        await fake.until(lambda: fake.identified == 2)
        await fake.dispatch("MESSAGE_CREATE", {**fake.messages[str(CHANNEL)][-1], "guild_id": "77"})
        told = await there.said(2)
        await fake.write(CHANNEL, 7, "Ada", "Mara, after?")
        told = await there.said(3)
        assert [text for _, text in told] == [f"To that: Mara, {when}?" for when in ("before", "in between", "after")]


def pending(data: Path) -> int:
    """Deletions and edits that chat, sync and the files have yet to carry out."""
    left = 0
    for store, table in (("discord", "retraction"), ("chat", "forgetting")):
        with closing(sqlite3.connect(data / f"{store}.db")) as db:
            left += int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    return left


def held_in(data: Path) -> bytes:
    """Every byte of every store."""
    return b"".join(path.read_bytes() for path in data.glob("*.db*")).lower()


async def test_deletes_and_edits_reach_every_store(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind(every_message=True)
        first = await fake.write(CHANNEL, 7, "Ada", "Mara, the quincunx is mine")
        second = await fake.write(CHANNEL, 7, "Ada", "the tombola is tomorrow")
        third = await fake.write(CHANNEL, 8, "Ben", "a pelmet, please")
        fourth = await fake.write(CHANNEL, 8, "Ben", "a gazebo, please")
        await there.utterances(OWN, 4)
        await fake.edit(CHANNEL, second, "the raffle is tomorrow")
        await fake.delete(CHANNEL, first)
        await fake.delete(CHANNEL, third, fourth)
        for _ in range(200):
            left = await there.utterances(OWN)
            if left == ["the raffle is tomorrow"]:
                break
            await asyncio.sleep(0.05)
        assert left == ["the raffle is tomorrow"]
        for _ in range(400):
            if not pending(tmp_path):
                break
            await asyncio.sleep(0.05)
    held = held_in(tmp_path)
    for gone in (b"quincunx is mine", b"tombola", b"pelmet", b"gazebo"):
        assert gone not in held, gone


async def test_who_may_not_bind_cannot_and_age_restricted_channels_are_refused(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path, discord_moderator_roles=ROLE) as there:
        assert "MODERATORS_ONLY" in (await fake.command(CHANNEL, 7, "bind", npcs="mara"))[0]
        assert "NOT_BOUND" in (await fake.command(CHANNEL, 7, "say", text="hello"))[0]
        assert "AGE_RESTRICTED" in await there.bind(CELLAR)
        assert "UNKNOWN_NPC" in await there.bind(npcs="nobody")
        assert fake.lines(CELLAR) == []
        assert "Bound" in (await fake.command(CHANNEL, 7, "bind", npcs="mara", roles=(ROLE,)))[0]
        assert "MODERATORS_ONLY" in (await fake.command(CHANNEL, 7, "unbind"))[0]
        assert "brom" in (await fake.command(CHANNEL, 7, "npc", npc="brom", permissions=MODERATOR))[0]
        assert "gone" in (await fake.command(CHANNEL, 7, "unbind", permissions=MODERATOR))[0]
        await fake.write(CHANNEL, 7, "Ada", "Mara, are you there?")
        assert "NOT_BOUND" in (await fake.command(CHANNEL, 7, "status"))[0]
        assert await there.log(OWN) == [] or await there.utterances(OWN) == []


async def test_slash_say_is_answered_and_bad_arguments_are_told(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind()
        assert "You said" in (await fake.command(CHANNEL, 7, "say", text="what news?"))[0]
        assert await there.said(1) == [("Mara", "To that: what news?")]
        assert "UNKNOWN_NPC" in (await fake.command(CHANNEL, 7, "say", text="what news?", npc="brom"))[0]
        assert "BAD_MESSAGE" in (await fake.command(CHANNEL, 7, "why", message="the last one"))[0]
        assert "UNKNOWN_MESSAGE" in (await fake.command(CHANNEL, 7, "why", message="123"))[0]


async def test_without_the_privileged_intent_it_hears_mentions_and_says_so(tmp_path: Path) -> None:
    async with discord(refuse_content=True) as fake, rooms(fake, tmp_path) as there:
        assert fake.intents & (1 << 15) == 0
        assert "no message-content intent" in await there.bind()


async def test_without_webhooks_the_bot_speaks_in_the_npcs_name(tmp_path: Path) -> None:
    async with discord(forbid_webhooks=True) as fake, rooms(fake, tmp_path) as there:
        await there.bind()
        await fake.write(CHANNEL, 7, "Ada", "Mara, hello?")
        await fake.until(lambda: fake.lines(CHANNEL)[-1] == ("earshot", "**Mara:** To that: Mara, hello?"))


async def test_a_player_in_the_game_and_one_on_discord_talk_to_one_npc(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path, discord_join_guilds="5, 77") as there:
        link = state_pb2.Link(npc_id="mara", player_id="4711", player_name="Cleo")
        observation = [state_pb2.Observation(link=link)]
        await there.state.ReportObservations(
            state_pb2.ReportObservationsRequest(world=ref("game-1"), observations=observation), timeout=5
        )
        await there.bind(world="game-1")
        await fake.write(CHANNEL, 7, "Ada", "Mara, what did Cleo say?")
        await there.said(1)
        request = chat_pb2.SayRequest(
            world=ref("game-1"), speaker_id="4711", speaker_name="Cleo", text="Mara, and what did Ada say?",
            message_id="g1", wait_ms=5000,
        )  # fmt: skip
        await there.chat.Say(request, timeout=10)
        assert (await there.said(2))[1] == ("Mara", "To that: Mara, and what did Ada say?")
        log = [one.utterance for one in await there.log("game-1") if one.utterance.text]
        assert len({one.conversation_id for one in await there.log("game-1") if one.utterance.text}) == 1
        by_ada = next(one for one in log if one.speaker_id == "discord:7")
        assert list(by_ada.audience_ids) == ["discord:7"], "what is written on Discord is not shown in the game"
        shown = [one["text"] for one in await there.game("game-1") if one["type"] == "utterance"]
        assert shown == ["Mara, and what did Ada say?", "To that: Mara, and what did Ada say?"], (
            "neither what is written on Discord nor the answer to it enters the game"
        )
        assert "Mara, what did Cleo say?" in [line.text for line in there.sync.requests[-1].lines]
        assert ("Cleo", "Mara, and what did Ada say?") not in fake.lines(CHANNEL), "the game's chat stays in the game"


async def test_a_killed_edge_neither_repeats_nor_loses_a_line(tmp_path: Path) -> None:
    async with discord() as fake:
        async with rooms(fake, tmp_path) as there:
            await there.bind()
            await fake.write(CHANNEL, 7, "Ada", "Mara, one?")
            await there.said(1)
        async with rooms(fake, tmp_path) as there:
            await fake.write(CHANNEL, 7, "Ada", "Mara, two?")
            told = await there.said(2)
            assert [text for _, text in told] == ["To that: Mara, one?", "To that: Mara, two?"]


async def test_a_thread_is_a_conversation_of_its_own_and_goes_with_all_that_was_said_in_it(tmp_path: Path) -> None:
    async with discord() as fake:
        fake.thread(200, CHANNEL, "by the fire")
        fake.thread(201, CELLAR, "in the dark")
        async with rooms(fake, tmp_path) as there:
            assert "AGE_RESTRICTED" in await there.bind(201), "a thread is as restricted as its channel"
            await there.bind(200)
            await fake.write(CHANNEL, 7, "Ada", "Mara, not here")
            await fake.write(200, 7, "Ada", "Mara, the quincunx is mine")
            assert await there.said(1, 200) == [("Mara", "To that: Mara, the quincunx is mine")]
            assert there.discord.lines(CHANNEL) == [("Ada", "Mara, not here")], "its channel is another place"
            assert await there.utterances("discord:77:200", 1) == ["Mara, the quincunx is mine"]
            await fake.remove(200)
            for _ in range(400):
                if not await there.utterances("discord:77:200") and not pending(tmp_path):
                    break
                await asyncio.sleep(0.05)
    assert b"quincunx" not in held_in(tmp_path)


async def test_a_channel_that_becomes_restricted_is_let_go_with_its_threads(tmp_path: Path) -> None:
    async with discord() as fake:
        fake.thread(200, CHANNEL, "by the fire")
        async with rooms(fake, tmp_path) as there:
            await there.bind()
            await there.bind(200)
            await fake.restrict(CHANNEL)
            for channel in (CHANNEL, 200):
                for _ in range(100):
                    told = (await fake.command(channel, 7, "status"))[0]
                    if "NOT_BOUND" in told:
                        break
                assert "NOT_BOUND" in told


@pytest.mark.parametrize(
    ("chance", "heard"), [(100, ["nothing for anybody", "Mara, and you?"]), (0, ["Mara, and you?"])]
)
async def test_the_chance_to_chime_in_is_a_setting_of_the_channel(
    tmp_path: Path, chance: int, heard: list[str]
) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind(chance=chance)
        await fake.write(CHANNEL, 7, "Ada", "nothing for anybody")
        await fake.write(CHANNEL, 7, "Ada", "Mara, and you?")
        assert await there.utterances(OWN, len(heard)) == heard
        assert f"{chance} %" in (await fake.command(CHANNEL, 7, "status"))[0]


async def test_what_is_deleted_or_edited_while_the_gateway_is_away_is_made_up_for(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path) as there:
        await there.bind(every_message=True)
        first = await fake.write(CHANNEL, 7, "Ada", "Mara, the quincunx is mine")
        second = await fake.write(CHANNEL, 7, "Ada", "the tombola is tomorrow")
        assert "You said" in (await fake.command(CHANNEL, 8, "say", text="by command"))[0]
        await there.utterances(OWN, 3)
        fake.muted = True
        await fake.delete(CHANNEL, first)
        await fake.edit(CHANNEL, second, "the raffle is tomorrow")
        fake.muted = False
        await fake.drop(resumable=False)
        await fake.until(lambda: fake.identified == 2)
        for _ in range(200):
            left = await there.utterances(OWN)
            if sorted(left) == ["by command", "the raffle is tomorrow"]:
                break
            await asyncio.sleep(0.05)
        assert sorted(left) == ["by command", "the raffle is tomorrow"], "what a command said stands in no channel"


async def test_who_npcs_do_not_listen_to_is_not_heard_by_a_command_either(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path, discord_user_roles=ROLE) as there:
        await there.bind()
        assert "ROLE_REQUIRED" in (await fake.command(CHANNEL, 7, "say", text="hello"))[0]
        assert "You said" in (await fake.command(CHANNEL, 7, "say", text="hello", roles=(ROLE,)))[0]
        await fake.write(CHANNEL, 7, "Ada", "Mara, hello there")
        assert await there.utterances(OWN, 1) == ["hello"]


async def test_a_moderator_joins_a_game_only_where_its_operator_lets_the_server(tmp_path: Path) -> None:
    async with discord() as fake, rooms(fake, tmp_path, discord_join_guilds="78") as there:
        for world in ("game-1", "discord:78:5", f"discord:77:{CELLAR}"):
            assert "JOIN_NOT_OPEN" in await there.bind(world=world)
        assert "Bound" in await there.bind(world=OWN)


async def test_nothing_that_is_written_there_can_ping(tmp_path: Path) -> None:
    def shouting(_: sync_pb2.ConverseRequest) -> Line:
        return Line(("@everyone <@7> <@&44> come here",))

    async with discord() as fake, rooms(fake, tmp_path, shouting) as there:
        await there.bind()
        await fake.write(CHANNEL, 7, "@everyone", "Mara, hello")
        await there.said(1)
        await fake.command(CHANNEL, 7, "say", text="@everyone <@7>")
        await fake.command(CHANNEL, 7, "why")
        written = [body for _, body in fake.posted if "content" in body]
        assert len(written) >= 4
        assert all(body["allowed_mentions"] == {"parse": []} for body in written)


async def test_a_deleted_message_is_gone_from_all_six_places(tmp_path: Path) -> None:
    """Log, index, vectors, what degraded mode learnt, the reply cache, and what NPCs are told."""
    async with (
        FakeModel(reply="My kettle sings louder than any storm outside.") as model,
        discord() as fake,
        rooms(
            fake, tmp_path, None, openai_base_url=model.base_url, openai_model="m", first_sentence_s=60.0,
            patience_s=60.0, turn_deadline_s=90.0, embed_base_url=model.base_url, embed_model="e",
            runtimes="openai,cached,markov,offline",
        ) as there,
    ):  # fmt: skip
        await there.bind(every_message=True)
        gone = await fake.write(CHANNEL, 7, "Ada", "Mara, the quincunx is mine")
        await there.said(1)
        await fake.write(CHANNEL, 8, "Ben", "Mara, good evening")
        await there.said(2)

        def count(store: str, sql: str) -> int:
            with closing(sqlite3.connect(tmp_path / f"{store}.db")) as db:
                return int(db.execute(sql).fetchone()[0])

        for _ in range(400):
            if count("chat", "SELECT count(*) FROM vectors") == 4:
                break
            await asyncio.sleep(0.05)
        assert count("chat", "SELECT count(*) FROM vectors") == 4
        learnt = count("sync", "SELECT count(*) FROM markov_line")
        assert learnt == 1, "its own line of before, learnt with the second turn"
        await fake.delete(CHANNEL, gone)
        for _ in range(400):
            if await there.utterances(OWN) == ["Mara, good evening"] and not pending(tmp_path):
                break
            await asyncio.sleep(0.05)
        assert pending(tmp_path) == 0
        assert count("sync", "SELECT count(*) FROM markov_line") == 0
        assert count("chat", "SELECT count(*) FROM vectors") == 2
        await fake.write(CHANNEL, 8, "Ben", "Mara, and what now?")
        await there.said(3)
        asked = json.dumps(model.requests[-1])
        assert "what now?" in asked
        assert "quincunx is mine" not in asked
        chat = (tmp_path / "chat.db").read_bytes() + (tmp_path / "chat.db-wal").read_bytes()
        assert b"quincunx is mine" not in chat, "not even before it stops"
    assert b"quincunx is mine" not in held_in(tmp_path)


async def test_no_token_is_an_error_with_a_reason(tmp_path: Path) -> None:
    app = App(Settings(_env_file=None, data=str(tmp_path), discord_token=""), ("discord",))
    with pytest.raises(BadInput) as refused:
        await discord_room.bind(app)
    assert refused.value.reason == "TOKEN_REQUIRED"


class SlowChat:
    """Chat that takes its time with a line, or cannot take it at first."""

    def __init__(self, *, refusals: int = 0) -> None:
        self.entered, self.go = asyncio.Event(), asyncio.Event()
        self.refusals = refusals
        self.said: list[str] = []

    async def Say(self, request: chat_pb2.SayRequest, timeout: float) -> chat_pb2.SayResponse:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("not now")
        self.entered.set()
        await self.go.wait()
        self.said.append(request.text)
        return chat_pb2.SayResponse(utterance_id=f"u{len(self.said)}")


class PlainState:
    """One NPC, whom everybody reaches."""

    async def ListNpcProfiles(self, request: Any, timeout: float) -> state_pb2.ListNpcProfilesResponse:
        return state_pb2.ListNpcProfilesResponse(npcs=[type_pb2.NpcProfile(id="mara", display_name="Mara")])

    async def ReportObservations(self, request: Any, timeout: float) -> state_pb2.ReportObservationsResponse:
        return state_pb2.ReportObservationsResponse(revision=1)


@asynccontextmanager
async def talking(data: Path, chat: SlowChat) -> AsyncIterator[Talk]:
    database = Database(data / "discord.db", SCHEMA)
    talk = Talk(DiscordStore(database), chat, PlainState(), lambda: 0.5)
    one = Binding(CHANNEL, 77, "local", OWN, ("mara",), last_message=1)
    await talk.store.bind(one)
    talk.load()
    yield talk
    await database.close()


async def test_a_message_that_is_deleted_while_it_is_being_heard_is_taken_back(tmp_path: Path) -> None:
    chat = SlowChat()
    async with talking(tmp_path, chat) as talk:
        hearing = asyncio.create_task(talk.hear(Heard(50, CHANNEL, 7, "Ada", "Mara, forget this")))
        await chat.entered.wait()
        deleting = asyncio.create_task(talk.deleted(CHANNEL, [50]))
        await asyncio.sleep(0)
        chat.go.set()
        await asyncio.gather(hearing, deleting)
        assert [(one.message, one.utterance, one.text) for one in talk.store.retractions(9)] == [(50, "u1", "")]


async def test_a_message_that_chat_cannot_take_now_is_said_again_and_in_order(tmp_path: Path) -> None:
    chat = SlowChat(refusals=2)
    chat.go.set()
    async with talking(tmp_path, chat) as talk:
        first = asyncio.create_task(talk.hear(Heard(50, CHANNEL, 7, "Ada", "Mara, one")))
        await asyncio.sleep(0)
        await asyncio.gather(first, talk.hear(Heard(51, CHANNEL, 7, "Ada", "Mara, two")))
        assert chat.said == ["Mara, one", "Mara, two"]
        assert talk.store.last_message(CHANNEL) == 51


async def test_an_equal_line_of_before_is_not_taken_for_one_that_was_going_out(tmp_path: Path) -> None:
    async with discord() as fake:
        async with rooms(fake, tmp_path, lambda _: Line(("Aye.",))) as there:
            await there.bind()
            await fake.write(CHANNEL, 7, "Ada", "Mara, one?")
            await there.said(1)
            await fake.write(CHANNEL, 7, "Ada", "Mara, two?")
            await there.said(2)
        assert (await there_is(tmp_path)) == 2
        # As a process leaves it that was killed after it noted the second line, before Discord had it.
        gone = fake.messages[str(CHANNEL)].pop()
        with closing(sqlite3.connect(tmp_path / "discord.db")) as db, db:
            db.execute("DELETE FROM sent WHERE message=?", (int(gone["id"]),))
            (seq,) = db.execute("SELECT cursor FROM binding").fetchone()
            with closing(sqlite3.connect(tmp_path / "chat.db")) as log:
                found = log.execute("SELECT seq FROM events WHERE instr(body, 'Aye.') ORDER BY seq DESC").fetchone()[0]
            db.execute("INSERT OR REPLACE INTO sending VALUES (?,?,1)", (CHANNEL, found))
            db.execute("UPDATE binding SET cursor=?", (min(seq, found - 1),))
        async with rooms(fake, tmp_path, lambda _: Line(("Aye.",))) as there:
            assert await there.said(2) == [("Mara", "Aye."), ("Mara", "Aye.")]


async def there_is(data: Path) -> int:
    """Lines of NPCs that are known to have been sent."""
    with closing(sqlite3.connect(data / "discord.db")) as db:
        return int(db.execute("SELECT count(*) FROM sent").fetchone()[0])
