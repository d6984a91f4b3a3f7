"""Wires the chat room into an app."""

from __future__ import annotations

import asyncio

from earshot.chat.v1 import chat_pb2_grpc
from earshot.state.v1 import state_pb2_grpc
from earshot.sync.v1 import sync_pb2_grpc

from services.chat import rules
from services.chat.actor import Tools, WorldActor
from services.chat.allowance import Allowance, Toll
from services.chat.asking import Asking
from services.chat.bell import Bell
from services.chat.crew import Crew
from services.chat.effects import Ask
from services.chat.embed_worker import Embeddings
from services.chat.erasure import Eraser
from services.chat.erasure_store import ErasureStore
from services.chat.moderation import RESOURCE, Moderator, Moderators, PatternModerator, WordModerator, words_of
from services.chat.moderation_hook import HttpModerator
from services.chat.recollection import Recollection
from services.chat.retracting import Retracting
from services.chat.retraction_store import RetractionStore
from services.chat.saying import PERIOD_S, Saying
from services.chat.servicer import ChatServicer
from services.chat.store import LAYOUT, SCHEMA, ChatStore
from services.chat.worker import Retention
from services.chat.worlds import Worlds
from services.common.app import App
from services.common.ownership import partition_of
from services.common.replicas import Holder, Partitions
from services.common.settings import Settings

SERVICE = "earshot.chat.v1.ChatService"
HOUR_MS = 3_600_000


async def bind(app: App) -> None:
    """Serve chat with the moderation that the settings name. Raises OSError when the word file cannot be read."""
    settings = app.settings
    chain: list[Moderator] = [PatternModerator(settings.self_harm_line or RESOURCE)]
    if settings.moderation_words:
        chain.append(WordModerator(words_of(settings.moderation_words)))
    if settings.moderation_url:
        hook = HttpModerator(settings.moderation_url)
        app.on_close("chat.moderation", hook.close)
        chain.append(hook)
    await bind_with(app, Moderators(chain))


async def bind_with(app: App, moderator: Moderator) -> None:
    """Serve chat with a moderation service of one's own."""
    settings = app.settings
    app.calls("state", "sync")
    database = app.open_store("chat", SCHEMA, LAYOUT)
    store = ChatStore(database)
    state = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
    sync = sync_pb2_grpc.SyncServiceStub(app.channels.to("sync"))
    crew, bell = Crew(), Bell()

    async def ask(actor: WorldActor, wanted: Ask) -> None:
        await asking.run(actor, wanted)

    async def locate(actor: WorldActor, player_id: str) -> None:
        await worlds.locate(actor, player_id)

    laws, places = rules.from_settings(settings), rules.of_places(settings)
    tools = Tools(
        store, crew, bell, app.clock, app.metrics, laws, ask, locate, settings.record, places,
        lambda tenant: worlds.lasting(tenant),
    )  # fmt: skip
    worlds = Worlds(state, tools, lasting=settings.memory_scope == "cross_session")
    recollection = Recollection(
        store, sync, app.metrics, settings.history_tokens, settings.context_messages, worlds.lasting
    )
    asking = Asking(sync, moderator, worlds, app.clock, settings.turn_deadline_s, settings.history_tokens, recollection)
    saying = Saying(worlds, store, state, moderator, app.clock, app.metrics, *_tolls(settings))
    eraser = Eraser(store, ErasureStore(store, database), worlds, state, sync, app.clock)
    retention = _retention(store, worlds, app)
    retracting = Retracting(store, RetractionStore(store, database), worlds, sync, moderator)
    servicer = ChatServicer(saying, worlds, store, bell, eraser, retracting, app.clock)
    app.add(chat_pb2_grpc.add_ChatServiceServicer_to_server, servicer, SERVICE)

    async def live() -> None:
        try:
            await crew.run()
        except asyncio.CancelledError:
            bell.close()
            raise

    async def entered(partitions: Partitions) -> None:
        worlds.entered(partitions)
        eraser.look()

    async def leaving(partitions: Partitions) -> None:
        await worlds.let_go(partitions)
        bell.hand_on(lambda world: partition_of(*world) in partitions)

    await app.hold("chat", database, Holder(entered, leaving))
    app.worker("chat.worlds", live)
    app.worker("chat.recover", worlds.recover)
    app.worker("chat.watch", worlds.watch)
    app.worker("chat.erasures", eraser.run)
    app.worker("chat.retractions", retracting.run)
    app.worker("chat.retention", retention.run)
    app.worker("chat.embeddings", Embeddings(store, sync, recollection, app.clock, app.metrics).run)
    app.ready_check("chat", crew.ready)


def _tolls(settings: Settings) -> tuple[Toll, Toll]:
    """What a player and what a conversation may say."""
    a_player, a_conversation = settings.player_messages_per_10s, settings.conversation_messages_per_10s
    return Toll(Allowance(a_player, PERIOD_S)), Toll(Allowance(a_conversation, PERIOD_S))


def _retention(store: ChatStore, worlds: Worlds, app: App) -> Retention:
    settings = app.settings
    return Retention(
        store,
        app.clock,
        round(settings.retention_h * HOUR_MS),
        settings.events_per_world,
        lambda world: worlds.loaded(world) is not None,
        round(settings.recall_days * 24 * HOUR_MS),
        settings.recall_lines,
    )
