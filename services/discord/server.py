"""Wires the Discord edge into an app."""

from __future__ import annotations

import asyncio
import random

import grpc
from earshot.chat.v1 import chat_pb2_grpc
from earshot.state.v1 import state_pb2_grpc

from services.common.app import App
from services.common.errors import BadInput
from services.common.logs import get_logger
from services.common.mirror import ROWS_IN
from services.common.replicas import Holder, Partitions, Turn
from services.common.settings import Settings
from services.discord.store import LAYOUT, SCHEMA, DiscordStore
from services.discord.talk import Talk

_log = get_logger("discord")


async def bind(app: App) -> None:
    """Speak on Discord. Raises BadInput TOKEN_REQUIRED without a token, EXTRA_NEEDED without the package."""
    settings = app.settings
    if not settings.discord_token:
        raise BadInput("the Discord edge needs EARSHOT_DISCORD_TOKEN", reason="TOKEN_REQUIRED")
    try:
        from services.discord import client as discord_client
    except ImportError as error:
        raise BadInput("the Discord edge needs pip install 'earshot[discord]'", reason="EXTRA_NEEDED") from error
    if settings.discord_api:
        discord_client.direct(settings.discord_api)
    app.calls("state", "chat")
    database = app.open_store("discord", SCHEMA, LAYOUT)
    store = DiscordStore(database)
    chat = chat_pb2_grpc.ChatServiceStub(app.channels.to("chat"))
    state = state_pb2_grpc.StateServiceStub(app.channels.to("state"))
    talk = Talk(store, chat, state, random.Random().random)
    turn = Turn()

    async def entered(partitions: Partitions) -> None:
        if ROWS_IN in partitions:
            talk.load()
            turn.begin()

    async def leaving(partitions: Partitions) -> None:
        if ROWS_IN in partitions:
            await turn.end()

    await app.hold("discord", database, Holder(entered, leaving))
    app.worker("discord.retractions", turn.of(talk.pass_on))
    app.worker("discord.gateway", turn.of(lambda: _serve(app, settings, talk, store, chat)))


async def _serve(app: App, settings: Settings, talk: Talk, store: DiscordStore, chat: object) -> None:
    """Sessions, one after another: without the privileged intent in mention-only mode. A wrong token ends it."""
    import discord

    content = settings.discord_message_content
    while True:
        try:
            await _session(app, settings, talk, store, chat, content=content)
            return
        except discord.PrivilegedIntentsRequired:
            _log.warning("no_message_content_intent", heard="messages that mention the bot")
            content = False
        except discord.LoginFailure:
            # Asking again would only bring the address closer to a ban.
            _log.error("discord_token_refused")
            return


async def _session(
    app: App, settings: Settings, talk: Talk, store: DiscordStore, chat: object, *, content: bool
) -> None:
    from services.discord.client import EarshotClient
    from services.discord.commands import Commands
    from services.discord.outbound import Outbound

    async with EarshotClient(settings, content=content) as client:
        client.talk = talk
        client.tree.add_command(Commands(client, talk, chat, settings))
        await client.login(settings.discord_token)
        for tenant in {one.tenant for one in talk.bindings.values()}:
            try:
                await client.learn(tenant)
            except grpc.aio.AioRpcError:
                _log.info("avatars_unknown")
        outbound = Outbound(talk, store, chat, client, app.clock.now_ms)
        speaking = asyncio.create_task(outbound.run(), name="discord.outbound")
        try:
            await client.connect(reconnect=True)
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
