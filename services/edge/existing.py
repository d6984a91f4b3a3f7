"""The existing game's five paths, as its code reads the answers.

It sends no key in a header, holds a chat until the reply is there, and must never see an unknown action.
"""

from __future__ import annotations

import datetime
import re

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.clock import Clock
from services.common.errors import BadInput, EarshotError, NotFound
from services.common.logs import get_logger
from services.common.settings import Settings
from services.edge import bounds
from services.edge.answer import Answer, json_answer
from services.edge.columns import listed
from services.edge.contract.existing import (
    Chat,
    ChatAction,
    ChatAnswer,
    ChatContext,
    ChatMetadata,
    DescribePlayer,
    DescriptionAnswer,
    GameSnapshotAnswer,
    GroupAnswer,
    GroupUpdate,
    StatusAnswer,
    StatusUpdate,
)
from services.edge.contract.snapshot import Snapshot
from services.edge.describer import Describer
from services.edge.document import Document
from services.edge.game_action import Spot, game_actions
from services.edge.messages import Messages
from services.edge.request import Request, ask
from services.edge.rooms import READ_S, WRITE_S, Rooms
from services.edge.routes import Route
from services.edge.snapshots import OUTCOMES, Snapshots
from services.edge.status_text import FULL, read_status

BASE = "/letta/v1"
SYSTEM = "[SYSTEM]"
# A system line is no utterance: its head says who came or clicked, the rest names people whom Earshot knows itself.
SYSTEM_KEPT = 4 * bounds.CHAT
_SUBJECT = re.compile(r"\[SYSTEM\]\s*(\S.{0,62}?) has (?:entered|clicked)")
UNDESCRIBED = "A player. Nothing more is known yet."

_CHAT, _GROUP = Document(Chat), Document(GroupUpdate)
_STATUS, _PLAYER = Document(StatusUpdate), Document(DescribePlayer)
_log = get_logger("edge")


