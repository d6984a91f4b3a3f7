"""Slash commands: bind, unbind, npc, say, why, status. Who may what is checked here; what they do is Talk's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import discord
import grpc
from discord import app_commands
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, Forbidden, NotFound, from_rpc
from services.common.settings import Settings
from services.discord import wording
from services.discord.binding import ALL, MENTION, Binding, own_world
from services.discord.client import EarshotClient, answered, ids, moderates, restricted
from services.discord.talk import CALL_S, Heard, Talk


class Commands(app_commands.Group):
    """/earshot ..."""

    def __init__(self, client: EarshotClient, talk: Talk, chat: Any, settings: Settings) -> None:
        super().__init__(name="earshot", description="NPCs in this channel", guild_only=True)
        self._client = client
        self._talk = talk
        self._chat = chat
        self._settings = settings

    # -- moderators ------------------------------------------------------------------------------------------------

    @app_commands.command(description="Let NPCs take part in this channel")
    @app_commands.describe(
        npcs="NPC ids, separated by commas",
        world="world of a running game server to join (default: a world of this channel's own)",
        every_message="hear every message, not only those for them",
        chance="per cent of other messages that they hear",
        relay="show here what players say in the game",
    )
    async def bind(
        self,
        interaction: discord.Interaction,
        npcs: str,
        world: str = "",
        every_message: bool = False,
        chance: app_commands.Range[int, 0, 100] = 0,
        relay: bool = False,
    ) -> None:
        await answered(interaction, self._bind(interaction, npcs, world, every_message, chance, relay))

    async def _bind(
        self, interaction: discord.Interaction, npcs: str, world: str, every: bool, chance: int, relay: bool
    ) -> str:
        channel: Any = interaction.channel
        self._moderators_only(interaction)
        if restricted(channel):
            raise Forbidden("Age-restricted channels are not bound", reason="AGE_RESTRICTED")
        guild = interaction.guild_id or 0
        own = own_world(guild, channel.id)
        wished = world.strip() or own
        if wished != own and guild not in ids(self._settings.discord_join_guilds):
            raise Forbidden("The operator lets no channel of this server join a game", reason="JOIN_NOT_OPEN")
        wanted = tuple(dict.fromkeys(name.strip() for name in npcs.split(",") if name.strip()))
        bound = await self._talk.bind(
            Binding(
                channel.id, guild, self._settings.discord_tenant, wished, wanted,
                ALL if every else MENTION, chance, relay, last_message=interaction.id,
            )
        )  # fmt: skip
        await self._client.learn(bound.tenant)
        profiles = await self._talk.names(bound.tenant)
        names = [profiles[npc].display_name or npc for npc in bound.npcs]
        await channel.send(wording.notice(bound, names, content=self._client.content))
        return f"Bound to world `{bound.world}`." + self._limits(bound)

    @app_commands.command(description="NPCs leave this channel")
    async def unbind(self, interaction: discord.Interaction) -> None:
        await answered(interaction, self._unbind(interaction))

    async def _unbind(self, interaction: discord.Interaction) -> str:
        self._moderators_only(interaction)
        if not await self._talk.unbind(interaction.channel_id or 0):
            raise NotFound("This channel is not bound", reason="NOT_BOUND")
        return "The NPCs are gone from this channel."

    @app_commands.command(description="Add an NPC to this channel, or take it away")
    async def npc(self, interaction: discord.Interaction, npc: str, leave: bool = False) -> None:
        await answered(interaction, self._npc(interaction, npc.strip(), leave))

    async def _npc(self, interaction: discord.Interaction, npc: str, leave: bool) -> str:
        self._moderators_only(interaction)
        bound = self._bound(interaction)
        others = tuple(one for one in bound.npcs if one != npc)
        await self._talk.bind(replace(bound, npcs=others if leave else (*others, npc)))
        return f"Here now: {', '.join(self._talk.bindings[bound.channel].npcs)}."

    # -- everybody -------------------------------------------------------------------------------------------------

    @app_commands.command(description="Say something to an NPC here")
    async def say(self, interaction: discord.Interaction, text: str, npc: str = "") -> None:
        await answered(interaction, self._say(interaction, text, npc.strip()))

    async def _say(self, interaction: discord.Interaction, text: str, npc: str) -> str:
        bound = self._bound(interaction)
        if not self._client.may_speak(interaction.user):
            raise Forbidden("NPCs do not listen to you here", reason="ROLE_REQUIRED")
        if npc and npc not in bound.npcs:
            raise BadInput(f"{npc} is not here; here are {', '.join(bound.npcs)}", reason="UNKNOWN_NPC")
        heard = Heard(
            interaction.id, bound.channel, interaction.user.id, interaction.user.display_name, text,
            addressed=True, to_npc=npc or bound.npcs[0], slash=True,
        )  # fmt: skip
        answer = await self._talk.hear(heard)
        if answer is None:
            raise BadInput("nobody hears that", reason="UNHEARD")
        return f"You said: {wording.escaped(text)}"

    @app_commands.command(description="Why did an NPC say that?")
    @app_commands.describe(message="id or link of the NPC's message (default: the last one here)")
    async def why(self, interaction: discord.Interaction, message: str = "") -> None:
        await answered(interaction, self._why(interaction, message))

    async def _why(self, interaction: discord.Interaction, message: str) -> str:
        bound = self._bound(interaction)
        number = message.strip().rpartition("/")[2]
        if number and not number.isdigit():
            raise BadInput("that is neither an id nor a link of a message", reason="BAD_MESSAGE")
        sent = self._talk.store.sent_as(bound.channel, int(number or 0))
        if sent is None:
            raise NotFound("no NPC said that here", reason="UNKNOWN_MESSAGE")
        world = type_pb2.WorldRef(tenant=bound.tenant, world=sent.world)
        try:
            request = chat_pb2.ExplainTurnRequest(world=world, turn_id=sent.turn)
            return wording.explanation(await self._chat.ExplainTurn(request, timeout=CALL_S), bound)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    @app_commands.command(description="Who is here, and what they hear")
    async def status(self, interaction: discord.Interaction) -> None:
        await answered(interaction, self._status(interaction))

    async def _status(self, interaction: discord.Interaction) -> str:
        bound = self._bound(interaction)
        heard = "every message" if bound.mode == ALL else f"what is for them, and {bound.chance} % of the rest"
        return (
            f"World `{bound.world}`; NPCs {', '.join(bound.npcs)}; they hear {heard}."
            f" Gateway {self._client.latency * 1000:.0f} ms." + self._limits(bound)
        )

    def _limits(self, bound: Binding) -> str:
        if self._client.content:
            return ""
        return " The bot has no message-content intent: only messages that mention it are heard."

    def _bound(self, interaction: discord.Interaction) -> Binding:
        bound = self._talk.bindings.get(interaction.channel_id or 0)
        if bound is None:
            raise NotFound("This channel is not bound", reason="NOT_BOUND")
        if restricted(interaction.channel):
            raise Forbidden("Age-restricted channels are not bound", reason="AGE_RESTRICTED")
        return bound

    def _moderators_only(self, interaction: discord.Interaction) -> None:
        if not moderates(self._settings, interaction):
            raise Forbidden("That takes the permission to manage channels", reason="MODERATORS_ONLY")
