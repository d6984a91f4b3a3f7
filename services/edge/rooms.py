"""The rooms behind the edge: generated stubs, and how long each kind of call may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from earshot.chat.v1 import chat_pb2_grpc
from earshot.state.v1 import state_pb2_grpc
from earshot.sync.v1 import sync_pb2_grpc

from services.common.channels import Channels

# Seconds. Reads may be retried inside; writes are durable before they answer.
READ_S = 3.0
WRITE_S = 5.0
# What a call that waits on purpose gets on top of its wait.
MARGIN_S = 3.0
# No entity has this id: asking who hears it answers the world's revision and epoch, and nothing else.
NOBODY_HEARD = "\x00"


@dataclass(frozen=True, slots=True)
class Rooms:
    """One stub a room."""

    state: Any
    sync: Any
    chat: Any

    @classmethod
    def of(cls, channels: Channels) -> Rooms:
        return cls(
            state_pb2_grpc.StateServiceStub(channels.to("state")),
            sync_pb2_grpc.SyncServiceStub(channels.to("sync")),
            chat_pb2_grpc.ChatServiceStub(channels.to("chat")),
        )
