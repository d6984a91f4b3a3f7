"""Discord's client: its events become messages of people, its webhooks are the mouths of NPCs."""

from __future__ import annotations

import json
from typing import Any

import discord
import yarl
from discord import app_commands

from services.common.errors import EarshotError, Forbidden, NotFound, Unavailable
from services.common.logs import get_logger
from services.common.settings import Settings
from services.discord import wording
from services.discord.binding import Binding
from services.discord.talk import Heard, Talk

WEBHOOK = "Earshot"
# What was written while we were away is heard when it is this fresh.
GAP_S = 600.0
GAP_MESSAGES = 100
LATEST = 25

_log = get_logger("discord")


def direct(api: str) -> None:
    """Use another server than Discord's, for tests: http://host:port."""
    address = yarl.URL(api)
    discord.http.Route.BASE = f"{api.rstrip('/')}/api/v10"
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"ws://{address.host}:{address.port}/gateway")


class EarshotClient(discord.Client):
    """Implements outbound.Channels. content: the message-content intent is ours."""

    def __init__(self, settings: Settings, *, content: bool) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, message_content=content)
        super().__init__(
            intents=intents, allowed_mentions=discord.AllowedMentions.none(),
            member_cache_flags=discord.MemberCacheFlags.none(), chunk_guilds_at_startup=False, max_messages=None,
        )  # fmt: skip
        self.tree = app_commands.CommandTree(self)
        self.content = content
        self.talk: Talk | None = None
        self._settings = settings
        self._webhooks: dict[int, discord.Webhook] = {}
        self._avatars: dict[str, str] = {}

    async def setup_hook(self) -> None:
        await self.tree.sync()

    # -- what happens in Discord -----------------------------------------------------------------------------------

    async def on_ready(self) -> None:
        """A new session: nothing of the time before it comes by itself."""
        for bound in list(self._talk.bindings.values()):
            await self._catch_up(bound)

    async def on_message(self, message: discord.Message) -> None:
        heard = self._heard(message)
        if heard is not None:
            await self._talk.hear(heard)

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        text = payload.data.get("content")
        # Without the intent the text of most messages is empty: that is no edit to nothing.
        if isinstance(text, str) and text and not payload.data.get("webhook_id"):
            names = [one.filename for one in payload.message.attachments]
            await self._talk.edited(payload.channel_id, payload.message_id, self._readable(payload.message), names)

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        await self._talk.deleted(payload.channel_id, [payload.message_id])

    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        await self._talk.deleted(payload.channel_id, sorted(payload.message_ids))

    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        await self._talk.channel_deleted(payload.thread_id)

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        await self._talk.channel_deleted(channel.id)

    async def on_guild_channel_update(self, before: Any, after: Any) -> None:
        """A channel that becomes age-restricted is let go at once, and its threads with it."""
        if restricted(after):
            for bound in list(self._talk.bindings.values()):
                if after.id in (bound.channel, getattr(self.get_channel(bound.channel), "parent_id", None)):
                    await self._talk.unbind(bound.channel)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        for bound in list(self._talk.bindings.values()):
            if bound.guild == guild.id:
                await self._talk.unbind(bound.channel)

    @property
    def _talk(self) -> Talk:
        assert self.talk is not None, "set before the client is started"
        return self.talk

    def _heard(self, message: discord.Message) -> Heard | None:
        """A person's message in a bound channel: not a bot's, a webhook's (so our own lines come back), a notice."""
        if message.author.bot or message.webhook_id is not None or message.channel.id not in self._talk.bindings:
            return None
        if message.type not in (discord.MessageType.default, discord.MessageType.reply) or restricted(message.channel):
            return None
        if not self.may_speak(message.author):
            return None
        answered = message.reference.message_id if message.reference is not None else None
        sent = self._talk.store.sent_as(message.channel.id, answered) if answered else None
        mentioned = self.user is not None and self.user.id in message.raw_mentions
        return Heard(
            message.id, message.channel.id, message.author.id, message.author.display_name, self._readable(message),
            tuple(one.filename for one in message.attachments), mentioned or sent is not None, sent.npc if sent else "",
        )  # fmt: skip

    def _readable(self, message: discord.Message) -> str:
        """The text with names instead of ids, without the mention of the bot itself."""
        text = message.content
        if self.user is not None:
            for form in (f"<@{self.user.id}>", f"<@!{self.user.id}>"):
                text = text.replace(form, " ")
        for user in message.mentions:
            for form in (f"<@{user.id}>", f"<@!{user.id}>"):
                text = text.replace(form, user.display_name)
        for channel in message.channel_mentions:
            text = text.replace(f"<#{channel.id}>", f"#{channel.name}")
        for role in message.role_mentions:
            text = text.replace(f"<@&{role.id}>", role.name)
        return text

    def may_speak(self, author: Any) -> bool:
        """Whether NPCs listen to a person."""
        wanted = ids(self._settings.discord_user_roles)
        return not wanted or any(role.id in wanted for role in getattr(author, "roles", ()))

    async def _catch_up(self, bound: Binding) -> None:
        """Hear what was written since the last message that we know; chat knows repetitions by their id.

        What was deleted or edited meanwhile comes from what stands there still.
        """
        try:
            channel: Any = self.get_channel(bound.channel) or await self.fetch_channel(bound.channel)
            if restricted(channel):
                await self._talk.unbind(bound.channel)
                return
            last = self._talk.store.last_message(bound.channel)
            if not last:
                return
            known = [one async for one in channel.history(limit=GAP_MESSAGES, before=discord.Object(last + 1))]
            # A page that is not full goes back to the channel's beginning.
            oldest = min(one.id for one in known) if len(known) == GAP_MESSAGES else 0
            edited = {
                one.id: (self._readable(one), [name.filename for name in one.attachments]) if one.edited_at else None
                for one in known
                if one.content or not one.edited_at
            }
            await self._talk.compared(bound.channel, oldest, {**dict.fromkeys(one.id for one in known), **edited})
            since = discord.Object(last)
            async for message in channel.history(limit=GAP_MESSAGES, after=since, oldest_first=True):
                age = (discord.utils.utcnow() - message.created_at).total_seconds()
                heard = self._heard(message) if age <= GAP_S else None
                if heard is not None:
                    await self._talk.hear(heard)
        except discord.NotFound:
            await self._talk.channel_deleted(bound.channel)
        except discord.HTTPException as error:
            _log.warning("gap_unread", status=error.status)

    # -- what NPCs say there ---------------------------------------------------------------------------------------

    async def send(self, channel: int, post: wording.Post, text: str) -> int:
        where = await self._where(channel)
        if restricted(where):
            raise Forbidden("the channel is age-restricted", reason="AGE_RESTRICTED")
        try:
            webhook = await self._webhook(where) if post.npc else None
            if webhook is None:
                return int((await where.send(f"**{wording.escaped(post.name)}:** {text}"[: wording.LENGTH_MAX])).id)
            options: dict[str, Any] = {"username": wording.name(post.name), "wait": True}
            if isinstance(where, discord.Thread):
                options["thread"] = where
            if post.npc in self._avatars:
                options["avatar_url"] = self._avatars[post.npc]
            return int((await webhook.send(text, **options)).id)
        except discord.NotFound as error:
            # The webhook may have been deleted under us: another one is made at the next try.
            known = self._webhooks.pop(_parent(where), None)
            if known is None or error.code != 10015:
                raise NotFound("the channel is gone", reason="CHANNEL_GONE") from error
            raise Unavailable("the webhook is gone", reason="WEBHOOK_GONE") from error
        except discord.Forbidden as error:
            raise Forbidden("the bot may not write there", reason="MAY_NOT_WRITE") from error
        except (TimeoutError, discord.HTTPException, OSError) as error:
            raise Unavailable("Discord does not take it now", reason="DISCORD_FAILED") from error

    async def arrived(self, channel: int, post: wording.Post, text: str) -> int:
        where = await self._where(channel)
        plain = f"**{wording.escaped(post.name)}:** {text}"
        try:
            async for message in where.history(limit=LATEST):
                ours = message.webhook_id is not None or (self.user is not None and message.author.id == self.user.id)
                # An equal line that is known to have been sent is an earlier one.
                if ours and message.content in (text, plain) and not self._talk.store.sent_as(channel, message.id):
                    return int(message.id)
        except (TimeoutError, discord.HTTPException, OSError) as error:
            raise Unavailable("Discord does not answer", reason="DISCORD_FAILED") from error
        return 0

    async def _where(self, channel: int) -> Any:
        try:
            return self.get_channel(channel) or await self.fetch_channel(channel)
        except discord.NotFound as error:
            raise NotFound("the channel is gone", reason="CHANNEL_GONE") from error
        except discord.Forbidden as error:
            raise Forbidden("the bot may not see the channel", reason="MAY_NOT_SEE") from error
        except (TimeoutError, discord.HTTPException, OSError) as error:
            raise Unavailable("Discord does not answer", reason="DISCORD_FAILED") from error

    async def _webhook(self, where: Any) -> discord.Webhook | None:
        """The channel's one webhook of ours; None when the bot may make none, then it speaks itself."""
        parent = _parent(where)
        if parent in self._webhooks:
            return self._webhooks[parent]
        home: Any = where.parent if isinstance(where, discord.Thread) else where
        try:
            known = [one for one in await home.webhooks() if one.name == WEBHOOK and one.token]
            webhook: discord.Webhook = known[0] if known else await home.create_webhook(name=WEBHOOK)
        except discord.Forbidden:
            return None
        self._webhooks[parent] = webhook
        return webhook

    async def learn(self, tenant: str) -> None:
        """Pictures of NPCs: `avatar_url` in a profile's model settings."""
        for npc, profile in (await self._talk.names(tenant)).items():
            try:
                url = json.loads(profile.model_settings or b"{}").get("avatar_url", "")
            except (ValueError, AttributeError):
                continue
            if isinstance(url, str) and url.startswith(("https://", "http://")):
                self._avatars[npc] = url


