"""ChatService: requests into the room's words, its answers into the contract's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.type.v1 import type_pb2

from services.chat.bell import ELSEWHERE, Bell, Watcher
from services.chat.erasure import Eraser
from services.chat.erasure_store import Erasure
from services.chat.events_servicer import conversation_of, event_of, explanation_of, reply_of
from services.chat.outcome import Outcome
from services.chat.policy import NPC, PLAYER
from services.chat.retracting import Retracting
from services.chat.saying import MARGIN_S, Said, Saying, Words
from services.chat.store import ChatStore
from services.chat.worlds import Key, Worlds
from services.common.clock import Clock
from services.common.errors import BadInput, EarshotError, NotFound

PAGE = 64
PAGE_MAX = 1_000

OUTCOME = chat_pb2.SayOutcome


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """The generated service over the room."""

    def __init__(
        self,
        saying: Saying,
        worlds: Worlds,
        store: ChatStore,
        bell: Bell,
        eraser: Eraser,
        retracting: Retracting,
        clock: Clock,
    ) -> None:
        self._saying = saying
        self._worlds = worlds
        self._store = store
        self._bell = bell
        self._eraser = eraser
        self._clock = clock
        self._retracting = retracting

    async def Say(self, request: chat_pb2.SayRequest, context: Any) -> chat_pb2.SayResponse:
        words = Words(
            world=_world(request.world),
            speaker_id=request.speaker_id,
            speaker_name=request.speaker_name,
            text=request.text,
            kind=NPC if request.speaker_kind == type_pb2.ENTITY_KIND_NPC else PLAYER,
            message_id=request.message_id,
            epoch=request.epoch,
            seq=request.seq,
            index=request.index,
            to_npc=request.to_npc_id,
            waiting_npc=request.waiting_npc_id,
            system=request.system,
            min_revision=request.min_revision,
            wait_s=_patience(request.wait_ms, context),
        )
        return _say_response(await self._saying.say(words), words)

    async def Decide(self, request: chat_pb2.DecideRequest, context: Any) -> chat_pb2.DecideResponse:
        if not request.npc_id:
            raise BadInput("which NPC?", reason="NPC_REQUIRED")
        settled = await self._saying.decide(
            _world(request.world),
            request.npc_id,
            tuple(request.reasons),
            request.speech,
            request.min_revision,
            request.request_id or uuid.uuid4().hex,
            _patience(request.wait_ms, context),
        )
        if settled is None:
            return chat_pb2.DecideResponse(outcome="pending")
        return chat_pb2.DecideResponse(
            turn_id=settled.turn_id,
            outcome=settled.outcome,
            reply=reply_of(settled.reply) if settled.reply else None,
            reason=settled.reason,
        )

    async def ListEvents(self, request: chat_pb2.ListEventsRequest, context: Any) -> chat_pb2.ListEventsResponse:
        world = _world(request.world)
        limit = min(request.page_size or PAGE, PAGE_MAX)
        event = self._bell.listen(world)
        try:
            end = self._clock.monotonic() + _patience(request.wait_ms, context)
            while True:
                event.clear()
                answer = self._page(world, request.cursor, limit)
                left = end - self._clock.monotonic()
                if answer.events or answer.resync or request.cursor < 0 or left <= 0 or self._bell.closed:
                    return answer
                await self._bell.wait(world, event, left)
        finally:
            self._bell.leave(world, event)

    def _page(self, world: Key, cursor: int, limit: int) -> chat_pb2.ListEventsResponse:
        bounds = self._store.bounds(world)
        if cursor < 0:
            return chat_pb2.ListEventsResponse(next_cursor=bounds.end)
        if bounds.lost(cursor):
            return chat_pb2.ListEventsResponse(next_cursor=bounds.end, resync=True)
        page = self._store.after(world, cursor, limit)
        return chat_pb2.ListEventsResponse(
            events=[event_of(event) for event in page], next_cursor=page[-1].seq if page else cursor
        )

    async def WatchEvents(
        self, requests: AsyncIterator[chat_pb2.WatchEventsRequest], context: Any
    ) -> AsyncIterator[chat_pb2.WatchEventsResponse]:
        watcher = self._bell.watch()
        following = asyncio.create_task(self._follow(requests, watcher), name="chat.listen")
        try:
            async for (tenant, world), last_seq in watcher.rings():
                ref = type_pb2.WorldRef(tenant=tenant, world=world)
                yield chat_pb2.WatchEventsResponse(
                    world=ref, last_seq=max(last_seq, 0), elsewhere=last_seq == ELSEWHERE
                )
            if following.done() and not following.cancelled():
                following.result()  # raises what was wrong with the request that ended it
        finally:
            self._bell.close_watch(watcher)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, requests: AsyncIterator[chat_pb2.WatchEventsRequest], watcher: Watcher) -> None:
        """Which worlds to ring for, as the caller says it."""
        try:
            async for request in requests:
                for ref in request.listen:
                    world = _world(ref)
                    if self._store.owns(world):
                        watcher.listen(world, self._store.end(world))
                    else:
                        watcher.elsewhere(world)
                watcher.leave((ref.tenant, ref.world) for ref in request.leave)
        except EarshotError:
            watcher.end()
            raise

    async def GetConversation(
        self, request: chat_pb2.GetConversationRequest, context: Any
    ) -> chat_pb2.GetConversationResponse:
        world = _world(request.world)
        limit = min(request.page_size or PAGE, PAGE_MAX)
        entries = self._store.newest(world, limit, request.conversation_id)
        told = [event_of(event) for event in entries]
        if self._store.known(world):
            actor = await self._worlds.get(world)
            conversation = actor.world.conversations.get(request.conversation_id)
            if conversation is not None:
                return chat_pb2.GetConversationResponse(conversation=conversation_of(conversation), events=told)
        if not entries:
            raise NotFound("no such conversation", reason="UNKNOWN_CONVERSATION")
        ended = chat_pb2.Conversation(id=request.conversation_id, last_activity_ms=entries[-1].at_ms, open=False)
        return chat_pb2.GetConversationResponse(conversation=ended, events=told)

    async def ListConversations(
        self, request: chat_pb2.ListConversationsRequest, context: Any
    ) -> chat_pb2.ListConversationsResponse:
        world = _world(request.world)
        if not self._store.known(world):
            return chat_pb2.ListConversationsResponse()
        actor = await self._worlds.get(world)
        return chat_pb2.ListConversationsResponse(
            conversations=[conversation_of(conversation) for conversation in actor.world.conversations.values()]
        )

    async def ExplainTurn(self, request: chat_pb2.ExplainTurnRequest, context: Any) -> chat_pb2.ExplainTurnResponse:
        explained = self._store.explained(_world(request.world), request.turn_id)
        if explained is None:
            raise NotFound("no such turn", reason="UNKNOWN_TURN")
        return explanation_of(explained)

    async def Retract(self, request: chat_pb2.RetractRequest, context: Any) -> chat_pb2.RetractResponse:
        changed = await self._retracting.retract(
            _world(request.world), request.message_id, request.utterance_id, request.text
        )
        return chat_pb2.RetractResponse(changed=changed)

    async def ErasePlayer(self, request: chat_pb2.ErasePlayerRequest, context: Any) -> chat_pb2.ErasePlayerResponse:
        if not request.player_id:
            raise BadInput("which player?", reason="PLAYER_REQUIRED")
        job = await self._eraser.begin(request.tenant, request.player_id, request.erasure_id)
        return chat_pb2.ErasePlayerResponse(erasure_id=job)

    async def GetErasure(self, request: chat_pb2.GetErasureRequest, context: Any) -> chat_pb2.GetErasureResponse:
        job = self._eraser.erasures.job(request.tenant, request.erasure_id)
        if job is None:
            raise NotFound("no such erasure", reason="UNKNOWN_ERASURE")
        return _erasure_response(job)


def _world(ref: type_pb2.WorldRef) -> Key:
    if not ref.world:
        raise BadInput("which world?", reason="WORLD_REQUIRED")
    return (ref.tenant, ref.world)


def _patience(wait_ms: int, context: Any) -> float:
    """Seconds to wait: what the caller asked, within its deadline."""
    left = context.time_remaining()
    return max(0.0, min(wait_ms / 1000, (left if left is not None else 0.0) - MARGIN_S))


def _say_response(said: Said, words: Words) -> chat_pb2.SayResponse:
    seen, outcome = said.accepted, said.outcome
    response = chat_pb2.SayResponse(
        utterance_id=seen.utterance_id,
        conversation_id=seen.conversation_id,
        revision=seen.revision,
        log_seq=seen.seq,
    )
    if outcome is not None:
        response.replies.extend(reply_of(reply) for reply in outcome.of(words.waiting_npc))
        if outcome.settled is not None:
            response.reason = outcome.settled.reason
            response.turn_id = outcome.settled.turn_id
    if not response.turn_id and response.replies:
        response.turn_id = response.replies[0].turn_id
    response.outcome = OUTCOME.SAY_OUTCOME_DUPLICATE if said.duplicate else _outcome(seen.unheard, outcome, response)
    return response


def _outcome(unheard: bool, outcome: Outcome | None, response: chat_pb2.SayResponse) -> OUTCOME.ValueType:
    if unheard:
        return OUTCOME.SAY_OUTCOME_UNHEARD
    if response.replies:
        return OUTCOME.SAY_OUTCOME_REPLIED
    if outcome is None or outcome.settled is None:
        return OUTCOME.SAY_OUTCOME_ACCEPTED
    return OUTCOME.SAY_OUTCOME_FAILED if outcome.settled.failed else OUTCOME.SAY_OUTCOME_SILENT


def _erasure_response(job: Erasure) -> chat_pb2.GetErasureResponse:
    return chat_pb2.GetErasureResponse(
        erasure_id=job.id,
        state="pending" if job.state == "purging" else job.state,
        receipts=[
            type_pb2.ErasureReceipt(store=one.store, removed=one.removed, not_erasable=one.not_erasable)
            for one in job.receipts
        ],
    )