class Existing:
    """The endpoints."""

    def __init__(
        self,
        rooms: Rooms,
        snapshots: Snapshots,
        messages: Messages,
        describer: Describer,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._describer = describer
        self._snapshots = snapshots
        self._messages = messages
        self._clock = clock
        self._wait_ms = round(settings.messages_wait_s * 1000)
        self._link_ms = round(settings.link_ttl_s * 1000)

    def routes(self) -> list[Route]:
        return [
            Route("POST", f"{BASE}/chat/v3", self.chat, Chat, ChatAnswer),
            Route("POST", f"{BASE}/npc/group/update", self.group, GroupUpdate, GroupAnswer),
            Route("POST", f"{BASE}/npc/status/update", self.status, StatusUpdate, StatusAnswer),
            Route("POST", f"{BASE}/get_player_description", self.describe, DescribePlayer, DescriptionAnswer),
            Route("POST", f"{BASE}/snapshot/game", self.snapshot, Snapshot, GameSnapshotAnswer),
        ]

    async def chat(self, request: Request) -> Answer:
        """200 when the turn is over, without `message` when this NPC keeps silent."""
        chat = _CHAT.value(await request.content.read())
        say = existing_say(chat, request.world())
        say.wait_ms = self._wait_ms
        say.min_revision = await self._renew_link(say)
        response = await self._messages.say(request, say)
        return json_answer(await self._chat_answer(request, say, response))

    async def _renew_link(self, say: chat_pb2.SayRequest) -> int:
        """Who talks to an NPC is within its earshot, where nobody reports positions; the revision that knows it."""
        if not say.speaker_id.isdigit():
            return 0
        link = state_pb2.Link(
            npc_id=say.waiting_npc_id,
            player_id=say.speaker_id,
            player_name=say.speaker_name,
            ttl_ms=self._link_ms,
        )
        try:
            return (await self._observe(say.world, state_pb2.Observation(link=link))).revision
        except EarshotError as error:
            # The player is perhaps heard all the same: chat will say.
            _log.warning("link_not_renewed", reason=error.reason)
            return 0

    async def _chat_answer(
        self, request: Request, say: chat_pb2.SayRequest, response: chat_pb2.SayResponse
    ) -> ChatAnswer:
        reply = next((one for one in response.replies if one.npc_id == say.waiting_npc_id), None)
        metadata = ChatMetadata([], "", response.reason if reply is None else "")
        if reply is None:
            return ChatAnswer(response.conversation_id or None, metadata, {"type": "none"})
        actions = await self._actions(request, say, reply)
        action = {"actions": actions} if actions else {"type": "none"}
        return ChatAnswer(response.conversation_id or None, metadata, action, reply.text or None)

    async def _actions(self, request: Request, say: chat_pb2.SayRequest, reply: chat_pb2.Reply) -> list[ChatAction]:
        if not reply.actions:
            return []
        places: dict[str, Spot] = {}
        names = {say.speaker_id: say.speaker_name}
        try:
            if any(action.type == "navigate" for action in reply.actions):
                places = await self._places(request.tenant)
        except EarshotError as error:
            _log.warning("places_unknown", reason=error.reason)
        return game_actions(reply.actions, say.speaker_name, places, names)

    async def _places(self, tenant: str) -> dict[str, Spot]:
        response = await ask(
            self._rooms.state.ListLocations(state_pb2.ListLocationsRequest(tenant=tenant), timeout=READ_S)
        )
        places: dict[str, Spot] = {}
        for place in response.locations:
            spot = (place.position.x, place.position.y, place.position.z)
            places[place.slug] = places[place.slug.lower()] = spot
            places.setdefault(place.name.lower(), spot)
        return places

    async def group(self, request: Request) -> Answer:
        """200 when the link is renewed: idempotent; leaving is never reported, so links expire."""
        update = _GROUP.value(await request.content.read())
        npc = _needed(update.npc_id, "npc_id")
        link = state_pb2.Link(
            npc_id=npc,
            player_id=_needed(update.player_id, "player_id"),
            player_name=bounds.shown(update.player_name, "player_name", bounds.NAME),
            ttl_ms=self._link_ms,
            leaving=update.is_joining is False,
        )
        response = await self._observe(request.world(), state_pb2.Observation(link=link))
        _known_npc(response)
        return json_answer(GroupAnswer(True, npc, self._now(), {"revision": response.revision}))

    async def status(self, request: Request) -> Answer:
        """200 when the status is known; parts of the line that cannot be read are left out."""
        update = _STATUS.value(await request.content.read())
        npc = _needed(update.npc_id, "npc_id")
        text = bounds.short(update.status_text, "status_text", 1000)
        read = read_status(text)
        seen = state_pb2.StatusObservation(npc_id=npc, action=read.action, location=read.location)
        if read.health is not None:
            seen.health, seen.max_health = read.health, FULL
        response = await self._observe(request.world(), state_pb2.Observation(status=seen))
        _known_npc(response)
        now = self._now()
        return json_answer(StatusAnswer(True, npc, {"text": text, "last_updated": now}, now))

    async def describe(self, request: Request) -> Answer:
        """200 with a description whatever happens in the rooms: the game reads it without a guard."""
        asked = _PLAYER.value(await request.content.read())
        message = state_pb2.DescribePlayerRequest(
            tenant=request.tenant, player_id=_needed(asked.user_id, "user_id"), world=request.world().world
        )
        try:
            response = await ask(self._rooms.state.DescribePlayer(message, timeout=READ_S))
            description = response.description
            if response.source != "stored":
                description = await self._describer.describe(message.tenant, message.player_id) or description
        except EarshotError as error:
            _log.warning("player_not_described", reason=error.reason)
            description = ""
        return json_answer(DescriptionAnswer(description or UNDESCRIBED))

    async def snapshot(self, request: Request) -> Answer:
        """200 when the snapshot is a revision; the same reading as /v1/snapshots."""
        body = await request.content.read()
        deadline = self._snapshots.deadline()
        reading = self._snapshots.read(body)
        reading.item.want_positions = False
        result = await self._snapshots.apply(reading, request.world(reading.world), deadline)
        return json_answer(GameSnapshotAnswer("success", result.revision, OUTCOMES.get(result.outcome, "")))

    async def _observe(
        self, world: type_pb2.WorldRef, observation: state_pb2.Observation
    ) -> state_pb2.ReportObservationsResponse:
        message = state_pb2.ReportObservationsRequest(world=world, observations=[observation])
        return await ask(self._rooms.state.ReportObservations(message, timeout=WRITE_S))

    def _now(self) -> str:
        return datetime.datetime.fromtimestamp(self._clock.now_ms() / 1000, datetime.UTC).isoformat()


def existing_say(chat: Chat, world: type_pb2.WorldRef) -> chat_pb2.SayRequest:
    """A chat call as an utterance that one NPC waits for. Raises BadInput."""
    lines = listed(chat.messages)
    text = lines[-1].content if lines else chat.message
    context = chat.context if isinstance(chat.context, ChatContext) else ChatContext()
    system = (text or "").lstrip().startswith(SYSTEM)
    name = context.participant_name or (lines[-1].name if lines else "") or ""
    said = bounds.hygienic(text or "")
    if not said:
        raise BadInput("messages: there is nothing to say", reason="EMPTY_TEXT")
    said = said[:SYSTEM_KEPT] if system else bounds.short(said, "messages[0].content", bounds.CHAT)
    kind = (context.participant_type or chat.participant_type or "").lower()
    return chat_pb2.SayRequest(
        world=world,
        speaker_id=_needed(chat.participant_id, "participant_id"),
        # A system line's participant is called SYSTEM; its text says of whom it speaks.
        speaker_name=bounds.shown(_subject(said) if system else name, "context.participant_name", bounds.NAME),
        speaker_kind=type_pb2.ENTITY_KIND_NPC if kind == "npc" else type_pb2.ENTITY_KIND_PLAYER,
        text=said,
        waiting_npc_id=_needed(chat.npc_id, "npc_id"),
        system=system,
    )


def _subject(line: str) -> str:
    found = _SUBJECT.match(line)
    return found[1] if found else ""


def _needed(value: object, path: str) -> str:
    if value is None or value == "":
        raise BadInput(f"{path}: missing", reason="MISSING_ID")
    return bounds.identify(value, path)


def _known_npc(response: state_pb2.ReportObservationsResponse) -> None:
    for refusal in response.refused:
        if refusal.reason == "UNKNOWN_NPC":
            raise NotFound("no profile or entity has this npc_id", reason=refusal.reason)
        raise BadInput(f"{refusal.path}: refused", reason=refusal.reason)
