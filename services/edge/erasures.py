"""DELETE /v1/players/{id}: a player is forgotten in every room and runtime; the receipt says what was where."""

from __future__ import annotations

from earshot.chat.v1 import chat_pb2

from services.edge import bounds
from services.edge.answer import Answer, Headers, json_answer
from services.edge.contract.npc_call import ErasureAnswer, Receipt
from services.edge.request import Request, ask
from services.edge.rooms import READ_S, WRITE_S, Rooms
from services.edge.routes import Route


class Erasures:
    """The endpoints."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def routes(self) -> list[Route]:
        return [
            Route("DELETE", "/v1/players/{id}", self.erase, gives=ErasureAnswer, status=202),
            Route("GET", "/v1/erasures/{id}", self.get, gives=ErasureAnswer),
        ]

    async def erase(self, request: Request) -> Answer:
        """202 with the job's id and its receipts so far; the job goes on whatever happens to this process."""
        player = bounds.identify(request.parameters[0], "id")
        message = chat_pb2.ErasePlayerRequest(tenant=request.tenant, player_id=player)
        started = await ask(self._rooms.chat.ErasePlayer(message, timeout=WRITE_S))
        location: Headers = ((b"location", f"/v1/erasures/{started.erasure_id}".encode()),)
        return json_answer(await self._state(request.tenant, started.erasure_id), 202, location)

    async def get(self, request: Request) -> Answer:
        """200 with the receipts, 404 when no such erasure was asked for."""
        return json_answer(await self._state(request.tenant, bounds.short(request.parameters[0], "id", 128)))

    async def _state(self, tenant: str, erasure_id: str) -> ErasureAnswer:
        message = chat_pb2.GetErasureRequest(tenant=tenant, erasure_id=erasure_id)
        told = await ask(self._rooms.chat.GetErasure(message, timeout=READ_S))
        receipts = [Receipt(one.store, one.removed, one.not_erasable) for one in told.receipts]
        return ErasureAnswer(told.erasure_id, told.state, receipts)
