"""GET /v1/events: the long poll, Roblox's way down.

A held poll listens to the doorbell and reads chat's log when it rings: at-least-once by cursor, no state here that a
restart could lose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from earshot.chat.v1 import chat_pb2
from earshot.type.v1 import type_pb2

from services.common.clock import Clock
from services.common.errors import Conflict
from services.common.settings import Settings
from services.common.telemetry import Metrics
from services.edge import bounds
from services.edge.admission import Admission
from services.edge.answer import Answer, json_answer
from services.edge.contract.event import EventsAnswer
from services.edge.doorbell import Doorbell
from services.edge.event import EVENTS_MAX, page
from services.edge.fallback import Lost
from services.edge.request import Request, ask
from services.edge.rooms import READ_S, Rooms

# After the first event: more of the same moment follow (sentences, actions), and polls are counted by the platform.
COALESCE_S = 0.1


@dataclass(slots=True, eq=False)
class Poll:
    """One held poll: a single event wakes it, flags say why. cursor: up to where it has read, -1 = not at all."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cursor: int = -1
    superseded: bool = False


@dataclass(slots=True)
class Polls:
    """Held polls: one per session, all ended early when the edge drains."""

    draining: bool = False
    _all: set[Poll] = field(default_factory=set)
    _current: dict[tuple[str, str], Poll] = field(default_factory=dict)

    @contextmanager
    def held(self, tenant: str, session: str) -> Iterator[Poll]:
        """A poll; a newer one of the same session supersedes it. No session, no rivalry."""
        poll = Poll()
        key = (tenant, session)
        if session:
            older = self._current.get(key)
            if older is not None:
                older.superseded = True
                older.wake.set()
            self._current[key] = poll
        self._all.add(poll)
        try:
            yield poll
        finally:
            self._all.discard(poll)
            if self._current.get(key) is poll:
                del self._current[key]

    def drain(self) -> None:
        """End every held poll now, and every later one at once."""
        self.draining = True
        for poll in self._all:
            poll.wake.set()


class Events:
    """The endpoint."""

    def __init__(
        self,
        rooms: Rooms,
        doorbell: Doorbell,
        admission: Admission,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._rooms = rooms
        self._doorbell = doorbell
        self._admission = admission
        self._hold_max_s = settings.events_hold_max_s
        self._metrics = metrics
        self._clock = clock
        self.polls = Polls()
        self._lost = Lost()

    async def get(self, request: Request) -> Answer:
        """200 with events and the next cursor; 204 when the hold ended without any.

        Without a cursor: the log's present end, at once.
        """
        world = request.world()
        hold_s = request.seconds("hold", 0.0, self._hold_max_s)
        session = self._session(request)
        if "cursor" not in request.query:
            response = await self.read(world, -1)
            return json_answer(EventsAnswer([], response.next_cursor))
        cursor = request.whole("cursor", 0, 2**63 - 1)

        async def poll() -> Answer:
            return await self._poll(world, cursor, hold_s, session)

        if not hold_s:
            return await poll()
        with self._admission.hold(), self._metrics.connections.labels("poll").track_inprogress():
            return await request.content.attended(poll)

    def _session(self, request: Request) -> str:
        """What makes two polls rivals: the session's token, or a name of the client's own."""
        if request.caller.session is not None:
            return "token:" + request.caller.session.id
        return bounds.short(request.query.get("session"), "session", bounds.ID)

    async def _poll(self, world: type_pb2.WorldRef, cursor: int, hold_s: float, session: str) -> Answer:
        if lost := self._lost.taken_up((world.tenant, world.world), self._clock.monotonic()):
            self._metrics.fallbacks.labels(lost).inc()
        with self.polls.held(world.tenant, session) as held, ExitStack() as listening:
            held.cursor = cursor
            if hold_s:
                listening.enter_context(self._doorbell.listening(world, held))
            end = self._clock.monotonic() + hold_s
            response = await self.read(world, cursor)
            while not (response.events or response.resync):
                if held.superseded:
                    raise Conflict("a newer poll of this session took over", reason="SUPERSEDED")
                if self.polls.draining:
                    return json_answer(EventsAnswer([], cursor, reconnect=True))
                left = end - self._clock.monotonic()
                if left <= 0:
                    return Answer(204) if hold_s else json_answer(EventsAnswer([], response.next_cursor or cursor))
                if await _woken(held.wake, left) and not (held.superseded or self.polls.draining):
                    await asyncio.sleep(min(COALESCE_S, max(end - self._clock.monotonic(), 0.0)))
                    held.wake.clear()
                    response = await self.read(world, cursor)
                    self.told(response, "poll")
        return events_answer(response)

    def told(self, response: chat_pb2.ListEventsResponse, transport: str) -> None:
        """How late events are that a waiting client gets now; the oldest of them counts."""
        if response.events:
            late = self._clock.now_ms() - response.events[0].at_ms
            self._metrics.events_lag_seconds.labels(transport).observe(max(late, 0) / 1000)

    @contextmanager
    def connected(self, transport: str, world: type_pb2.WorldRef) -> Iterator[None]:
        """A stream or socket that is open, and how it ended."""
        self._metrics.connections.labels(transport).inc()
        reason = "closed"
        try:
            yield
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        except GeneratorExit:
            reason = "left"
            raise
        except BaseException:
            reason = "failed"
            raise
        finally:
            self._metrics.connections.labels(transport).dec()
            self._lost.ended((world.tenant, world.world), transport, self._clock.monotonic())
            self._metrics.connections_ended.labels(transport, "drained" if self.polls.draining else reason).inc()

    async def read(self, world: type_pb2.WorldRef, cursor: int) -> chat_pb2.ListEventsResponse:
        """Chat's log after a cursor; -1 asks for its end only."""
        return await ask(
            self._rooms.chat.ListEvents(
                chat_pb2.ListEventsRequest(world=world, cursor=cursor, page_size=EVENTS_MAX), timeout=READ_S
            )
        )


def events_answer(response: chat_pb2.ListEventsResponse) -> Answer:
    """A page of the log as an answer."""
    events, cursor = page(response.events, response.next_cursor)
    return json_answer({"events": events, "cursor": cursor, **({"resync": True} if response.resync else {})})


async def _woken(wake: asyncio.Event, timeout: float) -> bool:
    """Whether the event was set in time."""
    try:
        async with asyncio.timeout(timeout):
            await wake.wait()
    except TimeoutError:
        return False
    return True
