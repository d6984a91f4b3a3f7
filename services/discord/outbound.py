"""From a world's log into its channels: each line once and in order, whatever the gateway does.

The cursor of a channel moves when its line stands there. Before a piece is sent it is noted as going out; a process
that was killed in between looks into the channel whether it arrived, before it sends it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import grpc
from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import EarshotError, Forbidden, NotFound, from_rpc
from services.common.logs import get_logger
from services.discord import wording
from services.discord.binding import Binding
from services.discord.store import DiscordStore, Sent
from services.discord.talk import Talk

HOLD_S = 20.0
PAGE = 64
RETRY_MIN_S = 0.5
RETRY_MAX_S = 30.0
# Lines older than this are not shown any more: relayed ones at once, NPCs' after a minute.
STALE_RELAYED_MS = 5_000
STALE_MS = 60_000

_log = get_logger("discord")


class Channels(Protocol):
    """Port: writing into Discord. Raises Forbidden or NotFound for good, other EarshotError for now."""

    async def send(self, channel: int, post: wording.Post, text: str) -> int:
        """Send one message in the NPC's name; its id."""
        ...

    async def arrived(self, channel: int, post: wording.Post, text: str) -> int:
        """Id of such a message among the channel's latest, 0 = it is not there."""
        ...


@dataclass(slots=True)
class Outbound:
    """One reader a bound channel, for as long as it is bound."""

    talk: Talk
    store: DiscordStore
    chat: Any
    channels: Channels
    now_ms: Callable[[], int]
    _readers: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Keep a reader for every binding, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self.talk.changed.clear()
                    for channel in [one for one, task in self._readers.items() if task.done()]:
                        del self._readers[channel]
                    for channel in self.talk.bindings:
                        if channel not in self._readers:
                            self._readers[channel] = group.create_task(self._read(channel), name="discord.channel")
                    await self.talk.changed.wait()
        finally:
            self._readers.clear()

    async def _read(self, channel: int) -> None:
        delay = RETRY_MIN_S
        while (bound := self.talk.bindings.get(channel)) is not None:
            try:
                await self.step(bound)
                delay = RETRY_MIN_S
            except (Forbidden, NotFound) as error:
                _log.warning("channel_lost", reason=error.reason)
                await self.talk.unbind(channel)
            except EarshotError as error:
                _log.info("channel_delayed", reason=error.reason)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX_S)

    async def step(self, bound: Binding) -> None:
        """One page of the log into the channel. Raises EarshotError; what was sent stays sent."""
        request = chat_pb2.ListEventsRequest(
            world=type_pb2.WorldRef(tenant=bound.tenant, world=bound.world),
            cursor=bound.cursor,
            page_size=PAGE,
            wait_ms=round(HOLD_S * 1000),
        )
        try:
            page = await self.chat.ListEvents(request, timeout=HOLD_S + 5)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        now = self.now_ms()
        fresh = [event for event in page.events if not _stale(event, now)]
        for post in wording.posts(fresh, bound):
            await self._send(bound, post)
            await self._move(bound.channel, post.seq)
        if page.next_cursor != bound.cursor:
            await self._move(bound.channel, page.next_cursor)

    async def _send(self, bound: Binding, post: wording.Post) -> None:
        seq, part = self.store.sending(bound.channel)
        for number, text in enumerate(wording.parts(post.text if post.npc else wording.escaped(post.text)), 1):
            if seq == post.seq and number < part:
                continue  # it stood there before we ended
            message = 0
            if seq == post.seq and number == part:
                message = await self.channels.arrived(bound.channel, post, text)
            if not message:
                await self.store.begin(bound.channel, post.seq, number)
                message = await self.channels.send(bound.channel, post, text)
            if post.npc:
                sent = Sent(message, bound.world, post.turn_id, post.npc)
                await self.store.sent(bound.channel, sent, post.seq, number)

    async def _move(self, channel: int, cursor: int) -> None:
        await self.store.moved(channel, cursor)
        bound = self.talk.bindings.get(channel)
        if bound is not None:
            self.talk.bindings[channel] = replace(bound, cursor=cursor)


def _stale(event: chat_pb2.Event, now: int) -> bool:
    """Ambient lines go first when there is more to send than Discord takes."""
    return now - event.at_ms > (STALE_MS if event.utterance.ai else STALE_RELAYED_MS)
