"""`earshot health`: readiness of one room, for people, containers and supervisors."""

from __future__ import annotations

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.channels import remote, service_of
from services.common.settings import Settings
from services.common.tls import load

TIMEOUT_S = 3.0


async def check(settings: Settings, room: str) -> tuple[bool, str]:
    """(ready, one line that says why not)."""
    return await (_edge(settings) if room == "edge" else _room(settings, room))


async def _edge(settings: Settings) -> tuple[bool, str]:
    host, _, port = settings.listen.rpartition(":")
    address = f"{'127.0.0.1' if host in ('', '0.0.0.0', '::') else host}:{port}"
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            response = await client.get(f"http://{address}/readyz")
    except httpx.HTTPError as error:
        return False, f"edge at {address}: not reachable ({type(error).__name__})"
    return response.status_code == 200, f"edge at {address}: {response.text.strip()}"


async def _room(settings: Settings, room: str) -> tuple[bool, str]:
    address = settings.address(room)
    async with remote(room, address, load(settings.tls)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service_of(room)), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return False, f"{room} at {address}: {error.code().name}"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return serving, f"{room} at {address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
