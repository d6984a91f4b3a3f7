"""Channels to rooms: in-process where this process hosts the room, grpc.aio elsewhere. Callers cannot tell.

Outgoing calls carry the current trace context. Retries: only UNAVAILABLE on reads, 3 attempts, with a retry budget.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.directory import Directory
from services.common.errors import Unavailable, from_rpc
from services.common.inprocess import InProcessServer
from services.common.routing import OWNED, RoutedChannel
from services.common.settings import Settings
from services.common.shared import Shared
from services.common.tls import Identity, load, name_of, require
from services.common.tracing import traceparent

_READS = [
    {"service": "earshot.state.v1.StateService", "method": method}
    for method in ("GetEarshot", "BatchGetNpcContext", "ListNpcs", "GetWorld", "ListWorlds", "ListNpcProfiles",
                   "ListLocations", "DescribePlayer")
] + [
    {"service": "earshot.cluster.v1.ClusterService"},
    {"service": "earshot.sync.v1.SyncService", "method": "GetSyncStatus"},
    *({"service": "earshot.chat.v1.ChatService", "method": method}
      for method in ("ListEvents", "GetConversation", "ListConversations", "ExplainTurn", "GetErasure")),
]  # fmt: skip
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": _READS,
                # While a room restarts a read waits for it, within its deadline, rather than fail at once.
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)
_EAGER = _SERVICE_CONFIG.replace('"waitForReady": true, ', "")
# Replicas of one address one after the other must not share a connection that is known to fail.
OPEN_OWN = [("grpc.use_local_subchannel_pool", 1)]
# Longest wait for a room's answer to "are you ready?".
READY_S = 0.8
OPTIONS = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", 16 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


def service_of(room: str) -> str:
    """Full name of a room's gRPC service."""
    return f"earshot.{room}.v1.{room.capitalize()}Service"


class Channels:
    """One channel per room for the life of the process; where replicas share a store, one that finds them."""

    def __init__(
        self, settings: Settings, local: InProcessServer, hosted: frozenset[str], shared: Shared | None = None
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._local = local
        self._hosted = hosted
        self._channels: dict[str, Any] = {}
        self._remote: dict[str, grpc.aio.Channel] = {}
        self.identity = load(settings.tls)

    def to(self, room: str) -> Any:
        """Channel for the room's generated stub."""
        if room not in self._channels:
            if self._shared is not None and (room in OWNED or room not in self._hosted):
                channel: Any = RoutedChannel(self._shared.directory(room), partial(self.at, room))
            elif room in self._hosted:
                channel = self._local.channel()
            else:
                channel = remote(room, self._settings.address(room), self.identity)
                self._remote[room] = channel
            self._channels[room] = TracedChannel(channel)
        return self._channels[room]

    def directory(self, room: str) -> Directory | None:
        """Where the room's replicas are; None where it is one process."""
        return self._shared.directory(room) if self._shared is not None else None

    def at(self, room: str, address: str) -> Any:
        """Channel to one replica of a room."""
        if self._shared is not None and room in self._hosted and address == self._shared.address(room):
            return self._local.channel()
        known = self._remote.get(f"{room} {address}")
        if known is None:
            known = self._remote[f"{room} {address}"] = remote(room, address, self.identity, waits=False)
        return known

    async def ready(self, room: str) -> None:
        """Raise Unavailable unless the room serves, and with it the rooms that it calls (gRPC health protocol)."""
        if room in self._hosted:
            return
        self.to(room)
        if self._shared is not None:
            await self._shared.ready(room)
            return
        stub = health_pb2_grpc.HealthStub(self._remote[room])
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service_of(room)), timeout=READY_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable(f"{room} does not serve yet")

    async def close(self) -> None:
        for channel in self._remote.values():
            await channel.close()


def remote(room: str, address: str, identity: Identity | None, *, waits: bool = True) -> grpc.aio.Channel:
    """A channel to a room elsewhere. Raises BadInput (PLAINTEXT_REFUSED) beyond this machine without an identity.

    waits: reads wait for a room that restarts; where another replica may take over nobody waits for this one.
    """
    require(identity, {room: address})
    base = OPTIONS if waits else [*OPTIONS[1:], ("grpc.service_config", _EAGER), *OPEN_OWN]
    if identity is None:
        return grpc.aio.insecure_channel(address, options=base)
    options = [*base, ("grpc.ssl_target_name_override", name_of(room))]
    return grpc.aio.secure_channel(address, identity.channel(), options=options)


class TracedChannel:
    """Adds the traceparent to outgoing metadata: an interceptor would lose cancellation (docs/decisions)."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def _wrap(self, multicallable: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, metadata: Any = None, **kwargs: Any) -> Any:
            parent = traceparent()
            if parent:
                metadata = (*(metadata or ()), ("traceparent", parent))
            return multicallable(*args, metadata=metadata, **kwargs)

        return call

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.stream_stream(*args, **kwargs))
