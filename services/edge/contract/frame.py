"""GET /v1/stream: frames of the WebSocket, as JSON text or MessagePack, by subprotocol."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.edge.contract.event import Event
from services.edge.contract.message import Message, MessageAnswer
from services.edge.contract.shared import Fault, Id


class ClientFrame(Message):
    """`ping`, or `message`: an utterance, answered once durable; its replies come as events."""

    type: str | None = None
    ref: Annotated[Id, Meta(description="Comes back with the answer.")] | None = None


class EventsFrame(msgspec.Struct, tag_field="type", tag="events", omit_defaults=True):
    """Events after the last cursor."""

    events: list[Event]
    cursor: int
    resync: bool = False


class SaidFrame(msgspec.Struct, tag_field="type", tag="said", omit_defaults=True):
    """What became of a message."""

    answer: MessageAnswer
    ref: str = ""


class PongFrame(msgspec.Struct, tag_field="type", tag="pong", omit_defaults=True):
    """The answer to a ping."""

    ref: str = ""


class ReconnectFrame(msgspec.Struct, tag_field="type", tag="reconnect"):
    """This server is stopping: connect again with the cursor."""

    cursor: int


class ErrorFrame(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True):
    """A frame of the client that was refused, or the end of the stream."""

    error: Fault
    ref: str = ""
