"""Performs a scenario for a server and an audience: shows the world, lets the players speak, tells what comes back.

One task shows the world, one waits for events, one looks how fresh the NPCs are, a few wait for answers to messages.
All of them belong to one TaskGroup. A server that is away is waited for, and the story waits with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any, Final, TextIO

from services.demo.api import Answer, Api, ApiError, Away, Page, Refused, delays
from services.demo.frame import Step, Utterance, full
from services.demo.narrator import (
    Answered,
    Applied,
    Caption,
    Happening,
    Heard,
    Synced,
    Trouble,
    begin,
    gathered,
    tell,
)
from services.demo.orders import read_order
from services.demo.repertoire import play
from services.demo.scenario import Run
from services.demo.summary import Summary
from services.demo.telling import Telling, kept
from services.demo.terminal import look_of, paint

# Messages on their way at once; a player's line beyond that is dropped and counted.
MESSAGES_MOST: Final = 8
# How long a server may be away before the demo gives up, and how long one line is worth retrying.
PATIENCE_S: Final = 120.0
LINE_WORTH_S: Final = 10.0
# The least time between two polls, should a server not hold them.
POLL_GAP_S: Final = 0.1
# Between polls that are refused: something is wrong that time may mend.
REFUSED_S: Final = 5.0
# How often the freshness of the NPCs is looked at.
LOOK_S: Final = 2.0
# At the end messages on their way get this long.
GRACE_S: Final = 2.0


class DemoError(Exception):
    """The demo cannot go on; the message says why, for a person."""


class _Finished(Exception):
    """The reason to stop has come; carries a failure, if it is one."""

    def __init__(self, failure: DemoError | None = None) -> None:
        super().__init__()
        self.failure = failure


class Performance:
    """One run of the tavern against one server. `out` gets every line as it happens."""

    def __init__(
        self, api: Api, seed: int, speed: float, out: TextIO, now: Callable[[], float], boot: str, world: str
    ) -> None:
        self._api, self._speed, self._out, self._now, self._boot = api, speed, out, now, boot
        self._world = world
        self._look = look_of(out)
        self._play: Run = play("tavern", seed)
        self._telling: Telling = begin(self._play.scenario.roster)
        self._random = Random(seed)
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        # Loop time of the story's beginning; an outage moves it, because the story waits.
        self._began = self._born
        self._wall = now()
        self._step_at = 0.0
        self._snapshots = self._messages = self._undelivered = self._underway = 0
        self._first_reply_s: float | None = None
        self._first_reply = asyncio.Event()
        # Nothing is under way; no line is said any more; nobody reads what is printed.
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._closing = self._unread = False
        # Kinds of calls that are being retried, and whether the server may have forgotten the roster meanwhile.
        self._away: set[str] = set()
        self._lost = False

    async def run(self, until_first_reply: bool, duration: float | None) -> Summary:
        failure: DemoError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                if until_first_reply:
                    group.create_task(self._end_after(self._first_reply.wait), name="demo-first-reply")
                if duration is not None:
                    group.create_task(self._end_after(partial(asyncio.sleep, duration)), name="demo-duration")
                group.create_task(self._story(group), name="demo-story")
        except* _Finished as finished:
            failure = next((one.failure for one in _leaves(finished) if one.failure), None)
        finally:
            summary = self._summary()
            with contextlib.suppress(_Finished):
                self._print("\n".join(summary.lines()))
        if failure:
            raise failure
        return summary

    async def _end_after(self, reason: Callable[[], Awaitable[object]]) -> None:
        """Let what is under way come in, then stop."""
        await reason()
        self._closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._quiet.wait()
                await asyncio.sleep(2 * POLL_GAP_S)
        raise _Finished

    # -- the story -------------------------------------------------------------------------------------------------

    async def _story(self, group: asyncio.TaskGroup) -> None:
        try:
            await self._import_roster()
            listening: asyncio.Task[None] | None = None
            self._began = self._loop.time()
            for step in self._play:
                await self._until(step)
                await self._show(step)
                if listening is None:
                    # From the first snapshot on the world exists; what is said from here on is heard.
                    cursor = await self._patiently("events", lambda: self._api.events_end(self._world))
                    listening = group.create_task(self._listen(cursor), name="demo-events")
                    group.create_task(self._look_in(), name="demo-freshness")
                self._speak(step, group)
        except DemoError as error:
            raise _Finished(error) from None
        except ApiError as error:
            raise _Finished(DemoError(str(error))) from None

    async def _give_roster(self) -> Answer:
        roster = self._play.scenario.roster
        answer: Answer = await self._patiently("roster", lambda: self._api.put_roster(roster))
        self._lost = False
        return answer

    async def _import_roster(self) -> None:
        roster, answer = self._play.scenario.roster, await self._give_roster()
        npcs, places, players = (len(roster[name]) for name in ("npcs", "locations", "players"))
        title = self._play.scenario.title
        self._print(
            f"\n  Tonight at {title}: {npcs} NPCs, {players} players, {places} places. World {self._world!r}.\n"
        )
        self._tell(Applied({"refused": answer.get("refused")}))

    async def _until(self, step: Step) -> None:
        due = self._began + step.at / self._speed
        late = self._loop.time() - due
        if late > 1.0:
            # The server was away or this machine slept: the story goes on where it was, not in a rush.
            self._began += late
        await asyncio.sleep(max(0.0, -late))
        self._step_at = step.at

    async def _show(self, step: Step) -> None:
        for caption in step.captions:
            self._tell(Caption(caption))
        body = {**full(step, started=self._wall), "world": self._world}
        try:
            answer = await self._patiently("snapshot", lambda: self._api.post_snapshot(body))
        except Refused as error:
            if not self._snapshots:
                raise
            self._tell_once(f"a snapshot was refused: {error}")
            return
        self._snapshots += 1
        self._tell(Applied(answer))
        if self._lost:
            # A server that was away may have come back without its memory.
            await self._give_roster()

    def _speak(self, step: Step, group: asyncio.TaskGroup) -> None:
        for utterance in () if self._closing else step.utterances:
            self._messages += 1
            if self._underway >= MESSAGES_MOST:
                self._undelivered += 1
                self._tell_once("the answers do not keep up with the players; some lines are not said")
                continue
            self._underway += 1
            self._quiet.clear()
            group.create_task(self._say(utterance), name="demo-message")

    async def _say(self, utterance: Utterance) -> None:
        body: Answer = {
            "world": self._world,
            "player_id": utterance.speaker_id,
            "player_name": utterance.speaker_name,
            "text": utterance.text,
            "message_id": f"{self._boot}-{utterance.number}",
        }
        try:
            answer = await self._patiently("message", lambda: self._api.post_message(body), patience=LINE_WORTH_S)
            self._tell(Answered(utterance, answer))
        except (ApiError, DemoError) as error:
            self._undelivered += 1
            self._tell(Trouble(f"{utterance.speaker_name} was not heard: {error}"))
        finally:
            self._underway -= 1
            if not self._underway:
                self._quiet.set()

    # -- what comes back -------------------------------------------------------------------------------------------

    async def _listen(self, cursor: int) -> None:
        while True:
            begun = self._loop.time()
            try:
                page: Page = await self._patiently("events", partial(self._api.events, self._world, cursor))
            except Refused as error:
                self._tell_once(f"the events were refused: {error}")
                await asyncio.sleep(REFUSED_S)
                continue
            except DemoError as error:
                raise _Finished(error) from None
            if page.resync:
                self._tell(Trouble("some events are gone; the story goes on from here"))
                # The end of an open turn may be among them.
                self._telling = replace(self._telling, turns={})
            cursor = page.cursor
            for event in gathered(page.events):
                self._tell(Heard(event))
                self._heed(event)
            await asyncio.sleep(max(0.0, POLL_GAP_S - (self._loop.time() - begun)))

    async def _look_in(self) -> None:
        """See which NPCs were refreshed though nobody was about to speak; what cannot be seen is left out."""
        while True:
            with contextlib.suppress(ApiError):
                self._tell(Synced(await self._api.world(self._world)))
            await asyncio.sleep(LOOK_S)

    def _heed(self, event: Mapping[str, Any]) -> None:
        """Notice the first reply, and execute actions."""
        if event.get("type") == "utterance" and event.get("turn_id") and not self._first_reply.is_set():
            self._first_reply_s = self._loop.time() - self._born
            self._first_reply.set()
        if event.get("type") == "action":
            order = read_order(event, self._now())
            if order is not None:
                self._play.order(order)

    # -- patience --------------------------------------------------------------------------------------------------

    async def _patiently(self, what: str, call: Callable[[], Awaitable[Any]], *, patience: float = PATIENCE_S) -> Any:
        """Call until there is an answer. Raises Refused at once, DemoError when patience is at an end."""
        since = self._loop.time()
        for delay in delays(self._random):
            try:
                answer = await call()
            except Away as error:
                wait = max(delay, error.retry_after)
                if self._loop.time() + wait - since > patience:
                    self._away.discard(what)
                    raise DemoError(f"gave up after {patience:g} s: {error}") from None
                if not self._away:
                    self._tell(Trouble(f"{error}; trying again until it answers"))
                self._away.add(what)
                self._lost = True
                await asyncio.sleep(wait)
            else:
                if what in self._away:
                    self._away.remove(what)
                    if not self._away:
                        self._tell(Caption("The server answers again."))
                return answer
        raise AssertionError("delays never end")

    # -- telling ---------------------------------------------------------------------------------------------------

    def _story_now(self) -> float:
        """Seconds of the story, never past the next step: while the server is away the story stands still."""
        passed = (self._loop.time() - self._began) * self._speed
        return max(self._step_at, min(passed, self._step_at + 1.0))

    def _tell(self, happening: Happening) -> None:
        self._telling, lines = tell(self._telling, self._story_now(), happening)
        for line in lines:
            self._print(paint(line, self._look))

    def _tell_once(self, text: str) -> None:
        if text not in self._telling.refused:
            self._telling = replace(self._telling, refused=kept(self._telling.refused, text))
            self._tell(Trouble(text))

    def _print(self, text: str) -> None:
        if self._unread:
            return
        try:
            print(text, file=self._out, flush=True)
        except BrokenPipeError:
            # Nobody reads any more (`earshot demo | head`): that is a way to stop, not a failure.
            self._unread = True
            raise _Finished from None

    def _summary(self) -> Summary:
        return Summary(
            self._loop.time() - self._born, self._snapshots, self._messages, self._undelivered,
            self._telling.tally, self._first_reply_s,
        )  # fmt: skip


def _leaves(group: BaseExceptionGroup[_Finished]) -> list[_Finished]:
    found: list[_Finished] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