def restricted(channel: Any) -> bool:
    """Whether a channel, or the one that a thread is in, is age-restricted; one that is unknown may be."""
    if isinstance(channel, discord.Thread) and channel.parent is None:
        return True
    check = getattr(channel, "is_nsfw", None)
    return bool(check()) if check is not None else False


def _parent(where: Any) -> int:
    return int(where.parent_id if isinstance(where, discord.Thread) else where.id)


def ids(text: str) -> set[int]:
    """Numbers of a list in a setting."""
    return {int(part) for part in text.split(",") if part.strip().isdigit()}


def moderates(settings: Settings, interaction: discord.Interaction) -> bool:
    """Whether a person may bind: Manage Channels, or one of the roles that the settings name."""
    wanted = ids(settings.discord_moderator_roles)
    roles = {role.id for role in getattr(interaction.user, "roles", ())}
    return interaction.permissions.manage_channels or bool(wanted & roles)


async def answered(interaction: discord.Interaction, work: Any) -> None:
    """Defer at once (Discord waits three seconds), work, then tell: its text, or the error's."""
    await interaction.response.defer(ephemeral=True, thinking=True)
    try:
        text = await work
    except EarshotError as error:
        text = f"{error.message} ({error.reason})"
    for part in wording.parts(text):
        await interaction.followup.send(part, ephemeral=True)
