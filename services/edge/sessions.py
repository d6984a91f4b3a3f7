"""POST /v1/sessions and its renewal and end: a key becomes a session of one boot of one game server."""

from __future__ import annotations

import math

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2

from services.common.clock import Clock
from services.common.errors import BadInput, Unauthenticated
from services.common.settings import Settings
from services.edge import bounds
from services.edge.answer import Answer, json_answer
from services.edge.contract.session import ClosedAnswer, SessionAnswer, SessionLimits, SessionRequest
from services.edge.document import Document
from services.edge.game_sync import UTTERANCES_MAX
from services.edge.request import Request, ask
from services.edge.rooms import NOBODY_HEARD, READ_S, WRITE_S, Rooms
from services.edge.routes import Route
from services.edge.token import LIFE_S, Session, Tokens

# Below the platform's own timeout of about 30 s with room for a slow network.
HOLD_S = 20.0

_REQUEST = Document(SessionRequest)


class Sessions:
    """The endpoints."""

    def __init__(self, rooms: Rooms, tokens: Tokens, settings: Settings, clock: Clock) -> None:
        self._rooms = rooms
        self._tokens = tokens
        self._clock = clock
        self._hold_s = min(HOLD_S, settings.events_hold_max_s)
        self._limits = SessionLimits(
            settings.body_limit,
            settings.body_limit_compressed,
            settings.entities_max,
            UTTERANCES_MAX,
            bounds.CHAT,
            round(settings.session_requests_per_minute),
        )

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/v1/sessions", self.open, SessionRequest, SessionAnswer),
            Route("POST", "/v1/sessions/current", self.renew, gives=SessionAnswer),
            Route("DELETE", "/v1/sessions/current", self.close, gives=ClosedAnswer),
        ]

    async def open(self, request: Request) -> Answer:
        """200 with the token; the same job and boot get the same epoch, a newer boot ends the older one's."""
        if request.caller.session is not None:
            raise Unauthenticated("open a session with your key", reason="KEY_NEEDED")
        asked = _REQUEST.value(await request.content.read())
        if asked.job is None:
            raise BadInput("job: missing", reason="MISSING_ID")
        job = bounds.identify(asked.job, "job")
        boot = job if asked.boot is None else bounds.identify(asked.boot, "boot")
        world = request.world(job if asked.world is None else asked.world)
        opened = await ask(
            self._rooms.state.OpenSession(
                state_pb2.OpenSessionRequest(world=world, job=job, boot=boot), timeout=WRITE_S
            )
        )
        session = Session(request.tenant, request.caller.key_id, world.world, opened.epoch, self._expiry())
        return await self._answer(request, session, opened.revision)

    async def renew(self, request: Request) -> Answer:
        """200 with a token for another hour; the epoch stays."""
        session = request.session()
        renewed = Session(session.tenant, session.key_id, session.world, session.epoch, self._expiry())
        told = await ask(
            self._rooms.state.GetEarshot(
                state_pb2.GetEarshotRequest(world=request.world(), entity_id=NOBODY_HEARD), timeout=READ_S
            )
        )
        return await self._answer(request, renewed, told.revision)

    async def close(self, request: Request) -> Answer:
        """200 when the epoch has ended."""
        session = request.session()
        closed = await ask(
            self._rooms.state.CloseSession(
                state_pb2.CloseSessionRequest(world=request.world(), epoch=session.epoch), timeout=WRITE_S
            )
        )
        return json_answer(ClosedAnswer(closed.closed))

    async def _answer(self, request: Request, session: Session, revision: int) -> Answer:
        end = await ask(
            self._rooms.chat.ListEvents(
                chat_pb2.ListEventsRequest(world=request.world(session.world), cursor=-1), timeout=READ_S
            )
        )
        return json_answer(
            SessionAnswer(
                session.id,
                self._tokens.sign(session),
                float(session.expires),
                session.world,
                session.epoch,
                revision,
                self._hold_s,
                end.next_cursor,
                self._limits,
            )
        )

    def _expiry(self) -> int:
        return math.floor(self._clock.now_ms() / 1000) + LIFE_S
