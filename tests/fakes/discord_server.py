"""A small Discord on loopback: its REST API and its gateway over a WebSocket, as far as a bot sees them.

Channels, messages, webhooks and interactions are kept; everything that the bot sends is remembered as it came. It can
limit the rate, drop the gateway with or without the right to resume, and lose events until they are asked for.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import WSMsgType, web

BOT = {"id": "900000000000000009", "username": "earshot", "discriminator": "0", "avatar": None, "bot": True, "flags": 0}
APPLICATION = "901"
GUILD = "77"
ROLE = "44"
# Manage Channels, and what anybody may.
MODERATOR, ANYBODY = "16", "0"
EPOCH_MS = 1_420_070_400_000


def person(user: int, name: str) -> dict[str, Any]:
    return {"id": str(user), "username": name, "global_name": name, "discriminator": "0", "avatar": None}


@dataclass
class Session:
    """A gateway session: its events by number, and the socket that has it now."""

    id: str
    sent: list[dict[str, Any]] = field(default_factory=list)
    socket: web.WebSocketResponse | None = None
    transport: asyncio.Transport | None = None
    deflate: Any = None


@dataclass
class FakeDiscord:
    """The server. posted: (path, body) of every request that writes; limits: 429s to answer first, by path prefix."""

    port: int = 0
    posted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    messages: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    channels: dict[str, dict[str, Any]] = field(default_factory=dict)
    webhooks: dict[str, dict[str, Any]] = field(default_factory=dict)
    commands: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    limited: int = 0
    identified: int = 0
    resumed: int = 0
    intents: int = 0
    refuse_content: bool = False
    forbid_webhooks: bool = False
    token: str = "good"
    muted: bool = False
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _session: Session | None = None
    _serial: int = 0

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def channel(self, number: int, name: str, *, nsfw: bool = False) -> None:
        self.channels[str(number)] = {
            "id": str(number), "type": 0, "guild_id": GUILD, "name": name, "nsfw": nsfw, "position": number,
            "permission_overwrites": [], "parent_id": None, "topic": None, "rate_limit_per_user": 0,
        }  # fmt: skip
        self.messages[str(number)] = []

    def thread(self, number: int, parent: int, name: str) -> None:
        """A thread of a channel."""
        self.channels[str(number)] = {
            "id": str(number), "type": 11, "guild_id": GUILD, "name": name, "parent_id": str(parent), "owner_id": "1",
            "message_count": 0, "member_count": 1, "rate_limit_per_user": 0, "flags": 0,
            "thread_metadata": {
                "archived": False, "auto_archive_duration": 1440, "archive_timestamp": "2024-01-01T00:00:00+00:00",
                "locked": False, "create_timestamp": "2024-01-01T00:00:00+00:00",
            },
        }  # fmt: skip
        self.messages[str(number)] = []

    async def restrict(self, channel: int) -> None:
        """A channel becomes age-restricted."""
        self.channels[str(channel)]["nsfw"] = True
        await self.dispatch("CHANNEL_UPDATE", self.channels[str(channel)])

    async def remove(self, channel: int) -> None:
        """A channel or thread is deleted."""
        gone = self.channels.pop(str(channel))
        self.messages.pop(str(channel))
        await self.dispatch("THREAD_DELETE" if gone["type"] == 11 else "CHANNEL_DELETE", gone)

    def snowflake(self) -> str:
        """An id of now."""
        self._serial += 1
        return str((int(datetime.now(UTC).timestamp() * 1000) - EPOCH_MS << 22) + self._serial)

    async def until(self, true: Any, seconds: float = 60.0) -> None:
        """Wait until something is the case; whatever writes here is looked at."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(true)

    async def note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def lines(self, channel: int) -> list[tuple[str, str]]:
        """(who, text) of every message in a channel."""
        return [(one["author"]["username"], one["content"]) for one in self.messages[str(channel)]]

    # -- what people do --------------------------------------------------------------------------------------------

    async def write(self, channel: int, user: int, name: str, text: str, **fields: Any) -> int:
        """Somebody writes a message."""
        mentions = [BOT] if f"<@{BOT['id']}>" in text else []
        message = self._message(str(channel), person(user, name), text, mentions=mentions, **fields)
        await self.dispatch("MESSAGE_CREATE", {**message, "guild_id": GUILD, "member": _member()})
        return int(message["id"])

    async def edit(self, channel: int, message: int, text: str) -> None:
        for one in self.messages[str(channel)]:
            if one["id"] == str(message):
                one.update(content=text, edited_timestamp=datetime.now(UTC).isoformat())
                await self.dispatch("MESSAGE_UPDATE", {**one, "guild_id": GUILD})

    async def delete(self, channel: int, *messages: int) -> None:
        gone = {str(one) for one in messages}
        self.messages[str(channel)] = [one for one in self.messages[str(channel)] if one["id"] not in gone]
        if len(messages) > 1:
            await self.dispatch(
                "MESSAGE_DELETE_BULK", {"ids": sorted(gone), "channel_id": str(channel), "guild_id": GUILD}
            )
        else:
            event = {"id": str(messages[0]), "channel_id": str(channel), "guild_id": GUILD}
            await self.dispatch("MESSAGE_DELETE", event)

    async def command(
        self,
        channel: int,
        user: int,
        name: str,
        *,
        permissions: str = ANYBODY,
        roles: tuple[str, ...] = (),
        **options: Any,
    ) -> list[str]:
        """Somebody uses /earshot NAME; what they are answered."""
        token = f"token{self.snowflake()}"
        kinds = {bool: 5, int: 4, str: 3}
        given = [{"name": key, "type": kinds[type(value)], "value": value} for key, value in options.items()]
        interaction = {
            "id": self.snowflake(), "application_id": APPLICATION, "type": 2, "token": token, "version": 1,
            "guild_id": GUILD, "channel_id": str(channel), "channel": self.channels[str(channel)],
            "app_permissions": "8", "locale": "en-US", "guild_locale": "en-US", "entitlements": [],
            "authorizing_integration_owners": {}, "context": 0, "attachment_size_limit": 1,
            "member": {
                **_member(), "user": person(user, f"user{user}"), "permissions": permissions, "roles": list(roles),
            },
            "data": {
                "id": "950", "name": "earshot", "type": 1, "guild_id": GUILD,
                "options": [{"name": name, "type": 1, "options": given}],
            },
        }  # fmt: skip
        await self.dispatch("INTERACTION_CREATE", interaction)
        await self.until(lambda: len(self.answers.get(token, [])) > 1)
        return self.answers[token][1:]

    # -- the gateway -----------------------------------------------------------------------------------------------

    async def dispatch(self, kind: str, data: dict[str, Any]) -> None:
        """An event of the session; kept for a resume while the gateway is away."""
        if self._session is None:
            return
        event = {"op": 0, "t": kind, "s": len(self._session.sent) + 1, "d": data}
        self._session.sent.append(event)
        if not self.muted:
            await self._send(self._session, event)

    async def drop(self, *, resumable: bool = True) -> None:
        """The gateway goes away; resumable=False: the session is forgotten with it."""
        session = self._session
        assert session is not None
        transport, session.socket, session.transport = session.transport, None, None
        if not resumable:
            self._session = None
        if transport is not None:
            transport.abort()

    async def _send(self, session: Session, event: dict[str, Any]) -> None:
        socket = session.socket
        if socket is None or socket.closed:
            return
        text = json.dumps(event)
        if session.deflate is not None:
            await socket.send_bytes(session.deflate.compress(text.encode()) + session.deflate.flush(zlib.Z_SYNC_FLUSH))
        else:
            await socket.send_str(text)

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        compressed = request.query.get("compress") == "zlib-stream"
        session = Session("", [], socket, request.transport, zlib.compressobj() if compressed else None)
        await self._send(session, {"op": 10, "d": {"heartbeat_interval": 5_000}})
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            asked = json.loads(message.data)
            match asked["op"]:
                case 1:
                    await self._send(session, {"op": 11})
                case 2:
                    session = await self._identify(session, asked["d"])
                case 6:
                    session = await self._resume(session, asked["d"])
            await self.note()
        return socket

    async def _identify(self, session: Session, asked: dict[str, Any]) -> Session:
        self.intents = int(asked["intents"])
        if self.refuse_content and self.intents & (1 << 15):
            assert session.socket is not None
            await session.socket.close(code=4014)
            return session
        self.identified += 1
        session.id, self._session = f"s{self.identified}", session
        gateway = f"ws://127.0.0.1:{self.port}/gateway"
        ready = {
            "v": 10, "user": BOT, "guilds": [{"id": GUILD, "unavailable": True}], "session_id": session.id,
            "resume_gateway_url": gateway, "application": {"id": APPLICATION, "flags": 0}, "private_channels": [],
        }  # fmt: skip
        await self.dispatch("READY", ready)
        await self.dispatch("GUILD_CREATE", self._guild())
        return session

    async def _resume(self, session: Session, asked: dict[str, Any]) -> Session:
        known = self._session
        if known is None or known.id != asked["session_id"]:
            await self._send(session, {"op": 9, "d": False})
            return session
        self.resumed += 1
        known.socket, known.transport, known.deflate = session.socket, session.transport, session.deflate
        for event in known.sent[int(asked["seq"]) :]:
            await self._send(known, event)
        await self.dispatch("RESUMED", {})
        return known

    def _guild(self) -> dict[str, Any]:
        everyone = {
            "id": GUILD, "name": "@everyone", "color": 0, "hoist": False, "position": 0, "permissions": "8",
            "managed": False, "mentionable": False, "flags": 0,
        }  # fmt: skip
        return {
            "id": GUILD, "name": "Tavern", "owner_id": "1",
            "roles": [everyone, {**everyone, "id": ROLE, "name": "hosts", "permissions": "0"}],
            "emojis": [], "stickers": [], "features": [],
            "channels": [one for one in self.channels.values() if one["type"] != 11],
            "threads": [one for one in self.channels.values() if one["type"] == 11], "members": [
                {**_member(), "user": BOT}
            ], "member_count": 3, "large": False, "voice_states": [], "presences": [], "stage_instances": [],
            "guild_scheduled_events": [], "soundboard_sounds": [], "verification_level": 0,
            "default_message_notifications": 0, "explicit_content_filter": 0, "mfa_level": 0, "premium_tier": 0,
            "nsfw_level": 0, "system_channel_flags": 0, "preferred_locale": "en-US", "afk_timeout": 300,
            "premium_progress_bar_enabled": False, "joined_at": "2024-01-01T00:00:00+00:00", "unavailable": False,
        }  # fmt: skip

    # -- REST ------------------------------------------------------------------------------------------------------

    async def _rest(self, request: web.Request) -> web.Response:
        path = request.path.removeprefix("/api/v10")
        if request.headers.get("authorization", f"Bot {self.token}") != f"Bot {self.token}":
            return _answer({"message": "401: Unauthorized", "code": 0}, 401)
        for prefix, left in self.limits.items():
            if left and path.startswith(prefix):
                self.limits[prefix] -= 1
                self.limited += 1
                body = {"message": "You are being rate limited.", "retry_after": 0.05, "global": False}
                return _answer(body, 429, {"Retry-After": "1", "X-RateLimit-Scope": "user", "Via": "1.1 fake"})
        body = await request.json() if request.can_read_body and request.content_type == "application/json" else {}
        try:
            return await self._route(request, path.strip("/").split("/"), body)
        finally:
            await self.note()

    async def _route(self, request: web.Request, parts: list[str], body: Any) -> web.Response:
        if request.method != "GET":
            self.posted.append(("/".join(parts), body))
        match request.method, *parts:
            case "GET", "users", "@me":
                return _answer(BOT)
            case "GET", "oauth2", "applications", "@me":
                team = {
                    "id": APPLICATION, "name": "earshot", "description": "", "flags": 0, "bot_public": True,
                    "bot_require_code_grant": False, "verify_key": "0" * 64, "icon": None, "owner": person(1, "o"),
                }  # fmt: skip
                return _answer(team)
            case "PUT", "applications", _, "commands":
                self.commands = body
                return _answer([])
            case "POST", "interactions", _, token, "callback":
                self.answers.setdefault(token, []).append(f"deferred {body['type']}")
                return _answer({"interaction": {"id": "1", "type": 2}}) if request.query else web.Response(status=204)
            case ("POST", "webhooks", whose, token) if whose == APPLICATION:
                self.answers.setdefault(token, []).append(body["content"])
                return _answer(self._loose(body["content"]))
            case "POST", "webhooks", whose, token:
                return self._hooked(whose, token, body, request.query.get("thread_id"))
            case "GET", "channels", channel, "webhooks":
                if self.forbid_webhooks:
                    return _answer({"message": "Missing Permissions", "code": 50013}, 403)
                return _answer([one for one in self.webhooks.values() if one["channel_id"] == channel])
            case "POST", "channels", channel, "webhooks":
                hook = {"id": self.snowflake(), "type": 1, "guild_id": GUILD, "channel_id": channel, "avatar": None,
                        "name": body["name"], "token": "hook", "application_id": APPLICATION}  # fmt: skip
                self.webhooks[hook["id"]] = hook
                return _answer(hook)
            case "POST", "channels", channel, "messages":
                return _answer(self._message(channel, BOT, body["content"]))
            case "GET", "channels", channel, "messages":
                return _answer(self._page(channel, request.query))
            case "GET", "channels", channel if channel in self.channels:
                return _answer(self.channels[channel])
        return _answer({"message": "404: Not Found", "code": 10003}, 404)

    def _hooked(self, whose: str, token: str, body: Any, thread: str | None) -> web.Response:
        hook = self.webhooks.get(whose)
        if hook is None or hook["token"] != token:
            return _answer({"message": "Unknown Webhook", "code": 10015}, 404)
        author = {"id": whose, "username": body["username"], "discriminator": "0000", "avatar": None, "bot": True}
        return _answer(self._message(thread or hook["channel_id"], author, body["content"], webhook_id=whose))

    def _page(self, channel: str, query: Any) -> list[dict[str, Any]]:
        found = self.messages[channel]
        if "after" in query:
            found = [one for one in found if int(one["id"]) > int(query["after"])][: int(query.get("limit", 50))]
        elif "before" in query:
            found = [one for one in found if int(one["id"]) < int(query["before"])]
        return list(reversed(found))[: int(query.get("limit", 50))]

    def _message(self, channel: str, author: dict[str, Any], text: str, **fields: Any) -> dict[str, Any]:
        message = {**self._loose(text), "channel_id": channel, "author": author, **fields}
        self.messages[channel].append(message)
        return message

    def _loose(self, text: str) -> dict[str, Any]:
        return {
            "id": self.snowflake(), "type": 0, "content": text, "channel_id": "1", "author": BOT, "mentions": [],
            "mention_roles": [], "mention_everyone": False, "attachments": [], "embeds": [], "pinned": False,
            "tts": False, "timestamp": datetime.now(UTC).isoformat(), "edited_timestamp": None, "flags": 0,
            "components": [],
        }  # fmt: skip


def _member() -> dict[str, Any]:
    return {
        "roles": [],
        "joined_at": "2024-01-01T00:00:00+00:00",
        "deaf": False,
        "mute": False,
        "nick": None,
        "flags": 0,
    }


def _answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    # Exactly this type: the client takes nothing else for JSON.
    response = web.Response(body=json.dumps(body).encode(), status=status, headers=headers)
    response.headers["Content-Type"] = "application/json"
    return response


@asynccontextmanager
async def discord(**fields: Any) -> AsyncIterator[FakeDiscord]:
    """A running server with two channels, one of them age-restricted."""
    fake = FakeDiscord(**fields)
    fake.channel(100, "tavern")
    fake.channel(101, "cellar", nsfw=True)
    app = web.Application()
    app.router.add_get("/gateway", fake._gateway)
    app.router.add_get("/gateway/", fake._gateway)
    app.router.add_route("*", "/api/v10/{path:.*}", fake._rest)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # listening
    try:
        yield fake
    finally:
        await runner.cleanup()
