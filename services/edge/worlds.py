"""Worlds, conversations, explanations and NPC context: what Scope and curious people read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, EarshotError, NotFound, from_status
from services.edge import bounds, world_view
from services.edge.answer import Answer, json_answer
from services.edge.contract.world import (
    Candidate,
    ContextAnswer,
    ConversationPage,
    ExplanationAnswer,
    Feature,
    Recalled,
    WorldAnswer,
    WorldsAnswer,
)
from services.edge.event import public_event, turn_event
from services.edge.request import Request, ask
from services.edge.rooms import READ_S, Rooms
from services.edge.routes import Route
from services.edge.view import KINDS, cluster_answers

PAGE_MAX = 500
CONVERSATION_EVENTS = 64


class Worlds:
    """The endpoints."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/worlds", self.list_worlds, gives=WorldsAnswer, query=("page_size", "page")),
            Route("GET", "/v1/worlds/{id}", self.get_world, gives=WorldAnswer, query=("min_revision",)),
            Route(
                "GET",
                "/v1/conversations/{id}",
                self.get_conversation,
                gives=ConversationPage,
                query=("world", "page_size"),
            ),
            Route("GET", "/v1/turns/{id}/explanation", self.explain, gives=ExplanationAnswer, query=("world",)),
            Route(
                "GET", "/v1/npcs/{id}/context", self.get_context, gives=ContextAnswer, query=("world", "min_revision")
            ),
        ]

    async def list_worlds(self, request: Request) -> Answer:
        """200 with the tenant's worlds, a page at a time."""
        message = state_pb2.ListWorldsRequest(
            tenant=request.tenant,
            page_size=request.whole("page_size", PAGE_MAX, PAGE_MAX),
            page_token=bounds.short(request.query.get("page"), "page", 256),
        )
        response = await ask(self._rooms.state.ListWorlds(message, timeout=READ_S))
        worlds = [world_view.world_summary(world) for world in response.worlds]
        return json_answer(WorldsAnswer(worlds, response.next_page_token))

    async def get_world(self, request: Request) -> Answer:
        """200 with one revision; conversations and freshness as far as their rooms answer."""
        world = request.world(request.parameters[0])
        min_revision = request.whole("min_revision", 0)
        state = await ask(
            self._rooms.state.GetWorld(
                state_pb2.GetWorldRequest(world=world, min_revision=min_revision), timeout=READ_S
            )
        )
        chat, sync = await asyncio.gather(
            _or_none(
                self._rooms.chat.ListConversations(chat_pb2.ListConversationsRequest(world=world), timeout=READ_S)
            ),
            _or_none(self._rooms.sync.GetSyncStatus(sync_pb2.GetSyncStatusRequest(world=world), timeout=READ_S)),
        )
        return json_answer(
            WorldAnswer(
                world.world,
                state.revision,
                state.revision_ms / 1000,
                state.epoch,
                state.closed,
                world_view.entities(state.entities),
                cluster_answers(state.clusters),
                [world_view.game_event(event) for event in state.recent_events],
                [world_view.conversation(one) for one in chat.conversations] if chat is not None else [],
                world_view.sync_status(sync) if sync is not None else None,
                [name for name, answer in (("chat", chat), ("sync", sync)) if answer is None],
                state.stale,
            )
        )

    async def get_conversation(self, request: Request) -> Answer:
        """200 with the conversation and its newest events."""
        message = chat_pb2.GetConversationRequest(
            world=request.world(),
            conversation_id=bounds.short(request.parameters[0], "id", 128),
            page_size=request.whole("page_size", CONVERSATION_EVENTS, 256) or CONVERSATION_EVENTS,
        )
        response = await ask(self._rooms.chat.GetConversation(message, timeout=READ_S))
        events = [public for event in response.events if (public := public_event(event)) is not None]
        return json_answer({"conversation": world_view.conversation(response.conversation), "events": events})

    async def explain(self, request: Request) -> Answer:
        """200 with who was scored how, and what decided."""
        message = chat_pb2.ExplainTurnRequest(
            world=request.world(), turn_id=bounds.short(request.parameters[0], "id", 128)
        )
        told = await ask(self._rooms.chat.ExplainTurn(message, timeout=READ_S))
        return json_answer(
            ExplanationAnswer(
                turn_event((0, 0.0, told.turn.revision_seen, ""), told.turn),
                [_candidate(one) for one in told.candidates],
                told.p_any_npc,
                told.tau,
                dict(told.stages_ms),
                list(told.notes),
                told.obligation,
                [
                    Recalled(one.utterance_id, one.world, one.log_seq, one.at_ms / 1000, one.score, dict(one.legs))
                    for one in told.recalled
                ],
            )
        )

    async def get_context(self, request: Request) -> Answer:
        """200 with everything that the NPC's blocks are rendered from."""
        npc = bounds.identify(request.parameters[0], "id")
        world = await self.world_of(request, npc)
        message = state_pb2.BatchGetNpcContextRequest(
            npcs=[state_pb2.NpcKey(world=world, npc_id=npc)], min_revision=request.whole("min_revision", 0)
        )
        response = await ask(self._rooms.state.BatchGetNpcContext(message, timeout=READ_S))
        told = response.contexts[0]
        if told.status.code:
            raise from_status(told.status)
        return json_answer(world_view.context(told))

    async def world_of(self, request: Request, npc: str) -> type_pb2.WorldRef:
        """The world that the request names, else the only one in which the NPC is.

        Raises BadInput (WORLD_REQUIRED) when it is in several, NotFound when in none.
        """
        if request.names_world:
            return request.world()
        response = await ask(
            self._rooms.state.ListNpcs(state_pb2.ListNpcsRequest(tenant=request.tenant), timeout=READ_S)
        )
        worlds = {
            change.key.world.world
            for change in response.npcs
            if change.key.npc_id == npc and not change.gone and not change.world_closed
        }
        if len(worlds) > 1:
            raise BadInput("world: the NPC is in several worlds; name one", reason="WORLD_REQUIRED")
        if not worlds:
            raise NotFound("the NPC is in no world", reason="UNKNOWN_NPC")
        return request.world(worlds.pop())


async def _or_none(call: Awaitable[Any]) -> Any:
    """A room's answer; None when it cannot answer: what the other rooms know is worth showing."""
    try:
        return await ask(call)
    except EarshotError:
        return None


def _candidate(one: chat_pb2.CandidateScore) -> Candidate:
    return Candidate(
        one.id,
        one.name,
        KINDS.get(one.kind, ""),
        one.probability,
        [Feature(feature.name, feature.contribution) for feature in one.features],
        one.excluded,
    )
