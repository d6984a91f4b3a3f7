"""POST /v1/messages: an utterance in, the turn's replies out once the turn is over."""

from __future__ import annotations

from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common import tracing
from services.common.errors import BadInput
from services.common.settings import Settings
from services.edge import bounds
from services.edge.admission import Admission
from services.edge.answer import Answer, json_answer
from services.edge.contract.message import Message, MessageAnswer, ReplyAnswer, Speaker
from services.edge.document import Document
from services.edge.request import Request, ask
from services.edge.rooms import MARGIN_S, WRITE_S, Rooms
from services.edge.routes import Route
from services.edge.view import action_data

OUTCOMES = {
    chat_pb2.SAY_OUTCOME_ACCEPTED: "accepted",
    chat_pb2.SAY_OUTCOME_REPLIED: "replied",
    chat_pb2.SAY_OUTCOME_SILENT: "silent",
    chat_pb2.SAY_OUTCOME_DUPLICATE: "duplicate",
    chat_pb2.SAY_OUTCOME_UNHEARD: "unheard",
    chat_pb2.SAY_OUTCOME_FAILED: "failed",
}
_MESSAGE = Document(Message)


class Messages:
    """The endpoint."""

    def __init__(self, rooms: Rooms, admission: Admission, settings: Settings) -> None:
        self._rooms = rooms
        self._admission = admission
        self._wait_ms = round(settings.messages_wait_s * 1000)

    def routes(self) -> list[Route]:
        return [Route("POST", "/v1/messages", self.post, Message, MessageAnswer)]

    async def post(self, request: Request) -> Answer:
        """200 with the replies; the utterance is durable whatever happens to the turn."""
        body = await request.content.read()
        with tracing.span("parse", stage="parse"):
            message = _MESSAGE.value(body)
            say = said(message, request.world(message.world))
        say.wait_ms = 0 if message.wait is False else self._wait_ms
        with tracing.span("hop", stage="hop"):
            response = await self.say(request, say)
        return json_answer(message_answer(response))

    async def say(self, request: Request, say: chat_pb2.SayRequest) -> chat_pb2.SayResponse:
        """Chat's answer, as long as the client waits for it."""
        if not say.wait_ms:
            return await ask(self._rooms.chat.Say(say, timeout=WRITE_S))

        async def call() -> chat_pb2.SayResponse:
            return await ask(self._rooms.chat.Say(say, timeout=say.wait_ms / 1000 + MARGIN_S))

        with self._admission.hold():
            return await request.content.attended(call)


def said(message: Message, world: type_pb2.WorldRef) -> chat_pb2.SayRequest:
    """The utterance as chat takes it. Raises BadInput."""
    speaker = message.speaker if isinstance(message.speaker, Speaker) else Speaker()
    who = speaker.id if message.player_id is None else message.player_id
    if who is None:
        raise BadInput("player_id: who speaks?", reason="MISSING_SPEAKER")
    text = bounds.shown(message.text, "text", bounds.CHAT)
    if not text:
        raise BadInput("text: there is nothing to say", reason="EMPTY_TEXT")
    return chat_pb2.SayRequest(
        world=world,
        speaker_id=bounds.identify(who, "player_id"),
        speaker_name=bounds.shown(message.player_name or speaker.name, "player_name", bounds.NAME),
        speaker_kind=type_pb2.ENTITY_KIND_PLAYER,
        text=text,
        message_id="" if message.message_id is None else bounds.identify(message.message_id, "message_id"),
        to_npc_id="" if message.to is None else bounds.identify(message.to, "to"),
    )


def message_answer(response: chat_pb2.SayResponse) -> MessageAnswer:
    """Chat's answer as clients read it."""
    return MessageAnswer(
        response.utterance_id,
        response.conversation_id,
        response.revision,
        OUTCOMES.get(response.outcome, ""),
        [reply_answer(reply) for reply in response.replies],
        response.reason,
        response.turn_id,
    )


def reply_answer(reply: chat_pb2.Reply) -> ReplyAnswer:
    return ReplyAnswer(
        reply.turn_id,
        reply.npc_id,
        reply.npc_name,
        reply.text,
        [action_data(action) for action in reply.actions],
        reply.revision,
        True,
        reply.degraded,
    )
